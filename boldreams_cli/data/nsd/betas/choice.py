"""Which of NSD's betas are meant: how they were estimated, and in which space (NSD manual, "Functional data (NSD)").

NSD holds every trial three times, by a GLM with an assumed haemodynamic response (``betas_assumehrf``), with one fitted
to each voxel (``betas_fithrf``), and with denoising and ridge regression besides (``betas_fithrf_GLMdenoise_RR``). All
are there at 1.8 mm and at 1 mm, and on two surfaces: FreeSurfer's average brain and the subject's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from boldreams_cli.console import ChoiceError, listing

AVERAGE, NATIVE = "fsaverage", "nativesurface"
SURFACES = (AVERAGE, NATIVE)
SPACES = ("func1pt8mm", "func1mm", *SURFACES)  # the default first
PREPARATIONS = ("betas_fithrf_GLMdenoise_RR", "betas_fithrf", "betas_assumehrf")


@dataclass(frozen=True)
class BetasChoice:
    """A space and a preparation; written as NSD's folders are, ``func1mm/betas_fithrf``."""

    space: str = SPACES[0]
    preparation: str = PREPARATIONS[0]

    def __str__(self) -> str:
        return f"{self.space}/{self.preparation}"

    @property
    def on_surface(self) -> bool:
        """Whether the units are vertices of two hemispheres, not voxels of a volume."""
        return self.space in SURFACES

    @property
    def named(self) -> str | None:
        """For a request; None for the default, so that its fingerprint is the same as before there was a choice."""
        return None if self == DEFAULT else str(self)

    @classmethod
    def every(cls) -> list[BetasChoice]:
        """All that there may be, the default first."""
        return [cls(space, preparation) for space in SPACES for preparation in PREPARATIONS]

    @classmethod
    def read(cls, text: str | None) -> BetasChoice:
        """Read ``--betas``: SPACE/PREPARATION, or one of the two.

        Raises
        ------
        ChoiceError
            If there is no such space or preparation.
        """
        found: dict[str, str] = {}
        for part in (text or str(cls())).strip("/").split("/"):
            kind = "space" if part in SPACES else "preparation"
            if kind in found or part not in SPACES + PREPARATIONS:
                raise ChoiceError(
                    f"no betas {text!r}; --betas takes SPACE/PREPARATION or one of them: {listing(SPACES)}; "
                    f"{listing(PREPARATIONS)}"
                )
            found[kind] = part
        return cls(**found)


DEFAULT = BetasChoice()
