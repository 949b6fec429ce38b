"""`boldreams report` without a browser: what it writes, its numbers, what is missing or damaged."""

from __future__ import annotations

import base64
import csv
import io
import json
import random
import re
import shutil
from html.parser import HTMLParser
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boldreams_cli.files import digest
from boldreams_cli.plots.pictures.attribution import limit_of, overlay
from boldreams_cli.study.report.collect import collect

from ...conftest import Run
from .conftest import FAST, NETWORK, Reported

VOID = {"meta", "link", "img", "input", "br", "source", "hr"}


class Page(HTMLParser):
    """Numbers with the file that each is said to be from, sections, pictures, links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sources: list[str | None] = []
        self.numbers: list[tuple[str, str | None]] = []
        self.shown: list[tuple[str, str]] = []  # a number, and its text
        self.cells: list[tuple[str, str | None]] = []  # text of table cells outside of numbers
        self.alts: list[str] = []
        self._open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        source = found.get("data-source") or (self.sources[-1] if self.sources else None)
        if tag not in VOID:
            self.sources.append(source)
            self._open.append(tag)
        if tag == "data":
            self.numbers.append((found["value"] or "", source))
            self.shown.append((found["value"] or "", ""))
        if tag == "img":
            self.alts.append(found["alt"] or "")
        if tag == "a":
            self.links.append(found["href"] or "")
        if "id" in found:
            self.ids.append(found["id"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self.sources.pop()
            self._open.pop()

    def handle_data(self, data: str) -> None:
        inside = self._open[-1:]
        if inside == ["data"]:
            value, text = self.shown[-1]
            self.shown[-1] = value, text + data
        elif inside == ["td"] and data.strip():
            self.cells.append((data, self.sources[-1]))


def findings(html: str) -> str:
    """The text of the first section."""
    return html.split('<section id="findings"', 1)[1].split("</section>", 1)[0]


def numbers_in(path: Path) -> set[str]:
    if path.suffix == ".json":
        return {repr(value) for value in json.loads(path.read_text()).values()}
    with path.open(newline="") as stream:
        return {cell for row in csv.reader(stream) for cell in row}


def models(cache: Path) -> list[Path]:
    return sorted(path.parent for path in cache.glob("models/*/*/*/spec.json"))


def test_page_and_what_lies_beside(reported: Reported) -> None:
    assert reported.page == reported.cache / "studies/report/report.html"
    assert reported.json.keys() >= {"file", "figures", "warnings"}
    assert reported.json["bytes"] == reported.page.stat().st_size < 15_000_000
    assert all(Path(file).is_file() for file in reported.json["figures"])
    names = {Path(file).name for file in reported.json["figures"]}
    drawn = {"percent", "percent-accuracy", "difference", "areas", "histogram", "contrast-subj01", "brain-subj01"}
    drawn |= {"eccentricity-subj01", "early-subj01", "category-subj01", "attention-subj01", "brain-subj02"}
    for name in drawn:
        assert {f"{name}.png", f"{name}.pdf", f"{name}.csv"} <= names, name
    assert {"methods.md", "methods.bib", "data.csv", "settings.csv"} <= names
    page = Page(reported.html)
    sections = ("findings", "data", "accuracy", "difference", "areas", "eccentricity", "early", "category",
                "attention", "minimal", "brain", "settings", "methods")  # fmt: skip
    places = [page.ids.index(name) for name in sections]
    assert places == sorted(places), "warnings first, methods last"
    made = json.loads(next(reported.cache.glob("models/subj01/*/*/attributions/V1*/image-*.json")).read_text())
    far_off = abs(made["relative_delta"]) > 0.01
    assert len(reported.json["warnings"]) == far_off
    said = "the attribution&#39;s sum is off" if far_off else "Nothing went wrong."
    assert said in findings(reported.html)


def test_nothing_on_the_page_is_fetched(reported: Reported) -> None:
    html = reported.html
    for link in Page(html).links:
        assert link.startswith("#") or (reported.page.parent / link).is_file(), link
    assert not re.search(r'(?:src|srcset|href)="(?:https?:)?//', html)
    assert "@import" not in html
    assert "url(" not in html


def test_numbers_are_in_the_files_beside(reported: Reported) -> None:
    found = Page(reported.html).numbers
    assert len(found) > 100
    assert all(source for _, source in found), "every number says where it is from"
    for value, source in random.Random(0).sample(found, 10):
        assert value in numbers_in(reported.page.parent / str(source)), (value, source)
    missing = [pair for pair in found if pair[0] not in numbers_in(reported.page.parent / str(pair[1]))]
    assert not missing


def test_what_a_reader_sees_is_what_the_files_hold(reported: Reported) -> None:
    """Every number as it is shown, not only as it is marked, is that of the file beside it, rounded."""
    page = Page(reported.html)
    assert len(page.shown) == len(page.numbers)
    for value, text in page.shown:
        shown = text.replace("−", "-").replace(",", "").strip()
        if "e" in shown:
            assert float(shown) == pytest.approx(float(value), rel=0.06), (value, text)
        else:
            digits = len(shown.partition(".")[2])
            assert abs(float(shown) - float(value)) <= 0.5001 * 10**-digits, (value, text)
    number = re.compile(r"[−-]?\d[\d.,]*(e[−-]?\d+)?%?")
    bare = [(text.strip(), source) for text, source in page.cells if number.fullmatch(text.strip())]
    assert all(text in numbers_in(reported.page.parent / str(source)) for text, source in bare), "settings as text"


def test_numbers_in_words_are_those_of_the_tables(reported: Reported) -> None:
    """Descriptions of figures, which a reader who does not see them relies on."""
    said = [alt for alt in Page(reported.html).alts if re.search(r"[−+-]?\d\.\d{3}\b", alt)]
    assert len(said) >= 3
    tables = [path for path in reported.beside.glob("*.csv") if not path.name.startswith(("brain", "difference.csv"))]
    known = np.array([float(cell) for path in tables for cell in numbers_in(path) if _is_number(cell)])
    for alt in said:
        for text in re.findall(r"[−+-]?\d\.\d{3}\b", alt):
            nearest = np.abs(known - float(text.replace("−", "-"))).min()
            assert nearest <= 0.00051, (text, alt)


def _is_number(cell: str) -> bool:
    try:
        return np.isfinite(float(cell))
    except ValueError:
        return False


def test_numbers_are_those_of_the_scores(reported: Reported) -> None:
    with (reported.beside / "percent.csv").open(newline="") as stream:
        rows = {row["model"]: row for row in csv.DictReader(stream)}
    for folder in models(reported.cache):
        scores, row = json.loads((folder / "scores.json").read_text()), rows[folder.name]
        r = np.array(scores["r"], float)
        assert float(row["r_mean"]) == scores["r_mean"]
        assert float(row["r_image_se"]) == scores["r_image_se"]
        assert float(row["accuracy"]) == scores["accuracy"]
        assert float(row["r_spread_over_voxels"]) == pytest.approx(r.std(ddof=1) / len(r) ** 0.5, rel=1e-5)
    with (reported.beside / "areas.csv").open(newline="") as stream:
        area = next(row for row in csv.DictReader(stream) if row["area"] == "V1")
    of_subjects = [json.loads((m / "scores.json").read_text())["rois"]["V1"] for m in models(reported.cache)
                   if m.name.startswith("percent-10")]  # fmt: skip
    assert float(area["r_mean"]) == pytest.approx(np.mean([row["r_mean"] for row in of_subjects]))
    alone = [row["r_image_se"] for row in of_subjects]
    assert np.linalg.norm(alone) / len(alone) / 2 < float(area["r_image_se"]) <= np.mean(alone) * 1.001


def test_differences_count_every_voxel(reported: Reported) -> None:
    folder = {m.name.split("-")[1]: m for m in models(reported.cache) if "subj01" in str(m)}
    small, large = (np.array(json.loads((folder[p] / "scores.json").read_text())["r"]) for p in ("1", "10"))
    with (reported.beside / "difference.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["percents"] for row in rows} == {"1 − 10 %"}
    assert sum(int(row["voxels"]) for row in rows) == len(small)
    worse = sum(int(row["voxels"]) for row in rows if float(row["difference_to"]) <= 0)
    assert worse == pytest.approx((small < large).sum(), abs=2), "rounding at 0"


def test_every_picture_has_words(reported: Reported) -> None:
    page = Page(reported.html)
    assert all(page.alts)
    assert len(page.ids) == len(set(page.ids))
    dream = next(reported.cache.glob("models/subj01/*/percent-10*/dreams/V1*/dream.json"))
    response = json.loads(dream.read_text())["response"][0]
    assert f"Dream of V1 by efficientnet_lite0 10 %, fast: mean beta {response:.2f}." in page.alts
    words = json.loads(next(reported.cache.glob("models/subj01/*/*/words/faces/*.json")).read_text())["words"]
    assert any(words[0][0] in alt and alt.startswith("Words for faces") for alt in page.alts)


def test_areas_of_few_models_stand_side_by_side(reported: Reported) -> None:
    """One model's areas below each other are a page of one column."""
    grid = reported.html.split('id="category-subj01"', 1)[1].split("</details>", 1)[0]
    assert re.findall(r'<th scope="col">(.*?)</th>', grid) == ["faces"]
    rows = [row.replace("<wbr>", "") for row in re.findall(r'<th scope="row">(.*?)</th>', grid)]
    assert rows == ["efficientnet_lite0 10 %, fast", "efficientnet_lite0 10 %, fast: words"]
    with (reported.beside / "category-subj01.csv").open(newline="") as stream:
        assert [(row["row"], row["column"]) for row in csv.DictReader(stream)] == [(row, "faces") for row in rows]


