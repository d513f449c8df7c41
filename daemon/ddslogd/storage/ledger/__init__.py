"""The database of what is on disk, what failed, and where a gap is."""
