"""Tasks of a job array that start together on an empty cache, some of them killed: one store, nothing lost."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from ..forked import Forked

EXTRACT = ("extract", "--backbone", "efficientnet_lite0", "--dtype", "float32", "--weights", "random")


def start(experiment: Path, cache: Path, *arguments: object) -> Forked:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BOLDREAMS_")}
    environment |= {"BOLDREAMS_NSD_ROOT": str(experiment), "BOLDREAMS_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    return Forked([*arguments, "--cache", cache], environment)


def finish(experiment: Path, cache: Path, *arguments: object) -> None:
    """Run a task to its end."""
    process = start(experiment, cache, *arguments)
    said = process.communicate()[1]
    assert process.returncode == 0, said


def by_image(cache: Path) -> dict[str, dict[int, bytes]]:
    """Array -> image -> its values, whatever the order of rows."""
    (store,) = (cache / "features").glob("*.zarr")
    images = zarr.open_array(store / "images", mode="r")[:]
    found = {}
    for path in sorted(store.glob("layers/*/*")):
        if path.name in ("maps", "mean"):
            values = zarr.open_array(path, mode="r")[:]
            assert len(values) == len(images)
            found[f"{path.parent.name}/{path.name}"] = {
                int(i): v.tobytes() for i, v in zip(images, values, strict=True)
            }
    return found


@pytest.fixture(scope="module")
def alone(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, bytes]]:
    cache = tmp_path_factory.mktemp("alone")
    finish(experiment, cache, *EXTRACT, "--batch-size", 4)
    return by_image(cache)


def test_tasks_that_start_together_make_what_one_makes(
    experiment: Path, tmp_path: Path, alone: dict[str, dict[int, bytes]]
) -> None:
    tasks = [(0, 2), (1, 2), (0, 1)]  # of two counts, so that units are shared
    running = [
        start(experiment, tmp_path, *EXTRACT, "--batch-size", 4, "--shard-index", i, "--shard-count", n)
        for i, n in tasks
    ]
    ledgers = tmp_path / "features"
    while not any('"kind": "maps"' in path.read_text() for path in ledgers.glob("*/ledger.jsonl")):
        assert any(process.poll() is None for process in running)
        time.sleep(0.02)
    running[0].kill()  # while all are at work
    said = [process.communicate()[1] for process in running]
    for process, text in zip(running[1:], said[1:], strict=True):
        assert process.returncode == 0, text
    finish(experiment, tmp_path, *EXTRACT, "--batch-size", 4)
    found = by_image(tmp_path)
    assert found.keys() == alone.keys()
    for name, values in alone.items():
        assert found[name] == values, name


def test_tasks_of_different_subjects_start_together(
    experiment: Path, tmp_path: Path, alone: dict[str, dict[int, bytes]]
) -> None:
    running = [start(experiment, tmp_path, *EXTRACT, "--batch-size", 4, "--subject", n) for n in (1, 2)]
    for process in running:
        text = process.communicate()[1]
        assert process.returncode == 0, text
    found = by_image(tmp_path)
    for name, values in alone.items():
        # Batches hold other images then, which moves the last bits.
        for image, one in values.items():
            np.testing.assert_allclose(np.frombuffer(found[name][image], "f4"), np.frombuffer(one, "f4"), atol=1e-4)
