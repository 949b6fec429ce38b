"""Small folders in the layouts of public data sets, and what their importers must find in them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import nibabel
import numpy as np
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, LabelAxis
from numpy.typing import NDArray
from PIL import Image

AFFINE = np.array([[2.0, 0, 0, -10], [0, 2, 0, -12], [0, 0, 2.5, -8], [0, 0, 0, 1]])


@dataclass
class Miniature:
    """A made-up subject of a data set: what to type, and what must come out."""

    dataset: str
    source: Path
    subject: str  # in the new file
    betas: NDArray[np.float32]
    shown: list[str]  # picture of each trial, by its file's name
    test: NDArray[np.bool_]
    options: Sequence[object] = field(default_factory=tuple)


def draw(paths: Sequence[Path], seed: int = 0, square: bool = False) -> None:
    """Pictures of mixed sizes."""
    rng = np.random.default_rng(seed)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(24, 40, 2)
        size = (height, height if square else width, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path)


def numbers(*shape: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def algonauts2023(root: Path, images: int = 20) -> Miniature:
    """Two subjects; mapping_*.npy are there and must not be opened, as they are pickles that run something."""
    for subject in ("subj01", "subj02"):
        folder = root / subject
        names = [f"train-{i + 1:04d}_nsd-{i * 37 + 13:05d}.png" for i in range(images)]
        draw([folder / "training_split/training_images" / name for name in names])
        draw([folder / "test_split/test_images/test-0001_nsd-00845.png"])
        (folder / "training_split/training_fmri").mkdir()
        (folder / "roi_masks").mkdir()
        for side, count in (("lh", 17), ("rh", 13)):
            betas = numbers(images, count, seed=count)
            np.save(folder / f"training_split/training_fmri/{side}_training_fmri.npy", betas)
            mask = np.zeros(163_842, np.int64)
            mask[np.arange(count) * 100 + (3 if side == "lh" else 7)] = 1
            np.save(folder / f"roi_masks/{side}.all-vertices_fsaverage_space.npy", mask)
            for kind, most in (("prf-visualrois", 8), ("floc-bodies", 5), ("floc-faces", 6), ("streams", 8)):
                np.save(folder / f"roi_masks/{side}.{kind}_challenge_space.npy", np.arange(count) % most)
        np.save(folder / "roi_masks/mapping_prf-visualrois.npy", np.array({"0": Trap()}, object), allow_pickle=True)
    both = np.concatenate([numbers(images, 17, seed=17), numbers(images, 13, seed=13)], axis=1)
    return Miniature("algonauts2023", root, "algonauts-subj01", both, names, np.zeros(images, bool), ("--subject", 1))


class Trap:
    """What must never be unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise AssertionError('unpickled')",)


