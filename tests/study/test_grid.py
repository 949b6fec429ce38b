"""Which cells a grid has, from options and from a TOML file, and what is refused."""

import re
from pathlib import Path

import pytest

from boldreams_cli.commands.options.sweeps import AXES
from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.study.cells import grid as module
from boldreams_cli.study.cells.grid import PUBLISHED, Cell, make_grid, read_toml
from boldreams_cli.study.cells.manifest import Study

HERE = {"subject": (1,), "backbone": ("alexnet",)}


def test_every_combination_that_makes_sense_once() -> None:
    cells = make_grid(
        {
            "subject": (1, 2),
            "backbone": ("alexnet", "clip-text"),
            "percent": (10.0, 1.0, 10.0),
            "readout": ("separable", "ridge"),
            "recipe": ("paper", "fast"),
            "finetune": (False, True),
            "seed": (0, 1),
        }
    ).cells()
    assert len(cells) == len(set(cells))
    images = [cell for cell in cells if cell.backbone == "alexnet" and cell.subject == 1 and cell.seed == 0]
    kinds = {(cell.readout, cell.recipe, cell.finetune) for cell in images}
    assert kinds == {
        ("separable", "paper", False),
        ("separable", "paper", True),
        ("separable", "fast", False),
        ("ridge", None, False),
    }
    assert len(images) == 4 * 2
    text = [cell for cell in cells if cell.backbone == "clip-text"]
    assert {(cell.percent, cell.recipe, cell.finetune) for cell in text} == {(100.0, "paper", False)}
    assert [cell.subject for cell in cells] == sorted(cell.subject for cell in cells)


def test_the_defaults_are_the_papers() -> None:
    cells = make_grid(HERE).cells()
    assert [cell.percent for cell in cells] == list(PUBLISHED) == [1, 5, 10, 15, 20, 25, 50, 75, 100]
    assert cells[0] == Cell(1, "alexnet", 1.0, "separable", "paper", False, 0)


def test_the_key_is_of_what_decides_the_models() -> None:
    one = make_grid(HERE | {"epochs": 3})
    assert one.key == make_grid(HERE | {"epochs": 3, "lr": None}).key
    assert one.key != make_grid(HERE | {"epochs": 4}).key
    assert one.key != make_grid(HERE | {"epochs": 3, "seed": (1,)}).key


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        'name = "figure-2"\npercent = [1, 2.5]\nbackbone = "vgg11"\nfinetune = [false, true]\n'
        "[settings]\nepochs = 20\nbatch-size = 8\nbackbone_lr = 1e-5\n"
    )
    name, given = read_toml(path)
    assert name == "figure-2"
    grid = make_grid(given | {"subject": (3,), "percent": (5.0,)})
    assert (grid.percent, grid.backbone, grid.finetune) == ((5.0,), ("vgg11",), (False, True))
    assert grid.settings == {"epochs": 20, "batch_size": 8, "backbone_lr": 1e-5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("percentage = [1]", "no axis 'percentage'; axes: subject, backbone"),
        ("percent = [0]", "0.0 is no value of percent; write numbers above 0"),
        ("percent = [true]", "True is no value of percent"),
        ("finetune = [1]", "1 is no value of finetune; write true or false"),
        ("subject = [0]", "0 is no value of subject"),
        ("[settings]\nepoch = 1", "no setting epoch; settings: sessions"),
        ("percent = []", "the axis percent has no value"),
        ("percent = [1", "truncated or damaged"),
        ("name = 3", "name is a text"),
        ('finetune = true\nrecipe = "fast"', "no cell is left"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(BoldreamsError, match=said):
        make_grid(HERE | read_toml(path)[1]).cells()


def test_options_and_library_name_the_same() -> None:
    assert set(AXES) == module.axes().keys()


def test_a_name_belongs_to_one_grid(tmp_path: Path) -> None:
    grid = make_grid(HERE)
    study = Study.make(tmp_path, "mine", grid, None, "cpu", 10)
    study.save()
    assert Study.load(study.folder) == Study.load(study.path) == Study.make(tmp_path, "mine", grid, None, "cpu", 10)
    with pytest.raises(ChoiceError, match="another grid, of 9 cells"):
        Study.make(tmp_path, "mine", make_grid(HERE | {"seed": (1,)}), None, "cpu", 10)
    for bad in ("a/b", "..", ".hidden"):
        with pytest.raises(ChoiceError, match="no name of a study"):
            Study.make(tmp_path, bad, grid, None, "cpu", 10)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('epochs = "x"', "'x' is no value of epochs; write a whole number"),
        ("epochs = 2.5", "2.5 is no value of epochs"),
        ("epochs = true", "True is no value of epochs"),
        ('lr = "1e-3"', "'1e-3' is no value of lr; write a number"),
        ("sessions = 1", "1 is no value of sessions; write a text"),
        ("members = [1]", "[1] is no value of members; write a list of texts"),
        ("early-stop = [3]", "[3] is no value of early-stop"),
        ("memory = 3", "no setting memory"),
    ],
)
def test_settings_of_another_kind_are_refused_by_name(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(f"percent = [1]\n\n[settings]\n{line}\n")
    with pytest.raises(ChoiceError, match=re.escape(said)):
        make_grid(HERE | read_toml(path)[1])


def test_settings_of_a_file_are_as_options_give_them(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('[settings]\nlr = 1\nepochs = 3\nmembers = ["local", "layers"]\nsessions = "1-3"\nearly-stop = 2\n')
    expected = {"lr": 1.0, "epochs": 3, "members": ("local", "layers"), "sessions": "1-3", "early_stop": 2}
    assert read_toml(path)[1] == expected
    assert type(read_toml(path)[1]["lr"]) is float
