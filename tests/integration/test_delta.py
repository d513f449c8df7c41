"""Only new bytes cross the wire, and what is on disk is what a whole download would have made."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ddslogd.download.delta import HEAD, SMALL
from ddslogd.download.downloader import _prove_whole
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.errors import Corrupt
from ddslogd.model.snapshot import Identity, Snapshot, Stored, Unchanged
from ddslogd.sandbox import replica_set
from ddslogd.storage import paths
from ddslogd.storage.ledger import database
from ddslogd.storage.ledger.snapshot_records import Ledger, read_snapshot
from ddslogd.storage.snapshots.checksums import Checks, Digests
from ddslogd.storage.snapshots.partial_file import Desk, Part
from support.clocks import ManualClock
from support.examples import examples
from support.testbed import Bed, known_gaps, quiet_sandbox

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from structlog.typing import EventDict

    from ddslogd.model.cycle import CycleReport
    from ddslogd.sandbox import Sandbox

NODE = "solo_single_node_1"
FIRST = f"bytes=0-{HEAD - 1}"


def lines(first: int, count: int) -> bytes:
    """Return lines that differ from all others, 23 bytes each."""
    return b"".join(b"line %06d of the log\n" % number for number in range(first, first + count))


LOG = lines(0, 8000)  # 184,000 bytes
NEW = lines(8000, 1000)


@pytest.fixture
async def held(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> Sandbox:
    """Let a first snapshot be on disk, the cloud be about to make a new export, and nothing be counted yet."""
    sandbox.write(NODE, LOG)
    await bed.collect()
    clock.forward(minutes=20)
    sandbox.requests.clear()
    return sandbox


def asked(sandbox: Sandbox) -> list[str | None]:
    """Return the ranges that were asked for; None for a whole object."""
    return [request.range or None for request in sandbox.requests if request.kind == "object"]


def statuses(sandbox: Sandbox) -> list[int]:
    return [request.status for request in sandbox.requests if request.kind == "object"]


def fetched(sandbox: Sandbox) -> int:
    """Return the bytes that crossed the wire since the first snapshot."""
    return sandbox.bytes_sent - len(LOG)


def stored(report: CycleReport) -> Snapshot:
    (outcome,) = report.outcomes
    assert isinstance(outcome, Stored), outcome
    return outcome.snapshot


def entries(bed: Bed) -> list[Snapshot]:
    """Return the ledger's snapshots, oldest first."""
    with database.reading(bed.state / "ledger.sqlite3") as db:
        return [read_snapshot(row) for row in db.execute("SELECT * FROM snapshots ORDER BY updated_ms")]


def stream(bed: Bed, node: str = NODE) -> bytes:
    path = bed.directory / "streams" / "solo" / f"{node}.log"
    return path.read_bytes() if path.exists() else b""


