"""Where no snapshot stays, a stream stands for the last export: what is new is written once, and nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from ddslogd.collection.stream_origin import stream_origin
from ddslogd.download.delta import HEAD
from ddslogd.model.errors import StorageError
from ddslogd.model.snapshot import Identity
from ddslogd.model.stream import GapCause
from ddslogd.service.factory import rebuilt
from ddslogd.storage import paths
from ddslogd.storage.ledger.snapshot_records import read_newest
from ddslogd.storage.snapshots.checksums import Checks, Digests
from ddslogd.storage.snapshots.partial_file import MOST_HELD, MOST_NEW, Desk, Part
from ddslogd.storage.streams.overlap import HeldWindow, ProofLine
from ddslogd.storage.streams.stream_end import MOST_FILES
from support.testbed import Bed, known_gaps, next_cycle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ddslogd.sandbox import Sandbox

NODE = "solo_single_node_1"
WINDOW = 100_000  # bytes that an export of this cloud holds


class Log:
    """Numbered lines of a node, each with a time."""

    def __init__(self) -> None:
        self.written = 0

    def lines(self, number: int) -> bytes:
        numbers = range(self.written, self.written + number)
        self.written += number
        seconds = (f"{at // 3600 % 24:02}:{at // 60 % 60:02}:{at % 60:02}" for at in numbers)
        return b"".join(
            f'{{"t":{{"$date":"2026-01-{1 + at // 86400:02}T{second}.000+00:00"}},"id":{at:07}}}\n'.encode()
            for at, second in zip(numbers, seconds, strict=True)
        )


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def bare(bed: Bed) -> Bed:
    """Let no snapshot stay."""
    bed.snapshots = "none"
    return bed


def stream(bed: Bed) -> bytes:
    """Return what the node's stream holds, file by file."""
    files = sorted((bed.directory / "streams" / "solo" / NODE).iterdir())
    return b"".join(path.read_bytes() for path in files)


def asked(sandbox: Sandbox) -> list[str | None]:
    """Return the ranges that were asked for since this was asked last; None for a whole object."""
    ranges = [request.range or None for request in sandbox.requests if request.kind == "object"]
    sandbox.requests.clear()
    return ranges


def hidden(bed: Bed) -> list[Path]:
    return [path for path in bed.directory.rglob(".*") if path.name not in {".owner.json", ".ddslogd.lock"}]


async def test_only_what_is_new_is_asked_for_and_nothing_but_the_stream_is_on_disk(bare: Bed, log: Log) -> None:
    async with bare.cloud(window=WINDOW) as cloud, bare.open():
        cloud.write(NODE, log.lines(2000))
        await next_cycle(bare)
        first = asked(cloud)
        before = stream(bare)
        cloud.write(NODE, new := log.lines(100))
        report = await next_cycle(bare)

        assert (first, asked(cloud)) == ([None], [f"bytes=0-{HEAD - 1}", f"bytes={WINDOW - len(new)}-"])
        assert (report.stored, report.new_bytes, bare.files(), hidden(bare)) == (1, len(new), [], [])
        assert stream(bare) == before + new


@pytest.mark.parametrize("rotate", ["30KB", "100MiB"])
async def test_a_window_may_lie_in_several_files_of_the_stream(bare: Bed, log: Log, rotate: str) -> None:
    bare.set("instances:\n", f"stream: {{rotate: {{size: {rotate}}}}}\ninstances:\n")
    async with bare.cloud(window=WINDOW) as cloud, bare.open():
        whole = 0
        for number in (1000, 300, 10, 400, 0, 1, 700, 300):
            cloud.write(NODE, log.lines(number))
            await next_cycle(bare)
            whole += asked(cloud).count(None)

        assert (whole, bare.files(), known_gaps(bare.state)) == (1, [], ())
        assert stream(bare) == cloud.log_of(NODE)


