"""Finetune a model: prepare what it starts from, train it, save it (paper, sections 2.2 and 3.1).

What it takes for RN50x4 to train where the paper reports zero or NaN:

- Weights, gradients and Adam's moments stay in float32; ``--precision bf16`` casts the operands of products only.
  CLIP's own code puts its weights on a GPU in float16, where Adam's epsilon of 1e-8 and the squares of small
  gradients are zero: one step at the published rate leaves NaN and infinities.
- Batch-norm statistics are frozen, so that training and scoring see the same network; ``--batch-norm train`` takes
  those of each batch.
- Adam moves every weight by about the learning rate, whatever the size of its gradient, and through some 80
  convolutions that adds up: a rate of 1e-3 for the backbone made the loss grow to 3e13 in one epoch (random weights,
  96 x 96 pixels, 60 trials) where the published 1e-4 trained to a better score than the frozen backbone's.
  ``--backbone-lr 1e-5 --warmup 200 --clip-gradient 1`` keep further away from that edge, at the price of slower gains.

A loss, gradient norm or weight that is not finite ends the training with an error rather than skipping the step:
in float32 and bfloat16, which do not overflow here, it means that the weights are gone. It is looked for every 50
steps, at the end of each epoch and before anything is written: the checkpoint of the last good epoch is kept.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from boldreams_cli.console import ChoiceError, StopFlag
from boldreams_cli.encoding.finetuning.loop import Trainer, best_epoch
from boldreams_cli.encoding.finetuning.processes import Process
from boldreams_cli.encoding.finetuning.settings import FinetuneSettings
from boldreams_cli.encoding.finetuning.start import Source, prepare
from boldreams_cli.encoding.inputs.trials import ImageTrials
from boldreams_cli.encoding.model.folder import held, model_folder
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.result import LOG, FitResult, begin, finished, read_log


@dataclass
class FinetuneResult(FitResult):
    """A finetuned model and how its training went."""

    @property
    def validation(self) -> list[float]:
        """Loss of the held-out images in each epoch; empty where none were."""
        return self.curve.get("validation_loss", [])

    @property
    def best(self) -> int:
        """Epoch, counted from 0, whose weights the model has."""
        return best_epoch(self.validation) if self.validation else len(self.losses) - 1

    def summary(self) -> dict[str, Any]:
        """The JSON object of ``fit``."""
        return super().summary() | ({"best_epoch": self.best + 1} if self.validation else {})


def finetune(
    source: Source,
    settings: FinetuneSettings,
    process: Process,
    memory: int,
    stop: StopFlag,
    resume: bool = True,
    micro_batch: int | None = None,
    overwrite: bool = False,
) -> FinetuneResult:
    """Train a model from images and save it.

    Parameters
    ----------
    source : where it comes from.
    settings : of the training.
    process : this one, among those that train together.
    memory : bytes that betas may take; beyond half of it they go to a file.
    stop : looked at after each step.
    resume : go on from a checkpoint of the same settings.
    micro_batch : trials that go through the network at a time, to save memory; the result is the same within
        rounding.
    overwrite : train a finished model again; otherwise it is left as it is.

    Raises
    ------
    BoldreamsError
        If the loss is not finite.
    MismatchError
        If the weights are not those of the store that is to be ranked by.
    StoppedError
        If a signal came; a checkpoint is kept.
    """
    started = time.monotonic()
    settings.check()
    if settings.batch_norm == "train" and (process.count > 1 or micro_batch):
        raise ChoiceError("--batch-norm train needs the whole batch in one process; leave --devices and --micro-batch")
    with process.first():
        start = prepare(source, settings, process.device, stop)
    folder = model_folder(source.cache, start.spec)
    with ExitStack() as stack:
        with process.first():
            if process.leads:
                stack.enter_context(held(folder, stop))
                there = begin(folder, start.spec, overwrite)
            else:
                there = None if overwrite else finished(folder, start.spec)
        if there is not None:
            return FinetuneResult(FittedModel.load(folder), read_log(folder / LOG), 0.0)
        held_out, scratch = settings.validation_fraction, source.cache / "scratch"
        trials = ImageTrials(start.responses, start.images, held_out, settings.seed, memory, scratch)
        trainer = Trainer(start.backbone, start.spec, trials, settings, process, micro_batch, folder)
        at = trainer.restore(resume)
        trainer.train(at, stop)
        with process.first():
            if process.leads:
                trainer.finish(at)
    return FinetuneResult(FittedModel.load(folder), trainer.curve(at), time.monotonic() - started)
