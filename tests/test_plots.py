"""Figures show the numbers that they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from boldreams_cli import plots
from boldreams_cli.plots import style


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn."""
    found: list[Figure] = []

    def canvas(figure: Figure) -> FigureCanvasAgg:
        found.append(figure)
        return FigureCanvasAgg(figure)

    monkeypatch.setattr(style, "FigureCanvasAgg", canvas)
    return found


def test_bars_are_as_high_as_r_and_its_ceiling(drawn: list[Figure], tmp_path: Path) -> None:
    areas = {"V1": {"r_mean": 0.4, "r_ci": [0.38, 0.43], "ceiling_mean": 0.7, "voxels": 5},
             "faces": {"r_mean": -0.1, "r_ci": [np.nan, np.nan], "ceiling_mean": 0.5, "voxels": 3}}  # fmt: skip
    plots.accuracy(tmp_path, np.array([0.4, -0.1]), np.array([0.7, 0.5]), areas, "title")
    bars = drawn[1].axes[0].patches
    assert [bar.get_height() for bar in bars] == [0.7, 0.5, 0.4, -0.1]
    (whiskers,) = (found for found in drawn[1].axes[0].collections if len(found.get_segments()) == 2)
    np.testing.assert_allclose([line[:, 1] for line in whiskers.get_segments()], [[0.38, 0.43], [-0.1, -0.1]])


def test_trace_rises_where_the_response_does(drawn: list[Figure], tmp_path: Path) -> None:
    trace = np.array([[0, -1.0, 1.0, 1.5], [1, -2.0, 2.0, np.nan], [2, np.nan, np.nan, 4.0]])
    plots.dream_trace(tmp_path / "a.png", trace, {"best": 3.0}, "mean beta", "title")
    above, below = drawn[0].axes
    lines = {line.get_label(): line for line in above.get_lines()}
    np.testing.assert_array_equal(lines["transformed, each step"].get_ydata(), trace[:, 2])
    np.testing.assert_array_equal(lines["untransformed"].get_ydata(), [1.5, 4.0])
    np.testing.assert_array_equal(below.get_lines()[0].get_ydata(), trace[:, 1])
    for axes in (above, below):
        assert not axes.yaxis_inverted()


def test_sheet_has_each_caption_over_its_picture(drawn: list[Figure], tmp_path: Path) -> None:
    shades = {f"picture {number}": np.full((4, 4, 3), number / 10) for number in range(5)}
    pairs = [(pixels, caption) for caption, pixels in shades.items()]
    plots.dream_sheet(tmp_path / "a.png", pairs[:3], pairs[3:], "title")
    shown = {axes.get_title(): axes.get_images()[0].get_array() for axes in drawn[0].axes if axes.get_images()}
    assert shown.keys() == shades.keys()
    for caption, pixels in shades.items():
        np.testing.assert_array_equal(shown[caption], pixels)


def test_mask_shows_the_positive_part_of_the_map(drawn: list[Figure], tmp_path: Path) -> None:
    signed = np.zeros((20, 20))
    signed[:, :10], signed[:, 10:] = 1, -1
    plots.attribution(tmp_path / "a.png", [(np.ones((20, 20, 3)), signed, "caption")], "title")
    panels = {axes.get_title(): axes.get_images()[0] for axes in drawn[0].axes if axes.get_title()}
    mask = np.asarray(panels["intensity mask"].get_array())
    assert (mask[:, :10] == 1).all()
    assert (mask[:, 10:] == 0).all()
    map_shown = panels["attribution, signed"]
    np.testing.assert_array_equal(map_shown.get_array(), signed)
    assert map_shown.get_clim() == (-1, 1)
    red, blue = map_shown.get_cmap()(1.0), map_shown.get_cmap()(0.0)
    assert red[0] > red[2]
    assert blue[2] > blue[0]


def test_intensity_mask_is_in_zero_to_one() -> None:
    one = np.zeros((20, 20))
    one[3, 3] = 5.0  # less than a hundredth of the pixels
    assert plots.intensity_mask(one).max() == 1
    many = np.random.default_rng(0).normal(size=(30, 30))
    mask = plots.intensity_mask(many)
    assert (mask.min(), mask.max()) == (0, 1)
    assert (mask > 0).sum() == (many > 0).sum()
    assert not plots.intensity_mask(-np.abs(many)).any()
