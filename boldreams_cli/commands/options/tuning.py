"""The options of `boldreams fit --finetune`, and the run that they describe."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from boldreams_cli.commands.options.environment import Command, option
from boldreams_cli.commands.options.types import Real

if TYPE_CHECKING:
    import torch

    from boldreams_cli.commands.options.fits import InputChoice
    from boldreams_cli.console import StopFlag
    from boldreams_cli.encoding.finetuning.run import FinetuneResult
    from boldreams_cli.encoding.readouts.settings import FitSettings


@dataclass(frozen=True)
class Tuning:
    """What --finetune adds to a fit; the names are those of the options."""

    weights: str | None = None
    backbone_lr: float | None = None
    clip_gradient: float | None = None
    warmup: int = 0
    batch_norm: str = "frozen"
    micro_batch: int | None = None
    validation_fraction: float = 0.0
    early_stop: int | None = None
    devices: int = 1

    def check_unused(self) -> None:
        """Raise ChoiceError for options that were given without --finetune; weights may be meant for others."""
        from boldreams_cli.console import ChoiceError

        given = [field.name for field in fields(self)[1:] if getattr(self, field.name) != field.default]
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ChoiceError(f"only --finetune takes {names}; add it, or leave them out")

    def fit(
        self,
        inputs: InputChoice,
        settings: FitSettings,
        asked: dict[str, Any],
        device: torch.device,
        memory: int,
        stop: StopFlag,
        resume: bool,
        overwrite: bool,
    ) -> FinetuneResult | None:
        """Finetune, in this process or among others; None in all but the first of them.

        Raises
        ------
        SystemExit
            With the exit code of the processes that were started here, which have said all there is to say.
        """
        from boldreams_cli.encoding.finetuning import processes, run
        from boldreams_cli.encoding.finetuning.settings import FinetuneSettings
        from boldreams_cli.encoding.finetuning.start import Source

        tuned = FinetuneSettings(
            **asdict(settings),
            **{name: value for name, value in asked.items() if value is not None},
            backbone_rate=self.backbone_lr,
            clip_gradient=self.clip_gradient,
            warmup=self.warmup,
            batch_norm=self.batch_norm,
            validation_fraction=self.validation_fraction,
            early_stop=self.early_stop,
        )
        tuned.check()
        if self.devices > 1 and not processes.joined_already():
            raise SystemExit(processes.launch(self.devices, device, stop))
        source = Source(
            *(inputs.cache, inputs.dataset(), inputs.backbone, inputs.features, self.weights),
            functools.partial(inputs.responses, stop),
        )
        with processes.joined(device) as process:
            result = run.finetune(source, tuned, process, memory, stop, resume, self.micro_batch, overwrite)
        return result if process.leads else None


def tuning_options(command: Command) -> Command:
    """Add --finetune and what goes with it; the command gets `tuning`, None without --finetune."""

    @option("--finetune/--no-finetune", default=False, help="Train the backbone too, from images.")
    @option(
        "--weights",
        default=None,
        metavar="pretrained|random|FILE",
        help="The weights of the backbone to finetune (default: what the store was made with, else pretrained).",
    )
    @option("--backbone-lr", type=Real(0, min_open=True), help="Rate of the backbone (default: --lr).")
    @option("--clip-gradient", type=Real(0, min_open=True), help="Largest norm of the gradient.")
    @option("--warmup", type=click.IntRange(0), default=0, help="Steps in which the rates grow from zero.")
    @option(
        "--batch-norm",
        type=click.Choice(["frozen", "train"]),
        default="frozen",
        help="Statistics of batch norm: those of the weights, or each batch's.",
    )
    @option("--micro-batch", type=click.IntRange(1), help="Trials in the network at a time, to save memory.")
    @option(
        "--validation-fraction",
        type=Real(0, 1, max_open=True),
        default=0.0,
        help="The share of the training images to hold out; the epoch that predicts them best is kept.",
    )
    @option("--early-stop", type=click.IntRange(1), help="Epochs to go on without a better validation loss.")
    @option("--devices", type=click.IntRange(1), default=1, help="Processes, each with a device of its own.")
    @functools.wraps(command)
    def run(*args: Any, finetune: bool, **kwargs: Any) -> None:
        tuning = Tuning(**{field.name: kwargs.pop(field.name) for field in fields(Tuning)})
        if not finetune:
            tuning.check_unused()
        command(*args, tuning=tuning if finetune else None, **kwargs)

    return run
