"""Transfers that dribble: they give up their slot while others wait for one, and are resumed behind them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ddslogd.download.delta import HEAD
from ddslogd.download.retry_policy import FRUITFUL, Effort
from ddslogd.download.slots import Slots
from ddslogd.download.throughput import Throughput
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.errors import TooSlow
from ddslogd.sandbox import replica_set
from support.clocks import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ddslogd.sandbox import Sandbox
    from support.testbed import Bed

LOG = b"".join(b"line %06d of the log\n" % number for number in range(20_000))  # 460,000 bytes
SPEED = 300.0  # policy time passes so many times as fast as a dribbling server's


class HastyClock(ManualClock):
    """Policy time whose steady seconds pass by themselves, so that a minute of dribbling is a fifth of a second."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() * SPEED


@pytest.fixture
def clock() -> ManualClock:
    return HastyClock()


@pytest.fixture
async def trio(bed: Bed) -> AsyncIterator[Sandbox]:
    """Three nodes whose exports are ready together, and one slot for their files."""
    bed.set("concurrent: 16", "concurrent: 1")
    async with bed.cloud(fleet=(replica_set("trio"),), export_takes=(0.0, 0.0)) as sandbox:
        for node in sandbox.fleet[0].nodes:
            sandbox.write(node.name, node.name.encode() + LOG)
        yield sandbox


def asked(sandbox: Sandbox) -> list[str]:
    """Return what was asked for, a letter for each object and ``+`` where it was gone on with."""
    requests = [request for request in sandbox.requests if request.kind == "object"]
    objects = [request.path.partition("?")[0] for request in requests]
    letters = dict(zip(dict.fromkeys(objects), "abc", strict=True))
    return [letters[key] + ("+" if request.range else "") for key, request in zip(objects, requests, strict=True)]


async def test_who_dribbles_while_others_wait_goes_to_the_end_of_the_queue(trio: Sandbox, bed: Bed) -> None:
    """It goes on from where it was."""
    trio.faults.paces = [1000.0]

    report = await bed.collect()

    assert (report.stored, asked(trio)) == (3, ["a", "b", "c", "a+"])
    assert sorted(bed.contents()) == sorted(node.name.encode() + LOG for node in trio.fleet[0].nodes)
    assert report.fetched_bytes < 3 * len(LOG) + 1000


async def test_who_dribbles_while_nobody_waits_may_go_on(bed: Bed) -> None:
    bed.set("concurrent: 16", "concurrent: 1")
    bed.sandbox.write("solo_single_node_1", LOG[:1000])
    bed.sandbox.faults.paces = [1500.0]

    report = await bed.collect()

    assert (report.stored, bed.sandbox.calls["object"]) == (1, 1)


async def test_as_often_as_attempts_says(trio: Sandbox, bed: Bed) -> None:
    """Two of three dribble for as long as others wait; the last one has nobody behind it."""
    bed.set("attempts: 5", "attempts: 2")
    trio.faults.paces = [1000.0, 1000.0, 1e9, 1000.0, 1e9]

    report = await bed.collect()

    (failed,) = report.failures
    assert asked(trio) == ["a", "b", "c", "a+", "b+"]
    assert (report.outcome, failed.kind, "download.min_rate" in failed.reason) == (
        CycleOutcome.PARTIAL,
        "too_slow",
        True,
    )


async def test_no_rate_is_too_low_where_none_is_asked_for(trio: Sandbox, bed: Bed) -> None:
    bed.set("attempts: 5", "attempts: 5\n  min_rate: 0")
    for node in trio.fleet[0].nodes:
        trio.rewrite(node.name, node.name.encode() + LOG[:1000])
    trio.faults.bytes_per_second = 2500.0

    report = await bed.collect()

    assert (report.stored, asked(trio)) == (3, ["a", "b", "c"])


async def test_first_bytes_that_dribble_hold_no_slot_either(trio: Sandbox, bed: Bed) -> None:
    """They are asked for again behind the others, and nothing is fetched whole."""
    await bed.collect()
    for node in trio.fleet[0].nodes:
        trio.write(node.name, b"one line more\n")
    bed.clock.forward(minutes=20)
    trio.requests.clear()
    trio.faults.paces = [1000.0]

    report = await bed.collect()

    ranges = [request.range for request in trio.requests if request.kind == "object"]
    assert (report.stored, ranges.count(f"bytes=0-{HEAD - 1}"), len(ranges)) == (3, 4, 7)


