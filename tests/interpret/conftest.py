"""A small fitted model of random AlexNet weights, made once by the real commands, and readouts made by hand."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from boldreams_cli import cli, files
from boldreams_cli.data.prepared.preparing import complete_stores
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.inputs.layout import make_groups
from boldreams_cli.encoding.model.folder import find_models
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.encoding.model.spec import FittedModel, ModelSpec
from boldreams_cli.encoding.model.weights import ReadoutWeights
from boldreams_cli.features import backbones
from tests.fonts import cut_once

CPU = torch.device("cpu")


@dataclass
class Fitted:
    """An experiment, its cache, and the model fitted to it."""

    root: Path
    cache: Path
    model: FittedModel
    full: FullModel
    responses: Responses


def in_process(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    assert not stopped.value.code


@pytest.fixture(scope="package", autouse=True)
def fonts() -> Iterator[None]:
    with cut_once():
        yield


@pytest.fixture(scope="session")
def fitted(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    root, cache = experiment, tmp_path_factory.mktemp("interpret") / "cache"
    where = ["--cache", str(cache), "--nsd-root", str(root), "--subject", "1"]
    in_process("extract", "--backbone", "alexnet", "--weights", "random", *where)
    in_process("fit", "--percent", "10", "--epochs", "8", "--lr", "0.01", *where)
    shutil.copytree(cache, cache.with_name("as-made"))  # before tests dream with it
    model = FittedModel.load(find_models(cache)[0].folder)
    return Fitted(root, cache, model, FullModel.rebuild(model, CPU), Responses.open(complete_stores(cache, 1)[0]))


@pytest.fixture
def copied(fitted: Fitted, tmp_path: Path) -> Fitted:
    """The same in a place of its own, as it was made, for tests that damage something or count what is there."""
    cache = tmp_path / "cache"
    shutil.copytree(fitted.cache.with_name("as-made"), cache)
    return Fitted(fitted.root, cache, FittedModel.load(find_models(cache)[0].folder), fitted.full, fitted.responses)


@pytest.fixture
def only_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let nothing below a folder be written, as on a file system that is mounted to be read."""
    written_whole = files.written_whole

    def forbid(folder: Path) -> None:
        def written(path: Path) -> AbstractContextManager[Path]:
            if path.is_relative_to(folder):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return written_whole(path)

        monkeypatch.setattr(files, "written_whole", written)

    return forbid


def by_hand(
    backbone: backbones.Backbone, fields: dict[tuple[int, int], torch.Tensor], layers: dict[str, list[int]]
) -> FullModel:
    """A full model whose voxels have the fields given, (voxels, height, width) by resolution, and weights of 1."""
    size = backbone.entry.preprocessing.size
    with torch.inference_mode():
        shapes = {name: tuple(maps.shape[2:]) for name, maps in backbone(torch.zeros(1, 3, size, size)).items()}
    shapes = {name: shapes[name] for name in layers}
    voxels = len(next(iter(fields.values())))
    readout = ReadoutWeights(
        fields={f"{height}x{width}": fields[height, width] for height, width in set(shapes.values())},
        weights={name: torch.ones(voxels, len(chosen)) for name, chosen in layers.items()},
        bias=torch.zeros(voxels),
        voxels=np.stack([np.arange(voxels)] * 3, 1).astype(np.int32),
    )
    spec = ModelSpec(
        subject=1,
        backbone=backbone.entry.name,
        backbone_weights={"digest": backbone.digest, "source": "random"},
        preprocessing=backbone.entry.preprocessing.to_dict(),
        layers=layers,
        shapes=shapes,
        groups=make_groups(shapes, "shared"),
        percent=10,
        finetuned=False,
        readout="separable",
        store="",
        responses="",
        voxels=voxels,
        training={},
    )
    return FullModel(FittedModel(Path("none"), spec, readout), backbone).eval()
