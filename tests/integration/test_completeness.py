"""What an export leaves out: named by node, told everywhere, and over when nobody expects it any more."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from ddslogd.collection.completeness import Question, judge
from ddslogd.model.cycle import CycleOutcome, Delivered, NodeStanding, NodeState
from ddslogd.model.export import ExportReply, Row, RowState
from ddslogd.model.instance import Every, Instance, KnownNode, LogKind, Node
from ddslogd.monitoring import metrics
from ddslogd.monitoring.freshness import one_line
from ddslogd.sandbox import cluster, replica_set
from ddslogd.storage.ledger.database import MIGRATIONS
from ddslogd.storage.ledger.snapshot_records import Ledger
from support.testbed import known_failures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ddslogd.model.cycle import CycleReport
    from ddslogd.monitoring.status import Status
    from ddslogd.sandbox import Sandbox
    from support.testbed import Bed

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
ERROR = LogKind.ERROR
ONE, TWO = "1" * 32 + "no02", "2" * 32 + "no02"
LOG = b"".join(b"line %06d of the log\n" % number for number in range(100))
BOTH = (Delivered(node="one", file_name=f"p_{ONE}_errorlog_1"), Delivered(node="two", file_name=f"p_{TWO}_errorlog_1"))
OLDER_SHAPE = tuple(Delivered(node=node, file_name="p_errorlog_download_1") for node in ("one", "two"))


def row(node: str, file_name: str = "f", *, ready: bool = True) -> Row:
    state = RowState.READY if ready else RowState.FAILED
    return Row(node=node, file_name=file_name, state=state, url="https://x" if ready else None)


def reply(*rows: Row, failed: bool = False) -> ExportReply:
    return ExportReply(rows=rows, creating=False, failed=failed, request_id="r")


def question(*node_ids: str, **known: Any) -> Question:
    every = Every(interval=timedelta(minutes=20))
    instance = Instance(id="x", name="orders", cloud="eu", node_ids=node_ids, schedule=every)
    return Question(**{"instance": instance, "kind": ERROR, "delivered": BOTH, "now": NOW, **known})


def listed(*nodes: str) -> tuple[Node, ...]:
    ids = {"one": ONE, "two": TWO}
    return tuple(Node(id=ids[node], name=node, group="replica", role="") for node in nodes)


def states(*found: NodeStanding) -> dict[str, str]:
    return {one.node: one.state.value for one in found}


def standing(node: str, state: NodeState, *, hours: float) -> NodeStanding:
    return NodeStanding(log=ERROR, node=node, state=state, since=NOW - hours * HOUR)


# --- who is missed ----------------------------------------------------------------------------------------------------


def test_a_node_that_had_a_file_and_has_no_row_is_left_out() -> None:
    verdict = judge(question(), reply(row("one")))

    assert [(failed.node, failed.kind, "request id r" in failed.reason) for failed in verdict.failed] == [
        ("two", "left_out", True)
    ]


def test_an_empty_list_leaves_out_every_node() -> None:
    verdict = judge(question(), reply())

    assert [failed.node for failed in verdict.failed] == ["one", "two"]


def test_an_instance_that_never_had_a_file_misses_none() -> None:
    verdict = judge(question(delivered=()), reply())

    assert (verdict.failed, verdict.nodes) == ((), ())


def test_a_row_that_failed_or_waits_is_not_left_out() -> None:
    assert judge(question(), reply(row("one"), row("two", ready=False))).nodes == ()


def test_a_node_that_was_renamed_is_known_by_the_id_in_its_files_name() -> None:
    assert judge(question(), reply(row("one"), row("zwei", f"p_{TWO}_errorlog_2"))).nodes == ()


@pytest.mark.parametrize("known", [{}, {"listed": listed("one", "two")}])
def test_a_node_that_was_not_asked_for_is_not_missed(known: dict[str, Any]) -> None:
    assert judge(question(ONE, **known), reply(row("one"))).nodes == ()


def test_a_node_that_was_asked_for_by_its_id_is_missed() -> None:
    assert states(*judge(question(ONE, TWO), reply(row("one"))).nodes) == {"two": "left out"}


def test_the_list_tells_the_ids_of_nodes_whose_files_do_not() -> None:
    """The older shape of file names holds no id."""
    verdict = judge(question(ONE, TWO, delivered=OLDER_SHAPE, listed=listed("one", "two")), reply(row("one")))

    assert states(*verdict.nodes) == {"two": "left out"}


def test_of_nodes_that_nothing_tells_apart_none_is_missed_while_there_are_rows() -> None:
    """It may be one that was not asked for; without a single row it is wrong whoever it is."""
    some = judge(question(ONE, delivered=OLDER_SHAPE), reply(row("one"))).nodes
    none = judge(question(ONE, delivered=OLDER_SHAPE), reply()).nodes

    assert (some, states(*none)) == ((), {"one": "left out", "two": "left out"})


def test_rows_without_a_name_are_not_missed_one_by_one() -> None:
    nameless = (Delivered(node="row-0"), Delivered(node="row-1"))

    assert judge(question(delivered=nameless), reply(row("row-0"))).nodes == ()
    assert states(*judge(question(delivered=nameless), reply()).nodes) == {"row-0": "left out", "row-1": "left out"}


def test_a_file_that_was_being_prepared_and_is_not_spoken_of_any_more_is_left_out() -> None:
    """Also of a node that never had one; and it may be younger than the list."""
    vanished = [Row(node="three", file_name="f", state=RowState.PENDING)]

    verdict = judge(question(listed=listed("one", "two")), reply(row("one"), row("two")), vanished=vanished)

    assert [(failed.node, failed.kind, "was preparing" in failed.reason) for failed in verdict.failed] == [
        ("three", "left_out", True)
    ]


def test_a_node_that_was_renamed_is_known_by_the_id_that_belongs_to_its_name() -> None:
    """The older shape of file names holds no id, and the list has today's name only."""
    renamed = (*listed("one"), replace(listed("two")[0], name="zwei"))
    known = {"one": KnownNode(id=ONE, called="one"), "two": KnownNode(id=TWO, called="zwei")}

    verdict = judge(question(delivered=OLDER_SHAPE, listed=renamed, nodes=known), reply(row("one")))

    assert (states(*verdict.nodes), len(verdict.failed)) == ({"two": "left out"}, 1)


