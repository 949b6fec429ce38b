"""Figures, one file a kind; pure of models and files but the one written."""

from boldreams_cli.plots.accuracy import accuracy
from boldreams_cli.plots.attribution import attribution, intensity_mask
from boldreams_cli.plots.dreams import dream_sheet, dream_trace, gallery

__all__ = ["accuracy", "attribution", "dream_sheet", "dream_trace", "gallery", "intensity_mask"]
