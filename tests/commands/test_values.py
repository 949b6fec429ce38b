"""What is typed and makes no sense is refused before anything is computed, and it is said what would make sense."""

import re
import shlex
from pathlib import Path

import click
import pytest

from boldreams_cli.cli import COMMANDS, load
from boldreams_cli.commands.options.environment import ShellOption, long_name
from boldreams_cli.commands.sweep import _numbers
from boldreams_cli.console import ChoiceError
from boldreams_cli.interpret.words import vocabulary

from ..conftest import Run
from .conftest import listing

OPTIONS = {
    f"{name} --{long_name(parameter)}": parameter
    for name in COMMANDS
    for parameter in load(name).params
    if isinstance(parameter, ShellOption)
}


def named(*options: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("parameter", [pytest.param(OPTIONS[name], id=name) for name in options])


@named(*(name for name, option in OPTIONS.items() if isinstance(option.type, click.types.FloatParamType)))
def test_numbers_are_finite(parameter: ShellOption) -> None:
    for text in ("nan", "inf", "1e999"):
        with pytest.raises(click.BadParameter):
            parameter.type.convert(text, parameter, None)


@named(*(name for name in OPTIONS if name.endswith("seed")))
def test_seeds_are_ones_that_every_generator_takes(parameter: ShellOption) -> None:
    with pytest.raises(click.BadParameter):
        parameter.type.convert(str(2**64), parameter, None)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_options_with_what_they_are(name: str) -> None:
    command = load(name)
    said = command.get_help(command.make_context(name, ["--help"], resilient_parsing=True))
    arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
    alone = [line.strip() for line in said.splitlines()]
    assert not set(arguments) & set(alone), "an argument is no option; what it is stands in the text"
    for argument in arguments:
        assert re.search(rf"\b{argument.strip('[].')}\b", said.split("Options:")[0].split("Data, machine")[0])
    assert "BEST:" not in said, "what is typed is written as it is typed"
    assert " TEXT  " not in said.replace("--prompt TEXT", "").replace("--caption TEXT", "")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["prepare", "--subject", "seven"], 2, "give its file with --data FILE, or a number as 1, 01 or subj01"),
        (["info", "--rois", "seven"], 2, "give its file with --data FILE, or a number as 1, 01 or subj01"),
        (["extract", "--backbone", "alexnet", "--subject", "seven"], 2, "or a number as 1, 01 or subj01"),
        (["sweep", "--backbone", "alexnet", "--subject", "1,9"], 2, "no betas of subject 9; there: 1, 2 (--subject)"),
        (["sweep", "--backbone", "alexnet", "--subject", "seven"], 2, "no betas of subject seven; there: 1, 2"),
        (["fit", "--subject", 1, "--percent"], 2, "see boldreams fit --help"),
        (["dream", "--roi", "V1", "--lr", "nan"], 2, "'nan' is no finite number"),
        (["wordcloud", "--roi", "FFA1"], 2, "did you mean FFA-1?"),
        (["wordcloud", "--roi", "MST"], 2, "run boldreams dream --roi MST"),
        (["wordcloud", "--image", "nowhere.jpg"], 2, "nowhere.jpg"),
        (["wordcloud", "--image", 1, "--prompt", "nothing"], 2, "no place for the word"),
        (["wordcloud", "--image", 1, "--vocabulary", "imagenet", "--clip", "RN50"], 2, "--clip does not apply"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_fetched(
    run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], code: int, says: str
) -> None:
    def fetched(*_: object) -> None:
        raise AssertionError("the corpus was asked for")

    monkeypatch.setattr(vocabulary, "brown", fetched)
    before = listing(cache)
    done = run(*arguments, code=code, BOLDREAMS_CACHE=cache)
    assert says in done.err
    assert not done.out
    assert done.err.count("\n") == 1, done.err
    assert listing(cache) == before


def test_a_store_that_is_not_there_is_told_from_those_that_are(run: Run, cache: Path) -> None:
    fingerprint = next((cache / "features").glob("*.zarr")).stem.rsplit("-", 1)[1]
    done = run("fit", "--subject", 1, "--backbone", "alexnet", "--features", "0123", "--cache", cache, code=3)
    assert "no store 0123 of alexnet" in done.err
    assert f"there: {fingerprint} (--features)" in done.err


def test_a_sweep_of_nothing_says_what_is_missing(run: Run, tmp_path: Path) -> None:
    done = run("sweep", "--cache", tmp_path, code=2, BOLDREAMS_NSD_ROOT="")
    assert "--nsd-root DIR or --data FILE" in done.err
    assert not list(tmp_path.iterdir())


def test_what_is_to_be_typed_can_be_pasted(run: Run, own: Path) -> None:
    home = own.rename(own.parent / "my cache (of now)")
    done = run("wordcloud", "--roi", "MST", "--vocabulary", "imagenet", "--cache", home, code=2)
    words = shlex.split(re.search(r"run (boldreams dream .*) first", done.err)[1])
    assert words[:-1] == ["boldreams", "dream", "--cache", str(home), "--roi", "MST", "--model"]
    assert (Path(words[-1]) / "spec.json").is_file()


def test_models_are_told_apart_by_all_selectors(run: Run, own: Path) -> None:
    run("fit", "--percent", 10, "--subject", 1, "--cache", own, "--epochs", 3, "--lr", "1e-3", "--rf", "layer")
    done = run("score", "--cache", own, code=2)
    assert "--rf" in done.err
    run("score", "--cache", own, "--rf", "shared")


@pytest.mark.parametrize("text", ["0-999999999999999", "999999999999999", "2", "1-0", "0-2", "-1", "", "x"])
def test_cells_that_a_study_lacks_are_refused(text: str) -> None:
    with pytest.raises(ChoiceError):
        _numbers(text, 2)
