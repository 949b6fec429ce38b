"""Figures show the numbers that they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from boldreams_cli import plots
from boldreams_cli.plots import style
from boldreams_cli.plots.brain.slices import slices
from boldreams_cli.plots.brain.surfaces import surfaces
from boldreams_cli.plots.models.accuracy import bins_of
from boldreams_cli.plots.models.areas import areas
from boldreams_cli.plots.models.differences import plane
from boldreams_cli.plots.pictures.attribution import FLOOR, limit_of
from boldreams_cli.plots.pictures.grid import Cell
from boldreams_cli.plots.pictures.words import HEIGHT, WIDTH, Panel


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


def test_histogram_counts_every_voxel_and_its_ceiling(drawn: list[Figure], tmp_path: Path) -> None:
    """Voxels far below 0 were left out, and half of the panel was empty."""
    r, ceiling = np.array([-0.93, 0.1, 0.12, 0.43, np.nan]), np.array([0.3, 0.6, 0.61, 0.71, np.nan])
    title = "efficientnet_lite0, 10 % of filters, a recipe of a long name, finetuned, subject Somebody, synthetic test"
    files = plots.accuracy(tmp_path, r, ceiling, {}, title)
    (axes,) = drawn[0].axes
    counts = {}
    for bar in axes.patches:
        counts.setdefault(bar.get_facecolor(), []).append(bar.get_height())
    assert [sum(heights) for heights in counts.values()] == [4, 4]
    low, high = axes.get_xlim()
    assert -1 < low <= -0.93
    assert 0.71 < high < 0.75
    said = {text.get_text() for text in drawn[0].legends[0].get_texts()}
    assert said == {"noise ceiling, mean 0.555", "r, mean -0.070"}
    assert {path.name for path in files} == {
        f"{name}.{suffix}" for name in ("histogram", "rois", "ceiling") for suffix in ("png", "pdf")
    }
    assert all(path.stat().st_size > 1000 for path in files)
    for figure in drawn:
        figure.draw_without_rendering()
        box = figure._suptitle.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


@pytest.mark.parametrize("value", [-0.5, -0.025, 0.0, 0.3, 1.0])
def test_bins_hold_values_on_their_edges(value: float) -> None:
    values = np.array([value, np.nextafter(value, -1), np.nextafter(value, 1)])
    edges = bins_of(values)
    assert np.histogram(values, edges)[0].sum() == 3
    assert 0 in edges
    assert bins_of(np.empty(0))[-1] > 1


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


def test_attribution_is_laid_over_the_image_in_grey(drawn: list[Figure], tmp_path: Path) -> None:
    signed = np.zeros((20, 20))
    signed[:, :5], signed[:, 15:] = 2, -2
    row = plots.Row(np.zeros((20, 20, 3)), signed, "image 7: mean beta 1.00")
    plots.attribution(tmp_path / "a.png", [row], "V1 of a model", "beta per value")
    panels = {axes.get_title(): axes.get_images()[0] for axes in drawn[0].axes if axes.get_title()}
    over = np.asarray(panels["attribution over the image"].get_array())
    assert (over[:, :5, 0] > over[:, :5, 2] + 0.3).all(), "positive is red, on black ground too"
    assert (over[:, 15:, 2] > over[:, 15:, 0] + 0.3).all(), "negative is blue"
    np.testing.assert_allclose(over[:, 5:15], FLOOR)
    alone = panels["attribution"]
    np.testing.assert_array_equal(alone.get_array(), signed)
    assert alone.get_clim() == (-2, 2)
    red, blue = alone.get_cmap()(1.0), alone.get_cmap()(0.0)
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    said = drawn[0].axes[-1].get_ylabel()
    assert "beta per value" in said
    assert "99.5th percentile" in said
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_limits_are_a_percentile_of_each_row(drawn: list[Figure], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    maps = [random.normal(size=(40, 40)), 100 * random.normal(size=(40, 40))]
    maps[0][3, 3] = 1e6  # one spot is not all
    plots.attribution(tmp_path / "a.png", [plots.Row(np.ones((40, 40, 3)), one, "x") for one in maps], "title", "unit")
    limits = [axes.get_images()[0].get_clim()[1] for axes in drawn[0].axes if axes.get_title() == "attribution"]
    assert limits == pytest.approx([np.percentile(np.abs(one), 99.5) for one in maps])
    assert limits[0] < 5
    assert limit_of(np.zeros((4, 4))) == 1


def test_long_titles_are_not_cut_off(drawn: list[Figure], tmp_path: Path) -> None:
    title = "V1,V2,V3,hV4,faces,places,words,bodies minus ecc_1,ecc_2,ecc_3, subject 1, efficientnet_lite0 10 %, fast"
    row = plots.Row(np.ones((20, 20, 3)), np.ones((20, 20)), "image a-file-of-a-very-long-name-indeed: mean beta 1.00")
    plots.attribution(tmp_path / "a.png", [row], f"{title}, finetuned", "unit")
    figure = drawn[0]
    figure.draw_without_rendering()
    for text in [figure._suptitle, *(axes.title for axes in figure.axes)]:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_curves_and_maps_of_checks_are_those_given(drawn: list[Figure], tmp_path: Path) -> None:
    names = ("deletion", "insertion", "chance_deletion", "chance_insertion")
    curves = {name: np.linspace(number, 5, 3) for number, name in enumerate(names)} | {"fractions": [0, 0.5, 1]}
    maps = [("own", np.eye(8)), ("random", -np.eye(8))]
    plots.attribution_checks(tmp_path / "a.png", maps, curves, "title", "mean beta")
    axes = {each.get_title(): each for part in drawn[0].subfigs for each in part.axes}
    np.testing.assert_array_equal(axes["random"].get_images()[0].get_array(), -np.eye(8))
    for title, name in (("pixels deleted", "deletion"), ("pixels put into the blurred image", "insertion")):
        lines = {line.get_label(): line for line in axes[title].get_lines()}
        np.testing.assert_array_equal(lines["highest first"].get_ydata(), curves[name])
        np.testing.assert_array_equal(lines["by chance"].get_ydata(), curves[f"chance_{name}"])
        np.testing.assert_array_equal(lines["by chance"].get_xdata(), [0, 50, 100])


def test_colours_of_a_row_compare_within_a_method() -> None:
    """Of two models the stronger map is the stronger in the picture; other methods have other units."""
    weak, strong = np.full((8, 8), 0.1), np.full((8, 8), 0.4)
    limits = plots.limits_along([weak, strong, 100 * strong], ["ig", "ig", "saliency"])
    assert limits == pytest.approx([0.4, 0.4, 40])
    grey = np.full((8, 8, 3), 0.5)
    faint, full = (plots.overlay(grey, signed, limit) for signed, limit in zip((weak, strong), limits, strict=False))
    assert np.ptp(faint, -1).max() < np.ptp(full, -1).min() / 2


def test_overlays_are_seen_on_dark_ground_and_tell_up_from_down() -> None:
    signed = np.zeros((4, 4))
    signed[0], signed[1] = 1, -1
    shown = plots.overlay(np.zeros((4, 4, 3)), signed, 1.0)
    assert (shown[0, :, 0] > shown[0, :, 2] + 0.3).all(), "red raises"
    assert (shown[1, :, 2] > shown[1, :, 0] + 0.3).all(), "blue lowers"
    assert (np.ptp(shown[2:], axis=-1) < 1e-9).all(), "the rest is grey"
    assert (shown[2:] > 0.2).all(), "a black image has a floor"


def test_a_grid_of_attributions_says_what_its_colours_mean(drawn: list[Figure], tmp_path: Path) -> None:
    cell = Cell(np.zeros((4, 4, 3)), "image 3: 1.00")
    plots.areas_by_models(tmp_path / "a.png", [[cell, None]], ["V1"], ["a", "b"], "attributions")
    (bar,) = [axes for axes in drawn[0].axes if axes.get_xlabel().startswith("attribution")]
    assert [text.get_text() for text in bar.get_xticklabels()] == ["lowers", "0", "raises"]
    assert "percentile of the row" in bar.get_xlabel()
    plots.areas_by_models(tmp_path / "b.png", [[cell]], ["V1"], ["a"], "dreams")
    assert not [axes for axes in drawn[1].axes if "attribution" in axes.get_xlabel()]


def test_the_plane_of_two_models_shows_all_voxels_and_little_else(drawn: list[Figure], tmp_path: Path) -> None:
    a, b = np.array([0.5, 0.6, 0.7, np.nan]), np.array([0.55, 0.5, 0.65, 0.4])
    plane(tmp_path / "plane", a, b, "a", "b")
    low, high = drawn[0].axes[0].get_ylim()
    assert 0.5 < low <= 0.55 < 0.7 < high < 0.75
    counts = drawn[0].axes[0].collections[0].get_array()
    assert counts.sum() == 3
    plane(tmp_path / "none", np.full(2, np.nan), np.zeros(2), "a", "b")


def test_a_cloud_in_a_grid_is_without_its_titles(tmp_path: Path) -> None:
    panel = Panel("dream of V1 " * 9, ["cat", "dog"], [1.0, 0.5], [False, True], "size in proportion to logit")
    plots.clouds(tmp_path / "a.png", [panel], "a title " * 20, "a foot " * 30)
    whole = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    alone = plots.cloud_alone(whole)
    assert alone.shape[:2] == pytest.approx((HEIGHT * 150, WIDTH * 150), abs=6)
    edge = np.concatenate([alone[0], alone[-1], alone[:, 0], alone[:, -1]])
    assert (edge == 255).all(), "neither the frame nor a title"
    assert (alone < 200).any(), "the words"
    blank = np.full((30, 40, 3), 255, np.uint8)
    assert plots.cloud_alone(blank) is blank


@pytest.mark.parametrize(("ceilings", "named"), [({"a": np.nan, "b": 0.5}, 1), ({"a": np.nan}, 0), ({}, 0)])
def test_ceilings_of_areas_are_named_where_there_are_some(ceilings: dict[str, float], named: int) -> None:
    figure = areas(["a", "b"], {"model": {"a": (0.3, 0.1), "b": (0.4, np.nan)}}, ceilings, "r")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts.count("noise ceiling") == named
    assert len(figure.axes[0].collections) - 1 == len([c for c in ceilings.values() if np.isfinite(c)])


def test_a_score_without_ceilings_draws_and_names_none(drawn: list[Figure], tmp_path: Path) -> None:
    one = {"r_mean": 0.4, "r_ci": [0.38, 0.43], "ceiling_mean": np.nan, "voxels": 2}
    plots.accuracy(tmp_path, np.array([0.4, 0.5]), np.full(2, np.nan), {"V1": one}, "title")
    said = [text.get_text() for figure in drawn for legend in figure.legends for text in legend.get_texts()]
    assert not [text for text in said if "ceiling" in text]
    assert [bar.get_height() for bar in drawn[1].axes[0].patches] == [0.4]
    assert [text.get_text() for text in drawn[2].axes[0].texts] == ["no voxel has both"]


def test_names_of_slices_are_read_on_a_bright_brain() -> None:
    names = {0: "z 9", 2: "z 7"}
    figure = slices(np.ones((4, 4, 3)), np.full((4, 4, 3), 0.5), names, "a model", (0.0, 1.0), "viridis", "r")
    texts = [text for text in figure.axes[0].texts if text.get_color() == "white"]
    assert [text.get_text() for text in texts] == ["z 9", "z 7", "L", "R"]
    assert figure.get_suptitle() == "a model"
    assert all(text.get_path_effects() for text in texts), "white alone is lost on white"


def test_a_long_title_over_a_surface_is_not_cut_off(drawn: list[Figure], tmp_path: Path) -> None:
    pytest.importorskip("nilearn")
    points = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
    title = (
        "r with test betas: open_clip:RN50x4/openai, 10 % of filters, paper, finetuned, subject mosaic-NSD-sub-01" * 2
    )
    half = {"L": (points, faces, np.zeros(4), np.linspace(0, 1, 4))}
    surfaces(tmp_path / "a.png", half, (0.0, 1.0), "r", title, False)
    figure = drawn[0]
    figure.canvas.draw()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
