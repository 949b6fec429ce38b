"""Training from the cache against a plain implementation of the published recipe."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boldreams_cli.encoding.inputs.layout import Group, MapLayout
from boldreams_cli.encoding.numerics.contraction import learning_rate, published_start
from boldreams_cli.encoding.readouts import separable as training_module
from boldreams_cli.encoding.readouts.separable import ReadoutTraining, batch_order

GROUPS = [Group("6x6", 6, 6, ("a",)), Group("3x3", 3, 3, ("b", "c"))]
FILTERS = {"a": [0, 1, 2], "b": list(range(5)), "c": list(range(8))}
LAYOUTS = [MapLayout(group, FILTERS) for group in GROUPS]
TRIALS, VOXELS = 70, 150


class Plain(nn.Module):
    """Equation 1, as one would write it first."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        sizes = [(layout.count, layout.group.pixels) for layout in LAYOUTS]
        fields, weights, bias = published_start(sizes, VOXELS, np.arange(VOXELS), seed)
        self.fields, self.weights = nn.ParameterList(fields), nn.ParameterList(weights)
        self.bias = nn.Parameter(bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        triples = zip(maps, self.fields, self.weights, strict=True)
        return self.bias + sum(torch.einsum("bkp,pv,kv->bv", *triple) for triple in triples)


def data() -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.rand(TRIALS, layout.count, layout.group.pixels, generator=generator) for layout in LAYOUTS]
    return maps, torch.randn(TRIALS, VOXELS, generator=generator)


def test_training_equals_a_plain_adam_on_equation_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_module, "INNER_BYTES", 2**14)
    maps, betas = data()
    plain = Plain(seed=5)
    adam = torch.optim.Adam(plain.parameters(), lr=1e-3)
    training = ReadoutTraining(LAYOUTS, slice(0, VOXELS), VOXELS, 16, 1e-3, 5, torch.device("cpu"), "fp32")
    assert len(training.blocks) > 1, "the test should cross blocks of voxels"
    for epoch in range(4):
        for group in adam.param_groups:
            group["lr"] = learning_rate(1e-3, epoch)
        for trials in batch_order(TRIALS, 16, 5, epoch):
            adam.zero_grad()
            loss = (plain([group[trials] for group in maps]) - betas[trials]).square().mean()
            loss.backward()
            adam.step()
            ordered = [
                (group[trials].transpose(1, 2) if layout.pixels_first else group[trials]).contiguous()
                for group, layout in zip(maps, LAYOUTS, strict=True)
            ]
            total = training.step(ordered, betas[trials], learning_rate(1e-3, epoch))
            assert total == pytest.approx(float(loss.detach()) * len(trials) * VOXELS, rel=1e-4)
    fields, weights, bias = training.weights()
    for found, expected in zip([*fields, *weights], [*plain.fields, *plain.weights], strict=True):
        torch.testing.assert_close(found, expected.detach().T, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bias, plain.bias.detach(), rtol=1e-4, atol=1e-6)


def test_spans_of_voxels_trained_apart_equal_all_at_once() -> None:
    maps, betas = data()
    ordered = [
        (group.transpose(1, 2) if layout.pixels_first else group).contiguous()
        for group, layout in zip(maps, LAYOUTS, strict=True)
    ]

    def trained(*spans: slice) -> Tensor:
        found = []
        for span in spans:
            training = ReadoutTraining(LAYOUTS, span, VOXELS, 16, 1e-3, 0, torch.device("cpu"), "fp32")
            for trials in batch_order(TRIALS, 16, 0, 0):
                training.step([group[trials] for group in ordered], betas[trials][:, span], 1e-3)
            found.append(training.weights()[1][1])
        return torch.cat(found)

    torch.testing.assert_close(trained(slice(0, 60), slice(60, VOXELS)), trained(slice(0, VOXELS)))


def test_state_goes_on_bit_for_bit() -> None:
    maps, betas = data()
    ordered = [
        (group.transpose(1, 2) if layout.pixels_first else group).contiguous()
        for group, layout in zip(maps, LAYOUTS, strict=True)
    ]

    def fresh() -> ReadoutTraining:
        return ReadoutTraining(LAYOUTS, slice(0, VOXELS), VOXELS, 16, 1e-3, 0, torch.device("cpu"), "fp32")

    straight, broken = fresh(), fresh()
    batches = batch_order(TRIALS, 16, 0, 0)
    for number, trials in enumerate(batches):
        straight.step([group[trials] for group in ordered], betas[trials], 1e-3)
        if number == 2:
            state = {key: value.clone() for key, value in broken.state().items()}
            broken = fresh()
            broken.load_state(state)
        broken.step([group[trials] for group in ordered], betas[trials], 1e-3)
    for one, other in zip(straight.blocks, broken.blocks, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_every_trial_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    first, again, second = (np.concatenate(batch_order(50, 16, 3, epoch)) for epoch in (0, 0, 1))
    assert sorted(first) == list(range(50))
    assert (first == again).all()
    assert (first != second).any()
