"""A stream whose daemon is killed before every step on disk, and within every write: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.config.settings import Rotate
from ddslogd.model.instance import Every
from ddslogd.model.snapshot import LogFile, Snapshot
from ddslogd.scheduling.clock import SystemClock
from ddslogd.storage import paths
from ddslogd.storage.ledger import database
from ddslogd.storage.ledger.gap_records import gaps
from ddslogd.storage.ledger.snapshot_records import Ledger
from ddslogd.storage.streams import log_window
from ddslogd.storage.streams.overlap import HeldWindow, ProofLine, longest_end
from ddslogd.storage.streams.stream_writer import Origin, Streams
from support.live_settings import live_settings
from support.places import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

NOW = datetime(2026, 1, 2, 3, 0, 0, tzinfo=UTC)
ORIGIN = Origin(schedule=Every(interval=timedelta(minutes=20)), key="6ade8143870047b8999aba8f1891b48ein02")
SERIES = "snapshots/orders/node/*.log"
# What an export holds, by the numbers of the first line and of the one behind the last: they grow, slide, bring nothing
# new, and leave a gap.
EXPORTS = ((0, 10), (0, 30), (20, 60), (20, 60), (100, 130), (115, 150))
ROTATE = Rotate(size=3000)
NEVER = 1_000_000  # steps


def lines(first: int, end: int) -> bytes:
    moments = ((number, NOW + timedelta(seconds=number)) for number in range(first, end))
    return b"".join(
        f'{{"t":{{"$date":"{moment.isoformat(timespec="milliseconds")}"}},"id":{number}}}\n'.encode()
        for number, moment in moments
    )


def export(number: int) -> bytes:
    """Return an export, with the beginning of a line behind its last."""
    first, end = EXPORTS[number]
    return lines(first, end) + lines(end, end + 1)[:20]


def expected() -> bytes:
    """Return the stream of all exports: in the gap, what was begun has an end."""
    return lines(0, 60) + lines(60, 61)[:20] + b"\n" + lines(100, 150)


async def run(directory: Path) -> None:
    """Publish and take every export, going on where an earlier process was killed."""
    ledger = Ledger(directory)
    await ledger.open()
    streams = Streams(directory, ledger=ledger, settings=live_settings(stream={"rotate": ROTATE}), clock=SystemClock())
    for number in range(len(EXPORTS)):
        entry = entry_of(number)
        if not (await ledger.known(entry.key)).held:
            await publish(entry, directory, ledger)
        await streams.catch_up(SERIES, origin=ORIGIN, note=lambda _: None)
    await ledger.close()


async def run_without_snapshots(directory: Path) -> None:
    """Do the same where the stream stands for the last export: what is new is in memory alone, if that is proved."""
    ledger = Ledger(directory)
    await ledger.open()
    settings = live_settings(stream={"rotate": ROTATE}, storage={"snapshots": "none"})
    streams = Streams(directory, ledger=ledger, settings=settings, clock=SystemClock())
    for number in range(len(EXPORTS)):
        entry = entry_of(number)
        known = await ledger.known(entry.key)
        if not known.held and not await extend(entry, known.newest, streams):
            await publish(entry, directory, ledger)
        await streams.catch_up(SERIES, origin=ORIGIN, note=lambda _: None)
        state = (await streams.book.backlog(SERIES)).state
        if state is not None and state.is_own_reference:
            gone = [path for path in (directory / "snapshots").rglob("*.log") if path.is_file()]
            for path in gone:
                path.unlink()
            await streams.book.forget_files([path.relative_to(directory).as_posix() for path in gone])
    await ledger.close()


def entry_of(number: int) -> Snapshot:
    moment, content = NOW + timedelta(minutes=number), export(number)
    file = LogFile(instance="orders", node="node", file_name="f", updated_at=moment)
    key = paths.key(file)
    return Snapshot(
        file=file,
        key=key,
        path=key,
        size=len(content),
        md5=str(number),
        etag="",
        verified=True,
        began_at=moment,
        stored_at=moment,
    )


async def publish(entry: Snapshot, directory: Path, ledger: Ledger) -> None:
    (directory / entry.key).parent.mkdir(parents=True, exist_ok=True)
    (directory / entry.key).write_bytes(content_of(entry))
    await ledger.enter(entry)


async def extend(entry: Snapshot, newest: Snapshot | None, streams: Streams) -> bool:
    """Let the stream take what is new of an export that begins with the stream's end; tell whether it did."""
    state = (await streams.book.backlog(SERIES)).state
    seed = newest and streams.seed(newest, state)
    if not seed or state is None:
        return False
    content = content_of(entry)
    with log_window.joined(seed.locate()) as held:
        start = longest_end(held, content[:64], most=len(content))
        if start is None or held.size < seed.whole_lines:
            return False
        there = held.read(start, held.size - start)
        proof_line = ProofLine(held, since=held.size - seed.whole_lines)
        proof_line.read(0, held.read(0, held.size))
    if not content.startswith(there):
        return False
    new = HeldWindow(content[len(there) :])
    found = await streams.extend(entry, new, proof_line=proof_line, base=state, origin=ORIGIN, note=lambda _: None)
    return found is not None


