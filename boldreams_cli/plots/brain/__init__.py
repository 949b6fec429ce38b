"""Maps on the brain: slices of a volume, surfaces of the cortex."""
