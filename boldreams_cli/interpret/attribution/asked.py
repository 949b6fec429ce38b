"""Attributions as they are asked for: which options go together, and the request that comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boldreams_cli.console import ChoiceError
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.predict import Wanted
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.interpret import targets
from boldreams_cli.interpret.attribution.attributor import Settings, chosen
from boldreams_cli.interpret.attribution.record import Request
from boldreams_cli.interpret.selection import Least


@dataclass(frozen=True)
class Asked:
    """What the options say; the same names, None where they were not given.

    Parameters
    ----------
    rois : areas, whose attributions share their passes.
    voxel : its place, or the area whose best voxel is meant.
    filter_ : ``LAYER:K``.
    images : ids, files, folders or splits; none means each target's best test images.
    count : of these.
    """

    rois: tuple[str, ...]
    voxel: tuple[int, int, int] | str | None
    filter_: str | None
    min_r: float | None
    min_ceiling: float | None
    minus: str | None
    images: tuple[str, ...]
    count: int
    methods: tuple[str, ...]
    steps: int | None
    baseline: str | None

    @property
    def least(self) -> Least:
        """How well voxels of an area must be predicted to count."""
        return Least(self.min_r, self.min_ceiling)

    @property
    def needs_responses(self) -> bool:
        """Whether the subject's areas or splits must be known."""
        of_area = self.rois or self.minus or isinstance(self.voxel, str)
        return bool(of_area or not self.images or {"test", "train"} & {*self.images})

    def check(self) -> None:
        """Raise ChoiceError for options that do not go together."""
        if sum((bool(self.rois), self.voxel is not None, self.filter_ is not None)) != 1:
            raise ChoiceError("say what to attribute: one of --roi AREA, --voxel X,Y,Z and --filter LAYER:K")
        if self.filter_ is not None and self.minus is not None:
            raise ChoiceError("--minus is of betas and does not go with --filter")
        self.least.check(bool(self.rois) or isinstance(self.voxel, str))

    def settings(self, memory: int) -> list[Settings]:
        """Of each method, in the order asked.

        Raises
        ------
        ChoiceError
            If no method takes the steps or the baseline.
        """
        return chosen(list(dict.fromkeys(self.methods)), self.steps, self.baseline, memory)

    def request(self, full: FullModel, responses: Responses | None, cache: Path, images: Sequence[Wanted]) -> Request:
        """What to attribute.

        Parameters
        ----------
        full : the full model.
        responses : of its subject, where they are needed.
        cache : that holds its store.
        images : those that were asked for.

        Raises
        ------
        ChoiceError, BoldreamsError
            If an area, voxel or filter is none.
        """
        areas = responses.areas if responses is not None else None
        aims = [
            targets.choose(full, areas, roi, self.voxel, self.filter_, self.minus, least=self.least)
            for roi in (self.rois or (None,))
        ]
        return Request(full, aims, responses, cache, images, self.count)
