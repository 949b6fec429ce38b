"""Numbers of a small store and of a fit by the paper's recipe, kept: a change of them is meant, or it is a fault.

Sums rather than hashes of bytes, because the last bits differ between processors. Real AlexNet weights.
"""

from pathlib import Path

import numpy as np
import pytest
import zarr
from safetensors.numpy import load_file

from tests.conftest import Run

# Sum of each layer's maps over all images of both subjects.
MAPS = {
    "features.2": 4997722.714483917,
    "features.5": 4979109.484457433,
    "features.7": 3050614.982399404,
    "features.9": 1755295.0172522068,
    "features.12": 489889.5854769349,
}
# Sum of the absolute values of each tensor after two epochs at a rate of 1e-3, 10 % of the filters;
# each voxel starts from random numbers of its own.
WEIGHTS = {
    "bias": 74.41873515024781,
    "fields/13x13": 922.1511579102298,
    "fields/27x27": 1976.2639550910862,
    "fields/6x6": 430.66869290929753,
    "voxels": 2075.0,
    "weights/features.12": 146.05899552677874,
    "weights/features.2": 35.446418264560634,
    "weights/features.5": 109.29748972367815,
    "weights/features.7": 225.59217562138292,
    "weights/features.9": 147.4810868982022,
}
LOSSES = [1.704840120911971, 1.090907909445703]
R_MEAN = 0.03857327822740115


@pytest.fixture(scope="module", autouse=True)
def alexnet_of_63_pixels() -> None:
    """Not here: the numbers are of AlexNet as it is."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unchanged")


def test_maps_and_a_fit_by_the_papers_recipe(run: Run, cache: Path, alexnet_weights: Path) -> None:
    place = {"BOLDREAMS_CACHE": cache}
    made = run("extract", "--backbone", "alexnet", "--weights", alexnet_weights, "--json", **place).json
    assert made["layers"].keys() == MAPS.keys()
    for name, expected in MAPS.items():
        maps = np.asarray(zarr.open_array(Path(made["store"]) / "layers" / name / "maps", mode="r")[:])
        assert maps.sum(dtype=np.float64) == pytest.approx(expected, rel=1e-5), name
    chosen = ["--percent", 10, "--subject", 1, "--epochs", 2, "--lr", "1e-3"]
    fitted = run("fit", *chosen, "--json", **place).json
    assert fitted["train_loss"] == pytest.approx(LOSSES, rel=1e-5)
    found = load_file(Path(fitted["model"]) / "weights.safetensors")
    sums = {name: float(np.nansum(np.abs(value.astype(float)))) for name, value in found.items()}
    assert sums == pytest.approx(WEIGHTS, rel=1e-5)
    assert run("score", "--json", **place).json["r_mean"] == pytest.approx(R_MEAN, rel=1e-3)
