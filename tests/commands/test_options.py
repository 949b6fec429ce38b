"""What all commands share: variables and the command line, help, usage errors, signals, the log beside a bar."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import click
import pytest
import rich.progress
from rich.console import Console

from boldreams_cli.cli import COMMANDS, boldreams, load
from boldreams_cli.commands.options.environment import SEVERAL, SHARED, ShellCommand, ShellOption, long_name
from boldreams_cli.commands.options.output import Output, output_options
from boldreams_cli.console import SignalExit, _bar, meant
from tests.conftest import COMMAND, Run


def commands() -> dict[str, click.Command]:
    return {name: load(name) for name in COMMANDS}


def context(command: str, *arguments: str) -> dict[str, object]:
    """What the command would be called with."""
    return commands()[command].make_context(command, list(arguments)).params


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    command = commands()[name]
    assert isinstance(command, ShellCommand)
    assert command.help
    assert command.examples
    for line in command.examples:
        words = line.split()
        assert words[:2] == ["boldreams", name]
        options = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        assert {word for word in words if word.startswith("--")} <= options, line
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            continue
        assert isinstance(parameter, ShellOption)
        assert parameter.help, f"{name} --{long_name(parameter)}"
        assert parameter.help[0].isupper()
        assert not parameter.help.startswith("Of "), parameter.help
        assert parameter.help.endswith(".") or parameter.help.endswith(")"), parameter.help
    assert "BOLDREAMS_" in command.get_help(command.make_context(name, ["--help"], resilient_parsing=True))


def test_a_variable_of_several_commands_means_one_thing() -> None:
    """An option of several commands is said to be shared, or to be several things."""
    holders = defaultdict(set)
    for name, command in commands().items():
        for parameter in command.params:
            if isinstance(parameter, ShellOption):
                holders[long_name(parameter)].add(name)
    known = SHARED | SEVERAL.keys()
    assert not {option for option, names in holders.items() if len(names) > 1} - known
    assert not SHARED - holders.keys(), "named, but no command has it"
    assert all(set(owners) <= holders[option] for option, owners in SEVERAL.items())


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOLDREAMS_PERCENT", "5")
    monkeypatch.setenv("BOLDREAMS_EPOCHS", "7")
    assert (context("fit")["percent"], context("score")["percent"], context("fit")["epochs"]) == (5, 5, 7)
    monkeypatch.setenv("BOLDREAMS_FIT_PERCENT", "25")
    assert (context("fit")["percent"], context("score")["percent"]) == (25, 5), "the command's own variable first"
    assert context("fit", "--percent", "50")["percent"] == 50, "what is typed wins"
    monkeypatch.setenv("BOLDREAMS_DREAM_STEPS", "9")
    assert context("dream", "--roi", "V1")["steps"] == 9


@pytest.mark.parametrize(
    ("variable", "command", "option"),
    [
        ("BOLDREAMS_WEIGHTS", "wordcloud", "weights"),
        ("BOLDREAMS_WEIGHTS", "dream", "weights"),
        ("BOLDREAMS_STEPS", "dream", "steps"),
        ("BOLDREAMS_STEPS", "attribute", "steps"),
        ("BOLDREAMS_LR", "dream", "lr"),
        ("BOLDREAMS_OUTPUT", "predict", "file"),
        ("BOLDREAMS_ROI", "dream", "rois"),
    ],
)
def test_one_variable_is_not_read_for_several_things(
    monkeypatch: pytest.MonkeyPatch, variable: str, command: str, option: str
) -> None:
    arguments = ("--roi", "V1") if command == "attribute" else ()
    without = context(command, *arguments)[option]
    monkeypatch.setenv(variable, "3")
    assert context(command, *arguments)[option] == without


def test_what_is_typed_wins_over_variables_of_what_it_excludes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOLDREAMS_DREAM_ROI", "V1")
    assert context("dream")["rois"] == ("V1",)
    typed = context("dream", "--filter", "features.2:1")
    assert (typed["rois"], typed["filter_"]) == ((), "features.2:1")
    monkeypatch.setenv("BOLDREAMS_QUIET", "1")
    assert context("info")["quiet"]
    assert not context("info", "-v")["quiet"]


def test_variables_do_not_defeat_the_readout_that_was_typed(
    run: Run, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOLDREAMS_RECIPE", "fast")
    assert context("fit")["recipe"] == context("fit", "--readout", "separable")["recipe"] == "fast"
    assert context("fit", "--readout", "ridge")["recipe"] is None
    assert context("score", "--readout", "ridge")["recipe"] is None
    monkeypatch.setenv("BOLDREAMS_READOUT", "ridge")
    for command in ("fit", "score"):
        assert context(command, "--recipe", "paper")["readout"] in ("separable", None)
    fitted = ("--backbone", "alexnet", "--percent", 1, "--subject", 1, "--cache", own, "--readout", "ridge")
    done = run("fit", *fitted, BOLDREAMS_EPOCHS=7, BOLDREAMS_RECIPE="fast", BOLDREAMS_GRID=3)
    assert "BOLDREAMS_EPOCHS is not read: --readout ridge has no such setting" in done.err
    (model,) = own.glob("models/subj01/alexnet/percent-1-ridge-*/spec.json")
    assert json.loads(model.read_text())["training"]["grid"] == 3
    ridge = ("--readout", "ridge", "--percent", 2, "--subject", 1, "--cache", own)
    said = run("fit", *ridge, BOLDREAMS_PRECISION="tf32").err
    assert "BOLDREAMS_PRECISION is not read" in said, "nor does it decide anything"
    assert context("fit", "--finetune")["readout"] == "separable"
    assert context("minimal", "--readout", "gaussian")["recipe"] is None
    assert context("sweep", "--readout", "ridge,separable", "--recipe", "fast")["recipe"] == ("fast",)
    assert not context("sweep", "--recipe", "paper")["readout"]
    assert "--readout ridge has no --epochs" in run("fit", *fitted, "--epochs", 7, code=2).err


def test_all_names_of_an_option_have_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOLDREAMS_FIT_SEED", "4")
    assert context("score")["fit_seed"] == context("dream")["fit_seed"] == 4
    assert context("score", "--seed", "2")["fit_seed"] == 2


def test_values_of_a_repeatable_option_are_not_parted_at_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOLDREAMS_PREDICT_IMAGE", f"my photo.jpg{os.pathsep}3\nother one.png\n")
    monkeypatch.setenv("BOLDREAMS_CAPTION", "a dog: brown, small\na cat")
    given = context("predict")
    assert given["images"] == ("my photo.jpg", "3", "other one.png")
    assert given["captions"] == ("a dog: brown, small", "a cat")
    monkeypatch.setenv("BOLDREAMS_SUBJECT", "1, subj02 03")
    assert context("extract", "--backbone", "alexnet")["subjects"] == (1, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fti"], "did you mean fit?"),
        (["fit", "--percnt", 3], "--percent"),
        (["--json", "score"], "no option --json before a command; options stand behind it"),
        (
            ["score", "--readout", "rigde"],
            "no readout 'rigde' (did you mean ridge?); choose from attention, gaussian, linear, local, ridge, "
            "separable, stacked",
        ),
        (["fit", "--percent"], "requires an argument"),
        (["fit", "--seed", -1], "--seed"),
        (["dream", "--seed", -1], "--seed"),
        (["extract"], "missing option --backbone"),
        (["score", "surplus"], "surplus"),
    ],
)
def test_usage_errors_are_one_line(run: Run, arguments: list[object], says: str) -> None:
    done = run(*arguments, code=2)
    assert says in done.err
    assert done.err.startswith("boldreams: ")
    assert "--help" in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_an_error_names_the_variable_that_its_value_came_from(run: Run) -> None:
    assert "BOLDREAMS_PERCENT" in run("fit", code=2, BOLDREAMS_PERCENT="many").err
    assert "BOLDREAMS" not in run("fit", "--percent", "many", code=2).err


@pytest.mark.parametrize(
    "wrong", ["torch.OutOfMemoryError('CUDA out of memory')", "torch.empty(1 << 60)", "MemoryError()"]
)
def test_out_of_memory_is_said_with_the_remedy(run: Run, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    import torch

    def fail(*_: object) -> None:
        error = eval(wrong, {"torch": torch})
        raise error

    monkeypatch.setattr("boldreams_cli.commands.info._layers", fail)
    done = run("info", "--layers", "alexnet", code=1)
    assert "out of memory; use a smaller --memory" in done.err
    assert done.err.count("\n") == 1


def test_other_runtime_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("boldreams_cli.commands.info._layers", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        boldreams.main(["info", "--layers", "alexnet"], standalone_mode=False)


WRITING = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from boldreams_cli import cli
from boldreams_cli.commands import info
from boldreams_cli.files import written_whole

def write(*_):
    with written_whole(Path(sys.argv[1]) / "file.txt"):
        print("writing", file=sys.__stdout__, flush=True)
        time.sleep(60)

info._layers = write
cli.main(["info", "--layers", "alexnet"])
"""


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "ended by SIGTERM"), (signal.SIGINT, "interrupted")])
def test_signals_leave_nothing_half_written(tmp_path: Path, number: signal.Signals, said: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 128 + number, err
    assert said in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


STARTING = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
from boldreams_cli import cli
from boldreams_cli.data import opening

def slow(*_):
    print("starting", file=sys.__stdout__, flush=True)
    time.sleep(60)

opening.open_dataset = slow
cli.main(["extract", "--backbone", "alexnet", "--weights", "random", "--cache", sys.argv[1]])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_job_that_is_stopped_before_it_has_begun_can_go_on_too(tmp_path: Path, number: signal.Signals) -> None:
    """A scheduler's script looks at the exit code, whenever that was; a terminal that is gone is no scheduler."""
    process = subprocess.Popen(
        [sys.executable, "-c", STARTING, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "starting\n"
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == (128 + number if number == signal.SIGHUP else 75), err
    assert ("run the same command to go on" in err) == (number != signal.SIGHUP)
    assert "Traceback" not in err


def test_what_libraries_print_is_no_result(capfd: pytest.CaptureFixture[str]) -> None:
    """torch.hub writes to stdout that it downloads; a script reads one JSON object there."""

    @click.command()
    @output_options
    def noisy(output: Output) -> None:
        sys.stdout.write("Downloading: weights\n")
        output.show({"a": 1}, "a: 1")

    noisy.main(["--json"], standalone_mode=False)
    out, err = capfd.readouterr()
    assert (out, err) == ('{"a": 1}\n', "Downloading: weights\n")
    noisy.main([], standalone_mode=False)
    assert capfd.readouterr() == ("a: 1\n", "Downloading: weights\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_whatever_makes_files_can_go_on_after_a_scheduler_has_stopped_it(name: str) -> None:
    @click.command(name)
    @output_options
    def stopped(output: object) -> None:
        raise SignalExit(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        stopped.main([], name, standalone_mode=False)
    assert ended.value.code == (128 + signal.SIGTERM if name in ("info", "validate", "remove") else 75)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["fit", "--help"]])
def test_what_cannot_be_written_is_said(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"boldreams: No space left on device; .*\n", done.stderr)


def on_a_terminal(program: str) -> str:
    """What a program writes to a terminal of 80 columns."""
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=child, stderr=child, env=environment)
    os.close(child)
    written = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([parent], [], [], 0.2)[0]:
            try:
                part = os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            written += part
    os.close(parent)
    assert process.wait() == 0, written
    return written.decode()


def test_a_log_line_stands_above_the_bar_and_not_on_it() -> None:
    written = on_a_terminal(
        "from boldreams_cli.console import logger, progress, start_logging\n"
        "start_logging(0)\n"
        "with progress('fit', 3, 'trials') as shown:\n"
        "    shown.advance(2)\n"
        "    logger.warning('something [odd] happened: %s', 'x' * 90)\n"
        "logger.info('afterwards')\n"
    )
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in re.split(r"[\r\n]+", written)]
    assert f"something [odd] happened: {'x' * 90}" in lines
    assert "afterwards" in lines
    assert any("2/3 trials" in line for line in lines)


@pytest.mark.parametrize("width", [45, 60, 80, 100, 200])
def test_a_bars_count_and_time_are_whole_on_a_terminal_of_any_width(width: int) -> None:
    what, note = "fit tf_efficientnet_lite0 100 %, attention", "held-out error 0.4250"
    columns, title = _bar(what, 24_980, "trials", width)
    console = Console(width=width, file=io.StringIO(), force_terminal=True)
    bar = rich.progress.Progress(*columns, console=console)
    bar.add_task(title, total=24_980, completed=12_345, note=note)
    console.print(bar.get_renderable())
    (line,) = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).strip("\n").split("\n")
    assert len(line) <= width
    assert "12345/24980 trials -:--:--" in line
    assert line.startswith(what if width >= 100 else "fit tf_efficientnet"[: width - 45])
    assert "━━━━" in line
    assert note in line or width < 200


