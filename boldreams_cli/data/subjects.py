"""Subjects: numbers where a data set numbers them, names where it names them; how both are typed and filed."""

from __future__ import annotations

import re

from boldreams_cli.console import ChoiceError

Subject = int | str
NUMBER = re.compile(r"(?:subj)?0*([1-9]\d*)")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FINGERPRINT = r"[0-9a-f]{12}"


def parse_subject(text: str) -> Subject:
    """Read a subject as it is typed: a number as ``1``, ``01`` or ``subj01``, anything else as a name.

    Raises
    ------
    ChoiceError
        If it is neither.
    """
    if match := NUMBER.fullmatch(text):
        return int(match[1])
    if NAME.fullmatch(text):
        return text
    raise ChoiceError(f"{text!r} is no subject; write a number, as 1, 01 or subj01, or a name, as CSI1")


def check_name(name: str) -> str:
    """Give the name of a subject back if it can be one.

    Raises
    ------
    ChoiceError
        If it cannot be the name of a folder, or reads as a number: `--subject 01` must mean one thing only.
    """
    if not NAME.fullmatch(name):
        raise ChoiceError(f"subject {name!r}: a name has up to 64 letters, digits, dots, - and _, e.g. CSI1")
    if NUMBER.fullmatch(name):
        raise ChoiceError(f"subject {name!r} reads as a number; put the data set before it, e.g. mystudy-{name}")
    return name


def folder_of(subject: Subject) -> str:
    """The folder of a subject's models, and the beginning of its responses' name: ``subj01``, ``CSI1``."""
    return f"subj{subject:02d}" if isinstance(subject, int) else subject


def store_name(subject: Subject, fingerprint: str) -> str:
    """Name of the store of a subject's responses."""
    return f"{folder_of(subject)}-{fingerprint}.zarr"


def subject_of_store(name: str) -> Subject | None:
    """Whose responses a store of this name holds; None if it is no such name."""
    match = re.fullmatch(rf"(.+)-{FINGERPRINT}\.zarr", name)
    try:
        return parse_subject(match[1]) if match else None
    except ChoiceError:
        return None


def in_order(subject: Subject) -> tuple[int, int, str]:
    """Key to sort subjects by: numbers first, then names."""
    return (0, subject, "") if isinstance(subject, int) else (1, 0, subject)
