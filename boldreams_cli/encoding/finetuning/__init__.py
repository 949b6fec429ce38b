"""Backbone and readout trained together, from images."""
