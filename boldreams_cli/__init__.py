"""Train and interpret models of the brain's response to natural images (BOLDreams)."""

__version__ = "0.1.0"