def flip(path: Path, offset: int) -> None:
    """Change one byte of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def rests(events: list[EventDict]) -> list[EventDict]:
    return [event for event in events if event["event"] == "delta.rests"]


# --- what is fetched --------------------------------------------------------------------------------------------------


async def test_of_a_log_that_grew_only_the_new_is_fetched(held: Sandbox, bed: Bed) -> None:
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST, f"bytes={len(LOG)}-"])
    assert fetched(held) == HEAD + len(NEW)


async def test_the_rest_is_asked_for_of_the_same_object_only(held: Sandbox, bed: Bed) -> None:
    held.write(NODE, NEW)

    report = await bed.collect()

    sent = [request.headers.get("If-Match") for request in held.requests if request.kind == "object"]
    assert sent == [None, stored(report).etag]


async def test_of_a_window_that_slid_only_the_new_is_fetched(bed: Bed, clock: ManualClock) -> None:
    """The first bytes are within a line, in the middle of the last file."""
    async with bed.cloud(window=100_000) as sandbox:
        sandbox.write(NODE, LOG)
        await bed.collect()
        sandbox.write(NODE, NEW)
        clock.forward(minutes=20)

        await bed.collect()

        assert (bed.contents(), asked(sandbox)[1:]) == (
            [LOG[-100_000:], (LOG + NEW)[-100_000:]],
            [FIRST, f"bytes={100_000 - len(NEW)}-"],
        )
        assert stream(bed) == (LOG + NEW)[-100_000 - len(NEW) :]


async def test_an_unchanged_log_costs_one_request(held: Sandbox, bed: Bed) -> None:
    report = await bed.collect()

    first, second = entries(bed)
    (outcome,) = report.outcomes
    assert isinstance(outcome, Unchanged)
    assert (replace(outcome, entry=None), second.path) == (Unchanged(file=second.file, fetched=HEAD), first.path)
    assert (asked(held), fetched(held), bed.contents()) == ([FIRST], HEAD, [LOG])


@pytest.mark.parametrize("nodes", [3, 7])
@pytest.mark.parametrize("size", [len(LOG), SMALL // 2], ids=["delta", "whole"])
async def test_quiet_nodes_cost_no_sync_and_share_one_question_to_the_ledger(
    bed: Bed, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, size: int, nodes: int
) -> None:
    """What is done to disk and ledger in a cycle that brings nothing new, and that only its end changes something."""
    steps, real_run = list[str](), Ledger.run

    async def run(ledger: Ledger, transaction: Callable[[sqlite3.Connection], Any]) -> Any:
        def counted(db: sqlite3.Connection) -> Any:
            changes = db.total_changes
            result = transaction(db)
            steps.append("write" if db.total_changes > changes else "read")
            return result

        return await real_run(ledger, counted)

    async with bed.cloud(fleet=[replica_set("solo", nodes=nodes)]) as sandbox, bed.open():
        for number in range(nodes):
            sandbox.write(f"solo_replica_node_{number + 1}", LOG[:size])
        await bed.collect()
        clock.forward(minutes=20)
        monkeypatch.setattr(Ledger, "run", run)
        for call in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, call, lambda _: steps.append("sync"))
        report = await bed.collect()
        monkeypatch.undo()

    assert (report.unchanged, steps) == (nodes, ["read", "read", "write"])


async def test_a_log_of_the_same_size_that_differs_in_its_end_is_not_unchanged(held: Sandbox, bed: Bed) -> None:
    held.rewrite(NODE, LOG[:-1] + b"#")

    await bed.collect()

    assert bed.contents() == [LOG, LOG[:-1] + b"#"]


async def test_an_unchanged_log_is_entered_with_the_older_files_path(held: Sandbox, bed: Bed) -> None:
    await bed.collect()

    first, second = entries(bed)
    expected = replace(second, path=first.key, size=first.size, md5=first.md5, etag=first.etag, verified=True)
    assert (held.calls["object"], second) == (2, expected)


async def test_an_unchanged_log_is_known_by_the_books_and_not_read_again(held: Sandbox, bed: Bed) -> None:
    """Whatever became of the file on disk: without delta it would not be looked at either."""
    flip(bed.files()[0], 100)

    report = await bed.collect()

    assert (report.unchanged, asked(held)) == (1, [FIRST])


async def test_unchanged_and_then_grown_goes_on_from_the_older_file(
    held: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    await bed.collect()
    held.write(NODE, NEW)
    clock.forward(minutes=20)

    await bed.collect()

    assert (bed.contents(), fetched(held)) == ([LOG, LOG + NEW], 2 * HEAD + len(NEW))


async def test_a_log_that_lost_its_beginning_needs_no_second_request(held: Sandbox, bed: Bed) -> None:
    """All of it is held: the checksum alone decides."""
    held.rewrite(NODE, LOG[50_000:])

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG[50_000:]], [FIRST])


async def test_an_end_that_is_longer_than_the_object_is_not_thought_of(held: Sandbox, bed: Bed) -> None:
    """The object's first bytes are in the last file twice; from the first place on there is more than it has."""
    held.rewrite(NODE, LOG + LOG[:50_000])
    await bed.collect()
    bed.clock.forward(minutes=20)
    held.rewrite(NODE, LOG[:50_000] + NEW)
    held.requests.clear()

    await bed.collect()

    assert asked(held) == [FIRST, "bytes=50000-"]
    assert bed.contents()[-1] == LOG[:50_000] + NEW


async def test_an_object_that_is_all_in_the_first_bytes_is_not_asked_for_again(held: Sandbox, bed: Bed) -> None:
    held.rewrite(NODE, NEW[:5000])

    report = await bed.collect()

    assert (bed.contents(), asked(held), stored(report).fetched) == ([LOG, NEW[:5000]], [FIRST], 5000)


async def test_an_object_of_just_as_many_bytes_is_not_asked_for_again(held: Sandbox, bed: Bed) -> None:
    held.rewrite(NODE, NEW[:HEAD])

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, NEW[:HEAD]], [FIRST])


async def test_a_flipped_byte_in_the_first_bytes_of_a_small_object_is_found(held: Sandbox, bed: Bed) -> None:
    held.rewrite(NODE, NEW[:5000])
    held.faults.corrupt = [100]

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, NEW[:5000]], [FIRST, None])


async def test_an_empty_object_is_nothing_new(held: Sandbox, bed: Bed) -> None:
    """A range of it is answered with 416."""
    held.rewrite(NODE, b"")

    report = await bed.collect()

    assert (report.outcome, report.unchanged, bed.contents()) == (CycleOutcome.OK, 1, [LOG])


async def test_the_first_file_of_a_node_is_fetched_whole(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)

    await bed.collect()

    assert asked(sandbox) == [None]


@pytest.mark.parametrize(("size", "first"), [(SMALL, None), (SMALL + 1, FIRST)])
async def test_a_small_last_file_is_no_reason_to_ask(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, size: int, first: str | None
) -> None:
    sandbox.write(NODE, LOG[:size])
    await bed.collect()
    clock.forward(minutes=20)

    await bed.collect()

    assert asked(sandbox)[1:] == [first]


async def test_off_is_off(held: Sandbox, bed: Bed) -> None:
    bed.set("attempts: 5", "attempts: 5\n  delta: off")
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [None])


async def test_a_whole_answer_to_a_range_is_taken_as_it_is(held: Sandbox, bed: Bed) -> None:
    held.faults.ignore_range = True
    held.write(NODE, NEW)

    report = await bed.collect()

    assert (bed.contents(), asked(held), stored(report).delta) == ([LOG, LOG + NEW], [FIRST], False)


