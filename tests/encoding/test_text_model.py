"""The text model on a real open_clip text tower of random weights, and captions files in COCO's format."""

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, StopFlag
from boldreams_cli.data.nsd.layout import Layout
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding import fit
from boldreams_cli.encoding.evaluation import predict, score
from boldreams_cli.encoding.folds import fit_folds
from boldreams_cli.encoding.inputs.layout import Group, MapLayout
from boldreams_cli.encoding.model import captions
from boldreams_cli.encoding.model.full import FullModel, predict_stored
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.encoding.numerics.contraction import learning_rate
from boldreams_cli.encoding.readouts.captions import Linear, LinearSettings, LinearTraining
from boldreams_cli.encoding.readouts.separable import batch_order
from boldreams_cli.encoding.readouts.settings import FitSettings, choose_readout
from boldreams_cli.features import backbones, extraction
from boldreams_cli.features import text as text_features
from boldreams_cli.features.choosing import compare_stimuli
from boldreams_cli.features.store.feature_store import FeatureStore
from tests import tiny_clip

CPU, MEMORY = torch.device("cpu"), 2**30
THINGS = ("a dog", "two people", "a red bus", "a clock tower", "a bowl of soup", "a zebra", "surfers")


def write_coco(folder: Path, table: Path) -> dict[int, list[str]]:
    """Captions files as COCO has them: images 0, 3, ... in the other split than the table says, two to seven each."""
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    annotations: dict[str, list[dict[str, object]]] = {"train": [], "val": []}
    written: dict[int, list[str]] = {}
    for row in rows:
        number = int(row["nsdId"])
        split = row["cocoSplit"].removesuffix("2017")
        if number % 3 == 0:
            split = "val" if split == "train" else "train"
        written[number] = [f"{THINGS[(number + turn) % 7]}, view {turn}." for turn in range(2 + number % 6)]
        for turn, caption in enumerate(written[number]):
            entry = {"image_id": int(row["cocoId"]), "id": number * 10 + turn, "caption": caption + "\n"}
            annotations[split].append(entry)
    folder.mkdir()
    for split, entries in annotations.items():
        whole = {"info": {"year": 2017}, "licenses": [], "images": [], "annotations": entries}
        (folder / f"captions_{split}2017.json").write_text(json.dumps(whole))
    assert all(annotations.values())
    return written