def test_a_node_without_an_id_is_looked_for_under_what_the_cloud_calls_it() -> None:
    known = {"two-2": KnownNode(id="", called="two")}
    delivered = (OLDER_SHAPE[0], Delivered(node="two-2"))

    verdict = judge(question(delivered=delivered, listed=listed("one", "two"), nodes=known), reply(row("one")))

    assert states(*verdict.nodes) == {"two-2": "left out"}


SEVERAL = {node: KnownNode(id=ONE, called="one", several=True) for node in ("one", "one-2")}


@pytest.mark.parametrize("name", ["mongod_{}", ONE + "_mongod_{}"])
@pytest.mark.parametrize(("hours", "state"), [(1, "left out"), (24, "no longer exported")])
def test_one_of_several_files_of_a_node_is_missed_by_its_own_name(name: str, hours: float, state: str) -> None:
    """The list says nothing of how many files a node has: it is missed for a day."""
    delivered = tuple(Delivered(node=node, file_name=name.format(1)) for node in SEVERAL)
    known = (standing("one-2", NodeState.LEFT_OUT, hours=hours),)
    asked = question(delivered=delivered, listed=listed("one"), nodes=SEVERAL, known=known)

    verdict = judge(asked, reply(replace(row("one", name.format(2)), node_id=ONE)))

    assert states(*verdict.nodes) == {"one-2": state}


def test_a_node_with_several_files_that_has_no_row_is_left_out_however_long() -> None:
    delivered = (*BOTH[1:], *(Delivered(node=node) for node in SEVERAL))
    known = tuple(standing(node, NodeState.LEFT_OUT, hours=100) for node in SEVERAL)
    asked = question(delivered=delivered, listed=listed("one", "two"), nodes=SEVERAL, known=known)

    assert states(*judge(asked, reply(row("two"))).nodes) == {"one": "left out", "one-2": "left out"}


