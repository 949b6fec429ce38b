"""What a dream is drawn by: lucent's spectra and pixels, MaCo's phases, and random transformations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lucent.optvis import param
from PIL import Image

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.interpret.dreams.ascent import parameterization, spectra, transforms
from boldreams_cli.interpret.dreams.ascent.parameterization import Spectrum
from boldreams_cli.interpret.dreams.ascent.transforms import Transforms
from tests.interpret.conftest import CPU, Fitted


def no_spectrum() -> Spectrum:
    raise AssertionError("only maco needs a spectrum")


@pytest.mark.parametrize("name", ["fourier", "pixel"])
def test_starts_and_renders_as_lucent_does(name: str) -> None:
    ours = parameterization.create(name, 2, 48, 7, CPU, no_spectrum)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        _, lucents = param.image(48, batch=2, fft=name == "fourier")
    torch.testing.assert_close(ours(), lucents(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [27, 227])
def test_sizes_that_transform_slowly_are_cropped_from_a_faster_one(size: int) -> None:
    picture = parameterization.create("fourier", 1, size, 0, CPU, no_spectrum)
    assert picture().shape == (1, 3, size, size)
    assert max(factor for factor in range(1, 8) if parameterization.fast_side(size) % factor == 0) >= 3
    picture().sum().backward()
    assert picture.values.grad is not None


def test_seed_decides_the_start() -> None:
    first, again, other = (parameterization.create("fourier", 1, 32, seed, CPU, no_spectrum)() for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_maco_keeps_magnitudes_whatever_the_phases() -> None:
    side = 32
    magnitude = torch.rand(3, side, side // 2 + 1).numpy() * 0.05
    magnitude[:, 0, 0] = 0
    spectrum = Spectrum(magnitude, np.array([0.4, 0.5, 0.6], np.float32))
    picture = parameterization.create("maco", 2, side, 0, CPU, lambda: spectrum)
    images = picture()
    assert 0 <= images.min() < images.max() <= 1
    plain = torch.logit(images.double()) / 4 + 0.5 - torch.tensor(spectrum.mean).double()[:, None, None]
    found = parameterization.measure_spectrum(plain) / 2
    # Columns 0 and side / 2 hold a frequency and its negative: only their symmetric part survives.
    torch.testing.assert_close(found[..., 1:-1], torch.from_numpy(magnitude[..., 1:-1]).double(), atol=1e-5, rtol=1e-4)


def test_unknown_parameterization_lists_the_choices() -> None:
    with pytest.raises(ChoiceError, match="fourier, pixel, maco"):
        parameterization.create("gan", 1, 32, 0, CPU, no_spectrum)


def test_spectrum_is_measured_once_from_training_images(fitted: Fitted, tmp_path) -> None:
    spectrum = spectra.spectrum_of(fitted.model, fitted.responses, tmp_path, fitted.root, StopFlag(), images=5)
    assert spectrum.magnitude.shape == (3, 240, 121)
    files = list((tmp_path / "spectra").glob("*.npz"))
    with np.load(files[0]) as stored:
        assert set(stored["images"]) <= set(fitted.responses.train_images)
    again = spectra.spectrum_of(
        fitted.model, fitted.responses, tmp_path, None, StopFlag(), images=5
    )  # no root needed now
    np.testing.assert_array_equal(again.magnitude, spectrum.magnitude)
    low, high = spectrum.magnitude[0, :10, 1:10].mean(), spectrum.magnitude[0, 100:120, 100:].mean()
    assert low > 20 * high  # natural images


def test_spectrum_of_a_finetuned_model_is_of_its_own_stimuli(fitted: Fitted, tmp_path) -> None:
    """Such a model names no store."""
    from dataclasses import replace

    found = []
    for pixels in ("one", "other"):
        spec = replace(fitted.model.spec, store="", training={**fitted.model.spec.training, "pixels": pixels})
        model = FittedModel(fitted.model.folder, spec, fitted.model.weights)
        spectra.spectrum_of(model, fitted.responses, tmp_path, fitted.root, StopFlag(), images=2)
        found.append(len(list((tmp_path / "spectra").glob("*.npz"))))
    assert found == [1, 2]


def test_spectrum_without_stimuli_names_the_option(fitted: Fitted, tmp_path) -> None:
    with pytest.raises(BoldreamsError, match="--nsd-root"):
        spectra.spectrum_of(fitted.model, fitted.responses, tmp_path, None, StopFlag())


def test_no_transform_leaves_images_alone() -> None:
    images = torch.rand(3, 3, 20, 20)
    matrix = Transforms(rotate=0, translate=0).draw(0, 0)
    torch.testing.assert_close(transforms.apply(images, matrix), images)


def test_shift_scale_and_rotation_move_what_is_seen() -> None:
    image = torch.full((2, 3, 40, 40), 0.5)
    image[..., 8:12, 28:32] = 1
    quarter = torch.tensor([[1.0, 0, 0.5], [0, 1, 0]])  # the output's place x shows the image's place x + half a side
    moved = transforms.apply(image, quarter)
    assert moved[0, 0, 8:12, 18:22].min() > 0.9
    half = transforms.apply(image, torch.tensor([[2.0, 0, 0], [0, 2, 0]]))
    rows, columns = (half[0, 0] > 0.7).nonzero(as_tuple=True)
    assert (rows.float().mean() - 14.5).abs() < 1
    assert (columns.float().mean() - 24.5).abs() < 1
    assert half[..., 0, 0].allclose(torch.tensor(0.5))  # grey comes in from outside


def test_transform_is_pillows_rotation() -> None:
    image = np.zeros((41, 41), np.uint8)
    image[10:16, 8:20] = 255
    turned = np.asarray(Image.fromarray(image).rotate(30, Image.Resampling.BILINEAR, fillcolor=127)) / 255
    angle = math.radians(30)
    matrix = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])
    ours = transforms.apply(torch.from_numpy(image / 255).float().expand(1, 3, -1, -1), matrix.float())
    inside = np.hypot(*np.mgrid[-20:21, -20:21]) < 19
    assert np.abs(ours[0, 0].numpy() - turned)[inside].mean() < 0.01


def test_draws_depend_on_seed_and_step_alone_and_keep_to_their_ranges() -> None:
    ranges = Transforms(rotate=10, translate=0.1, scale=(0.5, 0.9))
    assert torch.equal(ranges.draw(3, 9), ranges.draw(3, 9))
    matrices = torch.stack([ranges.draw(0, step) for step in range(400)])
    turns = matrices[:, :, :2]
    scales = 1 / torch.linalg.det(turns).sqrt()
    assert 0.5 <= scales.min() < 0.52
    assert 0.88 < scales.max() <= 0.9
    angles = torch.rad2deg(torch.atan2(turns[:, 0, 1], turns[:, 0, 0]))
    assert -10 <= angles.min() < -9.5
    assert 9.5 < angles.max() <= 10
    shifts = torch.linalg.solve(turns, -matrices[:, :, 2])
    assert 0.19 < shifts.abs().max() <= 0.2  # in [-1, 1] across the image: a tenth of its size


def test_gather_is_grid_sample_with_its_gradient() -> None:
    images = torch.rand(2, 6, 17, 17, dtype=torch.float64, requires_grad=True)
    matrix = Transforms(rotate=8, translate=0.3, scale=(0.5, 1.2)).draw(1, 1).double()
    grid = torch.nn.functional.affine_grid(matrix[None], [1, 3, 17, 17], align_corners=False)
    weight = torch.rand(2, 6, 17, 17, dtype=torch.float64)
    values = [sample(images, grid) for sample in (transforms._grid_sample, transforms.gather)]
    gradients = [torch.autograd.grad((value * weight).sum(), images)[0] for value in values]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
