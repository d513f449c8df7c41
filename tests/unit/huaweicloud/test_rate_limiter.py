"""The calls of one account, by the event loop's virtual time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
import structlog

from ddslogd.huaweicloud.circuit_breaker import OPEN_AFTER
from ddslogd.huaweicloud.rate_limiter import IN_PROGRESS, Budget
from ddslogd.model.errors import Gone, Unavailable
from support.clocks import LoopClock

pytestmark = pytest.mark.looptime


def budget(calls_per_minute: int = 60) -> Budget:
    return Budget(calls_per_minute=calls_per_minute, clock=LoopClock(), name="cloud")


async def calls(budget: Budget, number: int, urgency: float = 1.0) -> list[float]:
    """Make so many calls at once; give when each had its turn."""
    times: list[float] = []

    async def call() -> None:
        async with budget.call(urgency):
            times.append(asyncio.get_running_loop().time())

    async with asyncio.TaskGroup() as group:
        for _ in range(number):
            group.create_task(call())
    return times


@pytest.mark.parametrize("calls_per_minute", [1, 7, 60, 600])
async def test_no_60_seconds_see_more_calls_than_the_account_has(calls_per_minute: int) -> None:
    """Not even the first ones, where a bucket that starts full would let twice as many through."""
    times = await calls(budget(calls_per_minute), calls_per_minute * 3 + 2)

    most = max(sum(begin <= time < begin + 60 for time in times) for begin in times)
    assert most <= calls_per_minute


async def test_the_budget_is_used() -> None:
    """What is held back for the burst is a tenth."""
    times = await calls(budget(60), 300)

    assert max(times) < 300 * 1.2


async def test_what_has_begun_goes_before_what_is_to_begin_and_the_stalest_first() -> None:
    account, order = budget(), []

    async def call(name: str, urgency: float) -> None:
        async with account.call(urgency):
            order.append(name)

    await calls(account, 6)  # the burst is gone: from here on everybody waits
    async with asyncio.TaskGroup() as group:
        for name, urgency in (("fresh", 300.0), ("stale", 100.0), ("poll", IN_PROGRESS), ("middling", 200.0)):
            group.create_task(call(name, urgency))

    assert order == ["poll", "stale", "middling", "fresh"]


async def test_a_pause_holds_the_whole_account() -> None:
    account = budget()
    account.pause(100.0)

    times = await calls(account, 3)

    assert min(times) >= 100.0


async def test_a_waiter_that_is_cancelled_takes_no_turn() -> None:
    account = budget()
    await calls(account, 6)
    gone = asyncio.create_task(calls(account, 1))
    await asyncio.sleep(0)
    gone.cancel()

    (time,) = await calls(account, 1)

    assert time < 2.5


async def fail(account: Budget, status: int = 0) -> None:
    with pytest.raises(Unavailable):
        async with account.call(IN_PROGRESS):
            raise Unavailable("no answer", status=status)


async def test_after_some_silent_calls_the_account_is_left_alone() -> None:
    account = budget()
    for _ in range(OPEN_AFTER):
        await fail(account)

    with pytest.raises(Unavailable, match="gave no answer to the last 5 calls"):
        await calls_alone(account)


async def calls_alone(account: Budget) -> None:
    async with account.call(IN_PROGRESS):
        pass


async def test_an_answer_of_any_kind_is_no_silence() -> None:
    """A 503 comes from somebody."""
    account = budget()
    for _ in range(OPEN_AFTER * 2):
        await fail(account, status=503)

    await calls_alone(account)


async def test_one_probe_at_a_time_goes_through_and_its_success_opens_the_way() -> None:
    account = budget()
    for _ in range(OPEN_AFTER):
        await fail(account)
    await asyncio.sleep(6)
    hold = asyncio.Event()

    async def probe() -> None:
        async with account.call(IN_PROGRESS):
            await hold.wait()

    probing = asyncio.create_task(probe())
    await asyncio.sleep(3)
    with pytest.raises(Unavailable):
        await calls_alone(account)
    hold.set()
    await probing

    await calls_alone(account)


async def test_calls_that_wait_already_are_refused_once_the_circuit_opens() -> None:
    """Else a queue of a thousand would knock at a dead door for many minutes."""
    account = budget()
    tried = 0

    async def knock() -> None:
        nonlocal tried
        async with account.call(1.0):
            tried += 1
            raise Unavailable("no answer")

    await asyncio.gather(*(knock() for _ in range(100)), return_exceptions=True)

    assert tried <= OPEN_AFTER + 6  # those whose turn had come


async def test_a_straggler_does_not_let_a_second_probe_through() -> None:
    account = budget()
    hold = asyncio.Event()

    async def slow() -> None:
        async with account.call(IN_PROGRESS):
            await hold.wait()

    straggler = asyncio.create_task(slow())
    await asyncio.sleep(1)
    for _ in range(OPEN_AFTER):
        await fail(account)
    await asyncio.sleep(6)
    probing = asyncio.create_task(slow())
    await asyncio.sleep(3)
    straggler.cancel()
    await asyncio.wait([straggler])

    with pytest.raises(Unavailable):
        await calls_alone(account)
    hold.set()
    await probing


async def test_a_pause_that_comes_while_a_call_waits_holds_it_too() -> None:
    account = budget()
    await calls(account, 6)
    waiting = asyncio.create_task(calls(account, 1))
    await asyncio.sleep(0.5)
    account.pause(100.0)

    (time,) = await waiting

    assert time >= 100.0


async def test_probes_grow_apart() -> None:
    account = budget()
    for _ in range(OPEN_AFTER):
        await fail(account)
    await asyncio.sleep(6)
    await fail(account)
    await asyncio.sleep(6)

    with pytest.raises(Unavailable, match="gave no answer"):
        await calls_alone(account)


async def test_a_probe_that_is_broken_off_leaves_room_for_another() -> None:
    account = budget()
    for _ in range(OPEN_AFTER):
        await fail(account)
    await asyncio.sleep(6)
    under_way = asyncio.Event()

    async def probe() -> None:
        async with account.call(IN_PROGRESS):
            under_way.set()
            await asyncio.Event().wait()

    probing = asyncio.create_task(probe())
    await under_way.wait()
    probing.cancel()
    await asyncio.wait([probing])

    await calls_alone(account)


async def test_while_nobody_answers_a_call_fails_at_once_and_waits_for_no_turn() -> None:
    account = budget()
    for _ in range(OPEN_AFTER):
        await fail(account)
    account.pause(3.0)
    before = asyncio.get_running_loop().time()

    with pytest.raises(Unavailable, match="gave no answer"):
        await calls_alone(account)

    assert asyncio.get_running_loop().time() == before


async def test_silence_and_its_end_are_said_once() -> None:
    account = budget()
    with structlog.testing.capture_logs() as events:
        for _ in range(OPEN_AFTER):
            await fail(account)
        await asyncio.sleep(6)
        await fail(account)
        await asyncio.sleep(60)
        await calls_alone(account)
        await calls_alone(account)

    assert [event["event"] for event in events] == ["account.unreachable", "account.reached_again"]


async def test_a_refusal_passes_through_as_it_is() -> None:
    with pytest.raises(Gone):
        async with budget().call(IN_PROGRESS):
            raise Gone("no such instance", status=404)


async def test_the_calls_that_are_left_and_that_wait_are_known() -> None:
    account = budget(60)
    untouched = account.left
    calling = asyncio.create_task(calls(account, 10))
    await asyncio.sleep(0.001)
    busy = account.left, account.waiting
    await calling
    await asyncio.sleep(60)

    assert (untouched, busy, account.left, account.waiting) == (6, (0, 4), 6, 0)


async def test_a_pause_leaves_no_calls_and_ends() -> None:
    account = budget(60)
    account.pause(30)
    paused = account.left, account.pause_left_s
    await asyncio.sleep(31)

    assert (paused, account.left, account.pause_left_s) == ((0, 30.0), 6, 0.0)


async def test_an_account_that_does_not_answer_is_not_reachable_until_it_does() -> None:
    account, seen = budget(6000), []
    for error in (*[Unavailable("nobody")] * OPEN_AFTER, None):
        await asyncio.sleep(400)
        with suppress(Unavailable):
            async with account.call(1.0):
                if error is not None:
                    raise error
        seen.append(account.reachable)

    assert seen == [*[True] * (OPEN_AFTER - 1), False, True]