def test_a_node_that_was_rebuilt_under_its_name_is_not_the_one_that_is_listed() -> None:
    """The old one's id is known: the name says nothing."""
    new = "9" * 32 + "no02"
    delivered = (BOTH[0], Delivered(node="one-new", file_name=f"p_{new}_errorlog_1"))
    rows = reply(replace(row("one-new", f"p_{new}_errorlog_2"), called="one"))
    known = (standing("one", NodeState.LEFT_OUT, hours=1),)

    verdict = judge(question(delivered=delivered, listed=(replace(listed("one")[0], id=new),), known=known), rows)

    assert (states(*verdict.nodes), verdict.failed) == ({"one": "removed"}, ())


# --- failed, and nothing shown that did -------------------------------------------------------------------------------


def test_a_failed_export_whose_rows_are_all_good_is_no_good_one() -> None:
    verdict = judge(question(), reply(row("one"), row("two"), failed=True))

    assert [(failed.node, failed.kind) for failed in verdict.failed] == [("", "export_failed")]


def test_the_list_tells_of_which_node_an_export_failed() -> None:
    """It never had a file before."""
    verdict = judge(question(delivered=BOTH[:1], listed=listed("one", "two")), reply(row("one"), failed=True))

    assert [(failed.node, failed.kind) for failed in verdict.failed] == [("two", "export_failed")]


@pytest.mark.parametrize("rows", [(row("one"), row("two", ready=False)), (row("one"),)])
def test_where_something_tells_what_failed_nothing_more_is_said(rows: tuple[Row, ...]) -> None:
    """A row that failed, or a node that is left out."""
    assert "" not in [failed.node for failed in judge(question(), reply(*rows, failed=True)).failed]


# --- how it ends ------------------------------------------------------------------------------------------------------


def test_a_node_that_the_list_has_no_more_is_removed_and_no_failure() -> None:
    verdict = judge(question(listed=listed("one")), reply(row("one")))

    assert (verdict.failed, states(*verdict.nodes)) == ((), {"two": "removed"})


def test_a_node_that_is_younger_than_the_list_is_not_removed() -> None:
    verdict = judge(question(listed=listed("one"), younger=frozenset({"two"})), reply(row("one")))

    assert states(*verdict.nodes) == {"two": "left out"}


def test_a_node_that_the_list_has_is_left_out_however_long() -> None:
    known = (standing("two", NodeState.LEFT_OUT, hours=100),)

    assert states(*judge(question(known=known, listed=listed("one", "two")), reply(row("one"))).nodes) == {
        "two": "left out"
    }


@pytest.mark.parametrize(("hours", "state", "failures"), [(23.9, "left out", 1), (24, "no longer exported", 0)])
def test_without_a_list_a_node_counts_for_a_day(hours: float, state: str, failures: int) -> None:
    verdict = judge(question(known=(standing("two", NodeState.LEFT_OUT, hours=hours),)), reply(row("one")))

    assert (states(*verdict.nodes), len(verdict.failed)) == ({"two": state}, failures)


def test_what_was_removed_stays_so_without_a_list() -> None:
    verdict = judge(question(known=(standing("two", NodeState.REMOVED, hours=1),)), reply(row("one")))

    assert (verdict.failed, states(*verdict.nodes)) == ((), {"two": "removed"})


def test_a_time_that_is_yet_to_come_begins_the_day_again() -> None:
    """It is of a clock that was set back since."""
    verdict = judge(question(known=(standing("two", NodeState.LEFT_OUT, hours=-50),)), reply(row("one")))

    assert [one.since for one in verdict.nodes] == [NOW]


def test_what_was_removed_is_so_no_more_once_it_had_a_file() -> None:
    """It came later than what was said of the node."""
    later = (BOTH[0], replace(BOTH[1], at=NOW - HOUR))
    asked = question(delivered=later, known=(standing("two", NodeState.REMOVED, hours=2),), offered={"one", "two"})

    assert states(*judge(asked, reply(row("one"))).nodes) == {"two": "left out"}


