"""The page, the metrics and the checks of health over HTTP, and what commands ask by the daemon's unix socket.

Read only: nothing can be changed here. There is no login, so the page listens on loopback unless it is told otherwise.
A browser on this host may be made to ask for any page that its name leads to: so a name that is not ours is refused
(DNS rebinding), and so is what a page of another site asks for, unless somebody followed a link.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from aiohttp import web

from ddslogd.model.errors import ConfigError, StorageError
from ddslogd.model.units import iso_time
from ddslogd.monitoring import metrics
from ddslogd.monitoring.status import State
from ddslogd.monitoring.status_json import as_json, instance_as_json
from ddslogd.monitoring.status_reader import cleaned
from ddslogd.web import table_query
from ddslogd.web.connections import HEADERS, LIMIT_S, Connection, Gate, most_connections
from ddslogd.web.listener import AGAIN_S, Address, ControlSocket, Port, keep
from ddslogd.web.shared_response import Body, Replies

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from aiohttp.typedefs import Handler, Middleware

    from ddslogd.config.settings import Web
    from ddslogd.monitoring.status import InstanceStatus, Status
    from ddslogd.monitoring.status_reader import Observer
    from ddslogd.storage.ledger.status_queries import RecentGap

log = structlog.get_logger()

_VERBS = {"GET", "HEAD"}
_OWN_NAMES = {"localhost", "localhost.localdomain"}
_PATIENCE_S = 2.0  # for requests that run when it ends
_FEW = 16  # connections of commands at a time
_SAME_SITE = {"", "none", "same-origin"}  # what Sec-Fetch-Site says of requests that no other site makes
_TEXT, _JSON, _HTML = "text/plain; charset=utf-8", "application/json; charset=utf-8", "text/html; charset=utf-8"


class Source(Protocol):
    """Returns the status."""

    def __call__(self, *, nodes_of: str | None = None, all_nodes: bool = False) -> Awaitable[Status]:
        """Return it now, with the nodes of an instance or of all."""


class Page(Protocol):
    """Makes what browsers show. Called in a thread; each text is a whole document."""

    def overview(self, status: Status, query: Mapping[str, str]) -> str:
        """Return the page of all instances."""

    def instance(self, status: Status, instance: InstanceStatus, query: Mapping[str, str]) -> str:
        """Return the page of one, with its nodes."""

    def missing(self, status: Status, name: str) -> str:
        """Return the page that says that there is no such instance."""

    def static(self, name: str) -> tuple[str, bytes] | None:
        """Return the content type and the bytes of a file next to the pages; None where there is no such file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is shown.

    Attributes:
        status: Gives the status, free of secrets.
        metrics: Gives the text for Prometheus.
        gaps: Gives the gaps since a time (None: ever) of some instances (none: of all), as ``/api/v1/gaps`` has them.
        listings: Asks the clouds for their instances; None where whoever connects may not have that done.
        kept_s: So long what was asked for will do for others.
    """

    status: Source
    metrics: Callable[[], Awaitable[bytes]]
    gaps: Callable[[datetime | None, tuple[str, ...]], Awaitable[dict[str, Any]]] | None = None
    listings: Callable[[], Awaitable[dict[str, Any]]] | None = None
    kept_s: float = 0.0


def application(sources: Sources, page: Page | None, *, hosts: Collection[str] = ()) -> web.Application:
    """Return the application.

    Args:
        sources: What is shown.
        page: Makes the pages; None for a plain list.
        hosts: Names it may be asked by, next to loopback's and addresses.
    """
    app = web.Application(middlewares=[_guard_of({host.lower() for host in hosts} | _OWN_NAMES)])
    app.on_response_prepare.append(_add_headers)
    site = _Site(sources, page)
    for path, handler in (
        ("/", site.overview),
        ("/instances/{name:.+}", site.instance),
        ("/static/{name}", site.static),
        ("/metrics", site.metrics),
        ("/healthz", site.healthz),
        ("/readyz", site.readyz),
        ("/api/v1/status", site.api_status),
        ("/api/v1/instances/{name:.+}", site.api_instance),
        ("/api/v1/gaps", site.api_gaps),
        *((("/api/v1/listings", site.api_listings),) if sources.listings else ()),
    ):
        app.router.add_get(path, handler)
    return app


class Listener:
    """What listens."""

    def __init__(self, port: Port | None, addresses: Sequence[Address]) -> None:
        self._port = port
        self._addresses = addresses

    @property
    def address(self) -> tuple[str, int] | None:
        """Return host and port of the page; None while it has none."""
        return self._port.name if self._port else None

    @property
    def trouble(self) -> str:
        """Return why nobody can connect somewhere, as a part of a sentence; empty where everybody can."""
        return "; ".join(one.trouble for one in self._addresses if one.trouble)


@asynccontextmanager
async def listening(
    settings: Web,
    observer: Observer,
    *,
    clean: Callable[[str], str],
    page: Page | None = None,
    socket_at: Path | None = None,
    listings: Callable[[], Awaitable[dict[str, Any]]] | None = None,
    given: Sequence[socket.socket] = (),
    again_s: float = AGAIN_S,
) -> AsyncIterator[Listener]:
    """Serve meanwhile. An address that cannot be had is tried again.

    Args:
        settings: Where the page is.
        observer: Gives what is shown.
        clean: Takes secrets out of a text.
        page: Makes the pages.
        socket_at: Where commands ask; None for nowhere.
        listings: Asks the clouds for their instances, for commands.
        given: Sockets of the page that were opened before the start.
        again_s: After so long.
    """

    async def source(*, nodes_of: str | None = None, all_nodes: bool = False) -> Status:
        status = await observer.status(nodes_of=nodes_of, all_nodes=all_nodes)
        return await asyncio.to_thread(cleaned, status, clean)

    async def measured() -> bytes:
        status = await observer.status()
        return await asyncio.to_thread(metrics.rendered, status, observer.counts())

    sources = partial(Sources, status=source, metrics=measured, gaps=observer.gaps, kept_s=observer.kept_s)
    async with AsyncExitStack() as stack:
        addresses: list[Address] = []
        port = None
        if settings.enabled:
            app = application(sources(), page, hosts=settings.hosts)
            gate = await _gate(app, stack, most=most_connections())
            port = Port(gate, settings.address, given=given, setting=settings.listen)
            addresses.append(port)
        if socket_at is not None:
            app = application(sources(listings=listings), None)
            addresses.append(ControlSocket(await _gate(app, stack, most=_FEW), socket_at))
        for one in addresses:
            stack.callback(one.close)
            await one.attempt()
        keeping = asyncio.create_task(keep(addresses, again_s=again_s), name="addresses")
        try:
            yield Listener(port, addresses)
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])


async def _gate(app: web.Application, stack: AsyncExitStack, *, most: int) -> Gate:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_PATIENCE_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    assert runner.server is not None  # noqa: S101  # it is set up
    return Gate(runner.server, asyncio.get_running_loop(), most=most, limit_s=LIMIT_S)


def _guard_of(hosts: Collection[str]) -> Middleware:
    """Return the middleware that lets nothing through but a reading request by a name of ours."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in _VERBS:
            raise web.HTTPMethodNotAllowed(
                request.method, sorted(_VERBS), text="405: there is nothing to change here\n"
            )
        if not _is_ours(request.headers.get("Host", ""), hosts):
            raise web.HTTPMisdirectedRequest(text="421: not by this name; see web.hosts in the configuration\n")
        if _is_of_another_site(request):
            raise web.HTTPForbidden(text="403: not for pages of other sites\n")
        try:
            with request.protocol.serving() if isinstance(request.protocol, Connection) else nullcontext():
                return await handler(request)
        except (StorageError, ConfigError) as exc:
            log.warning("web.failed", path=request.path, reason=str(exc))
            raise web.HTTPServiceUnavailable(text="503: the ledger or the disk cannot be read: see the log\n") from exc

    return guard


