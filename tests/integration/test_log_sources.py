"""A source that stands still: the cloud makes no new export, or the same one with other bytes."""

from __future__ import annotations

import hashlib
import os
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from ddslogd.model.cycle import CycleOutcome, NodeState
from ddslogd.monitoring import metrics
from ddslogd.sandbox import replica_set
from support.testbed import known_failures, known_gaps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ddslogd.model.cycle import CycleReport
    from ddslogd.monitoring.status import Status
    from ddslogd.sandbox import Sandbox
    from support.testbed import Bed

NODE = "solo_single_node_1"
LOG = b"".join(b"line %06d of the log\n" % number for number in range(4000))
FOR_EVER = timedelta(days=300)


@asynccontextmanager
async def cloud_that_stands_still(bed: Bed) -> AsyncIterator[Sandbox]:
    """A cloud that makes no second export for a year, of which we do not know."""
    async with bed.cloud(fresh_for=FOR_EVER) as sandbox:
        bed.set("fresh_for: 432000m", "fresh_for: 15m")
        yield sandbox


@pytest.fixture
async def still(bed: Bed) -> AsyncIterator[Sandbox]:
    """A cloud that never makes a second export of its only node, which had one."""
    async with cloud_that_stands_still(bed) as sandbox:
        sandbox.write(NODE, LOG)
        await bed.collect()
        yield sandbox


def forward(bed: Bed, **passed: float) -> None:
    """Let time pass; tokens last for a day."""
    bed.clock.forward(**passed)
    os.environ["DDSLOGD_TOKEN"] = bed.sandbox.issue_token()


async def told(bed: Bed) -> tuple[Status, str]:
    """Return the status, and the metrics' page."""
    assert bed.service is not None
    status = await bed.service.observer.status(all_nodes=True)
    return status, metrics.rendered(status, bed.service.observer.counts()).decode()


async def test_a_cycle_that_ends_before_it_is_judged_leaves_what_was_stalled(bed: Bed) -> None:
    """One file hangs until the cycle's limit: the export itself was followed to its end."""
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),), fresh_for=FOR_EVER, export_takes=(0.0, 0.0)) as sandbox:
        bed.set("fresh_for: 432000m", "fresh_for: 15m")
        first, second = sandbox.fleet[0].nodes
        for node in (first, second):
            sandbox.write(node.name, LOG)
        await bed.collect()
        forward(bed, hours=4)
        before = await bed.collect()
        bed.set("schedule:\n", "schedule:\n  cycle_timeout: 1s\n")
        polls = "first_poll: 10s\n  max_poll: 30s\n  give_up_after: 10m"
        bed.set(polls, "first_poll: 1ms\n  max_poll: 2ms\n  give_up_after: 200ms")
        sandbox.replace_object(first.name, LOG + b"x" * 200_000)
        sandbox.faults.stall_after = [10] * 9
        forward(bed, minutes=20)

        after = await bed.collect()
        async with bed.open():
            (one,) = (await told(bed))[0].instances

    assert (before.outcome, after.error_kind) == (CycleOutcome.STALLED, "timeout")
    assert {node.node for node in one.node_states if node.state is NodeState.STALLED} == {first.name, second.name}
    assert second.name in {failing.node for failing in one.failures if failing.kind == "source_stalled"}


def objects(sandbox: Sandbox) -> list[tuple[str | None, str | None]]:
    """Return the range and the condition of each request to the object store."""
    return [
        (request.headers.get("Range"), request.headers.get("If-Match"))
        for request in sandbox.requests
        if request.kind == "object"
    ]


async def test_the_same_finished_row_for_ever_goes_stale_and_says_who_has_to_act(still: Sandbox, bed: Bed) -> None:
    outcomes, seen = [], []
    async with bed.open():
        for _ in range(4):
            forward(bed, minutes=20)
            still.write(NODE, b"one more line\n")
            outcomes.append((await bed.collect()).outcome)
            one = (await told(bed))[0].instances[0]
            seen.append((one.state.value, one.source_stalled))
        status, page = await told(bed)

    (one,) = status.instances
    # The row is of long ago once it is older than 15 minutes and an interval of 20; stale is twice that interval.
    assert outcomes == [CycleOutcome.OK] + [CycleOutcome.STALLED] * 3
    assert seen == [("fresh", False), ("fresh", True), ("fresh", True), ("stale", True)]
    assert "the cloud makes no new export of this node, the last one is of 2026-01-02 03:04 UTC" in one.why
    assert ("open a ticket with the request id" in one.why, one.turn.startswith("the cloud's: see whether")) == (
        True,
        True,
    )
    assert 'ddslogd_instance_source_stalled{dds_instance="solo",cloud="sandbox"} 1' in page
    assert 'ddslogd_instance_last_cycle_outcome{dds_instance="solo",cloud="sandbox",outcome="stalled"} 1' in page
    assert [(node.name, node.state) for node in one.nodes] == [(NODE, "stalled at the source")]


