"""The methods of a study in words, with its numbers filled in: for HTML, Markdown and BibTeX."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from boldreams_cli import __version__
from boldreams_cli.data.sessions import ranges
from boldreams_cli.data.subjects import folder_of
from boldreams_cli.interpret.attribution.methods import DEFAULT as METHOD
from boldreams_cli.study.report.assets import listed
from boldreams_cli.study.report.collect import Holdings, Model
from boldreams_cli.study.report.origins import by_subject, everything, images_of_test, sources_of, subjects, z_scoring
from boldreams_cli.study.report.references import REFERENCES

NUMBER = re.compile(r"\[\[(\w+)\]\]")
CITED = re.compile(r"\[@(\w+)\]")
GRIDS = {"ridge", "local", "stacked"}  # readouts without receptive fields
KINDS = {
    "paper": "single trials, mean squared error, Adam [@adam], the published recipe, which after its epochs is not "
    "converged",
    "fast": "one mean beta per image, receptive fields interpolated from a coarse grid, scaled filters and Adam "
    "[@adam] with a decaying rate, each voxel keeping the epoch that predicted held-out training images best",
    "ridge": "ridge regression on filters pooled on a grid, the penalty of each voxel chosen by leaving out one "
    "training image at a time",
    "local": "ridge regression on filters pooled on a grid, whose prior is a Gaussian receptive field, field and "
    "penalty of each voxel chosen by leaving out one training image at a time",
    "stacked": "a mixture, with non-negative weights of each voxel, of ridge regressions near each of many Gaussian "
    "receptive fields and of one layer at a time, penalties and weights chosen by leaving out one training image at a "
    "time",
    "attention": "fields that depend on the image, a softmax over the nodes of a grid of what each voxel's query finds "
    "there and a position bias, and linear weights, by Adam [@adam] with a decaying rate, keeping the epoch that "
    "predicted held-out training images best",
    "gaussian": "Gaussian receptive fields out of a fixed set with ridge weights, field and penalty chosen by leaving "
    "out one training image at a time",
}

OBJECTIVES = {  # of dreams
    "mean": "the highest mean predicted response of a target",
    "diversity": "the highest mean predicted response of a target that differ from each other",
    "target": "predicted betas nearest to given ones",
    "contrast": "the largest difference of two areas' predicted responses",
    "both": "the highest predicted response of two areas at once",
}
PARAMETERS = {
    "fourier": "an image's decorrelated Fourier coefficients",
    "pixel": "an image's decorrelated pixels",
    "maco": "the phases of an image's Fourier coefficients, whose magnitudes are those of natural images",
}
GRADIENTS_ON_A_LINE = {METHOD, "captum-ig"}
BASELINES = {"black": "a black image", "mean": "an image of the mean colour", "blur": "the blurred image"}


@dataclass
class Methods:
    """Paragraphs with places for numbers, ``[[name]]``, and citations, ``[@key]``.

    Parameters
    ----------
    paragraphs : of the text.
    numbers : name -> value in full, and the digits that the text shows; None shows it as it is.
    """

    paragraphs: list[str] = field(default_factory=list)
    numbers: dict[str, tuple[float | int, int | None]] = field(default_factory=dict)

    def number(self, name: str, value: float, digits: int | None = None) -> str:
        """Remember a number; its place in the text."""
        self.numbers[name] = (value, digits)
        return f"[[{name}]]"

    @property
    def cited(self) -> list[str]:
        """Keys of the works cited, in order."""
        return list(dict.fromkeys(key for text in self.paragraphs for key in CITED.findall(text)))

    def shown(self, name: str) -> str:
        """A number as the text has it."""
        value, digits = self.numbers[name]
        if digits is None:
            return f"{value:g}" if isinstance(value, float) else f"{value:,}"
        return f"{value:.{digits}f}".replace("-", "−")

    def markdown(self) -> str:
        """With pandoc's citations."""
        paragraphs = [NUMBER.sub(lambda found: self.shown(found[1]), text) for text in self.paragraphs]
        return "\n\n".join(["# Methods", *paragraphs]) + "\n"

    def html(self) -> str:
        """Paragraphs; numbers carry their value in full, citations lead to the references."""

        def number(found: re.Match[str]) -> str:
            value, _ = self.numbers[found[1]]
            return f'<data value="{value!r}">{self.shown(found[1])}</data>'

        def citation(found: re.Match[str]) -> str:
            return f'(<a href="#ref-{found[1]}">{html.escape(REFERENCES[found[1]].short)}</a>)'

        texts = (CITED.sub(citation, NUMBER.sub(number, html.escape(text))) for text in self.paragraphs)
        return "\n".join(f"<p>{text}</p>" for text in texts)

    def bibtex(self) -> str:
        """Entries of all that is cited."""
        return "\n\n".join(REFERENCES[key].bibtex(key) for key in self.cited) + "\n"


