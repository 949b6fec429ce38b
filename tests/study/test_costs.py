"""What a fit costs, in multiplications, and how many fit side by side."""

from dataclasses import replace

import pytest

from boldreams_cli.encoding import readouts
from boldreams_cli.encoding.inputs.layout import Group, MapLayout
from boldreams_cli.encoding.inputs.maps import RESERVED_BYTES
from boldreams_cli.encoding.readouts.base import Readout
from boldreams_cli.study.cells.costs import CLOSED, SOFTMAX, Task, products
from boldreams_cli.study.cells.room import AT_ONCE, side_by_side

LAYOUTS = [
    MapLayout(Group("13x13", 13, 13, ("a", "b")), {"a": range(20), "b": range(30)}),
    MapLayout(Group("6x6", 6, 6, ("c",)), {"c": range(25)}),
]
TASK = Task(LAYOUTS, images=3000, trials=8000, voxels=500)


def solver(name: str, **settings: object) -> Readout:
    found = readouts.load()[name]
    return found(replace(found.Settings(), **settings))


def test_every_readout_is_known() -> None:
    for name, found in readouts.load().items():
        assert products(found(found.Settings()), TASK) or name == "linear", name
    assert products(solver("linear"), TASK), "of captions"
    assert set(CLOSED) < set(readouts.load())


def test_a_training_is_forwards_and_backwards_through_all_values() -> None:
    values = 50 * 169 + 25 * 36
    assert products(solver("separable", epochs=2), TASK) == 4 * 2 * 8000 * 500 * values
    pooled = 50 * 81 + 25 * 36
    assert products(solver("smooth", epochs=2, grid=9), TASK) == 4 * 2 * 3000 * 500 * pooled
    attending = 4 * pooled + SOFTMAX * (81 + 36)
    assert products(solver("attention", epochs=2, grid=9), TASK) == 2 * 3000 * 500 * attending


def test_a_stack_is_its_members() -> None:
    """Each is decomposed, and left-out errors are taken of each, as of a ridge on as many images."""
    alone = products(solver("ridge"), replace(TASK, images=2000))
    kinds = [("ridge",), ("ridge", "layers"), ("local",), ("local", "layers")]
    costs = [products(solver("stacked", members=members), TASK) for members in kinds]
    assert costs == sorted(costs)
    assert costs[0] > alone
    assert costs[2] > 51 * 20.0 * 2000**3, "fifty fields and the flat one"
    assert costs[3] > products(solver("local"), TASK)


def test_more_of_anything_costs_more() -> None:
    for name in readouts.load():
        once = products(solver(name), TASK)
        for more in ({"images": 6000, "trials": 16000}, {"voxels": 1000}):
            assert products(solver(name), replace(TASK, **more)) > once, (name, more)


@pytest.mark.parametrize(
    ("needs", "threads", "room", "kept", "count"),
    [
        ([10, 5, 5], 2, 2000, 0, 2),
        ([10, 5, 5], 8, 2000, 0, 3),
        ([10] * 9, 8, 2000, 0, AT_ONCE),
        ([10, 5], 1, 2000, 0, 1),
        ([900, 5], 2, 2000, 200, 2),
        ([901, 5], 2, 2000, 200, 1),
        ([10, 5], 2, 300, 0, 1),
        ([], 2, 2000, 0, 1),
    ],
)
def test_side_by_side(needs: list[int], threads: int, room: int, kept: int, count: int) -> None:
    """In MB. What each is told leaves it its share, once what is reserved and kept is taken off."""
    million = 10**6
    found, memory = side_by_side([need * million for need in needs], threads, room * million, kept * million)
    assert found == count
    if count > 1:
        share = memory - RESERVED_BYTES - kept * million
        assert max(needs) * million <= share
        assert share * count + kept * million <= room * million
