"""What went wrong, for the top of the page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from boldreams_cli.console import StoppedError, logger


@dataclass(frozen=True)
class Finding:
    """One thing to know before the numbers are read.

    Parameters
    ----------
    level : ``error`` (something is missing from the page for it) or ``warning``.
    where : file, folder or model.
    what : in one sentence.
    remedy : what to type or do; may be empty.
    """

    level: str
    where: str
    what: str
    remedy: str = ""


@dataclass(frozen=True)
class Group:
    """The same of one or more places."""

    level: str
    what: str
    found: list[Finding]


@dataclass
class Findings:
    """All of them, in the order found, each once."""

    found: list[Finding] = field(default_factory=list)

    def error(self, where: object, what: str, remedy: str = "") -> None:
        """Something that the page lacks."""
        self._add(Finding("error", str(where), what, remedy))

    def warn(self, where: object, what: str, remedy: str = "") -> None:
        """Something to bear in mind."""
        self._add(Finding("warning", str(where), what, remedy))

    def _add(self, finding: Finding) -> None:
        if finding not in self.found:
            self.found.append(finding)

    @contextmanager
    def kept_going(self, where: object, remedy: str = "") -> Iterator[None]:
        """Turn what damaged files raise in the block into an error on the page, and go on after the block."""
        try:
            yield
        except (MemoryError, StoppedError):
            raise
        except Exception as error:  # noqa: BLE001 (on damaged bytes libraries raise anything at all)
            logger.debug("%s", where, exc_info=True)
            said = " ".join(str(error).split())[:300] or type(error).__name__
            self.error(where, f"cannot be used: {said}", remedy)

    def sorted(self) -> list[Finding]:
        """Errors first."""
        return sorted(self.found, key=lambda finding: finding.level != "error")

    def grouped(self) -> list[Group]:
        """What is the same of several places together, errors first."""
        groups: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.sorted():
            groups.setdefault((finding.level, finding.what), []).append(finding)
        return [Group(level, what, found) for (level, what), found in groups.items()]
