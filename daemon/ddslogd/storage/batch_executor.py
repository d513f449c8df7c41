"""Work for one thread, done in groups: whatever waits when the thread is free is its next group.

Nobody waits for a group to fill, but for who else comes in the same turn of the loop. What costs the same for one as
for many (a transaction, a journal commit, the way to a thread and back) is paid once a group.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")
R = TypeVar("R")


class Grouped(Generic[T, R]):
    """Hands items to a thread in the order they came, a group at a time."""

    def __init__(
        self, work: Callable[[Sequence[T]], Sequence[R | Exception]], *, thread: ThreadPoolExecutor, most: int
    ) -> None:
        """Prepare.

        Args:
            work: Runs in the thread; gives for each item of a group its result, or the error to raise.
            thread: Runs one group at a time.
            most: Items of a group.
        """
        self._work = work
        self._thread = thread
        self._most = most
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._busy = False

    def __call__(self, item: T) -> asyncio.Future[R]:
        """Have an item done; the future gives what the work gives for it, or raises for its whole group.

        An item whose future is cancelled before its group begins is left out.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        if not self._busy and not self._waiting:
            loop.call_soon(self._begin)
        self._waiting.append((item, future))
        return future

    def _begin(self) -> None:
        """Hand in the next group; one that no thread takes hears so, and those behind it are not kept waiting."""
        while not self._busy and (group := self._next()):
            items, futures = [item for item, _ in group], [future for _, future in group]
            try:
                job = asyncio.get_running_loop().run_in_executor(self._thread, self._work, items)
            except RuntimeError as exc:  # the host has no room for another thread, or all is shut down
                for future in futures:
                    future.set_exception(exc)
            else:
                self._busy = True
                job.add_done_callback(partial(self._end, futures))

    def _next(self) -> list[tuple[T, asyncio.Future[R]]]:
        group: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(group) < self._most:
            item, future = self._waiting.popleft()
            if not future.done():
                group.append((item, future))
        return group

    def _end(self, futures: Sequence[asyncio.Future[R]], job: asyncio.Future[Sequence[R | Exception]]) -> None:
        self._busy = False
        error = asyncio.CancelledError() if job.cancelled() else job.exception()
        results = job.result() if error is None else [error] * len(futures)
        for future, result in zip(futures, results, strict=True):
            if future.done():
                continue
            if isinstance(result, asyncio.CancelledError):
                future.cancel()
            elif isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._begin()
