"""What is dreamed of or attributed to: areas, voxels, filters, as functions of pixels and of stored maps (2.4, 2.5)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag, listing, logger
from boldreams_cli.data.areas import Areas
from boldreams_cli.encoding.model.full import FullModel
from boldreams_cli.encoding.model.spec import FittedModel
from boldreams_cli.features.backbones import entry
from boldreams_cli.features.store.feature_store import FeatureStore
from boldreams_cli.interpret.products import spelled
from boldreams_cli.interpret.readers import Betas, Means, read_stored
from boldreams_cli.interpret.rectifiers import Leaking, rectified
from boldreams_cli.interpret.selection import ALL, Least, best_voxel

Activity = Mapping[str, Any]  # tensors by name; of ``groups``, a list


def check_gradients(model: FittedModel) -> None:
    """Refuse a model that has no gradient to pixels.

    Raises
    ------
    ChoiceError
        If it reads captions.
    """
    if (reads := entry(model.spec.backbone).reads) != "images":
        raise ChoiceError(
            f"{model.folder} reads {reads}: its prediction has no gradient to pixels, so it can neither dream nor "
            "attribute; choose a model of an image backbone with --backbone or --model"
        )


def voxels_of(model: FittedModel, areas: Areas, roi: str) -> NDArray[np.bool_]:
    """(voxels,) those of an area that the model predicts; the others are left out with a line in the log.

    Raises
    ------
    ChoiceError, BoldreamsError
        As `Areas.select`; or if the model predicts none of them.
    """
    chosen = areas.select(roi)
    if chosen.shape != model.weights.included.shape:
        raise BoldreamsError(f"{model.folder} and the subject's responses differ in their voxels; fit the model again")
    kept = chosen & model.weights.included
    left_out = int(chosen.sum() - kept.sum())
    if not kept.any():
        raise BoldreamsError(
            f"all {left_out} voxels of {roi} were excluded from the fit (constant or non-finite betas); choose "
            "another --roi, or fit with other --sessions"
        )
    if left_out:
        logger.info("%s: %d of %d voxels were excluded from the fit and are left out", roi, left_out, chosen.sum())
    return kept


def voxel_at(model: FittedModel, place: tuple[int, int, int]) -> NDArray[np.bool_]:
    """(voxels,) the one at x, y, z of the subject's volume, counted from 0.

    Raises
    ------
    ChoiceError
        If the model has none there.
    BoldreamsError
        If it was excluded from the fit.
    """
    chosen = (model.weights.voxels == np.array(place)).all(1)
    said = ",".join(str(number) for number in place)
    if not chosen.any():
        low, high = model.weights.voxels.min(0), model.weights.voxels.max(0)
        around = ", ".join(f"{axis} {a}-{b}" for axis, a, b in zip("XYZ", low, high, strict=True))
        raise ChoiceError(f"no voxel {said} among the model's {len(chosen)} ({around}, counted from 0; --voxel X,Y,Z)")
    if not (chosen & model.weights.included).any():
        raise BoldreamsError(f"voxel {said} was excluded from the fit (constant or non-finite betas); choose another")
    return chosen


def said(areas: Areas, roi: str) -> str:
    """An area for people: as the program spells it, but masks by their path."""
    spelling = areas.canonical(roi)
    return roi if "mask-" in spelling else spelling


class Target(Protocol):
    """What is dreamed of; a new kind is one more class here and a way to name it in `choose`."""

    full: FullModel
    unit: str

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def folder(self) -> str:
        """Its part of the name of a dream's folder."""
        ...

    @property
    def identity(self) -> list[Any]:
        """What tells this target from others of the same model."""
        ...

    def activity(self, pixels: Tensor) -> Activity:
        """What objectives read, of (images, 3, H, W) pixels: ``response`` (images,), ``maps``; more by kind.

        ``groups`` are all the maps that count as the model's features.
        """
        ...

    def stored(
        self,
        store: FeatureStore,
        images: NDArray[Any],
        device: torch.device,
        memory: int,
        stop: StopFlag | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """As `activity` (but ``maps`` and ``groups``), of stored images; a signal is heard between batches."""
        ...


@dataclass
class AreaTarget:
    """Voxels of a model.

    Parameters
    ----------
    name : for people.
    folder : name of the folder of its dreams.
    full : the full model.
    voxels : (voxels,) bool, all predicted by the model.
    asked : (voxels,) bool, with those that were excluded from the fit.
    minus : (voxels,) bool of the area to contrast with.
    each : whether the objective needs the voxels one by one.
    plus : (voxels,) bool of the area to excite as well, in place of `minus`.
    sides : names of the two areas, where there are two.
    """

    name: str
    folder: str
    full: FullModel
    voxels: NDArray[np.bool_]
    asked: NDArray[np.bool_]
    minus: NDArray[np.bool_] | None = None
    each: bool = False
    plus: NDArray[np.bool_] | None = None
    sides: tuple[str, ...] = ()
    unit: str = "mean beta"

    def __post_init__(self) -> None:
        self._means = Means(self.full, self._masks)
        device = self.full.backbone.device
        self._betas = Betas(self.full.model, self.voxels, device) if self.each else None

    @property
    def identity(self) -> list[Any]:
        """What tells this target from others of the same model."""
        return [np.flatnonzero(mask).tolist() for mask in self._masks]

    @property
    def _masks(self) -> list[NDArray[np.bool_]]:
        return [mask for mask in (self.voxels, self.minus, self.plus) if mask is not None]

    def activity(self, pixels: Tensor) -> Activity:
        """What the objectives read: ``response``, ``minus`` or ``plus``, ``betas``, ``maps``, ``groups`` of pixels."""
        maps = self.full.maps(pixels)
        found = self._named(self._means(maps), self._betas(maps) if self._betas else None)
        last = self.full.model.spec.groups[-1]
        return found | {"maps": maps[-1].unflatten(2, (last.height, last.width)), "groups": maps}

    def stored(
        self,
        store: FeatureStore,
        images: NDArray[Any],
        device: torch.device,
        memory: int,
        stop: StopFlag | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """As `activity` (but ``maps`` and ``groups``), of stored images; a signal is heard between batches."""
        model = self.full.model
        means = read_stored(model, store, images, self._means, device, memory, stop)
        betas = read_stored(model, store, images, self._betas, device, memory, stop) if self._betas else None
        return self._named(means, betas)

    def _named(self, means: Any, betas: Any) -> dict[str, Any]:
        found = {"response": means[:, 0]}
        if means.shape[1] > 1:
            found["minus" if self.plus is None else "plus"] = means[:, 1]
        if betas is not None:
            found["betas"] = betas
        return found


@dataclass
class FilterTarget:
    """The spatial mean of one of the backbone's filters, an artificial neuron.

    Parameters
    ----------
    full : the full model.
    layer : canonical name.
    index : of the filter.
    """

    full: FullModel
    layer: str
    index: int
    unit: str = "mean activation"

    @classmethod
    def parse(cls, full: FullModel, text: str) -> FilterTarget:
        """From ``LAYER:K``.

        Raises
        ------
        ChoiceError
            If there is no such filter.
        """
        layer, _, number = text.rpartition(":")
        if not layer or not number.isdecimal():
            raise ChoiceError(f"{text!r} is no filter; write LAYER:K, e.g. {full.backbone.layers[-1]}:0 (--filter)")
        known = full.backbone.entry
        name = known.layer(layer)
        if name not in full.backbone.layers:
            raise ChoiceError(f"the model reads no {name}; its layers: {listing(full.backbone.layers)} (--filter)")
        count = _filters(full, name)
        if int(number) >= count:
            raise ChoiceError(f"{name} has filters 0 to {count - 1}, not {number} (--filter LAYER:K)")
        return cls(full, name, int(number))

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.layer}:{self.index}"

    @property
    def folder(self) -> str:
        """Name of the folder of its dreams."""
        return f"filter-{self.layer}-{self.index}"

    @property
    def identity(self) -> list[Any]:
        """What tells this target from others of the same model."""
        return [self.layer, self.index]

    def activity(self, pixels: Tensor) -> Activity:
        """``response``, ``maps`` and ``groups`` of (images, 3, H, W) pixels."""
        found = self._read(pixels)
        silent = bool((found["response"].detach() <= 0).any())
        if silent and torch.is_grad_enabled() and rectified(found["maps"]):
            with Leaking():
                found = self._read(pixels)
        return found

    def _read(self, pixels: Tensor) -> Activity:
        layers = self.full.backbone(pixels)
        maps = layers[self.layer]
        return {"response": maps[:, self.index].mean((1, 2)), "maps": maps, "groups": list(layers.values())}

    def stored(
        self,
        store: FeatureStore,
        images: NDArray[Any],
        device: torch.device,
        memory: int,
        stop: StopFlag | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """``response`` of stored images: their spatial means."""
        return {"response": store.means(self.layer, store.rows(images, "mean"))[:, self.index]}


def _filters(full: FullModel, layer: str) -> int:
    """How many a layer has; of layers that are none of the backbone's usual ones its maps tell."""
    known = full.backbone.entry
    if layer in known.layers:
        return known.filters[list(known.layers).index(layer)]
    size = known.preprocessing.size
    with torch.inference_mode():
        return int(full.backbone(torch.zeros(1, 3, size, size, device=full.backbone.device))[layer].shape[1])


def choose(
    full: FullModel,
    areas: Areas | None,
    roi: str | None = None,
    voxel: tuple[int, int, int] | str | None = None,
    filter_: str | None = None,
    minus: str | None = None,
    each: bool = False,
    plus: str | None = None,
    least: Least = ALL,
) -> Target:
    """The target that the options name: one of an area, a voxel and a filter; `minus` or `plus` is another area.

    Parameters
    ----------
    full : the full model.
    areas : of its subject; needed for areas.
    voxel : its place, or the area whose best voxel is meant.
    each : see `AreaTarget`.
    least : accuracy of the voxels of an area that are kept.

    Raises
    ------
    ChoiceError, BoldreamsError
        If there is no such target, or it has no voxels.
    """
    if filter_ is not None:
        return FilterTarget.parse(full, filter_)
    if areas is None and (roi or minus or plus or isinstance(voxel, str)):
        raise BoldreamsError("areas need the subject's responses in the cache; run boldreams prepare")
    area = functools.partial(_area, full.model, areas, least=least)
    one = area(roi) if voxel is None else _voxel(full.model, areas, voxel, least)
    word, both = ("minus", minus) if minus is not None else ("plus", plus)
    if both is None:
        return AreaTarget(one.name, one.folder, full, one.voxels, one.asked, each=each)
    other = area(both)
    if (other.voxels == one.voxels).all():
        raise ChoiceError(f"{one.name} and {both} are the same voxels: there is no contrast (--{word})")
    return AreaTarget(
        name=f"{one.name} {word} {other.name}",
        folder=spelled(one.folder, word, other.folder),
        full=full,
        voxels=one.voxels,
        asked=one.asked,
        each=each,
        sides=(one.name, other.name),
        **{word: other.voxels},  # type: ignore[arg-type]
    )


class _Chosen(NamedTuple):
    """Voxels, those asked for among them, and their names for people and for a folder."""

    voxels: NDArray[np.bool_]
    asked: NDArray[np.bool_]
    name: str
    folder: str


def _area(model: FittedModel, areas: Areas | None, roi: str | None, least: Least) -> _Chosen:
    """Voxels of an area that are good enough."""
    assert areas is not None
    assert roi is not None
    chosen = least.of(model, voxels_of(model, areas, roi), roi)
    name, folder = " ".join([said(areas, roi), *least.said]), spelled(areas.canonical(roi), *least.named)
    return _Chosen(chosen, areas.select(roi), name, folder)


def _voxel(model: FittedModel, areas: Areas | None, place: tuple[int, int, int] | str, least: Least) -> _Chosen:
    """One voxel, by its place or the best of an area."""
    if isinstance(place, str):
        assert areas is not None
        place = best_voxel(model, voxels_of(model, areas, place), place, least)
    chosen, numbers = voxel_at(model, place), [str(number) for number in place]
    return _Chosen(chosen, chosen, f"voxel {','.join(numbers)}", f"voxel-{'-'.join(numbers)}")
