"""Backbones of open_clip: CLIP's RN50x4, image tower and text tower, and the image tower of any model by name."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Never

import torch
from torch import Tensor, nn

from boldreams_cli.console import ChoiceError, listing, meant
from boldreams_cli.features import weights as weight_files
from boldreams_cli.features.backbones.entry import Entry, children_of, interpolation, same
from boldreams_cli.features.backbones.modules import a_module, default_layers, joined_prefix, outputs
from boldreams_cli.features.preprocessing import CLIP, Preprocessing

TOKENS = ".tokens"  # behind a block's name: its class token
BLOCKS = [f"layer{stage}.{block}" for stage, block in ((1, 3), (2, 5), (3, 9), (4, 5))]


def _rn50x4_stages() -> nn.Sequential:
    from open_clip.modified_resnet import ModifiedResNet

    tower = ModifiedResNet(layers=[4, 6, 10, 6], output_dim=640, heads=40, image_size=288, width=80)
    return children_of(tower, without=("attnpool",))


def _rn50x4_pretrained() -> dict[str, Tensor]:
    return weight_files.read(weight_files.fetch_open_clip("RN50x4", "openai"))


def _no_pixels() -> Never:
    raise ChoiceError("clip-text reads captions and has no pixels to look at; choose another --backbone")


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
        stages=_no_pixels,
        pretrained=_no_pixels,
        batch_size=32,
        dream={},
        reads="captions",
    ),
)


@functools.cache
def named(name: str) -> Entry:
    """The image tower of any of open_clip's models, ``MODEL/TAG``; without a tag its weights are random or a file's.

    Raises
    ------
    ChoiceError
        If open_clip has no such model, or no such weights of it.
    """
    import open_clip

    model, _, tag = name.partition("/")
    if model not in open_clip.list_models():
        near = meant(model, open_clip.list_models())
        raise ChoiceError(f"open_clip has no model {model!r}{near}; open_clip.list_models() lists them (--backbone)")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag and tag not in tags:
        raise ChoiceError(f"open_clip has no weights {tag!r} of {model}; there: {listing(tags)} (--backbone)")
    config = open_clip.get_model_config(model)
    published = open_clip.pretrained.get_pretrained_cfg(model, tag) if tag else {}
    config["quick_gelu"] = published.get("quick_gelu", config.get("quick_gelu", False))
    with torch.device("meta"):
        sketch = _tower(config)
    own = {"mean": CLIP[0], "std": CLIP[1], "interpolation": "bicubic"} | published
    size = _side(getattr(sketch, "image_size", config["vision_cfg"].get("image_size", 224)))
    preprocessing = Preprocessing(size, tuple(own["mean"]), tuple(own["std"]), interpolation(own["interpolation"]))
    with torch.no_grad():
        pixels = torch.zeros(1, 3, size, size, device="meta")
        maps = _Maps.of(sketch, pixels)
        shapes = {key: _shape(value) for key, value in maps(sketch, maps.names, pixels).items()}
        layers = default_layers(shapes)
        if maps.has_prefix:
            shapes |= {key: _shape(value) for key, value in maps(sketch, [layers[-1] + TOKENS], pixels).items()}
            layers.append(layers[-1] + TOKENS)
    return Entry(
        name=f"open_clip:{name}",
        source=f"open_clip {name}, image tower",
        layers=same(*layers),
        filters=tuple(shapes[layer][0] for layer in layers),
        shapes=tuple(shapes[layer][1:] for layer in layers),
        preprocessing=preprocessing,
        stages=lambda: _tower(config),
        pretrained=lambda: _published(model, tag),
        batch_size=8,
        dream={"steps": round(1024 * size / 224), "rate": 1e-2, "scale": (0.4, 0.8)},
        read=maps,
        other_layer=functools.cache(lambda layer: maps.other(sketch, f"open_clip:{name}", layer, pixels)),
        library=f"open_clip {open_clip.__version__}",
    )


def _tower(config: dict[str, Any]) -> nn.Module:
    """The image tower alone; open_clip's own factory makes both towers, with weights."""
    from open_clip.model import _build_vision_tower

    tower: nn.Module = _build_vision_tower(config["embed_dim"], config["vision_cfg"], config["quick_gelu"])
    return tower.eval()


def _side(size: int | Sequence[int]) -> int:
    return int(size) if isinstance(size, int) else int(size[0])


def _shape(maps: Tensor) -> tuple[int, int, int]:
    return (maps.shape[1], maps.shape[2], maps.shape[3])


def _published(model: str, tag: str) -> dict[str, Tensor]:
    if not tag:
        raise ValueError("none was named: write open_clip:MODEL/TAG")
    return weight_files.read(weight_files.fetch_open_clip(model, tag))


@dataclass(frozen=True)
class _Maps:
    """Reads maps by open_clip's own ``forward_intermediates``.

    Parameters
    ----------
    names : of what it gives, in order.
    has_prefix : whether class tokens can be had as well.
    """

    names: tuple[str, ...]
    has_prefix: bool

    @classmethod
    def of(cls, tower: nn.Module, pixels: Tensor) -> _Maps:
        given = _given(tower, pixels, None)
        count = len(given["image_intermediates"])
        kind = type(tower).__name__
        if kind == "VisionTransformer":
            names = [f"transformer.resblocks.{index}" for index in range(count)]
        elif kind == "ModifiedResNet":
            names = ["avgpool", "layer1", "layer2", "layer3", "layer4"]
        else:
            names = [f"trunk.{info['module']}" for info in tower.trunk.feature_info][:count]  # type: ignore[union-attr]
        return cls(tuple(names), bool(given.get("image_intermediates_prefix")))

    def other(self, sketch: nn.Module, backbone: str, layer: str, pixels: Tensor) -> str:
        """A stage, a block, its tokens, or any module that gives maps of some pixels."""
        block = layer.removesuffix(TOKENS)
        if block in self.names and (block == layer or self.has_prefix):
            return layer
        a_module(sketch, backbone, layer, self.names)
        with torch.no_grad():
            self(sketch, [layer], pixels)
        return layer

    def __call__(self, tower: nn.Module, layers: Sequence[str], pixels: Tensor) -> dict[str, Tensor]:
        blocks = {layer: layer.removesuffix(TOKENS) for layer in layers if layer.removesuffix(TOKENS) in self.names}
        others = [layer for layer in layers if layer not in blocks]
        # Other modules may lie anywhere: all of the tower is run for them.
        end = [len(self.names) - 1] if others else []
        indices = sorted({self.names.index(block) for block in blocks.values()} | set(end))
        with outputs(tower, others) as found:
            given = _given(tower, pixels, indices, whole=bool(others))
        place = {self.names[index]: number for number, index in enumerate(indices)}
        for layer, block in blocks.items():
            if layer == block:
                found[layer] = given["image_intermediates"][place[block]]
            else:
                found[layer] = joined_prefix([given["image_intermediates_prefix"][place[block]]])
        return {layer: found[layer] for layer in layers}


def _given(tower: nn.Module, pixels: Tensor, indices: list[int] | None, whole: bool = False) -> dict[str, list[Tensor]]:
    tokens = type(tower).__name__ == "VisionTransformer"  # of towers that timm made not all can give them
    given: dict[str, list[Tensor]] = tower.forward_intermediates(  # type: ignore[operator]
        pixels, indices=indices, intermediates_only=not whole, output_fmt="NCHW", output_extra_tokens=tokens
    )
    return given
