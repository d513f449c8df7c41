"""What comes compressed: snapshots as they came, streams with the lines, and no gap that is none."""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.errors import Corrupt, Unpublishable
from ddslogd.model.snapshot import Stored
from ddslogd.storage import gzip_file
from ddslogd.storage.streams.overlap import HeldWindow
from support.testbed import known_gaps

if TYPE_CHECKING:
    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

NODE = "solo_single_node_1"


def lines(first: int, count: int) -> bytes:
    return b"".join(
        b"2026-01-02T03:%02d:%02d.%03d+0000 I line %06d %d\n"
        % (number // 60_000 % 60, number // 1000 % 60, number % 1000, number, number * 7919 % 100_003)
        for number in range(first, first + count)
    )


LOG, NEW = lines(0, 8000), lines(8000, 1000)


def stream(bed: Bed) -> bytes:
    path = bed.directory / "streams" / "solo" / f"{NODE}.log"
    return path.read_bytes() if path.exists() else b""


def compress(sandbox: Sandbox, how: str) -> None:
    sandbox.faults.clear()
    sandbox.faults.encoding = "gzip" if how == "stored" else ""
    sandbox.faults.packed = how == "object"
    sandbox.faults.packed_on_the_way = how == "on the way"


# --- what is fetched and where its lines go ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [len(LOG), 500], ids=["large", "small"])
@pytest.mark.parametrize("how", ["stored", "object", "on the way"])
async def test_the_snapshot_is_as_it_came_and_the_stream_has_the_lines(
    sandbox: Sandbox, bed: Bed, how: str, size: int
) -> None:
    log = LOG[: LOG.index(b"\n", size - 1) + 1]
    sandbox.write(NODE, log)
    compress(sandbox, how)

    report = await bed.collect()

    (outcome,) = report.outcomes
    assert isinstance(outcome, Stored)
    assert (bed.contents(), stream(bed)) == ([gzip.compress(log, mtime=0)], log)
    assert (outcome.snapshot.verified, sandbox.calls["object"]) == (True, 1)
    assert (outcome.snapshot.first_at is not None, outcome.snapshot.last_at is not None) == (True, True)


@pytest.mark.parametrize(
    "hows",
    [
        ["stored"] * 4,
        ["object"] * 4,
        ["on the way"] * 4,
        ["plain", "stored", "plain", "on the way", "object", "plain"],
        ["on the way", "plain", "object", "stored"],
    ],
    ids=" ".join,
)
async def test_every_line_is_in_the_stream_once_however_each_export_comes(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, hows: list[str]
) -> None:
    """Delta and all: no gap, nothing twice, and after a restart it goes on."""
    for number, how in enumerate(hows):
        sandbox.write(NODE, lines(1000 * number, 1000))
        compress(sandbox, how)
        report = await bed.collect()
        assert (report.outcome, report.gaps) == (CycleOutcome.OK, 0)
        clock.forward(minutes=20)

    assert stream(bed) == sandbox.log_of(NODE) == lines(0, 1000 * len(hows))
    assert known_gaps(bed.state) == ()


async def test_a_window_that_overflowed_is_a_gap_of_lines_and_not_of_compressed_bytes(
    bed: Bed, clock: ManualClock
) -> None:
    async with bed.cloud(window=60_000) as sandbox:
        sandbox.faults.packed = True
        sandbox.write(NODE, LOG)
        await bed.collect()
        clock.forward(minutes=20)
        sandbox.write(NODE, lines(20_000, 4000))

        report = await bed.collect()

        window = sandbox.log_of(NODE)[-60_000:]
        assert (report.gaps, stream(bed).endswith(window[window.index(b"\n") + 1 :])) == (1, True)


async def test_an_export_that_is_unchanged_is_fetched_by_its_first_bytes_alone(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    sandbox.faults.packed = True
    sandbox.write(NODE, LOG)
    await bed.collect()
    clock.forward(minutes=20)
    sent = sandbox.bytes_sent

    report = await bed.collect()

    assert (report.unchanged, sandbox.bytes_sent - sent) == (1, 8192)


async def test_a_stream_is_rebuilt_from_what_came_compressed(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    """Also where the ledger is lost: the file itself says that it is compressed."""
    sandbox.faults.packed = True
    for number in range(2):
        sandbox.write(NODE, lines(1000 * number, 1000))
        await bed.collect()
        clock.forward(minutes=20)
    for path in bed.state.glob("ledger.sqlite3*"):
        path.unlink()
    sandbox.write(NODE, lines(2000, 1000))

    report = await bed.collect()

    assert (report.outcome, report.gaps, stream(bed)) == (CycleOutcome.OK, 0, lines(0, 3000))


async def test_a_cut_body_is_resumed_although_it_is_compressed(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    sandbox.faults.encoding = "gzip"
    sandbox.faults.cut_after = [10_000]

    await bed.collect()

    assert (bed.contents(), stream(bed)) == ([gzip.compress(LOG, mtime=0)], LOG)
    assert sandbox.bytes_sent == len(bed.contents()[0])


async def test_a_quiet_nodes_compressed_nothing_is_nothing(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.packed = True

    report = await bed.collect()

    assert (report.outcome, report.unchanged, bed.files()) == (CycleOutcome.OK, 1, [])


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, br", "nonsense"])
async def test_what_cannot_be_unpacked_fails_with_its_encoding(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, encoding: str
) -> None:
    """Also where a delta asks for its first bytes."""
    sandbox.write(NODE, LOG)
    await bed.collect()
    clock.forward(minutes=20)
    sandbox.write(NODE, NEW)
    sandbox.faults.encoding = encoding

    report = await bed.collect()

    (failed,) = report.failures
    assert (failed.kind, f"Content-Encoding: {encoding}" in failed.reason) == ("unpublishable", True)
    assert (bed.contents(), stream(bed)) == ([LOG], LOG)


@pytest.mark.parametrize("encoding", ["identity", "aws-chunked", "Identity, aws-chunked", "x-gzip"])
async def test_an_encoding_that_is_none_is_none(sandbox: Sandbox, bed: Bed, encoding: str) -> None:
    """The bytes decide: a store may keep a word of how the object was put there, or a proxy one that is not true."""
    sandbox.write(NODE, LOG)
    sandbox.faults.encoding = encoding

    await bed.collect()

    assert (bed.contents(), stream(bed)) == ([LOG], LOG)


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (gzip.compress(LOG)[:-1], "corrupt", "ends before its end"),
        (gzip.compress(LOG)[:-8] + b"12345678", "corrupt", "damaged"),
        (gzip.compress(LOG) + b"2026 a line\n", "corrupt", "damaged"),
        (gzip.compress(bytes(50_000_000)), "unpublishable", "max_size"),
        (gzip.compress(gzip.compress(LOG)), "unpublishable", "twice"),
        (gzip.compress(lines(0, 40_000)), "unpublishable", "max_size"),
    ],
    ids=["cut", "checksum", "rest", "bomb", "twice", "too large"],
)
async def test_what_is_no_log_once_it_is_unpacked_is_not_published(
    sandbox: Sandbox, bed: Bed, content: bytes, kind: str, said: str
) -> None:
    sandbox.write(NODE, content)
    bed.set("attempts: 5", f"attempts: 5\n  max_size: {'1MiB' if said == 'max_size' else '1GiB'}")

    report = await bed.collect()

    (failed,) = report.failures
    assert (failed.kind, "gzip" in failed.reason, said in failed.reason) == (kind, True, True)
    assert (bed.files(), bed.parts(), stream(bed)) == ([], [], b"")


# --- unpacking --------------------------------------------------------------------------------------------------------


def unpacked(content: bytes, **limits: Any) -> bytes:
    return b"".join(gzip_file.pieces(HeldWindow(content), **limits))


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(LOG),
        gzip.compress(LOG[:100_000]) + gzip.compress(LOG[100_000:]),
        gzip.compress(b"") + gzip.compress(LOG),
        gzip.compress(LOG) + bytes(600_000),
        gzip.compress(LOG, compresslevel=0),
    ],
    ids=["one", "two members", "an empty one", "zeroes", "stored"],
)
def test_all_that_gzip_reads_is_read(content: bytes) -> None:
    assert unpacked(content) == gzip.decompress(content) == LOG


def test_a_piece_is_never_large_however_well_it_is_packed() -> None:
    """Else a small file could take all memory before anybody counts."""
    sizes: list[int] = []
    with suppress(Unpublishable):
        sizes += (
            len(piece) for piece in gzip_file.pieces(HeldWindow(gzip.compress(bytes(100_000_000))), most=50_000_000)
        )

    assert 0 < max(sizes) <= gzip_file.PIECE
    assert sum(sizes) < 100_000_000


@pytest.mark.parametrize(
    "storm",
    [b" src/mongo/util/stacktrace_posix.cpp:172:0x55\n" * 100_000, b"\n" * 3_000_000],
    ids=["one line", "empty lines"],
)
def test_a_storm_of_one_line_is_a_log_however_well_it_is_packed(storm: bytes) -> None:
    """More than 256 times, and up to what deflate can do."""
    content = gzip.compress(storm)

    assert gzip_file.examined(HeldWindow(content), most=len(storm)).size == len(storm) > 256 * len(content)
    assert unpacked(content) == storm


@pytest.mark.parametrize("end", [3, 10, 11, 500, -1])
def test_what_ends_early_is_damaged(end: int) -> None:
    with pytest.raises(Corrupt):
        unpacked(gzip.compress(LOG)[:end])


@pytest.mark.parametrize("content", [b"", b"\x1f", b"\x1f\x8b", LOG, zlib.compress(LOG), b"\x1f\x8b\x07rest"])
def test_any_other_beginning_is_a_logs(content: bytes) -> None:
    assert not gzip_file.is_packed(HeldWindow(content))