def test_attention_is_what_raises_and_lowers_over_grey(reported: Reported) -> None:
    """As `attribute` draws it; of what is drawn beside, the pixels are read back."""
    made = np.load(next(reported.cache.glob("models/subj01/*/*/attributions/V1*/image-*.npz")))
    expected = overlay(made["pixels"].transpose(1, 2, 0), made["map"], limit_of(made["map"]))
    grid = reported.html.split('id="attention-subj01"', 1)[1].split("</details>", 1)[0]
    uri = re.findall(r'src="data:image/webp;base64,(.*?)" alt="What drives', grid)[0]
    shown = Image.open(io.BytesIO(base64.b64decode(uri)))
    whole = Image.fromarray((expected * 255).astype(np.uint8)).resize(shown.size, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(shown, float) - np.asarray(whole, float)).mean() < 6
    assert "red raises the response, blue lowers it" in reported.html


def test_methods_say_the_numbers_and_cite(reported: Reported) -> None:
    text, bib = ((reported.beside / name).read_text() for name in ("methods.md", "methods.bib"))
    with (reported.beside / "data.csv").open(newline="") as stream:
        first = next(csv.DictReader(stream))
    assert f"{int(first['train_trials']):,} trials of {int(first['train_images']):,} images for training" in text
    assert "[@boldreams]" in text
    assert "2501.14854" in bib
    cited = set(re.findall(r"\[@(\w+)\]", text))
    assert cited == set(re.findall(r"^@\w+\{(\w+),$", bib, re.MULTILINE))
    assert "[[" not in text + reported.html.split('id="methods"')[1].split("<script")[0]


