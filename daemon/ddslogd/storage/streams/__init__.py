"""One continuous log for each node."""
