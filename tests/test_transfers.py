"""Reading ahead in another thread, and in several."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from boldreams_cli.console import BoldreamsError
from boldreams_cli.transfers import in_threads, read_ahead, sent

CPU = torch.device("cpu")


def test_the_next_ones_are_read_elsewhere_while_one_is_used() -> None:
    second = threading.Event()

    def read(item: int) -> tuple[Tensor]:
        assert threading.current_thread() is not threading.main_thread()
        if item == 1:
            second.set()
        return (torch.tensor(item),)

    items = read_ahead(read, [0, 1, 2], CPU)
    assert int(next(items)[0]) == 0
    assert second.wait(10)
    assert [int(one) for (one,) in items] == [1, 2]


def test_an_error_of_the_reader_is_the_callers() -> None:
    def read(item: int) -> tuple[Tensor]:
        if item:
            raise OSError("the disk is gone")
        return (torch.tensor(item),)

    items = read_ahead(read, [0, 1], CPU)
    next(items)
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)


def test_nothing_is_copied_on_the_host() -> None:
    values = torch.arange(3)
    assert sent(values, CPU) is values
    ((found,),) = read_ahead(lambda item: (values,), [0], CPU)
    assert found is values


def test_the_first_is_done_by_itself_and_the_others_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    began, met = [], threading.Barrier(2, timeout=30)

    def do(item: int) -> None:
        began.append(item)
        if item:
            met.wait()  # breaks where another does not run meanwhile
        else:
            assert began == [0]

    in_threads(do, [0, 1, 2, 3, 4], 8)
    assert sorted(began) == [0, 1, 2, 3, 4]
    in_threads(do, [], 8)


def test_what_a_thread_raises_is_the_callers() -> None:
    def do(item: int) -> None:
        if item == 2:
            raise BoldreamsError("damaged")

    with pytest.raises(BoldreamsError, match="damaged"):
        in_threads(do, [0, 1, 2, 3], 2)
