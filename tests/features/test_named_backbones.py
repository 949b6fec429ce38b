"""Backbones by a library's name: layers, maps, preprocessing, and every architecture of timm and torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.features import backbones
from boldreams_cli.features import weights as weight_files
from boldreams_cli.features.backbones.modules import declared_format, default_layers, filters_first, tokens_to_maps
from boldreams_cli.features.preprocessing import IMAGENET, Preprocessing
from boldreams_cli.features.store.feature_store import folder_name

from ..conftest import Run


def pixels(name: str, count: int = 2) -> torch.Tensor:
    size = backbones.entry(name).preprocessing.size
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "swin_s3_tiny_224"])
def test_stages_are_timms_own_features(name: str) -> None:
    """Whatever form the library gives them in: Swin's have their filters last."""
    import timm

    backbone = backbones.load(f"timm:{name}", "random")
    images = pixels(f"timm:{name}")
    with torch.inference_mode():
        found = backbone(images)
        plain = timm.create_model(name, features_only=True).eval()
        whole = timm.create_model(name).eval()
        whole.load_state_dict(backbones.load(f"timm:{name}", "random", trainable=True).network.state_dict())
        normal = backbone.entry.preprocessing.normalise(images)
        given = whole.forward_intermediates(normal, intermediates_only=True, output_fmt="NCHW")
    assert len(plain.feature_info) >= len(found)
    assert [tuple(value.shape[1:]) for value in found.values()] == [
        (filters, *shape) for filters, shape in zip(backbone.entry.filters, backbone.entry.shapes, strict=True)
    ]
    for value, expected in zip(list(found.values())[::-1], given[::-1], strict=False):
        assert_close(value, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_blocks_of_a_vision_transformer_and_its_class_token() -> None:
    name = "timm:test_vit"
    backbone = backbones.load(name, "random")
    normal = backbone.entry.preprocessing.normalise(pixels(name))
    with torch.inference_mode():
        found = backbone(pixels(name))
        given = backbone.network.forward_intermediates(
            normal, indices=[1, 2, 3, 5], intermediates_only=True, return_prefix_tokens=True, norm=False
        )
    assert list(found) == ["blocks.1", "blocks.2", "blocks.3", "blocks.5", "blocks.5.tokens"]
    for value, (maps, _) in zip(found.values(), given, strict=False):
        assert_close(value, maps)
    assert_close(found["blocks.5.tokens"][:, :, 0, 0], given[-1][1][:, 0])


def test_any_module_can_be_named_and_one_that_gives_no_maps_is_refused() -> None:
    found = backbones.load("timm:test_resnet", "random", layers=["layer2", "layer1.0.conv1"])
    with torch.inference_mode():
        maps = found(pixels("timm:test_resnet"))
    assert set(maps) == {"layer2", "layer1.0.conv1"}
    with pytest.raises(ChoiceError, match="no module 'layer9'"):
        backbones.load("timm:test_resnet", "random", layers=["layer9"])
    for name, layer in [
        ("timm:test_vit", "blocks.0.mlp"),
        ("timm:vit_tiny_patch16_224", "norm"),
        ("torchvision:resnet18", "flatten"),
    ]:
        with pytest.raises(ChoiceError, match=f"{layer} gives no maps"):
            backbones.load(name, "random", layers=[layer])


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("timm:tf_efficientnet_lite0", ["bn2.act", "blocks.6", "blocks.0.0.bn1.act"]),
        ("timm:swin_tiny_patch4_window7_224", ["layers.0", "norm"]),
        ("open_clip:RN50", ["layer1", "layer3.0.conv1"]),
        ("open_clip:convnext_base", ["trunk.stages.0", "trunk.stages.1.blocks.0.conv_dw"]),
    ],
)
def test_modules_behind_the_last_stage_that_is_asked_for_are_run_too(name: str, layers: list[str]) -> None:
    chosen = backbones.entry(name)
    named = [chosen.layer(layer) for layer in layers]
    backbone = backbones.load(name, "random", layers=layers)
    with torch.inference_mode():
        maps = backbone(pixels(name, 1))
    assert set(maps) == set(named) == set(layers)
    assert all(value.shape[2] == value.shape[3] for value in maps.values())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("timm:mobilenetv3_small_050", "conv_head"),
        ("timm:resnet18", "global_pool"),
        ("open_clip:ViT-B-32", "transformer.resblocks"),
    ],
)
def test_a_module_that_is_not_run_is_refused_when_it_is_named(name: str, layer: str) -> None:
    with pytest.raises(ChoiceError, match=f"{layer} is not run .*--layers"):
        backbones.load(name, "random", layers=[layer])


