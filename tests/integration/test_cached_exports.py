"""An instance whose export the cloud would serve once more is not asked again."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import structlog

from ddslogd.model.cycle import CycleOutcome
from ddslogd.sandbox import ApiError, replica_set
from support.testbed import known_failures, posts

if TYPE_CHECKING:
    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

NODE = "solo_single_node_1"
LOG = b"".join(b"line %06d of the log\n" % number for number in range(4000))
FRESH_FOR = timedelta(minutes=15)


async def test_nothing_is_asked_for_until_the_cloud_exports_anew(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    """To the moment, counted from when the last file was ready."""
    sandbox.write(NODE, LOG)
    first = await bed.collect()
    before = posts(sandbox)
    assert first.fresh_until is not None

    clock.time = first.fresh_until - timedelta(milliseconds=1)
    cached = await bed.collect()
    asked = posts(sandbox) - before
    clock.time = first.fresh_until
    again = await bed.collect()

    assert (cached.outcome, cached.outcomes, asked) == (CycleOutcome.CACHED, (), 0)
    assert (again.outcome, posts(sandbox) - before >= 2) == (CycleOutcome.OK, True)


async def test_it_is_told_with_the_time_until_when(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    async with bed.open():
        first = await bed.collect()
        with structlog.testing.capture_logs() as events:
            await bed.collect()

    assert first.fresh_until is not None
    told = [(event["log_level"], event["outcome"], event["fresh_until"]) for event in events if "outcome" in event]
    assert told == [("info", "cached", first.fresh_until.isoformat(timespec="seconds"))]


@pytest.mark.parametrize("hours", [1, -1])
async def test_the_time_is_told_by_this_host_s_clock_and_judged_by_the_cloud_s(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, hours: int
) -> None:
    sandbox.faults.skew = timedelta(hours=hours)
    async with bed.open():
        first = await bed.collect()
        cached = await bed.collect()

    assert first.fresh_until is not None
    assert (cached.outcome, abs(first.fresh_until - clock.now() - FRESH_FOR) < timedelta(seconds=20)) == (
        CycleOutcome.CACHED,
        True,
    )


async def test_what_failed_is_asked_for_again(bed: Bed) -> None:
    """A row that failed, one that never came, a download that broke, or a call."""
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as sandbox:
        one, two = sandbox.fleet[0].nodes
        sandbox.write(one.name, LOG)
        sandbox.write(two.name, LOG)
        bed.set("attempts: 5", "attempts: 1")
        outcomes = []
        for fault in ("row", "never", "download", "call"):
            sandbox.faults.clear()
            bed.clock.forward(minutes=20)
            match fault:
                case "row":
                    sandbox.faults.failed_rows.add(one.name)
                case "never":
                    sandbox.faults.slow_rows[one.name] = math.inf
                case "download":
                    sandbox.faults.object_errors = [500] * 3
                case _:
                    sandbox.faults.api_errors = [ApiError(404, "DBS.200002")]
            before = posts(sandbox)
            broken = await bed.collect()
            sandbox.faults.clear()
            between = posts(sandbox)
            again = await bed.collect()
            outcomes.append((broken.outcome, again.outcome, between > before, posts(sandbox) > between))

    partial = (CycleOutcome.PARTIAL, CycleOutcome.PARTIAL, True, True)
    assert outcomes[0] == partial  # the cloud serves the failed row once more
    assert [again for _, again, *_ in outcomes[1:]] == [CycleOutcome.OK] * 3
    assert all(asked == [True, True] for _, _, *asked in outcomes)


async def test_a_cycle_that_was_cut_off_asks_again(bed: Bed) -> None:
    async with bed.cloud(export_takes=(0.0, 0.0)) as sandbox:
        sandbox.write(NODE, LOG)
        sandbox.faults.stall_after = [1000]
        bed.set("schedule:\n", "schedule:\n  cycle_timeout: 300ms\n")
        bed.set(
            "first_poll: 10s\n  max_poll: 30s\n  give_up_after: 10m",
            "first_poll: 1ms\n  max_poll: 2ms\n  give_up_after: 200ms",
        )
        cut_off = await bed.collect()

        bed.changes, sandbox.faults.stall_after = [], []  # a busy machine may have cut it off before the stall
        again = await bed.collect()

        assert (cut_off.error_kind, again.outcome, bed.contents()) == ("timeout", CycleOutcome.OK, [LOG])


async def test_other_nodes_than_were_asked_for_are_asked_for(bed: Bed) -> None:
    async with bed.cloud(fleet=(replica_set("solo"),)) as sandbox:
        first, second, _ = sandbox.fleet[0].nodes
        sandbox.write(second.name, LOG)
        bed.set('name: "solo"', f'name: "solo"\n    nodes: [{first.id}]')
        await bed.collect()
        bed.set(f"nodes: [{first.id}]", f"nodes: [{first.id}, {second.id}]")

        report = await bed.collect()

        assert (report.outcome, bed.contents()) == (CycleOutcome.OK, [LOG])


async def test_another_kind_of_log_is_asked_for_alone(bed: Bed) -> None:
    async with bed.cloud() as sandbox:
        sandbox.write(NODE, LOG)
        sandbox.write(NODE, b"{}\n", "slow")
        await bed.collect()
        before = posts(sandbox)
        bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')

        report = await bed.collect()
        both = await bed.collect()

        assert (report.outcome, report.stored, posts(sandbox) - before) == (CycleOutcome.OK, 1, 0)
        assert (both.outcome, sandbox.calls["slowlog-download"] > 0) == (CycleOutcome.CACHED, True)


@pytest.mark.parametrize("number", [1, 2])
async def test_a_row_without_a_time_does_not_say_until_when(bed: Bed, number: int) -> None:
    """Of two rows, one or both."""
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as sandbox:

        def timeless(reply: dict[str, list[dict[str, object]]]) -> object:
            for row in reply["list"][:number]:
                del row["updated_at"]
            return reply

        sandbox.faults.mangle = timeless
        await bed.collect()

        assert (await bed.collect()).outcome is CycleOutcome.OK


async def test_an_export_that_the_cloud_calls_failed_is_asked_for_again(sandbox: Sandbox, bed: Bed) -> None:
    """Though all of its files are ready: there is one that it does not speak of."""
    sandbox.faults.mangle = lambda reply: {**reply, "status": "FAILED"} if reply["status"] == "FINISH" else reply
    await bed.collect()

    assert (await bed.collect()).outcome is CycleOutcome.PARTIAL


async def test_a_time_that_is_yet_to_come_is_not_waited_for(sandbox: Sandbox, bed: Bed) -> None:
    def ahead(reply: dict[str, list[dict[str, int]]]) -> object:
        for row in reply["list"]:
            row["updated_at"] += 86_400_000
        return reply

    sandbox.faults.mangle = ahead
    first = await bed.collect()

    assert (first.fresh_until, (await bed.collect()).outcome) == (None, CycleOutcome.OK)


async def test_a_clock_that_was_set_back_is_not_waited_for(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    clock.forward(days=-1)

    assert (await bed.collect()).outcome is CycleOutcome.OK


async def test_it_takes_no_turn_from_others(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    sandbox.write(NODE, LOG)
    async with bed.open() as service:
        await bed.collect()
        before = service._collector.urgency(bed.instance())
        clock.forward(minutes=5)

        await bed.collect()

        assert service._collector.urgency(bed.instance()) == before


async def test_a_full_disk_that_has_room_again_fails_no_more(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    bed.set("keep_free: 0", "keep_free: 1000000GiB")
    full = await bed.collect()
    bed.set("keep_free: 1000000GiB", "keep_free: 0")

    report = await bed.collect()

    failures = known_failures(bed.state)
    assert (full.outcome, report.outcome, failures) == (CycleOutcome.NO_ROOM, CycleOutcome.CACHED, {})