async def test_it_can_be_counted_as_good_and_is_reported_all_the_same(still: Sandbox, bed: Bed) -> None:
    bed.set("instances:\n", "health: {source_stalled: warn}\ninstances:\n")
    reports: list[CycleReport] = []
    async with bed.open():
        for _ in range(6):
            forward(bed, hours=4)
            reports.append(await bed.collect())
        status, page = await told(bed)

    (one,) = status.instances
    assert (reports[-1].outcome, one.state.value, one.source_stalled, one.silent) == (
        CycleOutcome.OK,
        "fresh",
        True,
        False,
    )
    assert [failing.kind for failing in one.failures] == ["source_stalled"]
    assert 'ddslogd_instance_source_stalled{dds_instance="solo",cloud="sandbox"} 1' in page
    assert still.calls["object"] == 7  # the first one, and a byte each


async def test_a_source_that_goes_on_is_no_longer_stalled(still: Sandbox, bed: Bed) -> None:
    forward(bed, hours=4)
    with structlog.testing.capture_logs() as events:
        async with bed.open():
            first, second = await bed.collect(), await bed.collect()
            still.write(NODE, b"one more line\n")
            forward(bed, days=301)
            report = await bed.collect()
            status, _ = await told(bed)

    said = [event["node"] for event in events if event["event"] == "source.stalled"]
    assert (first.outcome, second.outcome, said) == (CycleOutcome.STALLED, CycleOutcome.STALLED, [NODE])
    assert (report.outcome, report.stored, status.instances[0].node_states) == (CycleOutcome.OK, 1, ())
    assert known_failures(bed.state) == {}


async def test_an_export_of_long_ago_that_is_fetched_for_the_first_time_is_stalled(bed: Bed) -> None:
    """What was written since is not on disk, however new the file is to us."""
    async with cloud_that_stands_still(bed) as sandbox:
        sandbox.write(NODE, LOG)
        await bed.collect()
        forward(bed, hours=23)
        for path in bed.files():
            path.unlink()
        (bed.state / "ledger.sqlite3").unlink()

        report = await bed.collect()

    assert (report.outcome, report.stored) == (CycleOutcome.STALLED, 1)


async def test_of_several_nodes_the_one_that_stands_still_is_named(bed: Bed) -> None:
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as sandbox:
        first, second = (node.name for node in sandbox.fleet[0].nodes)
        for node in (first, second):
            sandbox.write(node, LOG)
        frozen: dict[str, Any] = {}

        def freeze(reply: dict[str, Any]) -> dict[str, Any]:
            for row in reply["list"]:
                if row["node_name"] == second and row["status"] == "SUCCESS":
                    row["updated_at"] = frozen.setdefault("updated_at", row["updated_at"])
                    row["file_name"] = frozen.setdefault("file_name", row["file_name"])
            return reply

        sandbox.faults.mangle = freeze
        async with bed.open():
            await bed.collect()
            forward(bed, hours=4)
            sandbox.write(first, b"one more line\n")
            report = await bed.collect()
            again = await bed.collect()
            status, _ = await told(bed)

    (one,) = status.instances
    assert (report.outcome, report.stored, [node.node for node in report.stalled]) == (
        CycleOutcome.STALLED,
        1,
        [second],
    )
    assert [(node.node, node.state) for node in one.node_states] == [(second, NodeState.STALLED)]
    # It is asked for again, also within the time that the cloud serves the others: nothing makes it good meanwhile.
    assert (again.outcome, [failing.kind for failing in one.failures]) == (CycleOutcome.STALLED, ["source_stalled"])


async def test_a_time_that_is_yet_to_come_makes_no_export_young(still: Sandbox, bed: Bed) -> None:
    """A row a month ahead, for ever the same: what tells its age is when it came."""

    def ahead(reply: dict[str, Any]) -> dict[str, Any]:
        for row in reply["list"]:
            row["updated_at"] += 30 * 86_400_000
        return reply

    still.faults.mangle = ahead
    outcomes = []
    for _ in range(4):  # in the first one it comes
        forward(bed, minutes=20)
        outcomes.append((await bed.collect()).outcome)

    assert outcomes == [CycleOutcome.OK] * 2 + [CycleOutcome.STALLED] * 2


