"""Where models lie, and which one is meant (cache/README.md, "models")."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from boldreams_cli.console import ChoiceError, listing
from boldreams_cli.files import read_json


def model_folder(
    cache: Path, subject: int, backbone: str, percent: float, finetuned: bool, readout: str = "separable"
) -> Path:
    """Where a model of that kind lies."""
    kind = f"-{readout}" if readout in ("ridge", "gaussian") else ""
    name = f"percent-{percent:g}{kind}" + ("-finetuned" if finetuned else "")
    return cache / "models" / f"subj{subject:02d}" / backbone / name


def find_models(
    cache: Path,
    backbone: str | None = None,
    percent: float | None = None,
    subject: int | None = None,
    finetuned: bool | None = None,
    readout: str | None = None,
) -> list[Path]:
    """Folders of the fitted models that match; None matches any."""
    found = []
    for path in sorted((cache / "models").glob("subj*/*/percent-*/spec.json")):
        folder = path.parent
        if folder.name.endswith(".previous"):
            continue
        spec = read_json(path)
        asked = {"backbone": backbone, "percent": percent, "subject": subject, "finetuned": finetuned}
        asked["readout"] = readout
        if all(value is None or spec.get(key) == value for key, value in asked.items()):
            found.append(folder)
    return found


def the_model(candidates: Iterable[Path], cache: Path) -> Path:
    """The only candidate.

    Raises
    ------
    ChoiceError
        If there is none or more than one; the message lists what there is.
    """
    found = list(candidates)
    if len(found) == 1:
        return found[0]
    if not found:
        there = [str(path.relative_to(cache / "models")) for path in find_models(cache)]
        raise ChoiceError(
            f"no fitted model in {cache} matches; there: {listing(there)}. Run boldreams fit, or choose with "
            "--backbone --percent --subject --finetune --readout or --model DIR"
        )
    names = listing(str(path.relative_to(cache / "models")) for path in found)
    raise ChoiceError(
        f"{len(found)} fitted models match: {names}. Choose with --backbone --percent --subject --finetune "
        "--readout or --model DIR"
    )
