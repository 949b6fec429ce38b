"""Words for images and areas (paper, section 2.3)."""
