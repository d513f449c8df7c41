"""What a start makes good: promises that a crash interrupted, a ledger that is damaged, gone or behind."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from ddslogd.model.errors import ConfigError, Locked
from ddslogd.model.snapshot import Unchanged
from ddslogd.storage.ledger.snapshot_records import KEPT_DAYS, Ledger
from ddslogd.storage.recovery import Recovery
from ddslogd.storage.snapshots.store import Store, claim
from support.live_settings import live_settings

if TYPE_CHECKING:
    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

NODE = "solo_single_node_1"
LOG = b"".join(b"line %06d of the log\n" % number for number in range(4000))


def rows(bed: Bed, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db:
        return db.execute(query).fetchall()


def change(bed: Bed, statement: str) -> None:
    with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db, db:
        db.execute(statement)


async def restart(bed: Bed) -> list[str]:
    """Start, look through everything, and stop; give the events."""
    with structlog.testing.capture_logs() as events:
        async with bed.open() as service:
            await service._archive.recovery.whole()
    return [event["event"] for event in events]


async def test_a_crash_between_rename_and_entry_is_made_good(sandbox: Sandbox, bed: Bed) -> None:
    """The promise is there, and the file with the promised bytes."""
    sandbox.write(NODE, LOG)
    await bed.collect()
    change(bed, "UPDATE snapshots SET published = 0")

    events = await restart(bed)

    assert (events, rows(bed, "SELECT published, verified FROM snapshots")) == (["ledger.completed"], [(1, 1)])


@pytest.mark.parametrize(
    ("left_by_the_crash", "entered"),
    [("UPDATE snapshots SET published = 0", "published"), ("DELETE FROM snapshots", "verified = 0")],
    ids=["promised", "unknown"],
)
async def test_a_name_is_durable_before_it_is_entered(
    sandbox: Sandbox, bed: Bed, monkeypatch: pytest.MonkeyPatch, left_by_the_crash: str, entered: str
) -> None:
    """Who gave it may have been killed before the sync of its directory, and of those above."""
    sandbox.write(NODE, LOG)
    await bed.collect()
    change(bed, left_by_the_crash)
    synced, sync = list[tuple[str, int]](), os.fsync

    def fsync(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if bed.directory in {path, *path.parents}:
            known = rows(bed, f"SELECT count(*) FROM snapshots WHERE {entered}")  # noqa: S608  # the test's own
            synced.append((path.name, int(str(known[0][0]))))
        sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    await restart(bed)

    assert synced == [("logs", 0), ("snapshots", 0), ("solo", 0), (NODE, 0)]
    assert rows(bed, f"SELECT count(*) FROM snapshots WHERE {entered}") == [(1,)]  # noqa: S608  # the test's own


async def test_a_crash_before_the_rename_leaves_no_entry(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    change(bed, "UPDATE snapshots SET published = 0")
    bed.files()[0].unlink()

    await restart(bed)

    assert rows(bed, "SELECT * FROM snapshots") == []


async def test_a_promised_file_with_other_bytes_is_not_taken_for_it(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    change(bed, "UPDATE snapshots SET published = 0")
    bed.files()[0].write_bytes(b"x" * len(LOG))

    await restart(bed)

    assert rows(bed, "SELECT published, verified, etag FROM snapshots") == [(1, 0, "")]


async def test_a_file_that_the_ledger_does_not_know_is_adopted_as_unverified(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    change(bed, "DELETE FROM snapshots")

    events = await restart(bed)

    md5 = hashlib.md5(LOG, usedforsecurity=False).hexdigest()
    told = rows(bed, "SELECT instance, node, size, md5, published, verified FROM snapshots")
    assert (events, told) == (["ledger.adopted"], [("solo", NODE, len(LOG), md5, 1, 0)])


async def test_an_adopted_file_is_not_fetched_again(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    change(bed, "DELETE FROM snapshots")
    bed.forget_exports()

    report = await bed.collect()

    assert ([type(outcome) for outcome in report.outcomes], sandbox.calls["object"]) == ([Unchanged], 1)


async def test_after_an_adoption_the_same_bytes_are_still_told_as_unchanged(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    change(bed, "DELETE FROM snapshots")
    clock.forward(minutes=20)

    report = await bed.collect()

    assert (report.unchanged, len(bed.files())) == (1, 1)


async def test_a_lost_ledger_is_said_and_rebuilt_from_the_disk(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    sandbox.write(NODE, b"more\n")
    clock.forward(minutes=20)
    await bed.collect()
    (bed.state / "ledger.sqlite3").unlink()

    events = await restart(bed)

    assert (events, rows(bed, "SELECT count(*) FROM snapshots")) == (["ledger.missing", "ledger.adopted"], [(2,)])


async def test_a_damaged_ledger_is_kept_aside_and_rebuilt(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    (bed.state / "ledger.sqlite3").write_bytes(b"no database at all " * 1000)

    events = await restart(bed)

    kept = (bed.state / "ledger.sqlite3.damaged-1").exists()
    assert (events[:1], events[-1:], kept) == (["ledger.damaged"], ["ledger.adopted"], True)


async def test_a_first_start_has_nothing_to_say(bed: Bed) -> None:
    assert await restart(bed) == []


async def test_a_clean_restart_has_nothing_to_say(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()

    assert await restart(bed) == []


async def test_names_that_had_to_be_altered_are_adopted_once(sandbox: Sandbox, bed: Bed) -> None:
    """A second start finds them known."""

    def rename(reply: dict[str, list[dict[str, str]]]) -> dict[str, list[dict[str, str]]]:
        for row in reply["list"]:
            row["node_name"] = "node/../one"
        return reply

    sandbox.faults.mangle = rename
    sandbox.write(NODE, LOG)
    await bed.collect()
    change(bed, "DELETE FROM snapshots")
    await restart(bed)

    assert await restart(bed) == []


@pytest.mark.parametrize(("left", "kept"), [(LOG, "ledger.completed"), (LOG[1:], "ledger.adopted"), (None, None)])
async def test_a_promise_without_a_checksum_is_kept_by_the_files_length(
    sandbox: Sandbox, bed: Bed, left: bytes | None, kept: str | None
) -> None:
    """With ``download.verify: length``: the bytes were on the disk before the file had its name."""
    bed.set("attempts: 5", "attempts: 5\n  verify: length")
    sandbox.write(NODE, LOG)
    await bed.collect()
    change(bed, "UPDATE snapshots SET published = 0")
    (path,) = bed.files()
    path.unlink()
    if left is not None:
        path.write_bytes(left)

    events = await restart(bed)

    assert [event for event in events if event.startswith("ledger")] == ([kept] if kept else [])


async def test_sha256_stands_in_the_books_where_it_is_asked_for(sandbox: Sandbox, bed: Bed) -> None:
    bed.set("keep_free: 0", "keep_free: 0\n  sha256: true")
    sandbox.write(NODE, LOG)
    sandbox.faults.cut_after = [30_000]

    await bed.collect()

    assert rows(bed, "SELECT sha256 FROM snapshots") == [(hashlib.sha256(LOG).hexdigest(),)]


async def test_the_books_hold_both_request_ids_and_the_tries(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    sandbox.faults.cut_after = [30_000]

    await bed.collect()

    ((request_ids, attempts),) = rows(bed, "SELECT request_ids, attempts FROM snapshots")
    assert (len(str(request_ids).split()), attempts) == (2, 2)


async def test_the_ledger_closes_without_leaving_a_wal(bed: Bed) -> None:
    await restart(bed)

    assert sorted(path.name for path in bed.state.iterdir()) == [".ddslogd.lock", "ledger.sqlite3"]
    ledger = Ledger(bed.state)
    assert await ledger.open()
    await ledger.close()


class GoneOnceSeen(Store):
    """A directory from which somebody removes a file just after it was seen there."""

    def is_there(self, key: str) -> bool:
        there = super().is_there(key)
        if key.endswith(STRAY):
            (self._directory / key).unlink()
        return there


STRAY = "errorlog.20260102T030400.000Z.log"


async def test_files_that_are_none_of_ours_are_left_alone(sandbox: Sandbox, bed: Bed) -> None:
    """What a log shipper, logrotate or an operator left, in any depth."""
    sandbox.write(NODE, LOG)
    await bed.collect()
    node = bed.files()[0].parent
    for path in (node / "notes.txt", node / "x.log.1.gz", node.parent / STRAY, node / "deeper" / STRAY):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (bed.directory / "snapshots" / STRAY).write_bytes(b"x")

    events = await restart(bed)

    assert (events, rows(bed, "SELECT count(*) FROM snapshots")) == ([], [(1,)])


async def test_what_only_looks_like_a_snapshot_is_told_and_left_out(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    node = bed.files()[0].parent
    (node / f"link-{STRAY}").symlink_to("/nonexistent")
    os.mkfifo(node / f"pipe-{STRAY}")
    (node / os.fsdecode(b"\xff\xfe-" + STRAY.encode())).write_bytes(b"x")

    with structlog.testing.capture_logs() as events:
        async with bed.open() as service:
            await service._archive.recovery.whole()

    told = sorted((event["event"], event["path"].rpartition("/")[2], event["reason"]) for event in events)
    assert (told, rows(bed, "SELECT count(*) FROM snapshots")) == (
        [
            ("ledger.not_adopted", f"\\xff\\xfe-{STRAY}", "its name is not UTF-8"),
            ("ledger.not_adopted", f"link-{STRAY}", "it is no regular file"),
            ("ledger.not_adopted", f"pipe-{STRAY}", "it is no regular file"),
        ],
        [(1,)],
    )


async def test_a_directory_whose_name_is_no_text_keeps_nothing_else_from_being_adopted(
    sandbox: Sandbox, bed: Bed
) -> None:
    """It is none of ours; of the files in it, each is told of."""
    sandbox.write(NODE, LOG)
    await bed.collect()
    stray = bed.directory / "snapshots" / os.fsdecode(b"\xff\xfe") / "node"
    stray.mkdir(parents=True)
    (stray / STRAY).write_bytes(b"x")
    for path in bed.state.iterdir():
        path.unlink()

    with structlog.testing.capture_logs() as events:
        async with bed.open() as service:
            await service._archive.recovery.whole()

    told = [(event["event"], event.get("path", event.get("files"))) for event in events]
    assert ("ledger.adopted", 1) in told, told
    assert rows(bed, "SELECT count(*) FROM snapshots") == [(1,)]


async def test_a_file_that_is_gone_before_it_is_adopted_stops_nothing(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, tmp_path: Path
) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    store = GoneOnceSeen(bed.directory, settings=live_settings())
    store.open(clock.now())
    (bed.files()[0].parent / STRAY).write_bytes(b"x")
    ledger = Ledger(tmp_path / "other")
    with structlog.testing.capture_logs() as events:
        await Recovery(store, ledger, names=["solo"], clock=clock).whole()
    store.close()
    await ledger.close()

    assert [event["event"] for event in events] == ["ledger.not_adopted", "ledger.adopted"]


async def test_a_promised_file_that_cannot_be_read_stops_nothing(sandbox: Sandbox, bed: Bed) -> None:
    """Its path has a name that is too long for any disk."""
    sandbox.write(NODE, LOG)
    await bed.collect()
    change(bed, "UPDATE snapshots SET published = 0, path = printf('%.300c', 'x')")

    events = await restart(bed)

    assert (events, rows(bed, "SELECT published, verified FROM snapshots")) == (["ledger.adopted"], [(1, 0)])


async def test_a_part_at_the_end_of_time_is_swept(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    part = bed.files()[0].with_name(".x.99991231T235959.999Z.log~10~x~%22e%22.part")
    part.write_bytes(b"x")

    events = await restart(bed)

    assert (events, part.exists()) == (["part.swept"], False)


async def test_entries_stay_as_long_as_their_files(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then as long as somebody may ask for them, but for the newest."""
    sandbox.write(NODE, LOG)
    await bed.collect()
    clock.forward(days=KEPT_DAYS + 1)
    monkeypatch.setenv("DDSLOGD_TOKEN", sandbox.issue_token())  # the first one is a day old
    sandbox.write(NODE, LOG)
    await bed.collect()
    with_file = rows(bed, "SELECT count(*) FROM snapshots")
    bed.files()[0].unlink()

    events = await restart(bed)
    await bed.collect()

    without = rows(bed, "SELECT count(*) FROM snapshots")
    assert (with_file, events, len(bed.files()), without) == ([(2,)], [], 1, [(1,)])