async def test_a_whole_answer_that_is_cut_is_resumed(held: Sandbox, bed: Bed) -> None:
    held.faults.ignore_range = True
    held.faults.cut_after = [30_000]
    held.faults.after_object = [lambda: None]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST, "bytes=30000-"])


async def test_the_books_tell_what_was_fetched(held: Sandbox, bed: Bed) -> None:
    held.write(NODE, NEW)

    report = await bed.collect()

    told = [(entry.delta, entry.fetched) for entry in entries(bed)]
    assert (told, report.fetched_bytes) == ([(False, len(LOG)), (True, HEAD + len(NEW))], HEAD + len(NEW))


async def test_sha256_is_taken_of_what_was_held_too(held: Sandbox, bed: Bed) -> None:
    bed.set("keep_free: 0", "keep_free: 0\n  sha256: true")
    held.write(NODE, NEW)
    await bed.collect()
    sums = [entry.sha256 for entry in entries(bed)]

    whole = Digests(Checks(sha256=True))
    whole.update(LOG + NEW)
    assert sums == ["", whole.sha256]


async def test_an_unchanged_file_whose_sha256_is_wanted_and_not_known_is_read(held: Sandbox, bed: Bed) -> None:
    bed.set("keep_free: 0", "keep_free: 0\n  sha256: true")

    report = await bed.collect()

    whole = Digests(Checks(sha256=True))
    whole.update(LOG)
    assert ([entry.sha256 for entry in entries(bed)], asked(held), report.unchanged) == (
        ["", whole.sha256],
        [FIRST],
        1,
    )


async def test_an_unchanged_file_whose_sha256_is_known_keeps_it(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    bed.set("keep_free: 0", "keep_free: 0\n  sha256: true")
    sandbox.write(NODE, LOG)
    await bed.collect()
    clock.forward(minutes=20)

    await bed.collect()

    whole = Digests(Checks(sha256=True))
    whole.update(LOG)
    assert ([entry.sha256 for entry in entries(bed)], sandbox.bytes_sent) == ([whole.sha256] * 2, len(LOG) + HEAD)


# --- what cannot be proved is fetched whole ---------------------------------------------------------------------------


@pytest.mark.parametrize("etag", ["multipart", "encrypted", "none"])
async def test_without_an_md5_the_whole_object_is_fetched(held: Sandbox, bed: Bed, etag: Any) -> None:
    held.faults.etag = etag
    held.write(NODE, NEW)

    report = await bed.collect()

    assert (bed.contents(), asked(held), stored(report).delta) == ([LOG, LOG + NEW], [FIRST, None], False)


async def test_where_nothing_fits_the_whole_object_is_fetched(held: Sandbox, bed: Bed) -> None:
    held.rewrite(NODE, lines(500_000, 2000))

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, lines(500_000, 2000)], [FIRST, None])


async def test_a_byte_that_the_disk_lost_is_found_and_the_whole_object_fetched(held: Sandbox, bed: Bed) -> None:
    flip(bed.files()[0], 100_000)
    held.write(NODE, NEW)

    report = await bed.collect()

    assert (bed.contents()[1], asked(held)) == (LOG + NEW, [FIRST, f"bytes={len(LOG)}-", None])
    assert (stored(report).delta, stored(report).fetched) == (False, HEAD + len(NEW) + len(LOG + NEW))


async def test_a_byte_that_the_disk_lost_is_found_where_nothing_more_was_asked_for(held: Sandbox, bed: Bed) -> None:
    flip(bed.files()[0], 100_000)
    held.rewrite(NODE, LOG[50_000:])

    await bed.collect()

    assert (bed.contents()[1], asked(held)) == (LOG[50_000:], [FIRST, None])


async def test_a_log_that_was_changed_in_its_middle_is_fetched_whole(held: Sandbox, bed: Bed) -> None:
    changed = LOG[:90_000] + b"#" + LOG[90_001:] + NEW
    held.rewrite(NODE, changed)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, changed], [FIRST, f"bytes={len(LOG)}-", None])


async def test_the_longest_end_may_be_the_wrong_one(held: Sandbox, bed: Bed) -> None:
    """The first bytes are in the last file twice, and it is the second place that is right."""
    repeated = LOG[:20_000] + NEW + LOG[:20_000]
    held.rewrite(NODE, repeated)
    await bed.collect()
    bed.clock.forward(minutes=20)
    held.rewrite(NODE, LOG[:20_000] + lines(20_000, 8000))

    await bed.collect()

    assert bed.contents()[-1] == LOG[:20_000] + lines(20_000, 8000)


@pytest.mark.parametrize("shift", [1, 4096])
async def test_first_bytes_that_are_others_are_not_used(held: Sandbox, bed: Bed, shift: int) -> None:
    held.faults.shift_range = [shift]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST, None])


@pytest.mark.parametrize(
    "told",
    [
        "bytes 0-8191/9999999999999999999",  # beyond download.max_size
        "bytes 0-8191/99999999999999999999999",
        "bytes 0-8191/100",
        "bytes 0-8190/207000",
        "bytes 0-8192/207000",
        "bytes 1-8192/207000",
        "bytes 0-8191/0",
        "bytes */207000",
        "bytes 0-8191/*",
        "nonsense",
    ],
)
async def test_a_range_that_makes_no_sense_is_not_used(held: Sandbox, bed: Bed, told: str) -> None:
    held.faults.content_range = [told]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST, None])


