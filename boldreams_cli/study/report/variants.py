"""What tells models apart that differ in more than lists usually say: their settings, their seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from boldreams_cli.files import fingerprint

# Of a spec's training: what lists say already, what follows from the data, and what decides no number.
SAID = ("percent", "seed", "device", "solver", "steps")
CHOSEN = ("layers", "map")  # by whoever extracted, never by a solver: models of two never are one kind
DIGITS = 6  # of a model's key, where nothing else tells it apart


def way(spec: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a model's training but those that lists say, and which maps it reads."""
    training = spec.get("training") or {}
    found = {name: value for name, value in training.items() if name not in SAID}
    weights = spec.get("backbone_weights") or {}
    return found | {
        "weights": weights.get("start", weights.get("digest")),
        "responses": spec.get("responses"),
        "layers": list(spec.get("layers") or ()),
        "map": (spec.get("preprocessing") or {}).get("map", "signed"),
    }


def names_of(subjects: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """What to add to the names of models that are called the same but for percent and seed; empty where they are alike.

    Only models of one subject, percent and seed say that their settings differ on purpose: epochs that a solver chooses
    by itself may differ from percent to percent. Layers and maps are always chosen on purpose, whatever the percent.
    What differs in one subject is named in all, so that those of equal settings are called the same.

    Parameters
    ----------
    subjects : of each, the specs of its models of one backbone and recipe or readout.
    """
    ways = [[way(spec) for spec in specs] for specs in subjects]
    differ = [_differing(specs, mine) for specs, mine in zip(subjects, ways, strict=True)]
    everywhere = set().union(*differ) - {"responses"}  # which are each subject's own
    everywhere |= _of_several([one for mine in ways for one in mine]) & set(CHOSEN)
    return [
        [", ".join(f"{name} {_said(one.get(name))}" for name in sorted(everywhere | names)) for one in mine]
        for mine, names in zip(ways, differ, strict=True)
    ]


def _differing(specs: Sequence[Mapping[str, Any]], ways: Sequence[Mapping[str, Any]]) -> set[str]:
    """Settings that are not the same among models of one percent and seed."""
    alike: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for spec, one in zip(specs, ways, strict=True):
        alike[spec.get("percent"), (spec.get("training") or {}).get("seed")].append(one)
    found: set[str] = set()
    for several in alike.values():
        found |= _of_several(several)
    return found


def _of_several(ways: Sequence[Mapping[str, Any]]) -> set[str]:
    """Settings that are not the same in all."""
    names = {name for one in ways for name in one}
    return {name for name in names if len({fingerprint(one.get(name)) for one in ways}) > 1}


def _said(value: Any) -> str:
    """A setting, short."""
    if isinstance(value, str):
        return value[:DIGITS] if len(value) > 20 else value
    if isinstance(value, Iterable):
        return json.dumps(value) if len(json.dumps(value)) < 30 else fingerprint(value)[:DIGITS]
    return f"{value:g}" if isinstance(value, float) else str(value)
