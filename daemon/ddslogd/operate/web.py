"""The page, the metrics and the checks of health over HTTP. Read only: nothing can be changed here.

There is no login, so it listens on loopback unless it is told otherwise. A browser on this host may be made to ask for
any page that its name leads to: so a name that is not ours is refused (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from aiohttp import web

from ddslogd.errors import ConfigError, NotListening, StorageError
from ddslogd.operate import metrics
from ddslogd.operate.observer import cleaned
from ddslogd.operate.status import State, as_object, instance_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping

    from aiohttp.typedefs import Handler, Middleware

    from ddslogd.config import Web
    from ddslogd.operate.observer import Observer
    from ddslogd.operate.status import Instance, Status

log = structlog.get_logger()

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self';"
        " base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_VERBS = {"GET", "HEAD"}
_OWN_NAMES = {"localhost", "localhost.localdomain"}
_PATIENCE_S = 2.0  # for requests that run when it ends


class Source(Protocol):
    """Gives the status."""

    def __call__(self, *, nodes_of: str | None = None, all_nodes: bool = False) -> Awaitable[Status]:
        """Give it now, with the nodes of an instance or of all."""


class Page(Protocol):
    """Makes what browsers show. Called in a thread; each text is a whole document."""

    def overview(self, status: Status, query: Mapping[str, str]) -> str:
        """Give the page of all instances."""

    def instance(self, status: Status, instance: Instance, query: Mapping[str, str]) -> str:
        """Give the page of one, with its nodes."""

    def missing(self, status: Status, name: str) -> str:
        """Give the page that says that there is no such instance."""

    def static(self, name: str) -> tuple[str, bytes] | None:
        """Give the content type and the bytes of a file beside the pages; None where there is no such file."""


def application(
    source: Source, measured: Callable[[], Awaitable[bytes]], page: Page | None, *, hosts: Collection[str] = ()
) -> web.Application:
    """Give the application.

    Args:
        source: Gives the status, free of secrets.
        measured: Gives the text for Prometheus.
        page: Makes the pages; None for a plain list.
        hosts: Names it may be asked by, beside loopback's and addresses.
    """
    app = web.Application(middlewares=[_guard_of({host.lower() for host in hosts} | _OWN_NAMES)])
    app.on_response_prepare.append(_add_headers)
    site = _Site(source, measured, page)
    for path, handler in (
        ("/", site.overview),
        ("/instances/{name:.+}", site.instance),
        ("/static/{name}", site.static),
        ("/metrics", site.metrics),
        ("/healthz", site.healthz),
        ("/readyz", site.readyz),
        ("/api/v1/status", site.api_status),
        ("/api/v1/instances/{name:.+}", site.api_instance),
    ):
        app.router.add_get(path, handler)
    return app


@asynccontextmanager
async def listening(
    settings: Web, observer: Observer, *, clean: Callable[[str], str], page: Page | None = None
) -> AsyncIterator[tuple[str, int] | None]:
    """Serve meanwhile; give the address, or None where it is not enabled.

    Args:
        settings: Where.
        observer: Gives what is shown.
        clean: Takes secrets out of a text.
        page: Makes the pages.

    Raises:
        NotListening: The port is taken, or the address is not this host's.
    """
    if not settings.enabled:
        yield None
        return

    async def source(*, nodes_of: str | None = None, all_nodes: bool = False) -> Status:
        status = await observer.status(nodes_of=nodes_of, all_nodes=all_nodes)
        return await asyncio.to_thread(cleaned, status, clean)

    async def measured() -> bytes:
        status = await observer.status()
        return await asyncio.to_thread(metrics.rendered, status, observer.counts())

    runner = web.AppRunner(
        application(source, measured, page, hosts=settings.hosts), access_log=None, shutdown_timeout=_PATIENCE_S
    )
    await runner.setup()
    try:
        address = await _bound(runner, settings)
        log.info("web.listening", host=address[0], port=address[1])
        yield address
    finally:
        await runner.cleanup()


async def _bound(runner: web.AppRunner, settings: Web) -> tuple[str, int]:
    host, port = settings.address
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        raise NotListening(
            f"web.listen {settings.listen} cannot be had ({reason}): end what listens there, or set another address in"
            " web.listen, or web.enabled: false"
        ) from exc
    host, port, *_ = runner.addresses[0]
    return host, port


def _guard_of(hosts: Collection[str]) -> Middleware:
    """Give the middleware that lets nothing through but a reading request by a name of ours."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in _VERBS:
            raise web.HTTPMethodNotAllowed(
                request.method, sorted(_VERBS), text="405: there is nothing to change here\n"
            )
        if not _is_ours(request.headers.get("Host", ""), hosts):
            raise web.HTTPMisdirectedRequest(text="421: not by this name; see web.hosts in the configuration\n")
        try:
            return await handler(request)
        except (StorageError, ConfigError) as exc:
            log.warning("web.failed", path=request.path, reason=str(exc))
            raise web.HTTPServiceUnavailable(text="503: the ledger or the disk cannot be read: see the log\n") from exc

    return guard


