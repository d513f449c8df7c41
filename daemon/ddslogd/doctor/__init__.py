"""Checks of this host and these accounts, and the bundle for whoever is asked for help."""