def test_a_terminal_that_lacks_letters_is_no_reason_to_fail(own: Path) -> None:
    command = [sys.executable, "-m", "boldreams_cli.cli", "score", "--cache", str(own)]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"\xb1" in done.stdout


def test_all_of_a_few_choices_that_begin_as_was_typed_are_named() -> None:
    assert meant("ffa", ["V1", "FFA-1", "FFA-2", "OFA"]) == " (did you mean FFA-1 or FFA-2?)"
    assert meant("FFA1", ["V1", "FFA-1", "FFA-2", "OFA"]) == " (did you mean FFA-1?)"
    assert " or " not in meant("v", [f"V{number}" for number in range(9)])
    assert meant("nothing", ["V1"]) == ""


def test_verbose_says_what_is_read_and_how_long_it_takes(run: Run, own: Path) -> None:
    score = ("score", "--cache", own, "--overwrite")
    plain, verbose = run(*score).err, run(*score, "-v").err
    said = [line for line in verbose.splitlines() if line not in plain.splitlines()]
    for what in ("model: ", "responses: ", "prediction of "):
        assert any(line.startswith(what) for line in said), what
    fitted = run("fit", "--subject", 1, "--percent", 1, "--epochs", 1, "--cache", own, "-v").err
    assert "features: " in fitted
    assert "span 1 of 1" in fitted
    assert "model: " not in plain, "it is on stdout"
