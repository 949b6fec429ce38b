"""What tells models apart that differ in more than lists usually say: their settings, their seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from boldreams_cli.files import fingerprint
from boldreams_cli.study.procedures import said_of_edition

# Of a spec's training: what lists say already, what follows from the data, and what decides no number.
SAID = ("percent", "seed", "device", "solver", "steps")
CHOSEN = ("layers", "map")  # by whoever extracted, never by a solver: models of two never are one kind
READ = ("stimuli", "store")  # each subject's own, or shared by some; models of two never are one kind
OWN = ("responses", *READ)
DIGITS = 6  # of a model's key, where nothing else tells it apart


def way(spec: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a model's training but those that lists say, and which maps and stimuli it reads."""
    training = spec.get("training") or {}
    found = {name: value for name, value in training.items() if name not in (*SAID, "pixels")}
    resized = training.get("pixels") or training.get("stimuli")  # of a finetuned model, which reads no maps
    weights = spec.get("backbone_weights") or {}
    return found | {
        "weights": weights.get("start", weights.get("digest")),
        "responses": spec.get("responses"),
        "store": spec.get("store"),
        "layers": list(spec.get("layers") or ()),
        "map": (spec.get("preprocessing") or {}).get("map", "signed"),
        "stimuli": resized[:DIGITS] if resized else said_of_edition(spec.get("edition") or ""),
    }


def names_of(subjects: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """What to add to the names of models that are called the same but for percent and seed; empty where they are alike.

    Only models of one subject, percent and seed say that their settings differ on purpose: epochs that a solver chooses
    by itself may differ from percent to percent. Layers and maps are always chosen on purpose, whatever the percent.
    What differs in one subject is named in all, so that those of equal settings are called the same. Stores, and the
    stimuli that maps were made of, are named in the subjects that read them, where nothing else tells them apart.

    Parameters
    ----------
    subjects : of each, the specs of its models of one backbone and recipe or readout.
    """
    ways = [[way(spec) for spec in specs] for specs in subjects]
    differ = [_differing(specs, mine) for specs, mine in zip(subjects, ways, strict=True)]
    everywhere = set().union(*differ) - set(OWN)
    everywhere |= _of_several([one for mine in ways for one in mine]) & set(CHOSEN)
    named = [everywhere | names - set(READ) for names in differ]
    for name in READ:
        for number in _mixed(name, ways, named):
            named[number].add(name)
    return [[_called(one, names) for one in mine] for mine, names in zip(ways, named, strict=True)]


def _mixed(name: str, ways: Sequence[Sequence[Mapping[str, Any]]], named: Sequence[set[str]]) -> list[int]:
    """Which subjects have models that are called the same and differ in a setting, or share a store with such.

    Parameters
    ----------
    name : of the setting.
    ways : of each subject, those of its models.
    named : of each subject, the settings that its models are called by so far.
    """
    of_store: dict[Any, set[Any]] = defaultdict(set)
    of_name: list[dict[str, set[Any]]] = []
    for mine, names in zip(ways, named, strict=True):
        of_name.append(defaultdict(set))
        for one in mine:
            of_store[one["store"]].add(one[name])
            of_name[-1][_called(one, names)].add(one[name])
    own = [any(len(values) > 1 for values in found.values()) for found in of_name]
    stores = {store for store, values in of_store.items() if len(values) > 1}
    stores |= {one["store"] for mine, mixed in zip(ways, own, strict=True) if mixed for one in mine}
    stores -= {None, ""}  # of finetuned models: each subject has its own images
    return [n for n, mine in enumerate(ways) if own[n] or any(one["store"] in stores for one in mine)]


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


def _called(one: Mapping[str, Any], names: Iterable[str]) -> str:
    """What some settings of a model add to its name."""
    return ", ".join(f"{name} {_said(one.get(name))}" for name in sorted(names))


def _said(value: Any) -> str:
    """A setting, short."""
    if isinstance(value, str):
        return value[:DIGITS] if len(value) > 20 else value
    if isinstance(value, Iterable):
        return json.dumps(value) if len(json.dumps(value)) < 30 else fingerprint(value)[:DIGITS]
    return f"{value:g}" if isinstance(value, float) else str(value)
