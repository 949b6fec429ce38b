"""The loop of finetuning: steps, epochs, validation, checkpoints, and the model that is left at the end."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from boldreams_cli.console import BoldreamsError, StopFlag, logger, progress
from boldreams_cli.encoding.finetuning.network import Network
from boldreams_cli.encoding.finetuning.processes import Process, averaging
from boldreams_cli.encoding.finetuning.settings import FinetuneSettings
from boldreams_cli.encoding.inputs.trials import ImageTrials
from boldreams_cli.encoding.model.checkpoint import (
    load_optimizer_state,
    optimizer_state,
    read_note,
    read_tensors,
    write_checkpoint,
)
from boldreams_cli.encoding.model.spec import BACKBONE, WEIGHTS, FittedModel, ModelSpec
from boldreams_cli.encoding.numerics.contraction import learning_rate
from boldreams_cli.encoding.readouts.base import Solution
from boldreams_cli.encoding.readouts.separable import batch_order
from boldreams_cli.encoding.result import AGAIN, LOG, Curve, log_text, write_weights
from boldreams_cli.features import weights as weight_files
from boldreams_cli.features.backbones import Backbone
from boldreams_cli.files import write_text, written_whole

CHECKPOINT = "checkpoint.safetensors"
BEST = "checkpoint-best-{}.safetensors"  # epoch, counted from 1
READ_STEPS = 50  # after so many the sums are read from the device, which until then need not be waited for
LAST = "last"  # folder of the last epoch's model, where validation chose an earlier one


@dataclass
class Whereabouts:
    """Where a training is: what a checkpoint notes beside the weights.

    Parameters
    ----------
    epoch, batch : to do next, counted from 0.
    losses : of each epoch so far, the sum of squared errors; that of an unfinished one is partial.
    validation : of each epoch so far, mean squared error.
    """

    epoch: int
    batch: int
    losses: list[float]
    validation: list[float]

    @property
    def best(self) -> int:
        """The epoch with the lowest validation loss, or without validation the last one."""
        return best_epoch(self.validation) if self.validation else len(self.losses) - 1


def best_epoch(validation: Sequence[float]) -> int:
    """The epoch with the lowest loss; one whose loss is no number is never the best."""
    return int(np.argmin(np.where(np.isfinite(validation), validation, np.inf)))


class Sums:
    """Sums over steps, kept on the device until they are read.

    Parameters
    ----------
    losses : so far in this epoch; one by one is added to it, so that when it is read makes no difference.
    device : to add on.
    """

    def __init__(self, losses: float, device: torch.device) -> None:
        self.losses = torch.tensor(losses, dtype=torch.float64, device=device)
        self.norms = torch.zeros((), dtype=torch.float64, device=device)
        self.steps = 0

    def due(self) -> bool:
        """Whether it is time to read them."""
        return self.steps % READ_STEPS == 0


class Trainer:
    """The network, its optimizer, and the loop over epochs and batches."""

    def __init__(
        self,
        backbone: Backbone,
        spec: ModelSpec,
        trials: ImageTrials,
        settings: FinetuneSettings,
        process: Process,
        micro_batch: int | None,
        folder: Path,
    ) -> None:
        self.spec, self.trials, self.settings, self.process, self.folder = spec, trials, settings, process, folder
        self.device, self.key = process.device, spec.key
        size = settings.batch_size
        self.micro_batch = min(size, micro_batch or size)
        columns = np.flatnonzero(trials.included)
        self.network = Network(backbone, spec, columns, self.micro_batch, settings.seed, self.device)
        self._set_batch_norm(training=settings.batch_norm == "train")
        rate = settings.backbone_rate or settings.rate
        groups = [
            {"params": self.network.backbone_parameters, "share": rate / settings.rate},
            {"params": self.network.readout_parameters, "share": 1.0},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=settings.rate, fused=True)
        self.parallel: nn.Module = self.network
        if process.count > 1:
            self.parallel = averaging(self.network, self.device)  # buffers are frozen statistics, the same everywhere
        self.steps = -(-len(trials.training) // size)

    def _set_batch_norm(self, training: bool) -> None:
        for module in self.network.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(training)

    def train(self, at: Whereabouts, stop: StopFlag) -> None:
        """Train until the last epoch, or until validation has not improved for long enough."""
        settings = self.settings
        what = f"finetune {self.spec.backbone} {settings.percent:g} %"
        with progress(what, settings.epochs * len(self.trials.training), "trials") as shown:
            shown.done = at.epoch * len(self.trials.training) + at.batch * settings.batch_size
            while at.epoch < settings.epochs and not self._stale(at):
                for count, loss in self._epoch(at, stop):
                    shown.advance(count, loss)
                self._check_weights(at)
                if len(self.trials.held_out):
                    at.validation.append(self._validate())
                at.epoch, at.batch = at.epoch + 1, 0
                if at.validation and at.best == at.epoch - 1:
                    self._write(BEST.format(at.epoch), at, self.network.state_dict())
                self._write(CHECKPOINT, at, self._state())
                self._keep_best(at)

    def _stale(self, at: Whereabouts) -> bool:
        patience = self.settings.early_stop
        return patience is not None and bool(at.validation) and at.epoch - 1 - at.best >= patience

    def _done(self, at: Whereabouts) -> int:
        return min(at.batch * self.settings.batch_size, len(self.trials.training))

    def _epoch(self, at: Whereabouts, stop: StopFlag) -> Iterator[tuple[int, str]]:
        """Train on the batches of an epoch that are still to do; yields the trials of each, and the loss last read."""
        settings, process = self.settings, self.process
        if len(at.losses) == at.epoch:
            at.losses.append(0.0)
        order = batch_order(len(self.trials.training), settings.batch_size, settings.seed, at.epoch)
        todo = [self.trials.training[chosen] for chosen in order[at.batch :]]
        mine = [np.array_split(batch, process.count)[process.rank] for batch in todo]
        # A process without a share of a small last batch takes part with one trial that does not count.
        read = [part if len(part) else batch[:1] for part, batch in zip(mine, todo, strict=True)]
        sums, loss = Sums(at.losses[-1], self.device), ""
        for batch, part, (pixels, betas) in zip(todo, mine, self.trials.batches(read, self.device), strict=True):
            stopped = self._step(at, pixels, betas, len(batch) if len(part) else 0, sums, stop)
            at.batch += 1
            if stopped or sums.due() or at.batch == self.steps:
                self._read(sums, at)
                loss = f"loss {at.losses[-1] / (self._done(at) * self.trials.voxels):.4f}"
            yield len(batch), loss
            if stopped:
                self._check_weights(at)
                self._write(CHECKPOINT, at, self._state())
                stop.check(f"checkpoint at epoch {at.epoch + 1}, batch {at.batch}")

    def _read(self, sums: Sums, at: Whereabouts) -> None:
        """Take the sums from the device; one number that is not finite makes them so from then on."""
        at.losses[-1], norms = torch.stack([sums.losses, sums.norms]).tolist()
        self._check_finite(at.losses[-1], "loss", at)
        self._check_finite(norms, "gradient", at)

    def _rate(self, at: Whereabouts) -> float:
        step = at.epoch * self.steps + at.batch + 1
        grown = min(1.0, step / self.settings.warmup) if self.settings.warmup else 1.0
        return learning_rate(self.settings.rate, at.epoch) * grown

    def _step(self, at: Whereabouts, pixels: Tensor, betas: Tensor, batch: int, sums: Sums, stop: StopFlag) -> bool:
        """One step of Adam on this process's share of a batch of `batch` trials (0: none of them counts).

        Adds the squared errors of the whole batch to `sums`. Returns whether any process was stopped, and then raises
        `stop`: all processes have the same answer, where a signal may come to one a moment after it was asked.
        """
        self.optimizer.zero_grad(set_to_none=True)
        # The processes' gradients are averaged, so each loss is multiplied by their number.
        values = self.trials.voxels
        scale = self.process.count / (batch * values) if batch else 0.0
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        pieces = list(zip(pixels.split(self.micro_batch), betas.split(self.micro_batch), strict=True))
        for number, (images, wanted) in enumerate(pieces):
            with self._without_averaging(number < len(pieces) - 1):
                with self._autocast():
                    loss = self.parallel(images, wanted, scale)
                loss.backward()
            total += loss.detach() / (scale or 1.0)
        stopped = self.process.should_stop(stop)
        if self.process.count > 1:  # all must hear of it in the same step, so this one number is waited for
            told = torch.tensor(float(stopped), dtype=torch.float64, device=self.device)
            total, told = self.process.sum(torch.stack([total, told]))
            stopped = bool(told)
        if stopped and not stop:
            stop.signal = signal.SIGTERM  # another process was told
        sums.losses += total
        sums.steps += 1
        self._clip(sums)
        rate = self._rate(at)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.step()
        return stopped

    def _without_averaging(self, wanted: bool) -> AbstractContextManager[None]:
        return (
            self.parallel.no_sync() if wanted and isinstance(self.parallel, DistributedDataParallel) else nullcontext()
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")

    def _clip(self, sums: Sums) -> None:
        if self.settings.clip_gradient is not None:
            sums.norms += nn.utils.clip_grad_norm_(self.parallel.parameters(), self.settings.clip_gradient)

    @staticmethod
    def _check_finite(value: float, what: str, at: Whereabouts) -> None:
        if not np.isfinite(value):
            raise BoldreamsError(
                f"the {what} is not finite in epoch {at.epoch + 1}, by batch {at.batch}; use --warmup 200 "
                "--clip-gradient 1 and a smaller --backbone-lr (1e-5) or --lr"
            )

    def _check_weights(self, at: Whereabouts) -> None:
        """Check before they are kept that the last step has left all weights finite."""
        finite = torch.stack([parameter.isfinite().all() for parameter in self.network.parameters()]).all()
        self._check_finite(0.0 if finite else float("nan"), "value of a weight", at)

    def _validate(self) -> float:
        """Mean squared error of the held-out trials; each process takes some of the batches."""
        trials, size = self.trials.held_out, self.micro_batch
        order = [trials[start : start + size] for start in range(0, len(trials), size)]
        mine = order[self.process.rank :: self.process.count]
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        self._set_batch_norm(training=False)
        with self._autocast():
            for pixels, betas in self.trials.batches(mine, self.device):
                total += self.network.error(pixels, betas)
        self._set_batch_norm(training=self.settings.batch_norm == "train")
        return float(self.process.sum(total)) / (len(trials) * self.trials.voxels)

    def _state(self) -> dict[str, Tensor]:
        buffers = {f"buffer.{name}": value for name, value in self.network.named_buffers()}
        return optimizer_state(self.optimizer) | buffers

    def _write(self, name: str, at: Whereabouts, tensors: dict[str, Tensor]) -> None:
        if self.process.leads:
            write_checkpoint(self.folder / name, self.key, asdict(at), tensors)

    def _keep_best(self, at: Whereabouts) -> None:
        """Remove the weights of epochs that are no longer the best, once a checkpoint vouches for the one that is."""
        if self.process.leads:
            for path in self.folder.glob(BEST.format("*")):
                if not at.validation or path.name != BEST.format(at.best + 1):
                    path.unlink()

    def _restore_best(self, at: Whereabouts) -> None:
        path = self.folder / BEST.format(at.best + 1)
        note = read_note(path, self.key)
        if note is None or note["epoch"] != at.best + 1:
            raise BoldreamsError(f"{path}, the epoch with the lowest validation loss, is missing; use --no-resume")
        self.network.load_state_dict(read_tensors(path))

    def restore(self, resume: bool) -> Whereabouts:
        """Take up the last checkpoint of the same settings, if there is one."""
        path = self.folder / CHECKPOINT
        note = read_note(path, self.key) if resume else None
        if note is None:
            return Whereabouts(0, 0, [], [])
        state = read_tensors(path)
        load_optimizer_state(self.optimizer, state)
        for name, buffer in self.network.named_buffers():
            buffer.copy_(state[f"buffer.{name}"])
        at = Whereabouts(**note)
        logger.info("going on from %s, epoch %d, batch %d", path, at.epoch + 1, at.batch)
        return at

    def finish(self, at: Whereabouts) -> None:
        """Save the model, and beside it the last epoch's where validation chose an earlier one."""
        if at.best != len(at.losses) - 1:
            self._save(self.folder / LAST)
            self._restore_best(at)
            logger.info("epoch %d has the lowest validation loss; the last epoch is in %s", at.best + 1, LAST)
        write_text(self.folder / LOG, log_text(self.curve(at)))
        (self.folder / AGAIN).unlink(missing_ok=True)
        self._save(self.folder)
        for path in self.folder.glob("checkpoint*.safetensors"):
            path.unlink()

    def _save(self, folder: Path) -> None:
        state = {name: value.cpu().contiguous() for name, value in self.network.backbone.network.state_dict().items()}
        with written_whole(folder / BACKBONE) as temporary:
            save_file(state, temporary)
        start = self.spec.backbone_weights
        known = {"digest": weight_files.digest(state), "source": start["source"], "start": start["digest"]}
        solution = Solution(*self.network.weights(), {})
        columns = np.flatnonzero(self.trials.included)
        write_weights(folder / WEIGHTS, self.spec, lambda: [(columns, solution)], self.trials.responses.voxels)
        FittedModel(folder, replace(self.spec, backbone_weights=known)).save_spec()

    def curve(self, at: Whereabouts) -> Curve:
        """Columns of log.csv."""
        count = len(self.trials.training) * self.trials.voxels
        curve = {
            "lr": [learning_rate(self.settings.rate, epoch) for epoch in range(len(at.losses))],
            "train_loss": [loss / count for loss in at.losses],
        }
        return curve | ({"validation_loss": at.validation} if at.validation else {})
