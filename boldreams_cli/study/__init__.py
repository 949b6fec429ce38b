"""Studies: many models compared, and reported."""
