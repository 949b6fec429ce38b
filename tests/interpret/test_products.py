"""How products are kept: done, stopped, in the way of each other, killed half-way."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from boldreams_cli import locks
from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, StoppedError
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
    kept(product(tmp_path / "V1", 1), "one")
    before = contents(tmp_path)
    second = kept(product(tmp_path / "V1", 2), "two")
    folder = second["files"][0].parent
    assert folder.name == f"V1-{product(tmp_path / 'V1', 2).key[:6]}"
    assert before.items() <= contents(tmp_path).items()
    assert kept(product(tmp_path / "V1", 2), "again")["said"] == "two"
    shared = {"files": ("{stem}.txt",), "stem": "image", "own_folder": False}

    def write(folder: Path, stem: str) -> Description:
        (folder / f"{stem}.txt").write_text(stem)
        return {}

    paths = [product(tmp_path / "all", n, **shared).write(write)["files"][0].name for n in (1, 2)]
    assert paths == ["image.txt", f"image-{product(tmp_path / 'all', 2, **shared).key[:6]}.txt"]


@pytest.mark.parametrize("harm", ["changed", "missing", "truncated json"])
def test_a_damaged_product_is_made_again(tmp_path: Path, harm: str) -> None:
    kept(product(tmp_path / "dreams/V1"), "one")
    if harm == "changed":
        (tmp_path / "dreams/V1/b.txt").write_text("two")
    elif harm == "missing":
        (tmp_path / "dreams/V1/a.png").unlink()
    else:
        path = tmp_path / "dreams/V1/dream.json"
        path.write_text(path.read_text()[:40])
    assert "done" not in [item.state for item in find_products(tmp_path, checked=True)]
    again = kept(product(tmp_path / "dreams/V1"), "three")
    assert again["said"] == "three"
    assert all(path.is_file() for path in again["files"])


def test_files_of_others_are_never_touched(tmp_path: Path) -> None:
    chosen = tmp_path / "mine"
    chosen.mkdir()
    (chosen / "dream-diary.png").write_text("mine")
    kept(product(chosen, 1, chosen=True), "one")
    with pytest.raises(ChoiceError, match="--overwrite"):
        kept(product(chosen, 2, chosen=True), "two")
    assert (chosen / "b.txt").read_text() == "one"
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.txt").write_text("somebody's")
    for overwrite in (False, True):
        with pytest.raises(ChoiceError, match="not made by boldreams"):
            kept(product(other, 1, chosen=True), "one", overwrite=overwrite)
    assert contents(other) == {"b.txt": b"somebody's"}
    (tmp_path / "V1").mkdir()
    (tmp_path / "V1/b.txt").write_text("somebody's")
    assert kept(product(tmp_path / "V1"), "one")["files"][0].parent != tmp_path / "V1"
    assert contents(tmp_path / "V1") == {"b.txt": b"somebody's"}


def test_overwriting_deletes_what_the_old_one_listed_and_nothing_else(tmp_path: Path) -> None:
    kept(product(tmp_path, 1, chosen=True), "one")
    (tmp_path / "c.png").write_text("mine")

    def only_text(folder: Path, stem: str) -> Description:
        (folder / "b.txt").write_text("three")
        return {}

    fewer = product(tmp_path, 2, chosen=True, files=("b.txt",))
    with fewer.held(StopFlag()):
        fewer.write(only_text, overwrite=True)
    assert set(contents(tmp_path)) == {"b.txt", "dream.json", "c.png"}


def test_a_file_put_in_the_way_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    chosen = tmp_path / "mine"

    def slow(folder: Path, stem: str) -> Description:
        (chosen / "b.txt").write_text("somebody's")
        return make("one")(folder, stem)

    with pytest.raises(ChoiceError, match="not made by boldreams"), product(chosen, 1, chosen=True).held(StopFlag()):
        product(chosen, 1, chosen=True).write(slow)
    assert contents(chosen) == {"b.txt": b"somebody's"}


def test_what_was_stopped_lies_apart_until_it_is_finished(tmp_path: Path) -> None:
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


def killed_after(renames: int, one: Product) -> None:
    """Make a product in a process that is killed at a rename out of ``.making``."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        return
    rename, left = Path.replace, renames

    def replace(self: Path, target: Path) -> Path:
        nonlocal left
        if self.parent.name.startswith(".making"):
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return rename(self, target)

    Path.replace = replace  # type: ignore[method-assign]
    try:
        with one.held(StopFlag()):
            one.write(make("new"))
    finally:
        os._exit(1)