def _is_ours(host: str, hosts: Collection[str]) -> bool:
    """Tell whether a Host header may be used. An address leads nobody astray: no other page can have it as its own."""
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
    def __init__(self, source: Source, measured: Callable[[], Awaitable[bytes]], page: Page | None) -> None:
        self._source = source
        self._measured = measured
        self._page = page

    async def overview(self, request: web.Request) -> web.Response:
        status = await self._source()
        if self._page is None:
            return web.Response(text=_plain_list(status))
        text = await asyncio.to_thread(self._page.overview, status, dict(request.query))
        return web.Response(text=text, content_type="text/html")

    async def instance(self, request: web.Request) -> web.Response:
        if self._page is None:
            return await self.api_instance(request)
        name = request.match_info["name"]
        status, instance = await self._found(name)
        if instance is None:
            text = await asyncio.to_thread(self._page.missing, status, name)
            return web.Response(text=text, content_type="text/html", status=404)
        text = await asyncio.to_thread(self._page.instance, status, instance, dict(request.query))
        return web.Response(text=text, content_type="text/html")

    async def static(self, request: web.Request) -> web.Response:
        found = self._page.static(request.match_info["name"]) if self._page is not None else None
        if found is None:
            raise web.HTTPNotFound
        kind, content = found
        return web.Response(body=content, content_type=kind, charset="utf-8" if kind.startswith("text/") else None)

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._measured(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok: the loop turns\n")

    async def readyz(self, _: web.Request) -> web.Response:
        status = await self._source()
        unlisted = {cloud.name: cloud.unlisted for cloud in status.clouds if cloud.unlisted}
        ready = not status.stale and bool(status.instances or not unlisted)
        found = {
            "ready": ready,
            "headline": status.headline,
            "stale": [_brief(one) for one in status.instances if one.state is State.STALE],
            "new": [one.name for one in status.instances if one.state is State.NEW],
            "unlisted": unlisted,
        }
        return _json(json.dumps(found, indent=2), status=200 if ready else 503)

    async def api_status(self, request: web.Request) -> web.Response:
        nodes = request.query.get("nodes") == "1"
        status = await self._source(all_nodes=nodes)
        return _json(await asyncio.to_thread(lambda: json.dumps(as_object(status, nodes=nodes))))

    async def api_instance(self, request: web.Request) -> web.Response:
        _, instance = await self._one(request)
        return _json(json.dumps(instance_object(instance)))

    async def _one(self, request: web.Request) -> tuple[Status, Instance]:
        status, instance = await self._found(request.match_info["name"])
        if instance is None:
            raise web.HTTPNotFound(text="404: there is no instance of this name\n")
        return status, instance

    async def _found(self, name: str) -> tuple[Status, Instance | None]:
        status = await self._source(nodes_of=name)
        return status, next((one for one in status.instances if one.name == name), None)


def _brief(instance: Instance) -> dict[str, Any]:
    return {
        "name": instance.name,
        "age_s": instance.age_s,
        "target_s": instance.target_s,
        "turn": instance.turn,
        "why": instance.why,
    }


def _plain_list(status: Status) -> str:
    rows = (f"{one.state:<6} {one.name}  {one.why}".rstrip() for one in status.instances)
    return "\n".join((status.headline, "", *rows, ""))


def _json(text: str, *, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="application/json")
