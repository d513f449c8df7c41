"""Asks the page as a browser or a scraper does."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from ddslogd.config.settings import Web
from ddslogd.model.redactor import Redactor
from ddslogd.monitoring import control_socket
from ddslogd.monitoring.status_reader import Observer
from ddslogd.web.server import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from ddslogd.service.service import Service
    from ddslogd.web.server import Page
    from support.testbed import Bed


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What listens, and whom it shows."""

    bed: Bed
    service: Service
    address: tuple[str, int]

    async def ask(self, path: str, *, method: str = "GET", host: str | None = None) -> Answer:
        url = f"http://{self.address[0]}:{self.address[1]}{path}"
        headers = {} if host is None else {"Host": host}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, headers=headers) as reply,
        ):
            return Answer(status=reply.status, headers=reply.headers.copy(), text=await reply.text())

    async def instance(self) -> Any:
        (found,) = (await self.ask("/api/v1/status")).json["instances"]
        return found


@asynccontextmanager
async def served(bed: Bed, *, page: Page | None = None, hosts: tuple[str, ...] = ()) -> AsyncIterator[Site]:
    redactor = Redactor()
    for secret in bed.secrets:
        redactor.add(secret)
    async with (
        bed.open() as service,
        listening(
            Web(listen="127.0.0.1:0", hosts=hosts),
            Observer(service.daemon(), clock=bed.clock, kept_s=0),
            clean=redactor.clean,
            page=page,
            socket_at=control_socket.offered_at(bed.settings, {}),
            listings=service.listings,
        ) as listener,
    ):
        assert listener.address is not None
        yield Site(bed=bed, service=service, address=listener.address)