def _is_of_another_site(request: web.Request) -> bool:
    """Return whether a page of another site asks, by what its browser says; a link to a page may be followed.

    Another port of this host counts as the same site, and may be anybody's.
    """
    said = request.headers
    if said.get("Sec-Fetch-Site", "") in _SAME_SITE:
        return False
    followed = said.get("Sec-Fetch-Mode") == "navigate" and said.get("Sec-Fetch-Dest") == "document"
    return not (followed and (request.path == "/" or request.path.startswith("/instances/")))


def _is_ours(host: str, hosts: Collection[str]) -> bool:
    """Return whether a Host header may be used. An address misleads nobody: no other page can have it as its own."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name.lower().rstrip(".") in hosts:
        return True
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    response.headers.pop("Server", None)


class _Site:
    def __init__(self, sources: Sources, page: Page | None) -> None:
        self._sources = sources
        self._page = page
        self._replies = Replies(kept_s=sources.kept_s)

    async def overview(self, request: web.Request) -> web.StreamResponse:
        asked = dict(request.query)

        async def make() -> Body:
            status = await self._sources.status()
            if self._page is None:
                return _text(_plain_list(status), _TEXT)
            return _text(await asyncio.to_thread(self._page.overview, status, asked), _HTML)

        return await self._replies.send(request, ("/", table_query.read(asked)), make)

    async def instance(self, request: web.Request) -> web.StreamResponse:
        if self._page is None:
            return await self.api_instance(request)
        page, name = self._page, request.match_info["name"]

        async def make() -> Body:
            status, instance = await self._found(name)
            if instance is None:
                return _text(await asyncio.to_thread(page.missing, status, name), _HTML, status=404)
            return _text(await asyncio.to_thread(page.instance, status, instance, dict(request.query)), _HTML)

        return await self._replies.send(request, ("/instances", name), make)

    async def static(self, request: web.Request) -> web.StreamResponse:
        found = self._page.static(request.match_info["name"]) if self._page is not None else None
        if found is None:
            raise web.HTTPNotFound
        kind, content = found
        if kind.startswith("text/"):
            kind = f"{kind}; charset=utf-8"
        return await self._replies.send(request, request.path, partial(_ready, Body(data=content, kind=kind)))

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        async def make() -> Body:
            return Body(data=await self._sources.metrics(), kind=metrics.CONTENT_TYPE)

        return await self._replies.send(request, "/metrics", make)

    async def healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok: the loop turns\n")

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        async def make() -> Body:
            return await asyncio.to_thread(_readiness, await self._sources.status())

        return await self._replies.send(request, "/readyz", make)

    async def api_status(self, request: web.Request) -> web.StreamResponse:
        nodes = request.query.get("nodes") == "1"

        async def make() -> Body:
            status = await self._sources.status(all_nodes=nodes)
            return await asyncio.to_thread(lambda: Body(data=as_json(status, nodes=nodes), kind=_JSON))

        return await self._replies.send(request, ("/api/v1/status", nodes), make)

    async def api_instance(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]

        async def make() -> Body:
            _, instance = await self._found(name)
            if instance is None:
                return _text("404: there is no instance of this name\n", _TEXT, status=404)
            return Body(data=instance_as_json(instance), kind=_JSON)

        return await self._replies.send(request, ("/api/v1/instances", name), make)

    async def api_gaps(self, request: web.Request) -> web.StreamResponse:
        gaps = self._sources.gaps
        if gaps is None:
            raise web.HTTPNotFound
        since, names = _since(request.query.get("since", "")), tuple(sorted(set(request.query.getall("instance", ()))))

        async def make() -> Body:
            found = await gaps(since, names)
            return await asyncio.to_thread(lambda: _text(json.dumps(found), _JSON))

        return await self._replies.send(request, ("/api/v1/gaps", since, names), make)

    async def api_listings(self, request: web.Request) -> web.StreamResponse:
        listings = self._sources.listings
        if listings is None:
            raise web.HTTPNotFound

        async def make() -> Body:
            found = await listings()
            return await asyncio.to_thread(lambda: _text(json.dumps(found), _JSON))

        return await self._replies.send(request, "/api/v1/listings", make)

    async def _found(self, name: str) -> tuple[Status, InstanceStatus | None]:
        status = await self._sources.status(nodes_of=name)
        return status, next((one for one in status.instances if one.name == name), None)


async def _ready(body: Body) -> Body:
    return body


def _text(text: str, kind: str, *, status: int = 200) -> Body:
    return Body(data=text.encode(), kind=kind, status=status)


def _since(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError as exc:
        raise web.HTTPBadRequest(text="400: since is no time like 2026-11-24T08:00:00Z\n") from exc
    if moment is not None and moment.tzinfo is None:
        raise web.HTTPBadRequest(text="400: since needs its offset, as in 2026-11-24T08:00:00Z\n")
    return moment


def _readiness(status: Status) -> Body:
    unlisted = {cloud.name: cloud.unlisted for cloud in status.clouds if cloud.unlisted}
    ready = not status.stale and unlisted.keys() <= {one.cloud for one in status.instances}
    found = {
        "ready": ready,
        "headline": status.headline,
        "stale": [_brief(one) for one in status.instances if one.state is State.STALE],
        "new": [one.name for one in status.instances if one.state is State.NEW],
        "gaps_24h": status.gaps_24h,
        "gaps": [_brief_gap(one, gap) for one in status.instances for gap in one.new_gaps],
        "unlisted": unlisted,
        "nodes": [
            {
                "instance": one.name,
                "node": node.node,
                "log": node.log,
                "state": node.state,
                "since": iso_time(node.since),
            }
            for one in status.instances
            for node in one.node_troubles
        ],
    }
    return _text(json.dumps(found, indent=2), _JSON, status=200 if ready else 503)


def _brief(instance: InstanceStatus) -> dict[str, Any]:
    return {
        "name": instance.name,
        "age_s": instance.age_s,
        "target_s": instance.target_s,
        "turn": instance.turn,
        "why": instance.why,
    }


def _brief_gap(instance: InstanceStatus, gap: RecentGap) -> dict[str, Any]:
    return {
        "instance": instance.name,
        "node": gap.node,
        "log": gap.log,
        "cause": gap.cause,
        "noted": iso_time(gap.noted_at),
    }


def _plain_list(status: Status) -> str:
    rows = (f"{one.state:<6} {one.name}  {one.why}".rstrip() for one in status.instances)
    return "\n".join((status.headline, "", *rows, ""))
