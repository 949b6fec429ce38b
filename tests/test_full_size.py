"""The rehearsal at full size: its subject has NSD's shapes, stopped steps go on, ratios are right."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks import full_baselines, full_size, full_subject
from benchmarks.full_size import Rehearsal, Step, all_steps, chosen_steps
from benchmarks.full_subject import Size
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.stimuli import Stimuli


def test_the_subject_is_of_nsds_size() -> None:
    size = Size()
    assert (size.trials, size.images, size.grid) == (750, 9841, (81, 104, 83))
    assert len(size.drawn().area) == pytest.approx(20_000, rel=1e-3)


@pytest.mark.parametrize("scale", [0.02, 0.3, 1.0])
def test_every_image_is_shown_once_to_three_times(scale: float) -> None:
    size = Size(scale)
    order, seen = size.order(), size.seen()
    assert len(order) == 37 * size.trials
    counts = np.bincount(order, minlength=size.images)
    assert counts.min() == 1
    assert counts.max() <= 3
    assert len(np.unique(seen)) == size.images
    assert (np.diff(seen[size.shared :]) > 0).all()


def test_images_are_halves_of_two_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_subject, "STIMULI", 25)
    layout, half = Layout(tmp_path), 425 // 2
    full_subject.write_stimuli(layout, 7)
    with h5py.File(layout.stimuli) as file:
        crops = file["crops"][:]
    with Stimuli(layout.stimuli) as stimuli:
        images = stimuli.read(range(len(stimuli)))
    assert len({image.tobytes() for image in images}) == 25
    for number, image in enumerate(images):
        shift = number // 7 * 53 % 7
        np.testing.assert_array_equal(image[:half], crops[number % 7][:half])
        np.testing.assert_array_equal(image[half:], crops[(number % 7 + shift) % 7][half:])


def test_steps_are_named_whole_or_by_their_beginning() -> None:
    names = [step.name for step in all_steps()]
    assert {"fit-local-10", "fit-local-100", "fit-paper-10", "score-ridge-100"} <= set(names)
    assert [step.name for step in chosen_steps("fit-local-10,prepare-h")] == ["prepare-hdf5", "fit-local-10"]
    assert len(chosen_steps("fit-local")) == 2
    assert [step.name for step in chosen_steps(None)] == names
    with pytest.raises(SystemExit, match="no step 'fits'"):
        chosen_steps("fits")


class Sleeper(Rehearsal):
    """Its steps take what they say, and leave when they are told to."""

    def command(self, step: Step) -> list[str]:
        program = (
            "import signal, sys, time\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
            'print(\'{"r_mean": 0.5, "rois": {}}\', flush=True)\n'
            f"time.sleep({step.command[0]})"
        )
        return [sys.executable, "-c", program]


def test_a_step_that_is_stopped_goes_on_and_its_times_add_up(tmp_path: Path) -> None:
    long, short = Step("long", ("30",)), Step("long", ("0",))
    rehearsal = Sleeper(tmp_path, 0.02, "random")
    assert not rehearsal.run(long, 4)
    first = rehearsal.done["long"]
    assert (first["finished"], first["status"], first["parts"]) == (False, 75, 1)
    again = Sleeper(tmp_path, 0.02, "random")
    assert again.run(short, 60)
    done = again.done["long"]
    assert done["finished"]
    assert done["parts"] == 2
    assert done["seconds"] > first["seconds"] > 1
    assert done["said"] == {"r_mean": 0.5}
    assert "in 2 parts, r_mean 0.500" in again.table()
    assert json.loads(again.file.read_text())["scale"] == 0.02
    with pytest.raises(SystemExit, match=r"is of scale 0\.02"):
        Rehearsal(tmp_path, 1.0, "random")


def test_what_a_step_made_goes_before_it_is_run_again(tmp_path: Path) -> None:
    rehearsal = Rehearsal(tmp_path / "here", 0.02, "random")
    made, foreign = rehearsal.cache / "models" / "m", tmp_path / "m"
    for folder in (made, foreign):
        folder.mkdir(parents=True)
        rehearsal.done["fit-ridge-10"] = {"said": {"model": str(folder)}}
        rehearsal.forget(Step("fit-ridge-10", ("fit",)))
    assert not made.exists()
    assert foreign.exists()
    rehearsal.forget(Step("rank", ("rank",)))  # never run


def test_a_command_that_does_not_stop_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_size, "GRACE", 0.2)
    rehearsal = Sleeper(tmp_path, 0.02, "random")
    monkeypatch.setattr(
        Sleeper,
        "command",
        lambda *_: ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"],
    )
    assert not rehearsal.run(Step("stubborn", ("-",)), 2)
    assert rehearsal.done["stubborn"]["status"] == -9


def test_ratios_are_of_what_is_done() -> None:
    def took(seconds: float, peak: float = 1e9, **said: float) -> dict[str, object]:
        return {"seconds": seconds, "peak": peak, "said": said}

    done = {
        "prepare-hdf5": took(30.0, 0.5e9),
        "baseline-bytes": took(99.0, read_seconds=20.0),
        "fit-local-100": took(1200.0, 5e9),
        "fit-ridge-10": took(50.0),
    }
    found = {what: (value, target) for what, value, target in full_baselines.ratios(done)}
    assert found["prepare from HDF5: its time to that of reading the files' bytes"] == (1.5, "at most 2")
    assert found["fit --readout local, 100 %: minutes"] == (20.0, "at most 40")
    assert not any("himalaya" in what for what in found), "it is not there"
    done["baseline-himalaya"] = took(80.0, fit_seconds=75.0, r=0.4)
    done["score-ridge-10"] = took(9.0, r_mean=0.401)
    found = {what: value for what, value, _ in full_baselines.ratios(done)}
    assert found["fit --readout ridge, 10 %: himalaya's time to its"] == 1.5
    assert found["fit --readout ridge, 10 %: r above himalaya's"] == pytest.approx(0.001)
