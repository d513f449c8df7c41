"""What neighbours on the host do to the page: too many connections, silence, replies that nobody reads, no HTTP."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
import tracemalloc
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from ddslogd.web.connections import HEADERS, MOST, Gate, most_connections
from ddslogd.web.server import Sources, application
from ddslogd.web.shared_response import PIECE, Body, Replies
from support.live_status import status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from ddslogd.monitoring.status import InstanceStatus, Status

LARGE = 3 * 1024 * 1024  # bytes: the page of thousands of instances
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LONG_S = 3600.0  # as good as never


class Large:
    """Pages that are large, and counted."""

    def __init__(self) -> None:
        self.made = 0

    def overview(self, status: Status, query: Mapping[str, str]) -> str:
        del status, query
        self.made += 1
        return "x" * LARGE

    def instance(self, status: Status, instance: InstanceStatus, query: Mapping[str, str]) -> str:
        del status, instance, query
        raise RuntimeError("a bug")

    def missing(self, status: Status, name: str) -> str:
        return f"{status.headline} {name}"

    def static(self, name: str) -> tuple[str, bytes] | None:
        del name
        return None


async def status(*, nodes_of: str | None = None, all_nodes: bool = False) -> Status:
    del nodes_of, all_nodes
    return status_of("orders")


async def measured() -> bytes:
    return b""


@asynccontextmanager
async def serving(app: web.Application, *, most: int = MOST, limit_s: float = LONG_S) -> AsyncIterator[tuple[str, int]]:
    async with gated(app, most=most, limit_s=limit_s) as (address, _):
        yield address


@asynccontextmanager
async def gated(app: web.Application, *, most: int, limit_s: float) -> AsyncIterator[tuple[tuple[str, int], Gate]]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server is not None
    loop = asyncio.get_running_loop()
    gate = Gate(runner.server, loop, most=most, limit_s=limit_s)
    server = await loop.create_server(gate, "127.0.0.1", 0)
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    try:
        yield server.sockets[0].getsockname(), gate
    finally:
        server.close()
        await runner.cleanup()


def site(page: Large | None = None, *, kept_s: float = LONG_S) -> web.Application:
    return application(Sources(status=status, metrics=measured, kept_s=kept_s), page or Large())


async def connected(stack: ExitStack, address: tuple[str, int]) -> socket.socket:
    """Connect, with little room for what comes."""
    one = stack.enter_context(socket.socket())
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(0)
    await asyncio.get_running_loop().sock_connect(one, address)
    return one


async def told(one: socket.socket) -> bytes:
    """Read until the other end closes."""
    loop, found = asyncio.get_running_loop(), b""
    async with asyncio.timeout(30):
        try:
            while more := await loop.sock_recv(one, 65536):
                found += more
        except ConnectionResetError:
            pass
    return found


async def asked(stack: ExitStack, address: tuple[str, int], request: bytes) -> socket.socket:
    one = await connected(stack, address)
    await asyncio.get_running_loop().sock_sendall(one, request)
    return one


async def first(one: socket.socket, size: int = 12) -> bytes:
    async with asyncio.timeout(30):
        return await asyncio.get_running_loop().sock_recv(one, size)


async def test_idle_connections_leave_room_for_who_asks() -> None:
    """The one that has been silent for longest makes it."""
    async with serving(site(), most=4) as address:
        with ExitStack() as stack:
            idle = []
            for _ in range(40):
                idle.append(await connected(stack, address))
                await asyncio.sleep(0)  # in this order
            answer = await first(await asked(stack, address, HEALTH))
            closed = await told(idle[0])

    assert (answer, closed) == (b"HTTP/1.1 200", b"")


async def test_where_all_are_busy_one_more_is_refused_with_our_headers() -> None:
    async with serving(site(), most=2) as address:
        with ExitStack() as stack:
            for _ in range(2):
                await first(await asked(stack, address, GET))
            refused = await told(await connected(stack, address))

    head = refused.decode().splitlines()
    assert head[0] == "HTTP/1.1 503 Service Unavailable"
    assert {f"{name}: {value}" for name, value in HEADERS.items()} <= set(head)


@pytest.mark.parametrize("sent", [b"", GET[:-2], HEALTH], ids=["nothing", "a part of a head", "one whole request"])
async def test_who_is_silent_for_too_long_is_closed(sent: bytes) -> None:
    async with serving(site(), limit_s=0.05) as address:
        with ExitStack() as stack:
            answer = await told(await asked(stack, address, sent))

    assert answer.startswith(b"HTTP/1.1 200") == (sent == HEALTH)


async def test_a_head_that_comes_a_byte_at_a_time_is_not_waited_for() -> None:
    async def trickle(one: socket.socket) -> None:
        while True:
            await asyncio.get_running_loop().sock_sendall(one, b"x")
            await asyncio.sleep(0.001)

    async with serving(site(), limit_s=0.1) as address:
        with ExitStack() as stack:
            one = await asked(stack, address, GET[:-2])
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(30):
                    await trickle(one)


async def test_a_reply_that_nobody_reads_is_cut_off() -> None:
    page = Large()
    replies = Replies(kept_s=LONG_S, limit_s=0.05)

    async def slow(request: web.Request) -> web.StreamResponse:
        async def make() -> Body:
            return Body(data=page.overview(await status(), {}).encode(), kind="text/plain")

        return await replies.send(request, "/", make)

    app = web.Application()
    app.router.add_get("/", slow)
    async with serving(app) as address:
        with ExitStack() as stack:
            one = await asked(stack, address, GET)
            async with asyncio.timeout(30):
                while replies.held or not page.made:
                    await asyncio.sleep(0.01)
            answer = await told(one)

    assert len(answer) < LARGE


@pytest.mark.parametrize("pieces", [1, 2])
async def test_the_last_piece_that_nobody_reads_keeps_no_connection(pieces: int) -> None:
    """It is handed to the transport, and then waited for by nobody."""

    class Page(Large):
        def overview(self, status: Status, query: Mapping[str, str]) -> str:
            return super().overview(status, query)[: pieces * PIECE]

    async with gated(site(Page()), most=MOST, limit_s=0.05) as (address, gate):
        with ExitStack() as stack:
            one = await asked(stack, address, GET)
            begun = await first(one)
            async with asyncio.timeout(30):
                while gate.number:
                    await asyncio.sleep(0.01)

    assert begun == b"HTTP/1.1 200"


async def test_a_reply_that_nobody_reads_keeps_no_connection_that_was_closed_politely() -> None:
    """As aiohttp does where the time between two requests is over: that waits for what is left to be sent."""

    class Page(Large):
        def overview(self, status: Status, query: Mapping[str, str]) -> str:
            return super().overview(status, query)[: 2 * PIECE]

    async with gated(site(Page()), most=MOST, limit_s=LONG_S) as (address, gate):
        with ExitStack() as stack:
            await first(await asked(stack, address, GET))
            (connection,) = gate._open
            async with asyncio.timeout(30):
                while connection.busy:
                    await asyncio.sleep(0.01)
                left = connection.transport.get_write_buffer_size() if connection.transport else 0
                connection.force_close()
                connection._expired()
                while gate.number:
                    await asyncio.sleep(0.01)

    assert left > 0


async def test_sixty_replies_that_nobody_reads_are_one_in_memory() -> None:
    page = Large()
    async with serving(site(page)) as address:
        with ExitStack() as stack:
            await first(await asked(stack, address, GET))
            tracemalloc.start()
            for number in range(60):  # what does not matter in the address makes no other reply
                one = await asked(stack, address, GET.replace(b"/ HTTP", b"/?nothing=%d HTTP" % number))
                assert await first(one) == b"HTTP/1.1 200"
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()

    assert (page.made, held < 20 * 1024 * 1024) == (1, True), held


async def test_replies_that_differ_are_bounded_too_and_the_newest_is_sent() -> None:
    page = Large()
    replies = Replies(kept_s=0, most_held=3 * LARGE)

    async def one_of_many(request: web.Request) -> web.StreamResponse:
        async def make() -> Body:
            return Body(data=page.overview(await status(), {}).encode(), kind="text/plain")

        return await replies.send(request, request.query_string, make)

    app = web.Application()
    app.router.add_get("/", one_of_many)
    async with serving(app) as address:
        with ExitStack() as stack:
            readers = [await asked(stack, address, GET)]
            await first(readers[0])
            for number in range(11):
                readers.append(await asked(stack, address, GET.replace(b"/ HTTP", b"/?%d HTTP" % number)))
                await first(readers[-1])
            held, length = replies.held, 0
            async with asyncio.timeout(30):
                while length < LARGE:
                    length += len(await asyncio.get_running_loop().sock_recv(readers[-1], 1 << 20))
            cut_off = len(await told(readers[0]))

    assert (page.made, held <= 3 * LARGE, cut_off < LARGE) == (12, True, True)


NO_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
    b"GET /\x00 HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("sent", NO_HTTP, ids=range(len(NO_HTTP)))
async def test_what_is_no_http_is_refused_with_our_headers_and_without_a_word_in_the_journal(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(site()) as address:
        with ExitStack() as stack, capture_logs() as events:
            answer = (await told(await asked(stack, address, sent))).decode()

    head = answer.partition("\r\n\r\n")[0].splitlines()
    assert head[0].startswith("HTTP/1.1 400") or head[0].startswith("HTTP/1.0 400")
    assert {f"{name}: {value}" for name, value in HEADERS.items()} <= set(head)
    assert ("aiohttp" in answer, "Python" in answer) == (False, False)
    assert ([event for event in events if event["log_level"] != "debug"], caplog.records) == ([], [])


async def test_a_bug_is_an_event_and_no_traceback_for_who_asked() -> None:
    async with serving(site()) as address:
        with ExitStack() as stack, capture_logs() as events:
            request = b"GET /instances/orders HTTP/1.1\r\nHost: localhost\r\n\r\n"
            answer = (await told(await asked(stack, address, request))).decode()

    assert answer.startswith("HTTP/1.1 500")
    assert answer.endswith("500: Internal Server Error\n")
    assert [event["event"] for event in events] == ["web.bug"]


@pytest.mark.parametrize(("limit", "most"), [(1024, 64), (256, 32), (4, 1)])
async def test_connections_take_a_small_share_of_the_descriptors(limit: int, most: int) -> None:
    """Collection needs the rest: one for each file that is on its way, and for each connection to a cloud."""
    program = f"""if True:
        import resource
        from ddslogd.web.connections import most_connections
        resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
        print(most_connections())
        """
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()

    assert (int(out), most_connections() <= MOST) == (most, True)


async def test_the_limit_of_descriptors_is_raised_as_far_as_it_may_be() -> None:
    program = """if True:
        import resource
        from ddslogd.web.connections import raise_descriptor_limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2048))
        raise_descriptor_limit()
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        """
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2048 and os.geteuid() != 0:
        pytest.skip("this process may not open as many files")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()

    assert int(out) == 2048
