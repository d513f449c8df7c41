"""The composition root: builds every part, runs it, reloads it, and answers systemd."""
