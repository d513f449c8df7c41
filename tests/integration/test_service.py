"""The parts together, over a restart: what the ledger knows of the last runs counts."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from ddslogd.model.cluster import Epoch
from ddslogd.model.cycle import Silent
from ddslogd.model.errors import NotOwned
from support.engines import DealtEngine

if TYPE_CHECKING:
    from ddslogd.model.cycle import CycleReport
    from ddslogd.model.instance import Instance
    from support.testbed import Bed


class First(Silent):
    """Waits for the first cycle that ends."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def cycled(self, report: CycleReport) -> None:  # noqa: ARG002  # any will do
        self.over.set()


class Losing(DealtEngine):
    """Refuses what it is asked for, as if another collector had all by now."""

    refused = 0

    async def commit(self, instance: Instance, epoch: Epoch, *, run: datetime) -> None:  # noqa: ARG002  # all the same
        self.refused += 1
        raise NotOwned("another collector has it")


class Raising(Silent):
    """Raises the epoch at the end of each cycle, before it is committed."""

    def __init__(self, engine: DealtEngine) -> None:
        self._engine = engine

    def cycled(self, report: CycleReport) -> None:  # noqa: ARG002  # the same
        self._engine.epoch = Epoch(number=self._engine.epoch.number + 1)


async def serve_one_cycle(bed: Bed) -> None:
    first = First()
    bed.progress = first
    async with bed.open() as service:
        serving = asyncio.create_task(service.serve())
        async with asyncio.timeout(20):
            await first.over.wait()
        serving.cancel()
        await asyncio.wait([serving])


def ticks(bed: Bed) -> list[datetime]:
    with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db:
        rows = db.execute("SELECT tick_ms FROM cycles ORDER BY id").fetchall()
    return [datetime.fromtimestamp(tick_ms / 1000, UTC) for (tick_ms,) in rows]


async def test_a_restart_waits_for_the_next_tick_of_the_schedule(bed: Bed) -> None:
    """Begun at once, then at midnight, though it is restarted after each cycle.

    The day is what counts: this clock jumps by a few minutes where several wait for it.
    """
    bed.set("every: 20m", 'cron: "0 0 * * *"')
    bed.set("keep_free: 0", "keep_free: 1000000GiB")  # a cycle that ends at once, so that no midnight passes meanwhile
    for _ in range(3):
        await serve_one_cycle(bed)

    days = [tick.date().isoformat() for tick in ticks(bed)]
    assert days == ["2026-01-02", "2026-01-03", "2026-01-04"]


async def test_after_a_restart_it_is_known_who_has_been_waiting_longest(bed: Bed) -> None:
    """An instance that has had a cycle goes behind one that never had any."""
    await bed.collect()
    async with bed.open() as service:
        urgency = service._collector.urgency(bed.instance())

    assert urgency == 1.0 + ticks(bed)[-1].timestamp()


async def test_the_run_of_a_cycle_is_committed_by_the_epoch_it_began_with(bed: Bed) -> None:
    bed.set("keep_free: 0", "keep_free: 1000000GiB")  # a cycle that ends at once
    engine = DealtEngine(bed.instance())
    bed.progress = Raising(engine)
    async with bed.open() as service:
        service._engine = engine
        serving = asyncio.create_task(service.serve())
        async with asyncio.timeout(20):
            while not engine.committed:
                await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait([serving])

    assert engine.committed[:1] == [("solo", Epoch(number=1), ticks(bed)[0])]


async def test_a_cycle_whose_instance_another_has_by_now_is_reported_and_ends_nothing(bed: Bed) -> None:
    bed.set("keep_free: 0", "keep_free: 1000000GiB")  # a cycle that ends at once
    engine = Losing(bed.instance())
    with capture_logs() as events:
        async with bed.open() as service:
            service._engine = engine
            serving = asyncio.create_task(service.serve())
            async with asyncio.timeout(20):
                while engine.refused < 2:
                    await asyncio.sleep(0)
            serving.cancel()
            await asyncio.wait([serving])

    told = [
        (event["event"], event["instance"]) for event in events if event["event"] in {"cycle.not_owned", "cycle.bug"}
    ]
    assert set(told) == {("cycle.not_owned", "solo")}
