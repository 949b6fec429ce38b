"""Pure functions over arrays; nothing of ours is imported here."""
