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

from ..conftest import COMMAND, Run


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def cache(run: Run, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the maps of both subjects and a fitted model of the first."""
    path = tmp_path_factory.mktemp("spine") / "cache"
    run("extract", "--backbone", "alexnet", "--weights", weights, "--cache", path)
    run("fit", "--percent", 10, "--subject", 1, "--cache", path, "--epochs", 3, "--lr", "1e-3")
    run("score", "--cache", path)
    return path


@pytest.fixture
def own(cache: Path, tmp_path: Path) -> Path:
    """A copy of that cache to spoil."""
    return Path(shutil.copytree(cache, tmp_path / "cache"))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


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
    assert (tmp_path / "cache/models/subj01/alexnet/percent-10/scores.json").is_file()
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
    spec = own / "models/subj01/alexnet/percent-10/spec.json"
    digest = json.loads(spec.read_text())["weights_digest"]
    program = (
        "import sys\nfrom boldreams_cli.cli import boldreams\n"
        "boldreams.main(sys.argv[1:], standalone_mode=False)\n"
        "assert not {'torchvision', 'open_clip', 'timm'} & set(sys.modules), 'a backbone was imported'"
    )
    arguments = ["fit", "--percent", "10", "--subject", "1", "--epochs", "3", "--lr", "1e-3", "--cache", str(own)]
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
    assert done.json.keys() == {"model", "filters", "epochs", "train_loss", "seconds"}
    assert done.json["filters"]["features.2"] == 1, "1 % of 64 is one filter, not none"
    assert len(done.json["train_loss"]) == done.json["epochs"] == 2
    with (Path(done.json["model"]) / "log.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2"]
    listed = run("score", "--cache", own, code=2)
    assert "2 fitted models match: subj01/alexnet/percent-1, subj01/alexnet/percent-10" in listed.err
    assert run("score", "--cache", own, "--percent", 1, "--json").json["model"] == done.json["model"]


def test_score_is_a_correlation_of_predict_with_the_raw_files(run: Run, own: Path, experiment: Path) -> None:
    scored = run("score", "--cache", own, "--json").json
    assert scored.keys() == {
        "model",
        "voxels",
        "excluded",
        "r_mean",
        "r_median",
        "r_single_mean",
        "ceiling_mean",
        "rois",
        "files",
    }
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
    assert "--image takes an nsdId, a file, a folder" in none.err


def test_info_lists_layers_areas_and_holdings(run: Run, cache: Path) -> None:
    held = run("info", "--cache", cache, "--json").json
    assert held["features"][0]["done"] == 75
    assert held["models"][0]["r_mean"] is not None
    assert len(run("info", "--layers", "rn50x4", "--json").json["layers"]) == 4
    rois = run("info", "--rois", 1, "--cache", cache, "--json").json["rois"]
    assert rois["V1"] > 0


def killed_in_the_middle(arguments: list[object], ledger: Path, number: signal.Signals, **environment: str) -> int:
    """Start a command, send it a signal once its ledger has a line, return its exit code."""
    process = subprocess.Popen(
        [COMMAND, *map(str, arguments)], env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while (
        not any(p.read_text().endswith("\n") for p in ledger.glob("*/*.jsonl"))
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate()
    return process.returncode


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_extract_goes_on_to_the_same_bytes(
    run: Run, experiment: Path, tmp_path: Path, number: signal.Signals
) -> None:
    # float32 maps of this backbone make three units of the 75 images.
    arguments = ["extract", "--backbone", "efficientnet_lite0", "--dtype", "float32", "--nsd-root", experiment]
    code = killed_in_the_middle([*arguments, "--cache", tmp_path / "a"], tmp_path / "a/features", number)
    assert code == {signal.SIGKILL: -9, signal.SIGTERM: 75}[number]
    resumed = run(*arguments, "--cache", tmp_path / "a", "--json").json
    assert 0 < resumed["skipped"] < 75
    run(*arguments, "--cache", tmp_path / "b")
    # The arrays, byte for byte; the order of chunks inside a shard's file is the codec threads' own.
    one, other = (zarr.open_group(next((tmp_path / name / "features").glob("*.zarr")), mode="r") for name in "ab")
    names = [name for name, _ in one.members(max_depth=None) if isinstance(one[name], zarr.Array)]
    assert len(names) == 16
    for name in names:
        assert one[name][:].tobytes() == other[name][:].tobytes(), name


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["fit", "--percent", 0], 2, "above 0 and up to 100"),
        (["fit", "--percent", 101], 2, "above 0 and up to 100"),
        (["fit", "--subject", "seven"], 2, "write 1, 01 or subj01"),
        (["fit", "--backbone", "resnet"], 2, "choose from alexnet, vgg11, rn50x4"),
        (["fit", "--backbone", "vgg11", "--subject", 1], 3, "run boldreams extract --backbone vgg11"),
        (["fit", "--features", "0123", "--subject", 1], 3, "no store 0123"),
        (["fit"], 2, "choose a subject with --subject; there: 1, 2"),
        (["fit", "--subject", 1, "--device", "cuda"], 1, "no CUDA device"),
        (["fit", "--subject", 1, "--device", "tpu"], 2, "auto, cpu, cuda or cuda:N"),
        (["fit", "--subject", 1, "--memory", "much"], 2, "write 4G or 800M"),
        (["prepare", "--subject", 7], 2, "subjects under the root: 1, 2"),
        (["prepare", "--subject", 1, "--sessions", "1-99"], 2, "sessions"),
        (["prepare", "--subject", 1, "--mask", "nothing.nii.gz"], 2, "nothing.nii.gz"),
        (["rank", "--subject", 1, "--nsd-root", "/nowhere", "--sessions", "1"], 1, "/nowhere"),
        (["extract", "--backbone", "alexnet", "--nsd-root", "/nowhere"], 1, "--nsd-root"),
        (["extract", "--backbone", "alexnet", "--weights", "nowhere.pth"], 1, "no weights file"),
        (["extract", "--backbone", "alexnet", "--shard-index", 2, "--shard-count", 2], 2, "--shard-index counts"),
        (["score", "--percent", 50], 2, "boldreams fit"),
        (["score", "--model", "nowhere"], 1, "no fitted model"),
        (["info", "--layers", "resnet"], 2, "choose from"),
        (["dance"], 2, "choose from prepare, extract"),
    ],
)
def test_errors_are_one_line_with_the_remedy(
    run: Run, cache: Path, weights: Path, arguments: list[object], code: int, says: str
) -> None:
    before = listing(cache)
    done = run(
        *arguments,
        code=code,
        BOLDREAMS_CACHE=cache,
        **({} if "--weights" in arguments else {"BOLDREAMS_WEIGHTS": weights}),
    )
    assert says in done.err
    assert "Traceback" not in done.err
    assert not done.out
    message = done.err[done.err.find("boldreams:") :] if "boldreams:" in done.err else ""
    assert message.count("\n") <= 2
    assert listing(cache) == before, "nothing half-written"


def test_missing_images_and_other_stimuli_are_exit_3(
    run: Run, own: Path, weights: Path, experiment: Path, tmp_path: Path
) -> None:
    store = next((own / "features").glob("*.zarr"))
    attributes = json.loads((store / "zarr.json").read_text())
    attributes["attributes"]["spec"]["weights_digest"] = "another"
    (store / "zarr.json").write_text(json.dumps(attributes))
    done = run("fit", "--subject", 1, "--cache", own, code=3)
    assert "fingerprint" in done.err
    run("extract", "--backbone", "alexnet", "--weights", weights, "--subject", 2, "--cache", tmp_path / "second")
    done = run("fit", "--subject", 1, "--cache", tmp_path / "second", code=3)
    assert "lacks 30 of 30 images" in done.err


def test_truncated_betas_leave_nothing(run: Run, experiment: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(experiment, tmp_path / "nsd"))
    for path in root.rglob("betas_session02.*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for subject in (1, 2):
        done = run("prepare", "--subject", subject, "--nsd-root", root, "--cache", tmp_path / "cache", code=1)
        assert "betas_session02" in done.err
    assert "no responses" not in run("info", "--cache", tmp_path / "cache").out
    again = run("fit", "--subject", 1, "--nsd-root", root, "--cache", tmp_path / "cache", code=3)
    assert "boldreams extract" in again.err


def test_wrong_image_dtype(run: Run, experiment: Path, weights: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(experiment, tmp_path / "nsd"))
    path = root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    path.unlink()
    with h5py.File(path, "w") as file:
        file["imgBrick"] = np.zeros((3, 425, 425, 3), dtype=np.float32)
    done = run(
        "extract",
        "--backbone",
        "alexnet",
        "--weights",
        weights,
        "--nsd-root",
        root,
        "--cache",
        tmp_path / "cache",
        code=1,
    )
    assert "float32" in done.err
    assert "uint8" in done.err
    assert not (tmp_path / "cache").exists()


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom boldreams_cli.cli import boldreams\n"
        "result = CliRunner().invoke(boldreams, ['--help'])\nassert result.exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'zarr', 'rich', 'matplotlib', 'h5py'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_progress_goes_to_stderr_and_quiet_is_quiet(run: Run, own: Path) -> None:
    loud = run("fit", "--percent", 5, "--subject", 1, "--epochs", 1, "--cache", own)
    assert "trials" in loud.err
    assert "/s" in loud.err
    assert "\x1b" not in loud.err + loud.out
    assert run("fit", "--percent", 5, "--subject", 1, "--epochs", 1, "--cache", own, "-q").err == ""


def test_environment_variables_set_any_option(run: Run, own: Path) -> None:
    done = run(
        "fit", BOLDREAMS_CACHE=own, BOLDREAMS_PERCENT=5, BOLDREAMS_SUBJECT="01", BOLDREAMS_EPOCHS=1, BOLDREAMS_JSON=1
    )
    assert done.json["epochs"] == 1
    assert done.json["model"].endswith("percent-5")
