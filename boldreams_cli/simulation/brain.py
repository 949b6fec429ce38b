"""Voxels whose encoding is known: areas, receptive fields, filters, and their noise-free responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from boldreams_cli.data.nsd.anatomy.rois import GROUPS
from boldreams_cli.data.retinotopy import STIMULUS_DEGREES
from boldreams_cli.features.backbones import Backbone
from boldreams_cli.features.ranking import filter_count, filter_order, filter_std

Floats = NDArray[np.floating]
ReadImages = Callable[[NDArray[np.integer]], NDArray[np.uint8]]

PERCENT = 10.0  # a readout of that many filters can know the encoding
DEGREES = STIMULUS_DEGREES["nsd"]  # that the images span; eccentricity bands are in degrees
BANDS = (0.0, 0.5, 1.0, 2.0, 4.0, 6.0)
MARGIN = 0.06  # between a field's centre and the image's edge, in fractions of the image


@dataclass(frozen=True)
class Area:
    """How the voxels of one group of areas encode images.

    Parameters
    ----------
    name : of the group, in `GROUPS`.
    levels : layers that are read, 0 the earliest.
    size, growth : standard deviation of a field at fixation, and how it grows with eccentricity; both in
        fractions of the image.
    noise : 0 for the most reliable area, 1 for the least.
    kind : of photographs that the filters of a category area prefer.
    """

    name: str
    levels: tuple[int, ...]
    size: float
    growth: float
    noise: float
    kind: str = ""


# Earlier areas read earlier layers through smaller fields, as in the ventral and dorsal streams.
AREAS = (
    Area("V1", (0,), 0.05, 0.10, 0.0),
    Area("V2", (1,), 0.06, 0.15, 0.1),
    Area("V3", (1, 2), 0.07, 0.20, 0.2),
    Area("hV4", (2,), 0.09, 0.25, 0.3),
    Area("V3ab", (2,), 0.10, 0.25, 0.4),
    Area("LO", (2, 3), 0.12, 0.25, 0.4),
    Area("VO", (3,), 0.14, 0.25, 0.5),
    Area("PHC", (3, 4), 0.16, 0.25, 0.5),
    Area("IPS", (3,), 0.16, 0.30, 0.8),
    Area("MT", (2, 3), 0.14, 0.30, 0.6),
    Area("MST", (3,), 0.18, 0.30, 0.8),
    Area("faces", (4,), 0.20, 0.20, 0.6, "face"),
    Area("places", (4,), 0.24, 0.20, 0.6, "place"),
    Area("words", (4,), 0.20, 0.20, 0.7, "word"),
    Area("bodies", (4,), 0.20, 0.20, 0.7, "body"),
)
RETINOTOPIC = ("V1", "V2", "V3")


@dataclass
class Voxels:
    """Voxels of one subject and what they read.

    Parameters
    ----------
    area, label : (V,) names of the group and of the single area.
    band : (V,) eccentricity band 1 to 5 of the centre; 0 outside V1 to V3.
    centre : (V, 2) x to the right and y down, in fractions of the image.
    size : (V,) standard deviation of the Gaussian field, in fractions of the image.
    ncsnr : (V,) standard deviation of the signal by that of the noise.
    """

    area: NDArray[np.str_]
    label: NDArray[np.str_]
    band: NDArray[np.int16]
    centre: NDArray[np.float64]
    size: NDArray[np.float64]
    ncsnr: NDArray[np.float64]

    def ordered(self, order: NDArray[np.integer]) -> Voxels:
        """The same voxels in another order."""
        return Voxels(**{name: value[order] for name, value in vars(self).items()})

    @staticmethod
    def joined(parts: Sequence[Voxels]) -> Voxels:
        """Voxels of several subjects, one after another."""
        return Voxels(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def draw_voxels(per_area: int, ncsnr: tuple[float, float], rng: np.random.Generator) -> Voxels:
    """Draw the voxels of one subject, area by area; V1, V2 and V3 get twice `per_area`.

    Parameters
    ----------
    per_area : voxels of each group.
    ncsnr : lowest and highest.
    """
    parts = []
    for area in AREAS:
        count = per_area * (2 if area.name in RETINOTOPIC else 1)
        band, centre = _centres(count, rng)
        eccentricity = np.hypot(*(centre - 0.5).T)
        reliable = np.clip(1 - 0.8 * area.noise + rng.uniform(-0.2, 0.2, count), 0, 1)
        parts.append(
            Voxels(
                area=np.full(count, area.name),
                label=_labels(area.name, centre),
                band=band if area.name in RETINOTOPIC else np.zeros(count, np.int16),
                centre=centre,
                size=area.size + area.growth * eccentricity,
                ncsnr=ncsnr[0] + (ncsnr[1] - ncsnr[0]) * reliable,
            )
        )
    return Voxels.joined(parts)


def _centres(count: int, rng: np.random.Generator) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Centres inside the image, the same number in each band of eccentricity."""
    band = np.resize(rng.permutation(5), count)
    centre = np.full((count, 2), np.inf)
    while (outside := (abs(centre - 0.5) > 0.5 - MARGIN).any(1)).any():
        low, high = (np.array(edges)[band[outside]] / DEGREES for edges in (BANDS[:-1], BANDS[1:]))
        radius, angle = rng.uniform(low, high), rng.uniform(0, 2 * np.pi, len(low))
        centre[outside] = 0.5 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return (band + 1).astype(np.int16), centre


