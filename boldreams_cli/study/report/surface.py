"""Maps of vertices: the picture that `score --mesh` drew, with the values beside it; or what draws one."""

from __future__ import annotations

from boldreams_cli.console import quoted
from boldreams_cli.data.subjects import folder_of
from boldreams_cli.study.report.assets import Assets, columns
from boldreams_cli.study.report.blocks import Figure, Note, Row, Table
from boldreams_cli.study.report.collect import Model, Subject

PICTURE = "figures/surface.png"  # in a model's folder
PLACES = ("space", "hemisphere", "vertex", "areas")


def surface(subject: Subject, assets: Assets) -> list[Figure | Note]:
    """Of the best scored model that has one; empty where the subject has no scored model."""
    scored = [model for model in subject.models if model.scores is not None]
    scored.sort(key=lambda model: -((model.scores or {}).get("r_mean") or -1))
    if not scored:
        return []
    drawn = next((model for model in scored if (model.row.folder / PICTURE).is_file()), None)
    if drawn is None:
        return [
            Note(
                f"Subject {subject.number}: data of vertices ({subject.meshes}) are drawn where a mesh is given: "
                f"`boldreams score --model {quoted(scored[0].row.folder)} --mesh DIR`, then the report again."
            )
        ]
    name = f"brain-{folder_of(subject.number)}"
    files = assets.table(_table(name, drawn, scored), on_page=False)
    picture, more = assets.copied(drawn.row.folder / PICTURE, name, "figures", inked=False)
    return [
        Figure(
            name,
            f"Subject {subject.number}",
            f"r of {drawn.label} on the cortex's surface ({subject.meshes}). Values of all models by vertex are in the "
            "CSV.",
            f"r with test betas of {drawn.label} on the surface of subject {subject.number}; the values are in the "
            "CSV.",
            picture,
            None,
            more | files,
        )
    ]


def _table(name: str, drawn: Model, scored: list[Model]) -> Table:
    """Where each vertex lies, and r of every model of as many."""
    places = {key: drawn.voxel_table[key] for key in PLACES}
    alike = [model for model in scored if model.spec.get("mask") == drawn.spec.get("mask")]
    values = {f"r {model.row.folder.name}": model.r for model in alike if len(model.r) == len(drawn.r)}
    rows: list[Row] = [
        {key: found[number] for key, found in places.items()} | {key: float(r[number]) for key, r in values.items()}
        for number in range(len(drawn.r))
    ]
    return Table(name, "r by vertex", columns(*((key, key, 4) for key in (*PLACES, *values))), rows)
