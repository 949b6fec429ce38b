"""The fast recipe: its terms fold back exactly, it fits better, and it never looks at test images."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from boldreams_cli.console import StopFlag
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.evaluation.statistics import pearson_r
from boldreams_cli.encoding.fit import FitResult, fit
from boldreams_cli.encoding.inputs.layout import MapLayout, make_groups
from boldreams_cli.encoding.inputs.pooled import PooledMaps, StoredPool
from boldreams_cli.encoding.model.full import predict_stored
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.numerics.fields import interpolation
from boldreams_cli.encoding.readouts.base import Readout
from boldreams_cli.encoding.readouts.ridge import RidgeReadout
from boldreams_cli.encoding.readouts.separable import AdamSettings, Separable
from boldreams_cli.encoding.readouts.settings import FitSettings
from boldreams_cli.encoding.readouts.smooth import Smooth, SmoothSettings

from .conftest import Ready

CPU = torch.device("cpu")


def run(ready: Ready, cache: Path, **settings: object) -> FitResult:
    readout = Smooth(SmoothSettings(**settings))  # type: ignore[arg-type]
    return fit(ready.store, ready.responses, FitSettings(10), readout, cache, CPU, 4 * 2**30, StopFlag())


@pytest.mark.parametrize(("height", "width", "grid"), [(27, 27, 9), (13, 7, 9), (6, 6, 9), (1, 1, 9)])
def test_interpolation_is_a_partition_of_every_pixel(height: int, width: int, grid: int) -> None:
    weights = interpolation(height, width, grid)
    assert weights.shape == (height * width, min(grid, height) * min(grid, width))
    torch.testing.assert_close(weights.sum(1), torch.ones(height * width))
    assert (weights >= 0).all()


@pytest.mark.parametrize("percent_filters", [3, 60])
def test_folded_weights_predict_what_was_trained(ready: Ready, percent_filters: int) -> None:
    shapes = {name: (shape[1], shape[2]) for name, shape in ready.store.layers.items()}
    filters = {name: list(range(percent_filters)) for name in shapes}
    rows = ready.store.rows(ready.responses.train_images)
    generator = torch.Generator().manual_seed(0)
    for group in make_groups(shapes, "shared"):
        layout = MapLayout(group, filters)
        pooled = PooledMaps(StoredPool(ready.store, rows, 5), len(rows), layout, 5)
        fields = torch.randn(4, pooled.layout.group.pixels, generator=generator)
        weights = torch.randn(4, layout.count, generator=generator)
        read = pooled.read(np.arange(len(rows)))
        maps = read.transpose(1, 2) if pooled.layout.pixels_first else read
        trained = torch.einsum("bkp,vk,vp->bv", maps, weights, fields)
        field, weight, loss = pooled.fold(fields, weights)
        raw = torch.cat(
            [
                torch.from_numpy(ready.store.read_maps(n, rows, np.arange(percent_filters))).float()
                for n in group.layers
            ],
            dim=1,
        ).flatten(2)
        folded = torch.einsum("bkp,vk,vp->bv", raw, weight, field) - loss
        torch.testing.assert_close(folded, trained, rtol=1e-3, atol=1e-3 * float(trained.std()))


def test_it_fits_the_held_out_images_better_than_the_paper_does(ready: Ready, tmp_path: Path) -> None:
    slow = fit(
        ready.store, ready.responses, FitSettings(10), Separable(), tmp_path / "paper", CPU, 2**32, StopFlag()
    ).model
    fast = run(ready, tmp_path / "fast").model
    images = ready.responses.test_images
    target = torch.from_numpy(ready.responses.mean_betas(images))
    r = [
        float(pearson_r(torch.from_numpy(predict_stored(model, ready.store, images, CPU, 2**30)), target).nanmean())
        for model in (slow, fast)
    ]
    assert r[1] > 1.1 * r[0]
    assert FittedModel.load(fast.folder).spec.recipe == "fast"


@pytest.mark.parametrize(
    "readout", [Smooth(SmoothSettings(epochs=2)), RidgeReadout(), Separable(AdamSettings(epochs=1))]
)
def test_test_images_and_their_betas_have_no_influence(
    ready: Ready, tmp_path: Path, images_read: list[int], readout: Readout
) -> None:
    """The store's maps of test images are not read; their betas may be anything."""
    digests = []
    for number, change in enumerate((None, "test", "train")):
        responses = copy.copy(ready.responses)
        if change:
            _change_betas(responses, responses.trial_test == (change == "test"))
        fresh, cache = type(readout)(readout.settings), tmp_path / str(number)
        fitted = fit(ready.store, responses, FitSettings(2), fresh, cache, CPU, 2**32, StopFlag())
        digests.append(fitted.model.spec.weights_digest)
    assert digests[0] == digests[1]
    assert digests[0] != digests[2], "those of training trials have"
    assert images_read
    assert not np.isin(images_read, ready.responses.test_images).any()


def _change_betas(responses: Responses, trials: np.ndarray) -> None:
    """Let the betas of some trials be others, whoever reads them."""
    real = responses.read_betas
    noise = np.random.default_rng(0).normal(5, 3, len(trials)).astype(np.float32)

    def changed(wanted: np.ndarray, voxels: slice = slice(None)) -> np.ndarray:
        betas = real(wanted, voxels).copy()
        return betas + (noise * trials)[wanted][:, None]

    responses.read_betas = changed  # type: ignore[method-assign,assignment]
