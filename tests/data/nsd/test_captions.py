"""COCO's captions of NSD's images: found by the image table, the first five, and what is said where they lack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.nsd.captions import read_image_table

from .conftest import Experiment


def read_captions(experiment: Experiment, ids: list[int], folder: Path | None = None) -> dict[int, list[str]]:
    return experiment.dataset.captions(ids, folder)


def test_image_table(experiment: Experiment) -> None:
    table = read_image_table(experiment.layout.image_table)
    assert len(table) == 40
    assert table[3] == (103, "val")
    assert table[4] == (104, "train")


def test_first_five_in_the_order_of_the_file(experiment: Experiment) -> None:
    found = read_captions(experiment, [9, 4, 5, 4])
    assert found == {
        4: [f"image 4, caption {turn}" for turn in range(5)],  # has seven
        5: [f"image 5, caption {turn}" for turn in range(2)],  # has two
        9: [f"image 9, caption {turn}" for turn in range(5)],
    }


def test_the_other_split_is_searched_too(experiment: Experiment) -> None:
    layout = experiment.layout
    table = layout.image_table.read_text().replace("train2017", "val2017")
    layout.image_table.write_text(table)
    assert read_captions(experiment, [4])[4][0] == "image 4, caption 0"
    layout.captions(layout.caption_folders[1], "val").unlink()
    assert len(read_captions(experiment, [4])[4]) == 5


def test_captions_dir_replaces_the_root(experiment: Experiment, tmp_path: Path) -> None:
    layout = experiment.layout
    annotations = [{"image_id": 104, "caption": "mine"}]
    layout.captions(tmp_path, "train").write_text(json.dumps({"annotations": annotations}))
    assert read_captions(experiment, [4], tmp_path) == {4: ["mine"]}
    with pytest.raises(BoldreamsError, match=r"no captions of 1 images \(7\): captions_val2017.json .*--captions-dir"):
        read_captions(experiment, [4, 7], tmp_path)


def test_missing_captions_and_images(experiment: Experiment) -> None:
    layout = experiment.layout
    layout.captions(layout.caption_folders[0], "train").write_text('{"annotations": []}')
    with pytest.raises(BoldreamsError, match=r"no captions of image 4, 5 in .*--captions-dir"):
        read_captions(experiment, [4, 5, 9])
    with pytest.raises(BoldreamsError, match="does not list image 99"):
        read_captions(experiment, [99])
    layout.captions(layout.caption_folders[0], "train").write_text('{"annotations": [{"image_id"')
    with pytest.raises(BoldreamsError, match=r"captions_train2017.json is truncated or damaged .* must be a COCO"):
        read_captions(experiment, [4])


def test_damaged_image_table(experiment: Experiment) -> None:
    path = experiment.layout.image_table
    path.write_text("cocoId,nsdId\n1,2\n")
    with pytest.raises(BoldreamsError, match="lacks the column cocoSplit"):
        read_image_table(path)
    for row in ("x,1,val2017", "3"):
        path.write_text(f"cocoId,nsdId,cocoSplit\n{row}\n")
        with pytest.raises(BoldreamsError, match="must be a readable table"):
            read_image_table(path)
    path.unlink()
    with pytest.raises(BoldreamsError, match=r"there is no .*--nsd-root"):
        read_image_table(path)