async def test_an_answer_whose_head_dribbles_is_given_up(bed: Bed) -> None:
    """Each byte is a sign of life, and there may be thousands before the first one of the body."""
    bed.set("stall_timeout: 60s", "stall_timeout: 200ms\n  connect_timeout: 200ms\n  attempts: 1")
    bed.set("  attempts: 5\n", "")
    bed.sandbox.write("solo_single_node_1", LOG)

    over = asyncio.Event()

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nX-Padding: ")
        given_up = asyncio.create_task(reader.read())
        for _ in range(100):
            writer.write(b"x")
            if given_up in (await asyncio.wait([given_up], timeout=0.05))[0]:
                break
        given_up.cancel()
        writer.transport.abort()
        over.set()

    server = await asyncio.start_server(dribble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    bed.sandbox.faults.link_rewrite = lambda link: link.replace(bed.sandbox.endpoint, f"http://127.0.0.1:{port}")
    async with server:
        report = await bed.collect()
        await over.wait()

    assert report.failures[0].reason == "the object store broke off: time-out"


async def test_a_body_may_take_longer_than_its_head(bed: Bed) -> None:
    bed.set("stall_timeout: 60s", "stall_timeout: 400ms\n  connect_timeout: 100ms")
    bed.sandbox.write("solo_single_node_1", LOG)
    bed.sandbox.faults.paces = [len(LOG) / 0.8]

    await bed.collect()

    assert (bed.contents(), bed.sandbox.calls["object"]) == ([LOG], 1)


# --- the rule ---------------------------------------------------------------------------------------------------------


class Queue(Slots):
    """Slots with as many waiting as a test says."""

    def __init__(self, waiting: int) -> None:
        super().__init__(1)
        self.waiting = waiting


def measured(*, waiting: int = 1, least: int = 1024) -> tuple[Throughput, ManualClock, Queue]:
    clock, queue = ManualClock(), Queue(waiting)
    return Throughput(least=least, slots=queue, clock=clock), clock, queue


def test_less_than_a_minute_says_nothing() -> None:
    throughput, clock, _ = measured()

    clock.forward(seconds=59)
    throughput.took(1)


@pytest.mark.parametrize(("size", "slow"), [(60 * 1024 - 1, True), (60 * 1024, False)])
def test_a_minute_is_too_slow_below_the_rate(size: int, *, slow: bool) -> None:
    throughput, clock, _ = measured()
    clock.forward(seconds=60)

    if slow:
        with pytest.raises(TooSlow):
            throughput.took(size)
    else:
        throughput.took(size)


def test_who_comes_to_wait_later_need_not_wait_for_another_minute() -> None:
    throughput, clock, queue = measured(waiting=0)
    clock.forward(seconds=60)
    throughput.took(1)
    queue.waiting = 1

    with pytest.raises(TooSlow):
        throughput.took(1)


def test_who_has_recovered_may_go_on() -> None:
    throughput, clock, queue = measured(waiting=0)
    clock.forward(seconds=60)
    throughput.took(1)
    clock.forward(seconds=10)
    throughput.took(60 * 1024)
    queue.waiting = 1

    throughput.took(1)


def test_the_time_that_we_take_is_not_the_servers() -> None:
    throughput, clock, _ = measured()
    clock.forward(seconds=600)
    throughput.restart()

    throughput.took(1)


def test_to_be_too_slow_is_a_try_whatever_came_and_takes_no_wait() -> None:
    effort = Effort(tries=3)
    waits = [effort.judge(TooSlow("slow"), size=number * FRUITFUL) for number in (1, 2)]

    with pytest.raises(TooSlow):
        effort.judge(TooSlow("slow"), size=3 * FRUITFUL)

    assert waits == [0.0, 0.0]


async def test_slots_know_who_waits() -> None:
    slots, go = Slots(1), asyncio.Event()

    async def hold() -> None:
        async with slots:
            await go.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting = [slots.waiting]
    tasks[2].cancel()
    await asyncio.wait([tasks[2]])
    waiting.append(slots.waiting)
    go.set()
    await asyncio.wait(tasks)

    assert (*waiting, slots.waiting) == (2, 1, 0)