@pytest.mark.parametrize(
    ("known", "state"),
    [
        ({}, "left out"),
        ({"good_at": NOW - HOUR}, "no longer exported"),
        ({"good_at": NOW - HOUR, "offered": {"two"}}, "left out"),
        ({"good_at": NOW - 29 * HOUR}, "left out"),
        ({"good_at": NOW + HOUR}, "left out"),
        ({"delivered": (replace(BOTH[0], at=NOW), replace(BOTH[1], at=NOW - 30 * HOUR))}, "no longer exported"),
    ],
)
def test_of_a_node_whose_state_is_not_known_its_last_file_tells(known: dict[str, Any], state: str) -> None:
    """Where exports went on for a day without it, and it was in none of them."""
    delivered = (BOTH[0], replace(BOTH[1], at=NOW - 30 * HOUR))

    verdict = judge(question(**{"delivered": delivered, **known}), reply(row("one")))

    assert states(*verdict.nodes) == {"two": state}


# --- in cycles --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def pair(bed: Bed) -> AsyncIterator[Sandbox]:
    """A replica set of two nodes, both of which have had a file; nothing is asked for within 15 minutes."""
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as sandbox:
        for node in sandbox.fleet[0].nodes:
            sandbox.write(node.name, LOG)
        await bed.collect()
        bed.clock.forward(minutes=20)
        yield sandbox


def without_second(said: dict[str, Any]) -> dict[str, Any]:
    """Return less than is wrong: the second row is missing once all is ready."""
    return said if said["status"] == "CREATING" else {**said, "list": said["list"][:1], "count": 1}


def never_second(said: dict[str, Any]) -> dict[str, Any]:
    return {**said, "list": said["list"][:1]}


SAYINGS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a row that was exporting is missing": without_second,
    "no row from the beginning": never_second,
    "an empty list": lambda _: {"list": [], "status": "FINISH", "count": 0},
    "no list": lambda _: {"status": "FINISH"},
    "nothing at all": lambda _: {},
}


async def told(bed: Bed) -> tuple[Status, str]:
    """Return the status, and the metrics' page."""
    assert bed.service is not None
    status = await bed.service.observer.status(all_nodes=True)
    return status, metrics.rendered(status, bed.service.observer.counts()).decode()


def forward(bed: Bed, *, hours: int) -> None:
    """Let time pass; tokens last for a day."""
    bed.clock.forward(hours=hours)
    os.environ["DDSLOGD_TOKEN"] = bed.sandbox.issue_token()


async def relist(bed: Bed) -> None:
    assert bed.service is not None
    await bed.service._discovery.refresh()


@pytest.mark.parametrize("saying", SAYINGS.values(), ids=SAYINGS)
@pytest.mark.parametrize("rights", [set(), {"instances"}], ids=["with the list", "without"])
async def test_a_reply_that_says_less_is_partial_and_named_everywhere(
    pair: Sandbox, bed: Bed, saying: Callable[[dict[str, Any]], dict[str, Any]], rights: set[str]
) -> None:
    second = pair.fleet[0].nodes[1].name
    pair.faults.missing_rights |= rights
    pair.faults.mangle = lambda said: said if "instances" in said else saying(said)
    async with bed.open():
        await relist(bed)
        report = await bed.collect()
        status, page = await told(bed)

    (one,) = status.instances
    left_out = {node.node for node in one.node_states if node.state is NodeState.LEFT_OUT}
    assert (report.outcome, report.outcome.good) == (CycleOutcome.PARTIAL, False)
    assert second in {failed.node for failed in report.failures} & left_out
    assert "see whether the node runs; if it does, open a ticket" in one.turn
    assert f'ddslogd_instance_nodes_left_out{{dds_instance="solo",cloud="sandbox"}} {len(left_out)}' in page
    assert {node.name for node in one.nodes if node.state == "left out"} == left_out


async def test_failed_over_good_rows_salvages_them_and_is_partial(pair: Sandbox, bed: Bed) -> None:
    for node in pair.fleet[0].nodes:
        pair.write(node.name, b"one more\n")
    pair.faults.mangle = lambda said: said if said["status"] == "CREATING" else {**said, "status": "FAILED"}

    report = await bed.collect()

    assert (report.outcome, report.stored, [failed.kind for failed in report.failures]) == (
        CycleOutcome.PARTIAL,
        2,
        ["export_failed"],
    )


