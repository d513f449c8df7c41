"""Work for a thread or a few, done in groups: whatever waits when one of them is free is its next group.

Nobody waits for a group to fill, but for who else comes in the same turn of the loop. What costs the same for one as
for many (a transaction, a journal commit, the way to a thread and back) is paid once a group.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")
R = TypeVar("R")


class Grouped(Generic[T, R]):
    """Hands items to threads in the order they came, a group at a time to each."""

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R | Exception]],
        *,
        thread: ThreadPoolExecutor,
        most: int,
        at_once: int = 1,
    ) -> None:
        """Prepare.

        Args:
            work: Runs in a thread; gives for each item of a group its result, or the error to raise.
            thread: Runs the groups.
            most: Items of a group.
            at_once: Groups at the same time.
        """
        self._work = work
        self._thread = thread
        self._most = most
        self._at_once = at_once
        self._waiting: dict[asyncio.Future[R], T] = {}  # in order
        self._running = 0

    def __call__(self, item: T) -> asyncio.Future[R]:
        """Have an item done; the future gives what the work gives for it, or raises for its whole group.

        An item whose future is cancelled before its group begins is left out.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        if self._running < self._at_once and not self._waiting:
            loop.call_soon(self._begin)
        self._waiting[future] = item
        return future

    def withdraw(self, future: asyncio.Future[R]) -> bool:
        """Leave out an item whose group has not begun; return whether that is so."""
        if future not in self._waiting:
            return False
        future.cancel()
        return True

    def _begin(self) -> None:
        """Hand in the next groups; one that no thread takes hears so, and those behind it are not kept waiting."""
        while (free := self._at_once - self._running) and (group := self._next(-(-len(self._waiting) // free))):
            items, futures = [item for item, _ in group], [future for _, future in group]
            try:
                job = asyncio.get_running_loop().run_in_executor(self._thread, self._work, items)
            except RuntimeError as exc:  # the host has no room for another thread, or all is shut down
                for future in futures:
                    future.set_exception(exc)
            else:
                self._running += 1
                job.add_done_callback(partial(self._end, futures))

    def _next(self, share: int) -> list[tuple[T, asyncio.Future[R]]]:
        group: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(group) < min(share, self._most):
            future = next(iter(self._waiting))
            item = self._waiting.pop(future)
            if not future.done():
                group.append((item, future))
        return group

    def _end(self, futures: Sequence[asyncio.Future[R]], job: asyncio.Future[Sequence[R | Exception]]) -> None:
        self._running -= 1
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
