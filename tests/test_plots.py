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
    trace = np.array([[0, -1.0, 1.0, 1.5, 1.0], [1, -2.0, 2.0, np.nan, 2.5], [2, np.nan, np.nan, 4.0, 4.0]])
    plots.dream_trace(tmp_path / "a.png", trace, {"best": 3.0, "far": 9.0}, "mean beta", "title")
    (above,) = drawn[0].axes
    lines = {line.get_label(): line for line in above.get_lines()}
    np.testing.assert_array_equal(lines["transformed, each step"].get_ydata(), [1.0, 2.5])
    np.testing.assert_array_equal(lines["untransformed"].get_ydata(), [1.5, 4.0])
    assert {"best (passed at step 2)", "far (not reached)"} <= lines.keys()
    assert not above.yaxis_inverted()
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    plots.dream_trace(tmp_path / "a.png", trace, {}, "mean beta", "title", "penalty")
    above, below = drawn[1].axes
    np.testing.assert_array_equal(below.get_lines()[0].get_ydata(), [0.0, 0.5, np.nan])
    assert not below.yaxis_inverted()


@pytest.mark.parametrize("natural", [0, 1])
def test_titles_are_inside_the_figure(drawn: list[Figure], tmp_path: Path, natural: int) -> None:
    """Of one narrow picture they were cut off on both sides."""
    picture = (np.zeros((4, 4, 3)), "best training image, 73000: -1.23 (fitted)")
    title = "OFA,FFA-1,FFA-2,mTL-faces minus places, subject 1, efficientnet_lite0 10 %, fast, finetuned\nbeta"
    plots.dream_sheet(tmp_path / "a.png", [picture], [picture] * natural, title)
    figure = drawn[0]
    figure.canvas.draw()
    texts = [figure._suptitle, *(axes.title for axes in figure.axes)]
    assert "finetuned" in figure.get_suptitle().replace("\n", " ")
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


def test_difference_is_grey_where_nothing_changed(drawn: list[Figure], tmp_path: Path) -> None:
    photograph = np.full((8, 8, 3), 0.4)
    changed = photograph.copy()
    changed[:4] += 0.1
    plots.dream_difference(tmp_path / "a.png", (photograph, "3: 1.00"), [(changed, "dream 1: 2.00", 0.3)], "title")
    panels = [axes.get_images()[0].get_array() for axes in drawn[0].axes]
    np.testing.assert_array_equal(panels[0], photograph)
    np.testing.assert_array_equal(panels[1], changed)
    assert (panels[2][4:] == 0.5).all()
    assert (panels[2][:4] > 0.5).all()
    assert [axes.get_title() for axes in drawn[0].axes][2] == "difference x 8"


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
