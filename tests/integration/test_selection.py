"""One instance's nodes and files, asked for by an operator: stored as ever, and nothing said of the rest."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.collection.selection import node_ids_of, of_kind
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.errors import UnknownNode
from ddslogd.model.export import Selection
from ddslogd.model.instance import Every, Instance, LogKind, Node
from ddslogd.sandbox import replica_set

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ddslogd.model.cycle import CycleReport
    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

LOG = b"".join(b"line %06d of the log\n" % number for number in range(2000))
TABLES = ("cycles", "standings", "failures", "exports", "node_states", "offered")


@pytest.fixture
async def trio(bed: Bed) -> AsyncIterator[Sandbox]:
    """Three nodes, each with a log of its own."""
    async with bed.cloud(fleet=(replica_set("trio"),)) as sandbox:
        for node in sandbox.fleet[0].nodes:
            sandbox.write(node.name, node.name.encode() + LOG)
        yield sandbox


def ids(sandbox: Sandbox) -> list[str]:
    return [node.id for node in sandbox.fleet[0].nodes]


def asked(sandbox: Sandbox, call: str = "errorlog-download") -> list[dict[str, list[str]]]:
    return [json.loads(request.body) for request in sandbox.requests if request.kind == call]


async def select(bed: Bed, *, nodes: tuple[str, ...] = (), files: tuple[str, ...] = ()) -> CycleReport:
    async with bed.open() as service:
        return await service.select(bed.instance(), Selection(node_ids=nodes, file_names=files))


async def names(bed: Bed, sandbox: Sandbox) -> list[str]:
    """Let an export be there, and return its files' names."""
    last: dict[str, Any] = {}

    def heard(reply: dict[str, Any]) -> dict[str, Any]:
        last.update(reply)
        return reply

    sandbox.faults.mangle = heard
    await bed.collect()
    sandbox.faults.mangle = None
    return [row["file_name"] for row in last["list"]]


def books(bed: Bed) -> dict[str, list[tuple[object, ...]]]:
    """Return all that the ledger has of the instance as a whole."""
    with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db:
        return {
            table: sorted(db.execute(f"SELECT * FROM {table}").fetchall(), key=repr)  # noqa: S608  # constants
            for table in TABLES
        }


async def test_only_the_nodes_that_are_named_are_asked_for_and_stored(bed: Bed, trio: Sandbox) -> None:
    report = await select(bed, nodes=(ids(trio)[1],))

    name = trio.fleet[0].nodes[1].name
    assert (report.outcome, report.selected, bed.contents()) == (CycleOutcome.OK, True, [trio.log_of(name)])
    assert {tuple(one["node_id_list"]) for one in asked(trio)} == {(ids(trio)[1],)}


async def test_only_the_files_that_are_named_are_asked_for_and_stored(bed: Bed, trio: Sandbox) -> None:
    """Another host had the export made; one call brings the file, which is stored like any other snapshot."""
    trio.finish_exports()
    known = await names(bed, trio)
    trio.write(trio.fleet[0].nodes[2].name, b"more\n")
    calls = len(asked(trio))

    report = await select(bed, files=(known[2],))

    assert (report.unchanged, report.failures) == (1, ())
    assert asked(trio)[calls:] == [{"file_name_list": [known[2]]}]


async def test_nodes_and_files_are_asked_for_together(bed: Bed, trio: Sandbox) -> None:
    known = await names(bed, trio)
    calls = len(asked(trio))

    report = await select(bed, nodes=tuple(ids(trio)[:2]), files=(known[1],))

    assert asked(trio)[calls:] == [{"node_id_list": ids(trio)[:2], "file_name_list": [known[1]]}]
    assert (report.outcome, report.unchanged) == (CycleOutcome.OK, 1)


