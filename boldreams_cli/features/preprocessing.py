"""How an image becomes a network's input, the same for every command (paper, section 2.2)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from boldreams_cli.data.dataset import Pictures

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
LITE0 = ((0.498, 0.498, 0.498), (0.502, 0.502, 0.502))


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the backbone's input, the same for every command.

    Parameters
    ----------
    size : height and width of the input, pixels.
    mean, std : of each colour, in units of pixel values in [0, 1].
    interpolation : ``bilinear`` or ``bicubic``.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"

    def resize(self, images: Tensor) -> Tensor:
        """Resize stimuli with antialiasing, in 8 bits as torchvision's own presets do; of oblong ones the middle.

        Parameters
        ----------
        images : (images, height, width, 3) uint8.

        Returns
        -------
        (images, 3, size, size) uint8.
        """
        # A permuted view is channels-last, for which torch has a fast 8-bit kernel.
        pixels = square(images.permute(0, 3, 1, 2))
        if pixels.shape[-2:] == (self.size, self.size):
            return pixels
        return functional.interpolate(pixels, size=(self.size, self.size), mode=self.interpolation, antialias=True)

    def resize_all(self, images: Pictures) -> Tensor:
        """As `resize`, of an array of images or of a list of such of any sizes, each (height, width, 3) uint8."""
        if isinstance(images, list):
            return torch.cat([self.resize(torch.from_numpy(image)[None]) for image in images])
        return self.resize(torch.from_numpy(images))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalise (images, 3, H, W) pixels in [0, 1], resizing them first where need be; differentiable."""
        if pixels.shape[-2:] != (self.size, self.size):
            shape = (self.size, self.size)
            pixels = functional.interpolate(pixels, size=shape, mode=self.interpolation, antialias=True)
        # Made where the pixels are: a copy from the host cannot be part of a recorded step (dreams/ascent/replay.py).
        mean, std = (
            torch.stack([pixels.new_full((), value) for value in values])[:, None, None]
            for values in (self.mean, self.std)
        )
        return torch.addcmul(-mean / std, pixels, 1 / std)  # in one pass over the pixels

    def to_dict(self) -> dict[str, Any]:
        """For the fingerprint of a store and the spec of a model."""
        known = asdict(self)
        resize = f"{known.pop('interpolation')}, antialias, uint8"
        return known | {"resize": resize}


def square(pixels: Tensor) -> Tensor:
    """The middle square of (images, colours, height, width); squashed, an image would show other shapes."""
    height, width = pixels.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[..., top : top + side, left : left + side]
