"""What decides the weights of a finetuned model, besides the data: settings, and which of them make no sense."""

from __future__ import annotations

from dataclasses import dataclass

from boldreams_cli.console import ChoiceError
from boldreams_cli.encoding.readouts.separable import AdamSettings
from boldreams_cli.encoding.readouts.settings import FitSettings


@dataclass(frozen=True)
class FinetuneSettings(FitSettings):
    """What decides the weights of a finetuned model, besides the data; the defaults are the paper's.

    Parameters
    ----------
    epochs, rate, batch_size, precision : as of the readout alone (readouts/separable.py).
    backbone_rate : of Adam on the backbone; None is the readout's.
    clip_gradient : largest norm of the gradient of all weights; None does not clip.
    warmup : steps in which the rates grow linearly from zero.
    batch_norm : ``frozen`` statistics, or those of each batch (``train``).
    validation_fraction : of the training images, held out.
    early_stop : epochs without a better validation loss after which training ends; None never ends it.
    """

    epochs: int = 10
    rate: float = 1e-4
    batch_size: int = 16
    precision: str = "fp32"
    backbone_rate: float | None = None
    clip_gradient: float | None = None
    warmup: int = 0
    batch_norm: str = "frozen"
    validation_fraction: float = 0.0
    early_stop: int | None = None

    def check(self) -> None:
        """Raise ChoiceError for values that make no sense."""
        super().check()
        AdamSettings(self.epochs, self.rate, self.batch_size, self.precision).check()
        if not 0 <= self.validation_fraction < 1:
            raise ChoiceError(
                f"--validation-fraction takes a number from 0 up to, not including, 1, not {self.validation_fraction:g}"
            )
        if self.early_stop is not None and not self.validation_fraction:
            raise ChoiceError("--early-stop needs held-out images; add --validation-fraction 0.1")
        if self.batch_norm not in ("frozen", "train"):
            raise ChoiceError(f"unknown --batch-norm {self.batch_norm!r}; choose frozen or train")
