"""The DDS service of the sandbox."""