@pytest.mark.usefixtures("unrendered")
def test_an_empty_cache_is_a_page_that_says_what_to_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    done = run("report", "--cache", tmp_path / "cache", "--json").json
    html = Path(done["file"]).read_text()
    assert "Nothing went wrong." in findings(html)
    for command in ("prepare", "fit", "score", "dream", "attribute", "minimal", "compare"):
        assert f"<code>boldreams {command}" in html, command
    assert not done["warnings"]
    refused = run("report", "--cache", tmp_path / "none", code=2)
    assert "--cache" in refused.err


@pytest.mark.usefixtures("unrendered")
def test_what_is_damaged_is_said_first_and_left_out(run: Run, own: Path) -> None:
    """Scores cut short, a dream cut short, a lost file, older scores, scores of other weights."""
    one, ten, other = models(own)
    (one / "scores.json").write_text((one / "scores.json").read_text()[:500])
    picture = next(ten.glob("dreams/V1*/dream-1.png"))
    picture.write_bytes(picture.read_bytes()[:3000])
    next(ten.glob("attributions/V1*/*.npz")).unlink()
    scores = json.loads((ten / "scores.json").read_text())
    older = {name: value for name, value in scores.items() if "_se" not in name and "_ci" not in name}
    names = ("voxels", "r_mean", "ceiling_mean")
    older["rois"] = {area: {name: row[name] for name in names} for area, row in scores["rois"].items()}
    (ten / "scores.json").write_text(json.dumps(older | {"format": 3}))
    (ten / "voxels.csv").unlink()
    scores = json.loads((other / "scores.json").read_text())
    (other / "scores.json").write_text(json.dumps(scores | {"weights_digest": "of others", "r_mean": 0.987654321}))
    done = run("report", "--cache", own, "--json").json
    html = Path(done["file"]).read_text()
    said = {where: what for where, _, what in (line.partition(": ") for line in done["warnings"])}
    assert "cannot be used" in said[str(one / "scores.json")]
    assert "belongs to other weights" in said[str(other / "scores.json")]
    assert "earlier version" in said[str(ten / "scores.json")]
    of_ten = [line for line in done["warnings"] if line.startswith(f"{ten}: ")]
    assert any("attribution" in line and "is damaged" in line for line in of_ten)
    assert any("cannot be used" in line for line in of_ten), "the dream"
    assert html.rindex('<li class="error">') < html.index('<li class="warning">') < html.index('id="data"')
    assert "0.987" not in html
    assert "Dream of V1 by" not in html
    assert "Dream of faces by" in html, "what is whole is shown"