async def test_a_selection_leaves_freshness_failures_and_habits_as_they_are(
    bed: Bed, trio: Sandbox, clock: ManualClock
) -> None:
    """One node failed in the last cycle, and others are left out now: the ledger says what it said before."""
    trio.faults.failed_rows = {trio.fleet[0].nodes[0].name}
    await bed.collect()
    before = books(bed)
    trio.faults.clear()
    trio.write(trio.fleet[0].nodes[1].name, b"more\n")
    clock.forward(minutes=30)

    report = await select(bed, nodes=(ids(trio)[1],))

    assert (report.outcome, report.stored, books(bed)) == (CycleOutcome.OK, 1, before)
    assert len(before["failures"]) == 1


async def test_a_selection_into_an_empty_ledger_is_no_cycle(bed: Bed, trio: Sandbox) -> None:
    await select(bed, nodes=(ids(trio)[0],))

    assert books(bed) == {table: [] for table in TABLES}


async def test_a_selected_file_goes_on_with_its_stream(bed: Bed, trio: Sandbox, clock: ManualClock) -> None:
    """And the cycle after it does too: each line once."""
    node = trio.fleet[0].nodes[1]
    await bed.collect()
    trio.write(node.name, b"more\n")
    clock.forward(minutes=20)
    await select(bed, nodes=(node.id,))
    trio.write(node.name, b"and more\n")
    clock.forward(minutes=20)

    await bed.collect()

    stream = bed.directory / "streams" / "trio" / f"{node.name}.log"
    assert stream.read_bytes() == trio.log_of(node.name)


async def test_of_several_files_those_that_the_cloud_does_not_know_are_named(bed: Bed, trio: Sandbox) -> None:
    """The cloud says only that one is wrong: the whole export is asked for once, and what of it is not wanted left."""
    known = await names(bed, trio)
    calls, objects = len(asked(trio)), trio.calls["object"]

    report = await select(bed, files=(known[0], "p_errorlog_1", "p_errorlog_2"))

    assert [(one.kind, one.file_name) for one in report.failures] == [
        ("unknown_file", "p_errorlog_1"),
        ("unknown_file", "p_errorlog_2"),
    ]
    assert "DBS.280361" in report.failures[0].reason
    assert (report.outcome, report.unchanged, trio.calls["object"]) == (CycleOutcome.PARTIAL, 1, objects)
    assert [[*one] for one in asked(trio)[calls:]] == [["file_name_list"], []]


async def test_what_fails_of_the_rest_is_no_failure_of_the_files_that_are_named(bed: Bed, trio: Sandbox) -> None:
    trio.faults.failed_rows = {trio.fleet[0].nodes[0].name}

    report = await select(bed, files=("p_errorlog_1", "p_errorlog_2"))

    assert [one.kind for one in report.failures] == ["unknown_file"] * 2


async def test_the_only_file_that_is_unknown_starts_no_export(bed: Bed, trio: Sandbox) -> None:
    report = await select(bed, files=("p_errorlog_1",))

    assert ([one.kind for one in report.failures], report.outcome, report.error) == (
        ["unknown_file"],
        CycleOutcome.FAILED,
        "",
    )
    assert asked(trio) == [{"file_name_list": ["p_errorlog_1"]}]


async def test_a_file_of_an_export_that_is_over_is_not_waited_for_without_end(
    bed: Bed, trio: Sandbox, clock: ManualClock
) -> None:
    """Asking begins a new export, which has other names."""
    known = await names(bed, trio)
    clock.forward(minutes=20)

    report = await select(bed, files=(known[0],))

    assert [(one.kind, one.file_name) for one in report.failures] == [("unknown_file", known[0])]


async def test_each_log_is_asked_for_its_own_files(bed: Bed, trio: Sandbox) -> None:
    bed.set('    name: "trio"', '    name: "trio"\n    logs: [error, slow]')
    known = await names(bed, trio)  # of the log that was told of last
    (kind,) = {name.split("_")[2] for name in known}
    trio.requests.clear()

    report = await select(bed, files=(known[0],))

    other = {"errorlog": "slowlog-download", "slowlog": "errorlog-download"}[kind]
    assert (report.failures, asked(trio, other)) == ((), [])


