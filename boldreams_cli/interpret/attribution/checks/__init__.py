"""Whether an attribution can be believed: curves, captum's measures, weights at random."""