@pytest.mark.parametrize("total", [len(LOG + NEW) - 1, len(LOG + NEW) + 1, len(LOG) - 1, 1_000_000_000])
async def test_a_total_that_is_a_lie_is_found_out(held: Sandbox, bed: Bed, total: int) -> None:
    held.faults.content_range = [f"bytes 0-8191/{total}"]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), bed.parts()) == ([LOG, LOG + NEW], [])


async def test_a_total_that_makes_the_first_bytes_all_is_found_out_by_the_checksum(held: Sandbox, bed: Bed) -> None:
    held.faults.content_range = ["bytes 0-8191/8192"]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST, None])


@pytest.mark.parametrize("surplus", [1, 100_000])
async def test_more_first_bytes_than_were_asked_for_are_not_used(held: Sandbox, bed: Bed, surplus: int) -> None:
    held.faults.range_surplus = [surplus]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST, None])


async def test_more_first_bytes_than_were_told_are_not_used(held: Sandbox, bed: Bed) -> None:
    held.faults.range_surplus = [100_000]
    held.faults.content_range = [f"bytes 0-8191/{len(LOG + NEW)}"]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST, None])


@pytest.mark.parametrize("etag", ["none", "multipart", "encrypted"])
async def test_an_etag_that_is_no_md5_any_more_proves_nothing(held: Sandbox, bed: Bed, etag: Any) -> None:
    """The length alone would fit."""
    held.faults.etags = ["md5", etag]
    held.write(NODE, NEW)

    report = await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST, f"bytes={len(LOG)}-", None])
    assert not stored(report).delta


async def test_a_wrong_beginning_without_a_checksum_in_the_end_is_not_published(held: Sandbox, bed: Bed) -> None:
    flip(bed.files()[0], 100_000)
    held.faults.etags = ["md5", "none"]
    held.write(NODE, NEW)

    await bed.collect()

    assert bed.contents()[1] == LOG + NEW


async def test_an_object_that_is_replaced_in_between_is_fetched_whole(held: Sandbox, bed: Bed) -> None:
    other = (LOG + NEW).upper()
    held.faults.after_object = [lambda: held.replace_object(NODE, other)]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), statuses(held)) == ([LOG, other], [206, 412, 200])


async def test_an_object_that_shrinks_in_between_is_fetched_whole(held: Sandbox, bed: Bed) -> None:
    held.faults.after_object = [lambda: held.replace_object(NODE, LOG[:30_000])]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), statuses(held)) == ([LOG, LOG[:30_000]], [206, 412, 200])


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(LOG[:-1])], ids=["gone", "shorter"])
async def test_a_last_file_that_is_not_there_as_it_was_is_no_loss(
    held: Sandbox, bed: Bed, spoil: Callable[[Path], object]
) -> None:
    spoil(bed.files()[0])
    held.write(NODE, NEW)

    with structlog.testing.capture_logs() as events:
        await bed.collect()

    assert (bed.contents()[-1], asked(held)) == (LOG + NEW, [FIRST, None])
    assert [event["instance"] for event in events if event["event"] == "delta.failed"] == ["solo"]


async def test_an_unchanged_file_that_is_removed_meanwhile_is_fetched_whole(held: Sandbox, bed: Bed) -> None:
    has = bed.files()[0]
    async with bed.open() as service:
        store = service._collector.archive.store
        told = store.has

        async def gone(key: str) -> bool:
            has.unlink(missing_ok=True)
            return await told(key)

        store.has = gone  # type: ignore[method-assign]  # the one moment at which somebody may tidy up
        await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG], [FIRST, None])


# --- requests that fail -----------------------------------------------------------------------------------------------


async def test_a_rest_that_is_cut_is_resumed(held: Sandbox, bed: Bed) -> None:
    held.faults.cut_after = [HEAD, 10_000]
    held.faults.after_object = [lambda: None]
    held.write(NODE, NEW)

    with structlog.testing.capture_logs() as events:
        await bed.collect()

    assert [event["instance"] for event in events if event["event"] == "transfer.broken"] == ["solo"]
    assert bed.contents() == [LOG, LOG + NEW]
    assert asked(held)[-1] == f"bytes={len(LOG) + 10_000}-"
    assert fetched(held) == HEAD + len(NEW)


async def test_what_was_held_is_no_progress(held: Sandbox, bed: Bed) -> None:
    """Two requests that bring nothing are two tries, though the part has grown since it was empty."""
    bed.set("attempts: 5", "attempts: 2")
    held.faults.after_object = [lambda: held.faults.cut_after.extend([0] * 50)]
    held.write(NODE, NEW)

    report = await bed.collect()

    rest = f"bytes={len(LOG)}-"
    assert (report.outcome, asked(held)) == (CycleOutcome.FAILED, [FIRST, rest, rest])


async def test_first_bytes_that_are_cut_are_asked_for_again(held: Sandbox, bed: Bed) -> None:
    held.faults.cut_after = [4000]
    held.write(NODE, NEW)

    report = await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST, FIRST, f"bytes={len(LOG)}-"])
    assert stored(report).fetched == fetched(held) == 4000 + HEAD + len(NEW)