async def test_an_instance_whose_nodes_are_left_out_goes_stale_and_comes_back(pair: Sandbox, bed: Bed) -> None:
    seen = []
    async with bed.open():
        for mangle in (never_second, never_second, None):
            pair.faults.mangle = mangle
            await bed.collect()
            bed.clock.forward(minutes=16)
            (one,) = (await told(bed))[0].instances
            seen.append((one.state.value, len(one.node_states)))

    assert seen == [("fresh", 1), ("stale", 1), ("fresh", 0)]
    assert known_failures(bed.state) == {}


async def test_a_node_that_is_removed_is_said_once_and_counts_no_more(pair: Sandbox, bed: Bed) -> None:
    second = pair.fleet[0].nodes[1]

    def without(said: dict[str, Any]) -> dict[str, Any]:
        if "instances" in said:
            text = json.dumps(said).replace(second.name, "other").replace(second.id, "0" * 32 + "no02")
            other: dict[str, Any] = json.loads(text)
            return other
        return never_second(said)

    pair.faults.mangle = without
    with structlog.testing.capture_logs() as events:
        async with bed.open():
            await relist(bed)
            outcomes = []
            for _ in range(3):
                outcomes.append((await bed.collect()).outcome)
                bed.clock.forward(minutes=20)
            status, page = await told(bed)

    said = [event["node"] for event in events if event["event"] == "node.removed"]
    assert (outcomes, said) == ([CycleOutcome.OK] * 3, [second.name])
    assert states(*status.instances[0].node_states) == {second.name: "removed"}
    assert 'ddslogd_instance_nodes_left_out{dds_instance="solo",cloud="sandbox"} 0' in page


