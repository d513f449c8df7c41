"""Log shippers themselves, as the snippets set them up: each line of a stream arrives, and nothing else does."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ddslogd.storage import paths
from ddslogd.storage.directory_sync import Directories
from ddslogd.storage.shippers import read_positions
from ddslogd.storage.shippers.read_positions import Shipper
from ddslogd.storage.streams.stream_files import StreamFiles
from support.log_streams import mongod_lines
from support.places import ROOT
from support.programs import needed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

SERIES = "snapshots/orders/node_1/*.log"
OFTEN = 'monitor-method("poll") follow-freq(0.1)'
KEPT = {"persist-file": "persist", "pidfile": "pid", "control": "control"}
WITH_IDS = 'template(name="with-ids" type="string" string="%$!metadata!filename%:%$!metadata!fileoffset% %rawmsg%\\n")'


def begun(directory: Path, number: int, node: str = "node_1") -> Path:
    """Return a stream's file that begins then, and let the link lead to it, as the daemon does."""
    moment = datetime(2026, 1, 2, 3, number, tzinfo=UTC)
    series = f"snapshots/orders/{node}/*.log"
    path = directory / paths.stream_file(series, moment)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    files = StreamFiles(directory, directories=Directories())
    assert not files.point(series, path.relative_to(directory).as_posix())
    return path


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def snippet(name: str, directory: Path) -> str:
    """Return a snippet's text with streams and output in another directory."""
    text = (ROOT / "systemd" / "shippers" / name).read_text()
    return text.replace("/var/log/ddslogd-shipped.log", f"{directory}/out.log").replace(
        "/var/log/ddslogd/", f"{directory}/"
    )


def write_strangers(tmp_path: Path) -> None:
    """Write what lies next to streams and is none."""
    for strange in (
        "streams/orders/.replaced.20260102T030405.000Z/node_1/20260102T030405.000Z.log",
        "streams/orders/node_1/.20260102T030405.000Z.log.part",
        "streams/orders/node_1.log.20260102T030405.000Z",
        "snapshots/orders/node_1/name.20260102T030405.000Z.log",
    ):
        (tmp_path / strange).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / strange).write_bytes(mongod_lines(5000, 20))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rsyslog:
    """The program as the snippet sets it up, but that it writes each line behind its id.

    Attributes:
        directory: Of streams, its work and its output.
    """

    directory: Path

    @asynccontextmanager
    async def running(self, *, end: signal.Signals = signal.SIGTERM) -> AsyncIterator[None]:
        program = needed("rsyslogd", "install Debian's rsyslog")
        (self.directory / "work").mkdir(exist_ok=True)
        text = snippet("rsyslog.conf", self.directory).replace('ddslogd-raw")\n}', 'with-ids")\n}')
        start = f'global(workDirectory="{self.directory}/work" maxMessageSize="256k")\n{WITH_IDS}\n'
        (self.directory / "conf").write_text(start + text)
        arguments = ("-n", "-C", "-f", str(self.directory / "conf"), "-i", str(self.directory / "pid"))
        process = await asyncio.create_subprocess_exec(program, *arguments)
        try:
            yield
        finally:
            process.send_signal(end)
            await process.wait()
            (self.directory / "pid").unlink(missing_ok=True)

    def shipped(self) -> list[tuple[bytes, bytes]]:
        """Return ids and lines."""
        path = self.directory / "out.log"
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        return [(one.partition(b" ")[0], one.partition(b" ")[2]) for one in whole.splitlines()]

    def lines(self) -> list[bytes]:
        return [line for _, line in self.shipped()]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


def _are(found: Callable[[], object], expected: object) -> bool:
    return found() == expected


def numbered(first: int, end: int) -> list[bytes]:
    return mongod_lines(first, end - first).splitlines()


