"""Dreams, attribution and words (paper, sections 2.3 to 2.5)."""
