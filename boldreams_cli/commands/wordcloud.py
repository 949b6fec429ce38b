"""`boldreams wordcloud`: the words that fit an image, a dream or an area best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import ModelChoice, Output


@options.command(
    "boldreams wordcloud --roi faces",
    "boldreams wordcloud --roi faces --roi places --score contrast",
    "boldreams wordcloud --image photo.jpg --vocabulary imagenet",
    'boldreams wordcloud --image 3 --image 7 --subject 1 --prompt "a photo of a {}"',
)
@options.output_options
@options.model_options
@options.nsd_option
@options.option(
    "--image",
    "images",
    multiple=True,
    excludes=["roi"],
    metavar="ID|FILE",
    help="An image id or a picture; needs no model; repeatable: a figure of all too.",
)
@options.option(
    "--roi",
    "rois",
    multiple=True,
    excludes=["image"],
    metavar="AREA",
    help="Its dreams; with a text model, the area itself; repeatable: a figure of all too.",
)
@options.option(
    "--vocabulary",
    default="brown",
    metavar="brown|imagenet|FILE",
    help="Common nouns; the classes of the backbone's own classifier, without CLIP; or a file of one word a line.",
)
@options.option(
    "--raw", is_flag=True, help="Brown's nouns as published: with formula codes, pronouns, and plurals apart."
)
@options.option("--prompt", default="{}", metavar="TEXT", help="What CLIP reads, {} for the word.", show_default=True)
@options.option(
    "--score",
    type=click.Choice(["cosine", "contrast"]),
    default="cosine",
    help="Similarity as published, or minus its mean over a reference set of images.",
)
@options.option(
    "--reference",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=None,
    help="Folder of the reference pictures (default: 200 training images of the subject).",
)
@options.option("--clip", default=None, metavar="NAME[:TAG]", help="A CLIP that open_clip knows (default: RN50x4).")
@options.option(
    "--weights",
    default=None,
    metavar="pretrained|random|FILE",
    help="The weights of CLIP; with --vocabulary imagenet, of the backbone and its classifier.",
)
@options.option("--top", type=click.IntRange(1, 200), default=20, help="Words to show.")
@options.option("--overwrite", is_flag=True, help="Do again what is done.")
@options.device_option
@options.seed_option
def wordcloud(
    choice: ModelChoice, nsd_root: Path | None, overwrite: bool, device: str, output: Output, **asked: Any
) -> None:
    """Draw the words that fit an image, or an area's dreams, best.

    Writes a picture (PNG and PDF) and a table of the words into the model's folder, or under CACHE/words for an image
    without a model. Font size is in proportion to the score, which is called what it is: cosine or contrast with
    CLIP, logit of a classifier, predicted-beta of a text model. Of Brown's nouns one of singular and plural is shown.
    """
    from boldreams_cli.interpret.words import record
    from boldreams_cli.interpret.words.asked import Asked

    wish = Asked(**asked)
    wish.check()
    model = choice.resolve() if wish.rois or choice.model is not None else None
    subject = model.spec.subject if model is not None else choice.subject
    if subject is not None:
        nsd_root = options.root_for(subject, choice.cache, nsd_root)
    areas = None
    if model is not None and wish.rois:  # without them, an area is looked for among the dreams as it was typed
        needed = wish.by_betas(model)
        found = options.responses_or_none(model, choice.cache, nsd_root, needed, "areas are not looked up")
        areas = found.areas if found is not None else None
    words = wish.words(model, areas, nsd_root, choice.cache)
    where = options.pick_device(device)
    classifier = words.kind == "imagenet" and model is None
    backbone = options.choose_backbone(choice.cache, choice.backbone) if classifier else ""
    sampled = options.the_subject(subject, choice.cache, nsd_root) if wish.samples_subject(model) else None
    requests = wish.requests(words, model, areas, sampled, nsd_root, choice.cache, where, backbone)
    made = record.wordclouds(requests, overwrite)
    if len(requests) == 1:
        output.show(made, *(f"{value:8.4f}  {word}" for word, value in made["words"]), *made["files"])
        return
    best = [f"{one['image']}: {', '.join(word for word, _ in one['words'][:5])}" for one in made["results"]]
    output.show(made, *best, *made["files"])
