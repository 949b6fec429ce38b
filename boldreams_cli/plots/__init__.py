"""Figures, one file a kind; pure of models and files but the one written."""

from boldreams_cli.plots.models.accuracy import accuracy
from boldreams_cli.plots.pictures.attribution import Row, attribution, attribution_checks, limits_along, overlay
from boldreams_cli.plots.pictures.bands import bands
from boldreams_cli.plots.pictures.dreams import dream_difference, dream_sheet, dream_trace, gallery, over_paper
from boldreams_cli.plots.pictures.grid import areas_by_models
from boldreams_cli.plots.pictures.words import cloud_alone, clouds

__all__ = [
    "Row",
    "accuracy",
    "areas_by_models",
    "attribution",
    "attribution_checks",
    "bands",
    "cloud_alone",
    "clouds",
    "dream_difference",
    "dream_sheet",
    "dream_trace",
    "gallery",
    "limits_along",
    "over_paper",
    "overlay",
]
