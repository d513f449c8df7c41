"""What one exchange with a cloud may cost, whatever the cloud sends: time, headers, memory, and who pays."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ddslogd.huaweicloud import response_limits
from ddslogd.huaweicloud.http import Http, new_session
from ddslogd.model.errors import Oversized, Unavailable
from ddslogd.scheduling.clock import Skew
from support.clocks import ManualClock
from support.hostile_cloud import hostile, reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiohttp

    from ddslogd.huaweicloud.http import Reply
    from support.hostile_cloud import Asked

MIB = 1024 * 1024
INTERIM = b"HTTP/1.1 100 \r\n\r\n"


def session(*, connections: int = 8) -> aiohttp.ClientSession:
    return new_session(ca_file=None, proxy=None, connect_timeout_s=5, read_timeout_s=60, most_connections=connections)


async def called(
    answer: Callable[[Asked, asyncio.StreamWriter], Awaitable[None]],
    *,
    limit_s: float = 60,
    max_header: int = response_limits.MAX_HEADER,
) -> Reply:
    async with hostile(answer) as server, session() as opened:
        http = Http(opened, clock=ManualClock(), skew=Skew(), limit_s=limit_s, max_header=max_header)
        return await http.call("GET", f"{server.endpoint}/v3/x", headers={}, body=b"")


async def test_interim_replies_without_end_end_the_exchange() -> None:
    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(INTERIM * 1000)
            await writer.drain()

    with pytest.raises(Oversized, match="more than 20 interim replies"):
        await called(answer)


async def test_a_few_interim_replies_are_none_of_ours() -> None:
    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(INTERIM * response_limits.MOST_INTERIM + reply({}))

    assert (await called(answer)).body == b"{}"


@pytest.mark.parametrize("surplus", [INTERIM, reply({})], ids=["interim", "whole"])
async def test_what_nobody_asked_for_ends_a_connection_that_waits_in_the_pool(surplus: bytes) -> None:
    """aiohttp keeps it all: 300 MiB within seconds. The next request has a connection of its own."""

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply({}))
        await writer.drain()
        while True:
            writer.write(surplus * 1000)
            await writer.drain()

    async with hostile(answer) as server, session() as opened:
        http = Http(opened, clock=ManualClock(), skew=Skew())
        for number in range(3):
            await http.call("GET", f"{server.endpoint}/v3/x", headers={}, body=b"")
            async with asyncio.timeout(20):
                while server.lost <= number:  # the server learns that its connection was ended
                    await asyncio.sleep(0.001)
        kept = [one for each in opened.connector._conns.values() for one in each]  # type: ignore[union-attr]

    assert (len(server.asked), [one for one, _ in kept if one.is_connected()]) == (3, [])


async def test_a_reply_behind_a_reply_spoils_no_other_exchange() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply({"own": asked.target}) + reply({"own": "smuggled"}))

    async with hostile(answer) as server, session(connections=1) as opened:
        http = Http(opened, clock=ManualClock(), skew=Skew())
        bodies = [
            (await http.call("GET", f"{server.endpoint}/{number}", headers={}, body=b"")).body for number in range(3)
        ]

    assert bodies == [b'{"own": "/0"}', b'{"own": "/1"}', b'{"own": "/2"}']


@pytest.mark.parametrize("dribbled", [b"HTTP/1.1 200 X\r\nA: ", b"HTTP/1.1 200 X\r\nContent-Length: 999999\r\n\r\n"])
async def test_bytes_that_dribble_end_with_the_time_of_the_exchange(dribbled: bytes) -> None:
    """Each byte puts off the time-out of silence."""

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(dribbled)
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.01)

    with pytest.raises(Unavailable, match=r"127\.0\.0\.1 gave no reply: it is not whole after 0\.5 s"):
        await called(answer, limit_s=0.5)


async def test_to_wait_for_a_connection_takes_no_time_of_the_exchange() -> None:
    """One connection, and eight calls that take most of the limit each."""

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.25)
        writer.write(reply({}))

    async with hostile(answer) as server, session(connections=1) as opened:
        http = Http(opened, clock=ManualClock(), skew=Skew(), limit_s=1.5)
        call = [http.call("GET", f"{server.endpoint}/v3/x", headers={}, body=b"") for _ in range(8)]
        replies = await asyncio.gather(*call)

    assert [one.status for one in replies] == [200] * 8


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 X\r\nContent-Length: {response_limits.MAX_BODY + 1}\r\n\r\n".encode())

    with pytest.raises(Oversized, match="its body is longer than 4194304 bytes: see endpoint"):
        await called(answer)


async def test_a_body_that_turns_out_too_large_is_not_read_on() -> None:
    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"a" * 65536 + b"\r\n")
            await writer.drain()

    with pytest.raises(Oversized, match="its body is longer than 4194304 bytes"):
        await called(answer)


async def test_a_body_of_the_largest_size_is_read() -> None:
    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"a" * response_limits.MAX_BODY))

    assert len((await called(answer)).body) == response_limits.MAX_BODY


async def test_few_large_bodies_are_held_at_a_time() -> None:
    """Of 32 calls whose bodies are all of the largest size."""
    most = held = 0

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"a" * response_limits.MAX_BODY))

    async with hostile(answer) as server, session(connections=32) as opened:
        http = Http(opened, clock=ManualClock(), skew=Skew())

        async def hold() -> None:
            nonlocal most, held
            async with http.exchange("GET", f"{server.endpoint}/v3/x", headers={}, body=b""):
                held += 1
                most = max(most, held)
                await asyncio.sleep(0.01)
                held -= 1

        await asyncio.gather(*(hold() for _ in range(32)))

    assert most == response_limits.MOST_LARGE_BODIES


def with_header(size: int, *, pieces: int = 1) -> Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]:
    """Return what answers with a header that has a value of so many bytes, in so many pieces."""

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        content = reply({}, headers=f"Date: x\r\nX-Subject-Token: {'t' * size}\r\n")
        each = -(-len(content) // pieces)
        for start in range(0, len(content), each):
            writer.write(content[start : start + each])
            await writer.drain()
            await asyncio.sleep(0)

    return answer


@pytest.mark.parametrize("pieces", [1, 50])
@pytest.mark.parametrize("limit", [response_limits.MAX_HEADER, response_limits.MAX_LOGIN_HEADER])
async def test_a_header_of_the_greatest_length_is_read(limit: int, pieces: int) -> None:
    size = limit - len("X-Subject-Token")

    found = await called(with_header(size, pieces=pieces), max_header=limit)

    assert len(found.headers["X-Subject-Token"]) == size


@pytest.mark.parametrize("pieces", [1, 50])
@pytest.mark.parametrize("limit", [response_limits.MAX_HEADER, response_limits.MAX_LOGIN_HEADER])
async def test_a_header_that_is_longer_is_named_and_its_value_is_not(limit: int, pieces: int) -> None:
    with pytest.raises(Oversized) as caught:
        await called(with_header(limit + 1, pieces=pieces), max_header=limit)

    assert f"the header X-Subject-Token of the reply is longer than {limit} bytes" in str(caught.value)
    assert "ttt" not in str(caught.value)


async def test_all_headers_together_are_bounded() -> None:
    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\n")
        for number in range(100):
            writer.write(f"X-{number}: {'a' * 30_000}\r\n".encode())
            await writer.drain()

    with pytest.raises(Oversized, match="the heads of the reply are longer than 131072 bytes"):
        await called(answer)


async def test_what_is_no_reply_is_said_in_words() -> None:
    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")

    with pytest.raises(Unavailable, match="gave no reply: what came is no reply of HTTP"):
        await called(answer)


async def test_chunks_of_a_byte_are_refused_and_larger_ones_are_not() -> None:
    """A megabyte in chunks of a byte keeps the loop for seconds."""

    def chunked(size: int) -> Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]:
        async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write((b"%x\r\n" % size + b"a" * size + b"\r\n") * (MIB // size) + b"0\r\n\r\n")

        return answer

    assert len((await called(chunked(16))).body) == MIB
    with pytest.raises(Oversized, match="its body comes in chunks of a few bytes"):
        await called(chunked(1))
