"""`boldreams demo` through the installed entry point, at its small size."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Run


def test_demo_runs_every_step_and_compares_with_the_truth(run: Run, tmp_path: Path) -> None:
    arguments = ("demo", "--small", "--subjects", 1, "--output", tmp_path / "demo", "--device", "cpu", "--json")
    done = run(*arguments)
    assert set(done.json) == {"output", "store", "subjects", "pictures", "minimal", "report"}
    (subject,) = done.json["subjects"].values()
    assert Path(subject["predictions"]).is_file()
    for name, row in subject["rois"].items():
        assert row["field_distance"] >= 0, name
    assert {"V1", "faces", "ecc_1"} <= subject["rois"].keys()
    pictures = done.json["pictures"]
    assert Path(pictures["gallery"]).is_file()
    assert all(Path(file).is_file() for file in pictures["attributions"])
    for area in ("V1", "faces"):
        assert len(pictures[area]["words"]) == 3
        assert all(Path(file).is_file() for file in pictures[area]["images"])
    assert Path(pictures["accentuated"]["images"][0]).is_file()
    assert pictures["accentuated"]["start"]["feature_distance"][0] < 0.5
    echoed = [line.split()[2] for line in done.err.splitlines() if line.startswith("$ boldreams ")]
    shown = {"prepare", "extract", "sweep", "rank", "fit", "score", "predict", "dream", "wordcloud", "attribute"}
    assert set(echoed) == shown | {"minimal", "report"}
    assert Path(done.json["report"]).is_file()
    assert len(list((tmp_path / "demo" / "cache" / "models").glob("subj01/*/percent-*"))) == 3
    assert "--device cpu" in next(line for line in done.err.splitlines() if line.startswith("$ boldreams dream"))

    images = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo" / "cache" / "models").rglob("dream-*.png")}
    quiet = run(*arguments, "-q")
    assert "$ boldreams" not in quiet.err
    assert quiet.json["pictures"] == pictures
    assert {path: path.stat().st_mtime_ns for path in images} == images, "what is done is not done again"
