"""The only place that knows a path of the Natural Scenes Dataset (NSD manual, "Data files")."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from boldreams_cli.console import BoldreamsError, ChoiceError, listing
from boldreams_cli.data.nsd.betas.choice import AVERAGE, DEFAULT, NATIVE, BetasChoice

BETA_FORMATS = ("hdf5", "nii.gz", "mat")  # in order of preference: the fastest to read first
SURFACE_FORMATS = {AVERAGE: "mgh", NATIVE: "hdf5"}
HEMISPHERES = ("lh", "rh")
Files = tuple[Path, ...]  # one of a volume, or those of the left and the right hemisphere


@dataclass(frozen=True)
class Layout:
    """Where things lie under the NSD root; nothing is ever written there.

    Parameters
    ----------
    root : the folder that holds ``nsddata``, ``nsddata_betas`` and ``nsddata_stimuli``.
    choice : which betas, and so in which space masks and maps lie too.
    """

    root: Path
    choice: BetasChoice = DEFAULT

    @classmethod
    def at(cls, root: Path | None, betas: str | None = None) -> Layout:
        """Check that `root` looks like NSD.

        Parameters
        ----------
        root : as above.
        betas : as ``--betas``; None for the default.

        Raises
        ------
        ChoiceError
            If there are no such betas.
        BoldreamsError
            If no root was given, or it is missing or holds no ``nsddata``.
        """
        if root is None:
            raise BoldreamsError("no NSD root given; use --nsd-root DIR or set BOLDREAMS_NSD_ROOT, or --data FILE")
        if not root.is_dir():
            raise BoldreamsError(f"the NSD root {root} is not a folder; use --nsd-root DIR or BOLDREAMS_NSD_ROOT")
        if not (root / "nsddata").is_dir():
            raise BoldreamsError(f"{root} holds no nsddata folder; --nsd-root takes the folder above nsddata")
        return cls(root, BetasChoice.read(betas))

    @property
    def stimuli(self) -> Path:
        """All 73,000 images, HDF5."""
        return self.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"

    @property
    def design(self) -> Path:
        """The order of trials, MATLAB v5."""
        return self.root / "nsddata/experiments/nsd/nsd_expdesign.mat"

    @property
    def image_table(self) -> Path:
        """COCO id and split of every image, CSV."""
        return self.root / "nsddata/experiments/nsd/nsd_stim_info_merged.csv"

    @property
    def caption_folders(self) -> tuple[Path, ...]:
        """Folders that may hold COCO's captions files, in order of preference."""
        stimuli = self.stimuli.parent
        return (stimuli / "annotations", stimuli / "coco_anns")

    @staticmethod
    def captions(folder: Path, split: str) -> Path:
        """COCO's captions of one split (``train`` or ``val``)."""
        return folder / f"captions_{split}2017.json"

    def betas_folder(self, subject: int) -> Path:
        """Single-trial betas of one subject."""
        return self.root / f"nsddata_betas/ppdata/subj{subject:02d}" / str(self.choice)

    def betas(self, subject: int, session: int, form: str) -> Path:
        """Betas of one session; `form` is one of BETA_FORMATS."""
        return self.betas_folder(subject) / f"betas_session{session:02d}.{form}"

    def ncsnr(self, subject: int) -> Path:
        """Noise-ceiling signal-to-noise ratio, beside the betas."""
        return self.betas_folder(subject) / "ncsnr.nii.gz"

    def hemispheres(self, folder: Path, name: str) -> Files:
        """The files of this name of the left and the right hemisphere."""
        return tuple(folder / f"{side}.{name}" for side in HEMISPHERES)

    def surface_betas(self, subject: int, session: int) -> Files:
        """Betas of one session on a surface."""
        form = SURFACE_FORMATS[self.choice.space]
        return self.hemispheres(self.betas_folder(subject), f"betas_session{session:02d}.{form}")

    def surface_ncsnr(self, subject: int) -> Files:
        """Noise-ceiling signal-to-noise ratio of vertices, beside the betas."""
        return self.hemispheres(self.betas_folder(subject), "ncsnr.mgh")

    def surface_map(self, subject: int | None, name: str) -> Files:
        """Labels or values on the surface of one subject, or of FreeSurfer's average brain."""
        whose = AVERAGE if subject is None else f"subj{subject:02d}"
        return self.hemispheres(self.root / f"nsddata/freesurfer/{whose}/label", f"{name}.mgz")

    def to_average(self, subject: int) -> Files:
        """For each vertex of the average brain the nearest one of the subject's own surface, from 1."""
        folder = self.root / f"nsddata/ppdata/subj{subject:02d}/transforms"
        return self.hemispheres(folder, f"white-to-{AVERAGE}.mgz")

    def anatomy_folder(self, subject: int) -> Path:
        """Masks of one subject in the functional space."""
        return self.root / f"nsddata/ppdata/subj{subject:02d}/{self.choice.space}"

    def roi(self, subject: int, volume: str) -> Path:
        """One ROI volume, e.g. ``floc-faces``."""
        return self.anatomy_folder(subject) / "roi" / f"{volume}.nii.gz"

    def label_table(self, subject: int, volume: str) -> Path:
        """Names of an ROI volume's labels."""
        return self.root / f"nsddata/freesurfer/subj{subject:02d}/label/{volume}.mgz.ctab"

    def brain_masks(self, subject: int) -> tuple[Path, ...]:
        """Files that may hold the brain mask, in order of preference."""
        folder = self.anatomy_folder(subject)
        return (folder / "brainmask.nii.gz", folder / "brainmask_inflated_1.0.nii")

    def functional(self, subject: int, volume: str) -> Path:
        """A map of one subject in the functional space: ``prf_angle`` and the like, ``mean`` of the EPIs."""
        return self.anatomy_folder(subject) / f"{volume}.nii.gz"

    def backgrounds(self, subject: int) -> dict[str, Path]:
        """Volumes in the functional space that maps may be laid on, in order of preference, with what they are."""
        masks = {f"brain mask ({path.name})": path for path in self.brain_masks(subject)}
        t1 = f"T1_to_{self.choice.space}"
        return {
            "mean functional image (mean.nii.gz)": self.functional(subject, "mean"),
            f"T1 in the functional space ({t1}.nii.gz)": self.functional(subject, t1),
        } | masks

    def synthetic_betas(self, subject: int) -> tuple[Path, ...]:
        """Files that may hold the betas of NSD-synthetic, in order of preference; on surfaces, both hemispheres."""
        folder = self.betas_folder(subject).parent / f"nsdsynthetic{self.choice.preparation}"
        if self.choice.on_surface:
            return self.hemispheres(folder, f"betas_nsdsynthetic.{SURFACE_FORMATS[self.choice.space]}")
        return tuple(folder / f"betas_nsdsynthetic.{form}" for form in BETA_FORMATS)

    @property
    def synthetic_design(self) -> Path:
        """The order of NSD-synthetic's trials, MATLAB v5."""
        return self.root / "nsddata/experiments/nsdsynthetic/nsdsynthetic_expdesign.mat"

    @property
    def synthetic_table(self) -> Path:
        """What kind each image of NSD-synthetic is, CSV."""
        return self.synthetic_design.parent / "nsdsyntheticimageinformation.csv"

    def synthetic_stimuli(self, subject: int) -> tuple[Path, Path]:
        """NSD-synthetic's images that all subjects saw, and those of one subject."""
        folder = self.root / "nsddata_stimuli/stimuli/nsdsynthetic"
        return folder / "nsdsynthetic_stimuli.hdf5", folder / f"nsdsynthetic_colorstimuli_subj{subject:02d}.hdf5"

    def subjects(self) -> list[int]:
        """Subjects whose betas lie under the root."""
        folder = self.root / "nsddata_betas/ppdata"
        names = sorted(path.name for path in folder.glob("subj[0-9][0-9]")) if folder.is_dir() else []
        return [number for number in (int(name[4:]) for name in names) if self.sessions(number)]

    def sessions(self, subject: int) -> dict[int, Path]:
        """Session number -> its betas file, the left hemisphere's on a surface."""
        return {number: files[0] for number, files in self.session_files(subject).items()}

    def session_files(self, subject: int) -> dict[int, Files]:
        """Session number -> its betas file in the fastest format present, or those of both hemispheres."""
        if self.choice.on_surface:
            found = self._hemispheres_there(subject)
            return {number: self.surface_betas(subject, number) for number in sorted(found[0] & found[1])}
        paths: dict[int, Files] = {}
        for form in reversed(BETA_FORMATS):
            for path in self.betas_folder(subject).glob(f"betas_session*.{form}"):
                match = re.fullmatch(r"betas_session(\d+)", path.name.removesuffix(f".{form}"))
                if match and path.is_file():  # not a link to what was never fetched, as DataLad has them
                    paths[int(match[1])] = (path,)
        return dict(sorted(paths.items()))

    def lone_hemispheres(self, subject: int) -> dict[int, Path]:
        """Session number -> the file of one hemisphere, where the other's is not there."""
        if not self.choice.on_surface:
            return {}
        found = self._hemispheres_there(subject)
        lone = {number: int(number in found[1]) for number in found[0] ^ found[1]}
        return {number: self.surface_betas(subject, number)[side] for number, side in sorted(lone.items())}

    def _hemispheres_there(self, subject: int) -> tuple[set[int], set[int]]:
        """Sessions whose file of the left, and of the right hemisphere is there."""
        folder, form = self.betas_folder(subject), SURFACE_FORMATS[self.choice.space]
        left, right = (
            {
                int(path.name.split(".")[1][-2:])
                for path in folder.glob(f"{side}.betas_session[0-9][0-9].{form}")
                if path.is_file()
            }
            for side in HEMISPHERES
        )
        return left, right

    def choices(self, subject: int) -> list[str]:
        """Which betas of a subject lie under the root, as ``--betas`` takes them."""
        known = BetasChoice.every()
        return [str(choice) for choice in known if replace(self, choice=choice).sessions(subject)]

    def check_subject(self, subject: int) -> None:
        """Check that the subject's betas lie under the root.

        Raises
        ------
        ChoiceError
            If they do not; the message lists the subjects that are there.
        """
        if not self.sessions(subject):
            if others := self.choices(subject):
                raise ChoiceError(
                    f"no betas of subject {subject} in {self.betas_folder(subject)}; of this subject there are "
                    f"{listing(others)} (--betas)"
                )
            raise ChoiceError(
                f"no betas of subject {subject} in {self.betas_folder(subject)}; "
                f"subjects under the root: {listing(self.subjects())} (--subject)"
            )
