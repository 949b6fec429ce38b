"""What fits of one subject and one backbone have in common, read once: the ranking, betas, and maps of nested filters.

The filters of a smaller percent are the first ones of a larger percent's, so its maps are parts of those that the
larger one has read. Nothing here changes a bit of a model: it is that of a fit by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.data.responses import Images, Responses
from boldreams_cli.encoding.inputs.betas import TrainingBetas
from boldreams_cli.encoding.inputs.layout import MapLayout
from boldreams_cli.encoding.inputs.maps import StoredMaps, usable
from boldreams_cli.encoding.inputs.nested import NestedMaps
from boldreams_cli.encoding.inputs.ranking import rank_filters
from boldreams_cli.features.store.feature_store import FeatureStore


class Inputs:
    """What a fit reads of one subject and one backbone; `fit` makes its own where it is given none.

    Parameters
    ----------
    store : of the backbone's maps.
    responses : of the subject.
    device : to compute on.
    scratch : folder for files of what does not fit the memory.
    keep : bytes of ``--memory`` of which a part is kept from one fit to the next; 0 keeps nothing. Fits should then
        come in descending order of their percents.
    """

    def __init__(
        self, store: FeatureStore, responses: Responses, device: torch.device, scratch: Path, keep: int = 0
    ) -> None:
        self.store, self.responses, self.device, self.scratch = store, responses, device, scratch
        self.room = usable(keep) if keep else 0
        self._nested: NestedMaps | None = None
        self._threads = torch.get_num_threads()
        self._lock = RLock()  # of fits in several threads

    @cached_property
    def ranked(self) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Order of each layer's filters by the training images, and their standard deviations."""
        return rank_filters(self.store, self.responses.train_images)

    @cached_property
    def betas(self) -> TrainingBetas:
        """Betas of the training trials."""
        return KeptBetas(self.responses, self.room // 8) if self.room else TrainingBetas(self.responses)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(images,) of the store, of the training images."""
        return self.store.rows(self.betas.image_ids)

    def kept_bytes(self, pooled: bool) -> int:
        """Most memory that is taken beside what a fit takes itself; `pooled` if it reads pooled maps."""
        if not self.room:
            return 0
        means = 4 * len(self.betas.image_ids) * len(self.betas.columns)
        return min(means, self.room // 8) + (self.room // 4 if pooled else 0)

    def forget(self) -> None:
        """Let go of all maps, before fits that read others."""
        self._nested = None

    def maps(self, layouts: Sequence[MapLayout]) -> StoredMaps:
        """Maps of some filters, of which nothing is read yet."""
        with self._lock:
            if self.room and self._nested is None:
                self._nested = NestedMaps(
                    self.store, self.rows, self.device, self.scratch, self.room // 4, self._threads
                )
            nested = self._nested
        return StoredMaps(self.store, self.rows, layouts, self.device, self.scratch, nested=nested)


class KeptBetas(TrainingBetas):
    """Betas that keep the last means in memory, for the next fit of the same voxels.

    Parameters
    ----------
    responses : of the subject.
    room : bytes that they may take.
    """

    def __init__(self, responses: Responses, room: int) -> None:
        super().__init__(responses)
        self._room, self._means = room, (b"", torch.empty(0))
        self._lock = RLock()

    def means(self, voxels: NDArray[np.int64]) -> Tensor:
        """See `TrainingBetas.means`; not to be written to."""
        key = voxels.tobytes()
        with self._lock:
            if self._means[0] == key:
                return self._means[1]
            found = super().means(voxels)
            if found.nbytes <= self._room:
                self._means = (key, found)
            return found


class KeptResponses(Responses):
    """Responses that keep in memory what scoring reads of the test images, for the next model of the same subject.

    Parameters
    ----------
    responses : an open store.
    """

    def __init__(self, responses: Responses) -> None:
        super().__init__(responses.store)
        self._kept: dict[str, NDArray[np.float32]] = {}
        self._lock = RLock()

    def mean_betas(self, images: Images, voxels: slice = slice(None)) -> NDArray[np.float32]:
        """See `Responses.mean_betas`; those of all test images are not to be written to."""
        if voxels != slice(None) or not np.array_equal(images, self.test_images):
            return super().mean_betas(images, voxels)
        with self._lock:
            if "means" not in self._kept:
                self._kept["means"] = super().mean_betas(images)
            return self._kept["means"]

    def read_betas(
        self, trials: slice | NDArray[np.bool_] = slice(None), voxels: slice = slice(None)
    ) -> NDArray[np.float32]:
        """See `Responses.read_betas`; those of all test trials are not to be written to."""
        if voxels != slice(None) or isinstance(trials, slice) or not np.array_equal(trials, self.trial_test):
            return super().read_betas(trials, voxels)
        with self._lock:
            if "trials" not in self._kept:
                self._kept["trials"] = super().read_betas(trials)
            return self._kept["trials"]