@pytest.mark.parametrize("saying", SAYINGS.values(), ids=SAYINGS)
async def test_without_a_list_a_node_is_no_longer_exported_after_a_day(
    pair: Sandbox, bed: Bed, saying: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Said once, shown, still asked for; and when it comes back, all is as before."""
    second = pair.fleet[0].nodes[1].name
    pair.faults.missing_rights.add("instances")
    pair.faults.mangle = saying
    reports: list[CycleReport] = []
    with structlog.testing.capture_logs() as events:
        async with bed.open():
            for _ in range(6):
                await relist(bed)
                reports.append(await bed.collect())
                forward(bed, hours=6)
            status, page = await told(bed)
            pair.faults.mangle = None
            back = await bed.collect()
            after, _ = await told(bed)

    said = [event["node"] for event in events if event["event"] == "node.no_longer_exported"]
    good = [report.outcome.good for report in reports]
    is_over = saying is not SAYINGS["no row from the beginning"] and saying is not without_second
    assert good == [False] * 4 + [not is_over] * 2
    assert (said.count(second), states(*status.instances[0].node_states)[second]) == (1, "no longer exported")
    assert 'ddslogd_instance_nodes_no_longer_exported{dds_instance="solo",cloud="sandbox"} 0' not in page
    assert (back.outcome, after.instances[0].node_states) == (CycleOutcome.OK, ())


async def test_a_node_that_was_renamed_and_then_left_out_is_left_out(pair: Sandbox, bed: Bed) -> None:
    """Its files' names hold no id, as those of the older shape."""
    second = pair.fleet[0].nodes[1].name
    renamed = left_out = False

    def older_shape(said: dict[str, Any]) -> dict[str, Any]:
        if renamed:
            said = json.loads(json.dumps(said).replace(f'"{second}"', '"zwei"'))
        for each in said.get("list", ()):
            each["file_name"] = re.sub(r"[0-9a-f]{32}no\d\d", "x", each["file_name"])
        return never_second(said) if left_out and "list" in said else said

    pair.faults.mangle = older_shape
    async with bed.open():
        await relist(bed)
        await bed.collect()
        renamed = True
        bed.clock.forward(minutes=20)
        await relist(bed)
        await bed.collect()
        left_out = True
        bed.clock.forward(minutes=20)
        await relist(bed)
        report = await bed.collect()

    assert (report.outcome, states(*report.nodes)) == (CycleOutcome.PARTIAL, {second: "left out"})


async def test_a_node_that_is_rebuilt_under_its_name_leaves_the_old_one_removed(pair: Sandbox, bed: Bed) -> None:
    second = pair.fleet[0].nodes[1]

    def rebuilt(said: dict[str, Any]) -> dict[str, Any]:
        links = [each["file_link"] for each in said.get("list", ())]
        said = json.loads(json.dumps(said).replace(second.id, "9" * 32 + "no02"))
        for each, link in zip(said.get("list", ()), links, strict=True):
            each["file_link"] = link
        return said

    async with bed.open():
        await relist(bed)
        await bed.collect()
        pair.faults.mangle = rebuilt
        bed.clock.forward(minutes=20)
        await relist(bed)
        report = await bed.collect()

    assert (report.outcome, states(*report.nodes)) == (CycleOutcome.OK, {second.name: "removed"})


async def test_the_day_is_one_of_the_clouds_clock(pair: Sandbox, bed: Bed) -> None:
    """The host's is set 25 hours ahead meanwhile."""
    second = pair.fleet[0].nodes[1].name
    pair.faults.mangle = never_second
    first = await bed.collect()
    pair.faults.skew = -25 * HOUR
    forward(bed, hours=25)
    bed.clock.forward(minutes=20)

    report = await bed.collect()

    assert (states(*first.nodes), states(*report.nodes)) == ({second: "left out"}, {second: "left out"})


async def test_an_instance_of_which_nothing_is_exported_any_more_is_stale_and_says_so(pair: Sandbox, bed: Bed) -> None:
    second = pair.fleet[0].nodes[1].name
    pair.faults.mangle = lambda _: {"list": [], "status": "FINISH", "count": 0}
    async with bed.open():
        for _ in range(5):
            await bed.collect()
            forward(bed, hours=6)
        report = await bed.collect()
        forward(bed, hours=6)
        status, _ = await told(bed)

    (one,) = status.instances
    names = f"2 nodes no longer exported, one of them: solo, {pair.fleet[0].nodes[0].name}"
    assert (report.outcome, one.state.value) == (CycleOutcome.PARTIAL, "stale")
    assert "has exported none of its nodes for a day" in one.why
    assert status.headline == f"1 of 1 instance stale; {names}"
    assert f", {names}, " in one_line(status)
    assert second in {node.node for node in one.node_states}


async def test_one_kind_of_log_that_ends_is_no_end_of_the_instance(pair: Sandbox, bed: Bed) -> None:
    """Slow logs go on."""
    bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
    for node in pair.fleet[0].nodes:
        pair.write(node.name, b"{}\n", "slow")
    pair.faults.mangle = lambda said: said if "slowlog" in str(said) else {"list": [], "status": "FINISH"}
    for _ in range(5):
        await bed.collect()
        forward(bed, hours=6)

    report = await bed.collect()

    assert (report.outcome, set(states(*report.nodes).values())) == (CycleOutcome.OK, {"no longer exported"})


async def test_the_list_of_an_earlier_process_says_nothing(pair: Sandbox, bed: Bed) -> None:
    """It has not got the second node, which is younger than that."""
    first, second = pair.fleet[0].nodes

    def young(said: dict[str, Any]) -> dict[str, Any]:
        for group in said["instances"][0]["groups"] if "instances" in said else ():
            group["nodes"] = [node for node in group["nodes"] if node["name"] == first.name]
        return said

    pair.faults.mangle = young
    async with bed.open():
        await relist(bed)
        await bed.collect()
    pair.faults.mangle = never_second
    bed.clock.forward(minutes=20)

    report = await bed.collect()

    assert (report.outcome, states(*report.nodes)) == (CycleOutcome.PARTIAL, {second.name: "left out"})


async def test_a_list_that_has_an_instance_no_more_says_nothing_of_its_nodes(pair: Sandbox, bed: Bed) -> None:
    second = pair.fleet[0].nodes[1].name
    reports = []
    async with bed.open():
        await relist(bed)
        pair.faults.mangle = lambda said: (
            {**said, "instances": [], "total_count": 0} if "instances" in said else never_second(said)
        )
        for _ in range(6):
            await relist(bed)
            reports.append(await bed.collect())
            forward(bed, hours=6)

    assert [report.outcome.good for report in reports] == [False] * 4 + [True] * 2
    assert states(*reports[-1].nodes) == {second: "no longer exported"}


async def test_a_list_that_cannot_be_had_any_more_says_nothing(pair: Sandbox, bed: Bed) -> None:
    """It had the node when it came last."""
    second = pair.fleet[0].nodes[1].name
    async with bed.open():
        await relist(bed)
        pair.faults.missing_rights.add("instances")
        pair.faults.mangle = never_second
        outcomes = []
        for _ in range(6):
            await relist(bed)
            outcomes.append((await bed.collect()).outcome)
            forward(bed, hours=6)
        status, _ = await told(bed)

    assert (outcomes[-1].good, states(*status.instances[0].node_states)) == (True, {second: "no longer exported"})


async def test_a_node_that_waits_for_its_day_is_remembered_over_restarts(pair: Sandbox, bed: Bed) -> None:
    pair.faults.mangle = never_second
    outcomes = []
    for _ in range(6):
        outcomes.append((await bed.collect()).outcome)
        forward(bed, hours=6)

    assert outcomes == [CycleOutcome.PARTIAL] * 4 + [CycleOutcome.OK] * 2


async def test_mongos_and_config_nodes_are_not_missed_in_slow_logs(bed: Bed) -> None:
    async with bed.cloud(fleet=(cluster("solo"),)) as sandbox:
        for group in sandbox.fleet[0].groups:
            for node in group.nodes:
                sandbox.write(node.name, LOG)
                if group.type == "shard":
                    sandbox.write(node.name, b"{}\n", "slow")
        bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
        outcomes = []
        async with bed.open():
            await relist(bed)
            for _ in range(3):
                outcomes.append((await bed.collect()).outcome)
                bed.clock.forward(minutes=20)

    assert outcomes == [CycleOutcome.OK] * 3


async def test_a_cycle_that_could_not_ask_leaves_what_is_known_of_nodes(pair: Sandbox, bed: Bed) -> None:
    second = pair.fleet[0].nodes[1].name
    async with bed.open():
        pair.faults.mangle = never_second
        await bed.collect()
        bed.clock.forward(minutes=20)
        pair.faults.mangle = lambda _: {"error_code": "DBS.280032"}
        await bed.collect()
        status, _ = await told(bed)

    assert states(*status.instances[0].node_states) == {second: "left out"}


async def test_a_kind_of_log_that_is_collected_no_more_leaves_nothing_amiss(pair: Sandbox, bed: Bed) -> None:
    for node in pair.fleet[0].nodes:
        pair.write(node.name, b"{}\n", "slow")
    bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
    await bed.collect()
    bed.clock.forward(minutes=20)
    pair.faults.mangle = lambda said: never_second(said) if "slowlog" in str(said) else said
    broken = await bed.collect()
    bed.clock.forward(minutes=20)
    bed.changes.clear()

    async with bed.open():
        report = await bed.collect()
        status, _ = await told(bed)

    assert (broken.outcome, report.outcome, status.instances[0].node_states) == (
        CycleOutcome.PARTIAL,
        CycleOutcome.OK,
        (),
    )


# --- the ledger -------------------------------------------------------------------------------------------------------


async def test_an_older_ledgers_nodes_that_have_been_gone_for_long_are_no_failure_of_today(tmp_path: Path) -> None:
    """Another version did not look: good cycles went on for more than a day after their last file."""
    day = 86_400_000
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)) as db:
        for number, schema in enumerate(MIGRATIONS[:4], start=1):
            db.executescript(f"{schema} PRAGMA user_version = {number};")
        for node, days in (("gone", 3), ("gone", 9), ("here", 9), ("here", 0)):
            key = f"snapshots/orders/{node}/f.{days}.log"
            values = (key, key, f"snapshots/orders/{node}/*.log", node, (100 - days) * day, (100 - days) * day)
            db.execute(
                "INSERT INTO snapshots (key, path, series, instance, log, node, file_name, updated_ms, published, size,"
                " md5, sha256, etag, verified, request_ids, attempts, began_ms, stored_ms)"
                " VALUES (?, ?, ?, 'orders', 'error', ?, 'f', ?, 1, 1, '', '', '', 1, '', 1, 0, ?)",
                values,
            )
        db.execute("INSERT INTO standings VALUES ('orders', 1, ?, 0, NULL, '[]')", (100 * day,))

    ledger = Ledger(tmp_path)
    await ledger.open()
    history = await ledger.node_history("orders", ERROR)
    await ledger.close()

    assert [one.node for one in history.delivered] == ["gone", "here"]
    assert (states(*history.known), history.offered) == ({"gone": "no longer exported"}, frozenset({"here"}))


