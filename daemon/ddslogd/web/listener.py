"""Addresses that are listened at: tried again until they can be had, since collection does not wait for them."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from ddslogd.monitoring import control_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Protocols = Callable[[], asyncio.Protocol]

log = structlog.get_logger()

AGAIN_S: Final = 10.0
# Of what waits in the kernel for one reader. By itself it grows to 4 MiB a connection.
_KERNEL_BUFFER: Final = 128 * 1024


class Address(Protocol):
    """Something to listen at.

    Attributes:
        trouble: Why nobody can connect, as a part of a sentence; empty where everybody can.
    """

    trouble: str

    async def attempt(self) -> None:
        """Listen, unless that is done already."""

    def close(self) -> None:
        """Accept nobody any more."""


class Port:
    """The page's address, or what the service manager opened in its place.

    Attributes:
        trouble: See ``Address``.
        name: Host and port where it listens; None while it does not.
    """

    def __init__(
        self, protocols: Protocols, address: tuple[str, int], *, given: Sequence[socket.socket], setting: str
    ) -> None:
        self.trouble = ""
        self.name: tuple[str, int] | None = None
        self._protocols = protocols
        self._address = address
        self._given = given
        self._setting = setting
        self._servers: list[asyncio.Server] = []

    async def attempt(self) -> None:
        """Listen, unless that is done already."""
        if self._servers:
            return
        try:
            self._servers = await self._listen()
        except OSError as exc:
            reason = os.strerror(exc.errno) if exc.errno else str(exc)
            self._refused(reason)
            return
        sockets = [one for server in self._servers for one in server.sockets]
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER)  # who is accepted inherits it
        host, port, *_ = sockets[0].getsockname()
        self.name, self.trouble = (host, port), ""
        log.info("web.listening", host=host, port=port)

    def close(self) -> None:
        """Accept nobody any more."""
        for server in self._servers:
            server.close()
        self._servers = []

    async def _listen(self) -> list[asyncio.Server]:
        loop = asyncio.get_running_loop()
        if self._given:
            return [await loop.create_server(self._protocols, sock=one) for one in self._given]
        host, port = self._address
        return [await loop.create_server(self._protocols, host, port)]

    def _refused(self, reason: str) -> None:
        trouble = f"web.listen {self._setting} cannot be had ({reason})"
        if trouble != self.trouble:
            todo = "end what listens there, or set another address in web.listen, or web.enabled: false"
            log.warning("web.not_listening", listen=self._setting, reason=reason, again_s=AGAIN_S, todo=todo)
        self.trouble = trouble


class ControlSocket:
    """The unix socket by which commands ask. Made again where its file was removed.

    Attributes:
        trouble: See ``Address``.
    """

    def __init__(self, protocols: Protocols, path: Path) -> None:
        self.trouble = ""
        self._protocols = protocols
        self._path = path
        self._server: asyncio.Server | None = None
        self._number: tuple[int, int] | None = None

    async def attempt(self) -> None:
        """Listen, unless that is done already."""
        if self._server is not None and control_socket.number_of(self._path) == self._number:
            return
        self.close()
        try:
            listening = control_socket.listen(self._path)
        except OSError as exc:
            self._refused(exc.strerror or str(exc))
            return
        self._number = control_socket.number_of(self._path)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER)
        self._server = await asyncio.get_running_loop().create_unix_server(self._protocols, sock=listening)
        self.trouble = ""
        log.debug("web.socket_listening", path=str(self._path))

    def close(self) -> None:
        """Accept nobody any more, and remove the file."""
        if self._server is None:
            return
        self._server.close()
        control_socket.remove(self._path, self._number)
        self._server = self._number = None

    def _refused(self, reason: str) -> None:
        trouble = f"commands cannot ask by {self._path} ({reason})"
        if trouble != self.trouble:
            todo = "let the daemon's user write there, or set another path in web.socket"
            log.warning("web.socket_not_listening", path=str(self._path), reason=reason, again_s=AGAIN_S, todo=todo)
        self.trouble = trouble


async def keep(addresses: Sequence[Address], *, again_s: float) -> None:
    """Try those again that cannot be had, until cancelled. By the real time: other processes keep to it."""
    while True:
        await asyncio.sleep(again_s)
        for one in addresses:
            try:
                await one.attempt()
            except Exception:  # a bug here ends nothing else
                log.exception("web.bug")
