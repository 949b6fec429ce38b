"""The mean spectrum of the user's own stimuli, which `maco` keeps (cache/README.md, "spectra")."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from boldreams_cli.console import BoldreamsError, StopFlag, logger, progress
from boldreams_cli.data.dataset import Dataset
from boldreams_cli.data.opening import open_dataset
from boldreams_cli.data.responses import Responses
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features.preprocessing import square
from boldreams_cli.files import DAMAGED_NPZ, fingerprint, saving_work, write_npz
from boldreams_cli.interpret.dreams.ascent.parameterization import Spectrum, fast_side, measure_spectrum

IMAGES = 1000
SEED = 0  # of the sample: one file serves dreams of every --seed
BLOCK = 16


def spectrum_of(
    model: FittedModel,
    responses: Responses | None,
    cache: Path,
    data_root: Path | None,
    stop: StopFlag,
    images: int = IMAGES,
) -> Spectrum:
    """Read the spectrum of a sample of the subject's training images, measured first where the cache lacks it.

    Parameters
    ----------
    model : whose backbone gives the size.
    responses : of its subject, which name its training images.
    cache : folder; the file is ``spectra/<fingerprint>.npz``.
    data_root : to read stimuli from.
    stop : looked at while it is measured; nothing of it is kept.
    images : of the sample, at most.

    Raises
    ------
    BoldreamsError
        If it is not cached and there are no stimuli, or no responses.
    StoppedError
        If a signal came.
    """
    if responses is None:
        raise BoldreamsError(
            "--parameterization maco takes its spectrum from the subject's training images, which the cache's "
            f"responses name; run boldreams prepare --subject {model.spec.subject}, or use fourier"
        )
    side = fast_side(int(model.spec.preprocessing["size"]))
    spec = model.spec
    stimuli = spec.store + spec.edition or spec.training.get("pixels", "")  # a finetuned model has no store
    name = fingerprint([stimuli, responses.fingerprint, side, images, SEED])
    path = cache / "spectra" / f"{name}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as stored:
                return Spectrum(stored["magnitude"], stored["mean"])
        except DAMAGED_NPZ as error:
            raise BoldreamsError(f"{path} is damaged ({error}); delete it and run the command again") from error
    if data_root is None:
        raise BoldreamsError(
            "--parameterization maco takes its spectrum from the subject's stimuli; give --nsd-root DIR "
            "(or BOLDREAMS_NSD_ROOT), or use --parameterization fourier"
        )
    sample = np.sort(np.random.default_rng(SEED).permutation(responses.train_images)[:images])
    spectrum = _measure(open_dataset(data_root), sample, side, stop)
    with saving_work(path):
        write_npz(path, magnitude=spectrum.magnitude, mean=spectrum.mean, images=sample)
    logger.info("mean spectrum of %d training images is measured", len(sample))
    return spectrum


def _measure(dataset: Dataset, sample: np.ndarray, side: int, stop: StopFlag) -> Spectrum:
    """Two passes over the images: their mean colour, then their magnitudes without it."""
    with dataset.stimuli() as stimuli, progress("spectrum", 2 * len(sample), "images") as shown:
        mean = torch.zeros(3, dtype=torch.float64)
        total = torch.zeros(3, side, side // 2 + 1, dtype=torch.float64)
        for second in (False, True):
            for start in range(0, len(sample), BLOCK):
                stop.check("the mean spectrum of the stimuli was not measured yet")
                read = stimuli.read(sample[start : start + BLOCK])
                # Of several sizes one at a time: such do not stack.
                for block in [image[None] for image in read] if isinstance(read, list) else [read]:
                    pixels = square(torch.from_numpy(block).permute(0, 3, 1, 2)).float() / 255
                    if second:
                        resized = functional.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
                        total += measure_spectrum(resized.double() - mean[:, None, None])
                    else:
                        mean += pixels.double().mean((2, 3)).sum(0) / len(sample)
                    shown.advance(len(pixels))
    return Spectrum((total / len(sample)).float().numpy(), mean.float().numpy())
