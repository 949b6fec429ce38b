"""What decides a fit besides its data, and the defaults of each recipe."""

from __future__ import annotations

from dataclasses import dataclass

from boldreams_cli.console import ChoiceError
from boldreams_cli.features.backbones.registry import entry

# Epochs, rate and batch size of each.
RECIPES = {"paper": (10, 1e-4, 16), "fast": (10, 3e-3, 64)}
READOUTS = ("separable", "ridge", "gaussian")


@dataclass(frozen=True)
class FitSettings:
    """What decides the weights, besides the data; the defaults are the paper's (section 2.2).

    Parameters
    ----------
    percent : of the filters of each layer.
    rf : ``shared`` receptive fields for layers of equal resolution, or one per ``layer``.
    epochs, rate, batch_size : of Adam.
    recipe : ``paper``, or ``fast`` (encoding/fast.py).
    readout : ``separable`` (equation 1), ``ridge`` or ``gaussian`` (encoding/closed_form.py).
    seed : of the start and of the order of trials.
    precision : of matrix products, ``fp32``, ``tf32`` or ``bf16`` (the last two on CUDA).
    """

    percent: float
    rf: str = "shared"
    epochs: int = 10
    rate: float = 1e-4
    batch_size: int = 16
    seed: int = 0
    precision: str = "fp32"
    recipe: str = "paper"
    readout: str = "separable"

    def check(self) -> None:
        """Raise ChoiceError for values that make no sense."""
        if not 0 < self.percent <= 100:
            raise ChoiceError(f"--percent takes a number above 0 and up to 100, not {self.percent:g}")
        if self.epochs < 1 or self.batch_size < 1 or not self.rate > 0:
            raise ChoiceError("--epochs and --batch-size must be at least 1 and --lr above 0")
        if self.recipe not in RECIPES:
            raise ChoiceError(f"unknown recipe {self.recipe!r}; choose from {', '.join(RECIPES)} (--recipe)")
        if self.readout not in READOUTS:
            raise ChoiceError(f"unknown readout {self.readout!r}; choose from {', '.join(READOUTS)} (--readout)")


def settings_for(
    backbone: str,
    recipe: str,
    percent: float,
    rf: str,
    epochs: int | None,
    rate: float | None,
    batch_size: int | None,
    seed: int,
    precision: str,
    readout: str = "separable",
    finetune: bool = False,
) -> FitSettings:
    """Fill in what was not asked for: epochs (30 of a text model, as published), rate and batch size of the recipe.

    Raises
    ------
    ChoiceError
        If the recipe cannot train that model.
    """
    text = entry(backbone).reads == "captions"
    if recipe != "paper" and (text or finetune or precision != "fp32"):
        raise ChoiceError("--recipe fast trains frozen image backbones in fp32; leave it out")
    if readout != "separable":
        if text or finetune:
            raise ChoiceError(f"--readout {readout} is for frozen image backbones; leave it out")
        if recipe != "paper" or precision != "fp32" or epochs or rate or batch_size:
            raise ChoiceError(
                f"--readout {readout} is solved at once, in fp32; leave out --recipe, --precision, --epochs, --lr and "
                "--batch-size"
            )
    usual = RECIPES[recipe]
    return FitSettings(
        percent,
        rf,
        epochs or (30 if text else usual[0]),
        rate or usual[1],
        batch_size or usual[2],
        seed,
        precision,
        recipe,
        readout,
    )
