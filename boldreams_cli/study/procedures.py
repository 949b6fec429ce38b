"""Which models of the cache differ in their percent of filters alone: fits of one procedure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from boldreams_cli.console import ChoiceError, MismatchError, listing, logger, quoted
from boldreams_cli.data.subjects import Subject
from boldreams_cli.encoding.evaluation.certainty.influences import Influences, load_influences
from boldreams_cli.encoding.model.folder import find_models
from boldreams_cli.encoding.model.spec import ModelSpec
from boldreams_cli.encoding.result import LOG, read_log
from boldreams_cli.files import fingerprint, read_json

HOW_TO_CHOOSE = "--readout --recipe --finetune --rf --seed, or --model with one of its models"
# Settings that are a subject's own: its data, and the maps of its images. Epochs too where they follow from how many
# images there are.
OWN = ("responses", "store", "edition", "stimuli", "pixels", "steps")
HELD_OUT = ("held_out_loss", "left_out_loss", "validation_loss")  # columns of log.csv, of training images alone


@dataclass(frozen=True)
class Procedure:
    """Models of one subject and backbone that were fitted in one way, with one seed.

    Parameters
    ----------
    subject, backbone, readout, recipe, finetuned, seed : as in a spec.
    settings : all that decided the weights besides percent and seed.
    models : percent -> folder.
    """

    subject: Subject
    backbone: str
    readout: str
    recipe: str | None
    finetuned: bool
    seed: int
    settings: Mapping[str, Any]
    models: dict[float, Path] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Hash of all but percent and seed."""
        way = [self.subject, self.backbone, self.readout, self.recipe, self.finetuned]
        return fingerprint([*way, dict(self.settings)])

    @property
    def way(self) -> dict[str, Any]:
        """What fits of other subjects must have alike, for their percents to be compared."""
        chosen = ("epochs",) if self.recipe == "fast" or self.readout == "attention" else ()
        return {"kind": self.kind} | {k: value for k, value in self.settings.items() if k not in (*OWN, *chosen)}

    @property
    def converged(self) -> bool:
        """Whether it goes on until held-out or left-out training images say that it is enough.

        The published recipe takes ten epochs and finetuning its number of them, whether that is enough or not.
        """
        return self.recipe != "paper" and not self.finetuned and self.readout != "linear"

    @property
    def kind(self) -> str:
        """Recipe or readout, and whether finetuned."""
        return (self.recipe or self.readout) + (", finetuned" if self.finetuned else "")

    @property
    def title(self) -> str:
        """Subject, backbone and kind, for people, and whether its maps were made anew of other stimuli."""
        anew = f", stimuli {said_of_edition(self.edition)}" if self.edition else ""
        return f"subject {self.subject}, {self.backbone}, {self.kind}{anew}"

    @property
    def edition(self) -> str:
        """Of the maps that its models read, as in a spec."""
        return str(self.settings.get("edition", ""))

    def fit_command(self, percent: float, seed: int) -> str:
        """The command line that fits another of its models, where settings are the defaults."""
        ways = {"--recipe": self.recipe, "--readout": self.readout if self.readout != "separable" else None}
        way = "".join(f" {name} {value}" for name, value in ways.items() if value)
        return (
            f"boldreams fit --subject {self.subject} --backbone {self.backbone} --percent {percent:g}{way}"
            f"{' --finetune' if self.finetuned else ''}{f' --seed {seed}' if seed else ''}"
        )


def said_of_edition(edition: str) -> str:
    """Which stimuli an edition of maps was made of, for people."""
    return f"changed ({edition[:6]})" if edition else "original"


def find_procedures(cache: Path, **selectors: Any) -> list[Procedure]:
    """Group the cache's models by all that decides them but their percent.

    Parameters
    ----------
    cache : to look in.
    selectors : as of `find_models`.
    """
    found: dict[tuple[str, int], Procedure] = {}
    for row in find_models(cache, **selectors):
        spec = ModelSpec.from_dict(read_json(row.folder / "spec.json"), row.folder / "spec.json")
        one = _procedure(spec)
        found.setdefault((one.key, one.seed), one).models[spec.percent] = row.folder
    return list(found.values())


