"""What solvers read of the betas: means and repeats as those of the test images, averages counted for what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boldreams_cli.data.neutral.writing import write
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.data.responses import Responses
from boldreams_cli.data.units import VoxelUnits
from boldreams_cli.encoding.inputs.betas import TrainingBetas, drawn_order, hold_out


def prepared(folder: Path, repeats: np.ndarray | None) -> Responses:
    """20 images of which each was in two rows, and images 0 and 1 are the test."""
    rng = np.random.default_rng(0)
    shown = rng.permutation(np.repeat(np.arange(20), 2))
    write(
        folder / "own.h5",
        subject="own",
        betas=rng.normal(size=(40, 6)).astype(np.float32),
        trial_image=shown,
        image_names=[str(number) for number in range(20)],
        pixels=np.zeros((20, 4, 4, 3), np.uint8),
        zscored=True,
        test=shown < 2,
        repeats=repeats,
        units=VoxelUnits(np.argwhere(np.ones((3, 2, 1))), np.eye(4), (3, 2, 1)),
    )
    return open_dataset(folder / "own.h5").prepare("own", folder / "cache")


@pytest.mark.parametrize("averaged", [False, True])
def test_averages_count_as_often_as_they_stand_for(tmp_path: Path, averaged: bool) -> None:
    responses = prepared(tmp_path, np.arange(1, 41) if averaged else None)
    betas = TrainingBetas(responses)
    assert len(betas.image_ids) == 18
    assert betas.repeats.tolist() == responses.repeats(responses.train_images).tolist()
    assert (betas.repeats == 2).all() != averaged
    found = betas.means(betas.columns)
    np.testing.assert_allclose(found, responses.mean_betas(responses.train_images), rtol=1e-6, atol=1e-6)
    rows = np.flatnonzero(responses.trial_images == betas.image_ids[3])
    weights = responses.trial_repeats[rows] if averaged else None
    np.testing.assert_allclose(found[3], np.average(responses.read_betas()[rows], 0, weights), rtol=1e-5)


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 4, 5], [1, 4, 5], [3]])
def test_blocks_of_voxels_come_to_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: list[int]
) -> None:
    whole = TrainingBetas(prepared(tmp_path, None))
    means, trials = whole.means(whole.columns), whole.trials(whole.columns)
    monkeypatch.setattr("boldreams_cli.encoding.inputs.betas.BETA_COLUMNS", 2)
    parts = TrainingBetas(Responses.open(whole._responses.path))
    assert parts.columns.tolist() == list(range(6))
    assert parts.means(np.array(chosen)).equal(means[:, chosen])
    assert parts.trials(np.array(chosen)).equal(trials[:, chosen])


def test_an_images_draw_depends_on_its_id_the_seed_and_the_purpose() -> None:
    ids = np.arange(100, 400, 3)
    order = drawn_order(ids, 0, b"a purpose")
    assert sorted(order) == list(range(100))
    mixed = np.random.default_rng(0).permutation(ids)
    assert ids[order].tolist() == mixed[drawn_order(mixed, 0, b"a purpose")].tolist()
    fewer = np.delete(ids, 40)
    assert [image for image in ids[order] if image != ids[40]] == fewer[drawn_order(fewer, 0, b"a purpose")].tolist()
    assert order.tolist() != drawn_order(ids, 1, b"a purpose").tolist()
    assert order.tolist() != drawn_order(ids, 0, b"another").tolist()
    assert set(np.flatnonzero(hold_out(ids, 0.1, 0))) == set(drawn_order(ids, 0)[:10])
