"""The text model: captions in, betas out (paper, section 2.3). It has no pixels, so no dreams and no attribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import MismatchError, progress
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features import text
from boldreams_cli.features.clip import Clip

CAPTIONS_IN_A_PASS = 32


def rebuild(model: FittedModel, device: torch.device, weights: str | None = None) -> FullModel:
    """Build the full model of a text model, on `device`.

    Parameters
    ----------
    model : fitted to the store of a text backbone.
    device : to put it on.
    weights : of CLIP, where they are not at the place that the spec names.

    Raises
    ------
    MismatchError
        If the weights there are others than those the model was fitted to.
    """
    source = weights or model.spec.backbone_weights["source"]
    backbone = text.load(model.spec.preprocessing["clip"], source)
    if backbone.digest != model.spec.backbone_weights["digest"]:
        raise MismatchError(
            f"the weights {source} of {backbone.tower.name} are not those that {model.folder} was fitted to; "
            "give the right file with --weights FILE, or extract and fit again"
        )
    return FullModel(model, backbone).eval().to(device)


def tower_of(model: FittedModel, device: torch.device, weights: str | None = None) -> Clip:
    """CLIP as the model reads it, on `device`; raises as `rebuild`."""
    backbone = rebuild(model, device, weights).backbone
    assert isinstance(backbone, text.TextBackbone)
    return backbone.tower


def predict_captions(
    model: FittedModel, captions: Sequence[Sequence[str]], device: torch.device, weights: str | None = None
) -> NDArray[np.float32]:
    """Predict betas from the captions of images.

    Parameters
    ----------
    model : fitted to the store of a text backbone.
    captions : of each image, up to five; their embeddings are averaged.
    device : to compute on.
    weights : as in `rebuild`.

    Returns
    -------
    (images, voxels); NaN for voxels excluded from the fit.
    """
    full = rebuild(model, device, weights)
    backbone = full.backbone
    assert isinstance(backbone, text.TextBackbone)
    parts = []
    with torch.inference_mode(), progress("predict", len(captions), "images") as shown:
        for start in range(0, len(captions), CAPTIONS_IN_A_PASS):
            block = captions[start : start + CAPTIONS_IN_A_PASS]
            parts.append(full.predict_images(torch.from_numpy(backbone.tokens(block))).cpu().numpy())
            shown.advance(len(block))
    return np.concatenate(parts)
