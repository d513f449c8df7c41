"""How many bytes a cycle fetches, and how long it takes, with delta and without: side by side in the same run.

A cloud in a process of its own, nodes whose exports hold 40 MB, and two daemons that see the same exports. Fails where
delta fetches more than 1.05 times the new bytes and 16 KiB a file. Medians of five; the machine may be noisy, so of
times only ratios count. CPU is that of the daemon's side alone.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ddslogd.config import loader
from ddslogd.config import settings as config_settings
from ddslogd.model.cycle import Silent
from ddslogd.model.redactor import Redactor
from ddslogd.sandbox import Sandbox, configuration, replica_set
from ddslogd.service.factory import opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from multiprocessing.connection import Connection

    from ddslogd.model.cycle import CycleReport
    from ddslogd.service.service import Service

WINDOW = 40_000_000  # bytes of an export
NODES = 4
GROWTHS = (0, 4_000, 400_000, 4_000_000)  # bytes of each node between two exports
RUNS = 5
MODES = ("auto", "off")
MOST_OF_NEW, MOST_A_FILE = 1.05, 16 * 1024
EXPORTS_EVERY = timedelta(minutes=20)
FLEET = (replica_set("solo", nodes=NODES),)
NAMES = [node.name for node in FLEET[0].nodes]


class Clock:
    """The real clock, which can be set forward."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead.total_seconds()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Cloud:
    """A sandbox that does what comes through a pipe."""

    def __init__(self) -> None:
        self._clock = Clock()
        self._written = 0
        self.sandbox = Sandbox(
            fleet=FLEET,
            now=self._clock.now,
            window=WINDOW,
            lines_per_second=0,
            backlog=timedelta(0),
            export_takes=(0.0, 0.0),
            keep_exports=2,
            token_life=timedelta(days=30),
        )

    async def serve(self, pipe: Connection) -> None:
        async with self.sandbox as sandbox:
            text = configuration(sandbox, directory=Path("/DIRECTORY"), state=Path("/STATE"))
            pipe.send((text, sandbox.issue_token()))
            while (grown := await asyncio.to_thread(pipe.recv)) is not None:
                sent = sandbox.bytes_sent
                if grown >= 0:
                    self._export(grown)
                pipe.send(sent)

    def _export(self, grown: int) -> None:
        """Let each node write, make its next export, and know the ETag before anybody asks and pays for it."""
        self._clock.ahead += EXPORTS_EVERY
        text = self._text(grown)
        for name in NAMES:
            exports = self.sandbox._estate.node(name, "error")
            exports.log.content.extend(text)
            del exports.log.content[:-WINDOW]
            exports.begin()
        self.sandbox.finish_exports()
        for held in self.sandbox._store._objects.values():
            assert held.md5

    def _text(self, size: int) -> bytes:
        line = '{{"t":{{"$date":"2026-01-02T03:04:05.678+00:00"}},"s":"W","c":"NETWORK","id":{:09d},"ctx":"c{}"}}\n'
        lines, length = [], 0
        while length < size:
            lines.append(line.format(self._written, self._written * 7919 % 99_999))
            self._written += 1
            length += len(lines[-1])
        return "".join(lines).encode()[:size]


