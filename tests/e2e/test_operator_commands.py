"""What an operator asks for by hand: the list of gaps, room on disk, and streams made again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import time
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from ddslogd.cli import main
from ddslogd.cli.tables import gap_table, removal_table
from ddslogd.model.instance import LogKind
from ddslogd.model.stream import Gap, GapCause
from ddslogd.monitoring.status_reader import gap_objects
from ddslogd.sandbox import ApiError, replica_set, single
from ddslogd.storage.ledger import database
from ddslogd.storage.retention_plan import FileKind, Kept, Reason, Removal
from support.commands import Ended, ddslogd, end, rebuild, start
from support.log_streams import files_in
from support.testbed import config_of, known_gaps, next_cycle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from ddslogd.sandbox import Sandbox
    from support.testbed import Bed

NODE = "solo_single_node_1"
WINDOW = 4_000  # bytes that an export of this cloud holds
T0 = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
NUMBERS = count()


def lines(size: int, *, at: int = 0) -> bytes:
    """Return so many bytes of lines that were never there before, with times from so many seconds after T0 on."""
    return b"".join(
        f'{{"t":{{"$date":"{(T0 + timedelta(seconds=at + number)).isoformat(timespec="milliseconds")}"}},'
        f'"id":{next(NUMBERS):046d}}}\n'.encode()
        for number in range(size // 100)
    )


@asynccontextmanager
async def collecting(bed: Bed) -> AsyncIterator[None]:
    """Have a service for several cycles, unless there is one."""
    if bed.service is None:
        async with bed.open():
            yield
    else:
        yield


async def overflow(bed: Bed, cloud: Sandbox) -> None:
    """Let more be written between two exports than one of them holds."""
    async with collecting(bed):
        cloud.write(NODE, lines(1000))
        await next_cycle(bed)
        cloud.write(NODE, lines(2 * WINDOW, at=100))
        await next_cycle(bed)


class Shell:
    """Runs a command that awaits nothing in this process, which is quick."""

    def __init__(self, bed: Bed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._bed = bed
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, command: str, *arguments: str) -> Ended:
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "argv", ["ddslogd", command, "-c", str(config_of(self._bed)), *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = self._capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)


@pytest.fixture
def shell(bed: Bed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(bed, monkeypatch, capsys)


# --- gaps -------------------------------------------------------------------------------------------------------------


async def test_where_no_line_is_missing_gaps_says_so_and_exits_0(bed: Bed, shell: Shell) -> None:
    bed.sandbox.write(NODE, lines(1000))
    await next_cycle(bed)

    table, objects = shell("gaps"), shell("gaps", "--json")

    assert (table.status, table.out, objects.status, objects.out) == (0, "no gaps\n", 0, "[]\n")


async def test_gaps_lists_each_with_its_cause_and_exits_1(bed: Bed, shell: Shell) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        await overflow(bed, cloud)

        ended = shell("gaps")

    headings, row = ([field.strip() for field in line.split("  ") if field] for line in ended.out.splitlines())
    assert (ended.status, headings, row) == (
        1,
        ["instance", "node", "log", "from", "to", "cause"],
        [
            "solo",
            NODE,
            "error",
            "2026-01-02 03:00:09",
            "2026-01-02 03:02:20",
            "window overflow",
        ],
    )


async def test_gaps_for_programs_are_objects(bed: Bed, shell: Shell) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        await overflow(bed, cloud)

        ended = shell("gaps", "--json")

    (gap,) = json.loads(ended.out)
    noted, newest = known_gaps(bed.state)[0].noted_at, bed.files()[-1].relative_to(bed.directory)
    assert (ended.status, gap) == (
        1,
        {
            "instance": "solo",
            "node": NODE,
            "log": "error",
            "from": "2026-01-02T03:00:09.000+00:00",
            "to": "2026-01-02T03:02:20.000+00:00",
            "cause": "window overflow",
            "noted": noted.isoformat(timespec="milliseconds"),
            "begins_within_a_line": False,
            "file": newest.as_posix(),
        },
    )


async def test_gaps_are_those_that_were_noted_or_ended_since_then(bed: Bed, shell: Shell) -> None:
    """The lines after this one tell a later time than the one at which it was noted: the node's clock is ahead."""
    async with bed.cloud(window=WINDOW) as cloud:
        cloud.write(NODE, lines(1000))
        await next_cycle(bed)
        cloud.write(NODE, lines(2 * WINDOW, at=86_400))
        await next_cycle(bed)
    (gap,) = known_gaps(bed.state)
    times = ["2026-01-02T00:00Z", "2026-01-01", gap.noted_at.isoformat(), str(gap.until), "2026-01-03T03:00:41Z"]

    found = [shell("gaps", "--since", when).status for when in (*times, "2026-01-04", "1h", "3000d")]

    assert (gap.noted_at < T0 + timedelta(days=1), found) == (True, [1, 1, 1, 1, 0, 0, 0, 1])


