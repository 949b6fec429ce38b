"""How well models predict: figures of accuracy, one file a kind (paper, figures 2 to 4)."""