async def test_what_is_known_of_nodes_is_forgotten_with_their_instance(pair: Sandbox, bed: Bed) -> None:
    pair.faults.mangle = never_second
    await bed.collect()
    ledger = Ledger(bed.state)

    await ledger.forget_instances({"events"})

    history = await ledger.node_history("solo", ERROR)
    await ledger.close()
    assert (history.known, history.offered) == ((), frozenset())


async def test_a_ledger_that_is_rebuilt_does_not_accuse_nodes_of_long_ago(pair: Sandbox, bed: Bed) -> None:
    """The files tell that exports went on for days without this one; and no right says whether it is there."""
    first, second = (node.name for node in pair.fleet[0].nodes)
    pair.faults.missing_rights.add("instances")
    pair.faults.mangle = never_second
    for _ in range(2):
        forward(bed, hours=30)
        pair.write(first, b"one more\n")
        await bed.collect()
    for path in bed.state.glob("ledger.sqlite3*"):
        path.unlink()
    forward(bed, hours=1)
    with structlog.testing.capture_logs() as events:
        report = await bed.collect()

    (said,) = (event for event in events if event["event"] == "node.no_longer_exported")
    assert (report.outcome.good, states(*report.nodes)) == (True, {second: "no longer exported"})
    assert (said["node"], said["log_level"]) == (second, "info")


