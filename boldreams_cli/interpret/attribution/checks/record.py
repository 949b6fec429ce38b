"""What the checks of one attribution leave on disk: numbers, curves, and the maps of random weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from boldreams_cli import plots
from boldreams_cli.console import StopFlag
from boldreams_cli.files import write_npz
from boldreams_cli.interpret.attribution.attributor import Attributor
from boldreams_cli.interpret.attribution.checks import curves, measures, randomised
from boldreams_cli.interpret.attribution.integration import signed_map
from boldreams_cli.interpret.products import Description, Make, Product
from boldreams_cli.interpret.targets import FilterTarget

SETTINGS = {
    "curves": [curves.POINTS, curves.ORDERS],
    "infidelity": [measures.SQUARES, measures.SIDE],
    "sensitivity": [measures.COPIES, measures.RADIUS],
    "randomised": [list(randomised.LEVELS), randomised.SEED, "flat maps are not compared"],
}


@dataclass
class Checker:
    """Checks the maps of one method; the models of random weights are made once.

    Parameters
    ----------
    attributor : whose maps are checked.
    """

    attributor: Attributor
    _others: dict[str, Attributor] = field(default_factory=dict)

    def others(self) -> Mapping[str, Attributor]:
        """The same method on random weights, by level."""
        one = self.attributor
        if not self._others:
            levels = [level for level in randomised.LEVELS if not (level == "readout" and _of_filter(one))]
            self._others = {
                level: Attributor(randomised.randomised(one.full, level), one.targets, None, one.settings)
                for level in levels
            }
        return self._others

    def product(self, of: Product, found: Description) -> Product:
        """Beside the attribution that it checks."""
        decides = {"attribution": found["key"], "checks": SETTINGS}
        stem = f"{found['files'][0].stem}-check"
        files = ("{stem}.npz", "{stem}.png", "{stem}.pdf")
        return Product("check", of.folder, stem, files, decides, chosen=of.chosen, home=of.home)

    def random_maps(self, pixels: Tensor, areas: Sequence[int], stop: StopFlag) -> dict[str, list[NDArray[np.float64]]]:
        """The maps (H, W) of random weights, by level, in the order of `areas`."""
        found = {}
        for level, other in self.others().items():
            stop.check("finished maps are kept")
            found[level] = [signed_map(values) for values in other.attribute(pixels, areas).values]
        return found

    def check(
        self, area: int, pixels: Tensor, values: NDArray[np.floating], random: Mapping[str, NDArray[np.float64]]
    ) -> Checked:
        """All checks of one map.

        Parameters
        ----------
        area : number of the target.
        pixels : (3, H, W).
        values : (3, H, W) attribution.
        random : (H, W) maps of random weights, by level.
        """
        one, signed = self.attributor, signed_map(values)
        scene, batch = one.scene(pixels, [area]), one.batch(pixels, [area])
        correlations = {level: randomised.rank_correlation(signed, other) for level, other in random.items()}
        drawn = curves.curves(scene.one(0), pixels, scene.baseline, signed, batch)
        numbers: dict[str, Any] = drawn.areas()
        numbers |= measures.infidelities(scene.one(0), pixels, scene.baseline, values, one.method.of_difference, batch)
        numbers["sensitivity"] = measures.sensitivity(lambda image: one.attribute(image, [area]).values[0], pixels)
        numbers |= {"rank_correlation": correlations, "survives": randomised.survives(correlations)}
        return Checked(numbers, drawn, signed, random)


@dataclass(frozen=True)
class Checked:
    """Numbers of the checks, and what is drawn of them."""

    numbers: Description
    curves: curves.Curves
    signed: NDArray[np.float64]
    random: Mapping[str, NDArray[np.float64]]

    def writer(self, title: str, unit: str) -> Make:
        """What writes it, with the figure's title and the unit of the response."""
        return lambda folder, stem: self._write(folder, stem, title, unit)

    def _write(self, folder: Path, stem: str, title: str, unit: str) -> Description:
        drawn = self.curves
        write_npz(
            folder / f"{stem}.npz",
            compressed=True,
            map=self.signed.astype(np.float32),
            **{f"map_{level}": other.astype(np.float32) for level, other in self.random.items()},
            **vars(drawn),
        )
        correlations = self.numbers["rank_correlation"]
        maps = [("the model's map", self.signed)] + [
            (f"{randomised.LEVELS[level]}:\nrank correlation {correlations[level]['signed']:.2f}", other)
            for level, other in self.random.items()
        ]
        plots.attribution_checks(folder / f"{stem}.png", maps, vars(drawn), f"{title}\n{self.line()}", unit)
        return self.numbers

    def line(self) -> str:
        """The measures, for a title."""
        found = self.numbers
        said = {True: "survives", False: "does NOT survive", None: "a flat map cannot be compared with those of"}
        return (
            f"relative infidelity {found['relative_infidelity']:.2f}, sensitivity {found['sensitivity']:.2f}; "
            f"{said[found['survives']]} random weights"
        )


def summary(checks: Mapping[str, Sequence[Description]]) -> list[str]:
    """One line each: which methods' maps survive random weights, and which do not; by method, all of its checks."""
    lines = []
    flat = {method: sum(one["survives"] is None for one in found) for method, found in checks.items()}
    told = {method: [one for one in found if one["survives"] is not None] for method, found in checks.items()}
    for kept, said in (
        (True, "survive random weights"),
        (False, "do NOT survive random weights, which change them little"),
    ):
        named = [
            f"{method} ({_range(found)})"
            for method, found in told.items()
            if found and all(one["survives"] for one in found) == kept
        ]
        if named:
            lines.append(f"maps that {said}: {', '.join(named)}")
    if any(flat.values()):
        named = [f"{method} ({count} of {len(checks[method])})" for method, count in flat.items() if count]
        lines.append(f"maps that cannot be compared with those of random weights, as one is flat: {', '.join(named)}")
    return lines


def _range(found: Sequence[Description]) -> str:
    """How alike maps of random weights are, of all images and targets."""
    levels = [level["signed"] for one in found for level in one["rank_correlation"].values()]
    values = [abs(value) for value in levels if value is not None and math.isfinite(value)]
    kept = sum(one["survives"] for one in found)
    return (
        f"{kept} of {len(found)}; rank correlation at most {max(values):.2f} of either sign, limit {randomised.LIMIT}"
    )


def _of_filter(attributor: Attributor) -> bool:
    return isinstance(attributor.targets[0], FilterTarget)
