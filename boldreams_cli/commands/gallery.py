"""`boldreams gallery`: areas by models, as the paper prints its dreams, words and attributions."""

from __future__ import annotations

from pathlib import Path

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import ModelChoice, Output

MOST = 12  # lines of what is missing


@options.command(
    "boldreams gallery",
    "boldreams gallery --subject 1 --roi faces --roi places --kind dreams",
    "boldreams gallery --backbone alexnet --output figures",
)
@options.output_options
@options.model_options
@options.option(
    "--roi",
    "rois",
    multiple=True,
    metavar="AREA",
    help="An area, repeatable (default: all that there is).",
)
@options.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["dreams", "words", "attributions"]),
    help="What to show, repeatable (default: all).",
)
@options.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder to write (default: studies/gallery in the cache).",
)
def gallery(
    choice: ModelChoice, rois: tuple[str, ...], kinds: tuple[str, ...], folder: Path | None, output: Output
) -> None:
    """Show areas by models: dreams, words and attributions that there are, and what is missing.

    Takes all models that match the selectors. Computes nothing: what is missing is listed with the command that makes
    it. Writes dreams.png, words.png and attributions.png (the paper's figures 5 to 8), each as .pdf too, and
    gallery.json.
    """
    from boldreams_cli.console import ChoiceError, StopFlag
    from boldreams_cli.encoding.model.folder import find_models
    from boldreams_cli.encoding.model.spec import FittedModel
    from boldreams_cli.interpret import gallery as galleries

    if choice.model is not None:
        models = [choice.resolve()]
    else:
        models = [FittedModel.load(row.folder) for row in find_models(choice.cache, **choice.asked)]
    if not models:
        raise ChoiceError(f"no fitted model in {choice.cache} matches; boldreams info lists those that there are")
    if not (shown := galleries.ordered(models)):
        raise ChoiceError(
            f"all that match read captions, and have no dreams or attributions (of {len(models)}; their words are in "
            "MODEL/words); choose an image backbone with --backbone"
        )
    place = folder or choice.cache / "studies" / "gallery"
    chosen = kinds or galleries.KINDS
    made = galleries.gallery(shown, rois, chosen, place, StopFlag())
    missing = [
        f"missing, {item['kind']} of {item['area']}" + (f": {item['run']}" if item["run"] else "")
        for item in made["missing"]
    ]
    more = [f"... and {len(missing) - MOST} more, which --json lists"] if len(missing) > MOST else []
    output.show(made, *made["files"], *missing[:MOST], *more)