def methods(held: Holdings) -> Methods:
    """Write the methods of what a cache holds."""
    text = Methods()
    text.paragraphs += list(_data(held, text))
    if held.models:
        text.paragraphs.append(_models(held.models, text))
    if held.scored:
        text.paragraphs.append(_accuracy(held, text))
    if pictures := _pictures(held, text):
        text.paragraphs.append(pictures)
    if held.minimals:
        text.paragraphs.append(_minimal(held, text))
    return text


def _data(held: Holdings, text: Methods) -> Iterator[str]:
    prepared = [subject for subject in held.subjects if subject.responses is not None]
    if not prepared:
        return
    sentences = []
    for subject in prepared:
        said, number = subject.responses or {}, subject.number
        names = ("train_trials", "train_images", "test_trials", "test_images", "voxels")
        values = (said["train"]["trials"], said["train"]["images"], said["test"]["trials"], said["test"]["images"],
                  said["voxels"])  # fmt: skip
        name = _slug(folder_of(number))
        at = {key: text.number(f"{name}_{key}", value) for key, value in zip(names, values, strict=True)}
        sessions = "" if said["zscore"] == "training" else f" (sessions {ranges(said['sessions'])})"
        sentences.append(
            f"subject {number}{sessions}: {at['train_trials']} trials of "
            f"{at['train_images']} images for training and {at['test_trials']} trials of {at['test_images']} images "
            f"for testing, {at['voxels']} {said['units']}"
        )
    kinds = {str(said.get("preparation") or "") for said in
             (subject.responses or {} for subject in prepared) if said.get("dataset") != "file"}  # fmt: skip
    betas = listed([f"of {kind}" if kind else "in the 1.8 mm functional space" for kind in sorted(kinds)])
    masks = {str(said["mask"] or everything(said)) for said in (subject.responses or {} for subject in prepared)}
    own = [said for subject in prepared if (said := subject.responses or {})["dataset"] == "file"]
    parts = []
    if len(own) < len(prepared):
        parts.append(
            "Responses to natural images were read from files in the layout of the Natural Scenes Dataset [@nsd]: "
            f"single-trial betas {betas}, z-scored for each voxel and session. The images that all "
            "subjects saw were held out for testing."
        )
    if own:
        files = [subject for subject in prepared if (subject.responses or {})["dataset"] == "file"]
        parts.append(
            f"Responses to images were read from data files, {by_subject(files, z_scoring)}. Held out for testing were "
            f"{by_subject(files, images_of_test)}."
        )
    units = listed(sorted({str((subject.responses or {})["units"]) for subject in prepared})).capitalize()
    yield " ".join([*parts, f"Of {'; '.join(sentences)}. {units} were those of {listed(sorted(masks))}."])


