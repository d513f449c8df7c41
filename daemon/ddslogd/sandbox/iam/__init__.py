"""The identity service of the sandbox."""
