"""Pixels that drive a prediction (paper, section 2.4)."""
