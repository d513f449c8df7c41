"""Sockets that the service manager opened before the start: sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

log = structlog.get_logger()

_FIRST: Final = 3
_PAGE: Final = frozenset({"web", "ddslogd.socket", "unknown", ""})
"""Names of the page's: what our unit says, what systemd says where a unit says nothing, and where nobody says any."""


def inherited(environ: MutableMapping[str, str], *, pid: int) -> list[socket.socket]:
    """Return the listening sockets for the page; others are closed, and the variables removed.

    Args:
        environ: Of this process: ``$LISTEN_PID``, ``$LISTEN_FDS``, ``$LISTEN_FDNAMES``.
        pid: This process.
    """
    meant_for, count, names = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if meant_for != str(pid) or not count.isdecimal():
        return []
    called = names.split(":")
    found = []
    for number in range(int(count)):
        name = called[number] if number < len(called) else ""
        one = _socket(_FIRST + number, name)
        if one is not None:
            found.append(one)
    return found


def _socket(fd: int, name: str) -> socket.socket | None:
    try:
        os.set_inheritable(fd, False)  # noqa: FBT003  # positional only
        one = socket.socket(fileno=fd)
    except OSError as exc:
        log.warning("web.socket_refused", fd=fd, name=name, reason=exc.strerror)
        return None
    one.setblocking(False)  # noqa: FBT003  # positional only
    if name in _PAGE and _listens(one):
        return one
    log.warning("web.socket_refused", fd=fd, name=name, reason="not a TCP socket that listens, of the name web")
    one.close()
    return None


def _listens(one: socket.socket) -> bool:
    stream = one.family in {socket.AF_INET, socket.AF_INET6} and one.type == socket.SOCK_STREAM
    return stream and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
