"""Square roots of map values: one definition, of stored maps and of gradients, and models of before keep their keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from boldreams_cli.console import ChoiceError
from boldreams_cli.encoding.numerics.compression import EPSILON, compressed
from boldreams_cli.encoding.readouts.ridge import RidgeReadout, RidgeSettings

from .made_up import PLENTY, problem, solve


def test_is_the_root_with_its_sign_and_has_a_slope_at_zero() -> None:
    x = torch.tensor([-4.0, -1e-3, 0, 1e-6, 0.25, 9, 6e4], dtype=torch.float64, requires_grad=True)
    found = compressed(x, "sqrt")
    values = x.detach().numpy()
    expected = np.sign(values) * (np.sqrt(np.abs(values) + EPSILON) - np.sqrt(EPSILON))
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9)
    found.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 0.5 / np.sqrt(np.abs(values) + EPSILON), rtol=1e-9)
    assert compressed(x, "none") is x


def test_maps_are_compressed_before_they_are_pooled(tmp_path: Path) -> None:
    posed = problem(tmp_path)
    plain, rooted = (posed.maps.pooled(3, PLENTY, how) for how in ("none", "sqrt"))
    for name, before, after in zip("ab", plain, rooted, strict=True):
        maps = compressed(torch.from_numpy(posed.maps.store.maps[name][posed.maps.store.rows]).float(), "sqrt")
        flat = maps.flatten(2).double()
        scale = flat.transpose(0, 1).flatten(1).std(1)
        varies = scale > 1e-6
        torch.testing.assert_close(after.scale[varies].double(), scale[varies], rtol=1e-5, atol=0)
        expected = (flat @ after.pool.double())[:, varies] / scale[varies, None]
        found = after.read(np.arange(len(flat)))
        found = (found.transpose(1, 2) if after.layout.pixels_first else found)[:, varies].double()
        torch.testing.assert_close(found, expected - expected.mean(0), rtol=1e-4, atol=1e-4)
        assert not torch.equal(before.scale, after.scale)


def test_a_ridge_of_roots_is_another_model(tmp_path: Path) -> None:
    one, other = (
        solve(RidgeReadout(RidgeSettings(grid=3, compress=how)), problem(tmp_path), tmp_path / how)
        for how in ("none", "sqrt")
    )
    assert not torch.equal(one["weights/0"], other["weights/0"])


def test_none_is_not_recorded_so_that_keys_stay() -> None:
    assert RidgeSettings(compress="none").recorded().keys() == {"grid", "penalties"}
    assert RidgeSettings().recorded()["compress"] == "sqrt"
    with pytest.raises(ChoiceError, match="none or sqrt"):
        RidgeSettings(compress="log").check()
