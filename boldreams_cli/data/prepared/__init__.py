"""Responses in the cache: made, chosen among, compared with what they were made from (paper, section 2.1)."""
