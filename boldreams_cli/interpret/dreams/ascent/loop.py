"""Dreams: images that most excite a target, found by gradient ascent on their pixels (paper, section 2.5)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from boldreams_cli.console import BoldreamsError, StopFlag, logger, progress
from boldreams_cli.features.backbones import Entry
from boldreams_cli.files import to_json, written_whole
from boldreams_cli.interpret.dreams.ascent import transforms
from boldreams_cli.interpret.dreams.ascent.objectives import Objective
from boldreams_cli.interpret.dreams.ascent.parameterization import Picture
from boldreams_cli.interpret.dreams.ascent.replay import Replay
from boldreams_cli.interpret.dreams.ascent.transforms import Transforms
from boldreams_cli.interpret.dreams.closeness import Photograph
from boldreams_cli.interpret.targets import Target
from boldreams_cli.machine import is_out_of_memory, repeatable
from boldreams_cli.transfers import sent

TRACE_EVERY = 50  # steps at most between looks at the untransformed images; each look costs a third of a step
MACO_RATE = 5e-2  # phases are in radians; the authors' rates are for amplitudes
STATE = "state.safetensors"
KEEP_EVERY = 60.0  # seconds between states kept: what a kill costs at most
LOOK_EVERY = 25  # steps of a GPU between looks at what they gave, which wait for it
COLUMNS = ("step", "loss", "transformed", "untransformed", "score")
RECORDED = ("mean", "contrast", "both")  # objectives whose steps a GPU plays back
START_STEPS = 256  # from a photograph: what is near is reached sooner


@dataclass(frozen=True)
class Settings:
    """What decides a dream, besides model and target.

    Parameters
    ----------
    steps, rate : of Adam.
    count : images.
    parameterization : of `parameterization.NAMES`.
    seed : of the start and of the transforms.
    transforms : ranges of the random affine map of each step.
    """

    steps: int
    rate: float
    count: int = 4
    parameterization: str = "fourier"
    seed: int = 0
    transforms: Transforms = field(default_factory=Transforms)

    @property
    def trace_every(self) -> int:
        """Steps between looks at the untransformed images: four in a short dream."""
        return max(1, min(TRACE_EVERY, self.steps // 4))

    @classmethod
    def default(
        cls,
        backbone: Entry,
        roi: str | None,
        steps: int | None = None,
        rate: float | None = None,
        count: int = 4,
        parameterization: str = "fourier",
        seed: int = 0,
        start: bool = False,
    ) -> Settings:
        """The authors' settings for a backbone; eccentricity areas are shifted less and not scaled.

        So are photographs that a dream starts from: they have no grey frame.
        """
        usual = MACO_RATE if parameterization == "maco" else float(backbone.dream["rate"])
        low, high = backbone.dream["scale"]
        chosen = Transforms(scale=(float(low), float(high)))
        if start or (roi is not None and all(part.strip().casefold().startswith("ecc") for part in roi.split(","))):
            chosen = replace(chosen, translate=0.05, scale=(1.0, 1.0))
        return cls(
            steps or (START_STEPS if start else int(backbone.dream["steps"])),
            rate if rate is not None else usual,
            count,
            parameterization,
            seed,
            chosen,
        )


@dataclass
class Trace:
    """Loss and mean response, step by step; ``untransformed`` now and then and at the end, else NaN.

    ``score`` is what the objective makes of the images on average. Row i is of the images before step i + 1; the last
    row is of the final images, untransformed, and has no loss.
    """

    rows: list[tuple[float, ...]] = field(default_factory=list)

    def array(self) -> NDArray[np.float64]:
        """(rows, 5) of COLUMNS."""
        values = np.array(self.rows, dtype=np.float64).reshape(-1, len(COLUMNS) - 1)
        return np.column_stack([np.arange(len(values)), values])


@dataclass(frozen=True)
class Dream:
    """Images and how they came about.

    Parameters
    ----------
    images : (count, 3, H, W) float32 in [0, 1].
    response : (count,) of the untransformed images, through the full model.
    score : (count,) what the objective makes of them, higher is better.
    trace : (rows, 5) of COLUMNS.
    step : reached.
    stopped : whether a signal ended it before its last step.
    other : (count,) response of the area beside the target's own, of a contrast or a pair.
    seen : (count, H, W) size of the gradient at each pixel, summed over the steps; of ``maco`` only.
    """

    images: NDArray[np.float32]
    response: NDArray[np.float32]
    score: NDArray[np.float32]
    trace: NDArray[np.float64]
    step: int
    stopped: bool
    other: NDArray[np.float32] | None = None
    seen: NDArray[np.float32] | None = None


def steps_to_beat(trace: NDArray[np.float64], level: float) -> int | None:
    """Steps after which the mean score of the images is first above a level; None if it never is.

    Parameters
    ----------
    trace : (rows, 5) of COLUMNS.
    level : of the score, as that of the best natural image.
    """
    above = np.flatnonzero(trace[:, COLUMNS.index("score")] > level)
    return int(trace[above[0], 0]) if len(above) else None


class Dreamer:
    """The loop, from a start or from where it was stopped.

    Parameters
    ----------
    target : what to excite.
    objective : and how.
    picture : the images to be.
    settings : of the loop.
    photograph : that the images are kept close to.
    """

    def __init__(
        self,
        target: Target,
        objective: Objective,
        picture: Picture,
        settings: Settings,
        photograph: Photograph | None = None,
    ) -> None:
        self.target, self.objective, self.picture, self.settings = target, objective, picture, settings
        self.photograph = photograph
        self.seen: Tensor | None = None
        self.device = picture.values.device
        self.loss = objective.loss(settings.count, self.device)
        gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam([picture.values], lr=settings.rate, fused=True, capturable=gpu)
        self.trace = Trace()
        self._given: list[Tensor] = []  # rows of the trace that are still on the device
        self._unseen = torch.full((), math.nan, device=self.device)
        steady = photograph is None and settings.parameterization != "maco" and objective.name in RECORDED
        self._go_up = Replay(self._ascend) if gpu and steady else self._ascend

    @property
    def done(self) -> int:
        """Steps taken."""
        return len(self.trace.rows) + len(self._given)

    def run(self, stop: StopFlag, keep: Callable[[], object] | None = None) -> Dream:
        """Go on to the last step, or to a signal.

        Parameters
        ----------
        stop : looked at between steps.
        keep : called now and then, to keep the state.

        Raises
        ------
        BoldreamsError
            If memory runs out or the loss is no longer a number.
        """
        with repeatable(self.device), progress(f"dream {self.target.name}", self.settings.steps, "steps") as shown:
            shown.advance(self.done)
            kept = time.monotonic()
            while self.done < self.settings.steps and not stop:
                self._guarded_step()
                if self.device.type == "cpu" or self.done % LOOK_EVERY == 0:
                    self.look()
                shown.advance(1, f"response {self.trace.rows[-1][1]:.3f}" if self.trace.rows else "")
                if keep is not None and time.monotonic() - kept >= KEEP_EVERY:
                    keep()
                    kept = time.monotonic()
            self.look()
            return self._result()

    def look(self) -> None:
        """Take from the device what the steps since the last look gave.

        Raises
        ------
        BoldreamsError
            If a loss is no longer a number.
        """
        if not self._given:
            return
        rows = torch.stack(self._given).tolist()
        self._given.clear()
        for loss, *others in rows:
            self.trace.rows.append((loss, *others))
            if not math.isfinite(loss):
                raise BoldreamsError(f"the loss became {loss} at step {len(self.trace.rows)}; use a smaller --lr")

    def _guarded_step(self) -> None:
        try:
            self.step()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise BoldreamsError(
                f"out of memory on {self.device} with {self.settings.count} images at a time; use a smaller --count "
                "or another --device"
            ) from error

    def step(self) -> Tensor:
        """One step of gradient descent; nothing waits for the device.

        Returns
        -------
        A row of the trace, (4,): the loss and so on, see COLUMNS.
        """
        number = self.done
        looks = number % self.settings.trace_every == 0
        plain = self._plain() if looks else self._unseen
        matrix = sent(self.settings.transforms.draw(self.settings.seed, number), self.device)
        loss, response, score = self._go_up(matrix)
        row = torch.stack([loss, response, plain, score])
        self._given.append(row)
        return row

    def _ascend(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, response and score of the images as they are, moved; and a step of theirs."""
        self.optimizer.zero_grad(set_to_none=True)
        images = self.picture()
        transparent = self.settings.parameterization == "maco"
        if transparent:
            images.retain_grad()
        moved = transforms.apply(images, matrix)
        activity = self.target.activity(moved)
        loss = self.loss(activity.__getitem__)
        if self.photograph is not None:
            loss = loss + self.photograph.penalty(self.target, moved, activity["groups"], matrix)
        loss.backward()
        if transparent:
            self._see(images)
        self.optimizer.step()
        with torch.no_grad():
            return loss.detach(), activity["response"].mean(), self.objective.score(activity).mean()

    def _see(self, images: Tensor) -> None:
        """Add up where the gradient is: what of the picture matters (MaCo's transparency)."""
        assert images.grad is not None
        gradient = images.grad.abs().mean(1)
        self.seen = gradient if self.seen is None else self.seen + gradient

    @torch.no_grad()
    def _plain(self) -> Tensor:
        """Mean response of the images as they are, not moved."""
        return self.target.activity(self.picture())["response"].mean()

    @torch.no_grad()
    def _result(self) -> Dream:
        images = self.picture()
        activity = self.target.activity(images)
        response = activity["response"]
        score = self.objective.score(activity)
        rows = [*self.trace.rows, (math.nan, math.nan, float(response.mean()), float(score.mean()))]
        other = activity.get("minus", activity.get("plus"))
        return Dream(
            images=images.cpu().numpy(),
            response=response.cpu().numpy(),
            score=score.cpu().numpy(),
            trace=Trace(rows).array(),
            step=self.done,
            stopped=self.done < self.settings.steps,
            other=None if other is None else other.cpu().numpy(),
            seen=None if self.seen is None else self.seen.cpu().numpy(),
        )

    def save_state(self, folder: Path, key: str) -> None:
        """Keep what `resume` needs."""
        self.look()
        state = self.optimizer.state.get(self.picture.values, {})
        tensors = {f"adam/{name}": value.detach().cpu() for name, value in state.items()}
        tensors["values"] = self.picture.values.detach().cpu().contiguous()
        if self.seen is not None:
            tensors["seen"] = self.seen.cpu()
        metadata = {"key": key, "trace": json.dumps(to_json(self.trace.rows))}
        with written_whole(folder / STATE) as temporary:
            save_file(tensors, temporary, metadata)

    def resume(self, folder: Path, key: str) -> None:
        """Take up the state of the same dream that was stopped, if the folder has one; the images come out the same."""
        path = folder / STATE
        if not path.is_file():
            return
        try:
            with safe_open(path, "pt") as stored:
                metadata = stored.metadata() or {}
                tensors = {name: stored.get_tensor(name).to(self.device) for name in stored.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            logger.warning("%s cannot be read (%s): starting anew", path, error)
            return
        if metadata.get("key") != key:
            logger.info("%s is of other settings: starting anew", path)
            return
        with torch.no_grad():
            self.picture.values.copy_(tensors.pop("values"))
        self.seen = tensors.pop("seen", None)
        adam = {name.removeprefix("adam/"): value for name, value in tensors.items()}
        if adam:
            self.optimizer.state[self.picture.values] = adam
        rows = json.loads(metadata["trace"])
        self.trace.rows = [tuple(math.nan if value is None else value for value in row) for row in rows]
        logger.info("going on after step %d", self.done)
