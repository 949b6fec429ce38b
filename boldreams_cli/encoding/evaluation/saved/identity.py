"""What tells one model from another in its scores, and what decides them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from boldreams_cli.files import fingerprint

if TYPE_CHECKING:
    from boldreams_cli.encoding.model.spec import ModelSpec

FORMAT = 5  # of scores.json and the files beside it


def identity(spec: ModelSpec) -> dict[str, Any]:
    """What tells one model from another, for JSON."""
    return {
        "subject": spec.subject,
        "backbone": spec.backbone,
        "percent": spec.percent,
        "readout": spec.readout,
        "recipe": spec.recipe,
        "finetuned": spec.finetuned,
        "seed": spec.training.get("seed"),
    }


def key_of(spec: ModelSpec, test: dict[str, Any] | None = None) -> str:
    """Hash of all that decides the scores of a model; `test` is the identity of images that are not of its data."""
    decisive = [FORMAT, spec.weights_digest, spec.backbone_weights["digest"], spec.responses, spec.store]
    return fingerprint([*decisive, test] if test else decisive)
