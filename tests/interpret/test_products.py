"""How products are kept: done, stopped, in the way of each other, killed half-way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from boldreams_cli.console import StopFlag, StoppedError
from boldreams_cli.interpret import products
from boldreams_cli.interpret.products import Description, Product, find_products, spelled


def product(folder: Path, setting: object = 1, **changes: object) -> Product:
    """A picture, a text and what it was made with."""
    asked = {"kind": "dream", "folder": folder, "stem": "dream", "files": ("a.png", "b.txt"), "own_folder": True}
    return Product(**(asked | {"decides": {"setting": setting}} | changes))  # type: ignore[arg-type]


def make(text: str) -> products.Make:
    def write(folder: Path, stem: str) -> Description:
        (folder / "a.png").write_bytes(b"picture " + text.encode())
        (folder / "b.txt").write_text(text)
        return {"said": text}

    return write


def kept(one: Product, text: str, **more: bool) -> Description:
    with one.held(StopFlag()):
        return one.found() or one.write(make(text), **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_names_are_safe_and_long_ones_stay_apart() -> None:
    assert spelled("FFA-1,OFA", "", "steps", 40) == "FFA-1,OFA-steps-40"
    assert spelled("../a b/c:d") == "_a_b_c_d"
    long = [spelled("area," * 60 + end) for end in ("V1", "V2")]
    assert long[0] != long[1]
    assert all(len(name.encode()) <= products.LONGEST for name in [*long, spelled("é" * 300)])


def test_what_is_done_is_found_and_not_made_again(tmp_path: Path) -> None:
    first = kept(product(tmp_path / "V1"), "one")
    assert (first["said"], first["state"], first["name"]) == ("one", "done", "V1")
    assert [path.name for path in first["files"]] == ["a.png", "b.txt"]
    before = contents(tmp_path)
    assert kept(product(tmp_path / "V1"), "two") == first
    assert contents(tmp_path) == before
    assert set(before) == {"V1/a.png", "V1/b.txt", "V1/dream.json"}, "no lock or partial file is left"


def test_another_setting_stands_beside_and_nothing_is_lost(tmp_path: Path) -> None:
    kept(product(tmp_path / "dreams/V1", 1), "one")
    before = contents(tmp_path)
    second = product(tmp_path / "dreams/V1", 2)
    with second.held(StopFlag()):
        second.write_stopped(make("half"))
    assert before.items() <= contents(tmp_path).items()
    assert second.found() is None
    found = {item.state: item for item in find_products(tmp_path)}
    assert set(found) == {"done", "stopped"}
    assert {path.name for path in found["stopped"].files} == {"a.png", "b.txt"}
    with second.held(StopFlag()):
        second.write(make("two"))
    assert [item.state for item in find_products(tmp_path)] == ["done", "done"]
    assert not list(tmp_path.rglob(".stopped"))


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path, stem: str) -> Description:
        (folder / "a.png").write_bytes(b"half")
        raise KeyboardInterrupt

    kept(product(tmp_path / "V1", 1), "one")
    before = contents(tmp_path)
    with pytest.raises(KeyboardInterrupt), product(tmp_path / "V1", 1).held(StopFlag()):
        product(tmp_path / "V1", 1).write(fail)
    assert contents(tmp_path) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.interpret.test_products import make, product
from boldreams_cli.console import StopFlag
steps = int(sys.argv[2])
rename = Path.replace
def replace(self, target):
    global steps
    if ".making" in str(self):
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.replace = replace
one = product(Path(sys.argv[1]) / "V1", 1)
with one.held(StopFlag()):
    one.write(make("new"))
"""


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_kill_between_the_renames_is_made_good(tmp_path: Path, renamed: int) -> None:
    old = product(tmp_path / "V1", 1)
    kept(old, "old")
    (tmp_path / "V1/b.txt").write_text("damaged, so that it is made again")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(renamed + 1)]  # its JSON is renamed in making first
    done = subprocess.run(arguments, env=environment, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    with old.held(StopFlag()):
        found = old.found()
    assert found is not None
    assert (found["said"], (tmp_path / "V1/b.txt").read_text()) == ("new", "new")
    assert set(contents(tmp_path)) == {"V1/a.png", "V1/b.txt", "V1/dream.json"}


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    made: list[str] = []
    inside = threading.Event()

    def slow(folder: Path, stem: str) -> Description:
        inside.set()
        made.append("made")
        threading.Event().wait(0.3)
        return make("one")(folder, stem)

    def once() -> None:
        one = product(tmp_path / "V1")
        with one.held(StopFlag()):
            if one.found() is None:
                one.write(slow)

    threads = [threading.Thread(target=once) for _ in range(3)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    stop = StopFlag()
    stop.signal = signal.SIGTERM
    with pytest.raises(StoppedError, match="another process"), product(tmp_path / "V1").held(stop):
        pass
    for thread in threads:
        thread.join(10)
    assert made == ["made"]


def test_names_in_a_provenance_file_cannot_lead_elsewhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    kept(product(tmp_path / "V1", 1), "one")
    path = tmp_path / "V1/dream.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"checksums": {"../outside.txt": "0"}}))
    again = product(tmp_path / "V1", 1, files=("c.txt",))
    with again.held(StopFlag()):
        again.write(lambda folder, stem: (folder / "c.txt").write_text("c") and {})
    assert outside.read_text() == "mine"
