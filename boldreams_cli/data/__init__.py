"""The data sets: subjects, images, responses (paper, section 2.1)."""
