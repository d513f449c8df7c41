"""Looks up the hosts of links, and refuses addresses that no object store has: this host and its network segment.

A name that ``link_hosts`` allows may resolve to anything; 127.0.0.1 or the metadata service (169.254.169.254) would get
a request from within. Private addresses, and those of carriers (100.64.0.0/10), are good: inside the cloud the region's
object store has such. An address in the link itself never comes here: ``links.objection`` judges it.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from aiohttp.abc import AbstractResolver
from aiohttp.resolver import DefaultResolver

from ddslogd.huaweicloud.link import is_local_address

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult


class LocalAddress(OSError):
    """A name leads to this host or its network segment, where no object store is."""


class LinkResolver(AbstractResolver):
    """The host's resolver, without the addresses that a link must not lead to.

    Where a proxy is on the way, the proxy resolves the names of links, and this is of no use.
    """

    def __init__(self, *, inner: AbstractResolver | None = None) -> None:
        """Prepare; ``inner`` looks names up, the host's own resolver where it is None."""
        self._inner = inner or DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name that may be connected to.

        Raises:
            LocalAddress: It has addresses, and all of them are local.
            OSError: It has none.
        """
        found = await self._inner.resolve(host, port, family)
        allowed = [one for one in found if not is_local_address(one["host"])]
        if found and not allowed:
            raise LocalAddress
        return allowed

    async def close(self) -> None:
        """Close what it looks up with."""
        await self._inner.close()