async def test_first_bytes_that_are_cut_again_and_again_are_no_reason_to_fetch_all(held: Sandbox, bed: Bed) -> None:
    held.faults.cut_after = [4000, 4000, 4000]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST] * 4 + [f"bytes={len(LOG)}-"])


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_an_outage_is_no_reason_to_fetch_all(held: Sandbox, bed: Bed, status: int) -> None:
    """A store that asks for less is asked for as little again."""
    held.faults.object_errors = [status] * 3
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST] * 4 + [f"bytes={len(LOG)}-"])


async def test_a_connection_that_is_closed_without_an_answer_is_no_reason_to_fetch_all(held: Sandbox, bed: Bed) -> None:
    held.faults.drop_objects = 6  # the client repeats some by itself
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), set(asked(held))) == ([LOG, LOG + NEW], {FIRST, f"bytes={len(LOG)}-"})


async def test_an_outage_that_lasts_fails_the_file_and_fetches_nothing_whole(held: Sandbox, bed: Bed) -> None:
    held.faults.object_errors = [503] * 50
    held.write(NODE, NEW)

    report = await bed.collect()

    assert (report.failures[0].kind, asked(held)) == ("interrupted", [FIRST] * 5)


async def test_an_outage_between_the_first_bytes_and_the_rest_is_waited_for(held: Sandbox, bed: Bed) -> None:
    held.faults.after_object = [lambda: held.faults.object_errors.extend([503] * 3)]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST] + [f"bytes={len(LOG)}-"] * 4)


async def test_a_store_says_how_long_it_has_no_first_bytes(held: Sandbox, bed: Bed, clock: ManualClock) -> None:
    held.faults.object_errors = [503]
    held.faults.retry_after = 17
    held.write(NODE, NEW)

    await bed.collect()

    assert (17.0 in clock.slept, bed.contents()) == (True, [LOG, LOG + NEW])


@pytest.mark.parametrize("status", [400, 403, 405, 416, 501])
@pytest.mark.parametrize("attempts", [1, 5])
async def test_a_store_that_refuses_ranges_gives_the_whole(held: Sandbox, bed: Bed, status: int, attempts: int) -> None:
    bed.set("attempts: 5", f"attempts: {attempts}")
    held.faults.refuse_range = status
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)[-1]) == ([LOG, LOG + NEW], None)


@pytest.mark.parametrize("attempts", [2, 5])
async def test_a_store_that_fails_at_ranges_alone_gives_the_whole_in_the_end(
    held: Sandbox, bed: Bed, attempts: int
) -> None:
    """Small requests come first; the last attempt of a file asks for all of it. That says nothing of what proves it."""
    bed.set("attempts: 5", f"attempts: {attempts}")
    held.faults.refuse_range = 500
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST] * (attempts - 1) + [None])


async def test_a_refused_link_is_renewed_and_the_first_bytes_asked_for_again(held: Sandbox, bed: Bed) -> None:
    held.faults.object_errors = [403]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST, FIRST, f"bytes={len(LOG)}-"])


async def test_a_link_that_dies_before_the_rest_is_renewed_for_it(held: Sandbox, bed: Bed) -> None:
    def refuse() -> None:
        held.faults.object_errors = [403]

    held.faults.after_object = [refuse]
    held.write(NODE, NEW)

    await bed.collect()

    rest = f"bytes={len(LOG)}-"
    assert (bed.contents(), asked(held)) == ([LOG, LOG + NEW], [FIRST, rest, rest])


async def test_a_link_about_to_die_is_renewed_before_the_first_bytes_are_asked_for(
    bed: Bed, clock: ManualClock
) -> None:
    async with bed.cloud(link_life=timedelta(seconds=20)) as sandbox:
        sandbox.write(NODE, LOG)
        await bed.collect()
        sandbox.write(NODE, NEW)
        clock.forward(minutes=20)

        await bed.collect()

        assert ([status for status in statuses(sandbox) if status >= 400], bed.contents()) == ([], [LOG, LOG + NEW])
        assert FIRST in asked(sandbox)


async def test_links_get_no_other_header_of_ours(held: Sandbox, bed: Bed) -> None:
    held.write(NODE, NEW)

    await bed.collect()

    sent = {name.lower() for request in held.requests if request.kind == "object" for name in request.headers}
    assert sent == {"host", "user-agent", "accept", "accept-encoding", "range", "if-match"}


async def test_a_file_over_max_size_is_left_out_as_ever(held: Sandbox, bed: Bed) -> None:
    bed.set("attempts: 5", "attempts: 5\n  max_size: 190KB")
    held.write(NODE, NEW)

    report = await bed.collect()

    assert (report.failures[0].kind, bed.contents(), bed.parts()) == ("unpublishable", [LOG], [])


async def test_a_lost_byte_does_not_use_up_the_one_try_that_a_corrupt_file_has(held: Sandbox, bed: Bed) -> None:
    flip(bed.files()[0], 100_000)
    held.faults.after_object = [lambda: None, lambda: held.faults.corrupt.append(7)]
    held.write(NODE, NEW)

    await bed.collect()

    assert (bed.contents()[1], asked(held)) == (LOG + NEW, [FIRST, f"bytes={len(LOG)}-", None, None])


