"""How certain accuracy is, and what follows from it: intervals, comparisons, the smallest percent (paper, 3.1)."""
