"""The feature store on disk: its arrays, its reader, what it was before, and what is damaged in it."""
