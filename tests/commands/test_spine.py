"""The commands as typed, through the installed entry point, on an experiment in NSD's layout."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io
import scipy.stats
import torch
import torchvision
import zarr

from .. import held
from ..conftest import COMMAND, Run
from ..forked import Forked
from .conftest import listing


def test_the_cards_own_lines(run: Run, weights: Path, experiment: Path, tmp_path: Path) -> None:
    before = listing(experiment)
    script = tmp_path / "job.sh"
    script.write_text(
        "set -e\nboldreams extract --backbone alexnet\nboldreams fit --percent 10 --subject 1\nboldreams score\n"
    )
    environment = {
        **os.environ,
        "BOLDREAMS_NSD_ROOT": str(experiment),
        "BOLDREAMS_WEIGHTS": str(weights),
        "PATH": f"{COMMAND.parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(["sh", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "75 images computed" in done.stdout
    assert "backbone: alexnet (the cache holds alexnet" in done.stderr
    assert len(list((tmp_path / "cache/models").glob("subj01/alexnet/percent-10-paper-*/scores.json"))) == 1
    assert listing(experiment) == before, "the NSD root is only read"


def test_prepare_json(run: Run, cache: Path) -> None:
    done = run("prepare", "--subject", "subj02", "--cache", cache, "--json")
    assert done.json.keys() >= {"subject", "voxels", "sessions", "train", "test", "rois"}
    assert done.json["subject"] == 2
    assert done.json["train"].keys() == done.json["test"].keys() == {"images", "trials"}
    assert f"{done.json['train']['images']} train images" in done.err


def test_extract_json_and_nothing_twice(run: Run, cache: Path, weights: Path) -> None:
    again = run("extract", "--backbone", "alexnet", "--weights", weights, "--cache", cache, "--json").json
    assert again.keys() == {
        "store",
        "fingerprint",
        "rows",
        "computed",
        "skipped",
        "layers",
        "seconds",
        "images_per_second",
    }
    assert (again["computed"], again["skipped"], again["rows"]) == (0, 75, 75)
    assert again["layers"]["features.7"] == [384, 13, 13]


def test_dry_run_writes_nothing(run: Run, weights: Path, tmp_path: Path) -> None:
    done = run("extract", "--backbone", "alexnet", "--weights", weights, "--cache", tmp_path / "c", "--dry-run")
    assert "features.7: 384 of 384 filters, 13 x 13, chunks 256 x 1 x 13 x 13" in done.out
    assert "free disk" in done.out
    assert not (tmp_path / "c").exists()


def test_rank_is_torchvisions_standard_deviation(run: Run, cache: Path, weights: Path, experiment: Path) -> None:
    ranked = run("rank", "--subject", 1, "--cache", cache, "--json").json
    assert (ranked["subject"], ranked["backbone"]) == (1, "alexnet")
    design = scipy.io.loadmat(experiment / "nsddata/experiments/nsd/nsd_expdesign.mat")
    order = design["subjectim"][0][design["masterordering"].ravel().astype(int)[:135] - 1]
    ids = np.unique(np.setdiff1d(order, design["sharedix"])).astype(int) - 1
    with h5py.File(experiment / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as file:
        images = torch.from_numpy(file["imgBrick"][sorted(ids.tolist())]).permute(0, 3, 1, 2)
    model = torchvision.models.alexnet(weights=None).eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    x = torch.nn.functional.interpolate(images, size=(227, 227), mode="bilinear", antialias=True) / 255
    x = torchvision.transforms.functional.normalize(x, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.inference_mode():
        for index, module in enumerate(model.features):
            x = module(x)
            if (name := f"features.{index}") in ranked["layers"]:
                std = x.mean((2, 3)).double().std(0, correction=0).numpy()
                found = ranked["layers"][name]
                np.testing.assert_allclose(found["std"], std[found["order"]], rtol=1e-3)
                assert sorted(found["order"]) == list(range(len(std)))
                assert (np.diff(found["std"]) <= 0).all()


def test_fit_and_score_need_neither_weights_nor_images(run: Run, own: Path, experiment: Path, tmp_path: Path) -> None:
    root = tmp_path / "nsd"
    shutil.copytree(experiment, root, ignore=shutil.ignore_patterns("nsd_stimuli.hdf5"))
    (spec,) = (own / "models").glob("subj01/alexnet/percent-10-paper-*/spec.json")
    digest = json.loads(spec.read_text())["weights_digest"]
    program = (
        "import sys\nfrom boldreams_cli.cli import boldreams\n"
        "boldreams.main(sys.argv[1:], standalone_mode=False)\n"
        "assert not {'torchvision', 'open_clip', 'timm'} & set(sys.modules), 'a backbone was imported'"
    )
    arguments = ["fit", "--percent", "10", "--subject", "1", "--epochs", "3", "--lr", "1e-3", "--cache", str(own)]
    arguments.append("--overwrite")  # it is fitted, not found
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "BOLDREAMS_NSD_ROOT": str(root), "BOLDREAMS_DEVICE": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(spec.read_text())["weights_digest"] == digest, "the same cache and seed give the same bits"
    run("score", "--cache", own, BOLDREAMS_NSD_ROOT=tmp_path / "nowhere")


def test_fit_json(run: Run, own: Path) -> None:
    done = run("fit", "--percent", 1, "--subject", 1, "--epochs", 2, "--cache", own, "--json")
    assert done.json.keys() == {"model", "recipe", "readout", "filters", "epochs", "train_loss", "seconds"}
    assert done.json["filters"]["features.2"] == 1, "1 % of 64 is one filter, not none"
    assert len(done.json["train_loss"]) == done.json["epochs"] == 2
    with (Path(done.json["model"]) / "log.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2"]
    listed = run("score", "--cache", own, code=2)
    assert "2 fitted models match" in listed.err
    assert "subj01/alexnet/percent-1-paper-" in listed.err
    assert run("score", "--cache", own, "--percent", 1, "--json").json["model"] == done.json["model"]


@pytest.mark.parametrize(
    ("readout", "settings"),
    [
        ("ridge", ()),
        ("ridge", ("--compress", "sqrt")),
        ("local", ("--compress", "none")),
        ("stacked", ("--members", "ridge,layers")),
        ("gaussian", ()),
    ],
)
def test_other_readouts_go_through_the_same_commands(
    run: Run, own: Path, readout: str, settings: tuple[str, ...]
) -> None:
    common = ("--subject", 1, "--cache", own, "--readout", readout)
    fitted = run("fit", "--percent", 2, *common, *settings, "--json").json
    assert f"/percent-2-{readout}-" in fitted["model"]
    assert (fitted["epochs"], fitted["train_loss"], len(fitted["left_out_loss"])) == (0, [], 1)
    assert run("score", *common, "--json").json["model"] == fitted["model"]
    dreamt = run("dream", *common, "--roi", "V1", "--steps", 2, "--count", 1, "--json").json
    assert dreamt["best_natural"]["test"]["response"] is not None
    shown = run("attribute", *common, "--roi", "V1", "--count", 1, "--steps", 8, "--json").json
    best = dreamt["best_natural"]["test"]
    assert shown["results"][0]["image"] == best["image"]
    assert shown["results"][0]["prediction"] == pytest.approx(best["response"], rel=0.01, abs=0.01)
    refused = run("fit", *common, "--epochs", 3, code=2)
    assert "has no --epochs; leave it out" in refused.err


@pytest.mark.parametrize("share", [(), ("--share", "area")])
def test_attention_goes_through_the_same_commands(
    run: Run, own: Path, share: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    if not share:
        request.getfixturevalue("rendered")
    common = ("--subject", 1, "--cache", own, "--readout", "attention")
    fitted = run("fit", "--percent", 2, *common, *share, "--epochs", 3, "--grid", 4, "--json").json
    assert "/percent-2-attention-" in fitted["model"]
    assert len(fitted["train_loss"]) == len(fitted["held_out_loss"]) == fitted["epochs"] == 3
    again = run("fit", "--percent", 2, *common, *share, "--epochs", 3, "--grid", 4, "--json")
    assert again.json["model"] == fitted["model"]
    assert "is there already" in again.err
    scored = run("score", *common, "--json").json
    assert scored["model"] == fitted["model"]
    assert scored["retinotopy_note"] == "an attention readout has no receptive fields to compare"
    dreamt = run("dream", *common, "--roi", "V1", "--steps", 2, "--count", 1, "--json").json
    best = dreamt["best_natural"]["test"]
    shown = run("attribute", *common, "--roi", "V1", "--count", 1, "--steps", 64, "--json").json["results"][0]
    assert shown["image"] == best["image"]
    assert shown["prediction"] == pytest.approx(best["response"], rel=0.01, abs=0.01)
    difference = shown["prediction"] - shown["baseline_prediction"]
    assert shown["attribution_sum"] == pytest.approx(difference, rel=0.05, abs=0.01)
    pixels, stored = (
        run("predict", *common, *asked, "--output", own / name, "--json").json["file"]
        for asked, name in ((("--image", best["image"]), "one.npz"), (("--image", "test"), "all.npz"))
    )
    with np.load(pixels) as one, np.load(stored) as every:
        place = every["images"].tolist().index(best["image"])
        np.testing.assert_allclose(one["betas"][0], every["betas"][place], atol=1e-4)
    run("attribute", *common, "--roi", "V1", "--image", best["image"], "--steps", 8, "--check")


def test_attention_is_refused_where_it_makes_no_sense(run: Run, own: Path) -> None:
    common = ("fit", "--subject", 1, "--cache", own)
    tuned = run(*common, "--readout", "attention", "--finetune", code=2)
    assert "--finetune trains the separable readout" in tuned.err
    ridge = run(*common, "--readout", "ridge", "--share", "area", code=2)
    assert "--readout ridge has no --share; leave it out" in ridge.err
    precise = run(*common, "--readout", "attention", "--precision", "bf16", code=2)
    assert "--readout attention has no --precision; leave it out" in precise.err


def test_score_is_a_correlation_of_predict_with_the_raw_files(run: Run, own: Path, experiment: Path) -> None:
    scored = run("score", "--cache", own, "--json").json
    names = "subject backbone percent readout recipe finetuned seed voxels excluded r_mean r_median r_single_mean"
    assert scored.keys() >= {"model", *names.split(), "ceiling_mean", "ceiling_single_mean", "rois", "files"}
    assert all(Path(file).is_file() for file in scored["files"])
    done = run("predict", "--cache", own, "--json").json
    with np.load(done["file"]) as saved:
        predicted, images, voxels = saved["betas"], saved["images"], saved["voxels"]
    assert images.tolist() == done["images"]
    design = scipy.io.loadmat(experiment / "nsddata/experiments/nsd/nsd_expdesign.mat")
    shown = design["subjectim"][0][design["masterordering"].ravel().astype(int) - 1] - 1
    folder = experiment / "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    sessions = []
    for path in sorted(folder.glob("betas_session*.nii.gz")):
        raw = np.asarray(nibabel.load(path).dataobj).astype(np.float64)
        sessions.append(scipy.stats.zscore(raw[tuple(voxels.T)].T, axis=0))
    betas = np.concatenate(sessions)
    mean = np.stack([betas[shown[: len(betas)] == image].mean(0) for image in images])
    r = np.array(
        [scipy.stats.pearsonr(predicted[:, v].astype(float), mean[:, v]).statistic for v in range(len(voxels))]
    )
    assert scored["r_mean"] == pytest.approx(r.mean(), abs=1e-5)
    volume = nibabel.load(Path(done["model"]) / "correlation.nii.gz")
    np.testing.assert_allclose(volume.get_fdata()[tuple(voxels.T)], r, atol=1e-5)
    np.testing.assert_array_equal(volume.affine, nibabel.load(folder / "ncsnr.nii.gz").affine)
    assert np.isnan(volume.get_fdata()).sum() == volume.get_fdata().size - len(voxels)
    with (Path(done["model"]) / "rois.csv").open() as stream:
        rows = {row["roi"]: row for row in csv.DictReader(stream)}
    assert float(rows["V1"]["r_mean"]) == pytest.approx(scored["rois"]["V1"]["r_mean"])
    assert {"faces", "FFA-1", "ecc_1"} <= rows.keys()


def test_predict_takes_ids_files_and_folders(run: Run, own: Path, experiment: Path, tmp_path: Path) -> None:
    from PIL import Image

    with h5py.File(experiment / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as file:
        (tmp_path / "pictures").mkdir()
        Image.fromarray(file["imgBrick"][3]).save(tmp_path / "pictures/three.png")
    done = run(
        "predict",
        "--cache",
        own,
        "--image",
        3,
        "--image",
        tmp_path / "pictures",
        "--output",
        tmp_path / "p.npz",
        "--json",
    ).json
    assert done["images"] == [3, str(tmp_path / "pictures/three.png")]
    with np.load(done["file"]) as saved:
        np.testing.assert_allclose(saved["betas"][0], saved["betas"][1], atol=2e-3 * np.abs(saved["betas"]).max())
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = run("predict", "--cache", own, "--image", tmp_path / "bad.png", code=1)
    assert "bad.png is not a picture" in bad.err
    none = run("predict", "--cache", own, "--image", "nowhere.png", code=2)
    assert "--image takes the id or name of an image, a file, a folder" in none.err


def test_info_lists_layers_areas_and_holdings(run: Run, cache: Path) -> None:
    held = run("info", "--cache", cache, "--json").json
    assert held["features"][0]["done"] == 75
    assert held["models"][0]["r_mean"] is not None
    assert len(run("info", "--layers", "rn50x4", "--json").json["layers"]) == 4
    rois = run("info", "--rois", 1, "--cache", cache, "--json").json["rois"]
    assert rois["V1"] > 0


UNIT = '"kind": "maps"'  # stands in the lines of finished units


def killed_in_the_middle(arguments: list[object], ledger: Path, number: signal.Signals) -> int:
    """Start an extraction, send it a signal once its ledger has a unit's line, return its exit code."""
    process = Forked(arguments, os.environ, first=held.before_the_second_unit)
    deadline = time.monotonic() + 120
    while (
        not any(UNIT in p.read_text() for p in ledger.glob("*/ledger.jsonl"))
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate()
    assert process.returncode is not None
    return process.returncode


# float32 maps of this backbone make three units of the 75 images.
IN_UNITS = ["extract", "--backbone", "efficientnet_lite0", "--dtype", "float32"]


@pytest.fixture(scope="module")
def uninterrupted(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole")
    run(*IN_UNITS, "--cache", path)
    return path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_extract_goes_on_to_the_same_bytes(
    run: Run, experiment: Path, uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    arguments = [*IN_UNITS, "--nsd-root", experiment, "--cache", tmp_path]
    code = killed_in_the_middle(arguments, tmp_path / "features", number)
    assert code == {signal.SIGKILL: -9, signal.SIGTERM: 75}[number]
    resumed = run(*arguments, "--json").json
    assert 0 < resumed["skipped"] < 75
    # The arrays, byte for byte; the order of chunks inside a shard's file is the codec threads' own.
    stores = (next((cache / "features").glob("*.zarr")) for cache in (tmp_path, uninterrupted))
    one, other = (zarr.open_group(store, mode="r") for store in stores)
    names = [name for name, _ in one.members(max_depth=None) if isinstance(one[name], zarr.Array)]
    assert len(names) == 16
    for name in names:
        assert one[name][:].tobytes() == other[name][:].tobytes(), name


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom boldreams_cli.cli import COMMANDS, boldreams\n"
        "for arguments in [['--help'], *([name, '--help'] for name in COMMANDS)]:\n"
        "    result = CliRunner().invoke(boldreams, arguments)\n    assert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'numpy', 'zarr', 'rich', 'matplotlib', 'h5py'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_progress_goes_to_stderr_and_quiet_is_quiet(run: Run, own: Path) -> None:
    loud = run("fit", "--percent", 5, "--subject", 1, "--epochs", 1, "--cache", own)
    assert "trials" in loud.err
    assert "/s" in loud.err
    assert "\x1b" not in loud.err + loud.out
    again = ("--subject", 1, "--epochs", 1, "--cache", own, "-q")
    assert run("fit", "--percent", 5, *again, "--overwrite").err == ""


def test_environment_variables_set_any_option(run: Run, own: Path) -> None:
    done = run(
        "fit", BOLDREAMS_CACHE=own, BOLDREAMS_PERCENT=5, BOLDREAMS_SUBJECT="01", BOLDREAMS_EPOCHS=1, BOLDREAMS_JSON=1
    )
    assert done.json["epochs"] == 1
    assert "/percent-5-paper-" in done.json["model"]


def test_a_closed_pipe_ends_it_quietly(cache: Path) -> None:
    """As in `boldreams info | head`."""
    process = subprocess.Popen([COMMAND, "info", "--cache", cache], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 128 + signal.SIGPIPE
