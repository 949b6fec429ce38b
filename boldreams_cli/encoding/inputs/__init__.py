"""What solvers may read: maps, betas, pixels, the order of filters."""