async def test_rsyslog_ships_each_line_once_over_ten_rotations_and_by_its_id_after_a_kill_and_a_lost_registry(
    tmp_path: Path,
) -> None:
    """A restart doubles nothing; a kill doubles some lines, and a lost registry all, each with the id that it had."""
    rsyslog, node_2 = Rsyslog(directory=tmp_path), numbered(900, 901)
    write_strangers(tmp_path)
    async with rsyslog.running():
        for number in range(22):
            append(begun(tmp_path, number // 2), mongod_lines(number * 10, 10))
            await until(partial(_are, rsyslog.lines, numbered(0, number * 10 + 10)))
        append(begun(tmp_path, 0, "node_2"), mongod_lines(900, 1))  # a directory that was not there before
        await until(lambda: rsyslog.lines() == numbered(0, 220) + node_2)
    append(begun(tmp_path, 10), mongod_lines(220, 10))
    append(begun(tmp_path, 20), mongod_lines(230, 10))
    async with rsyslog.running(end=signal.SIGKILL):
        await until(lambda: set(rsyslog.lines()) >= {*numbered(0, 240)})
    once = Counter(rsyslog.lines())
    append(begun(tmp_path, 21), mongod_lines(240, 10))
    async with rsyslog.running():
        await until(lambda: set(rsyslog.lines()) >= {*numbered(0, 250)})
    shutil.rmtree(tmp_path / "work")
    async with rsyslog.running():
        await until(lambda: Counter(rsyslog.lines())[numbered(249, 250)[0]] >= 2)  # all again

    assert once == Counter(numbered(0, 240) + node_2)
    assert sorted(dict(rsyslog.shipped()).values()) == sorted(numbered(0, 250) + node_2)
    assert len(set(rsyslog.shipped())) == len({id_ for id_, _ in rsyslog.shipped()})


async def test_the_books_of_rsyslog_itself_say_how_far_each_file_was_read(tmp_path: Path) -> None:
    """One file has less than 512 bytes, one more, and one grows from less to more."""
    rsyslog = Rsyslog(directory=tmp_path)
    files = [begun(tmp_path, number) for number in range(3)]
    for path, count in zip(files, (2, 50, 2), strict=True):
        append(path, mongod_lines(0, count))

    async with rsyslog.running():
        await until(lambda: len(rsyslog.lines()) == 54)  # as above
        append(files[2], mongod_lines(2, 50))
        await until(lambda: len(rsyslog.lines()) == 104)  # as above
    books = read_positions.read(Shipper.RSYSLOG, tmp_path / "work")

    assert [books.position(path) for path in files] == [path.stat().st_size for path in files]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyslogNg:
    """The program as the snippet sets it up, but that it looks for new lines more often.

    Attributes:
        directory: Of streams, what it keeps and its output.
    """

    directory: Path

    @asynccontextmanager
    async def running(self, *, end: signal.Signals = signal.SIGTERM) -> AsyncIterator[None]:
        program = needed(str(ROOT / "build" / "syslog-ng" / "run"), "make test-shippers brings it")
        text = snippet("syslog-ng.conf", self.directory).replace("flags(no-parse)", f"{OFTEN} flags(no-parse)")
        (self.directory / "conf").write_text(f"@version: current\n{text}")
        kept = [f"--{name}={self.directory}/{file}" for name, file in KEPT.items()]
        process = await asyncio.create_subprocess_exec(
            program,
            "--foreground",
            "--no-caps",
            f"--cfgfile={self.directory}/conf",
            *kept,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            process.send_signal(end)
            await process.wait()

    def lines(self) -> list[bytes]:
        path = self.directory / "out.log"
        return path.read_bytes().splitlines() if path.exists() else []


async def test_syslog_ng_ships_each_line_once_over_ten_rotations_and_a_restart(tmp_path: Path) -> None:
    """Nothing that is no stream is shipped; after a kill no line is missing."""
    syslog_ng = SyslogNg(directory=tmp_path)
    write_strangers(tmp_path)
    async with syslog_ng.running():
        for number in range(22):
            append(begun(tmp_path, number // 2), mongod_lines(number * 10, 10))
            await until(partial(_are, syslog_ng.lines, numbered(0, number * 10 + 10)))
    append(begun(tmp_path, 10), mongod_lines(220, 10))
    append(begun(tmp_path, 20), mongod_lines(230, 10))
    async with syslog_ng.running(end=signal.SIGKILL):
        await until(lambda: len(syslog_ng.lines()) >= 240)
    once = sorted(syslog_ng.lines())
    append(begun(tmp_path, 21), mongod_lines(240, 10))
    async with syslog_ng.running():
        await until(lambda: {*syslog_ng.lines()} >= {*numbered(0, 250)})

    assert (once, {*syslog_ng.lines()}) == (sorted(numbered(0, 240)), {*numbered(0, 250)})


async def test_tail_follows_the_link_over_ten_rotations_and_prints_each_line_once(tmp_path: Path) -> None:
    begun(tmp_path, 0)
    link, out = tmp_path / paths.stream_link(SERIES), tmp_path / "out"
    with out.open("wb") as target:
        arguments = ("-n", "+1", "-F", "-s", "0.1", "--max-unchanged-stats=1", str(link))
        process = await asyncio.create_subprocess_exec(
            needed("tail", "install Debian's coreutils"), *arguments, stdout=target, stderr=asyncio.subprocess.DEVNULL
        )
    try:
        for number in range(11):
            append(begun(tmp_path, number), mongod_lines(number * 10, 10))
            await until(partial(_are, out.read_bytes, mongod_lines(0, number * 10 + 10)))
    finally:
        process.terminate()
        await process.wait()

    assert out.read_bytes() == mongod_lines(0, 110)
