"""Images on their way to a network: the same however many are read at once, and never many of a camera's at a time."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from boldreams_cli.console import StopFlag
from boldreams_cli.encoding.inputs.pixels import resized_images
from boldreams_cli.features.preprocessing import IMAGENET, Preprocessing
from boldreams_cli.features.source import of_images

PREPROCESSING = Preprocessing(24, *IMAGENET)


class Pictures:
    """A data set and its open images, of sizes of their own where asked; what was read at once is noted."""

    def __init__(self, sizes: list[tuple[int, int]] | None) -> None:
        rng = np.random.default_rng(0)
        shapes = sizes or [(30, 30)] * 6
        self.images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
        self.mixed, self.at_once = sizes is not None, [0]

    def read(self, ids: Any) -> Any:
        self.at_once.append(len(ids))
        found = [self.images[int(number)] for number in ids]
        return found if self.mixed else np.stack(found)

    def stimuli(self) -> Any:
        return nullcontext(self)

    def stimuli_identity(self) -> dict[str, Any]:
        return {}

    def stimuli_stamp(self) -> dict[str, int]:
        return {}


def test_pictures_of_any_size_are_in_memory_one_at_a_time() -> None:
    pictures = Pictures([(40, 30), (30, 60), (24, 24), (90, 91), (25, 24), (31, 31)])
    source = of_images(pictures, pictures, np.arange(6), [], PREPROCESSING)  # type: ignore[arg-type]
    found = source.read(np.array([3, 0, 4]))
    assert max(pictures.at_once) == 1
    expected = PREPROCESSING.resize_all([pictures.images[number] for number in (3, 0, 4)]).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(found, expected.numpy())
    assert found.flags.c_contiguous


def test_finetuning_takes_them_one_at_a_time_too(tmp_path: Path) -> None:
    pictures = Pictures([(40, 30), (30, 60), (24, 24), (90, 91)])
    resized = resized_images(tmp_path, pictures, PREPROCESSING, [0, 1, 3], StopFlag())  # type: ignore[arg-type]
    assert max(pictures.at_once) == 1
    expected = PREPROCESSING.resize_all([pictures.images[number] for number in (3, 0)])
    np.testing.assert_array_equal(resized.read(np.array([3, 0])), expected.numpy())


def test_images_of_one_size_are_as_they_are_and_read_together() -> None:
    pictures = Pictures(None)
    source = of_images(pictures, pictures, np.arange(6), [], PREPROCESSING)  # type: ignore[arg-type]
    np.testing.assert_array_equal(source.read(np.array([5, 1])), np.stack([pictures.images[5], pictures.images[1]]))
    assert pictures.at_once[-1] == 2
