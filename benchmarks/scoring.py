"""What the statistics of `score` cost: 20,000 voxels x 1,000 images with them against without."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor

from benchmarks.brain import Brain
from boldreams_cli import plots
from boldreams_cli.data.areas import Areas
from boldreams_cli.data.units import VoxelUnits
from boldreams_cli.encoding.evaluation import score
from boldreams_cli.encoding.evaluation.saved import files as score_files
from boldreams_cli.encoding.evaluation.statistics import mean_and_error, noise_ceiling
from boldreams_cli.encoding.model.spec import FittedModel, ModelSpec
from boldreams_cli.files import write_json, write_text, written_whole

SHAPE, VOXELS, IMAGES, REPEATS, GROUPS, LABELS = (81, 104, 83), 20_000, 1_000, 3, 20, 60
ROUNDS = 3


@dataclass
class MadeUpResponses:
    """Test trials in memory, in as many areas as NSD names, with what scoring asks of `Responses`."""

    trials: np.ndarray
    voxels: np.ndarray
    ncsnr: np.ndarray
    areas: Areas
    shape = SHAPE
    affine = np.eye(4)
    test_images = np.arange(IMAGES, dtype=np.int32)
    trial_images = np.repeat(test_images, REPEATS)
    trial_test = np.ones(IMAGES * REPEATS, dtype=bool)
    trial_repeats = None

    @property
    def units(self) -> VoxelUnits:
        """Where the voxels lie."""
        return VoxelUnits(self.voxels, self.affine, self.shape)

    @classmethod
    def random(cls) -> MadeUpResponses:
        """Draw them."""
        rng = np.random.default_rng(0)
        voxels = np.argwhere(np.ones(SHAPE, dtype=bool))[: VOXELS * 30 : 30].astype(np.int32)
        labels = rng.integers(0, LABELS + 1, VOXELS).astype(np.int16)
        tables = {"rois": {number: f"label-{number}" for number in range(1, LABELS + 1)}}
        part = LABELS // GROUPS
        groups = {
            f"group-{group}": ("rois", tuple(range(1 + part * group, 1 + part * (group + 1))))
            for group in range(GROUPS)
        }
        areas = Areas({"rois": labels}, tables, voxels, SHAPE, np.eye(4), groups)
        trials = rng.standard_normal((IMAGES * REPEATS, VOXELS), dtype=np.float32)
        return cls(trials, voxels, rng.uniform(0.1, 1.5, VOXELS).astype(np.float32), areas)

    def repeats(self, images: np.ndarray) -> np.ndarray:
        """As `Responses.repeats`."""
        return np.full(len(images), REPEATS)

    def mean_betas(self, images: np.ndarray) -> np.ndarray:
        """As `Responses.mean_betas`."""
        return self.trials.reshape(IMAGES, REPEATS, VOXELS).mean(1)

    def read_betas(self, trials: np.ndarray, voxels: slice) -> np.ndarray:
        """As `Responses.read_betas`."""
        return self.trials[:, voxels]


def score_statistics(brain: Brain) -> list[dict[str, object]]:
    """Correlations, tables, maps and figures, with the statistics over images and without; predictions are given."""
    responses: Any = MadeUpResponses.random()
    signal = torch.randn(IMAGES, VOXELS, generator=torch.Generator().manual_seed(0))
    prediction = signal + torch.from_numpy(responses.mean_betas(responses.test_images))
    spec = ModelSpec(1, "alexnet", {"digest": ""}, {}, {}, {}, [], 10, False, "separable", "", "", VOXELS, {})
    model = FittedModel(brain.folder / "scored", spec)

    def with_statistics() -> None:
        score_files.save(score.of_prediction(model, responses, prediction))

    def without() -> None:
        _plain_score(brain.folder / "plainly", responses, prediction)

    times = [(_seconds(with_statistics), _seconds(without)) for _ in range(ROUNDS)]
    ours, plain = (min(column) for column in zip(*times, strict=True))
    return [
        {
            "what": "score: time of 20,000 voxels x 1,000 images, all statistics",
            "measured": f"{ours:.2f} s",
            "baseline": f"{plain:.2f} s",
            "ratio": ours / plain,
            "target": "at most 1.5",
        }
    ]


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _plain_r(prediction: Tensor, beta: Tensor) -> Tensor:
    """Correlations of all voxels at once."""
    p, b = (x.double() - x.double().mean(0) for x in (prediction, beta))
    norms = p.norm(dim=0), b.norm(dim=0)
    tiny = [1e-12 * x.double().norm(dim=0) for x in (prediction, beta)]
    varies = (norms[0] > tiny[0]) & (norms[1] > tiny[1])
    return torch.where(varies, (p * b).sum(0) / (norms[0] * norms[1]), torch.nan).clamp(-1, 1)


def _plain_score(folder: Path, responses: Any, prediction: Tensor) -> None:
    """What `score` did before: r, ceilings, means by area, one map, the figures, JSON."""
    betas = torch.from_numpy(responses.mean_betas(responses.test_images))
    singles = torch.from_numpy(responses.read_betas(responses.trial_test, slice(None)))
    arrays = {
        "r": _plain_r(prediction, betas).numpy(),
        "r_single": _plain_r(prediction[torch.from_numpy(responses.trial_images).long()], singles).numpy(),
        "ceiling": np.sqrt(noise_ceiling(responses.ncsnr, responses.repeats(responses.test_images))),
        "ceiling_single": np.sqrt(noise_ceiling(responses.ncsnr, np.ones(1))),
    }
    areas: dict[str, dict[str, Any]] = {}
    for name in [*responses.areas.counts(), *responses.areas.label_counts()]:
        inside = responses.areas.select(name)
        areas[name] = {"voxels": int(inside.sum())}
        for key, values in arrays.items():
            mean, error = mean_and_error(values[inside])
            areas[name] |= {f"{key}_mean": mean, f"{key}_se": error, f"{key}_ci": [mean - error, mean + error]}
    write_text(folder / "rois.csv", "\n".join(",".join(map(str, area.values())) for area in areas.values()))
    volume = np.full(responses.shape, np.nan, dtype=np.float32)
    volume[tuple(responses.voxels.T)] = arrays["r"]
    with written_whole(folder / "correlation.nii.gz") as temporary:
        nibabel.save(nibabel.Nifti1Image(volume, responses.affine), temporary)
    groups = {name: areas[name] for name in responses.areas.counts()}
    plots.accuracy(folder / "figures", arrays["r"], arrays["ceiling"], groups, "without statistics")
    write_json(folder / "scores.json", {"rois": areas, **arrays})