# --- when it rests ----------------------------------------------------------------------------------------------------


async def grow_and_collect(bed: Bed, times: int) -> list[bool]:
    """Let so many exports grow and be collected; tell of each whether its first bytes were asked for."""
    found = []
    for _ in range(times):
        bed.sandbox.write(NODE, b"%030d\n" % len(bed.sandbox.log_of(NODE)))
        bed.clock.forward(minutes=20)
        bed.sandbox.requests.clear()
        await bed.collect()
        found.append(FIRST in asked(bed.sandbox))
    return found


async def test_after_three_files_in_vain_it_rests_for_a_day(bed: Bed) -> None:
    async with bed.cloud(token_life=timedelta(days=9)) as sandbox, bed.open():
        sandbox.write(NODE, LOG)
        await bed.collect()
        sandbox.faults.etag = "multipart"
        with structlog.testing.capture_logs() as events:
            tried = await grow_and_collect(bed, 5)
            (begun,) = rests(events)
            bed.clock.forward(hours=22)
            tried += await grow_and_collect(bed, 1)
            bed.clock.forward(hours=1)
            tried += await grow_and_collect(bed, 4)

        assert tried == [True] * 3 + [False] * 3 + [True] * 3 + [False]
        assert len(rests(events)) == 2
        told = {"log_level": "info", "instance": "solo", "reason": "the ETag is no MD5"}
        assert told.items() <= begun.items()
        assert bed.contents()[-1] == sandbox.log_of(NODE)


async def test_one_file_that_is_proved_makes_the_count_begin_anew(held: Sandbox, bed: Bed) -> None:
    tried = []
    async with bed.open():
        for etag in ("multipart", "multipart", "md5", "multipart", "multipart", "md5"):
            held.faults.etag = etag
            tried += await grow_and_collect(bed, 1)

    assert tried == [True] * 6


async def test_an_unchanged_file_makes_the_count_begin_anew(held: Sandbox, bed: Bed) -> None:
    async with bed.open():
        held.faults.etag = "multipart"
        await grow_and_collect(bed, 2)
        held.faults.etag = "md5"
        bed.clock.forward(minutes=20)
        report = await bed.collect()
        held.faults.etag = "multipart"
        tried = await grow_and_collect(bed, 2)
        held.faults.etag = "md5"
        tried += await grow_and_collect(bed, 1)

    assert (report.unchanged, tried) == (1, [True] * 3)


async def test_what_breaks_off_and_fails_is_no_reason_to_rest(held: Sandbox, bed: Bed) -> None:
    """An outage says nothing of what can be proved."""
    async with bed.open():
        held.faults.object_errors = [503] * 1000
        await grow_and_collect(bed, 5)
        held.faults.clear()
        tried = await grow_and_collect(bed, 1)

    assert (tried, bed.contents()[-1]) == ([True], held.log_of(NODE))


@pytest.mark.parametrize("status", [403, 429, 503])
async def test_outages_and_refusals_are_no_reason_to_rest(held: Sandbox, bed: Bed, status: int) -> None:
    """Each file comes in the end, after as much trouble as it can have."""
    async with bed.open():
        for _ in range(5):
            held.faults.object_errors = [status] * (2 if status == 403 else 4)
            await grow_and_collect(bed, 1)
        tried = await grow_and_collect(bed, 1)

    assert (tried, bed.contents()[-1]) == ([True], held.log_of(NODE))


async def test_empty_files_are_no_reason_to_rest(held: Sandbox, bed: Bed) -> None:
    async with bed.open():
        held.rewrite(NODE, b"")
        for _ in range(4):
            bed.clock.forward(minutes=20)
            await bed.collect()
        held.rewrite(NODE, LOG)
        tried = await grow_and_collect(bed, 1)

    assert tried == [True]


async def test_a_rest_is_one_instances(bed: Bed, clock: ManualClock) -> None:
    fleet = (replica_set("one", nodes=3), replica_set("two", nodes=3))
    async with bed.cloud(fleet=fleet) as sandbox, bed.open():
        for node in [node for instance in fleet for node in instance.nodes]:
            sandbox.write(node.name, node.name.encode() + LOG)
        for _ in range(2):
            for name, etag in (("one", "multipart"), ("two", "md5")):
                sandbox.faults.etag = etag  # type: ignore[assignment]  # each of them is one
                await bed.collect(name)
            clock.forward(minutes=20)
        sandbox.requests.clear()
        await bed.collect("one")
        first = asked(sandbox)
        sandbox.requests.clear()
        await bed.collect("two")

        assert (first, asked(sandbox)) == ([None] * 3, [FIRST] * 3)


# --- crashes ----------------------------------------------------------------------------------------------------------


async def test_a_seeded_part_is_gone_on_with_in_the_same_process(held: Sandbox, bed: Bed) -> None:
    bed.set("attempts: 5", "attempts: 2")
    held.write(NODE, NEW)
    async with bed.open():
        held.faults.after_object = [lambda: held.faults.cut_after.extend([10_000, *[0] * 50])]
        failed = await bed.collect()
        held.faults.clear()
        await bed.collect()

    assert (failed.outcome, bed.contents()) == (CycleOutcome.FAILED, [LOG, LOG + NEW])
    assert fetched(held) == HEAD + len(NEW)