@pytest.mark.usefixtures("unrendered")
def test_without_responses_and_with_an_odd_name(run: Run, own: Path, reported: Reported, tmp_path: Path) -> None:
    (models(own)[2] / "spec.json").write_text("{")
    shutil.rmtree(own / "responses")
    odd = tmp_path / "<b>&'\"cache"
    own.rename(odd)
    done = run("report", "--cache", odd, "--json").json
    said = "\n".join(done["warnings"])
    assert "does not hold its responses" in said
    assert "spec.json cannot be read" in said
    html = Path(done["file"]).read_text()
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    beside = Path(done["file"]).with_name("report_files")
    with (beside / "brain-subj01.csv").open() as mine, (reported.beside / "brain-subj01.csv").open() as theirs:
        mine_rows, rows = list(csv.DictReader(mine)), list(csv.DictReader(theirs))
    assert [{key: row[key] for key in "xyz"} for row in mine_rows] == [{key: row[key] for key in "xyz"} for row in rows]
    assert [set(row["areas"].split(";")) for row in mine_rows] == [set(row["areas"].split(";")) for row in rows]
    for subject in collect(odd).subjects:  # of 72 models the tables are gigabytes
        assert subject.space is not None
        assert sum("voxel_table" in vars(model) for model in subject.models) == 1, "one says where the voxels lie"


