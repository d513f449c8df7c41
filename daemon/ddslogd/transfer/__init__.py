"""From a link to a part file."""
