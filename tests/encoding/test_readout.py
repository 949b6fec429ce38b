"""The readout's products and gradients against equation 1 written out and torch's own autograd."""

import numpy as np
import pytest
import torch

from boldreams_cli.encoding.numerics.contraction import (
    GroupReader,
    contract,
    contract_gradients,
    contracted,
    learning_rate,
    published_start,
    template,
)


def made(images: int = 5, filters: int = 4, pixels: int = 9, voxels: int = 6) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(images, filters, pixels, generator=generator, dtype=torch.float64)
    weights = torch.randn(filters, voxels, generator=generator, dtype=torch.float64)
    fields = torch.randn(pixels, voxels, generator=generator, dtype=torch.float64)
    return maps, weights, fields


@pytest.mark.parametrize("pixels_first", [False, True])
def test_contract_is_equation_1(pixels_first: bool) -> None:
    maps, weights, fields = made()
    expected = np.einsum("bkp,kv,pv->bv", maps, weights, fields)
    if pixels_first:
        found, _ = contract(maps.transpose(1, 2), fields, weights)
    else:
        found, _ = contract(maps, weights, fields)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("images", [1, 16, 37])
def test_predictions_some_images_at_a_time_are_the_same_to_the_last_bit(images: int) -> None:
    maps, weights, fields = (value.float() for value in made(images))
    assert torch.equal(contracted(maps, weights, fields), contract(maps, weights, fields)[0])
    reader = GroupReader(fields.T, weights.T.split(weights.shape[0] // 2, 1), pixels_first=False)
    with torch.inference_mode():
        alone = reader(maps)
    assert torch.equal(reader(maps), alone)
    maps.requires_grad_()
    reader(maps).sum().backward()
    assert maps.grad is not None, "images of dreams have gradients"


def test_gradients_are_autograds() -> None:
    maps, weights, fields = made()
    beta = torch.randn(5, 6, dtype=torch.float64)
    weights.requires_grad_()
    fields.requires_grad_()
    loss = (torch.einsum("bkp,kv,pv->bv", maps, weights, fields) - beta).square().mean()
    loss.backward()
    with torch.no_grad():
        prediction, inner = contract(maps, weights, fields)
        error = (prediction - beta) * 2 / beta.numel()
        by_weights, by_fields = contract_gradients(maps, weights, inner, error)
    torch.testing.assert_close(by_weights, weights.grad)
    torch.testing.assert_close(by_fields, fields.grad)


def test_template_is_the_weighted_sum_over_voxels() -> None:
    maps, weights, fields = made()
    area = torch.tensor([0, 0.5, 0, 0.25, 0.25, 0], dtype=torch.float64)
    expected = contract(maps, weights, fields)[0] @ area
    torch.testing.assert_close((maps * template(fields.T, weights.T, area)).sum((1, 2)), expected)


def test_published_start_has_the_published_ranges() -> None:
    fields, weights, bias = published_start([(6, 729), (82, 169)], 400, np.arange(400), 3)
    for field, pixels in zip(fields, (729, 169), strict=True):
        assert field.shape == (pixels, 400)
        assert 0.97 < field.abs().max() * pixels**0.5 <= 1
    assert all(0.97 < weight.abs().max() * 20 <= 1 for weight in weights)
    assert 0 <= bias.min() < bias.max() < 1
    again = published_start([(6, 729), (82, 169)], 400, np.arange(400), 3)
    assert torch.equal(again[2], bias)


def test_rate_falls_after_each_of_epochs_2_to_7() -> None:
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 3, 4, 5, 6, 7], gamma=0.8)
    for epoch in range(10):
        assert learning_rate(1e-4, epoch) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_a_voxels_start_depends_on_the_seed_and_its_column_alone() -> None:
    groups, columns = [(6, 49), (8, 9)], np.array([3, 50, 51, 399])
    whole = published_start(groups, 400, np.arange(400), 3)
    some = published_start(groups, 400, columns, 3)
    other = published_start(groups, 400, columns, 4)
    for one, part, different in zip((*whole[0], *whole[1]), (*some[0], *some[1]), (*other[0], *other[1]), strict=True):
        assert torch.equal(part, one[:, columns])
        assert (part != different).any(0).all()
        assert len(np.unique(one[0])) > 390, "no two voxels start alike"
    assert torch.equal(some[2], whole[2][columns])
