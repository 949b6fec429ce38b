"""The pretrained networks, one file a library (paper, section 2.2, table 1)."""
