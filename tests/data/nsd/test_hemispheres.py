"""Betas on surfaces (--betas fsaverage, nativesurface): vertices, areas and scale, compared with what was written."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError
from boldreams_cli.data.nsd.betas import hemispheres
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.nsd.maker import NSD
from boldreams_cli.data.prepared.checking import check_inputs
from boldreams_cli.data.prepared.choosing import responses_for
from boldreams_cli.data.prepared.preparing import zscore
from boldreams_cli.data.units import VertexUnits

from .conftest import LABELS, SESSIONS, TRIALS, Experiment
from .surface_files import AVERAGE, MEAN, NATIVE, OWN, SILENT, Surfaces, add_surfaces, save_mgh, save_vertex_betas
from .test_synthetic import ORDER, add

DRAWN = "Kastner2015"


@pytest.fixture
def surfaces(experiment: Experiment) -> Surfaces:
    return add_surfaces(experiment)


def on(surfaces: Surfaces, choice: str) -> tuple[dict[str, list[np.ndarray]], list[np.ndarray]]:
    """Labels, and the vertex of the own surface that each vertex is, of both hemispheres."""
    if choice == NATIVE:
        return surfaces.own, [np.arange(count) for count in OWN]
    mapped = {
        volume: [part[nearest] for part, nearest in zip(parts, surfaces.nearest, strict=True)]
        for volume, parts in surfaces.own.items()
    }
    return mapped | {DRAWN: surfaces.drawn[DRAWN]}, surfaces.nearest


@pytest.mark.parametrize("choice", [NATIVE, AVERAGE])
def test_vertices_areas_and_betas(experiment: Experiment, surfaces: Surfaces, cache: Path, choice: str) -> None:
    made = responses_for(cache, 1, experiment.root, betas=choice)
    labels, nearest = on(surfaces, choice)
    used = [np.flatnonzero(np.any([labels[volume][side] > 0 for volume in LABELS], axis=0)) for side in (0, 1)]
    units = made.units
    assert isinstance(units, VertexUnits)
    assert units.space == ("subj01" if choice == NATIVE else "fsaverage")
    assert units.vertices == (OWN if choice == NATIVE else MEAN)
    np.testing.assert_array_equal(units.vertex, np.concatenate(used))
    np.testing.assert_array_equal(units.hemisphere, np.repeat(["L", "R"], [len(part) for part in used]))
    np.testing.assert_array_equal(
        made.ncsnr, np.concatenate([surfaces.ncsnr[choice][side][used[side]] for side in (0, 1)])
    )
    faces = np.concatenate([labels["floc-faces"][side][used[side]] for side in (0, 1)])
    np.testing.assert_array_equal(made.areas.select("faces"), faces > 0)
    np.testing.assert_array_equal(made.areas.select("FFA-1"), faces == 2)
    drawn, mapped = (
        np.concatenate([labels[volume][side][used[side]] for side in (0, 1)]) for volume in (DRAWN, "prf-visualrois")
    )
    np.testing.assert_array_equal(made.areas.select("IPS"), (drawn >= 18) & (drawn <= 23) & (mapped <= 0))
    betas = np.concatenate([surfaces.betas[side][:, nearest[side][used[side]]] for side in (0, 1)], axis=1)
    for session in range(SESSIONS):
        rows = slice(session * TRIALS, (session + 1) * TRIALS)
        expected = zscore((betas[rows] / np.float32(300)).astype(np.float32))
        if choice == AVERAGE and session == 1 and SILENT in used[0]:
            expected[:, np.flatnonzero(used[0] == SILENT)] = np.nan
        np.testing.assert_allclose(made.read_betas(rows), expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(made.trial_images, responses_for(cache, 1, experiment.root).trial_images)
    assert made.request["preparation"] == choice


def test_betas_are_percent_signal_change(experiment: Experiment, surfaces: Surfaces) -> None:
    """The average brain's are so in their files, own surfaces' are x 300."""
    places = np.array([[5, 0, 0], [7, 1, 0], [2, 0, 0]])  # in any order
    for choice, nearest in ((NATIVE, [np.arange(count) for count in OWN]), (AVERAGE, surfaces.nearest)):
        read = NSD(experiment.root, choice).read_betas(1, 1, places, (0, 0, 0))
        columns = [surfaces.betas[side][:TRIALS, nearest[side][vertex]] for vertex, side, _ in places]
        np.testing.assert_allclose(read, np.stack(columns, axis=1) / 300, rtol=1e-6)


@pytest.mark.parametrize("choice", [NATIVE, AVERAGE])
def test_blocks_and_packing_change_nothing(
    experiment: Experiment, surfaces: Surfaces, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, places = NSD(experiment.root, choice), np.array([[0, 0, 0], [39, 0, 0], [3, 0, 0], [35, 1, 0], [11, 1, 0]])
    before = dataset.read_betas(1, 2, places, (0, 0, 0))
    monkeypatch.setattr(hemispheres, "BLOCK_BYTES", 1000)
    if choice == NATIVE:
        for side, path in enumerate(dataset.layout.surface_betas(1, 2)):
            save_vertex_betas(path, surfaces.betas[side][TRIALS : 2 * TRIALS], chunks=(4, 7), compression="gzip")
    np.testing.assert_array_equal(dataset.read_betas(1, 2, places, (0, 0, 0)), before)


def test_the_general_mask(experiment: Experiment, surfaces: Surfaces, cache: Path) -> None:
    made = responses_for(cache, 1, experiment.root, mask="nsdgeneral", betas=AVERAGE)
    general = [np.flatnonzero(part > 0) for part in surfaces.drawn["nsdgeneral"]]
    np.testing.assert_array_equal(made.units.columns()["vertex"], np.concatenate(general))
    with pytest.raises(ChoiceError, match="on a surface it is nsdgeneral"):
        responses_for(cache, 1, experiment.root, mask="V1", betas=AVERAGE)
    with pytest.raises(BoldreamsError, match=r"no .*subj01/label/lh.nsdgeneral.mgz"):
        responses_for(cache, 1, experiment.root, mask="nsdgeneral", betas=NATIVE)


def test_areas_that_cannot_be_brought_to_the_average_brain_are_said(
    experiment: Experiment,
    surfaces: Surfaces,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("boldreams"), "propagate", True)
    layout = Layout.at(experiment.root, AVERAGE)
    layout.to_average(1)[1].unlink()
    with caplog.at_level(logging.WARNING):
        made = responses_for(cache, 1, experiment.root, betas=AVERAGE)
    assert "no areas prf-visualrois, prf-eccrois, floc-faces" in caplog.text
    assert "rh.white-to-fsaverage.mgz" in caplog.text
    used = [np.flatnonzero(part > 0) for part in surfaces.drawn[DRAWN]]
    np.testing.assert_array_equal(made.units.columns()["vertex"], np.concatenate(used))
    v1v = np.concatenate([surfaces.drawn[DRAWN][side][used[side]] == 1 for side in (0, 1)])
    np.testing.assert_array_equal(made.areas.select("V1v"), v1v)
    for path in layout.surface_map(None, DRAWN):
        path.unlink()
    with pytest.raises(BoldreamsError, match=r"no areas of subject 1 on fsaverage: there is no .*lh.Kastner2015.mgz"):
        responses_for(cache, 1, experiment.root, betas=AVERAGE)


def test_numbers_of_nearest_vertices_count_from_one(experiment: Experiment, surfaces: Surfaces, cache: Path) -> None:
    path = Layout.at(experiment.root, AVERAGE).to_average(1)[0]
    for wrong in (surfaces.nearest[0], surfaces.nearest[0] + 2):  # from 0; beyond the last
        save_mgh(path, wrong.astype(np.int32))
        with pytest.raises(BoldreamsError, match=r"lh.white-to-fsaverage.mgz must hold .* from 1 to 40"):
            responses_for(cache, 1, experiment.root, betas=AVERAGE)


def test_files_that_do_not_fit(experiment: Experiment, surfaces: Surfaces, cache: Path) -> None:
    layout = Layout.at(experiment.root, NATIVE)
    left, right = layout.surface_betas(1, 2)
    save_vertex_betas(right, surfaces.betas[1][TRIALS : 2 * TRIALS, :-1])
    with pytest.raises(BoldreamsError, match=r"have 40 and 35 vertices, the subject's labels 40 and 36"):
        responses_for(cache, 1, experiment.root, betas=NATIVE)
    save_vertex_betas(right, surfaces.betas[1][TRIALS : 2 * TRIALS - 1])
    with pytest.raises(BoldreamsError, match=r"has 12 trials, .*rh.betas_session02.hdf5 11"):
        responses_for(cache, 1, experiment.root, betas=NATIVE)
    save_vertex_betas(right, surfaces.betas[1][TRIALS : 2 * TRIALS].astype(np.float32))
    with pytest.raises(BoldreamsError, match=r"rh.betas_session02.hdf5 holds float32 betas"):
        responses_for(cache, 1, experiment.root, betas=NATIVE)
    right.unlink()
    with pytest.raises(BoldreamsError, match=rf"{left} is there, its other hemisphere is not"):
        responses_for(cache, 1, experiment.root, betas=NATIVE)
    assert responses_for(cache, 1, experiment.root, "1,3", betas=NATIVE).sessions == [1, 3]
    save_mgh(layout.surface_map(1, "floc-faces")[0], np.zeros(41, np.float32))
    with pytest.raises(BoldreamsError, match=r"differ in vertices.* \(40, 36\); .*lh.floc-faces.mgz \(41, 36\)"):
        responses_for(cache, 1, experiment.root, "1", betas=NATIVE)
    path = Layout.at(experiment.root, AVERAGE).surface_betas(1, 1)[0]
    whole = path.read_bytes()
    save_mgh(path, surfaces.betas[0][:TRIALS, :1].repeat(50, axis=1).T)
    with pytest.raises(BoldreamsError, match=r"lh.betas_session01.mgh holds .*i2 betas; NSD's are floats"):
        responses_for(cache, 1, experiment.root, betas=AVERAGE)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BoldreamsError, match=r"lh.betas_session01.mgh is truncated or damaged"):
        responses_for(cache, 1, experiment.root, betas=AVERAGE)
    assert not list((cache / "responses").glob("*.zarr/.partial*"))


def test_changes_of_either_hemisphere_are_seen(experiment: Experiment, surfaces: Surfaces, cache: Path) -> None:
    made = responses_for(cache, 1, experiment.root, betas=AVERAGE)
    check_inputs(made, experiment.dataset)
    layout = Layout.at(experiment.root, AVERAGE)
    path = layout.surface_betas(1, 3)[1]
    os.utime(path, (1e9, 1e9))
    check_inputs(made, experiment.dataset)  # copied, and the same
    image = nibabel.load(path)
    values = np.asarray(image.dataobj).copy()
    values[made.units.columns()["vertex"][-1], 0, 0, 0] += 1
    save_mgh(path, values[:, 0, 0])
    with pytest.raises(MismatchError, match="betas of session 3"):
        check_inputs(made, experiment.dataset)
    path.write_bytes(b"")
    (index,) = (place for place in layout.to_average(1)[:1])
    save_mgh(index, np.ones(MEAN[0], np.int32))
    with pytest.raises(MismatchError, match=r"ROI volume floc-faces"):
        check_inputs(made, experiment.dataset)


@pytest.mark.parametrize("choice", [NATIVE, AVERAGE])
def test_measured_fields(experiment: Experiment, surfaces: Surfaces, cache: Path, choice: str) -> None:
    made, dataset = responses_for(cache, 1, experiment.root, betas=choice), NSD(experiment.root, choice)
    assert dataset.retinotopy(1, made.areas) is None
    layout, own = Layout.at(experiment.root, NATIVE), {}
    for name in ("prfangle", "prfeccentricity", "prfsize", "prfR2"):
        own[name] = [np.random.default_rng(len(name)).random(count, np.float32) for count in OWN]
        for path, values in zip(layout.surface_map(1, name), own[name], strict=True):
            save_mgh(path, values)
    found = dataset.retinotopy(1, made.areas)
    assert found is not None
    _, nearest = on(surfaces, choice)
    for values, name in ((found.angle, "prfangle"), (found.r2, "prfR2"), (found.size, "prfsize")):
        expected = [own[name][side][nearest[side][vertex]] for vertex, side, _ in made.voxels]
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("choice", [NATIVE, AVERAGE])
def test_synthetic_images_on_surfaces(experiment: Experiment, surfaces: Surfaces, choice: str) -> None:
    add(experiment)  # its design and images
    dataset, places = NSD(experiment.root, choice), np.array([[4, 0, 0], [6, 1, 0]], np.int32)
    with pytest.raises(ChoiceError, match=r"no betas_nsdsynthetic of both hemispheres in .*; download it"):
        dataset.outside_test("synthetic", 1, places, (50, 2, 1))
    betas = [np.random.default_rng(side).integers(-900, 900, (len(ORDER), 50), np.int16) for side in (0, 1)]
    for path, part in zip(dataset.layout.synthetic_betas(1), betas, strict=True):
        if choice == NATIVE:
            save_vertex_betas(path, part)
        else:
            save_mgh(path, (part / np.float32(300)).astype(np.float32).T)
    test = dataset.outside_test("synthetic", 1, places, (50, 2, 1))
    expected = zscore(np.stack([betas[0][:, 4], betas[1][:, 6]], axis=1).astype(np.float32) / 300)
    np.testing.assert_allclose(test.betas, expected, rtol=1e-5, atol=1e-6)
    assert len(test.identity["betas"]) == 2
