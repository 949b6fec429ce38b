"""Dreams from a photograph, of several areas, of chosen voxels, of pairs of areas; what is said of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boldreams_cli.console import StopFlag
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.interpret.dreams import closeness, measured, natural, record
from boldreams_cli.interpret.dreams.ascent import parameterization
from boldreams_cli.interpret.dreams.ascent.loop import Dream, Dreamer, Settings, steps_to_beat
from boldreams_cli.interpret.dreams.ascent.objectives import Objective
from boldreams_cli.interpret.dreams.ascent.parameterization import Spectrum
from boldreams_cli.interpret.dreams.ascent.transforms import Transforms, apply
from boldreams_cli.interpret.dreams.bands import profile_of
from boldreams_cli.interpret.dreams.closeness import BOUND, Photograph, feature_distance
from boldreams_cli.interpret.dreams.eccentricity import band, litmus, radial_profile
from boldreams_cli.interpret.dreams.measured import Largest
from tests.conftest import Run
from tests.interpret.conftest import CPU, Fitted
from tests.interpret.test_asked_for import betas, dreamt, told
from tests.interpret.test_dreaming import After, area

QUICK = ("--steps", 1, "--count", 1, "--lr", "1e-3", "--no-natural", "--json")


def photograph(fitted: Fitted, image: int) -> torch.Tensor:
    with open_dataset(fitted.root).stimuli() as stimuli:
        resized = fitted.full.backbone.entry.preprocessing.resize(torch.from_numpy(stimuli.read([image])))
    return resized.float() / 255


def test_a_photograph_is_accentuated_and_stays_recognisable(run: Run, fitted: Fitted) -> None:
    image = int(fitted.responses.test_images[0])
    done = run(
        *("dream", "--roi", "faces", "--start", image, "--steps", 20, "--lr", "0.02", "--no-natural", "--json"),
        *("--cache", fitted.cache),
    )
    start, pixels, images = done.json["start"], photograph(fitted, image), dreamt(done)
    chosen = fitted.responses.areas.select("faces")
    before, after = (betas(fitted, batch)[:, chosen].mean(1) for batch in (pixels.numpy(), images))
    assert start["response"] == pytest.approx(before[0], abs=1e-4)
    assert done.json["response"] == pytest.approx(after.tolist(), abs=1e-4)
    assert after[0] > before[0] + 0.02, "it rises above the photograph's"
    with torch.inference_mode():
        own, made, other = (
            fitted.full.maps(batch)
            for batch in (pixels, torch.from_numpy(images), photograph(fitted, int(fitted.responses.test_images[1])))
        )
    assert start["feature_distance"] == pytest.approx(feature_distance(made, own).tolist(), rel=1e-3)
    assert start["feature_distance"][0] < BOUND < float(feature_distance(other, own))
    assert np.corrcoef(images.ravel(), pixels.numpy().ravel())[0, 1] > 0.9
    names = {Path(file).name for file in done.json["files"]}
    assert {"difference.png", "difference.pdf", "sheet.pdf", "trace.pdf"} <= names
    assert len(done.json["images"]) == 1
    assert f"faces-start-{image}-" in done.json["images"][0]


def test_closeness_weighs(fitted: Fitted) -> None:
    pixels = photograph(fitted, int(fitted.responses.test_images[0]))
    target = area(fitted, "faces")
    settings = Settings.default(fitted.full.backbone.entry, None, 10, 0.05, 1, start=True)
    far = []
    for weight in (0.0, 1000.0):
        start = Photograph("a", pixels, weight)
        picture = parameterization.create("fourier", 1, 227, 0, CPU, lambda: pytest.fail("no spectrum"), pixels)
        made = Dreamer(target, Objective("mean"), picture, settings, start).run(StopFlag())
        compared = record.compared(record.Request(target, Objective("mean"), settings, None, CPU, start), made)
        far.append((compared["feature_distance"][0], compared["pixel_distance"][0], made.response[0]))
    assert far[1][0] < 0.5 * far[0][0]
    assert far[1][1] < 0.5 * far[0][1]
    assert far[1][2] < far[0][2]


def test_the_penalty_is_of_what_both_look_like_under_the_transform(fitted: Fitted) -> None:
    pixels, target = photograph(fitted, int(fitted.responses.test_images[0])), area(fitted)
    matrix = Transforms(5, 0.2).draw(0, 3)
    with torch.inference_mode():
        moved = apply(pixels, matrix)
        groups = target.activity(moved)["groups"]
        assert float(Photograph("a", pixels).penalty(target, moved, groups, matrix)) < 1e-6
        assert float(Photograph("a", pixels).penalty(target, pixels, target.activity(pixels)["groups"], matrix)) > 0.1


@pytest.mark.parametrize("name", ["fourier", "pixel"])
@pytest.mark.parametrize("size", [48, 227])
def test_a_start_is_the_photograph_itself(name: str, size: int) -> None:
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0, 1
    made = parameterization.create(name, 2, size, 3, CPU, lambda: pytest.fail("no spectrum"), pixels)().detach()
    assert (made[:1] - pixels).abs().max() < 1 / 255
    assert 1e-4 < (made[1] - made[0]).abs().max() < 0.2, "the second differs, by little"


def test_several_areas_share_one_network_and_give_what_each_gives(
    run: Run, copied: Fitted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[int] = []
    rebuild = FullModel.rebuild.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(FullModel, "rebuild", classmethod(lambda *given: built.append(1) or rebuild(*given)))
    bands = ("ecc_3", "ecc_1", "ecc_2")
    several = [part for name in (*bands, "ECC_1") for part in ("--roi", name)]
    done = run("dream", *several, *QUICK, "--cache", copied.cache)
    assert built == [1]
    assert [one["roi"] for one in done.json["results"]] == list(bands)
    assert done.json["model"] == done.json["results"][0]["model"]
    test = done.json["eccentricity"]
    assert test["areas"] == ["ecc_1", "ecc_2", "ecc_3"]
    assert -1 <= test["correlation"] <= 1
    radius = {one["roi"]: one["radial_profile"]["mean_radius"] for one in done.json["results"]}
    assert test["radius"] == pytest.approx([radius[name] for name in test["areas"]])
    assert all(Path(file).is_file() for file in test["files"])
    assert {Path(file).suffix for file in test["files"]} == {".png", ".pdf"}
    older = [{**one, "radial_profile": None} for one in done.json["results"]]
    assert [profile_of(one).mean_radius for one in older] == pytest.approx(
        [radius[name] for name in bands], abs=0.01
    ), "of a dream that was made before profiles were"
    alone = run("dream", "--roi", "ecc_1", *QUICK, "--output", tmp_path / "one", "--cache", copied.cache)
    assert "results" not in alone.json
    assert alone.json["response"] == done.json["results"][1]["response"]
    two = run("dream", "--roi", "V1", "--roi", "faces", *QUICK, "--output", tmp_path / "two", "--cache", copied.cache)
    assert [Path(one["images"][0]).parent for one in two.json["results"]] == [
        tmp_path / "two/V1",
        tmp_path / "two/faces",
    ]
    assert two.json["eccentricity"] is None


def test_a_folder_with_another_dream_is_refused_before_any_is_made(run: Run, fitted: Fitted, tmp_path: Path) -> None:
    """And tests of other bands stay beside each other there."""
    common = (*QUICK, "--output", tmp_path, "--cache", fitted.cache)
    bands = [part for name in ("ecc_1", "ecc_2", "ecc_3") for part in ("--roi", name)]
    first = run("dream", *bands, *common).json["eccentricity"]
    more = run("dream", *bands, "--roi", "ecc_4", *common).json["eccentricity"]
    assert more["areas"] == [*first["areas"], "ecc_4"]
    assert all(Path(file).is_file() for file in [*first["files"], *more["files"]])
    assert not {*first["files"]} & {*more["files"]}
    refused = run("dream", "--roi", "V2", "--roi", "ecc_1", "--seed", 1, *common, code=2)
    assert "--overwrite" in refused.err
    assert not (tmp_path / "V2/dream.json").exists()


def test_what_the_help_says_of_defaults_is_so(run: Run) -> None:
    said = " ".join(run("dream", "--help").out.split())
    assert f"Weight of diversity, in betas (default: {Objective('diversity').diversity:g})" in said
    assert f"in betas (default: {closeness.WEIGHT:g}); its square" in said


def test_titles_say_what_is_no_plain_dream(fitted: Fitted) -> None:
    from boldreams_cli.interpret.dreams import drawing

    settings = Settings.default(fitted.full.backbone.entry, None, 1, 0.1, 2)

    def said(objective: Objective, form: str = "fourier") -> list[str]:
        request = record.Request(area(fitted), objective, replace(settings, parameterization=form), None, CPU)
        values = np.zeros(2, np.float32)
        dream = Dream(np.zeros((2, 3, 8, 8), np.float32), values, values, np.full((2, 5), np.nan), 1, False)
        return drawing._aim(record.Record(request, dream, None))

    assert said(Objective("mean")) == []
    assert said(Objective("diversity", diversity=2.5), "pixel") == ["diversity 2.5", "pixel"]
    assert said(Objective("target", np.array([-1.5], np.float32))) == ["towards a beta of -1.5"]
    assert said(Objective("target", np.zeros(3, np.float32)), "maco") == ["towards given betas", "maco"]


def test_maco_through_the_command(run: Run, fitted: Fitted) -> None:
    done = run("dream", "--roi", "V1", "--parameterization", "maco", *QUICK, "--cache", fitted.cache)
    (picture,) = done.json["transparent"]
    assert Image.open(picture).mode == "RGBA"
    assert "maco" in Path(picture).parent.name
    plain = run("dream", "--roi", "V1", *QUICK, "--cache", fitted.cache)
    assert plain.json["transparent"] is None


def test_a_prediction_beyond_the_data_is_marked_by_the_command(run: Run, fitted: Fitted) -> None:
    """So far up that it must be."""
    common = ("dream", "--roi", "V2", "--steps", 12, "--count", 1, "--lr", "0.3", "--cache", fitted.cache)
    done = run(*common, "--json")
    chosen = fitted.responses.areas.select("V2")
    largest = fitted.responses.mean_betas(np.unique(fitted.responses.trial_images))[:, chosen].mean(1).max()
    assert done.json["measured"]["beta"] == pytest.approx(largest, rel=1e-5)
    assert done.json["beyond_data"] == [value > largest for value in done.json["response"]]
    assert ("*" in run(*common).out) == any(done.json["beyond_data"])


def test_pairs_of_areas_report_both_sides(run: Run, fitted: Fitted) -> None:
    areas = fitted.responses.areas
    for option, sign in (("--plus", 1), ("--minus", -1)):
        done = run("dream", "--roi", "V1", option, "faces", *QUICK, "--cache", fitted.cache)
        found = betas(fitted, dreamt(done))[0]
        sides = {name: found[areas.select(name)].mean() for name in ("V1", "faces")}
        assert done.json["sides"]["V1"] == pytest.approx([sides["V1"]], abs=1e-4)
        assert done.json["sides"]["faces"] == pytest.approx([sides["faces"]], abs=1e-4)
        score = (sides["V1"] + sign * sides["faces"]) / (2 if sign > 0 else 1)
        assert done.json["score"] == pytest.approx([score], abs=1e-4)
        assert done.json["objective"] == ("both" if sign > 0 else "contrast")
        assert f"V1{option.replace('--', '-')}-faces" in done.json["images"][0]


def test_aligning_areas_raises_both(fitted: Fitted) -> None:
    target = area(fitted, "V1", plus="faces")
    settings = replace(Settings.default(fitted.full.backbone.entry, None, 10, 0.05, 1))
    picture = parameterization.create("fourier", 1, 227, 0, CPU, lambda: pytest.fail("no spectrum"))
    with torch.no_grad():
        before = target.activity(picture())
        first = [float(before[name]) for name in ("response", "plus")]
    made = Dreamer(target, Objective("both"), picture, settings).run(StopFlag())
    assert made.other is not None
    assert made.score[0] == pytest.approx((made.response[0] + made.other[0]) / 2, abs=1e-5)
    assert made.score[0] > sum(first) / 2 + 0.01


def test_voxels_are_chosen_by_their_accuracy(run: Run, copied: Fitted) -> None:
    common = (*QUICK, "--cache", copied.cache)
    for asked in (("--voxel", "best:V1"), ("--roi", "V1", "--min-r", "0.1")):
        assert "run boldreams score" in run("dream", *asked, *common, code=2).err
    run("score", "--cache", copied.cache)
    saved = json.loads((copied.model.folder / "scores.json").read_text())
    r, ceiling = (np.array(saved[name], float) for name in ("r", "ceiling"))
    chosen = copied.responses.areas.select("V1")
    ratio = np.where(chosen & (ceiling >= 0.2) & np.isfinite(r), r / ceiling, -np.inf)
    place = copied.model.weights.voxels[np.argmax(ratio)]
    best = run("dream", "--voxel", "best:v1", *common)
    assert best.json["roi"] == f"voxel {','.join(map(str, place))}"
    bound = float(np.median(r[chosen]))
    some = run("dream", "--roi", "V1", "--min-r", f"{bound:.4f}", "--min-ceiling", "0.1", *common)
    kept = chosen & (r >= round(bound, 4)) & (ceiling >= 0.1)
    assert 0 < kept.sum() < chosen.sum()
    assert some.json["response"] == pytest.approx([betas(copied, dreamt(some))[0, kept].mean()], abs=1e-4)
    assert "min-r" in Path(some.json["images"][0]).parent.name
    assert "largest r" in run("dream", "--roi", "V1", "--min-r", "0.99", *common, code=2).err
    path = copied.model.folder / "scores.json"
    path.write_text(json.dumps(saved | {"weights_digest": "another"}))
    assert "run boldreams score" in run("dream", "--voxel", "best:V2", *common, code=2).err


def test_natural_images_are_searched_unless_not_wanted(
    run: Run, copied: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(natural, "_search", lambda *given: pytest.fail("natural images were searched"))
    done = run("dream", "--roi", "IPS", *QUICK, "--cache", copied.cache)
    assert (done.json["best_natural"], done.json["steps_to_beat"]) == (None, None)
    assert "no-natural" in Path(done.json["images"][0]).parent.name
    assert not list((copied.model.folder / "dreams/.natural").glob("[!m]*.json"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--roi", "V1", "--closeness", 2), "--start IMAGE"),
        (("--roi", "V1", "--start", 3, "--parameterization", "maco"), "maco"),
        (("--roi", "V1", "--start", "nosuch.png"), "--start takes"),
        (("--roi", "V1", "--start", "test"), "--start takes one"),
        (("--filter", "features.2:1", "--min-r", 0.2), "--min-r"),
        (("--filter", "features.2:1", "--plus", "V1"), "does not go with --filter"),
        (("--roi", "V1", "--plus", "V2", "--minus", "V3"), "two objectives"),
        (("--roi", "V1", "--plus", "V1"), "same voxels"),
        (("--roi", "V1", "--objective", "both"), "--plus AREA"),
        (("--voxel", "best:"), "best:AREA"),
        (("--voxel", "best:V9"), "no area 'V9'"),
    ],
)
def test_what_does_not_go_together_is_said(run: Run, fitted: Fitted, arguments: tuple, says: str) -> None:
    assert says in run("dream", *arguments, "--cache", fitted.cache, code=2).err


def test_steps_until_the_natural_image_is_beaten() -> None:
    trace = np.array([[0, 0, 0, 0, -1.0], [1, 0, 0, 0, 2.0], [2, 0, 0, 0, 1.0], [3, np.nan, np.nan, 0, 5.0]])
    assert [steps_to_beat(trace, level) for level in (-2, 0.5, 2.0, 9.0)] == [0, 1, 3, None]


def test_steps_to_beat_are_those_of_the_trace(run: Run, fitted: Fitted) -> None:
    done = run("dream", "--roi", "V1", "--steps", 6, "--count", 1, "--lr", "0.05", "--json", "--cache", fitted.cache)
    rows = np.genfromtxt(done.json["trace"], delimiter=",", names=True)
    for split, level in told(done)["natural_score"].items():
        above = rows["step"][rows["score"] > level]
        assert done.json["steps_to_beat"][split] == (int(above[0]) if len(above) else None)
    assert rows["score"][:-1] == pytest.approx(rows["transformed"][:-1], rel=1e-5)


def test_the_largest_measured_response_is_of_the_data(copied: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = copied.responses.areas.select("V2")
    images = np.unique(copied.responses.trial_images)
    mean = copied.responses.mean_betas(images)[:, chosen].mean(1)
    found = measured.largest_measured(chosen, copied.responses, copied.model.folder, StopFlag())
    assert (found.image, found.beta) == (images[np.argmax(mean)], pytest.approx(mean.max(), rel=1e-5))
    monkeypatch.setattr(measured, "mean_betas", lambda *given: pytest.fail("it was read again"))
    assert measured.largest_measured(chosen, copied.responses, copied.model.folder, StopFlag()) == found


def test_measured_averages_count_as_often_as_they_stand_for(copied: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = copied.responses.areas.select("V2")
    repeats = np.random.default_rng(0).integers(1, 9, len(copied.responses.trial_images)).astype(np.int32)
    monkeypatch.setattr(copied.responses, "trial_repeats", repeats)
    images, found = measured.mean_betas(chosen, copied.responses, StopFlag())
    expected = copied.responses.mean_betas(images)[:, chosen].mean(1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_predictions_beyond_all_data_are_marked(fitted: Fitted) -> None:
    settings = Settings.default(fitted.full.backbone.entry, None, 1, 0.1, 2)
    request = record.Request(area(fitted), Objective("mean"), settings, None, CPU)
    trace = np.full((2, 5), np.nan)
    images, values = np.zeros((2, 3, 8, 8), np.float32), np.array([1.0, 2.0], np.float32)
    made = record.Record(request, Dream(images, values, values, trace, 1, False), None, Largest(7, 1.5))
    assert made.beyond == [False, True]
    assert replace(made, largest=None).beyond is None
    from boldreams_cli.interpret.dreams import drawing

    assert [caption.endswith("*") for caption in drawing._captions(made)] == [False, True]
    assert "image 7" in drawing._unit(made, None)


def test_maco_says_what_mattered(fitted: Fitted, tmp_path: Path) -> None:
    spectrum = Spectrum(np.full((3, 240, 121), 0.02, np.float32), np.full(3, 0.5, np.float32))
    assert parameterization.fast_side(227) == 240

    def dreamer() -> Dreamer:
        picture = parameterization.create("maco", 2, 227, 0, CPU, lambda: spectrum)
        settings = Settings.default(fitted.full.backbone.entry, None, 4, None, 2, "maco")
        return Dreamer(area(fitted), Objective("mean"), picture, settings)

    whole = dreamer().run(StopFlag())
    assert whole.seen is not None
    assert whole.seen.shape == (2, 227, 227)
    first = dreamer()
    first.run(After(2))
    first.save_state(tmp_path, "one")
    second = dreamer()
    second.resume(tmp_path, "one")
    np.testing.assert_array_equal(second.run(StopFlag()).seen, whole.seen)
    settings = Settings.default(fitted.full.backbone.entry, None, 4, None, 2, "maco")
    said = record.Record(
        record.Request(area(fitted), Objective("mean"), settings, None, CPU), whole, None
    ).write_images(tmp_path)
    opened = [Image.open(tmp_path / name) for name in said["transparent"]]
    assert [picture.mode for picture in opened] == ["RGBA", "RGBA"]
    opacity = np.asarray(opened[0])[..., 3]
    brightest = whole.seen[0] >= np.percentile(whole.seen[0], 90)
    assert (opacity[brightest] == 255).all()
    assert opacity[whole.seen[0] <= np.percentile(whole.seen[0], 10)].mean() < 128


def test_transparency_keeps_the_order_of_what_was_seen() -> None:
    seen = np.arange(200, dtype=float).reshape(2, 10, 10)
    opacity = parameterization.transparency(seen)
    assert (np.diff(opacity.reshape(2, -1)) >= 0).all()
    assert (opacity.min(), opacity.max()) == (0, 1)
    assert not parameterization.transparency(np.zeros((1, 4, 4))).any()


def ring(inner: float, outer: float, size: int = 96) -> np.ndarray:
    """Noise between two radii on grey."""
    y, x = np.mgrid[:size, :size]
    distance = np.hypot(2 * y + 1 - size, 2 * x + 1 - size) / size
    inside = (distance >= inner) & (distance < outer)
    noise = np.random.default_rng(0).uniform(-0.4, 0.4, (1, 3, size, size))
    return 0.5 + noise * inside


def test_radial_profile_peaks_where_the_contrast_is() -> None:
    profile = radial_profile(ring(0.5, 0.6))
    assert profile.radius[np.argmax(profile.contrast)] == pytest.approx(0.55, abs=0.05)
    assert profile.mean_radius == pytest.approx(0.55, abs=0.05)
    assert radial_profile(np.full((1, 3, 32, 32), 0.3)).mean_radius != radial_profile(ring(0, 1)).mean_radius
    assert np.isnan(radial_profile(np.full((1, 3, 32, 32), 0.5)).mean_radius)
    even = radial_profile(np.random.default_rng(1).random((2, 3, 96, 96)))
    assert even.mean_radius == pytest.approx(0.5, abs=0.02), "no ring counts more for being larger"


def test_litmus_test_is_one_where_rings_move_outwards() -> None:
    rings = [radial_profile(ring(low, low + 0.15)) for low in (0.0, 0.2, 0.4, 0.6)]
    names = ["ecc_1", "ecc_2", "ecc_3", "ecc_10"]
    outwards = litmus(dict(zip(reversed(names), reversed(rings), strict=True)))
    assert outwards is not None
    assert outwards.areas == tuple(names)
    assert outwards.correlation == pytest.approx(1)
    inwards = litmus(dict(zip(names, reversed(rings), strict=True)))
    assert inwards is not None
    assert inwards.correlation == pytest.approx(-1)
    assert litmus({"ecc_1": rings[0], "ecc_2": rings[1], "V1": rings[2]}) is None
    names = ("ecc_3", "ECC-2", "ecc_4 (r >= 0.2)", "V1", "ecc_1,ecc_2", "ecc_1 minus V1")
    assert [band(name) for name in names] == [3, 2, 4, None, None, None]


def test_distances_are_relative_to_the_photograph() -> None:
    own = [torch.ones(1, 2, 3), 100 * torch.ones(1, 4, 5)]
    assert feature_distance([2 * maps for maps in own], own).tolist() == pytest.approx([1.0])
    assert feature_distance(own, own).tolist() == pytest.approx([0.0], abs=1e-5)
    picture = torch.rand(1, 3, 8, 8)
    flat = picture.mean((2, 3), keepdim=True).expand_as(picture)
    assert closeness.pixel_distance(flat, picture).tolist() == pytest.approx([1.0])
