"""The vocabulary: imports nothing of ours but itself."""
