"""Backbones of torchvision: AlexNet and VGG11, and any of its classification models by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from boldreams_cli.console import ChoiceError, meant
from boldreams_cli.features import weights as weight_files
from boldreams_cli.features.backbones.entry import IMAGENET_CLASSES, Entry, interpolation, same
from boldreams_cli.features.preprocessing import IMAGENET, Preprocessing

FEATURES = [f"features.{index}" for index in (2, 5, 7, 9, 12, 15, 17, 20)]


def _stages(name: str) -> Callable[[], nn.Sequential]:
    def build() -> nn.Sequential:
        sequence = nn.Sequential()
        sequence.add_module("features", _whole(name)().get_submodule("features"))
        return sequence

    return build


def _alexnet() -> nn.Sequential:
    """Without ever drawing random numbers for its classifier, which takes longer than to run it; those are the same."""
    with torch.device("meta"):
        sequence = _stages("alexnet")()
    for module in sequence.to_empty(device="cpu").modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return sequence


def _whole(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        more: dict[str, Any] = {}
        if name in ("googlenet", "inception_v3"):
            more["transform_input"] = True  # as with the published weights, which were trained on other means
        if name.startswith("vit_"):  # built for one size of image, that of its weights
            more["image_size"] = torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
        return torchvision.models.get_model(name, weights=None, **more)

    return build


def _pretrained(name: str) -> Callable[[], dict[str, Tensor]]:
    def read() -> dict[str, Tensor]:
        import torchvision

        return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)

    return read


ENTRIES = (
    Entry(
        name="alexnet",
        source="torchvision alexnet",
        layers=same(*FEATURES[:5]),
        filters=(64, 192, 384, 256, 256),
        preprocessing=Preprocessing(227, *IMAGENET),
        stages=_alexnet,
        pretrained=_pretrained("alexnet"),
        classifier=_whole("alexnet"),
        batch_size=32,
        dream={"steps": 1024, "rate": 5e-3, "scale": (1.0, 1.0)},
    ),
    Entry(
        name="vgg11",
        source="torchvision vgg11",
        layers=same(*FEATURES),
        filters=(64, 128, 256, 256, 512, 512, 512, 512),
        preprocessing=Preprocessing(224, *IMAGENET),
        stages=_stages("vgg11"),
        pretrained=_pretrained("vgg11"),
        classifier=_whole("vgg11"),
        batch_size=8,
        dream={"steps": 1200, "rate": 1e-2, "scale": (0.4, 0.9)},
    ),
)


@functools.cache
def named(name: str) -> Entry:
    """Any of torchvision's classification models.

    Raises
    ------
    ChoiceError
        If torchvision has no such model.
    """
    import torchvision

    from boldreams_cli.features.backbones import graph

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ChoiceError(
            f"torchvision has no model {name!r}{meant(name, known)}; torchvision.models.list_models() lists them "
            "(--backbone)"
        )
    published = torchvision.models.get_model_weights(name).DEFAULT
    preset = published.transforms()
    size = int(preset.crop_size[0])
    sketch = _sketch(name)
    shapes = graph.shapes_of(sketch, size)
    layers = graph.layers_of(shapes)

    def read(network: nn.Module, wanted: Sequence[str], pixels: Tensor) -> dict[str, Tensor]:
        given = network(pixels)
        return {layer: graph.to_maps(sketch, layer, given[layer]) for layer in wanted}

    return Entry(
        name=f"torchvision:{name}",
        source=f"torchvision {name}",
        layers=same(*layers),
        filters=tuple(shapes[layer][0] for layer in layers),
        shapes=tuple(shapes[layer][1:] for layer in layers),
        preprocessing=Preprocessing(
            size, tuple(preset.mean), tuple(preset.std), interpolation(preset.interpolation.value)
        ),
        stages=_whole(name),
        cut=graph.graph_of,
        pretrained=lambda: _downloaded(name),
        classifier=_whole(name) if len(published.meta["categories"]) == IMAGENET_CLASSES else None,
        batch_size=8,
        dream={"steps": round(1024 * size / 224), "rate": 1e-2, "scale": (0.5, 1.0)},
        read=read,
        other_layer=functools.cache(lambda layer: graph.a_node(sketch, f"torchvision:{name}", layer, size)),
        library=f"torchvision {torchvision.__version__}",
    )


def _sketch(name: str) -> nn.Module:
    """The network without weights, for its graph; RegNets compute with them while they are built."""
    try:
        with torch.device("meta"):
            return _whole(name)().eval()
    except (NotImplementedError, RuntimeError):
        return _whole(name)().eval()


def _downloaded(name: str) -> dict[str, Tensor]:
    import torchvision

    weight_files.check_reachable("", (), torchvision.models.get_model_weights(name).DEFAULT.url)
    return _pretrained(name)()
