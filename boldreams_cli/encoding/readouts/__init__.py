"""Ways from maps to betas, one file each."""