def _procedure(spec: ModelSpec) -> Procedure:
    changing = ("percent", "seed", "device")
    settings = {name: value for name, value in spec.training.items() if name not in changing}
    weights = spec.backbone_weights
    return Procedure(
        *(spec.subject, spec.backbone, spec.readout, spec.recipe, spec.finetuned, spec.training.get("seed", 0)),
        settings={
            **settings,
            "weights": weights.get("start", weights["digest"]),  # of a finetuned model: what it started from
            "preprocessing": spec.preprocessing,
            "store": spec.store,
            "responses": spec.responses,
            "layers": list(spec.layers),
            **({"edition": spec.edition} if spec.edition else {}),  # of most none: their key is as it was before
        },
    )


def differing(procedures: Sequence[Procedure]) -> list[str]:
    """Which settings are not alike in fits of several subjects, with their values where these are short."""
    ways = [one.way for one in procedures]
    found = []
    for name in dict.fromkeys(name for way in ways for name in way):
        values = {fingerprint(way.get(name)): way.get(name) for way in ways}
        if len(values) > 1:
            short = all(not isinstance(value, Mapping) and len(str(value)) < 20 for value in values.values())
            found.append(f"{name} {' and '.join(map(str, values.values()))}" if short else name)
    return found


def choose_procedure(candidates: Sequence[Procedure], reference: float | None) -> Procedure:
    """The procedure whose percents are compared: the converged one, of the lowest seed.

    Parameters
    ----------
    candidates : of one subject and backbone.
    reference : percent that it must hold; None for any.

    Raises
    ------
    ChoiceError
        If none has several percents, or several have.
    MismatchError
        If it has no model of the reference.
    """
    several = [one for one in candidates if len(one.models) > 1]
    if not several:
        there, first = listing(f"{one.kind} {_percents(one)}" for one in candidates), candidates[0]
        another = next(percent for percent in (100, 10) if percent not in first.models)
        raise ChoiceError(
            f"subject {first.subject}, {first.backbone}: no two percents of one procedure; there: "
            f"{there}. Fit more, e.g. `{first.fit_command(another, first.seed)}`"
        )
    best = [one for one in several if one.converged] or several
    best = [one for one in best if reference in one.models] or best
    keys = {one.key for one in best}
    if len(keys) > 1:
        raise ChoiceError(
            f"subject {best[0].subject}, {best[0].backbone}: {len(best)} procedures; choose with {HOW_TO_CHOOSE}\n"
            + "\n".join(_described(best))
        )
    chosen = min(best, key=lambda one: one.seed)
    if reference is not None and reference not in chosen.models:
        raise MismatchError(
            f"{chosen.title}: no model of the reference, {reference:g} %; run `"
            f"{chosen.fit_command(reference, chosen.seed)}` and score it, or fix another of {_percents(chosen)}, "
            f"e.g. --reference {max(chosen.models):g}"
        )
    if left := [one for one in candidates if _but_stimuli(one) == _but_stimuli(chosen) and one.key != chosen.key]:
        said = listing(f"stimuli {said_of_edition(one.edition)}: {_percents(one)}" for one in left)
        logger.warning("%s: models of other stimuli are left out: %s", chosen.title, said)
    return chosen


def _but_stimuli(one: Procedure) -> Procedure:
    """The same whatever the edition of its maps, and without models."""
    settings = {name: value for name, value in one.settings.items() if name != "edition"}
    return replace(one, settings=settings, models={})


def _percents(one: Procedure) -> str:
    return ", ".join(f"{percent:g}" for percent in sorted(one.models)) + " %"


