"""Backbones, the feature store and the ranking of filters (paper, section 2.2)."""
