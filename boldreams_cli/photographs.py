"""Photographs that ship inside installed packages, cut into as many stimuli as an experiment needs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from boldreams_cli.console import BoldreamsError, listing

SIDE = 425  # of NSD's stimuli, pixels
FEWEST = 5


@dataclass(frozen=True)
class Photograph:
    """One photograph of an installed package, and what it shows.

    Parameters
    ----------
    package, file : where it lies.
    kind : what a category area of the brain would see in it.
    what, where : for its captions.
    """

    package: str
    file: str
    kind: str
    what: str
    where: str

    def path(self) -> Path | None:
        """Its file, None if this version of the package does not ship it; the package is not imported."""
        found = find_spec(self.package)
        folders = found.submodule_search_locations if found else None
        paths = [Path(folder) / self.file for folder in folders or []]
        return next((path for path in paths if path.is_file()), None)


def _of(package: str, folder: str, *rows: tuple[str, str, str, str]) -> tuple[Photograph, ...]:
    return tuple(Photograph(package, f"{folder}/{file}", kind, what, where) for file, kind, what, where in rows)


PHOTOGRAPHS = (
    *_of(
        "skimage",
        "data",
        ("astronaut.png", "face", "a smiling astronaut", "in front of a flag"),
        ("brick.png", "texture", "a wall of bricks", "in the sun"),
        ("camera.png", "body", "a man with a camera", "on a meadow"),
        ("chelsea.png", "face", "a tabby cat", "on a blanket"),
        ("coffee.png", "object", "a cup of coffee", "on a wooden table"),
        ("coins.png", "object", "old coins", "on a dark cloth"),
        ("grass.png", "texture", "grass", "on a lawn"),
        ("gravel.png", "texture", "gravel", "on a path"),
        ("horse.png", "body", "a horse", "on a white ground"),
        ("hubble_deep_field.jpg", "texture", "galaxies", "in the night sky"),
        ("ihc.png", "texture", "stained cells", "under a microscope"),
        ("moon.png", "texture", "craters", "on the moon"),
        ("motorcycle_left.png", "object", "a motorcycle", "in a garage"),
        ("page.png", "word", "printed words", "on a page of a book"),
        ("retina.jpg", "object", "the retina of an eye", "with its blood vessels"),
        ("rocket.jpg", "place", "a rocket", "on a launch pad"),
        ("text.png", "word", "a line of writing", "on paper"),
    ),
    *_of(
        "sklearn",
        "datasets/images",
        ("china.jpg", "place", "a temple with a tiled roof", "among trees"),
        ("flower.jpg", "object", "an orange flower", "in a garden"),
    ),
    *_of(
        "matplotlib",
        "mpl-data/sample_data",
        ("grace_hopper.jpg", "face", "a woman in uniform", "in front of a flag"),
    ),
)

SENTENCES = (
    "{what} {where}",
    "a photo of {what} {where}",
    "we see {what} {where}",
    "a {distance} view of {what}",
    "{what} {where}, seen from {place}",
    "the picture shows {what}",
    "someone took a photo of {what} {where}",
)


class Crops:
    """As many distinct stimuli as wanted, each a random crop of a photograph; number n is always the same one.

    Parameters
    ----------
    seed : of the crops.

    Raises
    ------
    BoldreamsError
        If the installed packages hold fewer than five of the photographs.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        found = [(item, path) for item in PHOTOGRAPHS if (path := item.path()) is not None]
        if len(found) < FEWEST:
            missing = [f"{item.package}/{item.file}" for item in PHOTOGRAPHS if item.path() is None]
            raise BoldreamsError(
                f"the installed packages hold only {len(found)} of the photographs (missing: {listing(missing, 5)}); "
                "reinstall scikit-image, scikit-learn and matplotlib"
            )
        self.photographs = [item for item, _ in found]
        self._pixels = [_open(path) for _, path in found]

    def photograph(self, number: int) -> Photograph:
        """What crop `number` shows; each photograph is used equally often."""
        return self.photographs[self._source(number)]

    def _source(self, number: int) -> int:
        turn, place = divmod(number, len(self.photographs))
        order = np.random.default_rng([self.seed, 1, turn]).permutation(len(self.photographs))
        return int(order[place])

    def image(self, number: int) -> NDArray[np.uint8]:
        """(425, 425, 3) pixels: a square of a quarter to all of the short side, flipped, in another light."""
        rng = np.random.default_rng([self.seed, 2, number])
        picture = self._pixels[self._source(number)]
        side = min(picture.size) * rng.uniform(0.25, 1)
        left, top = rng.uniform(0, 1, 2) * (np.array(picture.size) - side)
        box = (left, top, left + side, top + side)
        part = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
        if rng.random() < 0.5:
            part = ImageOps.mirror(part)
        pixels = np.asarray(part, np.float32)
        middle = pixels.mean()
        light = rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3).astype(np.float32)
        return np.clip(np.rint((pixels - middle) * light + middle), 0, 255).astype(np.uint8)

    def captions(self, number: int) -> list[str]:
        """Five to seven sentences about crop `number`, as COCO has."""
        rng = np.random.default_rng([self.seed, 3, number])
        shown = self.photograph(number)
        words = {
            "what": shown.what,
            "where": shown.where,
            "distance": rng.choice(["close", "wide", "clear"]),
            "place": rng.choice(["nearby", "the left", "the right", "above"]),
        }
        order = rng.permutation(len(SENTENCES))[: rng.integers(5, len(SENTENCES) + 1)]
        sentences = (SENTENCES[index].format(**words) for index in order)
        return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences]


def _open(path: Path) -> Image.Image:
    with Image.open(path) as file:
        # A transparent background becomes white rather than whatever lies under it.
        if file.mode in ("RGBA", "LA", "P"):
            layer = file.convert("RGBA")
            ground = Image.new("RGBA", layer.size, "white")
            return Image.alpha_composite(ground, layer).convert("RGB")
        return file.convert("RGB")
