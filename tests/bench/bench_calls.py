"""How many calls a cycle takes, and how long a ready file waits, over exports of 8 to 25 seconds.

The whole daemon collects from the sandbox, whose count is the one that is shown; only time is made, so that hours of
cycles take seconds. What is late is what lies between the moment when a row is ready and that when its download begins.

Where each export takes a time that nothing foretells, no schedule of polls keeps both goals: a poll finds within 3 s
only what became ready in the 3 s before it. The bound next to the table is what the best schedule could reach that
knows how the times are spread; goals are kept there for calls, and for both where exports repeat themselves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import TYPE_CHECKING, Any

import structlog

from ddslogd.config import loader
from ddslogd.model.cycle import Silent
from ddslogd.model.redactor import Redactor
from ddslogd.sandbox import Sandbox, configuration, replica_set, single
from ddslogd.service.factory import opened

if TYPE_CHECKING:
    from ddslogd.model.snapshot import LogFile

MOST_CALLS = 2.2  # a finished cycle
MOST_LATE_S = 3.0  # the median
SEEDS = 5
INSTANCES = 8
CYCLES = 24  # of each instance, the first included
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVERY = timedelta(minutes=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """How long exports take.

    Attributes:
        dials: Of the sandbox.
        bound_s: The least median that a schedule of polls can reach within the calls, which knows how times are
            spread but not what they will be; None where they can be known.
    """

    name: str
    nodes: int
    dials: dict[str, Any]
    bound_s: float | None

    @property
    def promises_seconds(self) -> bool:
        return self.bound_s is None


def bound_s(nodes: int) -> float:
    """Return the least median wait of a row, in seconds, within 2.2 calls a cycle, over times uniform from 8 to 25 s.

    The last poll is at 25 s, when all are ready. A fifth of the cycles may need it, so that the one before it cannot be
    sooner than the time t at which four fifths are done: ((t - 8) / 17) ** nodes = 0.8. What has waited for less than L
    became ready in the L before one of the two: 25 - t + L = 17 / 2 for half of the rows. A third poll costs more calls
    for the same.
    """
    second_poll: float = 8 + 17 * (3 - MOST_CALLS) ** (1 / nodes)
    return 17 / 2 - (25 - second_poll)


MODELS = (
    Model(name="an instance's exports repeat themselves, +-1 s", nodes=1, dials={"export_jitter": 1.0}, bound_s=None),
    Model(name="each export takes its own time", nodes=1, dials={}, bound_s=bound_s(1)),
    Model(name="each export of each of 3 nodes, its own", nodes=3, dials={}, bound_s=bound_s(3)),
)


class Turns:
    """Policy time for one cycle at a time: a sleep moves it."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return (self.time - START).total_seconds()

    async def sleep(self, seconds: float) -> None:
        end = self.time + timedelta(seconds=max(0.0, seconds))
        for _ in range(5):  # what is ready goes first
            await asyncio.sleep(0)
        self.time = max(self.time, end)


class Late(Silent):
    """Notes how long each file had been ready when its download began."""

    def __init__(self, clock: Turns) -> None:
        self.seconds: list[float] = []
        self._clock = clock

    def began(self, file: LogFile, total: int | None, at: int, *, resumed: bool) -> None:  # noqa: ARG002  # only when
        self.seconds.append((self._clock.now() - file.updated_at).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one model came to: calls a cycle, of the first and of all later ones; seconds of the later ones."""

    model: Model
    first_calls: float
    calls: float
    median_s: float
    p90_s: float

    @property
    def good(self) -> bool:
        return self.calls <= MOST_CALLS and (self.median_s < MOST_LATE_S or not self.model.promises_seconds)

    def __str__(self) -> str:
        bound = "both goals" if self.model.bound_s is None else f"{self.model.bound_s:.1f} s at the least"
        counts = f"{self.calls:5.2f} {self.first_calls:11.2f} {self.median_s:8.1f} s {self.p90_s:6.1f} s"
        return f"{self.model.name:<48} {counts}  {bound}{'' if self.good else '  MISSED'}"


async def run(model: Model, *, seed: int, directory: Path, instances: int = INSTANCES, cycles: int = CYCLES) -> Row:
    """Let a daemon collect from a fleet, an instance after the other, every 20 minutes."""
    clock = Turns()
    late = Late(clock)
    make = single if model.nodes == 1 else replica_set
    fleet = tuple(make(f"one-{number}") for number in range(instances))
    async with Sandbox(
        now=clock.now, fleet=fleet, lines_per_second=0, backlog=timedelta(0), seed=seed, **model.dials
    ) as sandbox:
        os.environ["DDSLOGD_TOKEN"] = sandbox.issue_token()
        text = configuration(sandbox, directory=directory / "logs", state=directory / "state")
        settings = loader.parse(text.replace("calls_per_minute: 60", "calls_per_minute: 12000"), "bench").settings
        calls: list[int] = []
        async with opened(settings, clock=clock, progress=late, redactor=Redactor()) as service:
            for _ in range(cycles):
                begun = clock.now()
                for instance in settings.fleet():
                    before = sandbox.calls["errorlog-download"]
                    await service.once([instance])
                    calls.append(sandbox.calls["errorlog-download"] - before)
                if len(calls) == instances:  # the first, which knew nothing
                    late.seconds.clear()
                clock.time = max(clock.time, begun + EVERY)
    return Row(
        model=model,
        first_calls=fmean(calls[:instances]),
        calls=fmean(calls[instances:]),
        median_s=median(late.seconds),
        p90_s=quantiles(late.seconds, n=10)[-1],
    )


def rows() -> list[Row]:
    """Return the table: of each model the medians of some seeds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    table = []
    for model in MODELS:
        runs = []
        for seed in range(SEEDS):
            with tempfile.TemporaryDirectory() as directory:
                runs.append(asyncio.run(run(model, seed=seed, directory=Path(directory))))
        table.append(
            Row(
                model=model,
                first_calls=median(one.first_calls for one in runs),
                calls=median(one.calls for one in runs),
                median_s=median(one.median_s for one in runs),
                p90_s=median(one.p90_s for one in runs),
            )
        )
    return table


def main() -> int:
    """Print the table; give the exit status."""
    table = rows()
    print(f"{'exports of 8 to 25 s':<48} calls first cycle   median     p90  can be had")
    print(*table, sep="\n")
    print(f"goals: {MOST_CALLS} calls a finished cycle after the first, and a median under {MOST_LATE_S:g} s")
    return 0 if all(row.good for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
