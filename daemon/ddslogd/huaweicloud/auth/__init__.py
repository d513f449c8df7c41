"""Credentials, tokens and signatures."""
