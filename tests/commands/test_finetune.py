"""`boldreams fit --finetune` as a user runs it: killed, stopped, on two processes, and then scored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from safetensors.numpy import load_file

from tests import held
from tests.conftest import COMMAND, Run
from tests.forked import Forked

FIT = ["fit", "--finetune", "--weights", "random", "--subject", "1", "--sessions", "1", "--percent", "1"]
FIT += ["--batch-size", "7", "--json"]
Process = subprocess.Popen[str] | Forked
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # sums in the same order in all runs, two processes on two cores


def model(cache: Path) -> Path:
    """Folder of the one model in a cache, whole or under way."""
    (folder,) = (cache / "models/subj01/alexnet").glob("percent-1-paper-finetuned-??????")
    return folder


def wait_for_checkpoint(process: Process, cache: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(cache.glob("models/subj01/alexnet/*/checkpoint.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def environment(experiment: Path) -> dict[str, str]:
    values = {key: value for key, value in os.environ.items() if not key.startswith("BOLDREAMS_")}
    return values | {"BOLDREAMS_NSD_ROOT": str(experiment), "BOLDREAMS_DEVICE": "cpu"} | ONE_THREAD


def start(
    command: list[str], environment: dict[str, str], cache: Path, first: Callable[[], None] | None = None
) -> Process:
    """A command, the installed one in a process that is forked; `first` is called there before it."""
    environment = environment | {"BOLDREAMS_CACHE": str(cache)}
    if command[0] == str(COMMAND):
        return Forked(command[1:], environment, first)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def wait_for(process: Process, text: str) -> None:
    """Read stderr until it says `text`."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return
    pytest.fail(f"ended without saying {text!r}:\n{said}")


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of a run of two epochs that nothing has interrupted."""
    cache = tmp_path_factory.mktemp("whole")
    result = run(*FIT, "--epochs", 2, BOLDREAMS_CACHE=cache, **ONE_THREAD).json
    assert result["model"] == str(model(cache))
    assert result["epochs"] == len(result["train_loss"]) == 2
    assert result["filters"] == {f"features.{i}": n for i, n in ((2, 1), (5, 1), (7, 3), (9, 2), (12, 2))}
    return cache


def weights(cache: Path) -> dict[str, np.ndarray]:
    return load_file(model(cache) / "backbone.safetensors") | load_file(model(cache) / "weights.safetensors")


def test_killed_and_stopped_it_goes_on_to_the_same_weights(
    whole: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    command = [str(COMMAND), *FIT, "--epochs", "2"]
    killed = start(command, environment, tmp_path, held.in_the_second_epoch)
    wait_for_checkpoint(killed, tmp_path)
    killed.kill()
    killed.communicate()
    anew = f"from {held.__name__} import {held.in_the_second_epoch.__name__} as first; from boldreams_cli import cli; "
    stopped = start([sys.executable, "-c", f"{anew}first(); cli.main()", *FIT, "--epochs", "2"], environment, tmp_path)
    wait_for(stopped, "going on from")
    stopped.send_signal(signal.SIGTERM)
    out, err = stopped.communicate()
    assert (stopped.returncode, out) == (75, ""), err
    assert "stopped by SIGTERM: checkpoint at epoch 2" in err
    assert "run the same command to go on" in err
    rest = start(command, environment, tmp_path)
    assert "going on from" in rest.communicate()[1]
    assert rest.returncode == 0
    expected, found = weights(whole), weights(tmp_path)
    assert all(np.array_equal(found[name], value, equal_nan=True) for name, value in expected.items())


@pytest.mark.parametrize("launcher", ["--devices", "torchrun"])
def test_two_processes_train_what_one_does(
    whole: Path, environment: dict[str, str], tmp_path: Path, launcher: str
) -> None:
    command = [str(COMMAND), *FIT, "--epochs", "2", "--devices", "2"]
    if launcher == "torchrun":
        module = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [*module, "-m", "boldreams_cli.cli", *FIT, "--epochs", "2"]
        environment = environment | {"GLOO_SOCKET_IFNAME": "lo"}
    process = start(command, environment, tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.count("\n") == 1, "one process speaks"
    expected, found = weights(whole), weights(tmp_path)
    log = [np.loadtxt(model(cache) / "log.csv", delimiter=",", skiprows=1) for cache in (whole, tmp_path)]
    np.testing.assert_allclose(log[1], log[0], rtol=1e-5)
    for name, value in expected.items():
        # Adam divides by the gradient's size, so single weights may differ whose gradients are nearly zero. All
        # together they move by some percent; gradients that were not shared would differ by about as much.
        difference = np.linalg.norm((found[name] - value).ravel())
        assert difference <= 2e-3 * np.linalg.norm(value.ravel()), name


def test_two_processes_stop_together(environment: dict[str, str], tmp_path: Path) -> None:
    process = start([str(COMMAND), *FIT, "--epochs", "50", "--devices", "2"], environment, tmp_path)
    wait_for_checkpoint(process, tmp_path)
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate()
    assert (process.returncode, out) == (75, ""), err
    assert err.count("run the same command to go on") == 1


def test_score_and_predict_read_images(run: Run, whole: Path, photographs: list[Path]) -> None:
    cache = {"BOLDREAMS_CACHE": whole}
    scores = run("score", "--json", **cache).json
    assert scores["model"] == str(model(whole))
    assert scores["excluded"] == 0
    assert (model(whole) / "scores.json").exists()
    found = run("predict", "--finetune", "--image", "test", "--image", photographs[0], "--json", **cache).json
    with np.load(found["file"]) as arrays:
        assert arrays["betas"].shape == (len(found["images"]), scores["voxels"])
        assert np.isfinite(arrays["betas"]).all()


def test_dream_and_attribute_go_through_the_finetuned_network(run: Run, whole: Path) -> None:
    cache = {"BOLDREAMS_CACHE": whole}
    dreamt = run("dream", "--finetune", "--roi", "V1", "--steps", 2, "--count", 1, "--json", **cache).json
    predicted = run("predict", "--finetune", "--json", **cache).json
    areas = zarr.open_group(next((whole / "responses").glob("*.zarr")), mode="r")["rois"]
    with np.load(predicted["file"]) as arrays:
        visual = np.isin(np.asarray(areas["prf-visualrois"]), (1, 2))  # V1v, V1d
        mean = arrays["betas"][:, visual].mean(1)
    best = dreamt["best_natural"]["test"]
    assert best["image"] == predicted["images"][int(mean.argmax())]
    assert best["response"] == pytest.approx(float(mean.max()), rel=1e-3)
    shown = run("attribute", "--finetune", "--roi", "V1", "--count", 1, "--steps", 8, "--json", **cache).json
    assert shown["results"][0]["image"] == best["image"]
    assert shown["results"][0]["prediction"] == pytest.approx(best["response"], rel=1e-3)


def test_options_of_finetuning_are_refused_without_it(run: Run, tmp_path: Path) -> None:
    done = run("fit", "--subject", 1, "--warmup", 5, "--devices", 2, code=2, BOLDREAMS_CACHE=tmp_path)
    assert "only --finetune takes --warmup, --devices" in done.err
    done = run(*FIT, "--early-stop", 2, code=2, BOLDREAMS_CACHE=tmp_path)
    assert "--validation-fraction" in done.err
    done = run(*FIT, "--precision", "tf32", code=2, BOLDREAMS_CACHE=tmp_path)
    assert "needs a CUDA device" in done.err
