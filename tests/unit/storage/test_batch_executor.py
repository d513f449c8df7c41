"""Work for one thread, a group at a time."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ddslogd.storage.batch_executor import Grouped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Work:
    """Doubles numbers; holds its first group until it is let go, so that others gather."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.go = threading.Event()

    def __call__(self, group: Sequence[int]) -> list[int | Exception]:
        self.groups.append(list(group))
        self.go.wait(10)
        if 13 in group:
            raise ArithmeticError
        return [ValueError(number) if number < 0 else number * 2 for number in group]


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def grouped(work: Work) -> Iterator[Grouped[int, int]]:
    thread = ThreadPoolExecutor(1)
    yield Grouped(work, thread=thread, most=4)
    work.go.set()
    thread.shutdown()


async def handed_in(grouped: Grouped[int, int], *numbers: int) -> list[asyncio.Task[int]]:
    """Hand in numbers in one turn of the loop; return once a thread that is free has them."""

    async def item(number: int) -> int:
        return await grouped(number)

    tasks = [asyncio.create_task(item(number)) for number in numbers]
    for _ in range(2):
        await asyncio.sleep(0)
    return tasks


async def test_two_threads_have_a_group_each_and_what_waits_is_the_next(work: Work) -> None:
    threads = ThreadPoolExecutor(2)
    grouped = Grouped(work, thread=threads, most=2, at_once=2)

    tasks = await handed_in(grouped, 1, 2, 3, 4, 5)
    while len(work.groups) < 2:  # they wait in the threads
        await asyncio.sleep(0)
    work.go.set()

    assert (await asyncio.gather(*tasks), sorted(work.groups)) == ([2, 4, 6, 8, 10], [[1, 2], [3, 4], [5]])
    threads.shutdown()


async def test_what_is_withdrawn_in_time_is_never_done(grouped: Grouped[int, int], work: Work) -> None:
    (first,) = await handed_in(grouped, 1)
    second = grouped(2)
    while not work.groups:
        await asyncio.sleep(0)

    withdrawn = grouped.withdraw(second)
    work.go.set()

    assert (withdrawn, await first, second.cancelled(), work.groups) == (True, 2, True, [[1]])


async def test_what_comes_in_one_turn_of_the_loop_is_one_group(grouped: Grouped[int, int], work: Work) -> None:
    tasks = await handed_in(grouped, 1, 2, 3)
    work.go.set()

    assert (await asyncio.gather(*tasks), work.groups) == ([2, 4, 6], [[1, 2, 3]])


async def test_what_waits_when_the_thread_is_free_is_one_group(grouped: Grouped[int, int], work: Work) -> None:
    first = await handed_in(grouped, 1)
    tasks = first + await handed_in(grouped, 2) + await handed_in(grouped, 3)
    work.go.set()

    assert (await asyncio.gather(*tasks), work.groups) == ([2, 4, 6], [[1], [2, 3]])


async def test_a_group_has_no_more_than_the_most(grouped: Grouped[int, int], work: Work) -> None:
    tasks = await handed_in(grouped, *range(7))
    work.go.set()
    await asyncio.gather(*tasks)

    assert work.groups == [[0, 1, 2, 3], [4, 5, 6]]


async def test_an_error_is_that_of_its_item_alone(grouped: Grouped[int, int], work: Work) -> None:
    tasks = await handed_in(grouped, 1, -2, 3)
    work.go.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)

    assert [repr(each) for each in ended] == ["2", "ValueError(-2)", "6"]


async def test_work_that_fails_fails_its_whole_group_and_no_other(grouped: Grouped[int, int], work: Work) -> None:
    tasks = await handed_in(grouped, 1) + await handed_in(grouped, 13, 2)
    work.go.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    after = await grouped(5)

    assert ([repr(each) for each in ended], after) == (["2", "ArithmeticError()", "ArithmeticError()"], 10)


async def test_what_no_thread_takes_hears_so_and_keeps_nobody_waiting(
    grouped: Grouped[int, int], work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the host lets nobody begin another thread."""

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    work.go.set()
    with monkeypatch.context() as host:
        host.setattr(threading.Thread, "start", refused)
        tasks = await handed_in(grouped, 1, 2)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    after = await grouped(3)

    assert ([type(each) for each in ended], after) == ([RuntimeError, RuntimeError], 6)


async def test_what_is_cancelled_before_its_group_is_left_out(grouped: Grouped[int, int], work: Work) -> None:
    (first,) = await handed_in(grouped, 1)
    second, third = await handed_in(grouped, 2, 3)
    second.cancel()
    await asyncio.wait([second])
    work.go.set()

    assert (await first, await third, work.groups) == (2, 6, [[1], [3]])


async def test_what_is_cancelled_in_its_group_disturbs_nobody(grouped: Grouped[int, int], work: Work) -> None:
    (first,) = await handed_in(grouped, 1)
    first.cancel()
    (second,) = await handed_in(grouped, 2)
    work.go.set()

    assert (await second, first.cancelled(), work.groups) == (4, True, [[1], [2]])


async def test_an_idle_thread_is_used_again(grouped: Grouped[int, int], work: Work) -> None:
    work.go.set()

    assert [await grouped(number) for number in (1, 2)] == [2, 4]
