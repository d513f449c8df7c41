"""A cycle as a whole: from the request to the file on disk and the books."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import structlog
from structlog.testing import capture_logs

from ddslogd.model.cycle import CycleOutcome, Failed
from ddslogd.model.snapshot import Unchanged
from ddslogd.sandbox import ApiError, cluster, replica_set, single
from support.testbed import known_failures

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from structlog.typing import EventDict

    from ddslogd.model.snapshot import LogFile
    from ddslogd.sandbox import Sandbox
    from ddslogd.storage.snapshots.partial_file import Part
    from support.clocks import ManualClock
    from support.testbed import Bed

NODE = "solo_single_node_1"
LOG = b"".join(b"line %06d of the log\n" % number for number in range(4000))  # 92,000 bytes


async def test_one_cycle_brings_a_nodes_log_to_disk(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)

    await bed.collect()

    assert bed.contents() == [LOG]


async def test_the_path_tells_instance_node_file_and_update_time(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)

    await bed.collect()

    (path,) = bed.files()
    instance, node, name = path.relative_to(bed.directory / "snapshots").parts
    file_name, updated = name.removesuffix(".log").split(".", 1)
    assert (instance, node, file_name.split("_")[2], updated[:9]) == ("solo", NODE, "errorlog", "20260102T")


async def test_every_node_of_a_cluster_gets_a_directory(bed: Bed) -> None:
    async with bed.cloud(fleet=(cluster("events"),)) as sandbox:
        for node in sandbox.fleet[0].nodes:
            sandbox.write(node.name, node.name.encode() + b"\n")

        await bed.collect()

        kept = {path.parent.name: path.read_bytes() for path in bed.files()}
        assert kept == {node.name: node.name.encode() + b"\n" for node in sandbox.fleet[0].nodes}


async def test_only_the_nodes_that_are_named_are_exported(bed: Bed) -> None:
    async with bed.cloud(fleet=(replica_set("solo"),)) as sandbox:
        first, second, _ = sandbox.fleet[0].nodes
        for node in sandbox.fleet[0].nodes:
            sandbox.write(node.name, b"x\n")
        bed.set('name: "solo"', f'name: "solo"\n    nodes: [{first.id}, {second.id}]')

        await bed.collect()

        assert [path.parent.name for path in bed.files()] == [first.name, second.name]


async def test_a_file_the_ledger_holds_is_not_fetched_again(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    bed.forget_exports()

    report = await bed.collect()

    assert ([type(outcome) for outcome in report.outcomes], sandbox.calls["object"]) == ([Unchanged], 1)


async def test_two_export_generations_are_two_files(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    sandbox.write(NODE, b"one more\n")
    clock.forward(minutes=20)

    await bed.collect()

    assert bed.contents() == [LOG, LOG + b"one more\n"]


async def test_the_same_bytes_again_are_recorded_and_not_kept_twice(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    clock.forward(minutes=20)

    report = await bed.collect()

    assert (report.outcome, report.unchanged, report.stored, len(bed.files())) == (CycleOutcome.OK, 1, 0, 1)


async def test_two_exports_of_a_cycle_with_the_same_bytes_are_one_file(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud exports a node again while it waits for another one's file, and the first file is not published yet."""
    held, real, both = threading.Event(), os.fdatasync, asyncio.Event()

    def late(fd: int) -> None:
        held.wait()
        real(fd)

    monkeypatch.setattr(os, "fdatasync", late)
    bed.set("give_up_after: 10m", "give_up_after: 20m")
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as sandbox:
        slow, quick = sandbox.fleet[0].nodes
        sandbox.faults.slow_rows[slow.name] = 1000.0
        sandbox.faults.after_object = [lambda: None, both.set]
        sandbox.write(quick.name, LOG)

        cycle = asyncio.create_task(bed.collect())
        try:
            await both.wait()
            for _ in range(100):  # whatever becomes of the second file without the first comes to pass
                await asyncio.to_thread(int)
        finally:
            held.set()
        report = await cycle

        assert (bed.contents(), report.stored, report.unchanged) == ([LOG], 1, 1)


