"""Figures that are made but not rendered: turning them into pixels and pages is half of what commands take in tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

RENDER = Figure.savefig


def _blank(self: Figure, target: Any, *, format: str | None = None, dpi: float = 100, **_: Any) -> None:
    """White paper of the figure's size instead of the figure."""
    kind = format or Path(target).suffix.removeprefix(".")
    if kind in ("png", "jpg"):
        width, height = (round(length * dpi) for length in self.get_size_inches())
        Image.new("L", (width, height), 255).save(target, {"png": "png", "jpg": "jpeg"}[kind])
    else:
        assert kind == "pdf", kind
        Path(target).write_bytes(b"%PDF-1.4\n")


@contextmanager
def unrendered() -> Iterator[None]:
    """Until the block ends, figures of this process are made and saved as white paper."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", _blank)
        yield


@contextmanager
def rendered() -> Iterator[None]:
    """Within `unrendered`, figures as users have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", RENDER)
        yield
