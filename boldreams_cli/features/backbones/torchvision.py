"""Backbones of torchvision: AlexNet and VGG11."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from boldreams_cli.features.backbones.entry import Entry, same
from boldreams_cli.features.preprocessing import IMAGENET, Preprocessing

FEATURES = [f"features.{index}" for index in (2, 5, 7, 9, 12, 15, 17, 20)]


def _stages(name: str) -> Callable[[], nn.Sequential]:
    def build() -> nn.Sequential:
        sequence = nn.Sequential()
        sequence.add_module("features", _whole(name)().get_submodule("features"))
        return sequence

    return build


def _whole(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None)

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
        stages=_stages("alexnet"),
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