def plain(name: str, path: Path) -> torch.nn.Module:
    """A library's own network, whose batch norms are no identities; its weights are saved at `path`."""
    import timm
    import torchvision

    library, _, model = name.partition(":")
    torch.manual_seed(4)
    if library == "timm":
        network = timm.create_model(model).eval()
    else:
        more = {"transform_input": True} if model in ("googlenet", "inception_v3") else {}
        network = torchvision.models.get_model(model, weights=None, **more).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -1, 1)
    torch.save(network.state_dict(), path)
    return network


def kept(network: torch.nn.Module, layer: str, images: torch.Tensor) -> torch.Tensor:
    """What a module gives before anything overwrites it."""
    found = []
    with torch.inference_mode(), network.get_submodule(layer).register_forward_hook(lambda *a: found.append(a[2] + 0)):
        network(images)
    return found[0]


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(
    ("name", "layer"),
    [("timm:test_resnet", "layer1.0.bn2"), ("timm:dla34", "level2.tree1.bn2"), ("torchvision:googlenet", "conv1.bn")],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_kept_map_is_not_overwritten_in_place(name: str, layer: str, trainable: bool, tmp_path: Path) -> None:
    """By functions, such as `x += shortcut`, as by modules."""
    network = plain(name, tmp_path / "weights.pt")
    backbone = backbones.load(name, str(tmp_path / "weights.pt"), layers=[layer], trainable=trainable)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = kept(network, layer, backbone.entry.preprocessing.normalise(images))
    with torch.inference_mode():
        found = backbone(images)[layer]
    assert float(expected.min()) < 0
    assert_close(found.contiguous(), expected.contiguous(), rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "layer", "last"),
    [
        ("timm:swin_tiny_patch4_window7_224", "layers.2.blocks.5", True),
        ("timm:swin_tiny_patch4_window7_224", "patch_embed.proj", False),
        ("timm:maxvit_rmlp_pico_rw_256", "stages.1.blocks.0.attn_grid", True),
        ("timm:maxvit_rmlp_pico_rw_256", "stages.1.blocks.0.conv", False),
        ("torchvision:swin_t", "features.1.1", True),
        ("torchvision:swin_t", "features.0.0", False),
    ],
)
def test_maps_have_their_filters_first(name: str, layer: str, last: bool, tmp_path: Path) -> None:
    """Whichever way a module lays them out: networks with filters last begin with convolutions."""
    network = plain(name, tmp_path / "weights.pt")
    node = "features.1.1.add_1" if layer == "features.1.1" else layer  # as the graph calls a block's last sum
    backbone = backbones.load(name, str(tmp_path / "weights.pt"), layers=[node], trainable=True)
    images = pixels(name, 1)
    expected = kept(network, layer, backbone.entry.preprocessing.normalise(images))
    with torch.inference_mode():
        found = backbone(images)[node]
    assert found.shape[2] == found.shape[3] != found.shape[1]
    assert_close(found, expected.permute(0, 3, 1, 2) if last else expected, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_told_by_shape_is_as_the_network_says_or_refused() -> None:
    import timm

    value = torch.rand(2, 8, 8, 8)
    assert_close(filters_first(value, "a", declared_format(timm.create_model("test_resnet"))), value)
    assert_close(filters_first(value, "a", "NHWC"), value.permute(0, 3, 1, 2))
    with pytest.raises(ChoiceError, match=r"a gives \(8, 8, 8\)"):
        filters_first(value, "a", declared_format(timm.create_model("test_vit")))
    with pytest.raises(ChoiceError, match="--layers"):
        filters_first(value[:, :4, :6], "a", "")


def test_rectified_maps_are_the_positive_part() -> None:
    plain = backbones.load("timm:test_convnext", "random")
    rectified = backbones.load("timm:test_convnext", "random", rectified=True)
    with torch.inference_mode():
        signed, positive = plain(pixels("timm:test_convnext")), rectified(pixels("timm:test_convnext"))
    for name, value in signed.items():
        assert float(value.min()) < 0
        assert_close(positive[name], value.clamp(min=0))
    assert rectified.reading()["map"] == "rectified"
    assert "map" not in plain.reading()


def test_a_file_of_weights_is_matched_by_name_and_digests_alike(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(3)
    whole = timm.create_model("test_resnet")
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    found = backbones.load("timm:test_resnet", str(tmp_path / "weights.pt"))
    again = backbones.load("timm:test_resnet", str(tmp_path / "weights.pt"), trainable=True)
    assert found.digest == again.digest
    assert_close(again.network.state_dict()["conv1.0.weight"], whole.state_dict()["conv1.0.weight"])


@pytest.mark.parametrize(("name", "head"), [("test_resnet", "fc"), ("test_vit", "head"), ("test_convnext", "head.fc")])
def test_a_file_of_other_classes_or_of_none_gives_the_same_maps(name: str, head: str, tmp_path: Path) -> None:
    import timm

    torch.manual_seed(3)
    whole = timm.create_model(name).state_dict()
    trunk = {key: value for key, value in whole.items() if not key.startswith(f"{head}.")}
    ten = {key: value[:10] for key, value in whole.items() if key not in trunk}
    assert len(ten) == 2
    found = {}
    for kind, state in {"whole": whole, "ten": trunk | ten, "none": trunk}.items():
        torch.save(state, tmp_path / f"{kind}.pt")
        found[kind] = backbones.load(f"timm:{name}", str(tmp_path / f"{kind}.pt"), seed=len(found))
    assert found["whole"].digest == weight_files.digest(whole), "as in the stores that there are"
    assert found["ten"].digest == found["none"].digest != found["whole"].digest
    with torch.inference_mode():
        maps = {kind: backbone(pixels(f"timm:{name}")) for kind, backbone in found.items()}
    for layer, expected in maps["whole"].items():
        assert_close(maps["ten"][layer], expected, rtol=0, atol=0)
        assert_close(maps["none"][layer], expected, rtol=0, atol=0)
    del trunk[next(iter(trunk))]
    torch.save(trunk, tmp_path / "short.pt")
    with pytest.raises(BoldreamsError, match="lack 1 tensors that are needed"):
        backbones.load(f"timm:{name}", str(tmp_path / "short.pt"))


def test_a_networks_own_whole_numbers_are_no_quantised_weights(tmp_path: Path) -> None:
    """Swin keeps the indices of its relative positions among its weights."""
    network = backbones.load("torchvision:swin_t", "random:1", trainable=True)
    state = {key: value.clone() for key, value in network.network.state_dict().items()}
    assert not all(value.is_floating_point() for value in state.values())
    torch.save(state, tmp_path / "weights.pt")
    assert backbones.load("torchvision:swin_t", str(tmp_path / "weights.pt")).digest == network.digest
    torch.save({key: value.long() for key, value in state.items()}, tmp_path / "whole.pt")
    with pytest.raises(BoldreamsError, match="whole numbers"):
        backbones.load("torchvision:swin_t", str(tmp_path / "whole.pt"))


def test_preprocessing_is_the_models_own_and_old_stores_keep_their_fingerprint() -> None:
    vit = backbones.entry("timm:test_vit").preprocessing
    assert (vit.size, vit.mean, vit.interpolation) == (160, (0.5, 0.5, 0.5), "bicubic")
    assert backbones.entry("open_clip:ViT-B-32/openai").preprocessing.interpolation == "bicubic"
    assert Preprocessing(227, *IMAGENET).to_dict() == {
        "size": 227,
        "mean": IMAGENET[0],
        "std": IMAGENET[1],
        "resize": "bilinear, antialias, uint8",
    }


def test_oblong_images_are_cropped_to_their_middle_and_not_squashed() -> None:
    image = np.zeros((1, 40, 80, 3), np.uint8)
    image[:, :, 20:60] = 200
    resized = Preprocessing(20, *IMAGENET).resize(torch.from_numpy(image))
    assert resized.shape == (1, 3, 20, 20)
    assert (resized == 200).all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet19", "timm has no model 'resnet19'"),
        ("torchvision:resnet19", "torchvision has no model 'resnet19'"),
        ("open_clip:ViT-B-33", "open_clip has no model 'ViT-B-33'"),
        ("open_clip:ViT-B-32/nobody", "no weights 'nobody' of ViT-B-32"),
        ("torchhub:x", "timm:NAME"),
    ],
)
def test_unknown_names_are_refused_with_what_there_is(name: str, said: str) -> None:
    with pytest.raises(ChoiceError, match=said):
        backbones.entry(name)


