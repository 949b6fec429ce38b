"""A model's scores in its folder: written, read, and made anew where they are no longer true."""
