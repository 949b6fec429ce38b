"""A dream's gradient ascent: pixels, objectives, transforms, steps (paper, section 2.5)."""