def content_of(entry: Snapshot) -> bytes:
    return export(int(entry.md5))


class Executioner:
    """Kills this process before the n-th step on disk, or in the middle of it where it writes."""

    def __init__(self, at: int) -> None:
        self._left = at

    def arm(self) -> None:
        os.rename = self._before(os.rename)
        os.open = self._before(os.open)
        os.symlink = self._before(os.symlink)
        os.fsync = self._before(os.fsync)
        os.fchmod = self._before(os.fchmod)
        os.mkdir = self._before(os.mkdir)
        os.copy_file_range = self._within(os.copy_file_range)
        os.pwrite = self._within_write(os.pwrite)
        Ledger._commit = self._before(Ledger._commit)  # type: ignore[method-assign]  # each transaction

    def _step(self) -> bool:
        self._left -= 1
        return self._left < 0

    def _before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **named: Any) -> Any:
            if self._step():
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return stepped

    def _within_write(self, write: Callable[[int, memoryview, int], int]) -> Callable[..., Any]:
        def stepped(target: int, data: memoryview, to: int) -> int:
            if self._step():
                os.kill(os.getpid(), signal.SIGKILL)
            if self._step():
                write(target, data[: len(data) // 2], to)
                os.kill(os.getpid(), signal.SIGKILL)
            return write(target, data, to)

        return stepped

    def _within(self, copy: Callable[[int, int, int, int, int], int]) -> Callable[..., Any]:
        def stepped(source: int, target: int, size: int, at: int, to: int) -> int:
            if self._step():
                os.kill(os.getpid(), signal.SIGKILL)
            if self._step():
                copy(source, target, size // 2, at, to)
                os.kill(os.getpid(), signal.SIGKILL)
            return copy(source, target, size, at, to)

        return stepped


def killed_at(step: int, directory: Path) -> bool:
    """Run in a process of its own that is killed at a step; tell whether it was, or came to its end before."""
    pid = os.fork()
    if pid == 0:
        Executioner(step).arm()
        asyncio.run((run_without_snapshots if directory.parent.name == "none" else run)(directory))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, -signal.SIGKILL}
    return status != 0


def each_step(directory: Path) -> None:
    """Kill one process before each step that there is, and let another come to the end."""
    for step in count():
        (directory / str(step)).mkdir()
        was_killed = killed_at(step, directory / str(step))
        assert not killed_at(NEVER, directory / str(step))
        if not was_killed:
            return


def again_and_again(directory: Path) -> None:
    """Kill one process after the other, each at a step by chance, until one comes to the end."""
    for attempt in range(40):
        chance = random.Random(attempt)
        (directory / str(attempt)).mkdir()
        while killed_at(chance.randrange(10, 60), directory / str(attempt)):
            pass


async def nursery(how: Callable[[Path], None], directory: Path) -> None:
    """Run in a process that has one thread, and so can be forked."""
    arguments = (sys.executable, __file__, how.__name__, str(directory))
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    process = await asyncio.create_subprocess_exec(*arguments, env=environ)
    assert await process.wait() == 0


def stream(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((directory / "streams" / "orders" / "node").iterdir()))


def names(directory: Path) -> tuple[set[str], set[str]]:
    """Return the names of the stream's files, on disk and in the ledger."""
    with closing(sqlite3.connect(directory / "ledger.sqlite3")) as db:
        rows = db.execute("SELECT path FROM stream_parts UNION ALL SELECT path FROM streams").fetchall()
    return {path.name for path in (directory / "streams" / "orders" / "node").iterdir()}, {
        Path(row[0]).name for row in rows
    }


def known_gaps(directory: Path) -> int:
    with database.reading(directory / "ledger.sqlite3") as db:
        return len(gaps(db))


@pytest.mark.parametrize("snapshots", ["all", "none"])
@pytest.mark.parametrize("how", [each_step, again_and_again], ids=["each step", "again and again"])
async def test_a_stream_is_the_same_in_the_end(tmp_path: Path, how: Callable[[Path], None], snapshots: str) -> None:
    (tmp_path / snapshots).mkdir()
    await nursery(how, tmp_path / snapshots)

    runs = sorted((tmp_path / snapshots).iterdir(), key=lambda path: int(path.name))
    assert len(runs) >= 40  # else the steps were not counted
    for directory in runs:
        on_disk, known = names(directory)
        link = directory / "streams" / "orders" / "node.log"
        assert (stream(directory), known_gaps(directory)) == (expected(), 1), directory
        assert (on_disk, len(on_disk) > 2, link.resolve().name) == (known, True, max(on_disk)), directory


if __name__ == "__main__":
    {each_step.__name__: each_step, again_and_again.__name__: again_and_again}[sys.argv[1]](Path(sys.argv[2]))