def test_a_file_of_another_make_stays(run: Run, own: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.html"
    notes.write_text("<title>mine</title>")
    done = run("report", "--cache", own, "--output", notes, code=2)
    assert f"{notes} is no page of `boldreams report`; move it, or choose another --output" in done.err
    assert not notes.with_name("notes_files").exists()
    assert notes.read_text() == "<title>mine</title>"


def test_size_has_a_cap_and_files_of_a_former_page_go(
    run: Run, own: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = {path: digest(path) for path in own.rglob("*") if path.is_file()}
    page = tmp_path / "out" / "mine.html"
    done = run("report", "--cache", own, "--output", page, "--max-size", "220K", "--json").json
    assert done["bytes"] == page.stat().st_size <= 220 * 1024
    assert sum(done["left_out"].values()) > 0
    html = page.read_text()
    assert "left out: the page would be larger" in findings(html)
    assert "eft out for the page" in html
    assert all(Path(file).is_file() for file in done["figures"]), "the files are whole all the same"
    assert {path: digest(path) for path in own.rglob("*") if path.is_file()} == before, "the cache is only read"
    beside = page.with_name("mine_files")
    foreign = beside / "notes.txt"
    foreign.write_text("somebody's")
    assert (beside / "attention-subj01.png").is_file()
    shutil.rmtree(next(own.glob("models/subj01/*/percent-10*/attributions")))
    request.getfixturevalue("unrendered")
    done = run("report", "--cache", own, "--output", page, "--json").json
    assert not (beside / "attention-subj01.png").exists()
    assert foreign.read_text() == "somebody's"
    assert str(foreign) not in done["figures"]


def test_drawings_are_of_the_size_of_the_paper(reported: Reported) -> None:
    for name in ("percent", "areas", "category-subj01", "brain-subj01"):
        with Image.open(reported.beside / f"{name}.png") as image:
            assert image.width > 350
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10, "not empty"


@pytest.mark.usefixtures("unrendered")
def test_cells_of_a_sweep_are_a_table(run: Run, cache: Path, tmp_path: Path) -> None:
    """All columns and areas of the study's own table; all voxels together first."""
    copy = Path(shutil.copytree(cache, tmp_path / "cache"))
    grid = ("--backbone", NETWORK, "--subject", 1, "--percent", "1,10", *FAST)
    run("sweep", "--cache", copy, *grid, "--name", "percents")
    page = Path(run("report", "--cache", copy, "--json").json["file"])
    assert "Study percents: 2 of 2 cells" in page.read_text(encoding="utf-8")
    own, shown = (
        list(csv.DictReader(path.open(newline="")))
        for path in (copy / "studies/percents/table.csv", page.with_name("report_files") / "sweep-percents.csv")
    )
    assert [row["area"] for row in shown[:2]] == ["all", "all"]
    key = itemgetter("area", "percent")
    assert sorted(shown, key=key) == sorted(own, key=key)
    assert {"r_ci_low", "model", "seed"} <= shown[0].keys()


@pytest.mark.usefixtures("unrendered")
def test_photographs_and_contrasts_are_shown_apart(run: Run, cache: Path, tmp_path: Path) -> None:
    """They do not stand for what an area wants most, and are not lost."""
    copy = Path(shutil.copytree(cache, tmp_path / "cache"))
    assert 'id="aims"' not in Path(run("report", "--cache", copy, "--json").json["file"]).read_text(encoding="utf-8")
    kept = json.loads(next(copy.glob("models/subj01/*/*/attributions/V1*/image-*.json")).read_text())
    model = ("--cache", copy, "--subject", 1, "--percent", 10, "--steps", 2, "--count", 1, "--no-natural", "--json")
    changed = run("dream", *model[:-4], *model[-2:], "--roi", "faces", "--start", kept["image"]).json
    contrast = run("dream", *model, "--roi", "V1", "--minus", "faces").json
    page = Path(run("report", "--cache", copy, "--json").json["file"])
    html = page.read_text(encoding="utf-8")
    shown = html.split('<section id="aims"', 1)[1].split("</section>", 1)[0]
    assert re.findall("<h3>(.*?)</h3>", shown) == [
        "Subject 1: V1 minus faces, a contrast, by efficientnet_lite0 10 %, fast",
        f"Subject 1: faces, from image {kept['image']}, by efficientnet_lite0 10 %, fast",
    ]
    tables = [
        list(csv.DictReader(path.open(newline=""))) for path in page.with_name("report_files").glob("dream-*.csv")
    ]
    one, two = sorted(tables, key=len)
    assert float(one[0]["response"]) == contrast["response"][0]
    assert float(one[0]["of_V1"]) - float(one[0]["of_faces"]) == pytest.approx(float(one[0]["score"]), abs=1e-5)
    assert [row["image"] for row in two] == [str(kept["image"]), "dream-1.png"]
    assert float(two[1]["response"]) == changed["response"][0]
    assert 0 <= float(two[1]["feature_distance"]) <= float(two[1]["feature_bound"])
    assert "mean beta" in Page(shown).alts[0]
