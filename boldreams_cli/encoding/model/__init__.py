"""A fitted model: its spec, weights, folder, and the full network."""