def _described(several: Sequence[Procedure]) -> list[str]:
    """One line each, with the settings in which they differ."""
    differ = sorted(
        name
        for name in {name for one in several for name in one.settings}
        if len({str(one.settings.get(name)) for one in several}) > 1
    )
    shown = [name for name in differ if name not in ("solver", "preprocessing", "layers")]
    return [
        f"{one.kind}, seed {one.seed}: {_percents(one)}; "
        + ", ".join(f"{name} {value}" for name, value in _told(one, shown))
        + f" (--model {min(one.models.items())[1].name})"
        for one in several
    ]


def _told(one: Procedure, names: Sequence[str]) -> list[tuple[str, Any]]:
    """Some settings, as people are told."""
    told = dict(one.settings) | {"edition": one.edition}
    return [
        ("stimuli", said_of_edition(told[name])) if name == "edition" else (name, told[name])
        for name in names
        if name in told
    ]


def read_influences(folders: Sequence[Path]) -> list[Influences]:
    """What `score` wrote of several models, over the same test images.

    Where no voxel of any has a noise ceiling, as of data that say none, mean r takes the place of r over ceiling, which
    the log says.

    Raises
    ------
    MismatchError
        If some are not scored, or of other test images.
    """
    found, missing = [], []
    for folder in folders:
        try:
            found.append(load_influences(folder))
        except MismatchError as error:
            logger.debug("%s", error)
            missing.append(folder)
    if missing:
        names = listing((str(Path(*folder.parts[-3:])) for folder in missing), 6)
        raise MismatchError(
            f"{len(missing)} of {len(folders)} models have no scores by image, or of other weights: {names}; run "
            f"`boldreams score --model {quoted(missing[0])}`{', and so on for each' if len(missing) > 1 else ''}"
        )
    for one, folder in zip(found, folders, strict=True):
        if one.images.tolist() != found[0].images.tolist():
            raise MismatchError(f"{folder} was scored on other test images than {folders[0]}; score both again")
    if any(np.isfinite(one.accuracy_value).any() for one in found):
        return found
    logger.warning("no noise ceiling is known: mean r is compared, not r over ceiling")
    return [replace(one, accuracy=one.r, accuracy_value=one.r_mean) for one in found]


def held_out_losses(procedure: Procedure) -> dict[float, float]:
    """The error of each percent on training images that its fit held or left out, mean over voxels.

    Raises
    ------
    ChoiceError
        If its fits hold none out.
    MismatchError
        If a fit knows no such error.
    """
    losses = {}
    for percent, folder in procedure.models.items():
        curve = read_log(folder / LOG)
        column = next((name for name in HELD_OUT if name in curve), None)
        if column is None:
            raise ChoiceError(
                f"{procedure.title}: its fits hold no training images out (log.csv has none of {', '.join(HELD_OUT)}); "
                "fit with --recipe fast or --readout ridge, or fix the reference: --reference 100"
            )
        known = [loss for loss in curve[column] if math.isfinite(loss)]
        if not known:
            raise MismatchError(f"{folder / LOG} has no {column} that is a number; fit it again, or fix the reference")
        losses[percent] = min(known)
    return losses


def models_of_seeds(procedure: Procedure, percent: float, count: int, cache: Path) -> list[Path]:
    """Models of one percent by the same procedure and so many seeds, its own first.

    Raises
    ------
    MismatchError
        If the cache holds fewer; the message says which fits to run.
    """
    same = [one for one in find_procedures(cache, subject=procedure.subject, backbone=procedure.backbone)
            if one.key == procedure.key and percent in one.models]  # fmt: skip
    folders = {one.seed: one.models[percent] for one in sorted(same, key=lambda one: one.seed)}
    folders = {procedure.seed: folders[procedure.seed], **folders}
    if len(folders) < count:
        free = (seed for seed in range(count + len(folders)) if seed not in folders)
        lines = [procedure.fit_command(percent, next(free)) for _ in range(count - len(folders))]
        raise MismatchError(
            f"{procedure.title}: {len(folders)} of {count} seeds at {percent:g} %; run and score: {'; '.join(lines)}"
        )
    return list(folders.values())[:count]
