"""`boldreams remove`: fitted models, with all that was made from them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import Output


@options.command(
    "boldreams remove percent-10-ridge-3f9a1c",
    "boldreams remove subj01/vgg11/percent-10 subj02/vgg11/percent-10 --yes",
)
@options.output_options
@options.cache_option
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@options.option("--yes", is_flag=True, help="Do not ask.")
def remove(cache: Path, models: tuple[str, ...], yes: bool, output: Output) -> None:
    """Delete fitted models, with their scores and all that was made from them.

    A MODEL is a name as info lists it, a unique beginning of it, or a folder in the cache. Lists what would go and
    asks; --yes does not ask. Feature stores and responses stay.
    """
    from boldreams_cli.console import BoldreamsError, ChoiceError
    from boldreams_cli.encoding.model import folder as folders

    chosen = list(dict.fromkeys(_inside(folders.resolve(cache, name, option=""), cache) for name in models))
    for path in chosen:
        click.echo(f"{path}: {_contents(path)}", err=True)
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise ChoiceError("nothing was removed: there is no terminal to ask on; say --yes")
        if not click.confirm(f"Remove {len(chosen)} model{'s' * (len(chosen) > 1)}?", err=True):
            raise BoldreamsError("nothing was removed")
    for path in chosen:
        folders.remove(path)
    removed = [str(path) for path in chosen]
    output.show({"removed": removed}, *(f"removed {path}" for path in removed))


def _inside(folder: Path, cache: Path) -> Path:
    """Refuse a folder that is not one of the cache's models; links lead to other places."""
    from boldreams_cli.console import ChoiceError

    models = (cache / "models").resolve()
    if folder.resolve().parts[: len(models.parts)] != models.parts or folder.resolve() == models:
        raise ChoiceError(f"{folder} is not in {cache / 'models'}; only models of the cache are removed (--cache)")
    return folder


def _contents(folder: Path) -> str:
    """Say how much a model's folder holds, and what was made from it."""
    from collections import Counter

    from boldreams_cli.console import size
    from boldreams_cli.files import sizes_below
    from boldreams_cli.interpret.products import find_products

    sizes = sizes_below(folder)
    made = Counter(product.kind for product in find_products(folder))
    return ", ".join([f"{len(sizes)} files, {size(sum(sizes))}", *(f"{kind}: {count}" for kind, count in made.items())])
