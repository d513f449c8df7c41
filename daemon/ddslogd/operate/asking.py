"""The status as a command has it: from the daemon that runs, else from the ledger."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ddslogd.operate.observer import recorded
from ddslogd.operate.status import as_object

if TYPE_CHECKING:
    from datetime import datetime

    from ddslogd.config import Settings

TIMEOUT_S = 2.0
MOST = 64 * 1024 * 1024  # bytes of a reply; ten thousand instances take some 10 MiB


def status(settings: Settings, *, now: datetime) -> dict[str, Any]:
    """Give what ``/api/v1/status`` sends. Blocks.

    Raises:
        ConfigError: No daemon answers, and another version of ddslogd wrote the ledger.
        StorageError: No daemon answers, and there is no ledger, or it cannot be read.
    """
    found = _asked(settings)
    return as_object(recorded(settings, now=now)) if found is None else found


def _asked(settings: Settings) -> dict[str, Any] | None:
    """Ask the daemon; None where none answers, or it is that of another configuration."""
    if not settings.web.enabled:
        return None
    host, port = settings.web.reached
    with closing(http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)) as connection:
        try:
            connection.request("GET", "/api/v1/status")
            reply = connection.getresponse()
            found: Any = json.loads(reply.read(MOST)) if reply.status == http.client.OK else None
        except (OSError, http.client.HTTPException, ValueError):
            return None
    room = found.get("disk") if isinstance(found, dict) else None
    if not isinstance(room, dict) or room.get("directory") != str(settings.storage.directory):
        return None
    answer: dict[str, Any] = found
    return answer