def _models(models: list[Model], text: Methods) -> str:
    backbones = []
    for name in dict.fromkeys(model.row.backbone for model in models):
        largest = max((m for m in models if m.row.backbone == name), key=lambda model: model.row.percent)
        layers = text.number(f"{_slug(name)}_layers", len(largest.spec["layers"]))
        source = (largest.spec.get("backbone_weights") or {}).get("source", "unknown")
        backbones.append(f"{name} ({layers} layers, weights: {_file(source)})")
    percents = sorted({model.row.percent for model in models})
    shares = listed([text.number(f"percent_{place}", value) for place, value in enumerate(percents)])
    kinds = []
    for kind in dict.fromkeys(model.row.kind for model in models):
        settings = {_decisive(model.spec.get("training") or {}) for model in models if model.row.kind == kind}
        said = "; ".join(", ".join(f"{k} {v}" for k, v in json.loads(one).items()) for one in sorted(settings)[:3])
        kinds.append(f"{kind}: {KINDS.get(kind, 'see the settings')} ({said})")
    tuned = " In models called finetuned the backbone was trained too." * any(m.row.finetuned for m in models)
    seeds = listed(sorted({str(model.row.seed) for model in models}))
    grids = GRIDS & {model.row.readout for model in models}
    at_nodes = f" ({listed(sorted(grids))}: through a weight for each filter at each node of a grid)" if grids else ""
    return (
        f"{text.number('models', len(models))} encoding models were fitted with boldreams {__version__} [@boldreams], "
        "which reads activation maps of a network through a receptive field and a weight per filter for each voxel "
        f"[@fwrf]{at_nodes}. Networks: {'; '.join(backbones)}. Of each layer the {shares} % of filters were read whose "
        "spatial mean varied most over the training images (standard deviation); test images took no part in the "
        "choice. "
        f"Fits: {'; '.join(kinds)}. Seeds: {seeds}.{tuned}"
    )


def _decisive(training: dict[str, Any]) -> str:
    left = ("percent", "seed", "device", "solver")
    return json.dumps({key: value for key, value in training.items() if key not in left}, sort_keys=True)


def _accuracy(held: Holdings, text: Methods) -> str:
    over_images = any("r_image_se" in (model.scores or {}) for model in held.scored)
    certainty = (
        "The random sample is the test images, as voxels share noise: standard errors of means over voxels are "
        "standard deviations over images of the voxels' mean influence on r, over the square root of the number of "
        "images; intervals are Student's. q values of voxels are by Benjamini and Hochberg [@bh], of one-sided p by "
        "Student's t of r or by permutations of images. "
    )
    return (
        "Accuracy is Pearson r of each voxel between prediction and betas averaged over the repeats of each test "
        f"image. {_ceilings(held)} {certainty * over_images}{_highest(held, text)}"
    ).strip()


def _ceilings(held: Holdings) -> str:
    """What r is compared with."""
    found = sources_of(held.scored, held.subjects)
    without, known = found.pop("", []), found
    if not known:
        return "No noise ceiling is known that it could be compared with."
    where = listed([f"{text}{f' ({subjects(names)})' * (len(known) > 1)}" for text, names in known.items()])
    none = f" None is known of {subjects(without)}." if without else ""
    return (
        "It is compared with the noise ceiling, the square root of ncsnr² / (ncsnr² + mean of 1/repeats) [@nsd], with "
        f"{where}.{none}"
    )


def _highest(held: Holdings, text: Methods) -> str:
    """The best model's mean r and its ceiling; empty where no model has one."""
    known = [model for model in held.scored if (model.scores or {})["r_mean"] is not None]
    if not known:
        return ""
    best = max(known, key=lambda model: float((model.scores or {})["r_mean"]))
    scores = best.scores or {}
    said = text.number("best_r_mean", scores["r_mean"], 3)
    if scores.get("r_ci") and scores["r_ci"][0] is not None:
        low, high = (
            text.number(f"best_r_{end}", scores["r_ci"][place], 3) for place, end in enumerate(("low", "high"))
        )
        said += f" (95 % interval over images {low} to {high})"
    said = f"The highest mean r was {said}, by {best.label}, subject {best.subject}"
    if scores["ceiling_mean"] is None:
        return f"{said}."
    ceiling = text.number("best_ceiling", float(scores["ceiling_mean"]), 3)
    return f"{said}; the noise ceiling of its voxels was {ceiling} on average."


