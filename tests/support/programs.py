"""Programs that a test needs."""

from __future__ import annotations

import os
import shutil

import pytest


def needed(tool: str, todo: str = "install Debian's systemd") -> str:
    """Return the tool's path; without it the test is skipped, or fails where nothing may be skipped."""
    path = shutil.which(tool)
    if path is None and os.environ.get("DDSLOGD_SKIP_NOTHING"):
        pytest.fail(f"{tool} is missing")
    if path is None:
        pytest.skip(f"{tool} is missing: {todo}")
    return path
