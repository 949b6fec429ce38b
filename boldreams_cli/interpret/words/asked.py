"""Word clouds as they are asked for: which options go together, and the requests that come of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from boldreams_cli.console import ChoiceError
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.subjects import Subject
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features import backbones
from boldreams_cli.interpret.products import spelled
from boldreams_cli.interpret.words import record, vocabulary
from boldreams_cli.interpret.words.comparison import Means, dreams_of, one_picture
from boldreams_cli.interpret.words.vocabulary import Vocabulary


@dataclass(frozen=True)
class Asked:
    """What the options say; the same names.

    Parameters
    ----------
    images, rois : what the words are for, a cloud each; either of them.
    vocabulary, raw : see `vocabulary.find`.
    """

    images: tuple[str, ...]
    rois: tuple[str, ...]
    vocabulary: str
    raw: bool
    prompt: str
    score: str
    reference: Path | None
    clip: str | None
    weights: str | None
    top: int
    seed: int

    def check(self) -> None:
        """Raise ChoiceError unless there is one kind of thing to find words for."""
        if bool(self.images) == bool(self.rois):
            raise ChoiceError("say what the words are for: either --image ID or FILE, or --roi AREA")

    def by_betas(self, model: FittedModel | None) -> bool:
        """Whether a text model ranks the words of areas."""
        return model is not None and bool(self.rois) and backbones.entry(model.spec.backbone).reads == "captions"

    def _check_there(self, model: FittedModel | None, areas: Areas | None, data_root: Path | None) -> None:
        """Raise ChoiceError or BoldreamsError if there is no such picture, area or dream."""
        for image in self.images:
            one_picture(image, data_root)
        for roi in self.rois:
            area = spelled(areas.canonical(roi) if areas is not None else roi)
            if model is not None and not self.by_betas(model):
                dreams_of(model, area, roi)

    def words(self, model: FittedModel | None, areas: Areas | None, data_root: Path | None, cache: Path) -> Vocabulary:
        """To choose from.

        Parameters
        ----------
        model : fitted; None for images without one.
        areas : of its subject, where they are known.
        data_root, cache : to read from.

        Raises
        ------
        ChoiceError, BoldreamsError
            If there is no such vocabulary, or nothing that words are asked for, or an option would change nothing.
        """
        by_betas = self.by_betas(model)
        record.check(self.vocabulary, self.score, self.reference, self.clip, self.prompt, by_betas)
        if self.vocabulary == "brown":  # which may have to be fetched from afar
            self._check_there(model, areas, data_root)
        return vocabulary.find(self.vocabulary, cache, self.raw)

    def samples_subject(self, model: FittedModel | None) -> bool:
        """Whether training images are compared with, of a subject that no model names."""
        return self.score == "contrast" and self.reference is None and model is None

    def requests(
        self,
        words: Vocabulary,
        model: FittedModel | None,
        areas: Areas | None,
        subject: Subject | None,
        data_root: Path | None,
        cache: Path,
        device: torch.device,
        backbone: str = "",
    ) -> list[record.Request]:
        """One for each image or area.

        Parameters
        ----------
        words : of `words`.
        model : fitted; None for images without one.
        areas : of its subject, where they are known.
        subject : whose training images are compared with, without a model.
        data_root, cache, device : to read from and to compute on.
        backbone : whose classifier is meant, without a model.
        """
        clip = self.clip or record.CLIP
        means = Means(words, clip, self.weights, backbone, self.seed, device, cache, self.prompt)
        return [
            record.Request(means, model, areas, image, roi, self.score, subject, self.reference, self.top, data_root)
            for image, roi in [*((image, None) for image in self.images), *((None, roi) for roi in self.rois)]
        ]
