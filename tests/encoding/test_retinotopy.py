"""Fitted fields as retinotopic maps: shapes, conventions, correlations against references, a brain that is known."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch

from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.retinotopy import Retinotopy
from boldreams_cli.encoding.evaluation import retinotopy
from boldreams_cli.encoding.inputs.layout import Group
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.model.weights import ReadoutWeights
from boldreams_cli.encoding.numerics.field_shapes import FieldShapes, joint_shapes, shapes
from boldreams_cli.simulation.brain import field_distance, gaussian_fields
from boldreams_cli.simulation.experiment import Truth
from tests.encoding.conftest import Ready

RNG = np.random.default_rng


def angles(count: int, seed: int) -> np.ndarray:
    return RNG(seed).uniform(0, 360, count)


def test_shapes_are_those_of_gaussians_of_either_sign() -> None:
    rng = RNG(0)
    centre, size = rng.uniform(0.3, 0.7, (40, 2)), rng.uniform(0.06, 0.16, 40)
    for side in (112, 56, 28, 14):
        fields = gaussian_fields(centre, size, (side, side))
        fields /= fields.max((1, 2), keepdims=True)
        fields *= rng.choice([-1, 1], 40)[:, None, None]
        found = shapes(fields)
        assert field_distance(centre, found.centre).max() < 0.02
        np.testing.assert_allclose(found.size, size, rtol=0.2)
        noisy = shapes(fields + rng.uniform(-0.3, 0.3, fields.shape))
        assert np.median(field_distance(centre, noisy.centre)) < 0.06
    nothing = shapes(np.zeros((1, 7, 7)))
    assert np.isnan(nothing.centre).all()
    assert np.isnan(nothing.size).all()


def test_centre_is_that_of_scipy_s_blurred_magnitude() -> None:
    fields = RNG(7).normal(size=(5, 17, 23)) + gaussian_fields(np.full((5, 2), 0.6), np.full(5, 0.1), (17, 23)) * 300
    size = np.abs(scipy.ndimage.gaussian_filter(fields, (0, 1.7, 2.3), mode="constant"))
    above = (size - 0.5 * size.max((1, 2), keepdims=True)).clip(0)
    expected = [scipy.ndimage.center_of_mass(field) for field in above]
    found = (shapes(fields).centre * (23, 17) - 0.5)[:, ::-1]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_joint_shapes_weigh_resolutions_by_strength_not_by_pixels() -> None:
    left, right = np.array([[0.3, 0.5]]), np.array([[0.7, 0.5]])
    fine, coarse = gaussian_fields(left, np.array([0.1]), (56, 56)), gaussian_fields(right, np.array([0.1]), (14, 14))
    for strength, expected in (((1.0, 0.0), left), ((0.0, 1.0), right)):
        found = joint_shapes([fine, coarse], [np.array([value]) for value in strength])
        assert field_distance(expected, found.centre).max() < 0.01
        np.testing.assert_allclose(found.size, 0.1, rtol=0.15)
    both = joint_shapes([fine, coarse], [np.ones(1), np.ones(1)])
    assert field_distance(np.array([[0.5, 0.5]]), both.centre).max() < 0.02


@pytest.mark.parametrize(
    ("place", "eccentricity", "angle"),
    [((0.75, 0.5), 2.1, 0), ((0.5, 0.25), 2.1, 90), ((0.25, 0.5), 2.1, 180), ((0.5, 0.75), 2.1, 270)],
)
def test_angles_are_nsd_s(place: tuple[float, float], eccentricity: float, angle: float) -> None:
    # analyzePRF: 0 is the right horizontal meridian, 90 the upper vertical one.
    maps = retinotopy.in_degrees(FieldShapes(np.array([place]), np.array([0.1])), 8.4)
    np.testing.assert_allclose(
        [maps["eccentricity"][0], maps["angle"][0], maps["size"][0]], [eccentricity, angle, 0.84]
    )
    np.testing.assert_allclose(maps["x"] + 1j * maps["y"], eccentricity * np.exp(1j * np.radians(angle)), atol=1e-12)


@pytest.mark.parametrize("spread", [10, 60, 1000])
def test_circular_correlation_is_fisher_and_lee_s_over_all_pairs(spread: float) -> None:
    a = angles(60, 0)
    b = a + RNG(1).normal(0, spread, 60)
    x, y = np.radians(a), np.radians(b)
    pairs = list(itertools.combinations(range(60), 2))
    one = np.array([np.sin(x[i] - x[j]) for i, j in pairs])
    other = np.array([np.sin(y[i] - y[j]) for i, j in pairs])
    expected = (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())
    assert retinotopy.circular_correlation(a, b) == pytest.approx(expected, abs=1e-12)


def test_circular_correlation_of_neighbouring_angles_is_jammalamadaka_s() -> None:
    # Of angles near each other both are Pearson's; theirs needs mean directions (scipy's circmean).
    rng = RNG(2)
    a = 350 + rng.normal(0, 8, 400)
    b = a * 1.0 + rng.normal(0, 6, 400)
    means = [scipy.stats.circmean(values, 360) for values in (a, b)]
    x, y = (np.sin(np.radians(values - mean)) for values, mean in zip((a, b), means, strict=True))
    expected = (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())
    assert retinotopy.circular_correlation(a % 360, b % 360) == pytest.approx(expected, abs=0.01)


def test_circular_correlation_at_its_ends() -> None:
    a = angles(50, 3)
    assert retinotopy.circular_correlation(a, (a + 77) % 360) == pytest.approx(1)
    assert retinotopy.circular_correlation(a, -a) == pytest.approx(-1)
    assert retinotopy.angle_apart(a, (a + 77) % 360) == pytest.approx(77)
    assert retinotopy.angle_apart(np.array([359.0]), np.array([2.0])) == pytest.approx(3)
    assert np.isnan(retinotopy.circular_correlation(a[:2], a[:2]))
    assert np.isnan(retinotopy.circular_correlation(a, np.full(50, 90.0)))
    assert np.isnan(retinotopy.angle_apart(a[:0], a[:0]))


def test_only_measured_fields_that_are_good_and_within_the_images_are_compared() -> None:
    rng = RNG(4)
    count = 200
    eccentricity = rng.uniform(0, 6, count)
    measured = Retinotopy(
        eccentricity.astype(np.float32),
        angles(count, 5).astype(np.float32),
        (0.5 + eccentricity / 3).astype(np.float32),
        rng.uniform(-5, 60, count).astype(np.float32),
    )
    measured.eccentricity[:5] = np.nan
    maps = {
        "eccentricity": eccentricity + rng.normal(0, 1, count),
        "angle": (measured.angle + rng.normal(0, 20, count)) % 360,
        "size": measured.size + rng.normal(0, 0.3, count),
    }
    maps["eccentricity"][5:9] = np.nan
    area = np.arange(count) < 120
    found = retinotopy.against_measured(maps, measured, {"V1": area}, 4.2)
    ok = (measured.r2 >= 10) & (eccentricity <= 4.2) & (np.arange(count) >= 9)
    assert found["voxels"] == found["rois"]["all"]["voxels"] == ok.sum()
    chosen = ok & area
    row = found["rois"]["V1"]
    assert row["voxels"] == chosen.sum()
    for name, values in (("eccentricity_r", "eccentricity"), ("size_r", "size")):
        expected = scipy.stats.spearmanr(maps[values][chosen], getattr(measured, values)[chosen]).statistic
        assert row[name] == pytest.approx(expected)
    without = retinotopy.against_measured(maps, Retinotopy(measured.eccentricity), {"V1": area}, 4.2)
    assert without["voxels"] > found["voxels"], "no R2, no floor"
    assert without["rois"]["V1"]["size_r"] is None
    assert without["rois"]["V1"]["angle_r"] is None


def model_of_the_truth(ready: Ready, known: object, readout: str = "separable") -> FittedModel:
    """A model whose fields are the true ones, half of them with the sign turned."""
    count = len(ready.responses.voxels)
    sign = RNG(6).choice([-1, 1], count)[:, None, None]
    groups = [Group("56x56", 56, 56, ("a",)), Group("14x14", 14, 14, ("b", "c"))]
    fields = {g.name: gaussian_fields(known.centre, known.size, (g.height, g.width)) * sign for g in groups}
    weights = ReadoutWeights(
        {name: torch.from_numpy(value) for name, value in fields.items()},
        {name: torch.ones(count, 3) for name in "abc"},
        torch.zeros(count),
        ready.responses.voxels,
    )
    weights.bias[3] = torch.nan
    spec = type("Spec", (), {"readout": readout, "groups": groups, "voxels": count})
    return FittedModel(Path("nowhere"), spec, weights)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def known(experiment: Path) -> object:
    return Truth.load(experiment.with_name("nsd-truth.npz")).subjects[1]


def test_true_fields_agree_with_the_measured_ones(ready: Ready, known: object, experiment: Path) -> None:
    found = retinotopy.of_model(model_of_the_truth(ready, known), ready.responses, experiment)
    assert found.maps is not None
    assert found.comparison is not None
    assert np.flatnonzero(np.isnan(found.maps["eccentricity"])).tolist() == [3]
    for name in ("V1", "V2", "V3"):
        row = found.comparison["rois"][name]
        assert row["voxels"] >= 12
        assert row["eccentricity_r"] > 0.99
        assert row["angle_r"] > 0.99
        assert row["angle_apart"] < 3
    assert found.comparison["rois"]["all"]["size_r"] > 0.9
    distance = np.hypot(
        found.maps["x"] / 8.4 + 0.5 - known.centre[:, 0], 0.5 - found.maps["y"] / 8.4 - known.centre[:, 1]
    )
    assert np.nanmedian(distance) < 0.02
    assert found.comparison["r2_floor"] == 10
    assert found.comparison["within_degrees"] == 4.2


def test_why_there_is_no_comparison_is_said(ready: Ready, known: object, experiment: Path, tmp_path: Path) -> None:
    model = model_of_the_truth(ready, known)
    for root in (None, tmp_path / "gone"):
        found = retinotopy.of_model(model, ready.responses, root)
        assert found.maps is not None
        assert found.comparison is None
        assert "--nsd-root" in found.note
    (tmp_path / "nsddata").mkdir()
    assert "prf_eccentricity" in retinotopy.of_model(model, ready.responses, tmp_path).note
    for readout in ("ridge", "linear"):
        found = retinotopy.of_model(model_of_the_truth(ready, known, readout), ready.responses, experiment)
        assert found.maps is found.comparison is None
        assert f"{readout} readout has no receptive fields" in found.note


def test_a_gaussian_readout_s_fields_are_those_it_chose(ready: Ready, known: object, tmp_path: Path) -> None:
    model = model_of_the_truth(ready, known, "gaussian")
    model.folder = tmp_path
    shaped = retinotopy.field_maps(model, ready.responses)
    (tmp_path / "chosen.csv").write_text("voxel,x,y,size,penalty\n0,0.75,0.5,0.25,1.0\n2,0.5,0.25,0.1,1.0\n")
    chosen = retinotopy.field_maps(model, ready.responses)
    np.testing.assert_allclose(chosen["eccentricity"][:3], [2.1, np.nan, 2.1])
    np.testing.assert_allclose(chosen["size"][:3], [2.1, np.nan, 0.84])
    assert np.isnan(chosen["x"][3:]).all()
    (tmp_path / "chosen.csv").write_text("voxel,epoch\n0,4\n")
    np.testing.assert_array_equal(retinotopy.field_maps(model, ready.responses)["x"], shaped["x"])


def test_measured_fields_are_read_where_they_are(ready: Ready, experiment: Path, tmp_path: Path) -> None:
    responses = ready.responses
    layout, here = Layout(tmp_path), Layout.at(experiment)
    (tmp_path / "nsddata").mkdir()

    def save(name: str, data: np.ndarray, affine: np.ndarray) -> None:
        layout.functional(1, name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), affine), layout.functional(1, name))

    places = tuple(responses.voxels.T)
    original = nibabel.load(here.functional(1, "prf_eccentricity")).get_fdata()
    save("prf_eccentricity", np.nan_to_num(original), responses.affine)
    measured, note = retinotopy.measured_fields(responses, tmp_path)
    assert note == ""
    np.testing.assert_allclose(measured.eccentricity, original[places], rtol=1e-6)
    assert measured.angle is measured.size is measured.r2 is None
    # A voxel that is 0 everywhere was not mapped.
    empty = np.nan_to_num(original)
    empty[places[0][0], places[1][0], places[2][0]] = 0
    save("prf_eccentricity", empty, responses.affine)
    assert np.isnan(retinotopy.measured_fields(responses, tmp_path)[0].eccentricity[0])
    before = retinotopy.measured_fields(responses, experiment)[0].digest()
    assert retinotopy.measured_fields(responses, experiment)[0].digest() == before
    assert retinotopy.measured_fields(responses, tmp_path)[0].digest() != before


def test_measured_fields_in_another_space(
    ready: Ready, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from boldreams_cli.console import BoldreamsError

    responses, layout = ready.responses, Layout(tmp_path)
    path = layout.functional(1, "prf_eccentricity")
    path.parent.mkdir(parents=True)
    elsewhere = responses.affine.copy()
    elsewhere[0, 3] += 3
    nibabel.save(nibabel.Nifti1Image(np.ones(responses.shape, np.float32), elsewhere), path)
    with caplog.at_level("WARNING"):
        retinotopy.measured_fields(responses, tmp_path)
    assert "another affine" in caplog.text + capsys.readouterr().err
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3), np.float32), responses.affine), path)
    with pytest.raises(BoldreamsError, match="differ in shape"):
        retinotopy.measured_fields(responses, tmp_path)
