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
    "a picture of {what} {where}",
    "{what} and {other}",
    "{other} beside {what}",
    "{what} {where} together with {other}",
    "a collage of {what}, {other} and more",
    "someone put {other} over {what}",
)


class Crops:
    """As many distinct stimuli as wanted, each a patchwork of crops; number n is always the same one.

    A crop of one photograph is the ground, on which crops of others lie. A receptive field can only be found if
    what is at one place tells little about what is at another, as in the thousands of photographs of the real
    experiment; within one of a few photographs, every place tells which one it is.

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

    def shown(self, number: int) -> list[Photograph]:
        """What stimulus `number` shows, the ground first."""
        return [self.photographs[source] for source in self._sources(number)]

    def _sources(self, number: int) -> list[int]:
        """Two to four photographs; each is the ground equally often."""
        turn, place = divmod(number, len(self.photographs))
        ground = int(np.random.default_rng([self.seed, 1, turn]).permutation(len(self.photographs))[place])
        rng = np.random.default_rng([self.seed, 2, number])
        others = rng.permutation(len(self.photographs))
        return [ground, *(int(index) for index in others[others != ground][: rng.integers(1, 4)])]

    def image(self, number: int) -> NDArray[np.uint8]:
        """(425, 425, 3) pixels."""
        rng = np.random.default_rng([self.seed, 3, number])
        ground, *others = self._sources(number)
        canvas = Image.fromarray(_crop(self._pixels[ground], (SIDE, SIDE), rng))
        for source in others:
            width, height = (int(length) for length in rng.uniform(0.3, 0.6, 2) * SIDE)
            # Up to a third of it may lie beyond the edge.
            left, top = (int(rng.uniform(-length / 3, SIDE - 2 * length / 3)) for length in (width, height))
            patch = _crop(self._pixels[source], (width, height), rng)
            canvas.paste(Image.fromarray(patch), (left, top))
        return np.asarray(canvas)

    def captions(self, number: int) -> list[str]:
        """Five to seven sentences about stimulus `number`, as COCO has."""
        rng = np.random.default_rng([self.seed, 4, number])
        ground, *others = self.shown(number)
        order = rng.permutation(len(SENTENCES))[: rng.integers(5, len(SENTENCES) + 1)]
        sentences = []
        for index in order:
            other = others[rng.integers(len(others))].what
            sentence = SENTENCES[index].format(what=ground.what, where=ground.where, other=other)
            sentences.append(f"{sentence[0].upper()}{sentence[1:]}.")
        return sentences


def _crop(picture: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A piece of a quarter to all of what fits, of the given width and height, mirrored or not, in another light."""
    width, height = size
    fit = min(picture.width / width, picture.height / height) * rng.uniform(0.25, 1)
    left, top = rng.uniform(0, 1, 2) * (picture.width - fit * width, picture.height - fit * height)
    box = (left, top, left + fit * width, top + fit * height)
    piece = picture.resize(size, Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        piece = ImageOps.mirror(piece)
    pixels = np.asarray(piece, np.float32)
    middle = pixels.mean()
    light = rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    return np.clip(np.rint((pixels - middle) * light + middle), 0, 255).astype(np.uint8)


def _open(path: Path) -> Image.Image:
    with Image.open(path) as file:
        # A transparent background becomes white rather than whatever lies under it.
        if file.mode in ("RGBA", "LA", "P"):
            layer = file.convert("RGBA")
            ground = Image.new("RGBA", layer.size, "white")
            return Image.alpha_composite(ground, layer).convert("RGB")
        return file.convert("RGB")
