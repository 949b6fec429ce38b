"""What each step of finetuning does: gradients, clipping, rates, precision; and what is held out, kept and refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from boldreams_cli.console import BoldreamsError, StopFlag, StoppedError
from boldreams_cli.encoding.finetuning import loop
from boldreams_cli.encoding.finetuning.network import Network
from boldreams_cli.encoding.finetuning.processes import Process
from boldreams_cli.encoding.finetuning.run import FinetuneResult, finetune
from boldreams_cli.encoding.inputs import trials
from boldreams_cli.encoding.inputs.betas import TrainingBetas, hold_out
from boldreams_cli.encoding.inputs.pixels import ResizedImages
from boldreams_cli.encoding.model.checkpoint import read_note, read_tensors, write_checkpoint
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.encoding.readouts.separable import batch_order
from boldreams_cli.features import backbones
from tests.encoding.finetuned import CPU, SETTINGS, Small, assert_same, run, source_of
from tests.stopping import StopAt

ONE = replace(SETTINGS, epochs=1)


class Step(NamedTuple):
    """What Adam was given in a step."""

    gradients: list[Tensor]
    rates: list[float]

    @property
    def norm(self) -> float:
        """Of the gradient of all weights."""
        return float(torch.cat([gradient.flatten() for gradient in self.gradients]).norm())


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Every step that Adam makes during the test."""
    made: list[Step] = []
    real = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *arguments: Any) -> Any:
        weights = [weight for group in self.param_groups for weight in group["params"]]
        made.append(Step([weight.grad.clone() for weight in weights], [group["lr"] for group in self.param_groups]))
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    return made


