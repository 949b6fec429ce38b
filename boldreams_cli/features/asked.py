"""What an extraction was asked for, and its opening: a backbone with weights, and the images or captions it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from boldreams_cli.data.dataset import Dataset
from boldreams_cli.data.subjects import Subject
from boldreams_cli.features import backbones, text
from boldreams_cli.features.backbones import Backbone, Entry
from boldreams_cli.features.source import Source, of_images, shown


@dataclass(frozen=True)
class Asked:
    """Which backbone, and of what; the names are those of the options of `boldreams extract`.

    Parameters
    ----------
    backbone, weights, seed : as for `backbones.load`.
    subjects : whose images; none for all there are.
    sessions : as ``--sessions``.
    layers : names with commas between them, None for the backbone's own.
    rectified : ``signed`` or ``rectified``.
    clip : as for `text.load`, of the text tower.
    captions_dir : folder of captions files, in place of the data set's own.
    """

    backbone: str
    weights: str
    seed: int
    subjects: tuple[Subject, ...]
    sessions: str | None
    layers: str | None
    rectified: str
    clip: str
    captions_dir: Path | None

    @property
    def entry(self) -> Entry:
        """All about the backbone; raises ChoiceError where there is none of that name."""
        return backbones.entry(self.backbone)

    @contextmanager
    def opened(self, dataset: Dataset, device: torch.device) -> Iterator[tuple[Backbone, Source]]:
        """Open the data set's images, or its captions, and the backbone that reads them, on `device`.

        Raises
        ------
        ChoiceError
            If there is no such subject, session, backbone or layer.
        BoldreamsError
            If weights, images or captions cannot be had.
        """
        images, training = shown(dataset, self.subjects, self.sessions)
        if self.entry.reads == "captions":
            tower = text.load(self.clip, self.weights, self.seed)
            yield tower.to(device), text.source(tower, dataset, images, training, self.captions_dir)
            return
        names = None if self.layers is None else [name.strip() for name in self.layers.split(",") if name.strip()]
        with dataset.stimuli() as stimuli:
            network = backbones.load(
                self.backbone, self.weights, self.seed, names, rectified=self.rectified == "rectified"
            )
            source = of_images(dataset, stimuli, images, training, network.entry.preprocessing)
            yield network.to(device), source
