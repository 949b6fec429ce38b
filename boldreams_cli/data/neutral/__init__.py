"""Any data set, one documented HDF5 file a subject (docs/data-format.md): writing, checking and reading it."""
