"""What the journal wants of whoever writes to its socket."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}


def with_priority(text: str, level: str) -> str:
    """Return a text for the journal: each line begins with its priority, as sd-daemon(3) has it."""
    prefix = f"<{_PRIORITIES.get(level, 6)}>"
    return prefix + text.replace("\n", f"\n{prefix}")


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether the stream is the journal's socket: systemd.exec(5), ``$JOURNAL_STREAM``."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
