"""Readout, training and accuracy of encoding models (paper, sections 2.2 and 3.1)."""