def _labels(group: str, centre: Floats) -> NDArray[np.str_]:
    """Single areas of a group: ventral for the upper visual field, dorsal for the lower; others in turn."""
    names = [name for name in GROUPS[group][1] if isinstance(name, str)]
    if group in RETINOTOPIC:
        return np.where(centre[:, 1] < 0.5, f"{group}v", f"{group}d")
    return np.resize(np.array(names), len(centre))


def gaussian_fields(centre: Floats, size: Floats, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Gaussian receptive fields on a layer's grid of pixels.

    Parameters
    ----------
    centre : (V, 2) x, y in fractions of the image.
    size : (V,) standard deviations, in fractions of the image.
    shape : height and width of the grid.

    Returns
    -------
    (V, height, width), each summing to 1.
    """
    rows, columns = ((np.arange(length) + 0.5) / length for length in shape)
    x, y, s = centre[:, 0, None], centre[:, 1, None], size[:, None]
    across, down = np.exp(-(((columns - x) / s) ** 2) / 2), np.exp(-(((rows - y) / s) ** 2) / 2)
    fields = down[:, :, None] * across[:, None, :]
    return fields / fields.sum((1, 2), keepdims=True)


def spatial_means(backbone: Backbone, read: ReadImages, images: NDArray[np.integer]) -> dict[str, Floats]:
    """Mean activation of every filter, layer -> (images, filters): what filters are ranked by."""
    found: dict[str, list[Floats]] = {name: [] for name in backbone.layers}
    for batch in _batches(images, backbone.entry.batch_size):
        with torch.inference_mode():
            for name, maps in backbone.maps_of(torch.from_numpy(read(batch))).items():
                found[name].append(maps.mean((2, 3)).numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _batches(images: NDArray[np.integer], size: int) -> list[NDArray[np.integer]]:
    return [images[start : start + size] for start in range(0, len(images), size)]


def draw_weights(
    voxels: Voxels, means: dict[str, Floats], kinds: Sequence[set[str]], rng: np.random.Generator
) -> dict[str, Floats]:
    """Sparse weights on filters that a ranking puts into the first ten percent.

    Parameters
    ----------
    voxels : V of them, of all subjects.
    means : layer -> (images, filters), of a sample of images.
    kinds : of each image, the kinds of photograph in it.

    Returns
    -------
    Layer -> (V, filters), 0 where a voxel does not read that filter.
    """
    weights: dict[str, Floats] = {name: np.zeros((len(voxels.area), value.shape[1])) for name, value in means.items()}
    for area in AREAS:
        rows = np.flatnonzero(voxels.area == area.name)
        for name in (list(means)[level] for level in area.levels):
            std = filter_std(means[name])
            # Fewer than ten percent, since this is a sample of the images that rank will see.
            first = filter_order(std)[: max(2, int(0.4 * filter_count(len(std), PERCENT)))]
            shown = np.array([area.kind in kind for kind in kinds])
            chosen = _preferred(means[name][:, first], shown) if area.kind else None
            for row in rows:
                filters, values = _sparse(len(first), chosen, rng)
                # Each filter, and so each layer, gets about the same share of the signal.
                weights[name][row, first[filters]] = values / std[first[filters]]
    return weights


def _preferred(means: Floats, kind: NDArray[np.bool_], count: int = 8) -> NDArray[np.integer]:
    """Filters that tell photographs of a kind from the others best."""
    if kind.all() or not kind.any():
        return np.arange(count)
    difference = means[kind].mean(0) - means[~kind].mean(0)
    return np.argsort(-difference / (means.std(0) + 1e-9), kind="stable")[:count]


def _sparse(
    count: int, chosen: NDArray[np.integer] | None, rng: np.random.Generator
) -> tuple[NDArray[np.integer], Floats]:
    """Filters of one voxel and their weights: its area's own with jitter, or a few at random, some inhibiting."""
    if chosen is not None:
        return chosen, np.linspace(1.5, 0.5, len(chosen)) * rng.uniform(0.6, 1.4, len(chosen))
    filters = rng.choice(count, min(count, 4), replace=False)
    return filters, rng.uniform(0.5, 1.5, len(filters)) * np.where(rng.random(len(filters)) < 0.1, -1, 1)


def responses(
    backbone: Backbone,
    read: ReadImages,
    images: NDArray[np.integer],
    voxels: Voxels,
    weights: dict[str, Floats],
) -> NDArray[np.float64]:
    """Noise-free responses, (images, V): the sum over layers of w . <field | maps>.

    Maps live for one batch only, and just the filters that some voxel reads are contracted.
    """
    found = np.zeros((len(images), len(voxels.area)))
    parts: dict[str, tuple[NDArray[np.integer], torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    for start, batch in enumerate(_batches(images, backbone.entry.batch_size)):
        place = slice(start * backbone.entry.batch_size, start * backbone.entry.batch_size + len(batch))
        with torch.inference_mode():
            for name, maps in backbone.maps_of(torch.from_numpy(read(batch))).items():
                if name not in parts:
                    parts[name] = _factors(voxels, weights[name], (maps.shape[2], maps.shape[3]))
                columns, filters, fields, factors = parts[name]
                inner = maps[:, filters].flatten(2) @ fields
                found[place, columns] += (inner * factors).sum(1).double().numpy()
    return found


def _factors(
    voxels: Voxels, weights: Floats, shape: tuple[int, int]
) -> tuple[NDArray[np.integer], torch.Tensor, torch.Tensor, torch.Tensor]:
    """What one layer contributes: the voxels that read it, its filters in use, fields (P, v), weights (K, v)."""
    columns = np.flatnonzero(weights.any(1))
    filters = np.flatnonzero(weights.any(0))
    fields = gaussian_fields(voxels.centre[columns], voxels.size[columns], shape).reshape(len(columns), -1)
    return (
        columns,
        torch.from_numpy(filters),
        torch.from_numpy(fields.T.astype(np.float32)),
        torch.from_numpy(weights[np.ix_(columns, filters)].T.astype(np.float32)),
    )


def field_distance(centre: Floats, recovered: Floats) -> NDArray[np.float64]:
    """Distance between true and recovered centres, (V, 2) each, in fractions of the image's width: (V,)."""
    return np.asarray(np.hypot(*(np.asarray(recovered) - np.asarray(centre)).T))