class Ready:
    """Subject 1, the store of a tiny tower's embeddings, and a model fitted to both."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.dataset, self.cache, self.captions_dir = open_dataset(root), folder / "cache", folder / "annotations"
        self.captions = write_coco(self.captions_dir, Layout(root).image_table)
        self.responses: Responses = self.dataset.prepare(1, self.cache)
        self.backbone = text_features.load(tiny_clip.register(folder), "random", 3)
        self.store = self.extract()
        self.settings = FitSettings(10, seed=1)
        self.model = self.fit()

    def extract(self) -> FeatureStore:
        images = np.unique(self.responses.trial_images)
        training = [self.responses.train_images]
        source = text_features.source(self.backbone, self.dataset, images, training, self.captions_dir)
        plan = extraction.make_plan(self.backbone, source, self.cache, "float32", None)
        result = extraction.extract(self.backbone, source, plan, self.cache, StopFlag(), 8)
        self.computed = result.computed
        return result.store

    def fit(self, memory: int = MEMORY) -> FittedModel:
        found = fit.fit(
            self.store,
            self.responses,
            self.settings,
            Linear(LinearSettings(epochs=3)),
            self.cache,
            CPU,
            memory,
            StopFlag(),
        )
        self.losses = found.losses
        return found.model


@pytest.fixture(scope="module")
def ready(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    return Ready(experiment, tmp_path_factory.mktemp("text"))


def embedding(ready: Ready, captions: list[str]) -> torch.Tensor:
    tower = ready.backbone.tower
    with torch.inference_mode():
        return tower.model.encode_text(tower.tokenizer(captions)).mean(0)


def test_store_holds_the_mean_of_the_first_five_captions(ready: Ready) -> None:
    store = ready.store
    assert store.layers == {"last": (24, 1, 1)}
    assert store.spec["preprocessing"] == {"clip": tiny_clip.NAME, "captions": 5}
    images = store.images[:12]
    assert {len(ready.captions[int(number)]) for number in images} == {2, 3, 4, 5, 6, 7}
    maps = store.read_maps("last", store.rows(images), np.arange(24))
    assert maps.shape == (12, 24, 1, 1)
    for number, found in zip(images, maps, strict=True):
        expected = embedding(ready, ready.captions[int(number)][:5])
        torch.testing.assert_close(torch.from_numpy(found[:, 0, 0]), expected, rtol=1e-4, atol=1e-5)
    assert np.allclose(store.means("last", store.rows(images)), maps[:, :, 0, 0])


def test_extracting_again_computes_nothing(ready: Ready) -> None:
    before = ready.store.fingerprint
    assert ready.extract().fingerprint == before
    assert ready.computed == 0


def test_other_captions_make_another_store(ready: Ready, tmp_path: Path) -> None:
    images = ready.responses.train_images[:4]
    source = text_features.source(ready.backbone, ready.dataset, images, [images], None)
    plan = extraction.make_plan(ready.backbone, source, ready.cache, "float32", None)
    assert plan.path != ready.store.path
    with pytest.raises(BoldreamsError, match="--captions-dir"):
        text_features.source(ready.backbone, ready.dataset, images, [images], tmp_path)


def test_spec_says_that_it_is_linear(ready: Ready) -> None:
    spec = ready.model.spec
    assert (spec.backbone, spec.readout, spec.percent) == ("clip-text", "linear", 100.0)
    assert ready.model.folder.name == f"percent-100-paper-{spec.key[:6]}"
    assert sorted(spec.layers["last"]) == list(range(24))
    assert torch.equal(ready.model.weights.fields["1x1"], torch.ones(spec.voxels, 1, 1))
    assert spec.training["percent"] == 100.0


@pytest.mark.parametrize(("asked", "expected"), [(None, 30), (7, 7)])
def test_thirty_epochs_unless_asked_otherwise(asked: int | None, expected: int) -> None:
    settings = choose_readout("separable", None, "captions", {"epochs": asked}).settings
    assert (settings.epochs, settings.rate, settings.batch_size) == (expected, 1e-4, 16)


def test_training_is_that_of_torchs_own_linear_layer(ready: Ready) -> None:
    """The same batches, rates and start through nn.Linear, autograd and Adam."""
    model, responses = ready.model, ready.responses
    count = model.spec.voxels
    layouts = [MapLayout(group, model.spec.layers) for group in model.spec.groups]
    start = LinearTraining(layouts, np.arange(count), count, 1e-4, ready.settings.seed, CPU, "fp32").weights()
    reference = torch.nn.Linear(24, count)
    assert all(value.abs().max() <= 24**-0.5 for value in (start[1][0], start[2]))
    assert start[1][0].std() == pytest.approx(float(reference.weight.detach().std()), rel=0.1)
    with torch.no_grad():
        reference.weight.copy_(start[1][0])
        reference.bias.copy_(start[2])
    trials = ~responses.trial_test
    rows = ready.store.rows(responses.trial_images[trials])
    maps = torch.from_numpy(ready.store.read_maps("last", rows, np.array(model.spec.layers["last"])))[:, :, 0, 0]
    betas = torch.from_numpy(responses.read_betas(trials))
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-4)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = learning_rate(1e-4, epoch)
        for batch in batch_order(len(betas), 16, ready.settings.seed, epoch):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(reference(maps[batch]), betas[batch]).backward()
            optimizer.step()
    torch.testing.assert_close(model.weights.weights["last"], reference.weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.weights.bias, reference.bias.detach(), rtol=1e-4, atol=1e-6)
    assert ready.losses[-1] < ready.losses[0]


def test_other_captions_under_the_root_are_said(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("boldreams"), "propagate", True)
    compare_stimuli(ready.store, ready.dataset.root)
    assert f"the captions under {ready.dataset.root} are not those that {ready.store.path} was made of" in caplog.text
    caplog.clear()
    own = FeatureStore(ready.store.path)
    own.spec = own.spec | {"stimuli": ready.dataset.captions_identity()}
    compare_stimuli(own, ready.dataset.root)
    compare_stimuli(ready.store, None)
    compare_stimuli(ready.store, ready.cache)  # no data set lies there
    assert not caplog.text


def test_folds_of_captions(ready: Ready, tmp_path: Path) -> None:
    model, images = ready.model, ready.responses.train_images
    found = fit_folds(
        *(model, 3, ready.store, ready.responses, ready.settings, Linear(LinearSettings(epochs=3)), CPU, MEMORY),
        StopFlag(),
    )
    first = images[found.fold == 1]
    rest = ready.responses.leaving_out(first)
    readout = Linear(LinearSettings(epochs=3))
    other = fit.fit(ready.store, rest, ready.settings, readout, tmp_path, CPU, MEMORY, StopFlag()).model
    by_hand = predict_stored(other, ready.store, first, CPU, MEMORY)
    np.testing.assert_array_equal(found.predictions()[found.fold == 1], by_hand)
    assert other.spec.key != model.spec.key


def test_a_linear_readout_refuses_maps_of_more_pixels() -> None:
    layout = MapLayout(Group("2x2", 2, 2, ("last",)), {"last": [0, 1]})
    with pytest.raises(ValueError, match="one pixel"):
        LinearTraining([layout], np.arange(3), 3, 1e-4, 0, CPU, "fp32")


def test_checkpoint_of_a_linear_readout() -> None:
    layout = MapLayout(Group("1x1", 1, 1, ("last",)), {"last": list(range(6))})
    rng = torch.Generator().manual_seed(0)
    maps, betas = torch.rand(8, 1, 6, generator=rng), torch.rand(8, 5, generator=rng)

    def fresh(seed: int) -> LinearTraining:
        return LinearTraining([layout], np.arange(1, 6), 7, 1e-2, seed, CPU, "fp32")

    straight, before, after = fresh(0), fresh(0), fresh(9)
    for _ in range(4):
        straight.step([maps], betas, 1e-2)
    for _ in range(2):
        before.step([maps], betas, 1e-2)
    after.load_state({key: value.clone() for key, value in before.state().items()})
    for _ in range(2):
        after.step([maps], betas, 1e-2)
    assert torch.equal(after.weights()[1][0], straight.weights()[1][0])
    # The start of a voxel does not depend on the span in which it is trained.
    whole = LinearTraining([layout], np.arange(7), 7, 1e-2, 0, CPU, "fp32")
    assert torch.equal(whole.weights()[1][0][1:6], fresh(0).weights()[1][0])


def test_captions_are_predicted_as_from_the_store(ready: Ready) -> None:
    images = ready.store.images[:6]
    stored = predict_stored(ready.model, ready.store, images, CPU, MEMORY)
    through = captions.predict_captions(ready.model, [ready.captions[int(number)] for number in images], CPU)
    assert np.allclose(stored, through, rtol=1e-4, atol=1e-5)
    x = embedding(ready, ["a zebra"])[ready.model.spec.layers["last"]]
    expected = ready.model.weights.weights["last"] @ x + ready.model.weights.bias
    wanted = [predict.Wanted(caption="a zebra"), predict.Wanted(image_id=int(images[0]))]
    found = predict.predict(ready.model, wanted, ready.cache, None, CPU, MEMORY)
    assert np.allclose(found[0], expected.numpy(), rtol=1e-4, atol=1e-5)
    assert np.allclose(found[1], stored[0], rtol=1e-4, atol=1e-5)
    assert [image.name for image in wanted] == ["a zebra", int(images[0])]


def test_an_image_that_the_store_lacks_is_read_from_its_captions(ready: Ready) -> None:
    seen = set(ready.store.images.tolist())
    other = next(number for number in ready.captions if number not in seen)
    found = predict.predict(
        ready.model,
        [predict.Wanted(image_id=other)],
        ready.cache,
        ready.dataset.root,
        CPU,
        MEMORY,
        None,
        ready.captions_dir,
    )
    assert np.allclose(found, captions.predict_captions(ready.model, [ready.captions[other]], CPU), atol=1e-5)


def test_score(ready: Ready) -> None:
    scores = score.score(ready.model, ready.responses, ready.cache, None, CPU, MEMORY)
    assert np.isfinite(scores.r).all()


def test_pictures_and_captions_are_not_mixed_up(ready: Ready, tmp_path: Path) -> None:
    with pytest.raises(ChoiceError, match=r"reads captions.*--caption TEXT"):
        predict.predict(ready.model, [predict.Wanted(file=tmp_path)], ready.cache, None, CPU, MEMORY)
    with pytest.raises(ChoiceError, match="reads captions"):
        FullModel.rebuild(ready.model, CPU)  # what dream and attribute ask for
    with pytest.raises(ChoiceError, match="reads captions"):
        backbones.load("clip-text", "random")
    assert backbones.entry("clip-text").reads == "captions"


def test_other_weights_are_refused(ready: Ready) -> None:
    with pytest.raises(MismatchError, match="--weights FILE"):
        captions.rebuild(ready.model, CPU, "random:4")
    assert captions.tower_of(ready.model, CPU).digest == ready.backbone.digest