async def test_a_file_that_is_being_published_when_its_cycle_is_broken_off_is_in_the_books(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next export, with the same bytes, would be another file."""
    begun, held, real = threading.Event(), threading.Event(), os.fdatasync

    def late(fd: int) -> None:
        begun.set()
        held.wait()
        real(fd)

    monkeypatch.setattr(os, "fdatasync", late)
    sandbox.write(NODE, LOG)
    async with bed.open():
        cycle = asyncio.create_task(bed.collect())
        try:
            await asyncio.to_thread(begun.wait)
            cycle.cancel()
            await asyncio.sleep(0)
        finally:
            held.set()
        await asyncio.wait([cycle])
        clock.forward(minutes=20)

        report = await bed.collect()

        assert (cycle.cancelled(), report.unchanged, bed.contents()) == (True, 1, [LOG])


async def test_an_empty_log_is_no_file_and_no_failure(bed: Bed) -> None:
    report = await bed.collect()

    assert (report.outcome, bed.files(), bed.parts()) == (CycleOutcome.OK, [], [])


async def test_a_ready_file_is_stored_while_its_neighbour_is_never_ready(bed: Bed) -> None:
    """A link is handed on the moment its row is ready; the deadline ends the wait for the other."""
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as sandbox:
        slow, quick = sandbox.fleet[0].nodes
        sandbox.faults.slow_rows[slow.name] = math.inf
        sandbox.write(quick.name, LOG)

        report = await bed.collect()

        kinds = sorted(
            outcome.kind if isinstance(outcome, Failed) else type(outcome).__name__ for outcome in report.outcomes
        )
        assert (report.outcome, kinds, bed.contents()) == (CycleOutcome.PARTIAL, ["Stored", "export_pending"], [LOG])


async def test_failed_rows_do_not_keep_good_ones_from_disk(bed: Bed) -> None:
    """FAILED at the top means that one file failed: the others are fetched."""
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as sandbox:
        bad, good = sandbox.fleet[0].nodes
        sandbox.faults.failed_rows.add(bad.name)
        sandbox.write(good.name, LOG)

        report = await bed.collect()

        assert (report.outcome, [failed.node for failed in report.failures], bed.contents()) == (
            CycleOutcome.PARTIAL,
            [bad.name],
            [LOG],
        )


async def test_one_bad_file_never_cancels_its_neighbours(bed: Bed) -> None:
    async with bed.cloud(fleet=(replica_set("solo", nodes=3),)) as sandbox:
        for node in sandbox.fleet[0].nodes:
            sandbox.write(node.name, node.name.encode() + LOG)
        bed.set("attempts: 5", "attempts: 1")
        sandbox.faults.object_errors = [500]

        report = await bed.collect()

        assert (report.stored, len(report.failures), len(bed.files())) == (2, 1, 2)


async def test_a_call_that_fails_for_good_is_the_cycles_error(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.api_errors = [ApiError(404, "DBS.200002", "no such instance")]

    report = await bed.collect()

    assert (report.outcome, report.error_kind, sandbox.calls["errorlog-download"]) == (CycleOutcome.FAILED, "gone", 1)


async def test_a_reply_without_rows_that_says_finish_is_nothing(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.mangle = lambda _: {"list": None, "status": "FINISH", "count": 0}

    report = await bed.collect()

    assert (report.outcome, report.outcomes) == (CycleOutcome.NOTHING, ())


async def test_below_keep_free_nothing_is_requested_and_it_is_said_once(sandbox: Sandbox, bed: Bed) -> None:
    bed.set("keep_free: 0", "keep_free: 1000000GiB")
    async with bed.open():
        with structlog.testing.capture_logs() as events:
            first = await bed.collect()
            await bed.collect()

    told = [event["event"] for event in events if event["event"].startswith("disk.")]
    assert (first.outcome, sandbox.calls["errorlog-download"], told) == (
        CycleOutcome.NO_ROOM,
        0,
        ["disk.below_keep_free"],
    )


async def test_room_again_is_said_once_and_requests_go_on(sandbox: Sandbox, bed: Bed) -> None:
    roomy = bed.settings
    bed.set("keep_free: 0", "keep_free: 1000000GiB")
    async with bed.open() as service:
        await bed.collect()
        await service.reload(roomy)  # as if somebody had made room
        with structlog.testing.capture_logs() as events:
            await bed.collect()
            await bed.collect()

    told = [event["event"] for event in events if event["event"].startswith("disk.")]
    assert (told, sandbox.calls["errorlog-download"] > 0) == (["disk.room_again"], True)


async def test_the_event_of_a_cycle_counts_what_it_brought(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    async with bed.open():
        with structlog.testing.capture_logs() as events:
            await bed.collect()

    (event,) = [event for event in events if event["event"] == "cycle.done"]
    assert event.pop("took_s") > 0
    assert event == {
        "event": "cycle.done",
        "log_level": "info",
        "instance": "solo",
        "outcome": "ok",
        "stored": 1,
        "unchanged": 0,
        "failed": 0,
        "stored_bytes": len(LOG),
        "fetched_bytes": len(LOG),
        "new_bytes": len(LOG),
        "gaps": 0,
    }


def levels(events: list[EventDict]) -> list[str]:
    return [event["log_level"] for event in events if event["event"] == "cycle.done"]


@pytest.mark.parametrize(
    "error", [ApiError(404, "DBS.200002"), ApiError(403, "DBS.280063"), ApiError(400, "DBS.280343")]
)
async def test_what_only_the_operator_can_mend_is_a_warning_once_a_day(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, error: ApiError
) -> None:
    """It is tried at each run all the same, at the cost of one call."""
    sandbox.faults.api_errors = [error] * 100
    with structlog.testing.capture_logs() as events:
        async with bed.open():
            for _ in range(4):
                await bed.collect()
                clock.forward(hours=10)

    assert (levels(events), sandbox.calls["errorlog-download"]) == (["warning", "info", "info", "warning"], 4)


async def test_after_a_success_the_same_failure_is_a_warning_again(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    gone = ApiError(404, "DBS.200002")
    with structlog.testing.capture_logs() as events:
        async with bed.open():
            sandbox.faults.api_errors = [gone]
            await bed.collect()
            await bed.collect()
            sandbox.faults.api_errors = [gone]
            clock.forward(minutes=20)
            await bed.collect()

    assert levels(events) == ["warning", "info", "warning"]


async def test_a_failing_cycle_says_since_when(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    sandbox.faults.api_errors = [ApiError(400, "DBS.280001")] * 2
    begun = clock.now().isoformat(timespec="seconds")
    with structlog.testing.capture_logs() as events:
        async with bed.open():
            await bed.collect()
            clock.forward(minutes=20)
            await bed.collect()

    assert [event["failing_since"] for event in events if event["event"] == "cycle.done"] == [begun, begun]


async def test_a_clock_that_is_off_by_minutes_is_said_once_and_when_it_is_right_again(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    sandbox.faults.skew = timedelta(minutes=5)
    with structlog.testing.capture_logs() as events:
        async with bed.open():
            for _ in range(3):
                await bed.collect()
            sandbox.faults.skew = timedelta(0)
            for _ in range(5):
                clock.forward(minutes=20)
                await bed.collect()

    told = [event["event"] for event in events if event["event"].startswith("clock.")]
    assert told == ["clock.skewed", "clock.agrees_again"]


async def test_a_clock_that_is_off_by_seconds_is_not_worth_a_word(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.skew = timedelta(seconds=50)
    with structlog.testing.capture_logs() as events:
        await bed.collect()

    assert [event for event in events if event["event"].startswith("clock.")] == []


async def test_the_books_say_since_when_and_how_often_something_fails(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    sandbox.faults.failed_rows.add(NODE)
    await bed.collect()
    first = clock.now()
    clock.forward(minutes=20)
    await bed.collect()

    (failure,) = known_failures(bed.state)["solo"]
    assert (failure.node, failure.times, abs((failure.since - first).total_seconds()) < 1) == (NODE, 2, True)


async def test_what_succeeds_fails_no_more(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    sandbox.faults.failed_rows.add(NODE)
    await bed.collect()
    sandbox.faults.clear()
    sandbox.write(NODE, LOG)
    clock.forward(minutes=20)
    await bed.collect()

    assert known_failures(bed.state) == {}


async def test_a_cycle_that_hangs_is_ended_and_says_so(bed: Bed) -> None:
    async with bed.cloud(export_takes=(0.0, 0.0)) as sandbox:
        sandbox.write(NODE, LOG)
        sandbox.faults.stall_after = [1000]
        bed.set("schedule:\n", "schedule:\n  cycle_timeout: 300ms\n")
        bed.set(
            "first_poll: 10s\n  max_poll: 30s\n  give_up_after: 10m",
            "first_poll: 1ms\n  max_poll: 2ms\n  give_up_after: 200ms",
        )

        report = await bed.collect()

        assert (report.outcome, report.error_kind, bed.files()) == (CycleOutcome.FAILED, "timeout", [])


async def test_two_nodes_whose_names_differ_in_odd_signs_only_do_not_collide(bed: Bed) -> None:
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as sandbox:
        one, two = sandbox.fleet[0].nodes
        sandbox.write(one.name, b"one\n")
        sandbox.write(two.name, b"two\n")
        odd = {one.name: "../../etc/x", two.name: "../../etc\\x"}

        def rename(reply: dict[str, Any]) -> dict[str, Any]:
            for row in reply["list"]:
                row["node_name"] = odd[row["node_name"]]
            return reply

        sandbox.faults.mangle = rename
        await bed.collect()

        parents = {path.parent.parent for path in bed.files()}
        assert (sorted(bed.contents()), parents) == ([b"one\n", b"two\n"], {bed.directory / "snapshots" / "solo"})


async def test_no_more_transfers_than_concurrent_allows_run_at_once(bed: Bed) -> None:
    """Three transfers hang: nobody else gets a request through until one of them is given up."""
    async with bed.cloud(fleet=(replica_set("solo", nodes=30),)) as sandbox:
        for node in sandbox.fleet[0].nodes:
            sandbox.write(node.name, LOG)
        sandbox.faults.stall_after = [0, 0, 0]
        bed.set("concurrent: 16", "concurrent: 3")
        bed.set("stall_timeout: 60s", "stall_timeout: 500ms")
        cycle = asyncio.create_task(bed.collect())
        while sandbox.calls["object"] < 3:
            await asyncio.sleep(0)
        for _ in range(200):
            await asyncio.sleep(0)
        requests = sandbox.calls["object"]

        report = await cycle

        assert (requests, report.stored) == (3, 30)


def test_a_single_and_a_set_have_the_names_the_tests_use() -> None:
    assert [node.name for node in single("solo").nodes] == [NODE]


# --- what nobody foresaw ----------------------------------------------------------------------------------------------


async def test_what_nobody_foresaw_in_one_stream_stops_no_other(bed: Bed, clock: ManualClock) -> None:
    """It is entered under failures, makes the cycle no good one, and its traceback is logged once."""
    async with bed.cloud(fleet=(replica_set("solo", nodes=3),)) as cloud, bed.open() as service:
        names = [node.name for node in cloud.fleet[0].nodes]
        streams = service._archive.streams
        assert streams is not None
        catch_up = streams.catch_up

        async def broken(series: str, **named: Any) -> None:
            if names[1] in series:
                raise ZeroDivisionError
            await catch_up(series, **named)

        streams.catch_up = broken  # type: ignore[method-assign]  # a bug cannot be made in another way
        reports = []
        with capture_logs() as told:
            for generation in range(2):
                for name in names:
                    cloud.write(name, b"2026-01-02T03:04:05.%03d+0000 W one\n" % generation)
                clock.forward(minutes=20)
                reports.append(await bed.collect())

    written = {name: list((bed.directory / "streams" / "solo").glob(f"{name}.log")) for name in names}
    assert [(report.outcome, report.error_kind, report.stored) for report in reports] == [
        (CycleOutcome.PARTIAL, "bug", 3)
    ] * 2
    assert [len(written[name]) for name in names] == [1, 0, 1]
    assert [bool(event["exc_info"]) for event in told if event["event"] == "cycle.bug"] == [True, False]
    (failing,) = known_failures(bed.state)["solo"]
    assert (failing.kind, failing.times) == ("bug", 2)


async def test_what_nobody_foresaw_in_one_file_stops_no_other(bed: Bed) -> None:
    async with bed.cloud(fleet=(replica_set("solo", nodes=3),)) as cloud, bed.open() as service:
        names = [node.name for node in cloud.fleet[0].nodes]
        for name in names:
            cloud.write(name, b"2026-01-02T03:04:05.000+0000 W one\n")
        store = service._archive.store
        part = store.part

        def broken(file: LogFile) -> AbstractAsyncContextManager[Part]:
            if file.node == names[0]:
                raise ZeroDivisionError
            return part(file)

        store.part = broken  # type: ignore[assignment,method-assign]  # as above
        report = await bed.collect()

    assert (report.outcome, report.stored) == (CycleOutcome.PARTIAL, 2)
    assert [(failed.node, failed.kind) for failed in report.failures] == [(names[0], "bug")]


async def test_what_nobody_foresaw_in_a_cycle_is_entered_as_its_failure(bed: Bed) -> None:
    async with bed.open() as service:

        async def broken(_: str) -> None:
            raise ZeroDivisionError

        service._archive.recovery.of = broken  # type: ignore[assignment,method-assign]  # as above
        report = await bed.collect()

    assert (report.outcome, report.error_kind) == (CycleOutcome.FAILED, "bug")
    assert [failing.kind for failing in known_failures(bed.state)["solo"]] == ["bug"]