def betas_and_images(small: Small) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Betas of all training trials, their nsdIds, and the columns of the voxels."""
    training = TrainingBetas(small.responses)
    return training.trials(training.columns), training.image_ids[training.images], training.columns


def steps_an_epoch(small: Small, held_out: float = 0.0) -> int:
    _, image_ids, _ = betas_and_images(small)
    images = small.responses.train_images
    trained = ~np.isin(image_ids, images[hold_out(images, held_out, 0)]) if held_out else np.ones(len(image_ids))
    return -(-int(trained.sum()) // SETTINGS.batch_size)


def key_of(checkpoint: Path) -> str:
    with safe_open(checkpoint, "pt") as stored:
        return str(stored.metadata()["key"])


def pixels_of(result: FinetuneResult, image_ids: np.ndarray) -> Tensor:
    resized = ResizedImages.find(result.model.folder.parents[3], result.model.spec.training["stimuli"])
    assert resized is not None
    return torch.from_numpy(resized.read(image_ids))


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_step_takes_the_gradient_of_the_mean_squared_error_of_its_batch(
    small: Small, tmp_path: Path, steps: list[Step], micro_batch: int | None
) -> None:
    result = run(small, tmp_path, ONE, micro_batch=micro_batch)
    betas, image_ids, columns = betas_and_images(small)
    network = Network(backbones.load("alexnet", "random"), result.model.spec, columns, 8, 0, CPU)
    batch = batch_order(len(betas), 8, 0, 0)[0]
    products = [
        torch.einsum("bac,av,cv->bv", maps, left, right)
        for maps, left, right in zip(
            network.maps(pixels_of(result, image_ids[batch])), network.left, network.right, strict=True
        )
    ]
    loss = (torch.stack(products).sum(0) + network.bias - betas[batch]).square().mean()
    expected = torch.autograd.grad(loss, [*network.backbone_parameters, *network.readout_parameters])
    for found, wanted in zip(steps[0].gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-3 * float(wanted.abs().max()))


def test_the_gradient_is_clipped_to_the_norm_asked_and_no_further(
    small: Small, tmp_path: Path, steps: list[Step]
) -> None:
    run(small, tmp_path / "free", ONE)
    free = steps.copy()
    steps.clear()
    limit = free[0].norm / 4
    run(small, tmp_path / "clipped", replace(ONE, clip_gradient=limit))
    assert steps[0].norm == pytest.approx(limit, rel=1e-3)
    assert all(step.norm <= limit * 1.001 for step in steps)
    for clipped, before in zip(steps[0].gradients, free[0].gradients, strict=True):
        torch.testing.assert_close(clipped, before / 4, rtol=1e-3, atol=1e-9)
    steps.clear()
    run(small, tmp_path / "wide", replace(ONE, clip_gradient=100 * max(step.norm for step in free)))
    assert [step.norm for step in steps] == [step.norm for step in free]


def test_rates_grow_in_the_warm_up_and_the_backbone_has_its_own(
    small: Small, tmp_path: Path, steps: list[Step]
) -> None:
    run(small, tmp_path, replace(ONE, backbone_rate=1e-5, warmup=3))
    full = [loop.learning_rate(share, 0) for share in (1e-5, 1e-3)]
    assert len(steps) > 3
    for number, step in enumerate(steps, 1):
        assert step.rates == pytest.approx([rate * min(1, number / 3) for rate in full])


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_backbone_computes_in_the_precision_asked_and_weights_stay_float32(
    small: Small,
    whole: FinetuneResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[Step],
    precision: str,
    dtype: torch.dtype,
) -> None:
    real, seen = Network.maps, set()

    def watched(self: Network, pixels: Tensor) -> list[Tensor]:
        maps = real(self, pixels)
        seen.update((self.bias.dtype, self.backbone_parameters[0].dtype, group.dtype) for group in maps)
        return maps

    monkeypatch.setattr(Network, "maps", watched)
    result = run(small, tmp_path, replace(SETTINGS, precision=precision, validation_fraction=0.01))
    assert seen == {(torch.float32, torch.float32, dtype)}
    assert {gradient.dtype for step in steps for gradient in step.gradients} == {torch.float32}
    assert result.losses == pytest.approx(whole.losses, rel=0.1)


def test_betas_on_disk_change_nothing(
    small: Small,
    whole: FinetuneResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(trials, "BETA_COLUMNS", 7)  # the test should cross blocks
    with caplog.at_level(logging.INFO, logger="boldreams"):
        on_disk = finetune(source_of(small, tmp_path), SETTINGS, Process(CPU), 1000, StopFlag())
    assert "put into a file" in caplog.text
    assert_same(on_disk, whole)


def test_the_validation_loss_is_that_of_the_held_out_images(small: Small, tmp_path: Path) -> None:
    result = run(small, tmp_path, replace(ONE, validation_fraction=0.3))
    betas, image_ids, columns = betas_and_images(small)
    images = small.responses.train_images
    chosen = np.isin(image_ids, images[hold_out(images, 0.3, 0)])
    full = FullModel.rebuild(result.model, CPU)
    with torch.inference_mode():
        predicted = full(pixels_of(result, image_ids).float() / 255)[:, columns]
    errors = (predicted - betas).square().mean(1)
    assert result.validation == pytest.approx([float(errors[chosen].mean())], rel=1e-4)
    assert float(errors[~chosen].mean()) != pytest.approx(result.validation[0], rel=1e-2)


@pytest.mark.parametrize(("key", "epoch"), [("of another model", 1), (None, 2)])
def test_the_best_epoch_of_another_training_is_refused(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, epoch: int
) -> None:
    settings = replace(SETTINGS, epochs=3, validation_fraction=0.3)
    curve = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(loop.Trainer, "_validate", lambda self: next(curve))
    with pytest.raises(StoppedError, match="epoch 3"):
        run(small, tmp_path, settings, stop=StopAt(2 * steps_an_epoch(small, 0.3) + 1))
    (path,) = tmp_path.rglob(loop.BEST.format(1))
    own = key_of(path)
    note = read_note(path, own)
    assert note is not None
    write_checkpoint(path, key or own, note | {"epoch": epoch}, read_tensors(path))
    with pytest.raises(BoldreamsError, match="is missing; use --no-resume"):
        run(small, tmp_path, settings)
    assert [path.parent.name for path in tmp_path.rglob("spec.json")] == [loop.LAST]


def test_what_is_not_finite_is_not_kept_at_a_stop(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.learning_rate
    # The loss of the last step is finite, but not the weights that the step leaves.
    monkeypatch.setattr(loop, "learning_rate", lambda rate, epoch: real(rate, epoch) * (1e60 if epoch else 1))
    with pytest.raises(BoldreamsError, match="value of a weight is not finite in epoch 2, by batch 1"):
        run(small, tmp_path / "weights", stop=StopAt(steps_an_epoch(small) + 1))
    monkeypatch.setattr(loop, "learning_rate", lambda rate, epoch: real(rate, epoch) * (1e30 if epoch else 1))
    with pytest.raises(BoldreamsError, match="is not finite in epoch 2"):
        run(small, tmp_path / "loss", stop=StopAt(steps_an_epoch(small) + 2))
    monkeypatch.setattr(loop, "READ_STEPS", 2)
    with pytest.raises(BoldreamsError, match="is not finite in epoch 2, by batch 2"):
        run(small, tmp_path / "loss")
    kept = list(tmp_path.rglob(loop.CHECKPOINT))
    assert len(kept) == 2
    for path in kept:
        note = read_note(path, key_of(path))
        assert note is not None
        assert (note["epoch"], note["batch"]) == (1, 0)
        assert all(value.isfinite().all() for value in read_tensors(path).values())
