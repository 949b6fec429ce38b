"""Finetuning in the library, with a real AlexNet that sees 63 x 63 pixels: a thirteenth of the work."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, StopFlag, StoppedError
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.encoding import fit
from boldreams_cli.encoding.evaluation import score
from boldreams_cli.encoding.finetuning import loop
from boldreams_cli.encoding.finetuning.network import Network
from boldreams_cli.encoding.finetuning.processes import Process
from boldreams_cli.encoding.finetuning.run import FinetuneResult, finetune
from boldreams_cli.encoding.finetuning.settings import FinetuneSettings
from boldreams_cli.encoding.finetuning.start import load_start, prepare
from boldreams_cli.encoding.inputs.betas import hold_out
from boldreams_cli.encoding.inputs.pixels import ResizedImages, resized_images
from boldreams_cli.encoding.inputs.ranking import rank_filters, rank_images
from boldreams_cli.encoding.inputs.trials import ImageTrials
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.readouts.separable import AdamSettings, Separable
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.features import backbones
from tests.encoding.finetuned import CPU, GB, SETTINGS, Small, assert_same, extracted, run, source_of
from tests.stopping import StopAt


def test_gradients_are_autograds(small: Small, whole: FinetuneResult) -> None:
    spec, trials, voxels = whole.model.spec, 5, 9
    backbone = backbones.load("alexnet", "random")
    network = Network(backbone, spec, np.arange(voxels), 16, 3, CPU)
    network.width = 4  # the test should cross blocks of voxels
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (trials, 3, 63, 63), dtype=torch.uint8, generator=generator)
    betas = torch.randn(trials, voxels, generator=generator)
    loss = network(pixels, betas, 1 / betas.numel())
    loss.backward()
    found = {name: value.grad.clone() for name, value in network.named_parameters()}
    network.zero_grad()
    products = [
        torch.einsum("bac,av,cv->bv", maps, left, right)
        for maps, left, right in zip(network.maps(pixels), network.left, network.right, strict=True)
    ]
    plain = (torch.stack(products).sum(0) + network.bias - betas).square().mean()
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    assert float(network.error(pixels, betas)) == pytest.approx(plain.item() * betas.numel(), rel=1e-5)
    for name, value in network.named_parameters():
        torch.testing.assert_close(found[name], value.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_the_backbone_moves_and_only_when_it_is_finetuned(small: Small, whole: FinetuneResult, tmp_path: Path) -> None:
    start = backbones.load("alexnet", "random")
    moved = load_file(whole.model.folder / "backbone.safetensors")
    assert all(not torch.equal(moved[name], value) for name, value in start.network.state_dict().items())
    known = whole.model.spec.backbone_weights
    assert known["start"] == start.digest != known["digest"]
    assert whole.losses[-1] < whole.losses[0]
    cache = tmp_path / "frozen"
    frozen = fit.fit(
        small.store, small.responses, FitSettings(5.0), Separable(AdamSettings(epochs=1)), cache, CPU, GB, StopFlag()
    )
    assert not frozen.model.spec.finetuned
    assert not (frozen.model.folder / "backbone.safetensors").exists()
    rebuilt = FullModel.rebuild(frozen.model, CPU)
    assert rebuilt.backbone.digest == start.digest == frozen.model.spec.backbone_weights["digest"]


def test_a_finetuned_model_is_rebuilt_with_its_own_backbone(
    small: Small, whole: FinetuneResult, tmp_path: Path
) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(whole.model.folder, folder)
    full = FullModel.rebuild(FittedModel.load(folder), CPU, weights="no such file, and none is needed")
    assert full.backbone.digest == whole.model.spec.backbone_weights["digest"]
    state = load_file(folder / "backbone.safetensors")
    save_file({name: value * 2 for name, value in state.items()}, folder / "backbone.safetensors")
    with pytest.raises(MismatchError, match=r"not the file that spec.json belongs to"):
        FullModel.rebuild(FittedModel.load(folder), CPU)
    (folder / "backbone.safetensors").unlink()
    with pytest.raises(MismatchError, match="missing"):
        FullModel.rebuild(FittedModel.load(folder), CPU)


def test_finetuned_scores_above_frozen_on_a_brain_of_another_network(tmp_path: Path) -> None:
    from boldreams_cli.simulation.experiment import Experiment, write

    root, cache = tmp_path / "nsd", tmp_path / "cache"
    write(Experiment.small(subjects=1, images=105, shared=30, repeats=1, voxels=2, ncsnr=(2.0, 3.0), sample=40), root)
    responses = open_dataset(root).prepare(1, cache)
    small = Small(root, responses, extracted(root, responses, cache), cache)
    common = {"epochs": 5, "rate": 3e-3, "batch_size": 4}
    readout = Separable(AdamSettings(**common))
    frozen = fit.fit(small.store, responses, FitSettings(1.0), readout, cache, CPU, GB, StopFlag())
    settings = FinetuneSettings(1.0, **common, backbone_rate=3e-4)
    tuned = finetune(source_of(small, cache, None), settings, Process(CPU), GB, StopFlag())
    assert tuned.model.spec.layers == frozen.model.spec.layers
    assert tuned.losses[-1] < frozen.losses[-1]
    r = [np.nanmean(score.score(model, responses, cache, root, CPU, GB).r) for model in (frozen.model, tuned.model)]
    assert r[1] > r[0] + 0.03


def test_stopped_in_mid_epoch_and_resumed_is_the_same_bit_for_bit(
    small: Small, whole: FinetuneResult, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError, match=r"SIGTERM.*checkpoint at epoch 1, batch 2"):
        run(small, tmp_path, stop=StopAt(2))  # looked at once a step
    assert not list(tmp_path.rglob("backbone.safetensors")), "half a model is no model"
    rest = run(small, tmp_path)
    assert_same(rest, whole)
    assert not list(rest.model.folder.glob("checkpoint*"))


def test_killed_it_resumes_from_the_last_epoch(
    small: Small, whole: FinetuneResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = loop.Trainer._step, []

    def step(*arguments: Any) -> bool:
        at = arguments[1]
        calls.append((at.epoch, at.batch))
        if len(calls) == 6:
            raise KeyboardInterrupt  # as a kill: no handler of ours sees it
        return real(*arguments)

    monkeypatch.setattr(loop.Trainer, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        run(small, tmp_path)
    assert calls[-1] == (1, 1)
    rest = run(small, tmp_path)
    assert calls[6] == (1, 0)
    assert_same(rest, whole)


def test_a_finished_run_is_left_as_it_is(small: Small, whole: FinetuneResult, tmp_path: Path) -> None:
    cache = whole.model.folder.parents[3]
    before = (whole.model.folder / "spec.json").stat().st_mtime_ns
    again = run(small, cache)
    assert again.losses == pytest.approx(whole.losses)
    assert (whole.model.folder / "spec.json").stat().st_mtime_ns == before


def test_ranking_without_a_store_is_the_stores(small: Small, tmp_path: Path) -> None:
    dataset = open_dataset(small.root)
    shown = np.unique(small.responses.trial_images)
    backbone, held = load_start(small.cache, "alexnet", None, None, 0)
    assert [store.fingerprint for store in held] == [small.store.fingerprint]
    images = resized_images(tmp_path, dataset, backbone.entry.preprocessing, shown, StopFlag())
    order = rank_images(backbone, images, small.responses.train_images, StopFlag())
    expected = rank_filters(small.store, small.responses.train_images)
    assert all(np.array_equal(order[name], expected[name][0]) for name in backbone.layers)
    before = set(images.path.parent.glob("ranking-*"))
    images.content = "of other images, of which the fingerprint knows a sample"
    rank_images(backbone, images, small.responses.train_images, StopFlag())
    assert len(set(images.path.parent.glob("ranking-*")) - before) == 1
    backbone.rectified = not backbone.rectified  # as the maps, so their order: --map, normalisation, library
    rank_images(backbone, images, small.responses.train_images, StopFlag())
    assert len(set(images.path.parent.glob("ranking-*")) - before) == 2


def test_resized_stimuli_are_those_of_extract_and_kept(small: Small, tmp_path: Path) -> None:
    dataset, shown = open_dataset(small.root), np.unique(small.responses.trial_images)
    preprocessing = backbones.BACKBONES["alexnet"].preprocessing
    images = resized_images(tmp_path, dataset, preprocessing, shown, StopFlag())
    asked = shown[[5, 0, 5]]
    with dataset.stimuli() as stimuli:
        expected = preprocessing.resize(torch.from_numpy(stimuli.read(asked))).numpy()
    np.testing.assert_array_equal(images.read(asked), expected)
    np.testing.assert_array_equal(np.load(images.path, mmap_mode="r")[[5, 0, 5]], expected)
    written = images.path.stat().st_mtime_ns
    whole = images.path.read_bytes()
    images.path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    opened = ResizedImages(images.path)
    np.testing.assert_array_equal(opened.read(asked), expected)
    with pytest.raises(BoldreamsError, match="is damaged; delete it"):
        opened.read(shown[-1:])
    images.path.write_bytes(whole)
    os.utime(images.path, ns=(written, written))
    assert resized_images(tmp_path, dataset, preprocessing, shown, StopFlag()).path.stat().st_mtime_ns == written
    stopped = StopFlag()
    stopped.signal = signal.SIGTERM
    with pytest.raises(StoppedError):
        resized_images(tmp_path / "stopped", dataset, preprocessing, shown, stopped)
    assert not list((tmp_path / "stopped").rglob("*.npy"))


def test_resized_stimuli_are_made_anew_where_the_images_have_changed_and_only_then(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, file = tmp_path / "nsd", Path("nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5")
    root.mkdir()
    for entry in small.root.iterdir():
        if entry.name != file.parts[0]:
            (root / entry.name).symlink_to(entry)
    (root / file).parent.mkdir(parents=True)
    shutil.copy(small.root / file, root / file)
    dataset, shown = open_dataset(root), np.unique(small.responses.trial_images)[:20]
    preprocessing = backbones.BACKBONES["alexnet"].preprocessing

    def made() -> ResizedImages:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="boldreams"):
            return resized_images(tmp_path / "cache", dataset, preprocessing, shown, StopFlag())

    first = made()
    os.utime(root / file, ns=(1, 1))
    again = made()
    assert "are the same as before" in caplog.text
    assert (again.content, again.path.stat().st_mtime_ns) == (first.content, first.path.stat().st_mtime_ns)
    assert made().stamp == again.stamp == dataset.stimuli_stamp()
    assert "read again" not in caplog.text, "compared once"
    identity, before = dataset.stimuli_identity(), first.read(shown)
    for changed in range(len(shown)):
        with h5py.File(root / file, "r+") as stored:
            kept = stored["imgBrick"][shown[changed]]
            stored["imgBrick"][shown[changed]] = 255 - kept
        if dataset.stimuli_identity() == identity:
            break
        with h5py.File(root / file, "r+") as stored:
            stored["imgBrick"][shown[changed]] = kept
    anew = made()
    assert "have changed" in caplog.text
    assert anew.path == first.path
    assert anew.content != first.content
    with dataset.stimuli() as stimuli:
        expected = preprocessing.resize(torch.from_numpy(stimuli.read(shown))).numpy()
    np.testing.assert_array_equal(anew.read(shown), expected)
    assert [not np.array_equal(one, other) for one, other in zip(before, expected, strict=True)].index(True) == changed


def test_other_weights_than_the_stores_are_refused(small: Small, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="are not those"):
        load_start(small.cache, "alexnet", small.store.fingerprint, "random:5", 0)
    backbone, held = load_start(small.cache, "alexnet", None, "random:5", 0)
    assert not held
    assert backbone.weights == "random:5"


@pytest.mark.parametrize("fraction", [0.01, 0.3])
def test_validation_images_are_training_images_and_never_test_images(
    small: Small, tmp_path: Path, fraction: float
) -> None:
    start = prepare(source_of(small, tmp_path), SETTINGS, CPU, StopFlag())
    trials = ImageTrials(small.responses, start.images, fraction, 0, GB, tmp_path)
    held, kept = (set(trials.image_ids[chosen].tolist()) for chosen in (trials.held_out, trials.training))
    assert held
    assert not held & kept
    assert held | kept == set(small.responses.train_images.tolist())
    assert not (held | kept) & set(small.responses.test_images.tolist())
    assert len(trials.held_out) + len(trials.training) == int((~small.responses.trial_test).sum())
    images = small.responses.train_images
    assert np.array_equal(sorted(held), images[hold_out(images, fraction, 0)])
    with pytest.raises(ChoiceError, match="leaves none"):
        hold_out(np.arange(4), 0.99, 0)


def test_overwrite_starts_anew_and_goes_on_from_itself(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "boldreams")
    with pytest.raises(StoppedError):
        run(small, tmp_path, stop=StopAt(2))
    (checkpoint,) = tmp_path.rglob("checkpoint.safetensors")
    left = checkpoint.read_bytes()
    first = run(small, tmp_path)
    assert caplog.text.count("going on from") == 1
    checkpoint.write_bytes(left)  # as after a kill at the very end
    run(small, tmp_path)
    assert not checkpoint.exists()
    checkpoint.write_bytes(left)
    with pytest.raises(StoppedError):
        run(small, tmp_path, stop=StopAt(2), overwrite=True)
    assert caplog.text.count("going on from") == 1, "it starts anew"
    run(small, tmp_path)
    assert checkpoint.exists(), "a fit that finds itself done leaves what another has begun"
    assert_same(first, run(small, tmp_path, overwrite=True))
    assert caplog.text.count("going on from") == 2
    assert not [path for path in first.model.folder.iterdir() if path.name.startswith(("checkpoint", "fitting-again"))]


def test_the_epoch_with_the_best_validation_is_kept_and_training_ends_early(small: Small, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=30, rate=2e-2, backbone_rate=1e-3, validation_fraction=0.3, early_stop=2)
    with pytest.raises(StoppedError):
        run(small, tmp_path, settings, stop=StopAt(5))
    result = run(small, tmp_path, settings)
    assert len(result.validation) == len(result.losses) < 30
    assert result.best == int(np.argmin(result.validation)) == len(result.losses) - 3
    assert result.summary()["best_epoch"] == result.best + 1
    last = FittedModel.load(result.model.folder / "last")
    assert last.spec.backbone_weights["digest"] != result.model.spec.backbone_weights["digest"]
    assert_same(result, run(small, tmp_path / "whole", settings))
    with pytest.raises(ChoiceError, match="--validation-fraction"):
        replace(SETTINGS, early_stop=2).check()


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (replace(SETTINGS, rate=1e18), "loss"),
        (replace(SETTINGS, rate=1e18, clip_gradient=1.0), "loss|gradient"),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_training(
    small: Small, tmp_path: Path, settings: FinetuneSettings, what: str
) -> None:
    with pytest.raises(BoldreamsError, match=f"the ({what}|value of a weight) is not finite in epoch 1.*--warmup"):
        run(small, tmp_path, settings)
    assert not list(tmp_path.rglob("spec.json"))
    assert not list(tmp_path.rglob("checkpoint*"))


def test_batch_norm_statistics_are_frozen_unless_asked(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_norm(build: Callable[[], torch.nn.Sequential]) -> torch.nn.Sequential:
        stages = build()
        norm = torch.nn.BatchNorm2d(64)
        stages.features[0] = torch.nn.Sequential(stages.features[0], norm)
        return stages

    plain = backbones.BACKBONES["alexnet"]
    normed = replace(plain, stages=lambda: with_norm(plain.stages))
    monkeypatch.setitem(backbones.BACKBONES, "alexnet", normed)
    settings = replace(SETTINGS, epochs=1)
    for kind in ("frozen", "train"):
        result = run(small, tmp_path / kind, replace(settings, batch_norm=kind))
        moved = load_file(result.model.folder / "backbone.safetensors")
        assert bool((moved["features.0.1.running_mean"] == 0).all()) == (kind == "frozen")
        assert not torch.equal(moved["features.0.1.weight"], torch.ones(64))
    with pytest.raises(ChoiceError, match="--batch-norm train"):
        run(small, tmp_path, replace(settings, batch_norm="train"), micro_batch=2)
