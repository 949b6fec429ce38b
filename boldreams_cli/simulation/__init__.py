"""A made-up experiment in NSD's layout whose brain is known."""
