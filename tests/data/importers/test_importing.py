"""What holds of every importer: all that it must find, whole files or none, one line of what is wrong."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from boldreams_cli.console import ChoiceError
from boldreams_cli.data import importers
from boldreams_cli.data.importing import recording
from boldreams_cli.data.importing.finding import Pictures, held_out
from boldreams_cli.data.importing.recording import Asked
from tests.conftest import Run

from .miniatures import MAKERS, Miniature, algonauts2023, bold5000, draw

Maker = Callable[[Path], Miniature]


@pytest.fixture(scope="module", params=MAKERS, ids=lambda maker: maker.__name__)
def mini(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return request.param(tmp_path_factory.mktemp("mini") / "source")


def typed(mini: Miniature, output: Path, *more: object) -> tuple[object, ...]:
    return ("import", mini.dataset, mini.source, "--output", output, *mini.options, *more)


def shown(file: h5py.File) -> list[str]:
    """The file of the picture of each trial."""
    return [Path(file["images/path"].asstr()[i]).name for i in file["trial/image"][:]]


def test_every_importer_has_a_miniature() -> None:
    assert importers.names() == sorted(maker.__name__ for maker in MAKERS)
    assert all(importers.load(name).title for name in importers.names())


def test_the_new_file_holds_what_the_data_set_holds(run: Run, mini: Miniature, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in mini.source.rglob("*")}
    result = run(*typed(mini, tmp_path / "new.h5", "--json")).json
    with h5py.File(tmp_path / "new.h5") as file:
        assert file.attrs["subject"] == mini.subject == result["subject"]
        assert file["betas"].dtype == np.float32
        np.testing.assert_array_equal(file["betas"][:], mini.betas)
        assert shown(file) == mini.shown
        if mini.test.any():
            np.testing.assert_array_equal(file["trial/test"][:], mini.test)
        for path in file["images/path"].asstr()[:]:
            assert (tmp_path / path).is_file()
        assert result["test"]["trials"] == file["trial/test"][:].sum() > 0
        assert result["train"]["trials"] + result["test"]["trials"] == len(mini.shown)
        assert result["units"] == mini.betas.shape[1]
        assert result["rois"] == {name: int(area[:].sum()) for name, area in file["areas"].items()}
        assert all(result["rois"].values())
        spanned = {"algonauts2023": 8.4, "things": 10, "bold5000": 4.6, "mosaic": 8.4}.get(mini.dataset)
        assert (float(file["degrees"][()]) if "degrees" in file else None) == spanned
    assert {path: path.stat().st_mtime_ns for path in mini.source.rglob("*")} == before, "the source is only read"
    assert [path.name for path in tmp_path.iterdir()] == ["new.h5"]


def test_blocks_of_betas_change_nothing(
    run: Run, mini: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "BLOCK_BYTES", 4 * 3 * mini.betas.shape[1])
    run(*typed(mini, tmp_path / "new.h5"))
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["betas"][:], mini.betas)
    given = dict(zip(mini.options[::2], map(str, mini.options[1::2]), strict=True))
    template = Path(given["--template"]) if "--template" in given else None
    found = importers.load(mini.dataset).read(Asked(mini.source, given.get("--subject"), template=template))
    lengths = [len(block) for block in found.betas()]
    assert len(lengths) > 2, "never all betas in memory"
    assert max(lengths) <= 12
    assert sum(lengths) == len(mini.betas)


def test_a_file_that_is_there_stays(run: Run, mini: Miniature, tmp_path: Path) -> None:
    output = tmp_path / "new.h5"
    output.write_bytes(b"mine")
    done = run(*typed(mini, output), code=2)
    assert "--overwrite" in done.err
    assert done.err.count("\n") == 1
    assert output.read_bytes() == b"mine"
    run(*typed(mini, output, "--overwrite"))
    assert output.stat().st_size > 4


def test_missing_pictures_are_counted_and_named_in_one_line(run: Run, mini: Miniature, tmp_path: Path) -> None:
    if mini.dataset == "algonauts2023":
        pytest.skip("its pictures are the list of its trials")
    source = Path(shutil.copytree(mini.source, tmp_path / "source"))
    gone = mini.shown[-1]
    for path in source.rglob(gone):
        path.unlink()
    options = [str(option).replace(str(mini.source), str(source)) for option in mini.options]
    here = Miniature(mini.dataset, source, mini.subject, mini.betas, mini.shown, mini.test, options)
    done = run(*typed(here, tmp_path / "new.h5"), code=1)
    assert f"1 of {len(set(mini.shown))} pictures are not in {source}" in done.err
    assert Path(gone).stem in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "new.h5").exists()
    result = run(*typed(here, tmp_path / "new.h5", "--skip-missing", "--json")).json
    keep = np.array([name != gone for name in mini.shown])
    assert result["left_out"]["trials without a picture"] == (~keep).sum()
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["betas"][:], mini.betas[keep])
        assert shown(file) == [name for name in mini.shown if name != gone]
        np.testing.assert_array_equal(file["trial/test"][:], mini.test[keep])


def test_an_empty_source_is_one_line_with_what_was_looked_for(run: Run, mini: Miniature, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("import", mini.dataset, tmp_path / "empty", "--output", tmp_path / "new.h5", code=1)
    assert done.err.startswith("boldreams: no subject found; looked for ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "new.h5").exists()


def test_subjects_by_name_or_number(run: Run, mini: Miniature, tmp_path: Path) -> None:
    number = (*mini.options, "--subject", "01")
    run("import", mini.dataset, mini.source, "--output", tmp_path / "new.h5", *number, "--rename", "me")
    with h5py.File(tmp_path / "new.h5") as file:
        assert file.attrs["subject"] == "me"
        np.testing.assert_array_equal(file["betas"][:], mini.betas)
    done = run(*typed(mini, tmp_path / "other.h5", "--subject", "9"), code=2)
    assert "no subject '9'; there:" in done.err


def test_several_subjects_are_listed(run: Run, tmp_path: Path) -> None:
    mini = bold5000(tmp_path / "source")
    done = run("import", "bold5000", mini.source, "--output", tmp_path / "new.h5", code=2)
    assert done.err == "boldreams: choose a subject with --subject; there: CSI1, CSI2\n"


def test_options_that_mean_nothing_to_a_data_set_are_refused(run: Run, tmp_path: Path) -> None:
    mini = bold5000(tmp_path / "source")
    done = run(*typed(mini, tmp_path / "new.h5", "--hold-out", 20), code=2)
    assert "bold5000 takes no --hold-out" in done.err
    assert "choose from" not in run("import", "things", tmp_path, "-o", tmp_path / "x", code=1).err
    assert "did you mean things?" in run("import", "thing", tmp_path, "-o", tmp_path / "x", code=2).err


def test_pictures_elsewhere_and_paths_that_move_along(run: Run, tmp_path: Path) -> None:
    mini = bold5000(tmp_path / "source")
    pictures = tmp_path / "study/pictures"
    shutil.move(mini.source / "BOLD5000_Stimuli/Scene_Stimuli", pictures)
    run(*typed(mini, tmp_path / "study/new.h5", "--images", pictures))
    with h5py.File(tmp_path / "study/new.h5") as file:
        paths = file["images/path"].asstr()[:]
    assert all(not Path(path).is_absolute() for path in paths), "below the file's own folder"
    assert all("Presented_Stimuli" in path for path in paths), "not the originals of the same names"


def test_two_pictures_of_one_name_are_named(run: Run, tmp_path: Path) -> None:
    mini = bold5000(tmp_path / "source")
    draw([mini.source / f"BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli/more/{mini.shown[0]}"])
    done = run(*typed(mini, tmp_path / "new.h5"), code=2)
    assert f"may both be {mini.shown[0]}" in done.err
    assert not (tmp_path / "new.h5").exists()


def test_pictures_whose_names_differ_by_case_alone(tmp_path: Path) -> None:
    draw([tmp_path / "aB.png", tmp_path / "ab.png"])
    assert Pictures(tmp_path).find("aB.png") == tmp_path / "aB.png"
    assert Pictures(tmp_path).find("ab") == tmp_path / "ab.png"
    with pytest.raises(ChoiceError, match="may both be AB"):
        Pictures(tmp_path).find("AB.png")


def test_two_names_of_one_picture_are_one_image(run: Run, tmp_path: Path) -> None:
    """Else it would be held out under one name and trained on under the other."""
    mini = bold5000(tmp_path / "source")
    names = mini.source / "CSI1_imgnames.txt"
    lines = names.read_text().splitlines()
    once = next(name for name in lines if lines.count(name) == 1 and name.endswith(".jpg"))
    twice = next(name for name in lines if lines.count(name) == 1 and name != once)
    names.write_text("\n".join(lines).replace(twice, once.upper()) + "\n")
    run(*typed(mini, tmp_path / "new.h5"))
    with h5py.File(tmp_path / "new.h5") as file:
        assert len(file["images/name"]) == len(set(lines)) - 1
        assert len(set(file["images/path"].asstr()[:])) == len(set(lines)) - 1
        index = file["trial/image"][:]
    assert index[lines.index(once)] == index[lines.index(twice)]


def test_pictures_by_name_whatever_the_suffix(tmp_path: Path) -> None:
    draw([tmp_path / "a/n01518878_5958.JPEG", tmp_path / "b/0-2-4.jpg", tmp_path / "b/v1.5.png", tmp_path / "dog.png"])
    (tmp_path / "._dog.png").write_bytes(b"of the finder")
    pictures = Pictures(tmp_path)
    assert len(pictures) == 4
    for name in ("n01518878_5958", "N01518878_5958.jpeg", "0-2-4.mp4", "v1.5", "dog.jpg", "dog"):
        assert pictures.find(name) is not None, name
    for name in ("v1", "v1.5.6", "do", "cat.png"):
        assert pictures.find(name) is None, name


def test_the_commands_of_the_page_run(run: Run, tmp_path: Path) -> None:
    mini = bold5000(tmp_path / "source")
    page = (Path(__file__).resolve().parents[3] / "docs/importing.md").read_text(encoding="utf-8")
    lines = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[0].splitlines()
    assert [line.split()[:2] for line in lines] == [["boldreams", "import"], ["boldreams", "prepare"]]
    for line in lines:
        here = line.replace("/data/BOLD5000_Stimuli", "/data/BOLD5000/BOLD5000_Stimuli")
        here = here.replace("/data/BOLD5000", str(mini.source)).replace("CSI1.h5", str(tmp_path / "CSI1.h5"))
        run(*here.split()[1:], BOLDREAMS_CACHE=tmp_path / "cache")
    assert list((tmp_path / "cache/responses").iterdir())


@pytest.mark.parametrize("percent", [1, 10, 40, 99.9])
def test_images_are_held_out_by_their_names_alone(percent: float) -> None:
    names = [f"{i}.png" for i in range(50)]
    chosen = held_out(names, percent)
    assert len(chosen) == min(max(round(len(names) * percent / 100), 1), 49)
    assert chosen == held_out(names[::-1] + names, percent)
    assert chosen <= held_out(names, min(percent + 20, 99.9)), "a larger share holds the smaller one"


def test_hold_out_says_how_many(run: Run, tmp_path: Path) -> None:
    mini = algonauts2023(tmp_path / "source")
    few, many = (run(*typed(mini, tmp_path / f"{share}.h5", "--hold-out", share, "--json")).json for share in (10, 50))
    assert (few["test"]["images"], many["test"]["images"]) == (2, 10)
    assert few["train"]["images"] == 18
