"""One cycle of one instance, and what is remembered of its exports and nodes."""
