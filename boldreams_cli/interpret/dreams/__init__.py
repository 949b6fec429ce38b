"""Images that excite an area most (paper, section 2.5)."""
