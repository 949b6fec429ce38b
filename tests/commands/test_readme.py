"""README's commands on the Natural Scenes Dataset, as typed, on the made-up experiment."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ..conftest import Run

PAGE = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
# What a reader's machine has and this one has not: downloaded weights, time.
INSTEAD = {
    "BOLDREAMS_EPOCHS": 1,
    "BOLDREAMS_DREAM_STEPS": 2,
    "BOLDREAMS_DREAM_COUNT": 1,
    "BOLDREAMS_ATTRIBUTE_STEPS": 4,
    "BOLDREAMS_WORDCLOUD_VOCABULARY": "imagenet",
}


def test_the_section_works_as_typed(
    run: Run, weights: Path, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = PAGE.split("## On the Natural Scenes Dataset")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    exported, *lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert exported[1].startswith("BOLDREAMS_NSD_ROOT=")
    names = [name for _, name, *_ in lines]
    assert names == ["extract", "fit", "score", "dream", "attribute", "wordcloud"]
    monkeypatch.chdir(tmp_path)
    given = INSTEAD | {"BOLDREAMS_WEIGHTS": weights, "BOLDREAMS_WORDCLOUD_WEIGHTS": weights}
    made = {name: run(name, *words, "--json", **given).json for (_, name, *words) in lines}
    (model,) = tmp_path.glob("cache/models/subj01/alexnet/percent-10-paper-*")
    assert made["score"]["model"] == str(model.relative_to(tmp_path))
    for files in (made["dream"]["images"], made["attribute"]["results"][0]["files"], made["wordcloud"]["files"]):
        assert files
        assert all((tmp_path / file).is_file() for file in files)


def test_the_table_has_every_command() -> None:
    from boldreams_cli.cli import COMMANDS

    assert set(re.findall(r"^\| `([a-z]+)` \|", PAGE.split("## Backbones")[0], re.MULTILINE)) == set(COMMANDS)
