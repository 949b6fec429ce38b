"""Dreams as they are asked for: which options go together, and the requests that come of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from boldreams_cli.console import ChoiceError, StopFlag
from boldreams_cli.encoding.evaluation.predict import find_images, read_images
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.features.backbones import Entry
from boldreams_cli.interpret import targets
from boldreams_cli.interpret.dreams import record
from boldreams_cli.interpret.dreams.ascent import objectives
from boldreams_cli.interpret.dreams.ascent.loop import Settings
from boldreams_cli.interpret.dreams.closeness import WEIGHT, Photograph
from boldreams_cli.interpret.dreams.natural import Sources
from boldreams_cli.interpret.labels import called
from boldreams_cli.interpret.products import Description
from boldreams_cli.interpret.selection import Least
from boldreams_cli.interpret.targets import AreaTarget, Target

COUNT = 4


@dataclass(frozen=True)
class Asked:
    """What the options say; the same names, None where they were not given.

    Parameters
    ----------
    rois : areas, a dream each.
    voxel : its place, or the area whose best voxel is meant.
    filter_ : ``LAYER:K``.
    folder : to write; of several areas, a folder in it each.
    start : image id or file of a photograph.
    """

    rois: tuple[str, ...] = ()
    voxel: tuple[int, int, int] | str | None = None
    filter_: str | None = None
    min_r: float | None = None
    min_ceiling: float | None = None
    objective: str | None = None
    target: str | None = None
    minus: str | None = None
    plus: str | None = None
    diversity: float | None = None
    start: str | None = None
    closeness: float | None = None
    parameterization: str = "fourier"
    steps: int | None = None
    lr: float | None = None
    count: int | None = None
    natural: bool = True
    folder: Path | None = None
    seed: int = 0

    @property
    def kind(self) -> str:
        """The objective."""
        return objectives.choose(self.objective, self.target, self.minus, self.diversity, self.plus)

    @property
    def images(self) -> int:
        """How many at once: of one photograph, one."""
        return self.count or (COUNT if self.start is None else 1)

    @property
    def least(self) -> Least:
        """How well voxels of an area must be predicted to count."""
        return Least(self.min_r, self.min_ceiling)

    @property
    def needs_areas(self) -> bool:
        """Whether the subject's areas must be known."""
        return bool(self.rois or self.minus or self.plus or isinstance(self.voxel, str))

    def check(self) -> None:
        """Raise ChoiceError for options that do not go together."""
        kind = self.kind
        if sum(map(bool, (self.rois, self.voxel is not None, self.filter_ is not None))) != 1:
            raise ChoiceError("say what to dream of: one of --roi AREA, --voxel X,Y,Z and --filter LAYER:K")
        if kind == "diversity" and self.images < 2:
            raise ChoiceError("--objective diversity needs images to differ: --count 2 or more")
        if self.filter_ is not None and kind in ("target", "contrast", "both"):
            raise ChoiceError(f"--objective {kind} is of betas and does not go with --filter")
        self.least.check(bool(self.rois) or isinstance(self.voxel, str))
        if self.closeness is not None and self.start is None:
            raise ChoiceError("--closeness is to a photograph: --start IMAGE")
        if self.start is not None and self.parameterization == "maco":
            raise ChoiceError(
                "--start does not go with --parameterization maco, whose images all have one spectrum; use fourier"
            )

    def requests(self, full: FullModel, sources: Sources) -> list[record.Request]:
        """One for each area; all share the full model.

        Raises
        ------
        ChoiceError, BoldreamsError
            If an area, voxel, filter, target or photograph is none.
        """
        self.check()
        photograph = self._photograph(full, sources)
        return [self._request(full, sources, aim, photograph) for aim in self._targets(full, sources)]

    def _targets(self, full: FullModel, sources: Sources) -> list[Target]:
        areas = sources.responses.areas if sources.responses is not None else None
        each = self.kind == "target"
        found = [
            targets.choose(full, areas, roi, self.voxel, self.filter_, self.minus, each, self.plus, self.least)
            for roi in (self.rois or (None,))
        ]
        named = {target.folder: target for target in found}  # an area that was named twice is dreamed of once
        return list(named.values())

    def _request(self, full: FullModel, sources: Sources, aim: Target, photograph: Photograph | None) -> record.Request:
        wanted = None
        if self.target is not None and isinstance(aim, AreaTarget):
            wanted = objectives.read_wanted(self.target, aim.voxels, aim.asked)
        several = self.folder is not None and len(self.rois) > 1
        return record.Request(
            target=aim,
            objective=objectives.Objective(self.kind, wanted, 1.0 if self.diversity is None else self.diversity),
            settings=self._settings(full.backbone.entry, aim),
            folder=self.folder / aim.folder if several and self.folder is not None else self.folder,
            device=full.backbone.device,
            photograph=photograph,
            natural=self.natural,
        )

    def _settings(self, backbone: Entry, aim: Target) -> Settings:
        roi = aim.folder if self.rois else None
        more = (self.steps, self.lr, self.images, self.parameterization, self.seed, self.start is not None)
        return Settings.default(backbone, roi, *more)

    def _photograph(self, full: FullModel, sources: Sources) -> Photograph | None:
        if self.start is None:
            return None
        if self.start in ("test", "train") or Path(self.start).expanduser().is_dir():
            raise ChoiceError(f"--start takes one image id or picture, not {self.start}")
        try:
            (wanted,) = find_images([self.start], sources.data_root, lambda: None)  # type: ignore[arg-type, return-value]
        except ChoiceError as error:
            raise ChoiceError(f"no image {self.start!r}: --start takes an image id or name, or a file") from error
        (picture,) = read_images([wanted], sources.data_root)
        resized = full.backbone.entry.preprocessing.resize(torch.from_numpy(picture)[None])
        pixels = resized.to(full.backbone.device).float() / 255
        weight = WEIGHT if self.closeness is None else self.closeness
        return Photograph(str(wanted.name), pixels, weight, called(wanted, sources.data_root))


def dream_all(
    requests: Sequence[record.Request], sources: Sources, stop: StopFlag, overwrite: bool = False
) -> list[Description]:
    """Make each dream, as `record.dream`; a signal ends it between any two steps, and finished ones stay.

    A folder that holds another dream is refused before the first is made.
    """
    for request in requests:
        if request.folder is not None:
            product = request.product(sources)
            with product.held(stop):
                product.place(overwrite)
    found: list[Description] = []
    for request in requests:
        stop.check(f"{len(found)} of {len(requests)} dreams are finished")
        found.append(record.dream(request, sources, stop, overwrite))
    return found
