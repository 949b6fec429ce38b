"""One page of all that a cache holds: collected, drawn, and put into one file."""
