"""One run of a coroutine, awaited by everyone who comes while it lasts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Shared(Generic[T]):
    """Runs a coroutine at most once at a time; its result, or its error, goes to all who awaited that run.

    A caller's cancellation ends the run only if nobody else awaits it.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> None:
        self._make = make
        self._name = name
        self._task: asyncio.Task[T] | None = None
        self._waiters = 0

    @property
    def idle(self) -> bool:
        """Return whether no run is under way."""
        return self._task is None or self._task.done()

    async def __call__(self) -> T:
        """Join the run that is under way, or begin one."""
        # One that is done is not under way, though the loop has not said so yet: to await it would not wait, and who
        # asks again until something has changed would keep the loop from ever saying so.
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._make(), name=self._name)
            self._task.add_done_callback(self._ended)
            self._waiters = 0
        task = self._task
        self._waiters += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._leave(task)

    def _leave(self, task: asyncio.Task[T]) -> None:
        if task is not self._task:
            return
        self._waiters -= 1
        if self._waiters == 0 and not task.done():
            task.cancel()
            self._task = None

    def _ended(self, task: asyncio.Task[T]) -> None:
        if task is self._task:
            self._task = None
        if not task.cancelled():
            task.exception()  # each waiter has it; without one it must not be reported as never retrieved
