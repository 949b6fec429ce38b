"""Which of NSD's betas are meant: how they were estimated, and in which space (NSD manual, "Functional data (NSD)").

NSD holds every trial three times, by a GLM with an assumed haemodynamic response (``betas_assumehrf``), with one fitted
to each voxel (``betas_fithrf``), and with denoising and ridge regression besides (``betas_fithrf_GLMdenoise_RR``). All
are int16, percent signal change x 300, at 1.8 mm and at 1 mm. On surfaces they are another kind of file.
"""

from __future__ import annotations

from dataclasses import dataclass

from boldreams_cli.console import ChoiceError, listing

SPACES = ("func1pt8mm", "func1mm")  # the default first
PREPARATIONS = ("betas_fithrf_GLMdenoise_RR", "betas_fithrf", "betas_assumehrf")
SURFACES = ("fsaverage", "nativesurface")


@dataclass(frozen=True)
class BetasChoice:
    """A space and a preparation; written as NSD's folders are, ``func1mm/betas_fithrf``."""

    space: str = SPACES[0]
    preparation: str = PREPARATIONS[0]

    def __str__(self) -> str:
        return f"{self.space}/{self.preparation}"

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
            If there is no such space or preparation, or it is one of surfaces, which are not read.
        """
        found: dict[str, str] = {}
        for part in (text or str(cls())).strip("/").split("/"):
            if part in SURFACES:
                raise ChoiceError(
                    f"--betas {text}: betas on surfaces are not read, those of volumes are: {listing(SPACES)}"
                )
            kind = "space" if part in SPACES else "preparation"
            if kind in found or part not in SPACES + PREPARATIONS:
                raise ChoiceError(
                    f"no betas {text!r}; --betas takes SPACE/PREPARATION or one of them: {listing(SPACES)}; "
                    f"{listing(PREPARATIONS)}"
                )
            found[kind] = part
        return cls(**found)


DEFAULT = BetasChoice()
