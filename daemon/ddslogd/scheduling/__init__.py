"""When something is due: knows no cloud and no disk."""