@pytest.mark.parametrize("hours", [-8, 8])
async def test_the_age_of_an_export_is_told_by_the_clouds_clock(bed: Bed, hours: int) -> None:
    """This host's is off by hours, and the cloud's shows it."""
    async with cloud_that_stands_still(bed) as sandbox:
        sandbox.faults.skew = timedelta(hours=hours)
        sandbox.write(NODE, LOG)
        outcomes = []
        async with bed.open():
            for _ in range(3):
                outcomes.append((await bed.collect()).outcome)
                forward(bed, minutes=20)

    assert outcomes == [CycleOutcome.OK, CycleOutcome.OK, CycleOutcome.STALLED]


async def test_a_rare_schedule_is_given_its_time(bed: Bed) -> None:
    """Twice a week: the longest interval is what counts."""
    async with cloud_that_stands_still(bed) as sandbox:
        sandbox.write(NODE, LOG)
        bed.set('name: "solo"', 'name: "solo"\n    cron: "0 6 * * 1,4"')
        await bed.collect()
        forward(bed, days=4)
        first = await bed.collect()
        forward(bed, minutes=16)

        second = await bed.collect()

    assert (first.outcome, second.outcome) == (CycleOutcome.OK, CycleOutcome.STALLED)


async def test_a_cycle_that_asks_for_nothing_leaves_what_is_known_of_a_source(bed: Bed) -> None:
    """The other node's export is new, so that nothing is asked for; the still one is still."""
    async with cloud_that_stands_still(bed) as sandbox:
        sandbox.write(NODE, LOG)
        sandbox.write(NODE, b"{}\n", "slow")
        bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
        await bed.collect()
        forward(bed, hours=4)

        def renewed(reply: dict[str, Any]) -> dict[str, Any]:
            for row in reply["list"]:
                row["updated_at"] += 4 * 3_600_000 if "slowlog" in row["file_name"] else 0
            return reply

        sandbox.faults.mangle = renewed
        async with bed.open():
            first = await bed.collect()
            sandbox.faults.mangle = None
            second = await bed.collect()
            status, _ = await told(bed)

    assert (first.outcome, second.outcome, second.cached) == (CycleOutcome.STALLED, CycleOutcome.STALLED, ("slow",))
    assert [failing.log for failing in status.instances[0].failures] == ["error"]


# --- the object itself is asked ---------------------------------------------------------------------------------------


async def test_a_row_that_should_be_another_one_is_compared_by_its_first_byte(still: Sandbox, bed: Bed) -> None:
    """One request with a range and the condition, and nothing else of ours."""
    forward(bed, minutes=20)
    before = still.bytes_sent

    report = await bed.collect()

    (asked,) = objects(still)[1:]
    assert (report.unchanged, asked[0], still.bytes_sent - before) == (1, "bytes=0-0", 1)
    assert (asked[1] or "").strip('"') == hashlib.md5(LOG, usedforsecurity=False).hexdigest()
    ours = {"range", "if-match", "host", "user-agent", "accept", "accept-encoding"}
    assert {name.lower() for name in still.requests[-1].headers} <= ours


async def test_within_the_time_an_export_is_served_it_is_not_compared(still: Sandbox, bed: Bed) -> None:
    bed.forget_exports()
    forward(bed, minutes=5)

    report = await bed.collect()

    assert (report.unchanged, still.calls["object"]) == (1, 1)


@pytest.mark.parametrize("etag", ["md5", "multipart", "encrypted", "none"])
async def test_the_same_name_and_time_with_more_bytes_is_fetched_and_kept_beside(
    still: Sandbox, bed: Bed, etag: Any
) -> None:
    """No published file is touched, no line is missing, none comes twice; the next cycle compares with the newest."""
    still.faults.etag = etag
    forward(bed, minutes=20)
    more = LOG + b"".join(b"line %06d of the log\n" % number for number in range(4000, 4100))
    still.replace_object(NODE, more)
    grown = await bed.collect()
    calls = still.calls["object"]
    forward(bed, minutes=20)
    same = await bed.collect()

    assert (grown.outcome, grown.stored, same.unchanged, still.calls["object"] - calls) == (CycleOutcome.OK, 1, 1, 1)
    assert bed.contents() == [LOG, more]
    assert (stream(bed), known_gaps(bed.state)) == (more, ())


async def test_a_window_that_slides_under_one_name_loses_no_line(still: Sandbox, bed: Bed) -> None:
    """The issue's case: name and time stand still for a day while the database writes."""
    whole, reports = LOG, []
    for number in range(4000, 5200, 100):
        forward(bed, minutes=20)
        whole += b"".join(b"line %06d of the log\n" % line for line in range(number, number + 100))
        still.replace_object(NODE, whole[-len(LOG) :])
        reports.append(await bed.collect())

    assert {report.outcome for report in reports} == {CycleOutcome.OK}
    assert (stream(bed), known_gaps(bed.state)) == (whole, ())


