"""The text tower as a backbone: an image's captions in, one vector out (paper, section 2.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from boldreams_cli.data.dataset import CAPTIONS_PER_IMAGE, Dataset
from boldreams_cli.features import clip
from boldreams_cli.features.backbones import Backbone, entry
from boldreams_cli.features.clip import Clip
from boldreams_cli.features.source import Source

NAME, LAYER = "clip-text", "last"
ABSENT = -1  # in place of tokens, where an image has fewer than five captions


class TextBackbone(Backbone):
    """Mean embedding of an image's captions, as a map of one pixel with D filters.

    The embeddings are the tower's output as it is, not normalised, as the published model reads them.

    Parameters
    ----------
    tower : CLIP with weights.
    """

    def __init__(self, tower: Clip) -> None:
        super().__init__(entry(NAME), nn.Sequential(tower.model), (LAYER,), tower.digest, tower.weights)
        self.tower = tower

    def reading(self) -> dict[str, Any]:
        """Which CLIP reads how many captions."""
        return {"clip": self.tower.name, "captions": CAPTIONS_PER_IMAGE}

    def tokens(self, captions: Sequence[Sequence[str]]) -> NDArray[np.int64]:
        """Tokenise captions: (images, 5, context); ABSENT where an image has fewer."""
        found: NDArray[np.int64] | None = None
        for row, texts in enumerate(captions):
            made = self.tower.tokenizer(list(texts)[:CAPTIONS_PER_IMAGE]).numpy()
            if found is None:
                found = np.full((len(captions), CAPTIONS_PER_IMAGE, made.shape[1]), ABSENT, dtype=np.int64)
            found[row, : len(made)] = made
        assert found is not None
        return found

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Embed tokens as `tokens` makes them: layer -> (images, D, 1, 1)."""
        there = pixels[:, :, 0] != ABSENT
        embedded = self.tower.embed_tokens(pixels[there])
        total = embedded.new_zeros(*there.shape, embedded.shape[1])
        total[there] = embedded
        return {LAYER: (total.sum(1) / there.sum(1, keepdim=True))[:, :, None, None]}


def load(clip_name: str = clip.DEFAULT, weights: str = "pretrained", seed: int = 0) -> TextBackbone:
    """Build the text backbone; see `clip.load` for what is raised."""
    return TextBackbone(clip.load(clip_name, weights, seed))


def source(
    backbone: TextBackbone,
    dataset: Dataset,
    images: NDArray[Any],
    training: Iterable[NDArray[Any]],
    captions_dir: Path | None,
) -> Source:
    """What `extraction` reads in place of images: the captions of each, tokenised.

    Parameters
    ----------
    backbone : that will read them.
    dataset : that has captions.
    images : ids.
    training : of each subject, sorted ids.
    captions_dir : folder of captions files, in place of the data set's own.

    Raises
    ------
    BoldreamsError
        If captions are missing.
    """
    dataset.captions(images, captions_dir)  # before anything is computed: all of them are there

    def read(numbers: NDArray[Any]) -> NDArray[np.int64]:
        captions = dataset.captions(numbers, captions_dir)
        return backbone.tokens([captions[int(number)] for number in numbers])

    return Source(images, list(training), read, dataset.captions_identity(captions_dir))
