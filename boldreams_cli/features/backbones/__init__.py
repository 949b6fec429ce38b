"""The pretrained networks whose ReLU maps the models read, one file a library (paper, section 2.2 and table 1)."""

from boldreams_cli.features.backbones.entry import Backbone, Entry, ImageBackbone
from boldreams_cli.features.backbones.loading import BACKBONES, entry, load, shapes

__all__ = ["BACKBONES", "Backbone", "Entry", "ImageBackbone", "entry", "load", "shapes"]
