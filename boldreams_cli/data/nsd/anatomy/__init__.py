"""Which voxels or vertices are used, and what is known of each (NSD manual, "ROIs")."""