async def test_a_file_of_a_log_that_is_not_collected_says_so(bed: Bed, trio: Sandbox) -> None:
    report = await select(bed, files=("p_slowlog_1",))

    assert (["not collected" in one.reason for one in report.failures], asked(trio)) == ([True], [])


async def test_a_selected_node_without_a_row_is_a_failure_of_the_command_alone(bed: Bed, trio: Sandbox) -> None:
    trio.faults.mangle = lambda reply: {**reply, "list": [], "status": "FINISH"}

    report = await select(bed, nodes=(ids(trio)[0],))

    assert ([(one.kind, one.node) for one in report.failures], books(bed)["node_states"]) == (
        [("left_out", ids(trio)[0])],
        [],
    )


async def test_a_node_that_the_cloud_does_not_know_is_its_error_with_the_code(bed: Bed, trio: Sandbox) -> None:
    report = await select(bed, nodes=("f" * 32 + "no02",))

    assert (report.outcome, report.error_kind, trio.calls["errorlog-download"]) == (CycleOutcome.FAILED, "rejected", 1)
    assert ("check which nodes" in report.error, "DBS.280407" in report.error) == (True, True)


async def test_several_files_of_one_node_are_asked_for_as_a_whole(bed: Bed, trio: Sandbox, clock: ManualClock) -> None:
    """What tells them apart is each other; a file that comes alone would go to the other's stream."""
    node = trio.fleet[0].nodes[0]

    def one_node(reply: dict[str, Any]) -> dict[str, Any]:
        for row in reply.get("list", []):
            row["file_name"], row["node_name"] = f"{row['node_name']}_of_one", node.name
        return reply

    trio.faults.mangle = one_node
    await bed.collect()
    before = {path: path.read_bytes() for path in (bed.directory / "streams").rglob("*.log")}
    clock.forward(minutes=20)
    trio.requests.clear()

    report = await select(bed, files=(f"{trio.fleet[0].nodes[2].name}_of_one",))

    assert ({tuple(one) for one in asked(trio)}, len(report.outcomes)) == ({()}, 1)
    assert {path: path.read_bytes() for path in before} == before


# --- which nodes ------------------------------------------------------------------------------------------------------

A, B, NEW = ("a" * 32 + "no02", "b" * 32 + "no02", "c" * 32 + "no02")
LISTED = (Node(id=A, name="one", group="replica", role=""), Node(id=B, name="two", group="replica", role=""))


def instance(*node_ids: str) -> Instance:
    return Instance(
        id="x", name="orders", cloud="eu", node_ids=node_ids, schedule=Every(interval=timedelta(minutes=20))
    )


def test_a_node_is_told_by_its_id_or_by_a_name_that_is_listed() -> None:
    assert node_ids_of([A, "two", "one", NEW], instance(), LISTED) == (A, B, NEW)


@pytest.mark.parametrize(
    ("text", "said"),
    [("three", "is no node of orders: .*one"), (NEW, "not among the nodes that the configuration takes")],
)
def test_a_node_that_cannot_be_is_refused_with_those_that_are_known(text: str, said: str) -> None:
    with pytest.raises(UnknownNode, match=said):
        node_ids_of([text], instance(A), LISTED)


def test_a_name_of_two_nodes_is_refused() -> None:
    twins = (LISTED[0], Node(id=B, name="one", group="replica", role=""))

    with pytest.raises(UnknownNode, match="several nodes"):
        node_ids_of(["one"], instance(), twins)


def test_a_selection_has_the_kinds_of_log_that_its_names_may_be_of() -> None:
    selected = Selection(file_names=("p_errorlog_1", "odd"))

    assert of_kind(selected, LogKind.SLOW, ()) == Selection(file_names=("odd",))
