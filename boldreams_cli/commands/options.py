"""What commands share: options, their environment variables, the choice of subject, model and device, output."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from boldreams_cli import console, machine
from boldreams_cli.console import BoldreamsError, ChoiceError, logger

if TYPE_CHECKING:
    import torch

    from boldreams_cli.data.nsd.layout import Layout
    from boldreams_cli.data.responses import Responses
    from boldreams_cli.encoding.model.spec import FittedModel
    from boldreams_cli.features.feature_store import FeatureStore

Command = Callable[..., Any]


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """Make a click option with its environment variable BOLDREAMS_<OPTION>, one name for all commands."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "BOLDREAMS_" + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=False, show_default=True, **settings)


class SubjectNumber(click.ParamType):
    """A subject as ``1``, ``01`` or ``subj01``."""

    name = "N"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """To a number from 1 up."""
        match = re.fullmatch(r"(?:subj)?0*([1-9]\d*)", str(value))
        if not match:
            self.fail(f"{value!r} is no subject; write 1, 01 or subj01", parameter, context)
        return int(match[1])


class Percent(click.ParamType):
    """A percentage of the filters, above 0 and up to 100."""

    name = "P"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """To a number; 0 and 101 are refused."""
        try:
            percent = float(value)
        except ValueError:
            percent = float("nan")
        if not 0 < percent <= 100:
            self.fail(
                f"{value!r} is no percentage of filters; give a number above 0 and up to 100",
                parameter,
                context,
            )
        return percent


class ByteCount(click.ParamType):
    """A size as ``4G``, ``800M`` or a number of bytes."""

    name = "SIZE"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """To bytes, in powers of 1024 as memory is sold."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(value), re.IGNORECASE)
        if not match or float(match[1]) == 0:
            self.fail(f"{value!r} is no size; write 4G or 800M", parameter, context)
        return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


SUBJECT = SubjectNumber()
PERCENT = Percent()
BYTES = ByteCount()


@dataclass
class Output:
    """How a command speaks: results to stdout, as text or as one JSON object; all else to stderr."""

    as_json: bool

    def show(self, result: dict[str, Any], *lines: str) -> None:
        """Print the JSON object, or the lines for people."""
        from boldreams_cli.files import to_json

        if self.as_json:
            click.echo(json.dumps(to_json(result)))
        else:
            for line in lines:
                click.echo(line)


def output_options(command: Command) -> Command:
    """Add --json, -v, -q and --debug, start logging, and turn errors into one line and an exit code."""

    @option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
    @option("-v", "--verbose", is_flag=True, help="Log more to stderr.")
    @option("-q", "--quiet", is_flag=True, help="Log only warnings and errors.")
    @option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(command)
    def run(*args: Any, as_json: bool, verbose: bool, quiet: bool, debug: bool, **kwargs: Any) -> None:
        console.start_logging(1 if verbose else -1 if quiet else 0)
        machine.keep_freed()
        try:
            command(*args, output=Output(as_json), **kwargs)
        except BrokenPipeError:  # `boldreams score | head`: end as quietly as a signal would have it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(128 + 13) from None
        except (BoldreamsError, OSError, MemoryError, KeyboardInterrupt) as error:
            if debug:
                traceback.print_exc()
            click.echo(f"boldreams: {_message(error)}", err=True)
            raise SystemExit(getattr(error, "exit_code", 1)) from error

    return run


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller --memory or --batch-size, or a larger machine"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def cache_option(command: Command) -> Command:
    """Add --cache."""
    return option(
        "--cache",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("cache"),
        help="Folder of stores and models.",
    )(command)


def nsd_option(command: Command) -> Command:
    """Add --nsd-root."""
    return option(
        "--nsd-root",
        type=click.Path(path_type=Path),
        default=None,
        help="Folder that holds nsddata, nsddata_betas and nsddata_stimuli; only read.",
    )(command)


def subject_option(required: bool = False) -> Callable[[Command], Command]:
    """Add --subject."""
    return option("--subject", type=SUBJECT, default=None, required=required, help="Subject: 1, 01 or subj01.")


def data_options(command: Command) -> Command:
    """Add --sessions and --mask."""
    command = option(
        "--mask",
        default=None,
        metavar="nsdgeneral|FILE",
        help="Voxels to use instead of the union of all areas.",
    )(command)
    return option(
        "--sessions",
        default=None,
        metavar="LIST",
        help="Sessions, e.g. 1-40 or 1,3,5-7 (default: 1-37, or all of those there).",
    )(command)


def device_option(command: Command) -> Command:
    """Add --device."""
    return option("--device", default="auto", metavar="auto|cpu|cuda|cuda:N", help="Where to compute.")(command)


def seed_option(command: Command) -> Command:
    """Add --seed."""
    return option("--seed", type=int, default=0, help="Of all random numbers.")(command)


def memory_option(command: Command) -> Command:
    """Add --memory."""
    return option("--memory", type=BYTES, default="4G", help="Memory to use at most, about.")(command)


def store_option(command: Command) -> Command:
    """Add --features."""
    return option(
        "--features",
        default=None,
        metavar="FINGERPRINT",
        help="Which feature store, where the cache holds several of one backbone.",
    )(command)


def pick_device(name: str) -> torch.device:
    """Turn --device into a torch device.

    Raises
    ------
    ChoiceError
        If it is none.
    BoldreamsError
        If CUDA was asked for and is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ChoiceError(f"unknown device {name!r}; choose auto, cpu, cuda or cuda:N (--device)")
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise BoldreamsError("no CUDA device is available here; use --device cpu or --device auto")
        if int((name + ":0").split(":")[1]) >= torch.cuda.device_count():
            raise BoldreamsError(f"no device {name}; there are {torch.cuda.device_count()} (--device)")
    return torch.device(name)