@pytest.mark.parametrize("when", ["yesterday", "7", "2026-13-01", "-2h", "99999999999d", "0001-01-01", ""])
async def test_a_bad_when_exits_2_and_says_what_would_be_one(bed: Bed, shell: Shell, when: str) -> None:
    await next_cycle(bed)

    ended = shell("gaps", "--since", when)

    assert (ended.status, "--since" in ended.err, "an age like 2h" in ended.err) == (2, True, True), ended.err


@pytest.fixture
def _far_west(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as west:
        west.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_far_west")
async def test_a_when_that_leaves_the_calendar_exits_2(bed: Bed, shell: Shell) -> None:
    await next_cycle(bed)

    assert shell("gaps", "--since", "9999-12-31T23:59").status == 2


@pytest.mark.usefixtures("_far_west")
async def test_a_when_without_a_zone_is_the_hosts_time(bed: Bed, shell: Shell) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        await overflow(bed, cloud)  # noted at 03:43 UTC

    found = [shell("gaps", "--since", when).status for when in ("2026-01-01T22:30", "2026-01-02T03:00")]

    assert found == [1, 0]


async def test_gaps_are_those_of_the_instances_that_are_named(bed: Bed, shell: Shell) -> None:
    async with bed.cloud(window=WINDOW, fleet=(single("solo"), single("calm"))) as cloud:
        await next_cycle(bed, "calm")
        cloud.write(NODE, lines(1000))
        await next_cycle(bed, "solo")
        cloud.write(NODE, lines(2 * WINDOW))
        await next_cycle(bed, "solo")

        found = [shell("gaps", *names).status for names in (("solo",), ("calm",), ("calm", "solo"), ())]

    assert found == [1, 0, 1, 1]


@pytest.mark.parametrize("names", [("slo",), ("solo", "slo")])
async def test_an_instance_that_nothing_is_known_of_exits_2_and_is_named(
    bed: Bed, shell: Shell, names: tuple[str, ...]
) -> None:
    await next_cycle(bed)

    ended = shell("gaps", *names)

    assert (ended.status, "collected of slo" in ended.err) == (2, True)


async def test_without_a_ledger_gaps_exits_74_and_names_it(bed: Bed, shell: Shell) -> None:
    ended = shell("gaps")

    assert (ended.status, str(bed.state / "ledger.sqlite3") in ended.err) == (74, True)


async def test_gaps_works_beside_a_running_daemon(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        await overflow(bed, cloud)

        ended = await ddslogd("gaps", "-c", config_of(bed), "solo", "--since", "2026-01-02")

    assert (ended.status, "window overflow" in ended.out, ended.err) == (1, True, "")


GAP = Gap(
    instance="orders",
    log=LogKind.SLOW,
    node="[bold]node[/bold]",
    after=None,
    until=None,
    cause=GapCause.EVICTED_UNSHIPPED,
    noted_at=T0,
    cut=True,
    path="streams/orders/x.slow.log.20260102T030000.000Z",
)


def test_times_that_are_not_known_are_question_marks_and_nulls() -> None:
    (told,) = gap_objects([GAP])

    row = gap_table([GAP, replace(GAP, after=T0)]).splitlines()[1]
    assert (row.split(), told["from"], told["to"], told["begins_within_a_line"]) == (
        ["orders", "[bold]node[/bold]", "slow", "?", "?", "evicted", "unshipped"],
        None,
        None,
        True,
    )


# --- prune ------------------------------------------------------------------------------------------------------------


async def several_snapshots(bed: Bed, cloud: Sandbox) -> list[str]:
    """Bring four snapshots, which by the host's clock are old; give the paths of those that nothing needs."""
    for _ in range(4):
        cloud.write(NODE, lines(1000))
        await next_cycle(bed)
    return [path.relative_to(bed.directory).as_posix() for path in bed.files()[:3]]


async def test_a_dry_run_beside_a_daemon_says_what_would_go_and_removes_nothing(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        old = await several_snapshots(bed, cloud)

        ended = await ddslogd("prune", "--dry-run", "-c", config_of(bed))

        *rows, total = ended.out.splitlines()
        assert (ended.status, [row.split()[0] for row in rows], total) == (
            0,
            ["file", *old],
            "3 files, 6000 bytes would go",
        ), ended.err
        assert len(bed.files()) == 4


async def test_prune_removes_what_the_dry_run_said(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        async with bed.open():
            old = await several_snapshots(bed, cloud)
            newest = bed.contents()[-1]

        ended = await ddslogd("prune", "-c", config_of(bed))

        *rows, total = ended.out.splitlines()
        assert (ended.status, [row.split()[0] for row in rows], total, bed.contents()) == (
            0,
            ["file", *old],
            "3 files, 6000 bytes removed",
            [newest],
        ), ended.err


async def test_what_changes_files_exits_75_while_a_daemon_runs(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud, bed.open():
        await several_snapshots(bed, cloud)
        config = config_of(bed)

        ended = await asyncio.gather(ddslogd("prune", "-c", config), ddslogd("rebuild", "solo", "-c", config))

        told = [(one.status, f"(process {os.getpid()})" in one.err) for one in ended]
        assert (told, len(bed.files())) == ([(75, True)] * 2, 4)


@pytest.mark.parametrize("command", [("prune",), ("rebuild", "solo")], ids=" ".join)
async def test_what_a_signal_stops_says_so_and_exits_1(bed: Bed, command: tuple[str, ...]) -> None:
    """Not that there was nothing to do. It waits for the ledger, which somebody else is writing to."""
    async with bed.cloud(window=WINDOW) as cloud:
        await several_snapshots(bed, cloud)
        config = config_of(bed)
    with closing(sqlite3.connect(bed.state / "ledger.sqlite3", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        process = await start(*command, "-c", config)
        async with asyncio.timeout(30):
            while (bed.state / ".ddslogd.lock").read_text() != f"{process.pid}\n":
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        writer.rollback()
        ended = await end(process)

    assert (ended.status, "stopped before the end" in ended.err, len(bed.files())) == (1, True, 4)


def test_a_table_of_removals_says_why_each_goes() -> None:
    file = Kept(
        kind=FileKind.STREAM,
        path="streams/orders/[red]x[/red].log.20260102T030000.000Z",
        series="s",
        instance="orders",
        log=LogKind.ERROR,
        node="x",
        size=2_000_000,
        at=T0,
        first_at=None,
        last_at=None,
    )
    removals = [Removal(file=file, reason=Reason.AGE), Removal(file=file, reason=Reason.ROOM, unshipped=True)]

    rows = [line.split() for line in removal_table(removals).splitlines()]

    assert rows == [
        ["file", "size", "for", "its"],
        [file.path, "2.0", "MB", "age"],
        [file.path, "2.0", "MB", "room", "unshipped"],
    ]


def stream_files(bed: Bed, node: str = NODE, ending: str = ".log", *, under: Path | None = None) -> list[Path]:
    """Return the files of a node's stream, oldest first."""
    return files_in(under or bed.directory / "streams" / "solo", node, ending)


def stream(bed: Bed, node: str = NODE, ending: str = ".log", *, under: Path | None = None) -> bytes:
    return b"".join(path.read_bytes() for path in stream_files(bed, node, ending, under=under))


def rotating(bed: Bed) -> None:
    bed.set("instances:\n", "stream: {rotate: {size: 3KB}}\ninstances:\n")


async def cycles(bed: Bed, cloud: Sandbox, *, number: int, size: int = 1500) -> None:
    async with collecting(bed):
        for _ in range(number):
            cloud.write(NODE, lines(size))
            await next_cycle(bed)


async def test_a_stream_that_was_spoilt_is_made_anew_from_the_snapshots(bed: Bed) -> None:
    rotating(bed)
    async with bed.cloud(window=WINDOW) as cloud:
        await cycles(bed, cloud, number=6)
        rotated, *_, live = stream_files(bed)
        rotated.unlink()
        live.write_bytes(b"spoilt\n")

        await rebuild(bed)

        assert stream(bed) == cloud.log_of(NODE)


async def test_the_old_files_are_put_aside_as_they_were(bed: Bed) -> None:
    """In a hidden directory next to the new ones, whose name tells when."""
    rotating(bed)
    async with bed.cloud(window=WINDOW) as cloud:
        await cycles(bed, cloud, number=6)
        before = [(path.name, path.read_bytes()) for path in stream_files(bed)]

        aside, _ = await rebuild(bed)

        expected = bed.directory / "streams" / "solo" / f".replaced.{bed.clock.time:%Y%m%dT%H%M%S}"
        assert aside is not None
        assert [path.as_posix().startswith(expected.as_posix()) for path in aside] == [True]
        assert [(path.name, path.read_bytes()) for path in stream_files(bed, under=aside[0])] == before


async def test_what_was_put_aside_is_out_of_the_books(bed: Bed) -> None:
    """So that it counts for nothing, and is removed by nobody but the operator."""
    rotating(bed)
    async with bed.cloud(window=WINDOW) as cloud:
        await cycles(bed, cloud, number=6)

        await rebuild(bed)

    with database.reading(bed.state / "ledger.sqlite3") as db:
        (size,) = db.execute("SELECT (SELECT sum(size) FROM streams) + (SELECT sum(size) FROM stream_parts)").fetchone()
    assert size == len(cloud.log_of(NODE))


async def test_each_snapshot_is_told_of(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        await cycles(bed, cloud, number=3)

        _, taken = await rebuild(bed)

    assert [advance.new for advance in taken] == [1500] * 3


async def test_after_a_rebuild_cycles_go_on_where_it_ended(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        await cycles(bed, cloud, number=4)
        await rebuild(bed)

        await cycles(bed, cloud, number=3)

        assert (stream(bed), known_gaps(bed.state)) == (cloud.log_of(NODE), ())


async def test_gaps_stay_known_as_they_were_and_are_not_noted_twice(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        await overflow(bed, cloud)
        await cycles(bed, cloud, number=2)
        before, old = known_gaps(bed.state), stream(bed)
        bed.clock.forward(days=3)

        _, taken = await rebuild(bed)

        assert (len(before), sum(advance.gap is not None for advance in taken)) == (1, 1)
        assert (known_gaps(bed.state), stream(bed)) == (before, old)


async def test_a_gap_that_is_known_is_told_with_the_cause_it_has(bed: Bed) -> None:
    """Whatever happened since then."""
    async with bed.cloud(window=WINDOW) as cloud:
        await overflow(bed, cloud)
        cloud.faults.failed_rows.add(NODE)
        await next_cycle(bed)

        with capture_logs() as events:
            await rebuild(bed)

        told = [event["cause"] for event in events if event["event"] == "stream.gap"]
        assert (told, [gap.cause for gap in known_gaps(bed.state)]) == (["window overflow"], ["window overflow"])


async def test_an_instance_that_is_gone_is_known_as_gone_after_a_rebuild(bed: Bed) -> None:
    """No export of its own was made since that would show it back, though others were."""
    async with bed.cloud(window=WINDOW, fleet=(single("solo"), single("calm"))) as cloud:
        for node in (NODE, "calm_single_node_1"):
            cloud.write(node, lines(1000))
        await next_cycle(bed, "solo")
        cloud.faults.api_errors = [ApiError(404, "DBS.200002")]
        await next_cycle(bed, "solo")
        await next_cycle(bed, "calm")
        before = known_gaps(bed.state)

        await rebuild(bed)

        assert ([gap.cause for gap in before], known_gaps(bed.state)) == (["instance gone"], before)


async def test_all_nodes_and_logs_of_an_instance_are_made_anew_and_no_others(bed: Bed) -> None:
    bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
    fleet = (replica_set("solo", nodes=2), single("other"))
    async with bed.cloud(fleet=fleet) as cloud:
        one, two = (node.name for node in fleet[0].nodes)
        cloud.write(one, lines(1000))
        cloud.write(one, lines(800), kind="slow")
        cloud.write(two, lines(600))
        cloud.write("other_single_node_1", lines(400))
        await next_cycle(bed, "solo")
        await next_cycle(bed, "other")
        others = (bed.directory / "streams" / "other" / "other_single_node_1.log").stat()

        aside, _ = await rebuild(bed)

        sizes = [len(stream(bed, *which)) for which in ((one,), (one, ".slow.log"), (two,))]
        old = [len(stream(bed, *which, under=(aside or ())[0])) for which in ((one,), (one, ".slow.log"), (two,))]
        assert (sizes, old) == ([1000, 800, 600], [1000, 800, 600])
        assert (bed.directory / "streams" / "other" / "other_single_node_1.log").stat().st_ino == others.st_ino


async def test_an_instance_may_be_told_by_its_id(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        await cycles(bed, cloud, number=2)

        aside, taken = await rebuild(bed, bed.instance().id)

        assert (len(aside or ()), len(taken), stream(bed)) == (1, 2, cloud.log_of(NODE))


async def test_an_instance_that_is_collected_no_more_can_be_made_anew_by_its_name(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        await cycles(bed, cloud, number=2)
        bed.set('name: "solo"', 'name: "renamed"')

        _, taken = await rebuild(bed)

        assert (len(taken), stream(bed)) == (2, cloud.log_of(NODE))


async def test_a_stream_can_be_made_anew_again_and_again(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        await cycles(bed, cloud, number=3)

        directories: set[Path] = set()
        for _ in range(3):
            bed.clock.forward(seconds=1)
            directories.update((await rebuild(bed))[0] or ())

        assert (len(directories), stream(bed)) == (3, cloud.log_of(NODE))


async def test_with_the_latest_snapshots_alone_the_stream_begins_with_them(bed: Bed) -> None:
    bed.snapshots = "latest"
    async with bed.cloud(window=WINDOW) as cloud:
        await cycles(bed, cloud, number=4)

        await rebuild(bed)

        assert (stream(bed), known_gaps(bed.state)) == (cloud.log_of(NODE)[-WINDOW:], ())


@pytest.mark.parametrize("snapshots", ["all", "latest"])
async def test_nothing_is_rebuilt_that_would_begin_later_unless_that_is_asked_for(bed: Bed, snapshots: str) -> None:
    """The snapshots reach back to the stream's first line where all are there."""
    bed.snapshots = snapshots
    async with bed.cloud(window=WINDOW) as cloud:
        await cycles(bed, cloud, number=4)
        before = stream(bed)

        ended = await ddslogd("rebuild", "solo", "-c", config_of(bed))
        after = stream(bed)
        forced = await ddslogd("rebuild", "solo", "--shorter", "-c", config_of(bed))

        if snapshots == "all":
            assert (ended.status, after, forced.status, stream(bed)) == (0, before, 0, before)
        else:
            assert (ended.status, after, forced.status, stream(bed)) == (1, before, 0, before[-WINDOW:])
            assert f"streams/solo/{NODE}.log; --shorter" in ended.err


async def test_where_there_was_no_stream_nothing_is_put_aside(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        bed.set("instances:\n", "stream: {enabled: false}\ninstances:\n")
        await cycles(bed, cloud, number=3)
        bed.changes.pop()

        aside, _ = await rebuild(bed)

        assert (aside, stream(bed)) == ((), cloud.log_of(NODE))


async def test_of_an_instance_without_snapshots_there_is_nothing_to_make(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        await cycles(bed, cloud, number=2)
        before = stream(bed)

        aside, taken = await rebuild(bed, "slo")

        assert (aside, taken, stream(bed)) == (None, [], before)


async def test_rebuild_says_what_it_made_and_where_the_old_files_are(bed: Bed) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        await overflow(bed, cloud)

        ended = await ddslogd("rebuild", "solo", "-c", config_of(bed))

    (aside,) = (bed.directory / "streams" / "solo").glob(".replaced.*")
    assert (ended.status, ended.out.splitlines()) == (
        0,
        [
            f"solo: 2 snapshots, {1000 + WINDOW} bytes in streams, 1 gap",
            f"the old files are in {aside}: remove it when nobody needs them",
        ],
    ), ended.err


async def test_rebuild_exits_1_where_there_is_nothing_to_make_anew(bed: Bed, tmp_path: Path) -> None:
    """No snapshots of such an instance, or no streams."""
    await next_cycle(bed)
    with_streams, without = config_of(bed), tmp_path / "without.yaml"
    bed.set("instances:\n", "stream: {enabled: false}\ninstances:\n")
    without.write_text(bed.text)

    ended = await asyncio.gather(
        ddslogd("rebuild", "slo", "-c", with_streams), ddslogd("rebuild", "solo", "-c", without)
    )

    told = [(one.status, "'slo'" in one.err, "stream.enabled" in one.err) for one in ended]
    assert told == [(1, True, False), (1, False, True)]