@pytest.mark.parametrize("renames", [1, 2, 3])  # the first writes the provenance file in .making
def test_a_kill_between_the_renames_is_made_good(tmp_path: Path, renames: int) -> None:
    old = product(tmp_path / "V1", 1)
    kept(old, "old")
    (tmp_path / "V1/b.txt").write_text("damaged, so that it is made again")
    killed_after(renames, old)
    assert list(tmp_path.glob("V1/.making-*"))
    with old.held(StopFlag()):
        found = old.found()
    assert found is not None
    assert (found["said"], (tmp_path / "V1/b.txt").read_text()) == ("new", "new")
    assert set(contents(tmp_path)) == {"V1/a.png", "V1/b.txt", "V1/dream.json"}


def test_a_kill_before_all_is_made_leaves_the_old_one(tmp_path: Path) -> None:
    old = product(tmp_path / "V1", 1)
    kept(old, "old")
    killed_after(0, old)
    with old.held(StopFlag()):
        found = old.found()
    assert found is not None
    assert found["said"] == "old"
    assert set(contents(tmp_path)) == {"V1/a.png", "V1/b.txt", "V1/dream.json"}


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    made: list[str] = []
    inside, refused = threading.Event(), threading.Event()

    def slow(folder: Path, stem: str) -> Description:
        inside.set()
        made.append("made")
        refused.wait(60)
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
    refused.set()
    for thread in threads:
        thread.join(10)
    assert made == ["made"]


def test_products_are_found_while_others_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of what is being made vanish between their listing and their reading."""
    kept(product(tmp_path / "dreams/V1"), "one")
    stopped = product(tmp_path / "dreams/V2")
    with stopped.held(StopFlag()):
        stopped.write_stopped(make("half"))
    making = tmp_path / "dreams/V3/.making-dream"
    making.mkdir(parents=True)
    real = os.scandir
    gone: list[str] = []

    def scandir(path: object = ".") -> object:
        if Path(str(path)).name.startswith((".making", stopped.stopped.name)):
            gone.append(Path(str(path)).name)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return real(path)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        assert [item.state for item in find_products(tmp_path)] == ["done"]
    assert gone == [stopped.stopped.name], "what is being made is not looked into"
    assert [item.state for item in find_products(tmp_path)] == ["done", "stopped"]


def test_a_product_that_is_replaced_while_it_is_looked_at_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = product(tmp_path / "dreams/V1", chosen=True)
    kept(one, "one")
    other = product(tmp_path / "dreams/V1", 2, files=("c.txt",), chosen=True)
    real, looks = products.described, []

    def described(folder: Path, stem: str) -> Description | None:
        found = real(folder, stem)
        looks.append(stem)
        if len(looks) == 1:
            monkeypatch.setattr(products, "described", real)
            with other.held(StopFlag()):
                other.write(lambda place, _: (place / "c.txt").write_text("c") and {}, overwrite=True)
        return found

    monkeypatch.setattr(products, "described", described)
    (found,) = find_products(tmp_path)
    assert (found.state, [path.name for path in found.files]) == ("done", ["c.txt"])
    (tmp_path / "dreams/V1/c.txt").unlink()
    assert [item.state for item in find_products(tmp_path)] == ["damaged"]


@pytest.mark.parametrize("when", ["before", "while it waits", "while it is made", "when it is stopped"])
def test_what_is_made_with_a_model_that_was_removed_leaves_nothing(tmp_path: Path, when: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "spec.json").write_text("{}")
    one = product(model / "dreams/V1", home=model)
    shutil.rmtree(model) if when == "before" else None

    def write(folder: Path, stem: str) -> Description:
        shutil.rmtree(model)
        folder.mkdir(parents=True)  # as writers of files do
        return make("late")(folder, stem)

    def begin() -> None:
        with one.held(StopFlag()):
            if when == "while it is made":
                one.write(write)
            shutil.rmtree(model)
            one.write_stopped(make("half")) if when == "when it is stopped" else one.write(make("whole"))

    with pytest.raises(BoldreamsError, match="was removed meanwhile"):
        begin()
    assert not model.exists()
    elsewhere = product(tmp_path / "mine/V1", home=model, chosen=True)
    assert kept(elsewhere, "one")["state"] == "done", "what was made before is not lost"


@pytest.mark.parametrize("number", locks.NO_FLOCK)
def test_a_file_system_without_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert kept(product(tmp_path / "V1"), "one")["state"] == "done"


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
