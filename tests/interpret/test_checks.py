"""Checks of attributions, on responses whose right attribution is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from boldreams_cli.features import backbones
from boldreams_cli.interpret.attribution.checks import curves, measures, randomised
from boldreams_cli.interpret.attribution.checks.record import summary
from tests.interpret.conftest import Fitted, by_hand

RANDOM = np.random.default_rng(0)
WEIGHT = torch.from_numpy(RANDOM.normal(size=(3, 24, 24))).float()
IMAGE = torch.from_numpy(RANDOM.uniform(size=(3, 24, 24))).float()
BLACK = torch.zeros(3, 24, 24)
RIGHT = (WEIGHT * IMAGE).numpy()


def linear(points: Tensor) -> Tensor:
    return (points * WEIGHT).sum((1, 2, 3))


def test_deletion_takes_the_highest_first() -> None:
    found = curves.replaced(linear, IMAGE, BLACK, RIGHT.mean(0), 7)
    lost = np.sort(RIGHT.sum(0).ravel())[::-1]
    counts = np.linspace(0, 576, curves.POINTS + 1).round().astype(int)
    np.testing.assert_allclose(found, [RIGHT.sum() - lost[:count].sum() for count in counts], atol=1e-3)


def test_right_map_beats_chance_and_its_opposite_does_not() -> None:
    good = curves.curves(linear, IMAGE, BLACK, RIGHT.mean(0), 7).areas()
    assert good["deletion"] < good["chance_deletion"]
    assert good["insertion"] > good["chance_insertion"]
    bad = curves.curves(linear, IMAGE, BLACK, -RIGHT.mean(0), 5).areas()
    assert bad["deletion"] > bad["chance_deletion"]
    assert bad["chance_deletion"] == pytest.approx(good["chance_deletion"])
    ends = curves.curves(linear, IMAGE, BLACK, RIGHT.mean(0), 7)
    assert (ends.deletion[0], ends.insertion[-1]) == (pytest.approx(RIGHT.sum(), abs=1e-3),) * 2
    assert ends.deletion[-1] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("values", "of_difference"), [(RIGHT, True), (WEIGHT.numpy(), False)])
def test_right_attribution_has_no_infidelity(values: np.ndarray, of_difference: bool) -> None:
    found = [measures.infidelities(linear, IMAGE, BLACK, values, of_difference, batch) for batch in (1, 16)]
    assert found[0]["relative_infidelity"] < 1e-4
    scaled = measures.infidelities(linear, IMAGE, BLACK, 5 * values, of_difference, 16)
    assert scaled["relative_infidelity"] < 1e-4
    wrong = [measures.infidelities(linear, IMAGE, BLACK, values[:, ::-1], of_difference, batch) for batch in (1, 16)]
    assert 0.5 < wrong[0]["relative_infidelity"] <= 1.0001
    assert wrong[0] == pytest.approx(wrong[1], rel=1e-4), "whatever the batch"


def test_sensitivity_is_the_change_of_the_map() -> None:
    assert measures.sensitivity(lambda image: WEIGHT.numpy(), IMAGE) == 0
    found = measures.sensitivity(lambda image: image.double().numpy(), IMAGE)
    expected = measures.RADIUS / np.sqrt(3) * np.sqrt(IMAGE.numel()) / float(IMAGE.norm())
    assert found == pytest.approx(expected, rel=0.1)


def test_a_map_that_knows_no_weights_does_not_survive() -> None:
    """As one that shows edges."""
    edges = np.abs(np.gradient(RIGHT.mean(0))[0])
    same = randomised.rank_correlation(edges, edges)
    assert same == {"signed": pytest.approx(1), "absolute": pytest.approx(1)}
    other = randomised.rank_correlation(RIGHT.mean(0), RANDOM.normal(size=(24, 24)))
    assert abs(other["signed"]) < 0.2
    assert randomised.survives({"readout": other, "all": other})
    assert not randomised.survives({"readout": other, "all": same})
    assert not randomised.survives({"readout": {"signed": -0.9, "absolute": 0.9}, "all": other})
    flat = randomised.rank_correlation(edges, np.zeros_like(edges))
    assert randomised.survives({"readout": other, "all": flat}) is None, "of a filter that is silent"
    assert randomised.survives({"readout": same, "all": flat}) is False
    unknown = {"survives": None, "rank_correlation": {"all": {"signed": None, "absolute": None}}}
    assert summary({"saliency": [unknown]}) == [
        "maps that cannot be compared with those of random weights, as one is flat: saliency (1 of 1)"
    ]
    assert (
        "saliency (0 of 1;"
        in summary({"saliency": [unknown, {"survives": False, "rank_correlation": {"all": same}}]})[0]
    )
    lines = summary({
        "edges": [{"survives": False, "rank_correlation": {"all": same}}],
        "gradient": [{"survives": True, "rank_correlation": {"all": other}}],
    })  # fmt: skip
    assert [("gradient" in line, "NOT" in line) for line in lines] == [(True, False), (False, True)]


def test_random_weights_read_maps_as_the_model_does() -> None:
    """Of a signed network, rectified or not."""
    for rectified in (False, True):
        backbone = backbones.load("alexnet", "random", layers=["features.2"], rectified=rectified)
        full = by_hand(backbone, {(27, 27): torch.ones(1, 27, 27)}, {"features.2": [0, 1]})
        other = randomised.randomised(full, "all").backbone
        assert (other.rectified, other.layers) == (rectified, backbone.layers)
        assert other.digest != backbone.digest


def test_random_weights_are_the_readouts_then_all(fitted: Fitted) -> None:
    before = {name: value.clone() for name, value in fitted.model.weights.weights.items()}
    image = torch.rand(1, 3, 227, 227, generator=torch.Generator().manual_seed(0))
    readout, everything = (randomised.randomised(fitted.full, level) for level in randomised.LEVELS)
    assert readout.backbone is fitted.full.backbone
    with torch.inference_mode():
        maps = [full.maps(image)[0] for full in (fitted.full, readout, everything)]
        betas = [full(image)[0].nan_to_num().numpy() for full in (fitted.full, readout, everything)]
    torch.testing.assert_close(maps[1], maps[0])
    assert (maps[2] - maps[0]).abs().max() > 0.01 * maps[0].abs().max()
    assert abs(np.corrcoef(betas[0], betas[1])[0, 1]) < 0.8
    for name, value in before.items():
        assert torch.equal(fitted.model.weights.weights[name], value), "the model's own stay"
        assert not torch.equal(readout.model.weights.weights[name], value)
