"""`boldreams fit --folds` as a user types it: beside the model, stopped by a signal, refused with --finetune."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from safetensors.numpy import load_file

from ..conftest import COMMAND, Run

FIT = ("fit", "--percent", 10, "--subject", 1, "--epochs", 3, "--lr", "1e-3")


def test_predictions_lie_beside_the_model_which_stays(run: Run, own: Path) -> None:
    before = run(*FIT, "--cache", own, "--json").json
    assert "folds" not in before
    weights = Path(before["model"], "weights.safetensors").read_bytes()
    done = run(*FIT, "--cache", own, "--folds", 3, "--json")
    assert {name: value for name, value in done.json.items() if name not in ("folds", "seconds")} == {
        name: value for name, value in before.items() if name != "seconds"
    }
    assert done.json["folds"]["folds"] == 3
    stored = load_file(done.json["folds"]["file"])
    assert stored["betas"].shape[0] == len(stored["images"]) == len(stored["fold"]) == done.json["folds"]["images"]
    assert set(stored["fold"]) == {1, 2, 3}
    assert Path(before["model"], "weights.safetensors").read_bytes() == weights
    assert "3 folds: predictions of" in run(*FIT, "--cache", own, "--folds", 3).out
    alone = run(*FIT, "--cache", own, "--json").json
    assert "folds" not in alone


def test_stopped_by_a_signal_it_goes_on_with_what_is_done(run: Run, own: Path, experiment: Path) -> None:
    (model,) = own.glob("models/subj01/alexnet/percent-10-paper-*")
    asked = [*FIT, "--cache", own, "--folds", 2, "--epochs", 80, "--json"]
    values = {key: value for key, value in os.environ.items() if not key.startswith("BOLDREAMS_")}
    values |= {"BOLDREAMS_NSD_ROOT": str(experiment), "BOLDREAMS_DEVICE": "cpu"}
    process = subprocess.Popen([COMMAND, *map(str, asked)], env=values, stderr=subprocess.PIPE, text=True)
    while not (first := list(model.parent.glob("percent-10-paper-*/folds-2/fold-1.safetensors"))):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75, said
    assert "run the same command to go on" in said
    work = first[0].parent
    assert not work.with_suffix(".json").exists()
    done = run(*asked)
    assert "fold 1 of 2" not in done.err
    assert "fold 2 of 2" in done.err
    assert not work.exists()
    known = json.loads(work.with_suffix(".json").read_text())
    assert [one["fold"] for one in known["folds"]] == [1, 2]


def test_refused(run: Run, cache: Path) -> None:
    refused = run(*FIT, "--cache", cache, "--folds", 3, "--finetune", code=2)
    assert "leave out --finetune, or --folds" in refused.err
    assert "--folds" in run(*FIT, "--cache", cache, "--folds", 1, code=2).err
    assert "training images, not 999" in run(*FIT, "--cache", cache, "--folds", 999, code=2).err
