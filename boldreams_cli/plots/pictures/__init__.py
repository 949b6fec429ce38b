"""Pictures: dreams, attributions, words, and grids of them (paper, figures 5 to 8)."""
