"""Attribution by what memory holds: batches that are halved, targets at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from boldreams_cli.console import BoldreamsError
from boldreams_cli.interpret.attribution import integration
from boldreams_cli.interpret.attribution.attributor import Attributor, kept
from tests.interpret.conftest import Fitted
from tests.interpret.test_attribution import attributor_of


def test_batch_is_halved_when_memory_runs_out(fitted: Fitted, caplog: pytest.LogCaptureFixture) -> None:
    attributor = attributor_of(fitted, "V1", steps=8)
    area, limit = attributor.scores.areas[0], 2

    class Small:
        def read(self, maps: list[Tensor]) -> Tensor:
            if len(maps[0]) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return area.read(maps)

    image = torch.rand(3, 227, 227, generator=torch.Generator().manual_seed(0))
    whole = attributor.attribute(image, [0])
    attributor.scores.areas = [Small()]
    attributor._batch = {1: 8}
    with caplog.at_level("INFO", logger="boldreams"):
        halved = attributor.attribute(image, [0])
    assert attributor._batch == {1: 2}
    assert np.linalg.norm(halved.values - whole.values) < 1e-4 * np.linalg.norm(whole.values)
    limit = 0
    with pytest.raises(BoldreamsError, match="--device"):
        attributor.attribute(image, [0])


def test_batch_follows_from_memory(fitted: Fitted) -> None:
    attributor = attributor_of(fitted, "V1", memory=1)
    image = torch.rand(3, 227, 227)
    respond = attributor.scores.some([0])
    assert attributor._fitting_batch(respond, image) == 1
    assert 1e6 < kept(respond, image) < 3e7  # AlexNet's maps, without its weights


def test_as_many_targets_at_once_as_memory_holds_gradients_of(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(3, 227, 227, generator=torch.Generator().manual_seed(0))
    one = integration.KEPT * image.nbytes
    parts: list[list[int]] = []
    original = Attributor._attribute
    monkeypatch.setattr(Attributor, "_attribute", lambda self, pixels, areas: parts.append([*areas]) or
                        original(self, pixels, areas))  # fmt: skip
    found = [
        attributor_of(fitted, "V1", "faces", "V2", steps=8, memory=memory).attribute(image, [0, 1, 2])
        for memory in (5 * one, 2**32)
    ]
    assert parts == [[0, 1], [2], [0, 1, 2]]
    for number in range(3):
        difference = np.linalg.norm(found[0].values[number] - found[1].values[number])
        assert difference <= 1e-4 * np.linalg.norm(found[1].values[number])
    np.testing.assert_allclose(found[0].prediction, found[1].prediction, rtol=1e-5)
