"""One run for all who come while it lasts."""

from __future__ import annotations

import asyncio
import gc

import pytest

from ddslogd.huaweicloud.single_flight import Shared


class Work:
    """A run that lasts until it is told how to end, and tells how often it began, ended and was cancelled."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.ending: asyncio.Future[str] | None = None
        self.shared = Shared(self.run, name="the work")

    async def run(self) -> str:
        self.begun += 1
        self.ending = asyncio.get_running_loop().create_future()
        try:
            return await self.ending
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def end(self, result: str) -> None:
        assert self.ending is not None
        self.ending.set_result(result)

    def fail(self, error: Exception) -> None:
        assert self.ending is not None
        self.ending.set_exception(error)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def waiters(work: Work, number: int) -> list[asyncio.Task[str]]:
    """Let some callers wait, one after the other, until all of them do."""
    tasks = []
    for _ in range(number):
        tasks.append(asyncio.create_task(work.shared()))
        await settle()
    return tasks


@pytest.fixture
def work() -> Work:
    return Work()


async def test_one_run_serves_all_who_come_while_it_lasts(work: Work) -> None:
    tasks = await waiters(work, 3)

    work.end("done")

    assert (await asyncio.gather(*tasks), work.begun) == (["done"] * 3, 1)


async def test_an_error_goes_to_all(work: Work) -> None:
    tasks = await waiters(work, 3)
    error = LookupError("no")

    work.fail(error)

    assert await asyncio.gather(*tasks, return_exceptions=True) == [error] * 3


async def test_after_its_end_a_new_run_begins(work: Work) -> None:
    tasks = await waiters(work, 1)
    work.end("first")
    await asyncio.gather(*tasks)

    tasks = await waiters(work, 2)
    work.end("second")

    assert (await asyncio.gather(*tasks), work.begun) == (["second"] * 2, 2)


async def test_after_an_error_a_new_run_begins(work: Work) -> None:
    tasks = await waiters(work, 2)
    work.fail(LookupError("no"))
    await asyncio.gather(*tasks, return_exceptions=True)

    tasks = await waiters(work, 1)
    work.end("second")

    assert (await asyncio.gather(*tasks), work.begun) == (["second"], 2)


async def test_who_gets_a_result_may_begin_the_next_run_at_once(work: Work) -> None:
    """While the others still have to hear of the last one: they do not count for the next."""

    async def twice() -> tuple[str, str]:
        return await work.shared(), await work.shared()

    both = asyncio.create_task(twice())
    await settle()
    others = await waiters(work, 2)
    work.end("first")
    await settle()

    work.end("second")

    assert (await both, await asyncio.gather(*others), work.begun) == (("first", "second"), ["first"] * 2, 2)


async def test_who_waited_for_an_earlier_run_does_not_count_for_the_next(work: Work) -> None:
    async def twice() -> tuple[str, str]:
        return await work.shared(), await work.shared()

    both = asyncio.create_task(twice())
    await settle()
    await waiters(work, 2)
    work.end("first")
    await settle()

    both.cancel()
    await settle()

    assert (work.begun, work.cancelled) == (2, 1)


@pytest.mark.parametrize("who", [0, 1, 2])
async def test_one_who_is_cancelled_leaves_the_run_to_the_others(work: Work, who: int) -> None:
    """Also if it is the one who began it."""
    tasks = await waiters(work, 3)
    tasks.pop(who).cancel()
    await settle()

    work.end("done")

    assert (await asyncio.gather(*tasks), work.begun, work.cancelled) == (["done"] * 2, 1, 0)


async def test_when_all_are_cancelled_so_is_the_run(work: Work) -> None:
    tasks = await waiters(work, 3)

    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await settle()

    assert (work.begun, work.cancelled) == (1, 1)


async def test_one_who_came_late_and_left_does_not_count_any_more(work: Work) -> None:
    first, second = await waiters(work, 2)
    second.cancel()
    await settle()

    first.cancel()
    await settle()

    assert work.cancelled == 1


async def test_after_a_cancelled_run_a_new_one_begins(work: Work) -> None:
    (task,) = await waiters(work, 1)
    task.cancel()
    await settle()

    tasks = await waiters(work, 2)
    work.end("second")

    assert (await asyncio.gather(*tasks), work.begun) == (["second"] * 2, 2)


async def test_one_who_comes_in_the_moment_of_cancelling_gets_a_run_of_its_own(work: Work) -> None:
    """Not the run that is about to be cancelled; and who comes next shares the new one."""
    (first,) = await waiters(work, 1)
    first.cancel()
    await asyncio.sleep(0)  # the waiter has left, the run has not heard of it yet

    tasks = await waiters(work, 2)
    work.end("second")

    assert (await asyncio.gather(*tasks), work.begun) == (["second"] * 2, 2)


async def test_a_time_out_of_one_is_its_own(work: Work) -> None:
    (patient,) = await waiters(work, 1)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await work.shared()
    work.end("done")

    assert await patient == "done"


async def test_an_error_that_nobody_is_left_to_hear_is_not_said_to_be_lost() -> None:
    """The event loop complains of errors that nobody took."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))

    async def stumble() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise LookupError("no") from None

    task = asyncio.create_task(Shared(stumble, name="stumbles")())
    await settle()

    task.cancel()
    await settle()
    del task
    gc.collect()
    await settle()

    assert complaints == []


async def test_the_run_has_its_name(work: Work) -> None:
    tasks = await waiters(work, 1)

    names = {task.get_name() for task in asyncio.all_tasks()}
    work.end("done")
    await asyncio.gather(*tasks)

    assert "the work" in names


async def test_who_comes_when_a_run_has_just_ended_begins_another() -> None:
    """The loop has not said yet that it ended; to join it would neither wait nor change anything."""
    runs = 0

    async def run() -> int:
        nonlocal runs
        runs += 1
        return runs

    shared = Shared(run, name="the work")
    first = asyncio.create_task(shared())
    await asyncio.sleep(0)  # the first has begun the run, which ends before the second comes
    second = asyncio.create_task(shared())

    assert (await first, await second) == (1, 2)


async def test_to_ask_until_something_changes_never_keeps_the_loop_from_others() -> None:
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1

    async def ask_until_it_was_run() -> int:
        before = runs
        asked = 0
        while runs < before + 1 and asked < 100:
            await shared()
            asked += 1
        return asked

    shared = Shared(run, name="the work")
    first = asyncio.create_task(shared())
    await asyncio.sleep(0)
    second = asyncio.create_task(ask_until_it_was_run())
    await first

    assert await second == 1
