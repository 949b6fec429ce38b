"""What a cache holds, as the report needs it; what cannot be read is said, and left out."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import quoted
from boldreams_cli.data.dataset import Dataset
from boldreams_cli.data.prepared.preparing import complete_stores
from boldreams_cli.data.responses import Responses
from boldreams_cli.data.subjects import Subject as SubjectName
from boldreams_cli.data.subjects import in_order, subject_of_store
from boldreams_cli.encoding.evaluation.retinotopy import degrees_of
from boldreams_cli.encoding.evaluation.saved.identity import FORMAT
from boldreams_cli.encoding.model.folder import ModelRow, find_models
from boldreams_cli.files import read_json
from boldreams_cli.interpret.products import Kept, find_products
from boldreams_cli.study.cells.manifest import MANIFEST, MISSING, RUNNING
from boldreams_cli.study.cells.manifest import Study as Sweep
from boldreams_cli.study.report import variants
from boldreams_cli.study.report.findings import Findings
from boldreams_cli.study.sweep import State, look, recognise

ARRAYS = ("r", "r_single", "ceiling", "ceiling_single", "excluded_voxels")
FAR_OFF = 0.01  # an attribution whose sum is off by more is said
Scores = Mapping[str, Any]


@dataclass
class Model:
    """One fitted model.

    Parameters
    ----------
    row : what tells it from others.
    spec : its spec.json.
    scores : its scores.json but the arrays of voxels; None where there are none.
    r, ceiling : (voxels,) float32; empty where there are no scores.
    products : finished dreams, attributions, words.
    other_tests : name -> scores of images that are not the data's test: NSD-synthetic, folds of the training images.
    variant : settings that tell it from models that are called the same; empty where there are none.
    seeded : whether its subject has models that differ from it in their seed.
    """

    row: ModelRow
    spec: dict[str, Any]
    scores: Scores | None = None
    r: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    ceiling: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    products: list[Kept] = field(default_factory=list)
    other_tests: dict[str, Scores] = field(default_factory=dict)
    variant: str = ""
    seeded: bool = False

    @property
    def subject(self) -> SubjectName:
        """Its number or name."""
        return self.row.subject

    @property
    def kind(self) -> str:
        """Recipe or readout, whether the backbone was trained too, and settings that others have not."""
        return self.row.kind + (", finetuned" if self.row.finetuned else "") + (self.variant and f", {self.variant}")

    @property
    def family(self) -> tuple[str, str]:
        """Models of a family differ in percent, subject and seed only."""
        return self.row.backbone, self.kind

    @property
    def label(self) -> str:
        """What people call it, beside others of its subject."""
        seed = f", seed {self.row.seed}" if self.seeded else ""
        return f"{self.row.backbone} {self.row.percent:g} %, {self.kind}{seed}"

    @property
    def order(self) -> tuple[Any, ...]:
        """Position in lists."""
        way = self.row.backbone, self.row.finetuned, self.kind, self.row.percent, self.row.seed or 0
        return *way, in_order(self.subject)

    @cached_property
    def voxel_table(self) -> dict[str, list[str]]:
        """Columns of its voxels.csv as text; empty where there is none."""
        path = self.row.folder / "voxels.csv"
        if not path.is_file():
            return {}
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
        return {name: [row[place] for row in rows] for place, name in enumerate(header)}

    def column(self, name: str) -> NDArray[np.float64] | None:
        """Numbers of a column of its voxels.csv, NaN where empty; None where there is no such column."""
        if name not in self.voxel_table:
            return None
        return np.array([float(text) if text else np.nan for text in self.voxel_table[name]])


@dataclass(frozen=True)
class Space:
    """Where the voxels of a subject lie.

    Parameters
    ----------
    shape : (X, Y, Z) of its volumes.
    affine : (4, 4), voxel indices to mm.
    voxels : (V, 3) indices.
    areas : name -> (V,) bool.
    mask : which voxels these are; models of another mask have others.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    voxels: NDArray[np.int32]
    areas: dict[str, NDArray[np.bool_]]
    mask: Any = None


@dataclass
class Subject:
    """One subject.

    Parameters
    ----------
    number : of it, or its name.
    responses : what is said of its prepared responses; None where the cache holds none.
    space : where its voxels lie; None where that is not known, and of vertices.
    models : in the order of lists.
    meshes : that its vertices lie on; None of voxels.
    """

    number: SubjectName
    responses: dict[str, Any] | None
    space: Space | None
    models: list[Model]
    meshes: str | None = None


@dataclass(frozen=True)
class Study:
    """A finished comparison or minimal model: its folder, and its JSON object."""

    folder: Path
    said: dict[str, Any]