def things(root: Path, voxels: int = 30, **how: object) -> Miniature:
    """The tables as pandas writes them; the middle of the names of columns may be on another line."""
    import pandas

    folder = root / "betas_csv"
    folder.mkdir(parents=True)
    concepts = [f"thing{i}" for i in range(10)]
    order = [*range(10), 0, 1, 2, 0, 1, 2]
    shown = [f"{concepts[i]}_12s.jpg" for i in order]
    test = np.array([i < 3 for i in order])
    draw([root / "images" / concept / f"{concept}_12s.jpg" for concept in concepts])
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[1:4, 2:5, 1:7] = 1
    ijk = np.argwhere(mask)[:voxels]
    mask[:] = 0
    mask[tuple(ijk.T)] = 1
    (root / "brainmasks").mkdir()
    nibabel.save(nibabel.Nifti1Image(mask, AFFINE), root / "brainmasks/sub-01_space-T1w_brainmask.nii.gz")
    betas = numbers(len(shown), voxels)
    frame = pandas.DataFrame(betas.T.astype(how.pop("dtype", np.float64)))
    frame.insert(0, "voxel_id", np.arange(voxels))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", pandas.errors.PerformanceWarning
        )  # of labels that it pickles, as in the release
        frame.to_hdf(folder / "sub-01_ResponseData.h5", key="ResponseData", **how)  # type: ignore[arg-type]
    pandas.DataFrame(
        {
            "trial_type": np.where(test, "test", "train"),
            "session": np.arange(len(shown)) // 8 + 1,
            "run": 1,
            "subject_id": 1,
            "trial_id": np.arange(len(shown)),
            "stimulus": shown,
            "concept": [concepts[i] for i in order],
        }
    ).to_csv(folder / "sub-01_StimulusMetadata.csv", index=False)
    table = {"voxel_id": np.arange(voxels), "subject_id": 1}
    table |= dict(zip(("voxel_x", "voxel_y", "voxel_z"), ijk.T, strict=True))
    table |= {"nc_singletrial": np.linspace(0, 40, voxels), "nc_testset": np.linspace(0, 90, voxels)}
    table |= {"prf-size": np.where(np.arange(voxels) < 2, np.nan, 1.5), "V1": (np.arange(voxels) < 9).astype(int)}
    table |= {"LO1 (prf)": (np.arange(voxels) % 3 == 0).astype(int), "glasser-p9-\n46v": 0, "glasser-a9-\n46v": 1}
    pandas.DataFrame(table).to_csv(folder / "sub-01_VoxelMetadata.csv", index=False)
    return Miniature("things", root, "things-sub-01", betas, shown, test)


def bold5000(root: Path) -> Miniature:
    """Two subjects of two sessions; the betas' affine is wrong, as in the release."""
    presented = root / "BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli"
    files = [f"COCO/COCO_train2014_{i:012d}.jpg" for i in range(5)]
    files += [f"ImageNet/n0193011{i}_195.JPEG" for i in range(5)] + [f"Scene/cave{i}.jpg" for i in range(4)]
    draw([presented / file for file in files])
    draw([root / "BOLD5000_Stimuli/Scene_Stimuli/Original_Images" / file for file in files[:3]], seed=9)
    names = [Path(file).name for file in files]
    shown = names + [names[0], names[6]] * 2
    rng = np.random.default_rng(4)
    rng.shuffle(shown)
    (presented.parent / "repeated_stimuli_113_list.txt").write_text(f"{names[0]}\n{names[6]}\n")
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1:3, 1:4, 2:5] = 1
    for subject in ("CSI1", "CSI2"):
        nibabel.save(nibabel.Nifti1Image(mask, AFFINE), root / f"{subject}_brainmask.nii.gz")
        (root / f"{subject}_imgnames.txt").write_text("\n".join(shown) + "\n")
        volumes = numbers(4, 5, 6, len(shown), seed=3)
        for number, part in enumerate((volumes[..., :11], volumes[..., 11:]), start=1):
            name = f"{subject}_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{number:02d}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(part, np.diag([2.0, 2, 2, 1])), root / name)
    rois = root / "ROIs/sub-CSI1"
    rois.mkdir(parents=True)
    for name, place in (("LHEarlyVis", 1), ("RHEarlyVis", 2), ("LHLO", 1), ("RHRRSC", 2)):
        area = np.zeros_like(mask)
        area[place, 1:3, 2] = 1
        nibabel.save(nibabel.Nifti1Image(area, AFFINE), rois / f"sub-CSI1_mask-{name}.nii.gz")
    betas = volumes[mask > 0].T
    test = np.isin(shown, [names[0], names[6]])
    return Miniature("bold5000", root, "CSI1", betas, shown, test, ("--subject", "CSI1"))


def bold5000_areas(root: Path) -> Miniature:
    """The same with an array an area in place of volumes, all sessions end to end."""
    mini = bold5000(root)
    for path in (*root.glob("*.nii.gz"), *root.rglob("*_mask-*")):
        path.unlink()
    (root / "py").mkdir()
    parts = {"LHEarlyVis": 4, "LHPPA": 2, "RHEarlyVis": 3}  # in the order of their names
    mini.betas = numbers(len(mini.shown), sum(parts.values()), seed=8)
    first = 0
    for name, count in parts.items():
        path = root / f"py/CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_{name}.npy"
        np.save(path, mini.betas[:, first : (first := first + count)].astype(np.float64))
    return mini


