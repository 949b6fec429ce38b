"""Maps of results as files, one value a unit: NIfTI, GIFTI, CIFTI; and the meshes that they are drawn on."""