def test_weights_that_cannot_be_had_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "_reachable", lambda _: False)  # nor does a library have them already
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(BoldreamsError, match="--weights FILE"):
        backbones.load("timm:test_vit.r160_in1k", "pretrained")
    with pytest.raises(BoldreamsError, match="open_clip:MODEL/TAG"):
        backbones.load("open_clip:RN50", "pretrained")


def test_layers_are_one_a_resolution_or_four_blocks() -> None:
    assert default_layers({"a": (8, 56, 56), "b": (8, 56, 56), "c": (8, 28, 28), "d": (8, 14, 14)}) == ["b", "c", "d"]
    assert default_layers({f"{n}": (8, 14, 14) for n in range(12)}) == ["2", "5", "8", "11"]
    assert default_layers({"a": (8, 14, 14)}) == ["a"]
    with pytest.raises(ChoiceError, match="no square"):
        tokens_to_maps(torch.zeros(1, 6, 3), 1)


def test_names_become_parts_of_paths() -> None:
    assert folder_name("open_clip:ViT-B-32/openai") == "open_clip-ViT-B-32-openai"
    assert folder_name("alexnet") == "alexnet"


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32", "swin_t", "regnet_y_400mf"])
def test_torchvisions_models_give_layers(name: str) -> None:
    chosen = backbones.entry(f"torchvision:{name}")
    assert len(chosen.layers) >= 3
    sizes = [height for height, _ in chosen.shapes]
    assert sizes == sorted(sizes, reverse=True)
    backbone = backbones.load(f"torchvision:{name}", "random")
    with torch.inference_mode():
        maps = backbone(pixels(f"torchvision:{name}", 1))
    shapes = [(f, *s) for f, s in zip(chosen.filters, chosen.shapes, strict=True)]
    assert [tuple(value.shape[1:]) for value in maps.values()] == shapes


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_the_image_itself_is_no_layer(name: str) -> None:
    """Both rescale its colours and join them again, as they do the branches of their blocks."""
    chosen = backbones.entry(f"torchvision:{name}")
    assert min(chosen.filters) > 3
    assert max(height for height, _ in chosen.shapes) < chosen.preprocessing.size


SWIN = pytest.param("timm:swin_s3_tiny_224", marks=pytest.mark.architectures)  # there is no small one


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_convnext", "timm:test_vit", SWIN])
def test_from_extract_to_dream(name: str, run: Run, tmp_path: Path) -> None:
    cache = {"BOLDREAMS_CACHE": tmp_path}
    stored = run("extract", "--backbone", name, "--weights", "random", "--subject", 1, "--json", **cache).json
    assert folder_name(name) in stored["store"]
    fitted = run("fit", "--backbone", name, "--subject", 1, "--readout", "ridge", "--grid", 2, "--json", **cache).json
    scores = run("score", "--json", **cache).json
    assert scores["backbone"] == name
    assert np.isfinite(scores["r_mean"])
    dreamt = run(
        *("dream", "--roi", "V1", "--steps", 2, "--count", 1, "--model", fitted["model"], "--json"), **cache
    ).json
    assert Path(dreamt["images"][0]).is_file()
    image = run("predict", "--image", "test", "--json", **cache).json
    assert Path(image["file"]).is_file()
