"""Backbones of open_clip: CLIP's RN50x4, image tower and text tower."""

from __future__ import annotations

from torch import Tensor, nn

from boldreams_cli.features import weights as weight_files
from boldreams_cli.features.backbones.entry import Entry, children_of, same
from boldreams_cli.features.preprocessing import CLIP, Preprocessing

BLOCKS = [f"layer{stage}.{block}" for stage, block in ((1, 3), (2, 5), (3, 9), (4, 5))]


def _rn50x4_stages() -> nn.Sequential:
    from open_clip.modified_resnet import ModifiedResNet

    tower = ModifiedResNet(layers=[4, 6, 10, 6], output_dim=640, heads=40, image_size=288, width=80)
    return children_of(tower, without=("attnpool",))


def _rn50x4_pretrained() -> dict[str, Tensor]:
    return weight_files.read(weight_files.fetch_open_clip("RN50x4", "openai"))


def _no_stages() -> nn.Sequential:
    raise NotImplementedError("a text tower is built by features.text")


def _no_weights() -> dict[str, Tensor]:
    raise NotImplementedError("a text tower's weights are found by features.clip")


ENTRIES = (
    Entry(
        name="rn50x4",
        source="open_clip RN50x4 (openai), image tower",
        # The paper's table has the names of OpenAI's own code, where open_clip says act3.
        layers={f"{block}.relu3": f"{block}.act3" for block in BLOCKS},
        filters=(320, 640, 1280, 2560),
        preprocessing=Preprocessing(288, *CLIP),
        stages=_rn50x4_stages,
        pretrained=_rn50x4_pretrained,
        batch_size=8,
        dream={"steps": 1500, "rate": 1e-2, "scale": (0.4, 0.8)},
    ),
    Entry(
        name="clip-text",
        source="open_clip RN50x4 (openai), text tower",
        layers=same("last"),
        filters=(640,),
        preprocessing=Preprocessing(288, *CLIP),  # of the image tower, which is not used
        stages=_no_stages,
        pretrained=_no_weights,
        batch_size=32,
        dream={},
        reads="captions",
    ),
)