async def test_a_seeded_part_that_was_put_aside_is_proved_like_any_other(held: Sandbox, bed: Bed) -> None:
    flip(bed.files()[0], 100_000)
    bed.set("attempts: 5", "attempts: 2")
    held.write(NODE, NEW)
    async with bed.open():
        held.faults.after_object = [lambda: held.faults.cut_after.extend([10_000, *[0] * 50])]
        await bed.collect()
        held.faults.clear()
        held.faults.etags = ["none"]  # the length alone would fit
        await bed.collect()

    assert bed.contents()[1] == LOG + NEW


async def test_a_seeded_part_is_swept_at_the_next_start(held: Sandbox, bed: Bed) -> None:
    """Only this process knows that no byte of it counts before the checksum of all is there."""
    flip(bed.files()[0], 100_000)
    bed.set("attempts: 5", "attempts: 2")
    held.write(NODE, NEW)
    held.faults.after_object = [lambda: held.faults.cut_after.extend([10_000, *[0] * 50])]
    await bed.collect()
    left = bed.parts()
    held.faults.clear()

    async with bed.open() as service:
        await service._archive.recovery.whole()
        swept = bed.parts()
        await bed.collect()

    assert ([paths.read_part_name(part.name) for part in left], swept) == ([(bed.files()[1].name, None)], [])
    assert bed.contents()[1] == LOG + NEW


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk(Checks)
    yield desk
    desk.close()


async def test_a_seed_that_cannot_be_read_leaves_nothing_that_counts(bed: Bed, tmp_path: Path, desk: Desk) -> None:
    part = Part(tmp_path, tmp_path / "x.20260102T030405.678Z.log", desk=desk)

    with pytest.raises(Exception, match="ENOENT"):
        await part.seed(Identity(etag='"x"', total=10), tmp_path / "none", start=0)

    assert (part.size, part.seeded, part.resumable) == (0, 0, False)
    await part.remove()
    assert bed.parts() == []


async def test_a_part_that_begins_anew_is_seeded_no_more(tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "last").write_bytes(b"0123456789")
    part = Part(tmp_path, tmp_path / "x.20260102T030405.678Z.log", desk=desk)
    await part.seed(Identity(etag='"x"', total=10), tmp_path / "last", start=4)
    seeded = (part.seeded, part.size, part.received)

    await part.begin(Identity(etag='"y"', total=2))
    await part.append([b"ab"])

    assert (seeded, part.seeded, part.size, part.received) == ((6, 6, 0), 0, 2, 2)
    await part.remove()


async def test_a_seeded_part_is_not_whole_where_no_md5_is_taken_of_it_any_more(tmp_path: Path) -> None:
    """It was quarantined, and ``download.verify`` changed to length before a transfer went on with it."""
    (tmp_path / "last").write_bytes(b"0123456789")
    unchecked = Desk(lambda: Checks(md5=False))
    part = Part(tmp_path, tmp_path / "x.20260102T030405.678Z.log", desk=unchecked)
    await part.seed(Identity(etag='"x"', total=6, md5="0" * 32), tmp_path / "last", start=4)

    with pytest.raises(Corrupt):
        _prove_whole(part)
    await part.remove()
    unchecked.close()


async def test_a_seeded_part_goes_on_behind_the_seed(tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "last").write_bytes(b"0123456789")
    part = Part(tmp_path, tmp_path / "x.20260102T030405.678Z.log", desk=desk)
    await part.seed(Identity(etag='"x"', total=8), tmp_path / "last", start=4)
    await part.append([b"ab"])
    md5 = part.digests.md5

    await part.publish()

    whole = Digests(Checks())
    whole.update(b"456789ab")
    assert ((tmp_path / "x.20260102T030405.678Z.log").read_bytes(), md5) == (b"456789ab", whole.md5)


# --- how much, and whether it is the same -----------------------------------------------------------------------------


