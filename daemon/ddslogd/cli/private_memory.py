"""What this process holds is its own: secrets are in its memory, and in what it sends over TLS."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_PR_SET_DUMPABLE = 4  # prctl(2)


def keep_memory_private() -> None:
    """Let no other process of the same user read this one's memory, and no core file or key log be written of it."""
    os.environ.pop("SSLKEYLOGFILE", None)  # Python's ssl would write the keys of each connection there
    with suppress(OSError, AttributeError):  # not on this system
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