@dataclass
class Holdings:
    """All that the cache holds.

    Parameters
    ----------
    cache : folder.
    subjects : by number.
    compares, minimals : studies.
    sweeps : how far each is, and the scores of its cells.
    findings : what went wrong so far.
    dataset : for the volumes that maps are laid on; None lays them on the voxels used.
    """

    cache: Path
    subjects: list[Subject]
    compares: list[Study]
    minimals: list[Study]
    sweeps: list[State]
    findings: Findings
    dataset: Dataset | None = None

    @property
    def models(self) -> list[Model]:
        """Of all subjects, in the order of lists."""
        return sorted((model for subject in self.subjects for model in subject.models), key=lambda model: model.order)

    @property
    def scored(self) -> list[Model]:
        """Those with scores."""
        return [model for model in self.models if model.scores is not None]


def collect(cache: Path, dataset: Dataset | None = None) -> Holdings:
    """Look through a cache. Weights and betas are not read; `dataset` as in `Holdings`."""
    findings = Findings()
    found: dict[SubjectName, list[Model]] = {}
    for row in find_models(cache):
        with findings.kept_going(row.folder, "fit it again, or remove it"):
            found.setdefault(row.subject, []).append(_model(row, findings))
    _say_what_is_no_model(cache, {model.row.folder for models in found.values() for model in models}, findings)
    _tell_apart(found)
    subjects = [
        _subject(cache, number, sorted(found.get(number, []), key=lambda model: model.order), findings)
        for number in sorted(found.keys() | _prepared(cache), key=in_order)
    ]
    return Holdings(
        cache,
        subjects,
        _studies(cache, "compare", findings),
        _studies(cache, "minimal", findings),
        _sweeps(cache, findings),
        findings,
        dataset,
    )


def _tell_apart(found: Mapping[SubjectName, list[Model]]) -> None:
    """Give models of one subject names of their own, the same ones in every subject."""
    for family in {model.family for models in found.values() for model in models}:
        subjects = [[model for model in models if model.family == family] for models in found.values()]
        named = variants.names_of([[model.spec for model in models] for models in subjects])
        for models, names in zip(subjects, named, strict=True):
            for model, name in zip(models, names, strict=True):
                model.variant, model.seeded = name, len({other.row.seed for other in models}) > 1


def _model(row: ModelRow, findings: Findings) -> Model:
    model = Model(row, read_json(row.folder / "spec.json"))
    scores_file = row.folder / "scores.json"
    again = f"`boldreams score --model {quoted(row.folder)} --overwrite`"
    if scores_file.is_file():
        with findings.kept_going(scores_file, again):
            _add_scores(model, read_json(scores_file), findings, again)
    else:
        findings.warn(row.folder, "has no scores", f"`boldreams score --model {quoted(row.folder)}`")
    with findings.kept_going(row.folder, "`boldreams info` lists what is damaged"):
        model.products = [kept for kept in find_products(row.folder) if _usable(kept, model, findings)]
    return model


def _add_scores(model: Model, scores: Any, findings: Findings, again: str) -> None:
    where = model.row.folder / "scores.json"
    if not isinstance(scores, dict):
        raise ValueError("it is no JSON object")
    if scores.get("weights_digest") != model.spec.get("weights_digest"):
        findings.error(where, "belongs to other weights and is left out", again)
        return
    r, ceiling = (np.array(scores[name], np.float32) for name in ("r", "ceiling"))
    if not len(r) == len(ceiling) == scores["voxels"] == model.spec["voxels"]:
        raise ValueError(f"it has {len(r)} correlations of {model.spec['voxels']} voxels")
    for row in [scores, *scores["rois"].values()]:
        _ = row["r_mean"], row["ceiling_mean"], row["voxels"]
    model.r, model.ceiling = r, ceiling
    model.scores = {name: value for name, value in scores.items() if name not in ARRAYS}
    if scores.get("excluded"):
        said = f"{scores['excluded']} of {scores['voxels']} voxels have no correlation and are left out of all means"
        findings.warn(where, said, "scores.json names them")
    if scores.get("format") != FORMAT:
        findings.warn(where, "is of an earlier version, whose errors, p or q may differ from those of others", again)
    if isinstance(folds := scores.get("folds"), dict):
        model.other_tests[f"training images, {folds['folds']} folds"] = folds
    for path in sorted(where.parent.glob("scores-*.json")):
        with findings.kept_going(path, again):
            other = dict(read_json(path))
            if other["weights_digest"] == model.spec.get("weights_digest"):
                model.other_tests[str(other["test"])] = other


def _usable(kept: Kept, model: Model, findings: Findings) -> bool:
    where = f"{model.row.folder}: {kept.kind} {kept.name}"
    if not kept.is_of(model.spec.get("weights_digest", "")):
        text = "belongs to other weights and is left out: the model was fitted again since"
        findings.error(where, text, "the same command makes another, and this one can be deleted")
        return False
    if kept.state == "damaged":
        findings.error(where, "is damaged and left out", "make it again with `--overwrite`")
    elif kept.state != "done":
        findings.warn(where, "was stopped before it was finished and is left out", "the same command goes on")
    said = kept.description
    off = said.get("relative_delta", said.get("completeness_error"))  # the latter of earlier versions
    if kept.kind == "attribution" and isinstance(off, float) and abs(off) > FAR_OFF:
        text = f"the attribution's sum is off by {100 * abs(off):.1f} % of what it should add up to"
        findings.warn(where, text, "use more `--steps`")
    return kept.state == "done"