def layout_of(nsd_root: Path | None) -> Layout:
    """The NSD root as a layout."""
    from boldreams_cli.data.nsd.layout import Layout

    return Layout.at(nsd_root)


def choose_backbone(cache: Path, backbone: str | None) -> str:
    """--backbone, else the one that the cache holds, else alexnet; says which."""
    from boldreams_cli.features.backbones.registry import entry

    if backbone is not None:
        return entry(backbone).name
    held = sorted({path.name.rsplit("-", 1)[0] for path in (cache / "features").glob("*.zarr")})
    chosen = held[0] if len(held) == 1 else "alexnet"
    why = f"the cache holds {', '.join(held) or 'none'}"
    logger.info("backbone: %s (%s; --backbone chooses)", chosen, why)
    return chosen


def choose_store(cache: Path, backbone: str, features: str | None) -> FeatureStore:
    """The cache's store of a backbone.

    Raises
    ------
    ChoiceError
        If there are several.
    MismatchError
        If there is none.
    """
    from boldreams_cli.console import MismatchError, listing
    from boldreams_cli.features.feature_store import stores

    found = [store for store in stores(cache, backbone) if features in (None, store.fingerprint)]
    if not found:
        wanted = f"store {features}" if features else "store"
        raise MismatchError(f"{cache} holds no {wanted} of {backbone}; run boldreams extract --backbone {backbone}")
    if len(found) > 1:
        described = listing(
            f"{s.fingerprint} (weights {s.group.attrs['weights']}, keep {(s.spec['keep'] or {}).get('percent', 100)} %)"
            for s in found
        )
        raise ChoiceError(f"{cache} holds {len(found)} stores of {backbone}: {described}; choose with --features")
    return found[0]


def the_subject(subject: int | None, cache: Path, nsd_root: Path | None) -> int:
    """--subject, or the only one that there is.

    Raises
    ------
    ChoiceError
        If there is none or more than one.
    """
    if subject is not None:
        return subject
    held = {int(path.name[4:6]) for path in (cache / "responses").glob("subj[0-9][0-9]-*.zarr")}
    if nsd_root is not None and nsd_root.is_dir():
        held |= set(layout_of(nsd_root).subjects())
    if len(held) != 1:
        raise ChoiceError(f"choose a subject with --subject; there: {console.listing(sorted(held))}")
    return held.pop()


@dataclass
class ModelChoice:
    """Which fitted model is meant: --backbone --percent --subject --finetune --readout, or --model."""

    cache: Path
    backbone: str | None
    percent: float | None
    subject: int | None
    finetune: bool | None
    readout: str | None
    model: Path | None

    def resolve(self) -> FittedModel:
        """Load it.

        Raises
        ------
        ChoiceError
            If not exactly one matches.
        """
        from boldreams_cli.encoding.model.folder import find_models, the_model
        from boldreams_cli.encoding.model.spec import FittedModel

        if self.model is not None:
            return FittedModel.load(self.model)
        matching = find_models(self.cache, self.backbone, self.percent, self.subject, self.finetune, self.readout)
        folder = the_model(matching, self.cache)
        logger.info("model: %s", folder)
        return FittedModel.load(folder)


def model_options(command: Command) -> Command:
    """Add the selectors of a model; the command gets `choice`."""

    @cache_option
    @option("--backbone", default=None, help="Of the model.")
    @option("--percent", type=PERCENT, default=None, help="Of the model's filters.")
    @option("--subject", type=SUBJECT, default=None, help="Of the model: 1, 01 or subj01.")
    @option("--finetune/--no-finetune", default=None, help="A finetuned model or not.")
    @option("--readout", type=click.Choice(["separable", "ridge", "gaussian"]), default=None, help="Of the model.")
    @option("--model", type=click.Path(path_type=Path), default=None, help="The model's folder outright.")
    @functools.wraps(command)
    def run(
        *args: Any,
        cache: Path,
        backbone: str | None,
        percent: float | None,
        subject: int | None,
        finetune: bool | None,
        readout: str | None,
        model: Path | None,
        **kwargs: Any,
    ) -> None:
        if backbone is not None:
            from boldreams_cli.features.backbones.registry import entry

            backbone = entry(backbone).name
        command(*args, choice=ModelChoice(cache, backbone, percent, subject, finetune, readout, model), **kwargs)

    return run


def responses_of(model: FittedModel, cache: Path) -> Responses:
    """The responses that a model was fitted to.

    Raises
    ------
    MismatchError
        If the cache no longer holds them.
    """
    from boldreams_cli.console import MismatchError
    from boldreams_cli.data.responses import Responses

    name = f"subj{model.spec.subject:02d}-{model.spec.responses}.zarr"
    path = cache / "responses" / name
    if not path.is_dir():
        raise MismatchError(
            f"{model.folder} was fitted to {name}, which {cache} does not hold; run boldreams prepare "
            f"--subject {model.spec.subject} with the same --sessions and --mask, or fit again"
        )
    return Responses.open(path)