async def test_a_fleet_whose_windows_slide_fetches_what_is_new(bed: Bed, clock: ManualClock) -> None:
    """At most 1.05 times the new bytes and 16 KiB a file, each cycle."""
    window, written = 600_000, 0
    async with bed.cloud(fleet=(replica_set("solo", nodes=8),), window=window) as sandbox, bed.open():
        nodes = [node.name for node in sandbox.fleet[0].nodes]
        over = []
        for cycle in range(8):
            new = 0
            for number, node in enumerate(nodes):
                grown = (window // 23 + 999) if cycle == 0 else (0, 1, 40, 900, 5000)[(cycle + number) % 5]
                sandbox.write(node, lines(written, grown))
                written += grown
                new += grown * 23
            before = sandbox.bytes_sent
            report = await bed.collect()
            sent = sandbox.bytes_sent - before
            assert (report.outcome, report.fetched_bytes) == (CycleOutcome.OK, sent)
            if cycle and sent > 1.05 * new + 16 * 1024 * len(nodes):
                over.append((cycle, sent, new))
            clock.forward(minutes=20)

        newest = {path.parent.name: path.read_bytes() for path in sorted(bed.files(), key=lambda path: path.name)}
        assert (over, newest) == ([], {node: sandbox.exports_of(node)[-1] for node in nodes})


class Siblings:
    """Daemons that see the same cloud: without delta, and with it for each setting of which snapshots stay."""

    WINDOW = 60_000

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = AsyncExitStack()
        self.beds: list[Bed] = []
        self.written = 0

    async def __aenter__(self) -> Self:
        for delta, snapshots in (("off", "all"), ("auto", "all"), ("auto", "latest"), ("auto", "none")):
            clock = ManualClock()
            sandbox = await self._stack.enter_async_context(quiet_sandbox(clock, window=self.WINDOW))
            os.environ["DDSLOGD_TOKEN"] = sandbox.issue_token()
            directory = self._directory / f"{delta}-{snapshots}"
            bed = Bed(sandbox=sandbox, clock=clock, directory=directory / "logs", state=directory / "state")
            bed.snapshots = snapshots
            bed.set("attempts: 5", f"attempts: 5\n  delta: {delta}")
            await self._stack.enter_async_context(bed.open())
            self.beds.append(bed)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def change(self, what: tuple[str, int]) -> None:
        """Do to all logs what a step says."""
        kind, size = what
        log = self.beds[0].sandbox.log_of(NODE)
        match kind:
            case "grow":
                log += lines(self.written, size)
                self.written += size
            case "repeat":
                log += b"the same line\n" * size
            case "rewrite":
                log = lines(self.written, size)
                self.written += size
            case "cut off":
                log = log[size:]
            case "lose the end":
                log = log[: max(0, len(log) - size)]
            case _:  # touch
                log = log[:-size] + b"#" + log[-size:][1:] if 0 < size <= len(log) else log
        for bed in self.beds:
            bed.sandbox.rewrite(NODE, log)

    async def collect(self, cuts: list[int]) -> list[tuple[object, ...]]:
        """Run a cycle of each; give what is told of it."""
        found: list[tuple[object, ...]] = []
        for bed in self.beds:
            bed.clock.forward(minutes=20)
            bed.sandbox.faults.cut_after = list(cuts)
            report = await bed.collect()
            bed.sandbox.faults.clear()
            kinds = [type(outcome).__name__ for outcome in report.outcomes]
            found.append((report.outcome, kinds, report.stored_bytes, report.new_bytes, report.gaps))
        return found

    def kept(self) -> list[tuple[object, ...]]:
        """Return all that is in streams and ledger of each but what was fetched, and that nothing else is there."""
        found: list[tuple[object, ...]] = []
        for bed in self.beds:
            books = [(entry.size, entry.md5, entry.etag) for entry in entries(bed)]
            gaps = [(gap.cause, gap.cut) for gap in known_gaps(bed.state)]
            found.append((stream(bed), gaps, books, bed.parts()))
        return found

    def snapshots(self) -> list[list[bytes]]:
        """Return the snapshots of each, oldest first."""
        return [[path.read_bytes() for path in sorted(bed.files(), key=lambda path: path.name)] for bed in self.beds]


changes = st.one_of(
    st.tuples(st.just("grow"), st.integers(0, 3000)),
    st.tuples(st.just("grow"), st.integers(0, 50)),
    st.tuples(st.just("repeat"), st.integers(1, 4000)),
    st.tuples(st.just("rewrite"), st.integers(0, 3000)),
    st.tuples(st.just("cut off"), st.integers(0, 60_000)),
    st.tuples(st.just("lose the end"), st.integers(0, 60_000)),
    st.tuples(st.just("touch"), st.integers(1, 60_000)),
)
steps = st.lists(st.tuples(changes, st.lists(st.integers(0, 60_000), max_size=2)), min_size=2, max_size=7)


@settings(max_examples=examples(25), suppress_health_check=list(HealthCheck))
@given(steps)
@example([(("grow", 3000), []), (("touch", 30_000), []), (("grow", 10), []), (("repeat", 4000), [])])
@example([(("repeat", 4000), []), (("repeat", 1), []), (("repeat", 3000), [100]), (("grow", 5), [])])
@example([(("grow", 2500), []), (("grow", 0), []), (("cut off", 20_000), []), (("grow", 1), [0, 9000])])
def test_streams_and_outcomes_are_the_same_without_delta_and_with_it_whichever_snapshots_stay(
    story: list[tuple[tuple[str, int], list[int]]],
) -> None:
    """Whatever logs do: grow, slide, repeat themselves, are rewritten, cut, touched; and connections break."""

    async def tell(directory: Path) -> None:
        async with Siblings(directory) as siblings:
            for change, cuts in story:
                siblings.change(change)
                without, *with_delta = await siblings.collect(cuts)
                assert with_delta == [without] * 3
                first, *others = siblings.kept()
                assert others == [first] * 3
                all_of_one, all_of_other, latest, none = siblings.snapshots()
                assert (all_of_other, latest[-1:]) == (all_of_one, all_of_one[-1:])
                assert (len(latest) <= 2, set(none) <= set(latest)) == (
                    True,
                    True,
                )  # the newest, and the one compared with

    token = os.environ.get("DDSLOGD_TOKEN")
    try:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(tell(Path(directory)))
    finally:
        os.environ.pop("DDSLOGD_TOKEN")
        if token is not None:
            os.environ["DDSLOGD_TOKEN"] = token
