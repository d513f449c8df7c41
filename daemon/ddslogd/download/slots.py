"""How many bodies are read at the same time, over all clouds, and how much of each is gathered before it is written."""

from __future__ import annotations

import asyncio

# Bytes of one batch. Each costs a way to a thread and back, about 0.2 ms; beyond a MiB that is nothing any more.
LARGEST = 1024 * 1024
SMALLEST = 128 * 1024
GATHERED = 4 * 1024 * 1024  # bytes of the batches of all bodies, as long as the smallest ones fit


class Slots:
    """A slot for each body that may be read: ``async with`` holds one while bytes flow, never while waiting.

    Who waits longest is next.

    Attributes:
        waiting: How many wait for one.
    """

    def __init__(self, number: int) -> None:
        self._free = asyncio.Semaphore(number)
        self._held = 0
        self.waiting = 0

    async def __aenter__(self) -> None:
        """Wait for a slot."""
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self._held += 1

    async def __aexit__(self, *_: object) -> None:
        """Hand it back."""
        self._held -= 1
        self._free.release()

    @property
    def batch(self) -> int:
        """Return the bytes to gather of a body that begins now: the fewer are read, the more of each."""
        return max(SMALLEST, min(LARGEST, GATHERED // max(1, self._held)))