def _pictures(held: Holdings, text: Methods) -> str:
    made = {kind: [kept for model in held.models for kept in model.products if kept.kind == kind]
            for kind in ("dream", "attribution", "words")}  # fmt: skip
    said = []
    if made["dream"]:
        steps = sorted({kept.description["settings"]["steps"] for kept in made["dream"]})
        shown = listed([text.number(f"dream_steps_{place}", value) for place, value in enumerate(steps)])
        named = [str(kept.description.get("objective", "mean")) for kept in made["dream"]]
        aims = dict.fromkeys(OBJECTIVES.get(name, name) for name in named)
        ways = dict.fromkeys(_parameterization(kept.description) for kept in made["dream"])
        said.append(
            f"{text.number('dreams', len(made['dream']))} dreams, images of {listed(list(aims))}, were made by {shown} "
            f"steps of gradient ascent on {listed(list(ways))} under small random transformations [@visualization]."
        )
    if made["attribution"]:
        said.append(_attention([kept.description for kept in made["attribution"]], text))
    if made["words"]:
        vocabularies = listed(sorted({str(kept.description["vocabulary"]) for kept in made["words"]}))
        matchers = listed(sorted({str(kept.description["matcher"]) for kept in made["words"]}))
        clip = " [@clip]" * any(kept.description.get("score") in ("cosine", "contrast") for kept in made["words"])
        said.append(f"Word clouds show the words of the vocabulary {vocabularies} that fit best by {matchers}{clip}.")
    return " ".join(said)


def _parameterization(said: Mapping[str, Any]) -> str:
    """What the ascent changed."""
    name = str(said["settings"].get("parameterization", "fourier"))
    return PARAMETERS.get(name, name)


def _attention(made: Sequence[Mapping[str, Any]], text: Methods) -> str:
    """By which methods, how many steps, and against what."""
    found: dict[tuple[str, str], set[int]] = {}
    for said in made:
        way = str(said.get("method", METHOD)), str(said.get("baseline") or "")
        found.setdefault(way, set()).update([int(said["steps"])] if said.get("steps") else [])
    ways, place = [], 0
    for (method, baseline), steps in sorted(found.items(), key=lambda item: (item[0][0] != METHOD, item[0])):
        shown = [text.number(f"attribution_steps_{place + more}", value) for more, value in enumerate(sorted(steps))]
        place += len(shown)
        ways.append(
            (f"{method.replace('-', ' ')}" + " [@ig]" * (method in GRADIENTS_ON_A_LINE))
            + (f" of {listed(shown)} steps" if shown else "")
            + (f" from {BASELINES.get(baseline, baseline)}" if baseline else "")
        )
    return f"Attention maps are by {listed(ways)}."


def _minimal(held: Holdings, text: Methods) -> str:
    said = []
    for place, study in enumerate(held.minimals):
        row = study.said["rois"].get("all")
        if row and row.get("percent") is not None:
            found = text.number(f"minimal_{place}", row["percent"])
            who = f"subject {study.said.get('subject')}, {study.said.get('backbone')}"
            said.append(f"{who} ({_question(study.said, place, text)}): {found} % of the filters")
    results = f" Over all voxels that was, for {'; '.join(said)}." if said else ""
    plain = dict.fromkeys(
        study.said.get("subject", "unknown") for study in held.minimals if study.said.get("measure", "A") != "A"
    )
    without = f" Of {subjects(list(plain))}, without noise ceilings, it is mean r." if plain else ""
    return (
        "The minimal model is the smallest percent of filters whose noise-normalised accuracy A (sum of r over sum of "
        "noise ceilings, voxels with a ceiling of at least 0.2) is not inferior to that of the reference by more than "
        "the margin, by the one-sided 95 % bound over test images, percents tested in descending order up to the "
        f"first that failed.{without}{results}"
    )


def _question(said: Mapping[str, Any], place: int, text: Methods) -> str:
    """Margin, reference and test images of a minimal model, without which its percent says nothing."""
    asked = []
    if isinstance(margin := said.get("margin"), float):
        asked.append(f"margin {text.number(f'minimal_{place}_margin', round(100 * margin, 6))} %")
    if isinstance(reference := said.get("reference"), int | float):
        asked.append(f"reference {text.number(f'minimal_{place}_reference', reference)} % of the filters")
    if isinstance(images := said.get("images"), int):
        asked.append(f"{text.number(f'minimal_{place}_images', images)} test images")
    return ", ".join(asked)


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def _file(source: Any) -> str:
    return str(source).rsplit("/", 1)[-1]
