"""Sessions as people write them: ``1-37``, ``1,3,5-7``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from boldreams_cli.console import ChoiceError


def parse_sessions(text: str) -> list[int]:
    """Read ``"1-37"`` or ``"1,3,5-7"`` as sorted session numbers.

    Raises
    ------
    ChoiceError
        If it is malformed.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last:
            raise ChoiceError(f"cannot read the sessions {text!r}; write e.g. --sessions 1-37 or 1,3,5-7")
        found.update(range(first, last + 1))
    return sorted(found)


def ranges(sessions: Sequence[int]) -> str:
    """Write session numbers as `parse_sessions` reads them."""
    parts: list[list[int]] = []
    for session in sessions:
        if parts and session == parts[-1][-1] + 1:
            parts[-1].append(session)
        else:
            parts.append([session])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
