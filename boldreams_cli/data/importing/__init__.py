"""What importers share: what they are asked and give, finding files, where units lie, and writing the neutral file."""
