"""The object store of the sandbox."""
