"""The calls of one account: so many a minute, the most urgent first, none while the cloud has us wait."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import structlog
from aiolimiter import AsyncLimiter

from ddslogd.huaweicloud.circuit_breaker import Circuit
from ddslogd.model.errors import CloudError, CredentialsRefused, ForeignAnswer
from ddslogd.scheduling.backoff import bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ddslogd.scheduling.clock import Clock

log = structlog.get_logger()

IN_PROGRESS = 0.0
"""The urgency of a call that goes on with what has begun: before every new export."""


class Budget:
    """Hands out the turns of one account's calls.

    Every call takes its turn here, retries included, so nothing above can exceed the account's limit. Whoever is more
    urgent goes first; among equals, who came first.
    """

    def __init__(self, *, calls_per_minute: int, clock: Clock, name: str) -> None:
        burst, rate = bucket(calls_per_minute)
        self._burst = burst
        self._limiter = AsyncLimiter(burst, 60 * burst / rate)
        self._circuit = Circuit(clock=clock, name=name)
        self._clock = clock
        self._name = name
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = count()
        self._pump: asyncio.Task[None] | None = None
        self._resume_at = 0.0  # by the steady clock

    @asynccontextmanager
    async def call(self, urgency: float) -> AsyncIterator[None]:
        """Wait for a turn, then make one call inside; the lower the urgency's number, the sooner.

        Raises:
            Unavailable: The account has not answered for a while.
        """
        self._circuit.check()
        await self._turn(urgency)
        probe = self._circuit.enter()  # it may have opened meanwhile
        answered, error = None, None
        try:
            yield
            answered = True
        except CloudError as exc:
            # Who is refused without a call (status 0) has learned nothing of the account.
            heard = exc.status != 0 and not isinstance(exc, ForeignAnswer)
            answered = None if isinstance(exc, CredentialsRefused) and not exc.status else heard
            error = exc
            raise
        finally:
            self._circuit.left(probe=probe, answered=answered, error=error)

    def pause(self, seconds: float) -> None:
        """Let nobody call for that long: the cloud asked for it."""
        self._resume_at = max(self._resume_at, self._clock.monotonic() + seconds)
        log.warning("account.paused", cloud=self._name, seconds=round(seconds, 1))

    def close(self) -> None:
        """Hand out no more turns."""
        if self._pump is not None:
            self._pump.cancel()

    @property
    def left(self) -> int:
        """Count the calls that may be made now."""
        if self.pause_left_s:
            return 0
        return bisect_left(range(1, self._burst + 1), x=True, key=lambda calls: not self._limiter.has_capacity(calls))

    @property
    def waiting(self) -> int:
        """Count the calls that wait for their turn."""
        return sum(not future.done() for *_, future in self._waiting)

    @property
    def pause_left_s(self) -> float:
        """Return the seconds for which nobody calls any more, since the cloud asked for it."""
        return max(0.0, self._resume_at - self._clock.monotonic())

    @property
    def reachable(self) -> bool:
        """Return whether the account answers."""
        return self._circuit.closed

    @property
    def silence(self) -> str:
        """Return why the account does not answer; empty while it does."""
        return self._circuit.silence

    async def _turn(self, urgency: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (urgency, next(self._number), future))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._hand_out(), name=f"budget of {self._name}")
        await future

    async def _hand_out(self) -> None:
        while self._drop_gone():
            await asyncio.sleep(0)  # the full bucket lets many through: one call a turn of the loop
            await self._limiter.acquire()
            while (left := self._resume_at - self._clock.monotonic()) > 0:
                await self._clock.sleep(left)
            if self._drop_gone():
                heappop(self._waiting)[-1].set_result(None)

    def _drop_gone(self) -> bool:
        """Forget waiters that were cancelled; tell whether any is left."""
        while self._waiting and self._waiting[0][-1].done():
            heappop(self._waiting)
        return bool(self._waiting)
