"""Fits over damaged models and checkpoints, with another memory in between, and two at once."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from boldreams_cli.console import StoppedError
from boldreams_cli.encoding.model.folder import find_models, remove, resolve
from boldreams_cli.encoding.readouts import separable
from boldreams_cli.encoding.spans import Spans
from tests.stopping import StopAt

from .conftest import Ready
from .test_fitting import run

LITTLE = 500_000  # voxels in several spans, maps in a file


@pytest.mark.parametrize("damage", ["weights", "other format", "no JSON"])
def test_a_damaged_model_is_fitted_again(ready: Ready, tmp_path: Path, damage: str) -> None:
    model = run(ready, tmp_path).model
    spec = model.folder / "spec.json"
    if damage == "weights":
        with (model.folder / "weights.safetensors").open("ab") as stream:
            stream.write(b"x")
    else:
        spec.write_text(json.dumps(json.loads(spec.read_text()) | {"format": 99}) if damage == "other format" else "{")
        assert not find_models(tmp_path)
    again = run(ready, tmp_path).model
    assert again.folder == model.folder
    assert again.spec.weights_digest == model.spec.weights_digest


def test_another_memory_in_between_and_a_damaged_span(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(separable, "INNER_BYTES", 2**15)  # blocks of 64 voxels
    whole = run(ready, tmp_path / "whole", memory=LITTLE).model
    with pytest.raises(StoppedError):
        run(ready, tmp_path / "parts", memory=LITTLE, stop=StopAt(20))
    solved = sorted((tmp_path / "parts").rglob("solved-*.safetensors"))
    assert solved
    content = bytearray(solved[0].read_bytes())
    content[-5] ^= 1
    solved[0].write_bytes(content)
    rest = run(ready, tmp_path / "parts").model
    for name, values in whole.weights.fields.items():
        torch.testing.assert_close(rest.weights.fields[name], values, rtol=0, atol=0)
    torch.testing.assert_close(rest.weights.bias, whole.weights.bias, rtol=0, atol=0)


def killed_at_the_end(ready: Ready, cache: Path, **more: object) -> Path:
    """A fit that ends when its spec is written, as by a kill."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spans, "discard", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(ready, cache, **more)  # type: ignore[arg-type]
    (row,) = find_models(cache)
    assert list(row.folder.glob("spans/solved-*"))
    return row.folder


def test_what_a_kill_leaves_beside_a_finished_model_goes(ready: Ready, tmp_path: Path) -> None:
    folder = killed_at_the_end(ready, tmp_path)
    (folder / "checkpoint.safetensors").write_bytes(b"of another kind of fit")
    before = (folder / "weights.safetensors").read_bytes()
    run(ready, tmp_path)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(("spans", "checkpoint"))]
    assert (folder / "weights.safetensors").read_bytes() == before


def test_overwrite_starts_anew_and_goes_on_from_itself(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(separable, "INNER_BYTES", 2**15)
    solved: list[int] = []
    real = separable.Separable.solve
    monkeypatch.setattr(
        separable.Separable, "solve", lambda self, problem, *rest: (solved.append(1), real(self, problem, *rest))[1]
    )
    folder = killed_at_the_end(ready, tmp_path, memory=LITTLE)
    spans = len(solved)
    assert spans > 1
    solved.clear()
    with pytest.raises(StoppedError):
        run(ready, tmp_path, memory=LITTLE, stop=StopAt(20), overwrite=True)
    done = len(list(folder.glob("spans/solved-*")))
    assert 0 < done < spans, "from the beginning"
    run(ready, tmp_path, memory=LITTLE)
    assert len(list(folder.glob("spans/solved-*"))) == done, "a fit that finds itself done leaves it"
    solved.clear()
    run(ready, tmp_path, memory=LITTLE, overwrite=True)
    assert len(solved) == spans - done, "the same command goes on"
    assert not {"spans", "fitting-again"} & {path.name for path in folder.iterdir()}
    solved.clear()
    killed_at_the_end(ready, tmp_path, memory=LITTLE, overwrite=True)
    assert len(solved) == spans
    run(ready, tmp_path, memory=LITTLE, overwrite=True)
    assert len(solved) == 2 * spans, "of a kill at the end nothing is taken for new"


def test_two_at_once_make_one_model_and_it_can_be_named_and_removed(ready: Ready, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: run(ready, tmp_path).model, range(2))
    assert one.spec.weights_digest == other.spec.weights_digest
    (row,) = find_models(tmp_path)
    for text in (str(row.folder), row.folder.name, "percent-10", "alexnet/percent-10-p", "subj01/alexnet/percent"):
        assert resolve(tmp_path, text) == row.folder
    remove(row.folder)
    assert not find_models(tmp_path)