async def test_of_a_lost_ledger_the_newest_file_comes_back_however_old(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    (bed.state / "ledger.sqlite3").unlink()
    clock.forward(days=KEPT_DAYS + 1)
    monkeypatch.setenv("DDSLOGD_TOKEN", sandbox.issue_token())  # the first one is a day old

    report = await bed.collect()

    assert (report.unchanged, len(bed.files())) == (1, 1)


async def test_the_ledgers_directory_is_claimed_too(bed: Bed) -> None:
    """Two configurations with a directory each and one state in common."""
    async with bed.open():
        bed.directory = bed.directory.with_name("other")
        with pytest.raises(Locked, match=re.escape(f"works on {bed.state}")):
            async with bed.open():
                pass

    os.close(claim(bed.state))  # free again


async def test_one_directory_for_both_is_claimed_once(bed: Bed) -> None:
    bed.state = bed.directory

    assert await restart(bed) == []


async def test_a_ledger_is_not_used_for_another_directory(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    bed.directory = bed.directory.with_name("other")

    with pytest.raises(ConfigError, match=r"belongs to the storage\.directory"):
        await restart(bed)


async def test_files_and_ledger_that_moved_together_go_on(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    bed.directory = bed.directory.rename(bed.directory.with_name("other"))
    clock.forward(minutes=20)

    assert (await bed.collect()).unchanged == 1


async def test_a_start_forgets_what_failed_of_instances_that_are_configured_no_more(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.failed_rows.add(NODE)
    await bed.collect()
    change(bed, "UPDATE failures SET instance = 'gone'")

    await restart(bed)

    assert rows(bed, "SELECT * FROM failures") == []
