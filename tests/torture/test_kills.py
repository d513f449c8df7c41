"""SIGKILL at random moments under load: nothing visible is cut, no line lost or doubled, and little fetched twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ddslogd.sandbox import Sandbox, configuration, replica_set
from support.log_streams import files_in
from support.testbed import ANY_PORT

if TYPE_CHECKING:
    from pathlib import Path

FLEET = (replica_set("solo", nodes=3),)
NODES = [node.name for node in FLEET[0].nodes]
SIZE = 3_000_000  # bytes of each file
PACE = 4_000_000  # bytes a second of each transfer
GENERATION = 7  # kills, after which the cloud has new files
TWICE = 64 * 1024 + 512 * 1024 + 128 * 1024  # the untrusted tail, one batch, and what was on its way in sockets


class Torture:
    """A cloud whose clock is moved on by the test, and a daemon that is killed again and again."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.random = random.Random(seed)
        self.ahead = timedelta(0)
        self.sandbox = Sandbox(
            fleet=FLEET,
            now=lambda: datetime.now(UTC) + self.ahead,
            window=SIZE,
            lines_per_second=0,
            backlog=timedelta(0),
            export_takes=(0.0, 0.0),
        )
        self.sandbox.faults.bytes_per_second = PACE

    def configure(self) -> None:
        text = configuration(self.sandbox, directory=self.directory / "logs", state=self.directory / "state") + ANY_PORT
        text = text.replace("storage:\n", "storage:\n  snapshots: all\n")  # what streams are compared with here
        text = text.replace("every: 20m", "every: 1s").replace("first_poll: 10s", "first_poll: 100ms")
        text = text.replace("max_poll: 30s", "max_poll: 200ms").replace(
            "calls_per_minute: 60", "calls_per_minute: 6000"
        )
        (self.directory / "ddslogd.yaml").write_text(text)

    def new_generation(self) -> None:
        """Let 20 minutes pass in the cloud, and all the log be another one."""
        self.ahead += timedelta(minutes=20)
        for node in NODES:
            self.sandbox.write(node, self.random.randbytes(SIZE))

    async def start(self) -> asyncio.subprocess.Process:
        """Start a daemon and wait until its first cycle has begun."""
        if self.complete():
            self.forget_export()
        calls = self.sandbox.calls["errorlog-download"]
        daemon = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", "run", "-c", str(self.directory / "ddslogd.yaml")),
            env={**os.environ, "DDSLOGD_TOKEN": self.sandbox.issue_token()},
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(30):
            while self.sandbox.calls["errorlog-download"] == calls:
                await asyncio.sleep(0.005)
        return daemon

    async def kill_once(self) -> None:
        """Start, wait for a moment of its first cycle, kill."""
        daemon = await self.start()
        await asyncio.sleep(self.random.uniform(0.0, 0.5))
        daemon.send_signal(signal.SIGKILL)
        await daemon.wait()

    async def finish(self) -> None:
        """Run until every node's newest export is there, and stop in peace."""
        daemon = await self.start()
        async with asyncio.timeout(60):
            while not self.complete():
                await asyncio.sleep(0.05)
            while any(not self.stream(node).endswith(self.whole_lines(node)) for node in NODES):
                await asyncio.sleep(0.05)
        daemon.send_signal(signal.SIGTERM)
        assert await daemon.wait() == 0

    def complete(self) -> bool:
        """Return whether every node's newest export is on disk."""
        return all(self.sandbox.exports_of(node)[-1:] == self.kept(node)[-1:] for node in NODES)

    def forget_export(self) -> None:
        """Let the next start ask: it would know that the cloud has nothing new, if its clock had not been moved on."""
        path = self.directory / "state" / "ledger.sqlite3"
        if path.exists():
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("UPDATE exports SET fresh_until_ms = NULL")

    def kept(self, node: str) -> list[bytes]:
        paths = (self.directory / "logs" / "snapshots" / "solo" / node).glob("[!.]*")
        return [path.read_bytes() for path in sorted(paths, key=lambda path: path.name.split(".", 1)[1])]

    def stream(self, node: str) -> bytes:
        files = files_in(self.directory / "logs" / "streams" / "solo", node)
        return b"".join(path.read_bytes() for path in files)

    def whole_lines(self, node: str) -> bytes:
        data = self.kept(node)[-1]
        return data[: data.rindex(b"\n") + 1]

    def due(self, node: str) -> bytes:
        """Return what the stream must be: of each snapshot the whole lines, and in the gap the rest with a line end."""
        pieces = []
        for data in self.kept(node):
            end = data.rindex(b"\n") + 1
            pieces += [data[:end], data[end:] + b"\n" if data[end:] else b""]
        return b"".join(pieces[:-1])

    def strangers(self) -> list[str]:
        """Return the nodes with a visible file that is no whole export, or that is there twice."""
        return [
            node
            for node in NODES
            if any(data not in self.sandbox.exports_of(node) for data in self.kept(node))
            or len(set(self.kept(node))) != len(self.kept(node))
        ]


async def torture(directory: Path, *, kills: int, seed: int) -> None:
    tortured = Torture(directory, seed)
    async with tortured.sandbox as sandbox:
        tortured.configure()
        for kill in range(kills):
            if kill % GENERATION == 0:
                tortured.new_generation()
            await tortured.kill_once()
            assert tortured.strangers() == [], f"after kill {kill}"
        await tortured.finish()

        exported = sum(len(data) for node in NODES for data in sandbox.exports_of(node))
        assert tortured.strangers() == []
        assert [node for node in NODES if tortured.stream(node) != tortured.due(node)] == []
        assert sandbox.bytes_sent - exported <= kills * len(NODES) * TWICE


@pytest.mark.slow
async def test_eight_kills_leave_nothing_cut_and_fetch_little_twice(tmp_path: Path) -> None:
    await torture(tmp_path, kills=8, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
async def test_two_hundred_kills_do_no_more_harm(tmp_path: Path, seed: int) -> None:
    await torture(tmp_path, kills=20, seed=seed)
