"""A run of the daemon against the sandbox, with all that it does to its directories.

What one process made, another relies on: an earlier one made some directories and ended before it synced any, and
the daemon is killed while streams are appended to. Files are small, some of them held in memory until they are whole,
others written as they come.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING

from ddslogd.sandbox import Sandbox, configuration, replica_set, single
from torture.powercut import checker, trace
from torture.powercut.checker import LOGS, STATE, Truth
from torture.powercut.disk import Disk, MissingError, UnmodelledError
from torture.powercut.trace import STRACE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torture.powercut.disk import Tree
    from torture.powercut.trace import Call, Trace

FLEET = (replica_set("trio"), single("solo"))
NODES = {node.name: instance.name for instance in FLEET for node in instance.nodes}
SPEED = 600  # a cycle every two seconds
WINDOW = 90_000  # bytes of an export
ROTATE = 150_000
# Bytes that a node has written by the end of each generation: exports grow, slide, leave a gap, and end within lines.
ENDS = (30_000, 80_000, 130_000, 180_000, 330_000, 360_000, 380_000)
KILLED_IN = 2
_BEGAN = datetime(2026, 1, 2, 3, 0, 0, tzinfo=UTC)
_PATIENCE_S = 120


@cache
def log_of(node: str, size: int) -> bytes:
    """Return the beginning of what a node writes; each line has its number."""
    lines, length, number = list[bytes](), 0, 0
    while length < size:
        moment = (_BEGAN + timedelta(seconds=number)).isoformat(timespec="milliseconds")
        text = (
            f'{{"t":{{"$date":"{moment}"}},"s":"W","id":{number},"ctx":"{node}","msg":"{"x" * (number * 7 % 90)}"}}\n'
        )
        lines.append(text.encode())
        length, number = length + len(text), number + 1
    return b"".join(lines)[:size]


def live(node: str) -> str:
    """Return where a node's stream is."""
    return f"streams/{NODES[node]}/{node}.log"


