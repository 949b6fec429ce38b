"""Commands held at a known place until a signal comes: it finds them there however fast or busy the machine is."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from boldreams_cli.console import StopFlag
from boldreams_cli.encoding.finetuning.loop import Trainer, Whereabouts
from boldreams_cli.encoding.readouts.base import Checkpoint, Problem, Readout, Solution
from boldreams_cli.encoding.readouts.separable import Separable
from boldreams_cli.encoding.readouts.smooth import Smooth
from boldreams_cli.features.extraction_pass import Pass

SECONDS = 120  # then the command goes on, and the test that forgot it fails


def before_the_second_unit() -> None:
    """To be called in the process of an extraction."""
    compute = Pass._compute

    def held(self: Pass, unit: Any, advance: Any) -> Any:
        if unit.begin:
            _hold(self.stop)
        return compute(self, unit, advance)

    Pass._compute = held  # type: ignore[method-assign]


def in_the_second_epoch() -> None:
    """To be called in the process of a finetuning."""
    step = Trainer._step

    def held(self: Trainer, at: Whereabouts, pixels: Any, betas: Any, batch: int, sums: Any, stop: StopFlag) -> bool:
        if at.epoch == 1 and at.batch:
            _hold(stop)
        return step(self, at, pixels, betas, batch, sums, stop)

    Trainer._step = held  # type: ignore[method-assign]


def before_the_first_fit() -> None:
    """To be called in the process of a fit, or of a sweep of recipes that train."""
    _before_fit(1)


def before_the_third_fit() -> None:
    """Of two folds this is the second: the first fit is that of all images."""
    _before_fit(3)


def _before_fit(number: int) -> None:
    begun = itertools.count(1)
    for readout in (Separable, Smooth):
        readout.solve = _held_from(readout.solve, number, begun)  # type: ignore[method-assign]


def _held_from(solve: Callable[..., Solution], number: int, begun: Iterator[int]) -> Callable[..., Solution]:
    def held(self: Readout, problem: Problem, voxels: Any, checkpoint: Checkpoint, stop: StopFlag) -> Solution:
        if next(begun) >= number:
            _hold(stop)
        return solve(self, problem, voxels, checkpoint, stop)

    return held


def _hold(stop: StopFlag) -> None:
    end = time.monotonic() + SECONDS
    while not stop and time.monotonic() < end:
        time.sleep(0.01)