def run_cloud(pipe: Connection) -> None:
    """Be the process that the cloud is."""
    asyncio.run(Cloud().serve(pipe))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What cycles of one kind cost; medians.

    Attributes:
        new: Bytes that were new, of all nodes.
        fetched: Bytes that crossed the wire, as the cloud counts them.
        wall_s: Of a cycle from its call to its report, streams included.
        cpu_s: Of the daemon's process meanwhile.
    """

    mode: str
    new: int
    fetched: float
    wall_s: float
    cpu_s: float

    @property
    def good(self) -> bool:
        """Return whether as little was fetched as is promised."""
        return self.mode == "off" or self.fetched <= MOST_OF_NEW * self.new + MOST_A_FILE * NODES


class Bench:
    """Two daemons before one cloud."""

    def __init__(
        self, pipe: Connection, clock: Clock, services: dict[str, Service], settings: config_settings.Settings
    ) -> None:
        self._pipe = pipe
        self._clock = clock
        self._services = services
        self._instance = settings.fleet()[0]

    def ask(self, grown: int) -> int:
        """Let the nodes grow and be exported, or nothing where it is negative; give the bytes sent before."""
        self._pipe.send(grown)
        sent: int = self._pipe.recv()
        return sent

    async def cycle(self, mode: str) -> tuple[int, float, float]:
        """Run one; give the bytes that were sent, and the seconds it took by the wall and of the processor."""
        sent, began, cpu = self.ask(-1), time.perf_counter(), time.process_time()
        (report,) = await self._services[mode].once([self._instance])
        took = time.perf_counter() - began, time.process_time() - cpu
        _complain(report)
        return self.ask(-1) - sent, *took

    async def rows(self, grown: int) -> list[Row]:
        found: dict[str, list[tuple[int, float, float]]] = {mode: [] for mode in MODES}
        for run in range(RUNS):
            self._clock.ahead += EXPORTS_EVERY
            self.ask(grown)
            for mode in MODES if run % 2 else reversed(MODES):
                found[mode].append(await self.cycle(mode))
        columns = {mode: [median(column) for column in zip(*cycles, strict=True)] for mode, cycles in found.items()}
        return [
            Row(mode=mode, new=grown * NODES, fetched=fetched, wall_s=wall_s, cpu_s=cpu_s)
            for mode, (fetched, wall_s, cpu_s) in columns.items()
        ]


def _complain(report: CycleReport) -> None:
    if report.outcome != "ok":
        raise SystemExit(f"a cycle ended {report.outcome}: {report.error or report.failures}")


@asynccontextmanager
async def benches(directory: Path) -> AsyncIterator[Bench]:
    """Start the cloud and both daemons, and let each of them have a first file of every node."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=run_cloud, args=(other,), daemon=True)
    process.start()
    try:
        text, os.environ["DDSLOGD_TOKEN"] = pipe.recv()
        clock = Clock()
        settings = {mode: _settings(text, directory / mode, mode) for mode in MODES}
        options: dict[str, Any] = {"clock": clock, "progress": Silent(), "redactor": Redactor()}
        async with opened(settings["auto"], **options) as auto, opened(settings["off"], **options) as off:
            bench = Bench(pipe, clock, {"auto": auto, "off": off}, settings["auto"])
            clock.ahead += EXPORTS_EVERY
            bench.ask(WINDOW)
            for mode in MODES:
                await bench.cycle(mode)
            yield bench
        pipe.send(None)
        process.join(10)
    finally:
        process.kill()


def _settings(text: str, directory: Path, mode: str) -> config_settings.Settings:
    for old, new in (
        ("/DIRECTORY", str(directory / "logs")),
        ("/STATE", str(directory / "state")),
        ("calls_per_minute: 60", "calls_per_minute: 12000"),
        ("first_poll: 10s", "first_poll: 1ms"),
        ("max_poll: 30s", "max_poll: 2ms"),
        ("attempts: 5", f"attempts: 5\n  delta: {mode}"),
        ("keep_free: 0", "keep_free: 0\n  snapshots: latest"),
    ):
        assert old in text
        text = text.replace(old, new)
    return loader.parse(text, "bench").settings


async def measured() -> list[Row]:
    """Return the rows: for each growth one with delta and one without."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("DDSLOGD_BENCH_DIRECTORY")) as directory:
        async with benches(Path(directory)) as bench:
            return [row for grown in GROWTHS for row in await bench.rows(grown)]


def show(rows: list[Row]) -> None:
    """Print the table."""
    print(f"{NODES} nodes, exports of {WINDOW / 1e6:.0f} MB; a cycle, medians of {RUNS}")
    print(f"{'new a node':>12} {'delta':>6} {'fetched':>14} {'by new':>8} {'wall':>9} {'CPU':>9}")
    for row in rows:
        ratio = f"{row.fetched / row.new:.2f}" if row.new else "-"
        print(
            f"{row.new // NODES:>12,} {row.mode:>6} {row.fetched:>14,.0f} {ratio:>8} {row.wall_s * 1000:>6.0f} ms"
            f" {row.cpu_s * 1000:>6.0f} ms{'' if row.good else '   more than is promised'}"
        )
    for auto, off in zip(rows[::2], rows[1::2], strict=True):
        print(
            f"{auto.new // NODES:>12,} off by auto: bytes {off.fetched / max(1, auto.fetched):,.0f}x,"
            f" wall {off.wall_s / auto.wall_s:.2f}x, CPU {off.cpu_s / auto.cpu_s:.2f}x"
        )


def main() -> int:
    """Print the table; give the exit status."""
    print(f"{datetime.now(UTC):%Y-%m-%d}", platform.machine(), platform.python_implementation(), sys.version.split()[0])
    rows = asyncio.run(measured())
    show(rows)
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    sys.exit(main())
