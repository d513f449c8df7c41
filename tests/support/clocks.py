"""Clocks whose time is made."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def epoch_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


class ManualClock:
    """Policy time: a sleep takes none, it moves the clock; of several, the one that ends first."""

    def __init__(self) -> None:
        self.time = START
        self.slept: list[float] = []
        self._ends: list[datetime] = []

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return (self.time - START).total_seconds()

    async def sleep(self, seconds: float) -> None:
        end = self.time + timedelta(seconds=max(0.0, seconds))
        self.slept.append(seconds)
        self._ends.append(end)
        try:
            for _ in range(20):  # what is ready goes first
                await asyncio.sleep(0)
            while min(self._ends) < end:
                await asyncio.sleep(0)
        finally:
            self._ends.remove(end)
        self.time = max(self.time, end)

    def forward(self, **passed: float) -> None:
        self.time += timedelta(**passed)


class LoopClock:
    """Policy time that goes with the event loop's; the wall clock can be set while the steady one goes on."""

    def __init__(self) -> None:
        self.set_by = timedelta(0)

    def now(self) -> datetime:
        return START + self.set_by + timedelta(seconds=round(self.monotonic(), 3))

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class TurnClock(ManualClock):
    """Policy time for parts that wait next to each other: when all of them sleep, it moves to whose turn is next."""

    def __init__(self, sleepers: int) -> None:
        super().__init__()
        self.passed: Callable[[timedelta], None] = lambda _: None
        self._sleepers = sleepers
        self._asleep: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._number = count()

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heappush(self._asleep, (self.time + timedelta(seconds=max(0.0, seconds)), next(self._number), woken))
        if len(self._asleep) == self._sleepers:
            end, _, first = heappop(self._asleep)
            before, self.time = self.time, max(self.time, end)
            self.passed(self.time - before)
            first.set_result(None)
        await woken
