"""Where no snapshot stays, a stream stands for the last export: what is new is written once, and nothing is lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from ddslogd.download.delta import HEAD
from ddslogd.model.snapshot import Identity
from ddslogd.model.stream import GapCause
from ddslogd.storage.snapshots.checksums import Checks, Digests
from ddslogd.storage.snapshots.partial_file import MOST_HELD, MOST_NEW, Desk, Part
from ddslogd.storage.streams.overlap import HeldWindow, Witness
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


# --- a part that leans on other files ---------------------------------------------------------------------------------


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk(Checks)
    yield desk
    desk.close()


def part_of(tmp_path: Path, desk: Desk) -> Part:
    return Part(tmp_path, tmp_path / "snapshots/x.20260102T030405.678Z.log", desk=desk)


async def lean(part: Part, tmp_path: Path, *, total: int, start: int = 4) -> None:
    for name, content in (("a", b"0123456"), ("b", b"789")):
        (tmp_path / name).write_bytes(content)
    files = [(tmp_path / "a", 7), (tmp_path / "b", 3)]
    witness = Witness(HeldWindow(b"0123456789"), since=0)
    await part.lean(Identity(etag='"x"', total=total), files, start=start, witness=witness)


@pytest.mark.parametrize("new", [b"", b"ab", b"n" * MOST_NEW, b"n" * (MOST_NEW + 1)], ids=len)
async def test_a_part_has_the_checksum_of_all_and_only_what_is_new(tmp_path: Path, desk: Desk, new: bytes) -> None:
    part, whole = part_of(tmp_path, desk), Digests(Checks())
    await lean(part, tmp_path, total=6 + len(new))
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
        await lean(part, tmp_path, total=6 + MOST_NEW)

    in_files = [part.path is not None for part in parts]
    for part in parts:
        await part.remove()

    assert (in_files, desk._new) == ([False] * (len(parts) - 1) + [True], 0)


async def test_more_than_the_object_has_is_refused(tmp_path: Path, desk: Desk) -> None:
    part = part_of(tmp_path, desk)
    await lean(part, tmp_path, total=8)

    with pytest.raises(Exception, match="more bytes than the object has"):
        await part.append([b"abc"])
    await part.remove()


async def test_a_part_whose_files_are_not_as_long_as_they_were_leaves_nothing(tmp_path: Path, desk: Desk) -> None:
    part = part_of(tmp_path, desk)
    (tmp_path / "a").write_bytes(b"01234567")

    witness = Witness(HeldWindow(b"0123456"), since=0)

    with pytest.raises(Exception, match="not as long"):
        await part.lean(Identity(etag='"x"', total=9), [(tmp_path / "a", 7)], start=0, witness=witness)

    assert (part.size, part.leans, part.resumable) == (0, False, False)


# --- who proves that a file continues the stream ----------------------------------------------------------------------

LINES = [f'{{"t":{{"$date":"2026-01-02T03:04:{at:02}.000Z"}}}}\n'.encode() for at in range(5)]


def seen(text: bytes, *, since: int = 0, piece: int = 7) -> Witness:
    witness = Witness(HeldWindow(text), since=since)
    for start in range(0, len(text), piece):
        witness.read(start, text[start : start + piece])
    return witness


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
