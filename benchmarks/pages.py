"""`report` of a study's size: 72 models of 20,000 voxels, whose scores are made up after those of one real model."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from benchmarks.brain import Brain
from benchmarks.sweep import PERCENTS, fresh_cache, row, seconds

SUBJECTS, BACKBONES = (1, 2, 5, 7), ("alexnet", "vgg11")
VOXELS, SHAPE = 20_000, (81, 104, 83)
HEADINGS = "x,y,z,areas,ncsnr,ceiling,r,r_se,p,q,r_over_ceiling,eccentricity,size"


def pages(brain: Brain) -> list[dict[str, object]]:
    """Time and memory of one page."""
    cache = fresh_cache(brain, "pages")
    common = ("--backbone", "alexnet", "--subject", 1, "--recipe", "fast", "--epochs", 1, "--percent", 1)
    for command in (("fit", *common), ("score", *common[:6], "--percent", 1)):
        seconds(brain, cache, *command)
    (model,) = (path.parent for path in (cache / "models").rglob("spec.json"))
    study = brain.folder / "study"
    for number, subject in enumerate(SUBJECTS):
        voxels = _voxels(number)
        for backbone in BACKBONES:
            for percent in PERCENTS:
                _model(study, model, subject, backbone, percent, voxels)
    taken, peak = _report(study)
    count = len(SUBJECTS) * len(BACKBONES) * len(PERCENTS)
    said = f"report of {count} models of {VOXELS:,} voxels"
    memory = {"measured": f"{peak / 1e9:.2f} GB", "baseline": "2 GB", "ratio": 2e9 / peak, "target": "1"}
    return [row(f"{said}, limit 60 s", taken, 60.0, 1), {"what": f"{said}: memory, limit 2 GB"} | memory]


def _voxels(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack(np.unravel_index(np.sort(rng.choice(np.prod(SHAPE), VOXELS, replace=False)), SHAPE), 1)


def _model(study: Path, like: Path, subject: int, backbone: str, percent: int, voxels: np.ndarray) -> None:
    """Scores, table and map of a model that was never fitted."""
    rng = np.random.default_rng([subject, percent, len(backbone)])
    spec, scores = (json.loads((like / name).read_text()) for name in ("spec.json", "scores.json"))
    folder = study / "models" / f"subj{subject:02d}" / backbone / f"percent-{percent}-fast-{subject}{backbone[:3]}"
    folder.mkdir(parents=True)
    own = {"subject": subject, "backbone": backbone, "percent": float(percent), "voxels": VOXELS, "key": folder.name}
    (folder / "spec.json").write_text(json.dumps(spec | own))
    ceiling = rng.uniform(0.2, 0.9, VOXELS)
    r = np.clip(0.7 * ceiling + rng.normal(0, 0.1, VOXELS), -1, 1)
    said: dict[str, Any] = {"voxels": VOXELS, "r": r.tolist(), "ceiling": ceiling.tolist(), "r_mean": float(r.mean())}
    said |= {"r_single": (0.7 * r).tolist(), "ceiling_single": (0.7 * ceiling).tolist()}
    (folder / "scores.json").write_text(json.dumps(scores | said))
    areas = list(scores["rois"])
    with (folder / "voxels.csv").open("w") as stream:
        stream.write(f"{HEADINGS}\n")
        for number, (x, y, z) in enumerate(voxels.tolist()):
            known = f"{x},{y},{z},{areas[number % len(areas)]},1.0,{ceiling[number]:.6g},{r[number]:.6g}"
            stream.write(f"{known},0.03,0.001,0.002,{r[number] / ceiling[number]:.6g},1.5,0.7\n")
    volume = np.full(SHAPE, np.nan, np.float32)
    volume[tuple(voxels.T)] = r
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1.8, 1.8, 1.8, 1])), folder / "correlation.nii.gz")


def _report(study: Path) -> tuple[float, int]:
    """Seconds, and bytes at most."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BOLDREAMS_")}
    command = [sys.executable, "-m", "boldreams_cli.cli", "report", "--cache", str(study), "-q"]
    start = time.perf_counter()
    child = os.posix_spawn(
        command[0], command, environment, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, usage = os.wait4(child, 0)
    taken = time.perf_counter() - start
    assert os.waitstatus_to_exitcode(status) == 0
    assert (study / "studies/report/report.html").is_file()
    shutil.rmtree(study)
    return taken, usage.ru_maxrss * 1024