def snapshots(node: str) -> str:
    """Return where a node's snapshots are."""
    return f"snapshots/{NODES[node]}/{node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What was recorded.

    Attributes:
        top: The directory that all of it is about; it is gone.
        runs: The calls of each process.
        written: When the cloud began each generation, epoch seconds.
        truth: What is right.
        seconds: How long it took.
    """

    top: str
    runs: Sequence[Sequence[Call]]
    written: Sequence[float]
    truth: Truth
    seconds: float = 0.0

    def generation(self, at: float) -> int:
        """Return which generation the cloud has at a moment."""
        return max(number for number, since in enumerate(self.written) if since <= at or number == 0)


def sandbox() -> Sandbox:
    """Make a cloud that writes nothing by itself."""
    return Sandbox(
        fleet=FLEET, speed=SPEED, window=WINDOW, lines_per_second=0, backlog=timedelta(0), export_takes=(0.0, 60.0)
    )


def configured(cloud: Sandbox, directory: Path) -> Path:
    """Write a configuration for a daemon that keeps all below a directory; return where it is."""
    text = configuration(cloud, directory=directory / LOGS, state=directory / STATE)
    text = text.replace("storage:\n", "storage:\n  snapshots: all\n")  # what the ledger promises of them is checked
    # The socket is no data, and not on the disk that is cut off.
    text += (
        f"web: {{enabled: false, socket: {directory.with_suffix('.sock')}}}\nstream: {{rotate: {{size: {ROTATE}}}}}\n"
    )
    path = directory.with_suffix(".yaml")
    path.write_text(text)
    return path


@dataclass(slots=True)
class _Recorder:
    """Runs the daemon, process after process."""

    directory: Path
    cloud: Sandbox
    written: list[float] = field(default_factory=list)
    runs: list[list[Call]] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None

    @property
    def top(self) -> Path:
        return self.directory / "disk"

    @property
    def _trace(self) -> Path:
        return self.directory / f"{len(self.runs)}.strace"

    async def _begin(self, *command: str | Path) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *map(str, (*STRACE, "-o", self._trace, sys.executable, *command)),
            env={**os.environ, "DDSLOGD_TOKEN": self.cloud.issue_token()},
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def make_directories(self) -> None:
        """Let a process make those of the streams, and end without a sync; the others are the daemon's to make."""
        made = [self.top / LOGS / "streams" / instance.name for instance in FLEET]
        program = "import os, sys; [os.makedirs(path, exist_ok=True) for path in sys.argv[1:]]"
        process = await self._begin("-c", program, *made)
        await process.wait()
        self._read()

    async def start(self) -> None:
        self.process = await self._begin("-m", "ddslogd", "run", "-c", configured(self.cloud, self.top))

    async def stop(self, number: signal.Signals) -> None:
        """Signal the daemon, and read what it did."""
        os.kill(int((self.top / LOGS / ".ddslogd.lock").read_text()), number)
        if self.process is not None:
            await self.process.wait()
        self._read()

    def _read(self) -> None:
        done = trace.read(self._trace, below=self.top, began=sum(map(len, self.runs)))
        self._trace.unlink()
        self.runs.append([*done.calls, *self._happened(done)])

    def _happened(self, done: Trace) -> Sequence[Call]:
        """Return which of the calls that were under way at the kill happened: with these, the model is like the disk.

        Raises:
            UnmodelledError: It is not, whichever happened.
        """
        there = _comparable(checker.tree_of(self.top))
        for count in range(len(done.unfinished) + 1):
            for chosen in combinations(done.unfinished, count):
                if _comparable(_left_by(str(self.top), [*self.runs, [*done.calls, *chosen]])) == there:
                    return chosen
        raise UnmodelledError("what is on disk is not what the calls say")

    def write(self) -> None:
        """Begin the next generation."""
        number = len(self.written)
        self.written.append(time.time())
        for node in NODES:
            before = ENDS[number - 1] if number else 0
            self.cloud.write(node, log_of(node, ENDS[number])[before:])

    def taken(self, node: str) -> bool:
        """Return whether a node's stream has all whole lines of the generation."""
        last = log_of(node, ENDS[len(self.written) - 1]).rpartition(b"\n")[0].rpartition(b"\n")[2]
        try:
            return (self.top / LOGS / live(node)).read_bytes().endswith(last + b"\n")
        except FileNotFoundError:
            return False

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while not happened():
                await asyncio.sleep(0.002)

    async def run(self) -> None:
        await self.make_directories()
        await self.start()
        for number in range(len(ENDS)):
            self.write()
            if number == KILLED_IN:
                await self.until(lambda: any(map(self.taken, NODES)))
                await self.stop(signal.SIGKILL)
                await self.start()
            await self.until(lambda: all(map(self.taken, NODES)))
        await self.stop(signal.SIGTERM)


async def recorded(directory: Path) -> Recording:
    """Record a run.

    Raises:
        UnmodelledError: What it did is not understood.
    """
    began = time.monotonic()
    (directory / "disk").mkdir(parents=True)
    async with sandbox() as cloud:
        recorder = _Recorder(directory, cloud)
        await recorder.run()
        served = {snapshots(node): frozenset(cloud.exports_of(node)) for node in NODES}
    tree = checker.tree_of(recorder.top)
    shutil.rmtree(recorder.top)  # a daemon on another directory may have its ledger then
    return Recording(
        top=str(recorder.top),
        runs=recorder.runs,
        written=recorder.written,
        truth=Truth(served=served, streams={live(node): checker.stream(tree, live(node)) for node in NODES}),
        seconds=time.monotonic() - began,
    )


def _left_by(top: str, runs: Sequence[Sequence[Call]]) -> Tree:
    """Return what a reader sees after some calls; nothing where they do not fit together."""
    disk = Disk(top)
    try:
        for run in runs:
            disk.restart()
            for call in run:
                disk.apply(call)
    except MissingError:
        return {}
    return disk.tree()


def _comparable(tree: Tree) -> Tree:
    return {path: content for path, content in tree.items() if not path.name.endswith("-shm")}


def faults_of(recording: Recording) -> list[str]:
    """Return what is wrong with the streams of the run itself."""
    return [
        f"{fault}: {node}"
        for node in NODES
        for fault in checker.once_in_order(recording.truth.streams[live(node)], log_of(node, ENDS[-1]), gaps=1)
    ]
