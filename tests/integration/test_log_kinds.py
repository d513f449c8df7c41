"""Slow logs next to error logs: the same way, each with its own exports, files and failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.instance import LogKind
from ddslogd.sandbox import ApiError, cluster

if TYPE_CHECKING:
    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

NODE = "solo_single_node_1"
ERRORS, SLOW = b"an error\n" * 1000, b"a slow query\n" * 1000


@pytest.fixture
def both(sandbox: Sandbox, bed: Bed) -> Bed:
    sandbox.write(NODE, ERRORS)
    sandbox.write(NODE, SLOW, kind="slow")
    bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
    return bed


def by_ending(bed: Bed) -> dict[str, bytes]:
    return {"slow" if path.name.endswith("Z.slow.log") else "error": path.read_bytes() for path in bed.files()}


async def test_both_kinds_lie_in_the_nodes_directory_and_are_told_apart_by_name(both: Bed) -> None:
    await both.collect()

    assert by_ending(both) == {"error": ERRORS, "slow": SLOW}
    assert {path.parent.name for path in both.files()} == {NODE}


async def test_by_default_slow_logs_are_not_asked_for(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, SLOW, kind="slow")

    await bed.collect()

    assert (sandbox.calls["slowlog-download"], bed.files()) == (0, [])


async def test_slow_logs_alone_can_be_collected(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, ERRORS)
    sandbox.write(NODE, SLOW, kind="slow")
    bed.set('name: "solo"', 'name: "solo"\n    logs: [slow]')

    await bed.collect()

    assert (sandbox.calls["errorlog-download"], by_ending(bed)) == (0, {"slow": SLOW})


async def test_the_same_bytes_in_both_kinds_are_two_files(sandbox: Sandbox, bed: Bed) -> None:
    """What continues what is told by node and kind."""
    sandbox.write(NODE, ERRORS)
    sandbox.write(NODE, ERRORS, kind="slow")
    bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')

    report = await bed.collect()

    assert (report.stored, by_ending(bed)) == (2, {"error": ERRORS, "slow": ERRORS})


async def test_an_unchanged_slow_log_is_told_as_unchanged(both: Bed, sandbox: Sandbox, clock: ManualClock) -> None:
    await both.collect()
    sandbox.write(NODE, b"one more error\n")
    clock.forward(minutes=20)

    report = await both.collect()

    assert (report.stored, report.unchanged, len(both.files())) == (1, 1, 3)


async def test_a_mongos_that_is_named_is_asked_for_its_error_log_only(bed: Bed) -> None:
    """The cloud refuses a call for slow logs that names a mongos; the registry of nodes knows which one is."""
    async with bed.cloud(fleet=(cluster("solo", mongos=1, shards=1, per_shard=1),)) as sandbox:
        nodes = {group.type: group.nodes[0] for group in sandbox.fleet[0].groups}
        for node in (nodes["mongos"], nodes["shard"]):
            sandbox.write(node.name, ERRORS)
        sandbox.write(nodes["shard"].name, SLOW, kind="slow")
        ids = f"{nodes['mongos'].id}, {nodes['shard'].id}"
        bed.set('name: "solo"', f'name: "solo"\n    nodes: [{ids}]\n    logs: [error, slow]')
        async with bed.open() as service:
            await service._discovery.refresh()
            report = await bed.collect()

        assert (report.outcome, report.stored) == (CycleOutcome.OK, 3)


async def test_an_instance_of_whose_nodes_none_has_such_a_log_is_asked_for_the_others(bed: Bed) -> None:
    """A mongos has no slow log: that is no bug, and no failure, in any of its cycles."""
    async with bed.cloud(fleet=(cluster("solo", mongos=1, shards=1, per_shard=1),)) as sandbox:
        mongos = next(group.nodes[0] for group in sandbox.fleet[0].groups if group.type == "mongos")
        sandbox.write(mongos.name, ERRORS)
        bed.set('name: "solo"', f'name: "solo"\n    nodes: [{mongos.id}]\n    logs: [error, slow]')
        async with bed.open() as service:
            await service._discovery.refresh()
            report = await bed.collect()

        assert (report.outcome, report.error, report.stored) == (CycleOutcome.OK, "", 1)
        assert sandbox.calls["slowlog-download"] == 0


async def test_a_failure_of_one_kind_leaves_the_other_alone_and_says_which_it_was(both: Bed, sandbox: Sandbox) -> None:
    def broken(reply: dict[str, object]) -> dict[str, object]:
        return {"list": "nonsense"} if sandbox.requests[-1].kind == "slowlog-download" else reply

    sandbox.faults.mangle = broken

    report = await both.collect()

    assert (report.outcome, by_ending(both)) == (CycleOutcome.PARTIAL, {"error": ERRORS})


async def test_what_may_pass_is_not_hushed_because_the_other_kind_is_not_allowed(both: Bed, sandbox: Sandbox) -> None:
    """One kind is not allowed, the other gets nonsense, whichever comes first."""
    sandbox.faults.mangle = lambda _: {"list": "nonsense"}
    with structlog.testing.capture_logs() as events:
        async with both.open():
            for _ in range(3):
                sandbox.faults.api_errors = [ApiError(403, "DBS.280063")]
                await both.collect()

    levels = [event["log_level"] for event in events if event["event"] == "cycle.done"]
    assert levels == ["warning"] * 3


async def test_a_row_that_failed_says_of_which_log_it_is(both: Bed, sandbox: Sandbox) -> None:
    sandbox.faults.failed_rows.add(NODE)

    report = await both.collect()

    assert sorted(failed.log for failed in report.failures) == [LogKind.ERROR, LogKind.SLOW]
