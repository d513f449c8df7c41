"""What a node's files are called, whatever the cloud calls it, however many rows it has; and who owns a directory."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from ddslogd.collection.node_names import NodeNames, pattern_of
from ddslogd.collection.node_registry import NodeRegistry
from ddslogd.model.export import Row, RowState
from ddslogd.model.instance import Every, Instance, ListedInstance, LogKind, Node
from ddslogd.sandbox import replica_set, single
from ddslogd.storage import owner_file, paths
from ddslogd.storage.ledger import database, status_queries
from ddslogd.storage.ledger.database import MIGRATIONS
from ddslogd.storage.ledger.snapshot_records import Ledger
from ddslogd.storage.owner_file import DirectoryOwner, names_on_disk
from support.testbed import known_failures, known_gaps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ddslogd.model.cycle import CycleReport
    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

Reply = dict[str, Any]
FIRST, SECOND = "duo_replica_node_1", "duo_replica_node_2"
IDS = re.compile(r"_[0-9a-f]{32}no\d\d")


def lines(node: str, first: int, end: int) -> bytes:
    return b"".join(
        b'{"t":{"$date":"2026-01-02T03:%02d:%02d.000Z"},"node":"%s","id":%d}\n'
        % (number // 60 % 60, number % 60, node.encode(), number)
        for number in range(first, end)
    )


def streams(bed: Bed) -> dict[str, bytes]:
    """Return what is in each stream, by the file's name."""
    return {path.name: path.read_bytes() for path in sorted((bed.directory / "streams").glob("*/*.log"))}


async def cycle(bed: Bed, clock: ManualClock) -> CycleReport:
    clock.forward(minutes=20)
    return await bed.collect()


def rename(sandbox: Sandbox, names: dict[str, str]) -> None:
    """Rename nodes, in the list and in exports."""
    for instance in sandbox.fleet:
        groups = tuple(
            replace(group, nodes=tuple(replace(node, name=names.get(node.name, node.name)) for node in group.nodes))
            for group in instance.groups
        )
        sandbox.add(replace(instance, groups=groups))