def write_bdata(
    path: Path,
    betas: NDArray[np.float32],
    columns: dict[str, NDArray],
    places: dict[str, NDArray],
    kind: str = "VoxelData",
    **vmap: dict,
) -> None:
    """A file as bdpy saves it: columns of voxels, then one of each label; places and areas over the voxels."""
    voxels = betas.shape[1]
    data = np.column_stack([betas, *columns.values()]).astype(np.float64)
    keys, values = [kind, *columns, *places], np.full((1 + len(columns) + len(places), data.shape[1]), np.nan)
    values[0, :voxels] = 1
    for number in range(len(columns)):
        values[1 + number, voxels + number] = 1
    values[1 + len(columns) :, :voxels] = list(places.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["dataset"] = data
        file["metadata/key"] = [key.encode() for key in keys]
        file["metadata/description"] = [b""] * len(keys)
        file["metadata/value"] = values
        file.create_group("vmap")
        for key, names in vmap.items():
            for number, name in names.items():
                file[f"vmap/{key}/{number}"] = name.encode()


def bdata(root: Path, voxels: int = 24) -> Miniature:
    """Training and test of one subject with a table of names, and files that are neither."""
    train = {float(i): f"n0151{i:04d}_{i + 7}" for i in range(1, 13)}
    test = {float(i): f"n0244{i:04d}_{i}" for i in range(1, 4)}
    draw([root / "images" / f"{name}.JPEG" for name in (*train.values(), *test.values())])
    ijk = np.argwhere(np.ones((4, 3, 5)))[5 : 5 + voxels]
    xyz = ijk @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    places = {f"voxel_{axis}": column for axis, column in zip("xyz", xyz.T, strict=True)}
    places |= {"ROI_V1": (np.arange(voxels) < 8) * 1.0, "ROI_HVC": np.where(np.arange(voxels) > 15, 1, np.nan)}
    ids = {"Training": np.arange(1.0, 13), "Test": np.tile(np.arange(1.0, 4), 3)}
    parts = {phase: numbers(len(values), voxels, seed=len(values)) for phase, values in ids.items()}
    for phase, names in (("Training", train), ("Test", test)):
        sessions = np.repeat([1, 2], [5, len(ids[phase]) - 5])
        columns = {"Session": sessions, "stimulus_name": ids[phase]}
        write_bdata(root / f"sub-01_NaturalImage{phase}.h5", parts[phase], columns, places, stimulus_name=names)
    write_bdata(root / "sub-01_Imagery.h5", parts["Test"], columns, places, stimulus_name=test)
    shown = [f"{train[i]}.JPEG" for i in ids["Training"]] + [f"{test[i]}.JPEG" for i in ids["Test"]]
    return Miniature(
        "bdata", root, "sub-01", np.concatenate(list(parts.values())), shown, np.repeat([False, True], [12, 9])
    )


def cifti(path: Path, left: int = 14, right: int = 12, voxels: int = 9) -> Path:
    """A dlabel file of few grayordinates: cortex left and right, then voxels, with areas as in the HCP's atlas."""
    model = BrainModelAxis.from_surface(np.arange(left) * 2, 40, "CORTEX_LEFT")
    model += BrainModelAxis.from_surface(np.arange(right) * 3, 44, "CORTEX_RIGHT")
    if voxels:
        block = np.zeros((3, 3, 3), bool)
        block.ravel()[:voxels] = True
        model += BrainModelAxis.from_mask(block, "THALAMUS_LEFT", affine=np.eye(4))
    keys = np.zeros((1, len(model)), np.float32)
    keys[0, :5], keys[0, left : left + 4], keys[0, 6:9] = 1, 2, 3
    names = {0: "???", 1: "L_V1_ROI", 2: "R_V1_ROI", 3: "L_MT_ROI"}
    label = LabelAxis(["atlas"], [{number: (name, (0, 0, 0, 1)) for number, name in names.items()}])
    nibabel.save(Cifti2Image(keys, header=(label, model)), path)
    return path


def mosaic(root: Path, left: int = 14, right: int = 12, voxels: int = 9) -> Miniature:
    """One subject's file; a vertex has no number in one trial, another in one of an artificial image."""
    root.mkdir(parents=True, exist_ok=True)
    stems = [f"COCO_{i:05d}" for i in range(12)]
    draw([root / "stimuli/raw" / f"{stem}.png" for stem in stems], square=True)
    # Tests come first, artificial images last, as in the project's files: there are no sorted names.
    trials = [(stem, "test", rep) for stem in stems[2::-1] for rep in range(3)]
    trials += [(stem, "train", 0) for stem in stems[3:]]
    photographs = len(trials)
    trials += [("107", "test", 0), ("107", "test", 1), ("042", "test", 0)]
    betas = numbers(len(trials), left + right + voxels)
    with h5py.File(root / "sub-01_NSD.hdf5", "w") as file:
        file.attrs["visual_angle"] = 8.4
        group = file.create_group("betas", track_order=True)
        for row, (stem, phase, rep) in zip(betas, trials, strict=True):
            node = group.create_dataset(f"sub-01_NSD_stimulus-{stem}_phase-{phase}_rep-{rep}", data=row)
            node.attrs["presented_stimulus_filename"] = f"{stem}.png"
            node.attrs["phase"], node.attrs["repetition"] = phase, rep
            missing = {stems[7]: 5, "107": 9}.get(stem)
            node.attrs["nan_indices"] = np.array([] if missing is None else [missing], int)
            if missing is not None:
                node[missing] = np.nan
        others = [("artificial", "1", 20.0), ("train", "1", 10.0)]
        for phase, n, value in [*others, ("test", "avg", 60.0), ("test", "1", 30.0)]:
            node = file.create_dataset(
                f"noiseceilings/sub-01_NSD_phase-{phase}_n-{n}_noiseceiling",
                data=np.full(betas.shape[1], value, np.float32),
            )
            node.attrs["n"], node.attrs["phase"] = n, "train" if phase == "train" else "test"
        file["nan_indices_all"] = [5]
    keep = np.delete(np.arange(left + right), 5)
    atlas = cifti(root / "atlas.dlabel.nii", left, right, voxels)
    return Miniature(
        "mosaic",
        root,
        "mosaic-sub-01_NSD",
        betas[:photographs, keep],
        [f"{stem}.png" for stem, _, _ in trials[:photographs]],
        np.array([phase == "test" for _, phase, _ in trials[:photographs]]),
        ("--template", atlas),
    )


def merge_in_chunks(single: Path, merged: Path, group: str = "sub-01_NSD") -> None:
    """As the project merges files: betas in one array, the names of its rows in another group, in their order."""
    with h5py.File(single) as one, h5py.File(merged, "w") as file:
        new, names = file.create_group(group, track_order=True), list(one["betas"])
        rows = np.stack([one["betas"][name][:] for name in names])
        new.create_dataset("betas", data=rows, dtype="float32", chunks=(min(100, len(rows)), rows.shape[1]))
        pictures = [one["betas"][name].attrs["presented_stimulus_filename"] for name in names]
        new.create_dataset("presented_stimulus_filename", data=np.array(pictures, dtype=h5py.string_dtype()))
        indices = new.create_group("nan_indices", track_order=True)
        for name in names:
            indices.create_dataset(name, data=one["betas"][name].attrs["nan_indices"])
        one.copy("noiseceilings", new)
        new.attrs.update(one.attrs)


def merge_by_names(singles: Sequence[Path], merged: Path) -> None:
    """As the project's package merges files: the arrays of all trials in one group, and nothing else of the files."""
    with h5py.File(merged, "w") as file:
        betas = file.create_group("betas")
        for path in singles:
            with h5py.File(path) as one:
                for name, node in one["betas"].items():
                    betas.create_dataset(name, data=node[:])


MAKERS = (algonauts2023, things, bold5000, bdata, mosaic)
