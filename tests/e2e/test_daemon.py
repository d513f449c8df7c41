"""The daemon as it is run: a process of its own against a cloud on real sockets, by the real clock."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

import pytest

from ddslogd.sandbox import Sandbox, cluster, configuration, replica_set, single
from support.testbed import ANY_PORT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.daemon

GENERATIONS = 2
NODE = "solo_single_node_1"
NUMBERS = count()
MOST_CYCLES = 100
SPEED = 300  # the cloud's 15 minutes take 3 seconds, the schedule's 20 take 4


async def test_two_generations_of_exports_are_on_disk_byte_for_byte(tmp_path: Path) -> None:
    """Three kinds of instances write all the while, so windows grow and slide and exports overlap."""
    fleet = (replica_set("orders"), cluster("events", mongos=1, shards=1), single("audit", version="4.2"))
    backlog = timedelta(seconds=10)
    async with Sandbox(fleet=fleet, speed=SPEED, window=60_000, lines_per_second=50, backlog=backlog) as cloud:
        config = tmp_path / "ddslogd.yaml"
        text = configuration(cloud, directory=tmp_path / "logs", state=tmp_path / "state") + ANY_PORT
        config.write_text(text.replace("storage:\n", "storage:\n  snapshots: all\n"))
        nodes = [node.name for instance in fleet for node in instance.nodes]
        daemon = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", "run", "-c", str(config)),
            env={**os.environ, "DDSLOGD_TOKEN": cloud.issue_token()},
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(40):
            while any(len(snapshots(tmp_path, node)) < GENERATIONS for node in nodes):
                await asyncio.sleep(0.05)
        daemon.send_signal(signal.SIGTERM)

        assert await daemon.wait() == 0
        kept = {node: snapshots(tmp_path, node)[:GENERATIONS] for node in nodes}
        assert kept == {node: cloud.exports_of(node)[:GENERATIONS] for node in nodes}


def snapshots(tmp_path: Path, node: str) -> list[bytes]:
    """Return a node's visible files in order of their update time, which their names end in."""
    paths = (tmp_path / "logs" / "snapshots").glob(f"*/{node}/[!.]*")
    return [path.read_bytes() for path in sorted(paths, key=lambda path: path.name.split(".", 1)[1])]


async def test_a_daemon_whose_ledger_is_harmed_says_so_and_its_streams_go_on(tmp_path: Path) -> None:
    """First it is removed, then overwritten; nobody restarts anything. No line has a time: the files are all there is.

    The harm comes at any step of a cycle, and so do the lines: before the daemon sees it, and after that.
    """
    async with Sandbox(fleet=(single("solo"),), speed=SPEED, lines_per_second=0, backlog=timedelta(0)) as cloud:
        config = tmp_path / "ddslogd.yaml"
        config.write_text(configuration(cloud, directory=tmp_path / "logs", state=tmp_path / "state") + ANY_PORT)
        daemon = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", "run", "-c", str(config)),
            env={**os.environ, "DDSLOGD_TOKEN": cloud.issue_token()},
            stderr=asyncio.subprocess.PIPE,
        )
        journal = Journal(daemon)
        ledger = tmp_path / "state" / "ledger.sqlite3"
        harms: dict[str, Callable[[], None]] = {
            "service.started": lambda: None,
            "ledger.lost": ledger.unlink,
            "ledger.damaged": lambda: overwrite(ledger),
        }
        try:
            for event, harm in harms.items():
                harm()
                write(cloud)
                await journal.until_event(event)
                write(cloud)
                await journal.until(lambda: len(stream(tmp_path)) >= len(cloud.log_of(NODE)))
                assert stream(tmp_path) == cloud.log_of(NODE), event
        finally:
            daemon.send_signal(signal.SIGTERM)
            await journal.until_end()

        assert (await daemon.wait(), stream(tmp_path)) == (0, cloud.log_of(NODE))
    counts = {event: journal.count(event) for event in ("ledger.lost", "ledger.damaged", "stream.gap", "bug")}
    assert counts == {"ledger.lost": 1, "ledger.damaged": 1, "stream.gap": 0, "bug": 0}


class Journal:
    """What a daemon logs, as it comes."""

    def __init__(self, daemon: asyncio.subprocess.Process) -> None:
        assert daemon.stderr is not None
        self._stderr = daemon.stderr
        self._lines: list[str] = []

    def count(self, words: str) -> int:
        return sum(words in line for line in self._lines)

    async def until(self, is_reached: Callable[[], bool]) -> None:
        """Read on until something is so; it has to be within so many cycles."""
        last = self.count("cycle.done") + MOST_CYCLES
        while not is_reached():
            assert self.count("cycle.done") < last, self._lines
            line = await self._stderr.readline()
            assert line, self._lines  # else it has ended
            self._lines.append(line.decode())

    async def until_event(self, event: str) -> None:
        await self.until(lambda: self.count(event) > 0)

    async def until_end(self) -> None:
        self._lines += (await self._stderr.read()).decode().splitlines()


def write(cloud: Sandbox) -> None:
    """Let the node write some lines; all of them together are too few to prove anything by their number."""
    cloud.write(NODE, b"".join(b"line %d of the log\n" % next(NUMBERS) for _ in range(30)))


def overwrite(ledger: Path) -> None:
    with ledger.open("r+b") as file:
        file.write(b"\xff" * ledger.stat().st_size)


def stream(tmp_path: Path) -> bytes:
    live = tmp_path / "logs" / "streams" / "solo" / f"{NODE}.log"
    return live.read_bytes() if live.exists() else b""