def gone_without_if_match(sandbox: Sandbox) -> None:
    """A store that knows neither ranges nor conditions sends the whole."""
    sandbox.faults.ignore_range = True


def other_total(sandbox: Sandbox) -> None:
    """A store that knows ranges and no conditions tells the size."""
    sandbox.faults.content_range = [f"bytes 0-0/{len(LOG) + 5}"]


@pytest.mark.parametrize(
    ("prepare", "grows", "stored"),
    [
        (gone_without_if_match, False, 0),
        (gone_without_if_match, True, 1),
        (other_total, False, 0),  # fetched, and the bytes are the same
    ],
)
async def test_a_store_without_conditions_is_seen_through(
    still: Sandbox, bed: Bed, prepare: Callable[[Sandbox], None], *, grows: bool, stored: int
) -> None:
    forward(bed, minutes=20)
    if grows:
        still.replace_object(NODE, LOG + b"more\n")
    prepare(still)

    report = await bed.collect()

    assert (report.outcome, report.stored) == (CycleOutcome.OK, stored)


async def test_bytes_that_prove_to_be_the_same_after_all_do_not_make_a_source_young(still: Sandbox, bed: Bed) -> None:
    """A store without ETags and ranges: the whole comes each time, and is what there is."""
    still.faults.etag, still.faults.ignore_range = "none", True
    outcomes = []
    for _ in range(3):
        forward(bed, minutes=20)
        outcomes.append((await bed.collect()).outcome)

    assert (outcomes, len(bed.files())) == ([CycleOutcome.OK] + [CycleOutcome.STALLED] * 2, 1)


async def test_a_store_that_does_not_say_is_not_taken_for_the_same(still: Sandbox, bed: Bed) -> None:
    """And beyond the time it is stalled, whatever the setting says."""
    bed.set("attempts: 5", "attempts: 1")
    bed.set("instances:\n", "health: {source_stalled: warn}\ninstances:\n")
    reports: list[CycleReport] = []
    for minutes in (20, 20):
        forward(bed, minutes=minutes)
        still.faults.object_errors = [500] * 9
        reports.append(await bed.collect())

    assert [report.outcome for report in reports] == [CycleOutcome.FAILED, CycleOutcome.STALLED]
    assert "could not be compared with what is on disk" in reports[1].stalled[0].reason


async def test_a_link_that_died_meanwhile_is_renewed_for_the_comparison(still: Sandbox, bed: Bed) -> None:
    forward(bed, minutes=20)
    still.faults.object_errors = [403]

    report = await bed.collect()

    assert (report.outcome, report.unchanged) == (CycleOutcome.OK, 1)


def stream(bed: Bed) -> bytes:
    paths = sorted((bed.directory / "streams").glob("*/*/*.log"))
    return b"".join(path.read_bytes() for path in paths)


async def test_a_row_that_tells_no_time_and_stays_the_same_is_stalled(still: Sandbox, bed: Bed) -> None:
    """The same file name for ever is the same export: what tells its age is when it came, also after a restart."""

    def timeless(reply: dict[str, Any]) -> dict[str, Any]:
        for row in reply["list"]:
            row["updated_at"] = None
        return reply

    still.faults.mangle = timeless
    outcomes = []
    for _ in range(4):
        forward(bed, minutes=20)
        outcomes.append((await bed.collect()).outcome)

    assert outcomes == [CycleOutcome.OK] * 2 + [CycleOutcome.STALLED] * 2


async def test_of_two_rows_of_one_node_the_newer_one_tells_whether_it_stands_still(sandbox: Sandbox, bed: Bed) -> None:
    """The cloud may list the export before next to the new one."""
    name = sandbox.fleet[0].nodes[0].name
    before: list[dict[str, Any]] = []

    def both(reply: dict[str, Any]) -> dict[str, Any]:
        if reply["status"] == "FINISH":
            before.extend([] if before else reply["list"])
            reply["list"] = [*reply["list"], *({**row, "file_link": reply["list"][0]["file_link"]} for row in before)]
        return reply

    outcomes = []
    async with bed.open():
        sandbox.faults.mangle = both
        for number in range(4):
            sandbox.write(name, b"2026-01-02T03:04:05.%03d+0000 W one\n" % number)
            forward(bed, minutes=20)
            outcomes.append((await bed.collect()).outcome)

    assert CycleOutcome.STALLED not in outcomes