def mangled(sandbox: Sandbox, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Let something happen to the rows of each reply."""

    def mangle(reply: Reply) -> Reply:
        if "list" in reply:
            change(reply["list"])
        return reply

    sandbox.faults.mangle = mangle


def older_shape(rows: list[dict[str, Any]]) -> None:
    """Take the ids out of the names of files, as in the older shape."""
    for row in rows:
        row["file_name"] = IDS.sub("", row["file_name"])


# --- a node that gets another name ------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_id", [True, False], ids=["id in the file name", "id in the list"])
async def test_a_stream_goes_on_though_its_node_gets_another_name(
    bed: Bed, clock: ManualClock, *, with_id: bool
) -> None:
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:
        if not with_id:
            mangled(sandbox, older_shape)
        async with bed.open() as service:
            await service._refreshed()
            sandbox.write(FIRST, lines("a", 0, 100))
            sandbox.write(SECOND, lines("b", 0, 100))
            await cycle(bed, clock)
            rename(sandbox, {FIRST: "newer"})
            sandbox.write("newer", lines("a", 100, 160))
            await cycle(bed, clock)

        both = {f"{FIRST}.log": lines("a", 0, 160), f"{SECOND}.log": lines("b", 0, 100)}
        assert (streams(bed), known_gaps(bed.state)) == (both, ())


async def test_nodes_that_swap_names_keep_their_streams_over_a_restart(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:
        sandbox.write(FIRST, lines("a", 0, 10))
        sandbox.write(SECOND, lines("b", 0, 10))
        await cycle(bed, clock)
        rename(sandbox, {FIRST: SECOND, SECOND: FIRST})
        sandbox.write(SECOND, lines("a", 10, 20))
        sandbox.write(FIRST, lines("b", 10, 20))
        await cycle(bed, clock)

        both = {f"{FIRST}.log": lines("a", 0, 20), f"{SECOND}.log": lines("b", 0, 20)}
        assert (streams(bed), known_gaps(bed.state)) == (both, ())


async def test_both_logs_of_a_node_that_gets_another_name_go_on(bed: Bed, clock: ManualClock) -> None:
    """The list is asked for once, and the other log's rows wait for it."""
    async with bed.cloud(fleet=(single("duo"),)) as sandbox:
        node = sandbox.fleet[0].nodes[0].name
        bed.set("instances:\n", "instances:\n  # both\n")
        bed.set('name: "duo"\n', 'name: "duo"\n    logs: [error, slow]\n')
        mangled(sandbox, older_shape)
        async with bed.open() as service:
            await service._refreshed()
            lists = sandbox.calls["instances"]
            for name, first in ((node, 0), ("newer", 10)):
                rename(sandbox, {node: name})
                for kind in ("error", "slow"):
                    sandbox.write(name, lines(kind, first, first + 10), kind=kind)
                await cycle(bed, clock)

        assert streams(bed) == {f"{node}.log": lines("error", 0, 20), f"{node}.slow.log": lines("slow", 0, 20)}
        assert sandbox.calls["instances"] - lists == 1


async def test_rows_wait_for_a_list_that_another_export_has_asked_for(tmp_path: Path) -> None:
    listed = Node(id="1" * 32 + "no02", name="before", group="single", role="Primary")
    solo = Instance(id="x", name="solo", cloud="eu", schedule=Every(interval=timedelta(minutes=20)))
    now = ListedInstance(id="x", name="solo", mode="", status="", nodes=(replace(listed, name="after"),))
    row = Row(node="after", called="after", file_name="f", state=RowState.PENDING)
    asked = []

    async def relist(id_: str) -> ListedInstance:
        asked.append(id_)
        for _ in range(50):
            await asyncio.sleep(0)
        return now

    ledger, node_registry = Ledger(tmp_path), NodeRegistry()
    await ledger.open()
    node_registry.enter("solo", [listed])
    names = NodeNames(ledger=ledger, node_registry=node_registry, directory=tmp_path)
    exports = [names.identifier(solo, kind, relist=relist) for kind in LogKind]
    await exports[0]([replace(row, node="before", called="before")])
    found = await asyncio.gather(*(identify([row]) for identify in exports))
    await ledger.close()

    assert ([one.node for (one,) in found], asked) == (["before", "before"], ["x"])


async def test_an_overflow_across_another_name_is_a_gap(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(fleet=(single("duo"),), window=2000) as sandbox:
        node = sandbox.fleet[0].nodes[0].name
        sandbox.write(node, lines("a", 0, 20))
        await cycle(bed, clock)
        rename(sandbox, {node: "newer"})
        sandbox.write("newer", lines("a", 20, 400))
        await cycle(bed, clock)

        assert [gap.node for gap in known_gaps(bed.state)] == [node]


async def test_another_node_of_a_name_gets_a_name_of_its_own(bed: Bed, clock: ManualClock) -> None:
    """One is replaced by another, which the cloud calls the same."""
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:
        second = sandbox.fleet[0].nodes[1].id
        sandbox.write(FIRST, lines("a", 0, 10))
        sandbox.write(SECOND, lines("b", 0, 10))
        mangled(sandbox, lambda rows: rows.pop())
        await cycle(bed, clock)

        def replaced(rows: list[dict[str, Any]]) -> None:
            del rows[0]
            rows[0]["node_name"] = FIRST

        mangled(sandbox, replaced)
        await cycle(bed, clock)

        apart = {f"{FIRST}.log": lines("a", 0, 10), f"{FIRST}-{second}.log": lines("b", 0, 10)}
        assert (streams(bed), known_gaps(bed.state)) == (apart, ())


async def test_a_node_whose_id_becomes_known_later_keeps_the_stream_that_it_has(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:
        sandbox.faults.missing_rights = {"instances"}
        mangled(sandbox, older_shape)
        sandbox.write(FIRST, lines("a", 0, 10))
        await cycle(bed, clock)
        sandbox.faults.mangle = None
        await cycle(bed, clock)
        rename(sandbox, {FIRST: "newer"})
        sandbox.write("newer", lines("a", 10, 20))
        await cycle(bed, clock)

        assert streams(bed) == {f"{FIRST}.log": lines("a", 0, 20)}


async def test_what_an_older_version_stored_goes_on_under_its_name_though_the_node_was_renamed_meanwhile(
    bed: Bed, clock: ManualClock
) -> None:
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:
        sandbox.write(FIRST, lines("a", 0, 10))
        await cycle(bed, clock)
        with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db, db:
            db.execute("DELETE FROM node_names")
        for path in bed.directory.rglob(paths.OWNER):
            path.unlink()
        rename(sandbox, {FIRST: "newer"})
        sandbox.write("newer", lines("a", 10, 20))
        await cycle(bed, clock)

        assert streams(bed) == {f"{FIRST}.log": lines("a", 0, 20)}


def test_an_older_ledger_has_the_names_of_the_nodes_that_were_listed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    with closing(sqlite3.connect(path)) as db, db:
        for number, schema in enumerate(MIGRATIONS[:4], start=1):
            db.executescript(f"{schema} PRAGMA user_version = {number};")
        nodes = [("orders", "x", "a"), ("orders", "y", "twice"), ("orders", "z", "twice"), ("events", "v", "a")]
        db.executemany("INSERT INTO nodes VALUES (?, ?, ?, 'replica', 'Primary')", nodes)
    db, _ = database.connect(path)
    with closing(db):
        rows = db.execute("SELECT instance, identity, name, called FROM node_names ORDER BY 1").fetchall()

    assert rows == [("events", "node:v", "a", "a"), ("orders", "node:x", "a", "a")]


async def test_what_the_cloud_calls_a_node_now_is_shown_beside_its_name(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:
        async with bed.open() as service:
            await service._refreshed()
            sandbox.write(FIRST, lines("a", 0, 10))
            await cycle(bed, clock)
            rename(sandbox, {FIRST: "newer"})
            await service._refreshed()

        with database.reading(bed.state / "ledger.sqlite3") as db:
            nodes = status_queries.books(db, nodes_of="duo").nodes["duo"]
        shown = [(node.name, node.called, node.role) for node in nodes]
        assert shown == [(FIRST, "newer", "Primary"), (SECOND, "", "Secondary")]


# --- several rows of one name -----------------------------------------------------------------------------------------


def one_name(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["node_name"] = "same"


def told(events: list[Any]) -> list[bool]:
    """Return of each report of several files whether something that lasts tells them apart."""
    found = [event for event in events if event["event"] == "node.several_files"]
    return [event["means"].startswith("each is a stream of its own") for event in found]


def nothing(_: list[dict[str, Any]]) -> None:
    """Change no row."""


def prefixed(rows: list[dict[str, Any]]) -> None:
    """Let names of files differ by more than their times, and hold no id."""
    older_shape(rows)
    for number, row in enumerate(rows):
        row["file_name"] = f"part{number}_{row['file_name']}"


@pytest.mark.parametrize(
    ("change", "reports"),
    [(nothing, []), (prefixed, [True]), (older_shape, [False])],
    ids=["ids", "file names", "order only"],
)
async def test_two_rows_of_one_name_are_two_streams_that_go_on(
    bed: Bed, clock: ManualClock, change: Callable[[list[dict[str, Any]]], None], reports: list[bool]
) -> None:
    """In whatever order the rows come; each line once, no gap, and it is said where the files are told apart badly."""
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:
        turns: Iterator[int] = iter(range(100))

        def changed(rows: list[dict[str, Any]]) -> None:
            change(rows)
            for row in rows if change is older_shape else ():  # by the names of files they come in the same order
                row["file_name"] += str(int(row["node_name"] == SECOND))
            one_name(rows)
            if next(turns) % 2:
                rows.reverse()

        mangled(sandbox, changed)
        sandbox.faults.missing_rights = {"instances"}
        with structlog.testing.capture_logs() as events:
            async with bed.open():
                for first in range(0, 50, 10):
                    sandbox.write(FIRST, lines("a", first, first + 10))
                    sandbox.write(SECOND, lines("b", first, first + 10))
                    await cycle(bed, clock)

        both = {lines("a", 0, 50), lines("b", 0, 50)}
        assert (set(streams(bed).values()), len(streams(bed)), known_gaps(bed.state)) == (both, 2, ())
        assert (told(events), "same.log" in streams(bed)) == (reports, True)


async def test_who_had_the_name_alone_keeps_its_stream_when_another_comes(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:

        def alone(rows: list[dict[str, Any]]) -> None:
            prefixed(rows)
            one_name(rows)
            del rows[0]

        def both(rows: list[dict[str, Any]]) -> None:
            prefixed(rows)
            one_name(rows)

        sandbox.faults.missing_rights = {"instances"}
        for number, change in enumerate((alone, both, both)):
            mangled(sandbox, change)
            sandbox.write(FIRST, lines("a", number * 10, number * 10 + 10))
            sandbox.write(SECOND, lines("b", number * 10, number * 10 + 10))
            await cycle(bed, clock)

        assert streams(bed) == {"same-2.log": lines("a", 0, 30), "same.log": lines("b", 0, 30)}


async def test_names_of_files_that_tell_nothing_from_one_export_to_the_next_begin_no_stream(
    bed: Bed, clock: ManualClock
) -> None:
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:
        sandbox.faults.missing_rights = {"instances"}
        for number in range(5):

            def random(rows: list[dict[str, Any]], number: int = number) -> None:
                one_name(rows)
                for place, row in enumerate(rows):
                    row["file_name"] = f"{place}-{'abcdef'[number]}"

            mangled(sandbox, random)
            sandbox.write(FIRST, lines("a", number * 10, number * 10 + 10))
            sandbox.write(SECOND, lines("b", number * 10, number * 10 + 10))
            await cycle(bed, clock)

        assert streams(bed) == {"same-2.log": lines("b", 0, 50), "same.log": lines("a", 0, 50)}


async def test_a_file_that_was_handed_on_keeps_its_name_when_another_comes_before_it(
    bed: Bed, clock: ManualClock
) -> None:
    """Only their order tells two files apart, and the first in order is the last to be ready."""
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:

        def late(rows: list[dict[str, Any]]) -> None:
            older_shape(rows)
            for row in rows:
                row["file_name"] = f"{row['file_name']}{int(row['node_name'] == SECOND)}" if row["file_link"] else None
            one_name(rows)

        sandbox.faults.missing_rights = {"instances"}
        sandbox.faults.slow_rows = {FIRST: 100.0}
        mangled(sandbox, late)
        sandbox.write(FIRST, lines("a", 0, 10))
        sandbox.write(SECOND, lines("b", 0, 10))
        report = await cycle(bed, clock)

        assert streams(bed) == {"same-2.log": lines("a", 0, 10), "same.log": lines("b", 0, 10)}
        assert len(report.outcomes) == 2


async def test_exact_duplicates_of_a_row_are_one(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(fleet=(single("duo"),)) as sandbox:
        node = sandbox.fleet[0].nodes[0].name
        mangled(sandbox, lambda rows: rows.extend(dict(row) for row in rows[:1]))
        sandbox.write(node, lines("a", 0, 10))
        report = await cycle(bed, clock)

        assert (streams(bed), len(report.outcomes)) == ({f"{node}.log": lines("a", 0, 10)}, 1)


async def test_two_exports_of_one_node_in_a_reply_are_one_stream_in_order(bed: Bed, clock: ManualClock) -> None:
    """Told by the node's id in both names, which differ in their times only."""
    async with bed.cloud(fleet=(single("duo"),)) as sandbox:
        node = sandbox.fleet[0].nodes[0].name
        before: list[dict[str, Any]] = []

        def with_the_last(rows: list[dict[str, Any]]) -> None:
            if rows[0]["file_link"]:
                before.append(dict(rows[0]))
                rows[:] = [rows[0], *before[-2:-1]]

        mangled(sandbox, with_the_last)
        for number in range(3):
            sandbox.write(node, lines("a", number * 10, number * 10 + 10))
            await cycle(bed, clock)

        assert (streams(bed), known_gaps(bed.state)) == ({f"{node}.log": lines("a", 0, 30)}, ())


async def test_a_row_that_may_be_of_either_of_two_listed_nodes_gets_no_name_that_another_row_has(
    bed: Bed, clock: ManualClock
) -> None:
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:
        rename(sandbox, {FIRST: "same", SECOND: "same"})
        first, second = sandbox.fleet[0].nodes

        def one_id(rows: list[dict[str, Any]]) -> None:
            older_shape(rows[1:])

        mangled(sandbox, one_id)
        async with bed.open() as service:
            await service._refreshed()
            for number in range(2):
                sandbox.write(first.id, lines("a", number * 10, number * 10 + 10))
                sandbox.write(second.id, lines("b", number * 10, number * 10 + 10))
                await cycle(bed, clock)

        assert streams(bed) == {"same-2.log": lines("b", 0, 20), "same.log": lines("a", 0, 20)}


async def test_two_files_that_only_their_objects_tell_apart_are_two_streams(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:

        def alike(rows: list[dict[str, Any]]) -> None:
            one_name(rows)
            for row in rows:
                row["file_name"], row["updated_at"] = rows[0]["file_name"], rows[0]["updated_at"]

        sandbox.faults.missing_rights = {"instances"}
        mangled(sandbox, alike)
        sandbox.write(FIRST, lines("a", 0, 10))
        sandbox.write(SECOND, lines("b", 0, 10))
        with structlog.testing.capture_logs() as events:
            await cycle(bed, clock)

        assert sorted(streams(bed).values()) == [lines("a", 0, 10), lines("b", 0, 10)]
        assert told(events) == [False]


@pytest.mark.parametrize("before", [0, 1])
async def test_a_row_without_a_name_goes_on_wherever_it_is_in_the_reply(
    bed: Bed, clock: ManualClock, before: int
) -> None:
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:

        def nameless(rows: list[dict[str, Any]]) -> None:
            older_shape(rows)
            rows[1]["node_name"] = None

        def reversed_(rows: list[dict[str, Any]]) -> None:
            nameless(rows)
            rows.reverse()

        sandbox.faults.missing_rights = {"instances"}
        for number in range(3):
            mangled(sandbox, nameless if (number + before) % 2 else reversed_)
            sandbox.write(FIRST, lines("a", number * 10, number * 10 + 10))
            sandbox.write(SECOND, lines("b", number * 10, number * 10 + 10))
            await cycle(bed, clock)

        assert streams(bed) == {f"{FIRST}.log": lines("a", 0, 30), "unnamed.log": lines("b", 0, 30)}


async def test_a_row_without_a_name_goes_on_in_the_stream_that_an_older_version_began(
    bed: Bed, clock: ManualClock
) -> None:
    async with bed.cloud(fleet=(single("duo"),)) as sandbox:
        node = sandbox.fleet[0].nodes[0].name
        sandbox.faults.missing_rights = {"instances"}

        def as_before(rows: list[dict[str, Any]]) -> None:
            older_shape(rows)
            rows[0]["node_name"] = "row-0"

        def now(rows: list[dict[str, Any]]) -> None:
            older_shape(rows)
            rows[0]["node_name"] = ""

        for number, change in enumerate((as_before, now, now)):
            mangled(sandbox, change)
            sandbox.write(node, lines("a", number * 10, number * 10 + 10))
            await cycle(bed, clock)

        assert streams(bed) == {"row-0.log": lines("a", 0, 30)}


async def test_of_two_rows_of_one_name_the_one_that_fails_is_reported(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(fleet=(replica_set("duo", nodes=2),)) as sandbox:

        def both(rows: list[dict[str, Any]]) -> None:
            prefixed(rows)
            one_name(rows)

        mangled(sandbox, both)
        sandbox.faults.missing_rights = {"instances"}
        sandbox.write(FIRST, lines("a", 0, 10))
        sandbox.write(SECOND, lines("b", 0, 10))
        await cycle(bed, clock)
        sandbox.faults.failed_rows = {FIRST}
        await cycle(bed, clock)

        (failing,) = known_failures(bed.state)["duo"]
        assert (failing.kind, streams(bed)[f"{failing.node}.log"]) == ("export_failed", lines("a", 0, 10))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("p_errorlog_download_20260102030405678", "p_errorlog_download_20260102032405001"),
        ("a_1767323045678.log", "a_1767324245001.log"),
        ("a-2026-01-02T03:04:05.678Z", "a-2026-01-02T03:24:05.001Z"),
        ("a_20260102_030405", "a_20260102_032405"),
        ("2026-01-02", "2026-01-03"),
    ],
)
def test_times_tell_no_file_names_apart(one: str, other: str) -> None:
    assert pattern_of(one) == pattern_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("shard_1_node_2", "shard_1_node_3"),
        ("a_10.0.0.12", "a_10.0.0.13"),
        ("node-0001_2026-01-02", "node-0002_2026-01-02"),
    ],
)
def test_what_is_no_time_tells_file_names_apart(one: str, other: str) -> None:
    assert pattern_of(one) != pattern_of(other)


# --- whose a directory is ---------------------------------------------------------------------------------------------


def discovering(bed: Bed) -> None:
    bed.changes.clear()
    text = bed.text
    bed.set(text[text.index("instances:") :], "instances:\n  - {discover: {}}\n")


def lose_ledger(bed: Bed) -> None:
    for path in bed.state.iterdir():
        path.unlink()


async def collected(bed: Bed, clock: ManualClock) -> list[str]:
    """Run a cycle of all that is discovered; return their names."""
    discovering(bed)
    clock.forward(minutes=20)
    async with bed.open() as service:
        fleet = await service.fleet()
        await service.once(fleet)
    return sorted(one.name for one in fleet)


async def test_after_a_lost_ledger_instances_and_nodes_keep_their_directories_whatever_they_are_called_now(
    bed: Bed, clock: ManualClock
) -> None:
    async with bed.cloud(fleet=(single("a b"), single("events"))) as sandbox:
        nodes = {one.name: one.nodes[0].name for one in sandbox.fleet}
        for name, node in nodes.items():
            sandbox.write(node, lines(name, 0, 10))
        first = await collected(bed, clock)
        before = sorted(path.name for path in (bed.directory / "streams").iterdir())
        lose_ledger(bed)
        for instance in sandbox.fleet:
            sandbox.add(replace(instance, name={"a b": "events", "events": "a b"}[instance.name]))
        rename(sandbox, {node: f"{node}-newer" for node in nodes.values()})
        for name, node in nodes.items():
            sandbox.write(f"{node}-newer", lines(name, 10, 20))

        again = await collected(bed, clock)

        after = sorted(path.name for path in (bed.directory / "streams").iterdir())
        whole = {f"{paths.segment(node)}.log": lines(name, 0, 20) for name, node in nodes.items()}
        assert (again, after) == (first, before)
        assert (streams(bed), known_gaps(bed.state)) == (whole, ())


async def test_after_a_lost_ledger_nodes_whose_files_hold_no_id_keep_their_names_too(
    bed: Bed, clock: ManualClock
) -> None:
    async with bed.cloud(fleet=(single("orders"),)) as sandbox:
        node = sandbox.fleet[0].nodes[0].name
        mangled(sandbox, older_shape)
        sandbox.write(node, lines("a", 0, 10))
        await collected(bed, clock)
        lose_ledger(bed)
        rename(sandbox, {node: "newer"})
        sandbox.write("newer", lines("a", 10, 20))
        await collected(bed, clock)

        assert streams(bed) == {f"{node}.log": lines("a", 0, 20)}


async def test_a_new_instance_does_not_get_the_directory_of_one_that_left(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(fleet=(single("orders"),)) as sandbox:
        sandbox.write(sandbox.fleet[0].nodes[0].name, lines("a", 0, 10))
        await collected(bed, clock)
        lose_ledger(bed)
        sandbox.remove("orders")
        other = replace(single("other"), name="orders")
        sandbox.add(other)

        assert await collected(bed, clock) == [f"orders-{other.id}"]


async def test_trees_of_older_versions_go_by_names_as_they_did(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(fleet=(single("orders"),)) as sandbox:
        node = sandbox.fleet[0].nodes[0].name
        sandbox.write(node, lines("a", 0, 10))
        await collected(bed, clock)
        lose_ledger(bed)
        for path in bed.directory.rglob(paths.OWNER):
            path.unlink()
        sandbox.write(node, lines("a", 10, 20))
        await collected(bed, clock)

        owners = sorted(path.parent.parent.name for path in bed.directory.rglob(paths.OWNER))
        assert (streams(bed), owners) == ({f"{node}.log": lines("a", 0, 20)}, ["snapshots", "streams"])


def own(bed_directory: Path, segment: str, id_: str, *, name: str = "", top: str = "streams") -> Path:
    home = bed_directory / top / segment
    home.mkdir(parents=True, exist_ok=True)
    path = home / paths.OWNER
    path.write_text(json.dumps({"version": 1, "cloud": "eu", "instance": id_, "name": name or segment, "nodes": {}}))
    return path


def reports(events: list[Any]) -> list[str]:
    return [event["event"] for event in events]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b'{"version": 1}',
        b'{"version": 2, "cloud": "eu", "instance": "x", "name": "orders", "nodes": {}}',
        b'{"version": 1, "cloud": "eu", "instance": "", "name": "orders", "nodes": {}}',
        b'{"version": 1, "cloud": "eu", "instance": "x", "name": "\\ud800", "nodes": {}}',
        b'{"version": 1, "cloud": "eu", "instance": "x", "name": "orders", "nodes": {"node:y": 7}}',
        b'{"version": 1, "cloud": "eu", "instance": "x", "name": "orders", "nodes": []}',
        b"[" * 100_000,
    ],
    ids=range(12),
)
def test_a_file_that_is_damaged_or_foreign_says_nothing_and_is_reported(tmp_path: Path, content: bytes) -> None:
    own(tmp_path, "orders", "x").write_bytes(content)

    with structlog.testing.capture_logs() as events:
        found = names_on_disk(tmp_path)

    assert (found, reports(events)) == ({}, ["owner.unreadable"])


def test_a_link_in_its_place_is_not_followed_and_not_written_through(tmp_path: Path) -> None:
    path = own(tmp_path, "orders", "x")
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    before = elsewhere.read_bytes()

    with structlog.testing.capture_logs() as events:
        found = names_on_disk(tmp_path)
    owner_file.write(tmp_path, DirectoryOwner(cloud="eu", id="y", name="orders"))

    assert (found, reports(events), elsewhere.read_bytes()) == ({}, ["owner.unreadable"], before)
    assert names_on_disk(tmp_path) == {("eu", "y"): "orders"}


def test_of_two_directories_that_claim_one_instance_that_of_its_name_has_it(tmp_path: Path) -> None:
    for segment in ("a-copy", "orders", "z-copy"):
        own(tmp_path, segment, "x", name="orders")

    with structlog.testing.capture_logs() as events:
        found = names_on_disk(tmp_path)

    assert (found, reports(events)) == ({("eu", "x"): "orders"}, ["owner.claimed_twice"])


def test_a_directory_that_was_renamed_is_found_by_its_new_name(tmp_path: Path) -> None:
    own(tmp_path, "sales", "x", name="orders")

    assert names_on_disk(tmp_path) == {("eu", "x"): "sales"}


def test_where_streams_and_snapshots_differ_the_streams_count(tmp_path: Path) -> None:
    own(tmp_path, "orders", "x")
    own(tmp_path, "orders", "y", top="snapshots")

    with structlog.testing.capture_logs() as events:
        found = names_on_disk(tmp_path)

    assert (found, reports(events)) == ({("eu", "x"): "orders"}, ["owner.disputed"])


async def test_a_directory_of_another_instance_is_reported(bed: Bed, clock: ManualClock) -> None:
    path = own(bed.directory, "solo", "another", top="snapshots")

    with structlog.testing.capture_logs() as events:
        await cycle(bed, clock)

    assert "owner.another" in reports(events)
    assert json.loads(path.read_text())["instance"] == bed.instance().id


async def test_owner_files_are_hidden_small_and_whole(bed: Bed, sandbox: Sandbox, clock: ManualClock) -> None:
    """Nothing is left next to them, they are not written again, and no snapshot or part is taken for one."""
    sandbox.write("solo_single_node_1", lines("a", 0, 10))
    await cycle(bed, clock)
    found = sorted(bed.directory.rglob(f"{paths.OWNER}*"))
    written = [path.stat().st_mtime_ns for path in found]
    await cycle(bed, clock)

    assert [path.relative_to(bed.directory).parts[0] for path in found] == ["snapshots", "streams"]
    assert ([path.stat().st_mtime_ns for path in found], len(bed.files())) == (written, 1)
    assert all(path.stat().st_mode & 0o777 == 0o640 for path in found)


@pytest.mark.parametrize(
    ("one", "other", "are_alike"),
    [
        ("mongod-10000001.log", "mongod-10000002.log", False),
        ("err_20260102030405678", "err_20270102030405678", True),
        ("err_20260102_030405", "err_20270102_030405", True),
        ("err_20260102", "err_20270102", True),
        ("err_1767323045678", "err_1767323049999", True),
        ("err_99999999", "err_88888888", False),
    ],
)
def test_only_digits_that_read_as_a_time_are_left_out_of_what_lasts(one: str, other: str, *, are_alike: bool) -> None:
    assert (pattern_of(one) == pattern_of(other)) == are_alike
