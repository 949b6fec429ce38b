"""CLIP, both towers: texts and pictures as vectors of one space (paper, section 2.3)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boldreams_cli.console import BoldreamsError, ChoiceError, listing, progress
from boldreams_cli.features import weights as weight_files
from boldreams_cli.features.preprocessing import CLIP as COLOURS
from boldreams_cli.features.preprocessing import Preprocessing

DEFAULT = "RN50x4"
TEXTS_IN_A_PASS = 128


@dataclass(frozen=True)
class Clip:
    """A CLIP model with weights, in evaluation mode.

    Parameters
    ----------
    name : ``MODEL:TAG``, as open_clip knows them, e.g. ``RN50x4:openai``.
    model : the network, both towers.
    tokenizer : texts -> (texts, context) int64.
    preprocessing : of pictures.
    digest : SHA-256 of the weights in use.
    weights : what was asked for: ``pretrained``, ``random:SEED`` or a path.
    """

    name: str
    model: Any
    tokenizer: Callable[[list[str]], Tensor]
    preprocessing: Preprocessing
    digest: str
    weights: str

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def to(self, device: torch.device) -> Clip:
        """Move the model; returns itself."""
        self.model.to(device)
        return self

    def embed_texts(self, texts: Sequence[str], what: str = "embed texts") -> Tensor:
        """Embed texts as they are, without a template, as the paper does.

        Parameters
        ----------
        texts : n of them; those too long for the context are cut, as open_clip does.
        what : to call it while it goes on.

        Returns
        -------
        (n, D) float32 on the CPU, not normalised: the last layer's output.
        """
        tokens = self.tokenizer(list(texts))
        # Neighbours of like length, because a pass takes as long as its longest text.
        order = torch.argsort(_ends(tokens), stable=True)
        found: Tensor | None = None
        with torch.inference_mode(), progress(what, len(tokens), "texts") as shown:
            for chosen in order.split(TEXTS_IN_A_PASS):
                part = self.embed_tokens(tokens[chosen].to(self.device)).float().cpu()
                found = part.new_empty(len(tokens), part.shape[1]) if found is None else found
                found[chosen] = part
                shown.advance(len(chosen))
        assert found is not None
        return found

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Embed tokenised texts: (n, context) int64 -> (n, D), not normalised.

        Where the tower is causal, nothing behind a text's end can change its embedding, so the padding is
        left out: a word takes a tenth of the time.
        """
        mask, places = getattr(self.model, "attn_mask", None), getattr(self.model, "positional_embedding", None)
        if mask is None or places is None or getattr(self.model, "text_pool_type", None) != "argmax":
            return self.model.encode_text(tokens)
        length = int(_ends(tokens).max()) + 1
        shorter = copy.copy(self.model)  # the model itself is other threads' as well
        vars(shorter).update(positional_embedding=places[:length], attn_mask=mask[:length, :length])
        return shorter.encode_text(tokens[:, :length])

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Embed pictures: (n, 3, H, W) in [0, 1] -> (n, D) float32 on the CPU, not normalised.

        Those of another size are brought to CLIP's in 8 bits, as its own transform does: there bicubic, which
        overshoots at edges, ends at black and white.
        """
        size = (self.preprocessing.size, self.preprocessing.size)
        if pixels.shape[-2:] != size:
            bytes_ = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
            pixels = self.preprocessing.resize(bytes_.permute(0, 2, 3, 1)).float() / 255
        with torch.inference_mode():
            return self.model.encode_image(self.preprocessing.normalise(pixels.to(self.device))).float().cpu()


def _ends(tokens: Tensor) -> Tensor:
    """(n,) place of the last token that is no padding (open_clip pads with 0)."""
    return (tokens != 0).long().mul(torch.arange(tokens.shape[1], device=tokens.device)).amax(1)


def load(name: str = DEFAULT, weights: str = "pretrained", seed: int = 0, instead: str = "") -> Clip:
    """Build a CLIP model with weights, on the CPU.

    Parameters
    ----------
    name : ``MODEL`` or ``MODEL:TAG`` as open_clip knows them; the tag is ``openai`` where there is such, else
        the model's first.
    weights : ``pretrained``, ``random``, or the path of a state dict or safetensors file.
    seed : of random weights.
    instead : what else the user can do without weights, for the error.

    Raises
    ------
    ChoiceError
        If open_clip knows no such model or tag.
    BoldreamsError
        If the weights cannot be had or do not fit.
    """
    import open_clip

    model_name, tag = _resolve(name)
    weights, seed = weight_files.asked(weights, seed)
    settings = open_clip.pretrained.get_pretrained_cfg(model_name, tag) if tag else {}
    state, said = weight_files.find(
        f"CLIP {model_name}",
        tag or "it has no published ones",
        lambda: weight_files.read(weight_files.fetch_open_clip(model_name, tag)),
        weights,
        seed,
        instead,
    )
    with torch.random.fork_rng(devices=[]), weight_files.quiet_root():
        torch.manual_seed(seed)
        model = open_clip.create_model(
            model_name, force_quick_gelu=bool(settings.get("quick_gelu")), pretrained_text=False
        )
    used = _embedding_state(model)
    if state is not None:
        model.load_state_dict(weight_files.match(used, _converted(model, state), said), strict=False)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    own = open_clip.get_model_preprocess_cfg(model) | settings
    size = model.visual.image_size
    return Clip(
        name=f"{model_name}:{tag}" if tag else model_name,
        model=model.eval(),
        tokenizer=_tokenizer(model_name),
        preprocessing=Preprocessing(
            size if isinstance(size, int) else int(size[0]),
            _three(own.get("mean", COLOURS[0])),
            _three(own.get("std", COLOURS[1])),
            own.get("interpolation", "bicubic"),
        ),
        digest=weight_files.digest(_embedding_state(model)),
        weights=said,
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _resolve(name: str) -> tuple[str, str]:
    """Split ``MODEL[:TAG]``; the tag is empty for a model without published weights."""
    import open_clip

    model, _, tag = name.partition(":")
    known = open_clip.list_models()
    if model not in known:
        close = [item for item in known if item.casefold().startswith(model.casefold()[:2])]
        raise ChoiceError(f"open_clip knows no CLIP {model!r}; choose from {listing(close or known, 20)} (--clip)")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag and tag not in tags:
        raise ChoiceError(f"{model} has no weights {tag!r}; choose from {listing(tags, 20)} (--clip {model}:TAG)")
    return model, tag or ("openai" if "openai" in tags else tags[0] if tags else "")


def _embedding_state(model: nn.Module) -> dict[str, Tensor]:
    """The state without the training's scale and bias of logits, which decide no embedding."""
    return {key: value for key, value in model.state_dict().items() if not key.startswith("logit_")}


def _converted(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring other publishers' names under open_clip's."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    return state


def _tokenizer(model: str) -> Callable[[list[str]], Tensor]:
    import open_clip

    try:
        with weight_files.quiet_root():
            return open_clip.get_tokenizer(model)
    except (OSError, ImportError, RuntimeError, ValueError) as error:
        raise BoldreamsError(
            f"cannot get the tokenizer of CLIP {model}: {str(error).splitlines()[0]}; fetch it once where there is "
            f"internet, or use --clip {DEFAULT}, whose tokenizer comes with open_clip"
        ) from error
