"""Predictions, accuracy and its statistics (paper, section 3.1)."""
