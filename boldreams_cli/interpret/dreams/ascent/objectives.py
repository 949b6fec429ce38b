"""What a dream maximises (paper, section 2.5, equation 3), as lucent's composable objectives.

An objective is a loss: it takes a function from a name (``response``, ``minus``, ``plus``, ``betas``, ``maps``) to a
tensor, as lucent's take one from a layer's name, so lucent's own can be added to these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lucent.optvis import objectives as lucent
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.files import DAMAGED_NPZ
from boldreams_cli.transfers import sent

NAMES = ("mean", "diversity", "target", "contrast", "both")


@dataclass(frozen=True)
class Objective:
    """One of NAMES.

    Parameters
    ----------
    name : of NAMES.
    wanted : betas for ``target``: (voxels of the target,), or (1,) for all of them.
    diversity : weight of the mean cosine between the images' maps, in the response's unit.
    """

    name: str
    wanted: NDArray[np.float32] | None = None
    diversity: float = 1.0

    def loss(self, count: int, device: torch.device) -> Any:
        """The loss of `count` images, a `lucent.optvis.objectives.Objective`."""
        response = lucent.Objective(lambda read: -read("response").mean(), "response")
        if self.name == "mean":
            return response
        if self.name == "contrast":
            return response + lucent.Objective(lambda read: read("minus").mean(), "minus")
        if self.name == "both":
            return lucent.Objective(lambda read: -(read("response") + read("plus")).mean() / 2, "both")
        if self.name == "diversity":
            # lucent's diversity is minus the sum of cosines between Gram matrices over ordered pairs, by image.
            return response - (self.diversity / (count - 1)) * lucent.diversity("maps")
        wanted = torch.from_numpy(self._wanted).to(device)
        return lucent.Objective(lambda read: (read("betas") - wanted).square().mean(), "target")

    @property
    def _wanted(self) -> NDArray[np.float32]:
        if self.wanted is None:
            raise ValueError("the objective target needs betas")
        return self.wanted

    def score(self, activity: Mapping[str, Any]) -> Any:
        """How well each image does, (images,), higher is better; of tensors or arrays."""
        if self.name == "contrast":
            return activity["response"] - activity["minus"]
        if self.name == "both":
            return (activity["response"] + activity["plus"]) / 2
        if self.name == "target":
            betas = activity["betas"]
            wanted = sent(torch.from_numpy(self._wanted), betas.device) if isinstance(betas, Tensor) else self._wanted
            return -((betas - wanted) ** 2).mean(1)
        return activity["response"]


def choose(
    name: str | None,
    target: str | None,
    minus: str | None,
    diversity: float | None = None,
    plus: str | None = None,
) -> str:
    """--objective, or the one that --target, --minus, --plus or --diversity implies.

    Raises
    ------
    ChoiceError
        If they contradict each other.
    """
    given = {"target": target, "minus": minus, "plus": plus, "diversity": diversity}
    options = [option for option, value in given.items() if value is not None]
    if len(options) > 1:
        raise ChoiceError(f"{' and '.join(f'--{option}' for option in options)} are of two objectives; give one")
    implied = {"minus": "contrast", "plus": "both"}.get(options[0], options[0]) if options else None
    if name is None:
        return implied or "mean"
    if name not in NAMES:
        raise ChoiceError(f"unknown objective {name!r}; choose from {', '.join(NAMES)} (--objective)")
    if implied is not None and name != implied:
        raise ChoiceError(f"--objective {name} does not go with --{options[0]}")
    needs = {"target": "--target FILE.npz or a number", "contrast": "--minus AREA", "both": "--plus AREA"}
    if name in needs and implied is None:
        raise ChoiceError(f"--objective {name} needs {needs[name]}")
    return name


def read_wanted(text: str, voxels: NDArray[np.bool_], area: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Betas to aim at, from ``--target``.

    Parameters
    ----------
    text : a number, or an .npz whose ``betas`` are of one image, for all of the model's voxels or for the area's.
    voxels : (V,) bool, those in use.
    area : (V,) bool, those of the area, excluded ones too.

    Returns
    -------
    (voxels in use,), or (1,).

    Raises
    ------
    ChoiceError, BoldreamsError
        If it is neither, or of another length.
    """
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        if not np.isfinite(number):
            raise ChoiceError(f"--target takes a finite number of z-scored betas, not {text}")
        return np.array([number], np.float32)
    path = Path(text).expanduser()
    if not path.is_file():
        raise ChoiceError(f"--target takes a number or an .npz file with betas; {text} is neither")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            betas = np.atleast_1d(np.squeeze(np.asarray(arrays["betas"], np.float32)))
    except DAMAGED_NPZ as error:
        raise BoldreamsError(f"{path} is no .npz file with betas ({error}); boldreams predict writes one") from error
    chosen = None
    if betas.shape == voxels.shape:
        chosen = betas[voxels]
    elif betas.shape == (area.sum(),):
        chosen = betas[voxels[area]]
    elif betas.shape == (voxels.sum(),):
        chosen = betas
    if chosen is None:
        raise ChoiceError(
            f"{path}: betas are {betas.shape}; --target takes those of one image, for the {area.sum()} voxels of the "
            f"target or for all {len(voxels)}"
        )
    if not np.isfinite(chosen).all():
        raise BoldreamsError(f"{path}: {np.count_nonzero(~np.isfinite(chosen))} of the betas are not finite")
    return chosen
