"""Attribution maps (paper, figure 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boldreams_cli.plots.style import Pictures, figure


def attribution(path: Path, rows: Sequence[tuple[Pictures, NDArray[np.floating], str]], title: str) -> None:
    """Draw images, their signed attribution, and the image under the attribution as an intensity mask (figure 8).

    Parameters
    ----------
    path : to write.
    rows : of each image: (H, W, 3) in [0, 1], signed map (H, W), and what to say of it.
    title : of the figure.
    """
    with figure(path, 7.2, 2.45 * len(rows) + 0.5) as drawn:
        drawn.suptitle(title, fontsize=10)
        grid = drawn.subplots(len(rows), 3, squeeze=False)
        for (pixels, signed, caption), axes in zip(rows, grid, strict=True):
            limit = float(np.abs(signed).max()) or 1.0
            axes[0].imshow(pixels)
            shown = axes[1].imshow(signed, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes[2].imshow(pixels * intensity_mask(signed)[..., None])
            for place, name in zip(axes, (caption, "attribution, signed", "intensity mask"), strict=True):
                place.set_title(name, fontsize=8)
                place.set_axis_off()
            bar = drawn.colorbar(shown, ax=axes[1], shrink=0.8, ticks=[-limit, 0, limit])
            bar.ax.set_yticklabels([f"{-limit:.1e}", "0", f"{limit:.1e}"], fontsize=6)


def intensity_mask(signed: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scale the positive part of a signed map to [0, 1]; its brightest hundredth is cut, so that one spot is not all.

    Where less than a hundredth is positive, nothing is cut.

    Parameters
    ----------
    signed : (H, W).

    Returns
    -------
    (H, W) in [0, 1].
    """
    positive = np.clip(signed, 0, None)
    top = np.quantile(positive, 0.99) or positive.max()
    return np.clip(positive / top, 0, 1) if top > 0 else positive
