"""Orientation and values of brain maps, against nibabel."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from boldreams_cli.study.report.brain_map import MISSING, Canonical, _maps, running, scaled
from boldreams_cli.study.report.collect import Holdings, Space, Study, Subject
from boldreams_cli.study.report.findings import Findings

from .conftest import Reported

AFFINES = {
    "RAS": np.diag([1.8, 1.8, 1.8, 1]),
    "LPI": np.diag([-1.8, -1.8, -1.8, 1]),
    "turned": np.array([[0, 0, 2.0, -9], [-1.5, 0, 0, 4], [0, 3.0, 0, -7], [0, 0, 0, 1]]),
    "oblique": np.array([[1.7, 0.3, 0, -9], [-0.3, 1.7, 0.1, 4], [0, -0.1, 1.8, -7], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_canonical_is_nibabels(name: str) -> None:
    shape, affine = (4, 5, 6), AFFINES[name]
    volume = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    expected = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume, affine))
    voxels = np.argwhere(volume % 7 == 0).astype(np.int32)
    space = Canonical.of(Space(shape, affine, voxels, {}))
    assert space.shape == expected.shape
    np.testing.assert_allclose(space.affine, expected.affine)
    np.testing.assert_array_equal(space.turned(volume), expected.get_fdata())
    placed = space.volume(volume[tuple(voxels.T)].astype(float))
    known = np.isfinite(placed)
    np.testing.assert_array_equal(placed[known], expected.get_fdata()[known])
    assert known.sum() == len(voxels)
    x, y, z = space.shape
    np.testing.assert_array_equal(np.unravel_index(space.linear, (z, y, x))[::-1], space.voxels.T)


@pytest.mark.parametrize("name", AFFINES)
def test_slices_are_named_as_the_table_of_voxels_counts(name: str) -> None:
    voxels = np.argwhere(np.ones((4, 5, 6))).astype(np.int32)
    space = Canonical.of(Space((4, 5, 6), AFFINES[name], voxels, {}))
    for axis in range(3):
        for mine, file in zip(space.voxels, voxels, strict=True):
            letter, place = space.named(axis, mine[axis]).split()
            assert file["xyz".index(letter)] == int(place)
    ends = {
        "LPI": "x to the left, y to the back and z to the bottom",
        "turned": "x to the back, y to the top and z to the right",
    }
    assert running(space) == ends.get(name, "x to the right, y to the front and z to the top")


@pytest.mark.parametrize(("largest", "exponent"), [(0.9, -4), (3.2767, -4), (3.3, -3), (360.0, -1), (1e6, 2)])
def test_scaled_values_are_read_to_their_last_digit(largest: float, exponent: int) -> None:
    values = np.random.default_rng(0).uniform(-largest, largest, 1000)
    values[0], values[1] = largest, np.nan
    multiples, found = scaled(values)
    assert found == exponent
    assert multiples[1] == MISSING
    read = multiples[2:] * 10.0**exponent
    assert np.abs(read - values[2:]).max() <= 0.5001 * 10.0**exponent


def test_nothing_known_is_no_error() -> None:
    multiples, _ = scaled(np.full(3, np.nan))
    assert (multiples == MISSING).all()


@pytest.mark.parametrize("damage", ["empty", "flipped", "header"])
def test_a_damaged_map_is_said_and_the_others_are_shown(damage: str, tmp_path: Path) -> None:
    """What nibabel and zlib raise of damaged bytes are plain exceptions."""
    shape, affine = (4, 5, 6), np.eye(4)
    space = Space(shape, affine, np.argwhere(np.ones(shape)).astype(np.int32), {})
    values = np.random.default_rng(0).normal(size=shape)
    for name in ("whole", "damaged"):
        (tmp_path / name).mkdir()
        nibabel.Nifti1Image(values, affine).to_filename(tmp_path / name / "difference.nii.gz")
    path = tmp_path / "damaged/difference.nii.gz"
    whole = path.read_bytes()
    header = bytearray(gzip.decompress(whole))
    header[70:72] = b"\xff\x7f"  # no type of numbers
    path.write_bytes(
        {"empty": b"", "flipped": whole[:60] + bytes([whole[60] ^ 255]) + whole[61:], "header": gzip.compress(header)}[
            damage
        ]
    )
    compares = [Study(tmp_path / name, {"subject": 1}) for name in ("damaged", "whole")]
    subject = Subject(1, None, space, [])
    held = Holdings(tmp_path, [subject], compares, [], [], Findings())
    assert [one.key for one in _maps(held, subject, space)] == ["difference whole"]
    (said,) = held.findings.found
    assert (said.level, said.where, said.remedy) == ("error", str(path), "run `boldreams compare` again")


def test_embedded_values_are_those_of_the_volumes(reported: Reported) -> None:
    data = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', reported.html, re.DOTALL)[0])
    shape, places = data["shape"], np.frombuffer(base64.b64decode(data["voxels"]), "<u4")
    z, y, x = np.unravel_index(places, shape[::-1])
    folder = next(reported.cache.glob("models/subj01/*/percent-10*"))
    files = {"r: ": "correlation.nii.gz", "r / ceiling: ": "r_over_ceiling.nii.gz", "q ": "q.nii.gz"}
    for begins, file in files.items():
        shown = next(item for item in data["maps"] if item["name"].startswith(begins) and "10 %" in item["name"])
        values = np.frombuffer(base64.b64decode(shown["values"]), "<i2").astype(float)
        values = np.where(values == MISSING, np.nan, values) * 10.0 ** shown["exponent"]
        expected = nibabel.as_closest_canonical(nibabel.load(folder / file)).get_fdata()
        np.testing.assert_allclose(values, expected[x, y, z], atol=0.51 * 10.0 ** shown["exponent"])
    assert data["maps"][0]["name"].startswith("r: ")
    assert "mean functional image" in reported.html
