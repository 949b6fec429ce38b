"""Predictions as products: what they are called, what decides them, the .npz that they are (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.console import StopFlag, logger
from boldreams_cli.data.opening import label_of
from boldreams_cli.encoding.evaluation.predict import Wanted
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.files import digest, fingerprint, write_npz
from boldreams_cli.interpret.products import (
    Description,
    Product,
    of_model,
    said_of_model,
    spelled,
    versions_that_matter,
)

SUFFIX = ".npz"


def product_of(
    model: FittedModel,
    images: Sequence[Wanted],
    asked: Sequence[str],
    file: Path | None,
    device: torch.device,
    captions_dir: Path | None,
    stimuli: str | None,
) -> Product:
    """Where predictions are kept, and under which key.

    Parameters
    ----------
    model : fitted.
    images : to predict.
    asked : what the user called them; they name the file where the user names none.
    file : to write; ``.npz`` is appended to a name without it.
    device : that they are computed on.
    captions_dir : of COCO's captions files, for text models.
    stimuli : hash of what identifies the images that ids mean; None where they mean the same for all subjects.
    """
    identity = [_identity(image) for image in images]
    decides = {
        **of_model(model),
        "store": model.spec.store,
        "images": fingerprint(identity),
        "captions": str(captions_dir.resolve()) if captions_dir is not None else None,
        "device": device.type,
        "versions": versions_that_matter(),
    }
    if stimuli is not None and any(image.image_id is not None for image in images):
        decides["stimuli"] = stimuli  # an id of a data file that was rewritten may mean another image
    chosen = file is not None
    file = file or model.folder / "predictions" / f"{_name(asked, images, identity)}{SUFFIX}"
    stem, files = file.name.removesuffix(SUFFIX), (f"{{stem}}{SUFFIX}",)
    return Product("prediction", file.parent, stem, files, decides, chosen=chosen, home=model.folder)


def _identity(image: Wanted) -> Any:
    if image.image_id is not None:
        return image.image_id
    return ["file", digest(image.file)] if image.file is not None else ["caption", image.caption]


def _name(asked: Sequence[str], images: Sequence[Wanted], identity: list[Any]) -> str:
    if len(asked) > 1:
        return spelled(f"{len(images)}-images", fingerprint(identity)[:6])
    (only,) = asked
    if only.isdecimal():
        return f"image-{int(only):05d}"
    return spelled(only if images[0].caption is not None else Path(only).expanduser().resolve().stem)


def keep(
    product: Product,
    model: FittedModel,
    images: Sequence[Wanted],
    predict: Callable[[], NDArray[np.float32]],
    overwrite: bool = False,
    data_root: Path | None = None,
) -> Description:
    """Predict and write, unless it is done.

    Parameters
    ----------
    product : from `product_of`.
    model, images : that it is of.
    predict : gives (images, voxels).
    overwrite : whether to predict again, and to replace other predictions in a file that the user named.
    data_root : of the data set, which may have names for its images.

    Returns
    -------
    The JSON object of ``predict``; the file holds ``betas`` (images, voxels), ``images`` (images,) image ids, -1 where
    there is none, ``names`` (images,) text, ``voxels`` (voxels, 3).

    Raises
    ------
    ChoiceError
        If the file that the user named is not of these predictions.
    """
    names = [image.name for image in images]

    def make(folder: Path, stem: str) -> Description:
        betas = predict()
        write_npz(
            folder / f"{stem}{SUFFIX}",
            betas=betas,
            images=np.array([-1 if image.image_id is None else image.image_id for image in images], np.int32),
            names=np.array([str(i.name) if i.image_id is None else label_of(data_root, i.image_id) for i in images]),
            voxels=model.weights.voxels,
        )
        return said_of_model(model) | {"images": names, "voxels": betas.shape[1]}

    with product.held(StopFlag()):
        found = None if overwrite else product.found()
        if found is not None:
            logger.info("%s: done before, with all of the same settings (--overwrite does it again)", found["files"][0])
        else:
            product.place(overwrite)
            found = product.write(make, overwrite)
    shown = ("subject", "backbone", "percent", "readout", "recipe", "finetuned", "voxels")
    return {"model": str(model.folder), "images": names, "file": str(found["files"][0])} | {n: found[n] for n in shown}
