"""NSD-synthetic of a made-up experiment: noise, photographs that are spoilt, gratings, and colours (NSD manual)."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from skimage.transform import resize

from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.stimuli import DATASET
from boldreams_cli.data.nsd.synthetic import KIND, NUMBER
from boldreams_cli.simulation.files import save_matlab
from boldreams_cli.simulation.photographs import Crops

HEIGHT, WIDTH = 238, 454  # a third of NSD's 714 x 1360
EACH = 5  # images of each kind
SHARED = ("Noise", "Scenes", "Upside-down scenes", "Contrast-modulated scenes", "Spiral gratings")
OWN = "Chromatic noise"
REPEATS = (2, 2, 2, 2, 4, 4)  # of the images of each kind, the coloured ones last
BACKGROUND = 127


def write_design(layout: Layout, rng: np.random.Generator) -> NDArray[np.int64]:
    """Write the order of trials, which all subjects share, and the table of images; gives the order, from 0."""
    kinds = [kind for kind in (*SHARED, OWN) for _ in range(EACH)]
    order = rng.permutation(np.repeat(np.arange(len(kinds)), np.repeat(REPEATS, EACH)))
    save_matlab(layout.synthetic_design, {"masterordering": order[None] + 1.0})
    with layout.synthetic_table.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow([NUMBER, "Image", KIND])
        table.writerows([[number, f"{kind} {number}", kind] for number, kind in enumerate(kinds, start=1)])
    return order


def write_shared(layout: Layout, crops: Crops) -> None:
    """Write the images that all subjects see."""
    rng = np.random.default_rng(0)
    scenes = [resize(crops.image(number).mean(2), (HEIGHT, HEIGHT)) for number in range(EACH)]  # grey, 0 to 255
    squares = [rng.uniform(0, 255, (HEIGHT, HEIGHT)) for _ in range(EACH)]
    squares += [*scenes, *(scene[::-1] for scene in scenes)]
    squares += [
        127 + (scene - 127) * contrast for scene, contrast in zip(scenes, (0.5, 0.3, 0.2, 0.1, 0.05), strict=True)
    ]
    squares += [_grating(2.0**octave) for octave in range(1, EACH + 1)]
    _save(layout.synthetic_stimuli(1)[0], [np.repeat(square[..., None], 3, 2) for square in squares])


def write_own(layout: Layout, subject: int, rng: np.random.Generator) -> None:
    """Write one subject's coloured images."""
    hues = rng.uniform(40, 215, (EACH, 3))
    noise = rng.uniform(0.6, 1, (EACH, 17, 17))
    _save(
        layout.synthetic_stimuli(subject)[1],
        [resize(n, (HEIGHT, HEIGHT), order=0)[..., None] * hue for n, hue in zip(noise, hues, strict=True)],
    )


def _grating(cycles: float) -> NDArray[np.float64]:
    """Rings and spokes at once, `cycles` around the middle."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : HEIGHT * 1j]
    phase = cycles * (np.log(np.hypot(x, y) + 0.05) + np.arctan2(y, x))
    return 127.5 + 127.5 * np.cos(phase)


def _save(path: Path, squares: list[NDArray[np.floating]]) -> None:
    """Put squares (height, height, 3) of stored brightness in the middle of grey screens, as light (its square)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = (WIDTH - HEIGHT) // 2
    screens = np.full((len(squares), HEIGHT, WIDTH, 3), BACKGROUND, np.float64)
    screens[:, :, left : left + HEIGHT] = np.stack(squares)
    light = np.rint((screens / 255) ** 2 * 255).astype(np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset(DATASET, data=light, chunks=(1, HEIGHT, WIDTH, 3))
