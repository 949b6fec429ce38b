"""Dreams of several areas beside each other (paper, figure 7)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from boldreams_cli import plots
from boldreams_cli.data.opening import open_dataset


def draw(path: Path, data_root: Path, areas: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw each area's dream, the best natural test image, and words for the dream.

    Parameters
    ----------
    path : to write.
    data_root : to read natural images from.
    areas : area -> ``images``, ``response`` and ``best_natural`` as the JSON object of ``dream`` has them, ``words``.
    """
    columns = []
    with open_dataset(data_root).stimuli() as stimuli:
        for area, item in areas.items():
            best = item["best_natural"]["test"]
            number = int(np.argmax(item["response"]))  # as the report and `boldreams gallery` show it
            dreamt = np.asarray(Image.open(item["images"][number])) / 255
            natural = stimuli.read([best["image"]])[0] / 255
            pictures = [
                (dreamt, f"dream: beta {item['response'][number]:.2f}"),
                (natural, f"best photograph: {best['response']:.2f}"),
            ]
            columns.append((area, pictures, "\n".join(item["words"])))
    plots.gallery(path, columns)
