"""Cells of a sweep: which there are, what they take, and how they run."""