async def test_the_line_that_an_export_ends_in_is_whole_in_the_next_one(bare: Bed, log: Log) -> None:
    async with bare.cloud(window=WINDOW) as cloud, bare.open():
        text = log.lines(1000)
        for start in range(0, len(text), 9_000):
            cloud.write(NODE, text[start : start + 9_000])
            await next_cycle(bare)

        assert (stream(bare), bare.files(), known_gaps(bare.state)) == (text, [], ())


async def test_the_line_that_an_export_ended_in_before_a_gap_is_not_lost(bare: Bed, log: Log) -> None:
    """It is in no file: the ledger has it."""
    async with bare.cloud(window=WINDOW) as cloud, bare.open():
        cloud.write(NODE, log.lines(500))
        await next_cycle(bare)
        cloud.write(NODE, log.lines(10) + b"unfinished")
        await next_cycle(bare)
        before = stream(bare)
        cloud.write(NODE, b" business\n" + log.lines(5000))
        await next_cycle(bare)

        (gap,) = known_gaps(bare.state)
        assert (gap.cause, stream(bare)[: len(before) + 11]) == (GapCause.WINDOW_OVERFLOW, before + b"unfinished\n")


async def test_more_than_fits_in_memory_goes_to_a_hidden_file_that_is_gone_then(bare: Bed, log: Log) -> None:
    async with bare.cloud(window=4 * MOST_NEW) as cloud, bare.open():
        cloud.write(NODE, log.lines(40_000))
        await next_cycle(bare)
        asked(cloud)
        cloud.write(NODE, log.lines(1 + MOST_NEW // 57))
        await next_cycle(bare)

        assert (len(asked(cloud)), bare.files(), hidden(bare)) == (2, [], [])
        assert stream(bare) == cloud.log_of(NODE)


async def test_what_changed_within_the_window_is_fetched_whole_and_stays_until_the_stream_ends_with_it(
    bare: Bed, log: Log
) -> None:
    async with bare.cloud(window=WINDOW) as cloud, bare.open():
        text = log.lines(1000)
        cloud.write(NODE, text)
        await next_cycle(bare)
        changed = text[:20_000] + b"#" + text[20_001:] + (new := log.lines(5))
        cloud.rewrite(NODE, changed)
        asked(cloud)
        await next_cycle(bare)
        ranges, kept = asked(cloud), bare.contents()
        cloud.write(NODE, more := log.lines(1500))
        await next_cycle(bare)
        await next_cycle(bare)

        assert (ranges[-1], kept, stream(bare)) == (None, [changed], text + new + more)
        assert bare.files() == []


async def test_lines_that_repeat_themselves_are_no_proof_though_every_byte_is_held(bare: Bed) -> None:
    """The checksum shows what the export is made of, and not that nothing is missing."""
    async with bare.cloud(window=WINDOW) as cloud, bare.open():
        cloud.write(NODE, b"the same line\n" * 7_000)  # not yet the whole window
        await next_cycle(bare)
        cloud.write(NODE, b"the same line\n" * 3_000)
        await next_cycle(bare)

        assert [gap.cause for gap in known_gaps(bare.state)] == [GapCause.UNPROVED]


async def test_what_somebody_appended_to_the_stream_is_not_taken_for_the_log(bare: Bed, log: Log) -> None:
    async with bare.cloud(window=WINDOW) as cloud, bare.open():
        cloud.write(NODE, text := log.lines(500))
        await next_cycle(bare)
        (file,) = (bare.directory / "streams" / "solo" / NODE).iterdir()
        with file.open("ab") as opened:
            opened.write(b"somebody else's\n")
        cloud.write(NODE, new := log.lines(10))
        with capture_logs() as events:
            await next_cycle(bare)

        assert "stream.file_changed" in {event["event"] for event in events}
        assert stream(bare) == text + b"somebody else's\n" + new


async def test_retention_leaves_the_files_that_hold_the_last_window(bare: Bed, log: Log) -> None:
    """All else goes, again and again, and each export is still continued."""
    bare.set("keep_free: 0\n", "keep_free: 0\n  keep: {age: 1m, size: 1}\n")
    bare.set("instances:\n", "stream: {rotate: {size: 30KB}}\ninstances:\n")
    async with bare.cloud(window=WINDOW) as cloud, bare.open() as service:
        whole, sizes = 0, []
        for _ in range(8):
            cloud.write(NODE, log.lines(450))
            await next_cycle(bare)
            await service._archive.retention.run()
            whole += asked(cloud).count(None)
            sizes.append(len(stream(bare)))

        assert (whole, known_gaps(bare.state)) == (1, ())
        assert max(sizes) < WINDOW + 3 * 30_000
        assert cloud.log_of(NODE).endswith(stream(bare))


async def test_the_setting_may_change_between_any_two_cycles(bed: Bed, log: Log) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        for snapshots in ("all", "none", "none", "latest", "latest", "none", "all", "latest", "none", "none"):
            bed.snapshots = snapshots
            async with bed.open():
                cloud.write(NODE, log.lines(300))
                await next_cycle(bed)

        assert (stream(bed), known_gaps(bed.state)) == (cloud.log_of(NODE), ())
        assert bed.files() == []


async def test_what_an_older_version_left_goes_by_keep_alone(bed: Bed, log: Log) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        for _ in range(3):
            cloud.write(NODE, log.lines(300))
            await next_cycle(bed)
        left = bed.files()
        with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db, db:
            db.execute("UPDATE snapshots SET kept = 1")  # as the upgrade does
        for snapshots in ("latest", "none"):
            bed.snapshots = snapshots
            async with bed.open() as service:
                for _ in range(3):
                    cloud.write(NODE, log.lines(300))
                    await next_cycle(bed)
                await service._archive.retention.run()

        assert (bed.files(), stream(bed)) == (left, cloud.log_of(NODE))


async def test_quiet_nodes_are_known_by_the_ledger_also_after_a_restart(bare: Bed, log: Log) -> None:
    async with bare.cloud(window=WINDOW) as cloud:
        cloud.write(NODE, log.lines(2000))
        await next_cycle(bare)
        cloud.write(NODE, log.lines(100))
        await next_cycle(bare)
        asked(cloud)
        reports = [await next_cycle(bare) for _ in range(3)]

        assert ([report.unchanged for report in reports], asked(cloud)) == ([1] * 3, [f"bytes=0-{HEAD - 1}"] * 3)


async def test_what_is_held_of_a_stream_that_went_on_meanwhile_counts_for_nothing(bare: Bed, log: Log) -> None:
    """Another of the node's files was faster: then the file is fetched whole, and compared."""
    async with bare.cloud(window=WINDOW) as cloud, bare.open() as service:
        cloud.write(NODE, log.lines(1000))
        await next_cycle(bare)
        real = service._archive.streams.seed

        def outdated(newest: object, state: object) -> object:
            seed = real(newest, state)  # type: ignore[arg-type]
            with closing(sqlite3.connect(bare.state / "ledger.sqlite3")) as db, db:
                db.execute("UPDATE streams SET closed = 1, size = 0")
            return seed

        service._archive.streams.seed = outdated  # type: ignore[assignment,method-assign]
        cloud.write(NODE, log.lines(10))
        await next_cycle(bare)

        assert (asked(cloud)[-1], stream(bare), bare.files()) == (None, cloud.log_of(NODE), [])


@pytest.mark.parametrize("snapshots", ["latest", "none"])
async def test_a_snapshot_whose_lines_no_stream_takes_stays(bed: Bed, log: Log, snapshots: str) -> None:
    """It came late, is older than the stream's end, and has nothing in common with it: the missing lines."""
    bed.snapshots = snapshots
    async with bed.cloud(window=WINDOW) as cloud, bed.open() as service:
        archive = service._archive
        cloud.write(NODE, log.lines(1000))
        await next_cycle(bed)
        ((series, first),) = (await archive.ledger.run(lambda db: read_newest(db, "snapshots/solo"))).items()
        late = log.lines(1500)
        cloud.write(NODE, late + log.lines(3000))
        bed.clock.forward(minutes=20)
        await next_cycle(bed)
        file = replace(first.file, file_name="late", updated_at=first.file.updated_at + timedelta(minutes=10))
        key = paths.key(file)
        (bed.directory / key).parent.mkdir(parents=True, exist_ok=True)
        (bed.directory / key).write_bytes(late)
        await archive.ledger.enter(replace(first, file=file, key=key, path=key, size=len(late), md5="late"))

        origin = stream_origin(bed.instance(), "solo", bed.settings)
        await archive.streams.catch_up(series, origin=origin, note=lambda _: None)
        await archive.retention.drop_superseded("solo")

        assert (bed.directory / key).read_bytes() == late


@pytest.mark.parametrize("quiet", [False, True], ids=["rotated by size", "closed by age"])
async def test_a_ledger_that_was_put_back_doubles_nothing(bare: Bed, log: Log, *, quiet: bool) -> None:
    bare.set("instances:\n", "stream: {rotate: {size: 30KB}}\ninstances:\n")
    async with bare.cloud(window=WINDOW) as cloud:
        async with bare.open():
            for number in (1000, 500):
                cloud.write(NODE, log.lines(number))
                await next_cycle(bare)
        shutil.copytree(bare.state, bare.state.with_name("copy"))
        bare.clock.forward(hours=30 if quiet else 0)
        os.environ["DDSLOGD_TOKEN"] = cloud.issue_token()
        async with bare.open():
            cloud.write(NODE, log.lines(50 if quiet else 500))
            await next_cycle(bare)
        shutil.rmtree(bare.state)
        shutil.copytree(bare.state.with_name("copy"), bare.state)
        with capture_logs() as events:
            async with bare.open():
                for _ in range(2):
                    cloud.write(NODE, log.lines(10))
                    await next_cycle(bare)

        assert (stream(bare), "ledger.outdated" in {event["event"] for event in events}) == (cloud.log_of(NODE), True)


async def test_lines_whose_commit_did_not_come_are_known_though_the_window_has_moved_on(bare: Bed, log: Log) -> None:
    async def refused(*_: object, **__: object) -> None:
        raise StorageError("no")

    async with bare.cloud(window=WINDOW) as cloud:
        async with bare.open() as service:
            cloud.write(NODE, log.lines(1000))
            await next_cycle(bare)
            service._archive.streams.book.commit = refused  # type: ignore[assignment,method-assign]
            cloud.write(NODE, log.lines(800))
            await next_cycle(bare)
        async with bare.open():
            cloud.write(NODE, log.lines(1000))
            await next_cycle(bare)

        assert (stream(bare), known_gaps(bare.state)) == (cloud.log_of(NODE), ())


async def test_a_file_of_the_stream_that_cannot_be_read_stops_no_stream(
    bare: Bed, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window lies in several files, the oldest of which has a bad block."""
    bare.set("instances:\n", "stream: {rotate: {size: 30KB}}\ninstances:\n")
    real = os.pread
    async with bare.cloud(window=WINDOW) as cloud, bare.open():
        for _ in range(6):
            cloud.write(NODE, log.lines(300))
            await next_cycle(bare)
        *_, bad, _, _ = sorted((bare.directory / "streams" / "solo" / NODE).iterdir())

        def pread(fd: int, size: int, at: int) -> bytes:
            if os.path.realpath(f"/proc/self/fd/{fd}") == str(bad):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(fd, size, at)

        monkeypatch.setattr(os, "pread", pread)
        brought = []
        for _ in range(4):
            cloud.write(NODE, log.lines(100))
            brought.append((await next_cycle(bare)).new_bytes)
        monkeypatch.undo()

        assert (all(brought), stream(bare)) == (True, cloud.log_of(NODE))


async def test_for_more_files_than_may_be_open_the_last_export_stays(bare: Bed, log: Log) -> None:
    bare.set("instances:\n", "stream: {rotate: {size: 100}}\ninstances:\n")
    async with bare.cloud(window=WINDOW) as cloud, bare.open():
        cloud.write(NODE, log.lines(400))
        await next_cycle(bare)
        for _ in range(MOST_FILES + 2):
            cloud.write(NODE, log.lines(1))
            await next_cycle(bare)

        assert (bare.contents(), stream(bare)) == ([cloud.log_of(NODE)], cloud.log_of(NODE))


async def test_a_file_that_grows_under_its_name_and_time_is_not_stalled_when_it_is_quiet(bare: Bed, log: Log) -> None:
    frozen: dict[str, str] = {}

    def freeze(reply: Any) -> Any:
        for row in reply["list"]:
            if row["status"] == "SUCCESS":
                for name in ("updated_at", "file_name"):
                    row[name] = frozen.setdefault(name, row[name])
        return reply

    async with bare.cloud(window=WINDOW) as cloud, bare.open():
        cloud.faults.mangle = freeze
        outcomes = []
        for number in (800, 100, 100, 0, 100, 0):
            cloud.write(NODE, log.lines(number))
            outcomes.append((await next_cycle(bare)).outcome.value)

        assert (outcomes, stream(bare)) == (["ok"] * 6, cloud.log_of(NODE))


async def test_a_quiet_node_s_snapshot_goes_too_once_none_is_to_stay(bed: Bed, log: Log) -> None:
    async with bed.cloud(window=WINDOW) as cloud:
        async with bed.open():
            cloud.write(NODE, log.lines(300))
            await next_cycle(bed)
        bed.snapshots = "none"
        async with bed.open() as service:
            await next_cycle(bed)
            await service._catch_up()
            await service._archive.retention.run()

        assert (bed.files(), stream(bed)) == ([], cloud.log_of(NODE))


@pytest.mark.parametrize("snapshots", ["latest", "none"])
async def test_a_rebuild_is_refused_where_a_snapshot_in_between_is_gone(bed: Bed, log: Log, snapshots: str) -> None:
    """An older version left the first ones, which stay, and reach back to the stream's first line."""
    async with bed.cloud(window=WINDOW) as cloud:
        for number in range(8):
            cloud.write(NODE, log.lines(600))
            await next_cycle(bed)
            with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db, db:
                db.execute("UPDATE snapshots SET kept = kept OR ?", (number < 2,))
            bed.snapshots = snapshots if number else "all"
        before = stream(bed)

        done = await rebuilt(bed.settings, "solo", shorter=False, clock=bed.clock, note=lambda _: None)

        assert done is not None
        assert (done.short, stream(bed)) == ((f"streams/solo/{NODE}.log",), before)


# --- a part whose first bytes stay in other files ---------------------------------------------------------------------


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk(Checks)
    yield desk
    desk.close()


def part_of(tmp_path: Path, desk: Desk) -> Part:
    return Part(tmp_path, tmp_path / "snapshots/x.20260102T030405.678Z.log", desk=desk)


async def begin_in_place(part: Part, tmp_path: Path, *, total: int, start: int = 4) -> None:
    for name, content in (("a", b"0123456"), ("b", b"789")):
        (tmp_path / name).write_bytes(content)
    files = [(tmp_path / "a", 7), (tmp_path / "b", 3)]
    proof_line = ProofLine(HeldWindow(b"0123456789"), since=0)
    await part.begin_in_place(Identity(etag='"x"', total=total), files, start=start, proof_line=proof_line)


@pytest.mark.parametrize("new", [b"", b"ab", b"n" * MOST_NEW, b"n" * (MOST_NEW + 1)], ids=len)
async def test_a_part_has_the_checksum_of_all_and_only_what_is_new(tmp_path: Path, desk: Desk, new: bytes) -> None:
    part, whole = part_of(tmp_path, desk), Digests(Checks())
    await begin_in_place(part, tmp_path, total=6 + len(new))
    for start in range(0, len(new), 300_000):
        await part.append([new[start : start + 300_000]])
    await part.settle()
    whole.update(b"456789" + new)

    found = (part.size, part.received, part.digests.md5, part.new.read(0, len(new) + 1))
    in_files = [path.stat().st_size for path in tmp_path.rglob("*.part")]
    await part.remove()

    assert found == (6 + len(new), len(new), whole.md5, new)
    assert in_files == ([len(new)] if len(new) > MOST_NEW else [])
    assert (list(tmp_path.rglob("*.part")), desk._new) == ([], 0)


async def test_parts_wait_in_memory_only_as_far_as_all_of_them_fit(tmp_path: Path, desk: Desk) -> None:
    parts = [part_of(tmp_path, desk) for _ in range(1 + MOST_HELD // MOST_NEW)]
    for number, part in enumerate(parts):
        part._final = part._final.with_name(f"{number}{part._final.name}")
        await begin_in_place(part, tmp_path, total=6 + MOST_NEW)

    in_files = [part.path is not None for part in parts]
    for part in parts:
        await part.remove()

    assert (in_files, desk._new) == ([False] * (len(parts) - 1) + [True], 0)


async def test_more_than_the_object_has_is_refused(tmp_path: Path, desk: Desk) -> None:
    part = part_of(tmp_path, desk)
    await begin_in_place(part, tmp_path, total=8)

    with pytest.raises(Exception, match="more bytes than the object has"):
        await part.append([b"abc"])
    await part.remove()


async def test_a_part_whose_files_are_not_as_long_as_they_were_leaves_nothing(tmp_path: Path, desk: Desk) -> None:
    part = part_of(tmp_path, desk)
    (tmp_path / "a").write_bytes(b"01234567")

    proof_line = ProofLine(HeldWindow(b"0123456"), since=0)

    with pytest.raises(Exception, match="not as long"):
        await part.begin_in_place(Identity(etag='"x"', total=9), [(tmp_path / "a", 7)], start=0, proof_line=proof_line)

    assert (part.size, part.in_place, part.resumable) == (0, False, False)


# --- who proves that a file continues the stream ----------------------------------------------------------------------

LINES = [f'{{"t":{{"$date":"2026-01-02T03:04:{at:02}.000Z"}}}}\n'.encode() for at in range(5)]


def seen(text: bytes, *, since: int = 0, piece: int = 7) -> ProofLine:
    proof_line = ProofLine(HeldWindow(text), since=since)
    for start in range(0, len(text), piece):
        proof_line.read(start, text[start : start + piece])
    return proof_line


@pytest.mark.parametrize(
    ("text", "new", "start", "proof"),
    [
        (b"".join(LINES[:4]), LINES[4], 0, True),
        (b"".join(LINES[:4]) + b"no time\n", LINES[4], 0, True),
        (b"".join(LINES[:4]), LINES[3], 0, False),  # it is again in what is new
        (b"".join([LINES[3], *LINES[:4]]), LINES[4], 0, False),  # it was there before
        (b"".join(LINES[:4]), LINES[4], 3 * len(LINES[0]) + 1, False),  # the file begins within it
        (b"".join(LINES[:4]), LINES[4], 3 * len(LINES[0]), True),
        (b"no time\n" * 9, LINES[4], 0, False),
        (b"", LINES[4], 0, False),
    ],
)
def test_a_line_with_a_time_that_is_once_in_both_is_the_proof(
    text: bytes, new: bytes, start: int, *, proof: bool
) -> None:
    found = {seen(text, piece=piece).proves(start, HeldWindow(new)) for piece in (1, 7, 64, 10_000)}

    assert found == {proof}


def test_what_is_before_the_last_file_does_not_count() -> None:
    text = b"".join([LINES[3], *LINES[:4]])

    assert seen(text, since=len(LINES[3])).proves(len(LINES[3]), HeldWindow(LINES[4]))
    assert not seen(text, since=len(LINES[3])).proves(0, HeldWindow(LINES[4]))  # it begins before
