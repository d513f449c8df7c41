"""How many bytes a cycle fetches, reads and writes, and how long it takes: side by side in the same run.

A cloud in a process of its own, nodes whose exports hold 40 MB, and three daemons that see the same exports: without
delta, with it, and with it and streams alone (``storage.snapshots: none``). Fails where delta fetches more than 1.05
times the new bytes and 16 KiB a file; where streams alone write more than 1.3 times the new bytes and 128 KiB, of
400 KB a node; or where they read a window more often than once. Medians of five; the machine may be noisy, so of times
only ratios count. CPU is that of the daemon's side alone. What is written is what the kernel counts, which is nothing
on tmpfs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
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
MODES = {"off": ("off", "latest"), "latest": ("auto", "latest"), "none": ("auto", "none")}  # delta, snapshots
JUDGED = 400_000  # bytes of each node, of which streams alone write no more than this
MOST_WRITTEN, MOST_WRITTEN_A_CYCLE = 1.3, 128 * 1024  # by new bytes, and beyond them
MOST_READ = 1.05  # windows: one, and what else there is to read
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
        written: Bytes that the kernel is to bring to the disk for it.
        read: Bytes that it asked the kernel for, of files.
    """

    mode: str
    new: int
    fetched: float
    wall_s: float
    cpu_s: float
    written: float
    read: float

    @property
    def good(self) -> bool:
        """Return whether as little was fetched and written as is promised."""
        if self.mode == "off":
            return True
        if self.fetched > MOST_OF_NEW * self.new + MOST_A_FILE * NODES:
            return False
        if self.mode != "none" or self.new != JUDGED * NODES:
            return True
        return self.written <= MOST_WRITTEN * self.new + MOST_WRITTEN_A_CYCLE and self.windows_read <= MOST_READ

    @property
    def windows_read(self) -> float:
        """Return how often the windows were read."""
        return self.read / (WINDOW * NODES)


class Bench:
    """Three daemons before one cloud."""

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

    async def cycle(self, mode: str) -> tuple[float, ...]:
        """Run one; give the bytes sent, the seconds by the wall and of the processor, the bytes written and read."""
        before, sent, began, cpu = _disk(), self.ask(-1), time.perf_counter(), time.process_time()
        (report,) = await self._services[mode].once([self._instance])
        took = time.perf_counter() - began, time.process_time() - cpu
        _complain(report)
        moved = [after - then for after, then in zip(_disk(), before, strict=True)]
        return self.ask(-1) - sent, *took, *moved

    async def rows(self, grown: int) -> list[Row]:
        found: dict[str, list[tuple[float, ...]]] = {mode: [] for mode in MODES}
        for run in range(RUNS):
            self._clock.ahead += EXPORTS_EVERY
            self.ask(grown)
            for mode in MODES if run % 2 else reversed(MODES):
                found[mode].append(await self.cycle(mode))
        columns = {mode: [median(column) for column in zip(*cycles, strict=True)] for mode, cycles in found.items()}
        return [
            Row(mode=mode, new=grown * NODES, fetched=fetched, wall_s=wall_s, cpu_s=cpu_s, written=written, read=read)
            for mode, (fetched, wall_s, cpu_s, written, read) in columns.items()
        ]


def _disk() -> tuple[int, int]:
    """Return the bytes that this process has had written to the disk, and those that it has read by system calls."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["write_bytes"]), int(counts["rchar"])


def _complain(report: CycleReport) -> None:
    if report.outcome != "ok":
        raise SystemExit(f"a cycle ended {report.outcome}: {report.error or report.failures}")


@asynccontextmanager
async def benches(directory: Path) -> AsyncIterator[Bench]:
    """Start the cloud and the daemons, and let each of them have a first file of every node."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=run_cloud, args=(other,), daemon=True)
    process.start()
    try:
        text, os.environ["DDSLOGD_TOKEN"] = pipe.recv()
        clock = Clock()
        settings = {mode: _settings(text, directory / mode, mode) for mode in MODES}
        options: dict[str, Any] = {"clock": clock, "progress": Silent(), "redactor": Redactor()}
        async with AsyncExitStack() as stack:
            services = {mode: await stack.enter_async_context(opened(settings[mode], **options)) for mode in MODES}
            bench = Bench(pipe, clock, services, settings["latest"])
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
    delta, snapshots = MODES[mode]
    for old, new in (
        ("/DIRECTORY", str(directory / "logs")),
        ("/STATE", str(directory / "state")),
        ("calls_per_minute: 60", "calls_per_minute: 12000"),
        ("first_poll: 10s", "first_poll: 1ms"),
        ("max_poll: 30s", "max_poll: 2ms"),
        ("attempts: 5", f"attempts: 5\n  delta: {delta}"),
        ("keep_free: 0", f"keep_free: 0\n  snapshots: {snapshots}"),
    ):
        assert old in text
        text = text.replace(old, new)
    return loader.parse(text, "bench").settings


async def measured() -> list[Row]:
    """Return the rows: for each growth one of each daemon."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("DDSLOGD_BENCH_DIRECTORY")) as directory:
        async with benches(Path(directory)) as bench:
            return [row for grown in GROWTHS for row in await bench.rows(grown)]


def show(rows: list[Row]) -> None:
    """Print the table."""
    print(f"{NODES} nodes, exports of {WINDOW / 1e6:.0f} MB; a cycle, medians of {RUNS}")
    print(
        f"{'new a node':>12} {'kept':>6} {'fetched':>14} {'by new':>8} {'written':>14} {'windows read':>12} {'wall':>9}"
        f" {'CPU':>9}"
    )
    for row in rows:
        ratio = f"{row.fetched / row.new:.2f}" if row.new else "-"
        print(
            f"{row.new // NODES:>12,} {row.mode:>6} {row.fetched:>14,.0f} {ratio:>8} {row.written:>14,.0f}"
            f" {row.windows_read:>12.2f} {row.wall_s * 1000:>6.0f} ms {row.cpu_s * 1000:>6.0f} ms"
            f"{'' if row.good else '   more than is promised'}"
        )
    for off, *others in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        for one in others:
            print(
                f"{one.new // NODES:>12,} off by {one.mode}: fetched {off.fetched / max(1, one.fetched):,.0f}x, written"
                f" {off.written / max(1, one.written):,.0f}x, wall {off.wall_s / one.wall_s:.2f}x,"
                f" CPU {off.cpu_s / one.cpu_s:.2f}x"
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
