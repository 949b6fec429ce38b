"""The card that other tests compute on: right, apart from the host, and watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from boldreams_cli.transfers import read_ahead, sent
from tests.card import CARD, Card, OnCard, a_made_up_card

A = torch.arange(12.0).view(3, 4)


@pytest.fixture
def card() -> Iterator[Card]:
    """The one made of the host's memory, also where there is a GPU."""
    with a_made_up_card() as made:
        yield made


def test_it_computes_what_the_host_computes(card: Card) -> None:
    there = A.to(CARD)
    assert isinstance(there, OnCard)
    assert there.device == CARD
    total = torch.zeros(3, 3, device=CARD)
    total += there @ there.T
    total[0].mul_(2)
    expected = A @ A.T
    expected[0] *= 2
    assert torch.equal(total.cpu(), expected)


def test_gradients_go_through_it(card: Card) -> None:
    there = A.to(CARD).requires_grad_()
    (there.square().sum() * 3).backward()
    assert torch.equal(there.grad.cpu(), 6 * A)


@pytest.mark.parametrize(
    "mix",
    [
        lambda there: there + A,
        lambda there: A @ there.T,
        lambda there: there.index_put_((torch.tensor([0]),), A[:1]),
        lambda there: A[torch.zeros(1, dtype=torch.long, device=CARD)],
        lambda there: torch.cat([there, A]),
        lambda there: there.index_select(0, torch.tensor([0])),
    ],
)
def test_it_refuses_tensors_of_the_host(card: Card, mix: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match="the card"):
        mix(A.to(CARD))


@pytest.mark.parametrize(
    "look",
    [
        lambda there: float(there.sum()),
        lambda there: bool((there > 3).any()),
        lambda there: there.sum().tolist(),
        lambda there: there.cpu(),
        lambda there: there[there > 3],
        lambda there: there[torch.tensor([0])],
        lambda there: there.copy_(A),
        lambda there: torch.linalg.eigh(there[:, :3].clone()),
        lambda there: torch.nonzero(there),
        lambda there: torch.tensor([1.0], device=CARD),
    ],
)
def test_it_notes_what_waits(card: Card, look: Callable[[Tensor], object]) -> None:
    there = sent(A, CARD)
    assert card.waits == []
    look(there)
    assert len(card.waits) >= 1


def test_it_notes_nothing_else(card: Card) -> None:
    there, places = sent(A, CARD), sent(torch.tensor([2, 0]), CARD)
    there[places] = there[places] * 2 + torch.full((), 3.0)
    torch.empty(3, 4).copy_(there, non_blocking=True)
    torch.zeros(3, device=CARD).add_(there.sum(1))
    assert card.waits == []


@pytest.mark.parametrize("device", [CARD, torch.device("cpu")])
@pytest.mark.parametrize("ahead", [1, 3, 9])
def test_what_is_read_ahead_comes_in_order(card: Card, device: torch.device, ahead: int) -> None:
    asked: list[int] = []

    def read(item: int) -> tuple[Tensor]:
        asked.append(item)
        return (torch.full((2,), float(item)),)

    found = []
    for number, (tensor,) in enumerate(read_ahead(read, range(5), device, ahead)):
        assert tensor.device == device
        assert len(asked) == min(5, number + 1 + ahead)
        found.append(float(tensor[0]))
    assert found == [0, 1, 2, 3, 4]