async def test_states_that_were_lost_do_not_begin_the_day_again(pair: Sandbox, bed: Bed) -> None:
    second = pair.fleet[0].nodes[1].name
    pair.faults.mangle = never_second
    for _ in range(3):
        await bed.collect()
        forward(bed, hours=16)
    with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db, db:
        db.execute("DELETE FROM node_states")

    assert states(*(await bed.collect()).nodes) == {second: "no longer exported"}


async def test_a_node_that_had_rows_until_now_is_left_out_for_its_day(pair: Sandbox, bed: Bed) -> None:
    """Its last file is older than that: the rows since then were none that brought one."""
    first, second = (node.name for node in pair.fleet[0].nodes)

    def failed_second(said: dict[str, Any]) -> dict[str, Any]:
        rows = [{**said["list"][1], "status": "FAILED", "file_link": ""}] if said["status"] != "CREATING" else []
        return {**said, "list": [said["list"][0], *rows]}

    pair.faults.mangle = failed_second
    for _ in range(3):
        forward(bed, hours=16)
        pair.write(first, b"one more\n")
        await bed.collect()
    pair.faults.mangle = never_second
    forward(bed, hours=1)

    assert states(*(await bed.collect()).nodes) == {second: "left out"}


# --- what a cycle did not get to --------------------------------------------------------------------------------------


async def test_a_node_that_is_removed_fails_no_more_while_another_kind_of_log_does(bed: Bed) -> None:
    bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as sandbox:
        first, second = sandbox.fleet[0].nodes
        for node in (first, second):
            sandbox.write(node.name, LOG)
        removed = False

        def gone(said: dict[str, Any]) -> dict[str, Any]:
            if "instances" not in said:
                return never_second(said)
            for group in said["instances"][0]["groups"] if removed else ():
                group["nodes"] = [node for node in group["nodes"] if node["name"] == first.name]
            return said

        async with bed.open():
            await relist(bed)
            await bed.collect()
            sandbox.faults.missing_rights.add("slowlog-download")
            sandbox.faults.mangle = gone
            failing = []
            for is_over in (False, True):
                removed = is_over
                bed.clock.forward(minutes=20)
                await relist(bed)
                await bed.collect()
                (found,) = known_failures(bed.state).values()
                failing.append([(one.node, one.kind) for one in found])

    assert failing == [[("", "not_allowed"), (second.name, "left_out")], [("", "not_allowed")]]
