"""Lets matplotlib cut a font to the letters of a PDF once, not for every PDF: most of the time that a figure takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from inspect import signature
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.backends import _backend_pdf_ps
from matplotlib.ft2font import FT2Font

PRINTED = [chr(code) for code in range(32, 127)]


@contextmanager
def cut_once() -> Iterator[None]:
    """Embed all letters of ASCII in every PDF, and those others that are in it; of other matplotlibs, do nothing."""
    names = ("get_glyphs_subset", "font_as_file")
    there = [getattr(_backend_pdf_ps, name, None) for name in names]
    if None in there or list(signature(there[0]).parameters) != ["fontfile", "glyphs"]:
        yield
        return
    cut, written = _backend_pdf_ps.get_glyphs_subset, _backend_pdf_ps.font_as_file
    kept: dict[tuple[str, frozenset[int]], tuple[bytes, Any]] = {}

    @contextmanager
    def subset(fontfile: Any, glyphs: Iterable[int]) -> Iterator[Any]:
        font = FT2Font(fontfile)
        wanted = frozenset(glyphs) | {font.get_char_index(ord(letter)) for letter in PRINTED}
        key = (str(fontfile), wanted)
        if key not in kept:
            with cut(fontfile, wanted) as made:
                kept[key] = written(made.font).getvalue(), made.glyph_index_map
        content, places = kept[key]
        yield SimpleNamespace(font=content, glyph_index_map=places)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backend_pdf_ps, "get_glyphs_subset", subset)
        patch.setattr(_backend_pdf_ps, "font_as_file", BytesIO)
        yield
