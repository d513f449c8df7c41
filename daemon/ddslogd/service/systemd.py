"""What systemd is told of the service: one datagram for each thing, to the socket that it names. sd_notify(3).

Without such a socket nothing is told to anybody. What cannot be told never stops the daemon.
"""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LONGEST_STATUS = 250  # characters; `systemctl status` has one line for it
AGAIN_AFTER_S = 55.0  # what is still true is said again no sooner
_MICROSECOND = timedelta(microseconds=1)


class Notifier:
    """Reports to the service manager how it goes.

    Attributes:
        beat_every: How often ``beat`` has to be called, half of what systemd waits; None where it does not watch.
    """

    def __init__(
        self,
        address: str = "",
        *,
        beat_every: timedelta | None = None,
        clean: Callable[[str], str] = str,
    ) -> None:
        """Prepare.

        Args:
            address: Of the socket: a path, or ``@`` and a name for an abstract one; empty for none.
            beat_every: See there.
            clean: Blanks out secrets.
        """
        self.beat_every = beat_every if address else None
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)  # noqa: FBT003  # positional only
        self._clean = clean
        self._said = ("", 0.0)

    @classmethod
    def of(cls, environ: Mapping[str, str], *, pid: int, clean: Callable[[str], str] = str) -> Notifier:
        """Make one as systemd wants it: ``$NOTIFY_SOCKET``, ``$WATCHDOG_USEC``, ``$WATCHDOG_PID``."""
        return cls(environ.get("NOTIFY_SOCKET", ""), beat_every=_beat_every(environ, pid), clean=clean)

    @property
    def listens(self) -> bool:
        """Whether there is anybody to tell."""
        return self._socket is not None

    def close(self) -> None:
        """Report nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self) -> None:
        """Report that the start, or the reload, is over."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report that the configuration is being read again; ``ready`` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Report that the stop has begun."""
        self._send("STOPPING=1", "STATUS=stopping; what is being fetched is gone on with after the next start")

    def beat(self) -> None:
        """Report that the scheduler's loop has turned."""
        if self.beat_every is not None:
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Report in one line how it goes; what was said within the last minute is not repeated."""
        line = " ".join(self._clean(text).split())
        line = line if len(line) <= LONGEST_STATUS else f"{line[: LONGEST_STATUS - 1]}…"
        said, said_at = self._said
        if line != said or time.monotonic() - said_at >= AGAIN_AFTER_S:
            self._said = (line, time.monotonic())
            self._send(f"STATUS={line}")

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:  # nobody listens, or its queue is full: the watchdog's turn, not ours
            return


def _beat_every(environ: Mapping[str, str], pid: int) -> timedelta | None:
    """Return half of what the watchdog waits; None where there is none, or it watches another process."""
    try:
        limit = int(environ.get("WATCHDOG_USEC", ""))
        watched = int(environ.get("WATCHDOG_PID") or pid)
    except ValueError:
        return None
    return limit * _MICROSECOND / 2 if limit > 0 and watched == pid else None