def _say_what_is_no_model(cache: Path, known: Iterable[Path], findings: Findings) -> None:
    there = set(known) | set((cache / "models").glob("*/*/.*"))
    for folder in sorted(set((cache / "models").glob("*/*/*")) - there):
        if (folder / "spec.json").is_file():
            findings.error(folder, "its spec.json cannot be read", "fit it again, or remove it")
        elif any(folder.glob("checkpoint*")) or (folder / "spans").is_dir():
            findings.warn(folder, "is not finished", "the same `boldreams fit` goes on")


def _sweeps(cache: Path, findings: Findings) -> list[State]:
    """All that can be read; cells that failed or are to do are said."""
    found = []
    for path in sorted((cache / "studies").glob(f"*/{MANIFEST}")):
        with findings.kept_going(path, "run the sweep again"):
            study = Sweep.load(path)
            state = recognise(look(study))
            for number, why in state.why.items():
                again = "the same `boldreams sweep` runs it again"
                findings.error(f"{study.name}, cell {number} ({study.cells[number]})", f"failed: {why}", again)
            if unfinished := state.of(RUNNING, MISSING):
                said = f"{len(unfinished)} of {len(study.cells)} cells are not done"
                findings.warn(study.name, said, "the same `boldreams sweep` runs what is missing")
            found.append(state)
    return found


def _prepared(cache: Path) -> set[SubjectName]:
    found = (subject_of_store(path.name) for path in (cache / "responses").glob("*.zarr"))
    return {subject for subject in found if subject is not None}


def _subject(cache: Path, number: SubjectName, models: list[Model], findings: Findings) -> Subject:
    wanted = Counter(str(model.spec.get("responses")) for model in models)
    if len(wanted) > 1:
        said = f"its models were fitted to {len(wanted)} different sets of responses; they are not comparable"
        findings.warn(f"subject {number}", said, "models of one set of sessions and one mask are")
    stores = []
    with findings.kept_going(f"responses of subject {number}", f"`boldreams prepare --subject {number}`"):
        stores = complete_stores(cache, number)
    chosen = [path for name, _ in wanted.most_common() for path in stores if path.stem.endswith(name)] or stores
    for path in chosen[:1]:
        with findings.kept_going(path, f"`boldreams prepare --subject {number}`"):
            opened = Responses.open(path)
            areas = {name: opened.areas.select(name) for name in opened.areas.counts()}
            meshes = opened.areas.space
            mask = opened.request.get("mask")
            space = Space(opened.shape, opened.affine, opened.voxels, areas, mask) if meshes is None else None
            return Subject(number, _described(opened), space, models, meshes)
    if not stores:
        said = "the cache does not hold its responses: no split, and a map only where scores have voxel tables"
        findings.warn(f"subject {number}", said, f"`boldreams prepare --subject {number}`")
    space, meshes = None, None
    with findings.kept_going(f"voxel tables of subject {number}"):
        space = next((found for model in models if (found := _space_of(model)) is not None), None)
        if space is None:  # a table takes some MB, and is kept
            meshes = next((table[0] for model in models if (table := model.voxel_table.get("space"))), None)
    return Subject(number, None, space, models, meshes)


def _described(responses: Responses) -> dict[str, Any]:
    repeats = responses.repeats(responses.test_images)
    ncsnr = responses.ncsnr[np.isfinite(responses.ncsnr)]
    degrees = degrees_of(responses)
    facts = {
        "dataset": responses.request.get("dataset"),
        "test_kind": responses.request.get("test"),
        "degrees": degrees if np.isfinite(degrees) else None,
        "zscore": responses.request.get("zscore", "session"),
        "mask": responses.mask,
        "units": responses.units.plural,
        "test_repeats": float(repeats.mean()),
        "fingerprint": responses.fingerprint,
    }
    return responses.summary() | facts | {"ncsnr_median": float(np.median(ncsnr)) if len(ncsnr) else None}


def _space_of(model: Model) -> Space | None:
    """Of a model's own files, where the responses are gone."""
    import nibabel

    path = model.row.folder / "correlation.nii.gz"
    table = model.voxel_table
    if not path.is_file() or {"x", "y", "z", "areas"} - table.keys():
        return None
    image: Any = nibabel.load(path)
    voxels = np.array([table[axis] for axis in "xyz"], np.float64).T.astype(np.int32)
    inside = [set(names.split(";")) for names in table["areas"]]
    groups = (model.scores or {}).get("rois", {})
    areas = {name: np.array([name in names for names in inside]) for name in groups}
    x, y, z = image.shape
    return Space((x, y, z), np.asarray(image.affine), voxels, areas, model.spec.get("mask"))


def _studies(cache: Path, name: str, findings: Findings) -> list[Study]:
    found = []
    for path in sorted((cache / "studies" / name).glob(f"*/{name}.json")):
        with findings.kept_going(path, f"run `boldreams {name}` again"):
            said = read_json(path)
            _ = dict(said["rois"])
            found.append(Study(path.parent, said))
    return found
