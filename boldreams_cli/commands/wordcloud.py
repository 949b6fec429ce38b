"""`boldreams wordcloud`: the words that fit an image, a dream or an area best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from boldreams_cli.commands import options
from boldreams_cli.commands.options import ModelChoice, Output

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from boldreams_cli.encoding.model.spec import FittedModel
    from boldreams_cli.interpret.words.matching import Matcher
    from boldreams_cli.interpret.words.vocabulary import Vocabulary

REFERENCES = 200


@options.command("boldreams wordcloud --roi faces", "boldreams wordcloud --image photo.jpg --vocabulary imagenet")
@options.output_options
@options.model_options
@options.nsd_option
@options.option(
    "--image", default=None, excludes=["roi"], metavar="ID|FILE", help="An nsdId or a picture; needs no model."
)
@options.option(
    "--roi", default=None, excludes=["image"], metavar="AREA", help="Its dreams; with a text model, the area itself."
)
@options.option(
    "--vocabulary",
    default="brown",
    metavar="brown|imagenet|FILE",
    help="Common nouns; the classes of the backbone's own classifier, without CLIP; or a file of one word a line.",
)
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
    help=f"Folder of the reference pictures (default: {REFERENCES} training images of the subject).",
)
@options.option("--clip", default="RN50x4", metavar="NAME[:TAG]", help="A CLIP that open_clip knows.")
@options.option(
    "--weights",
    default=None,
    metavar="pretrained|random|FILE",
    help="Of CLIP; with --vocabulary imagenet, of the backbone and its classifier.",
)
@options.option("--top", type=click.IntRange(1, 200), default=20, help="Words to show.")
@options.device_option
@options.seed_option
def wordcloud(
    choice: ModelChoice,
    nsd_root: Path | None,
    image: str | None,
    roi: str | None,
    vocabulary: str,
    score: str,
    reference: Path | None,
    clip: str,
    weights: str | None,
    top: int,
    device: str,
    seed: int,
    output: Output,
) -> None:
    """Draw the words that fit an image, or an area's dreams, best.

    Writes a picture and a table of the words into the model's folder, or under CACHE/words for an image without a
    model. Font size is in proportion to the score.
    """
    from boldreams_cli.console import ChoiceError
    from boldreams_cli.features.backbones import registry
    from boldreams_cli.interpret.words import cloud as words
    from boldreams_cli.interpret.words import vocabulary as vocabularies

    if (image is None) == (roi is None):
        raise ChoiceError("say what the words are for: either --image ID or FILE, or --roi AREA")
    model = choice.resolve() if roi is not None or choice.model is not None else None
    chosen = vocabularies.find(vocabulary, choice.cache)
    asked = _Asked(choice, nsd_root, clip, weights, seed, options.pick_device(device))
    subject: int | str = int(image) if image is not None and image.isdecimal() else str(image or roi)
    if model is not None and roi is not None and registry.entry(model.spec.backbone).reads == "captions":
        if score != "cosine":
            raise ChoiceError("a text model ranks words by the area's predicted beta; --score does not apply")
        score, values = "beta", asked.betas(model, roi, chosen)
    else:
        pixels = words.dream_pixels(model, roi) if model is not None and roi is not None else None
        matcher = asked.matcher(model, chosen)
        features = matcher.features(pixels) if pixels is not None else asked.picture(matcher, str(image))
        base = asked.reference(matcher, model, reference) if score == "contrast" else None
        values = words.scores(matcher, features, base)
    cloud = words.Cloud(subject, chosen.name, score, words.top(chosen.words, values, top))
    folder = (model.folder if model is not None else choice.cache) / "words" / words.folder_name(subject)
    files = cloud.save(folder, seed)
    output.show(
        {"image": subject, "vocabulary": chosen.name, "words": cloud.words, "files": files},
        *(f"{value:8.4f}  {word}" for word, value in cloud.words),
        *(str(path) for path in files),
    )


@dataclass
class _Asked:
    """The options that decide how words and pictures are compared."""

    choice: ModelChoice
    nsd_root: Path | None
    clip: str
    weights: str | None
    seed: int
    device: torch.device

    def matcher(self, model: FittedModel | None, vocabulary: Vocabulary) -> Matcher:
        """CLIP, or the backbone's classifier for ImageNet's classes."""
        from boldreams_cli.features import clip
        from boldreams_cli.interpret.words.matching import ClassifierMatcher, ClipMatcher

        if vocabulary.name == "imagenet":
            backbone = (
                model.spec.backbone if model else options.choose_backbone(self.choice.cache, self.choice.backbone)
            )
            source = model.spec.backbone_weights["source"] if model else "pretrained"
            return ClassifierMatcher(backbone, self.weights or source, vocabulary, self.seed, self.device)
        instead = ", or use --vocabulary imagenet, which needs no CLIP"
        network = clip.load(self.clip, self.weights or "pretrained", self.seed, instead).to(self.device)
        return ClipMatcher(network, vocabulary, self.choice.cache)

    def picture(self, matcher: Matcher, image: str) -> Tensor:
        """Features of the one image."""
        from boldreams_cli.console import ChoiceError
        from boldreams_cli.encoding.evaluation.predict import find_images, read_images
        from boldreams_cli.interpret.words.matching import picture_features

        found = find_images([image], _no_word)
        if len(found) != 1:
            raise ChoiceError(f"--image takes one picture, and {image} holds {len(found)}")
        return picture_features(matcher, read_images(found, self.nsd_root))

    def reference(self, matcher: Matcher, model: FittedModel | None, folder: Path | None) -> Tensor:
        """Features of the reference pictures: of a folder, or a sample of the subject's training images."""
        import numpy as np

        from boldreams_cli.encoding.evaluation.predict import find_images, read_picture
        from boldreams_cli.files import digest
        from boldreams_cli.interpret.words.matching import reference_features

        cache = self.choice.cache
        if folder is not None:
            files = [image.file for image in find_images([str(folder.resolve())], _no_word) if image.file is not None]
            pictures = (read_picture(path) for path in files)
            return reference_features(matcher, pictures, [digest(path) for path in files], cache)
        subject = model.spec.subject if model else options.the_subject(self.choice.subject, cache, self.nsd_root)
        dataset = options.dataset_of(self.nsd_root)
        images = dataset.training_images(subject)
        sample = np.random.default_rng(self.seed).permutation(images)[:REFERENCES]
        with dataset.stimuli() as stimuli:
            shown = (stimuli.read([number])[0] for number in sample)
            return reference_features(matcher, shown, [dataset.stimuli_identity(), sample], cache)

    def betas(self, model: FittedModel, roi: str, vocabulary: Vocabulary) -> Tensor:
        """The area's mean beta, as a text model predicts it from each word."""
        from boldreams_cli.encoding.model import captions
        from boldreams_cli.interpret.words.cloud import predicted_betas
        from boldreams_cli.interpret.words.matching import embed_vocabulary

        voxels = options.responses_of(model, self.choice.cache).areas.select(roi)
        network = captions.tower_of(model, self.device, self.weights)
        return predicted_betas(model, voxels, embed_vocabulary(network, vocabulary, self.choice.cache))


def _no_word() -> NoReturn:
    from boldreams_cli.console import ChoiceError

    raise ChoiceError("--image takes one nsdId or picture; test and train are words of boldreams predict")
