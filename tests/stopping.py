"""Flags that a signal sets at a moment of the test's choice."""

from __future__ import annotations

import signal

from boldreams_cli.console import StopFlag


class StopAfter(StopFlag):
    """A signal that comes when the flag has been looked at so many times; `check` is a look too."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def __bool__(self) -> bool:
        self.looks -= 1
        if self.looks < 0:
            self.signal = signal.SIGTERM
        return super().__bool__()

    def check(self, kept: str) -> None:
        """Look, and stop."""
        bool(self)
        super().check(kept)


class StopAt(StopFlag):
    """A signal at the n-th look; `check` is none, and stops once it came."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def __bool__(self) -> bool:
        self.looks -= 1
        if self.looks == 0:
            self.signal = signal.SIGTERM
        return super().__bool__()
