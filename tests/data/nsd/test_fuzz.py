"""Damaged files of every kind: read as they were, read as something else, or one named error; nothing else."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.nsd.anatomy.rois import read_label_table
from boldreams_cli.data.nsd.betas.sessions import header, read_session
from boldreams_cli.data.nsd.captions import Captions
from boldreams_cli.data.nsd.design import Design
from boldreams_cli.data.nsd.stimuli import Stimuli
from boldreams_cli.data.volumes import read_volume

from .conftest import AFFINE, Experiment, save_betas

TRIES = 250


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, mostly near the start, where headers lie; or cut short."""
    data = bytearray(content)
    if rng.random() < 0.1:
        return bytes(data[: rng.integers(len(data))])
    span = len(data) if rng.random() < 0.4 else min(len(data), 600)
    for place in rng.integers(0, span, rng.integers(1, 6)):
        data[place] = rng.choice([0, 255, 127, 128, data[place] ^ (1 << rng.integers(8))])
    return bytes(data)


def read_stimuli(path: Path) -> None:
    with Stimuli(path) as stimuli:
        stimuli.read([0, len(stimuli) - 1])
        stimuli.identity()


def read_betas(path: Path) -> None:
    read_session(path, np.array([[1, 2, 3], [4, 0, 1]]), header(path)[0])


def fuzz(path: Path, read: Callable[[Path], object], seed: int) -> dict[str, int]:
    content, rng = path.read_bytes(), np.random.default_rng(seed)
    found: dict[str, int] = {"read": 0, "refused": 0}
    messages: list[str] = []
    for _ in range(TRIES):
        path.write_bytes(mutated(content, rng))
        try:
            read(path)
            found["read"] += 1
        except BoldreamsError as error:
            messages.append(str(error))
            found["refused"] += 1
    assert all(path.name in message and len(message) < 800 for message in messages)
    path.write_bytes(content)
    read(path)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind",
    [
        "stimuli",
        "betas.hdf5",
        "betas.mat",
        "betas.nii.gz",
        "volume",
        "volume.gz",
        "design",
        "table",
        "ctab",
        "captions",
    ],
)
def test_damaged_bytes_are_one_named_error(experiment: Experiment, tmp_path: Path, kind: str) -> None:
    layout = experiment.layout
    betas = {form: save_betas(layout, 1, 9, form, experiment.betas[1][:4]) for form in ("hdf5", "mat", "nii.gz")}
    plain = tmp_path / "plain.nii"
    nibabel.save(nibabel.Nifti1Image(experiment.rois[1]["floc-faces"], AFFINE), plain)
    captions = layout.captions(layout.caption_folders[0], "train")
    path, read = {
        "stimuli": (layout.stimuli, read_stimuli),
        **{f"betas.{form}": (file, read_betas) for form, file in betas.items()},
        "volume": (plain, read_volume),
        "volume.gz": (layout.roi(1, "floc-faces"), read_volume),
        "design": (layout.design, lambda path: Design.read(path).trial_images(1)),
        "table": (layout.image_table, lambda path: Captions(layout).of([4])),
        "ctab": (layout.label_table(1, "floc-faces"), read_label_table),
        "captions": (captions, lambda path: Captions(layout).of([4])),
    }[kind]
    found = fuzz(path, read, 7)
    assert found["refused"] > 5, found


@pytest.mark.parametrize("form", ["nii.gz", "hdf5"])
def test_more_than_a_file_can_hold_is_refused_before_memory_is_taken(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"betas_session01.{form}"
    if form == "hdf5":
        with h5py.File(path, "w") as file:
            file.create_dataset("betas", (750, 30_000, 30_000, 30_000), np.int16, chunks=(750, 1, 1, 1))
    else:
        image = nibabel.Nifti1Image(np.zeros((2, 2, 2, 2), np.int16), AFFINE)
        image.header["dim"][1:5] = (30_000, 30_000, 30_000, 750)
        path.write_bytes(gzip.compress(image.header.binaryblock + bytes(4 + 32)))
    with pytest.raises(BoldreamsError, match=r"betas_session01\..* declares .* can hold"):
        header(path)
    stimuli = tmp_path / "s.hdf5"
    with h5py.File(stimuli, "w") as file:
        file.create_dataset("imgBrick", (10, 60_000, 60_000, 3), np.uint8, chunks=(1, 100, 100, 3))
    with pytest.raises(BoldreamsError, match="60000 x 60000 pixels"):
        Stimuli(stimuli)
    if form == "nii.gz":
        with pytest.raises(BoldreamsError, match=r"declares .* can hold"):
            read_volume(path)
