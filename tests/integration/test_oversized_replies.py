"""A cloud that says more than there can be: each reply is legal by itself, and it costs that cloud only."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from ddslogd.collection.node_registry import NodeRegistry
from ddslogd.huaweicloud import response_limits
from ddslogd.huaweicloud.services import dds
from ddslogd.model import line_quota
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.line_quota import limited, some, within_quota
from ddslogd.model.redactor import Redactor
from ddslogd.monitoring import logs
from ddslogd.sandbox import single

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ddslogd.model.export import ExportReply, Row
    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

NODE = "solo_single_node_1"
DISCOVERED = "  - {discover: {}}"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What would be in the journal."""
    stream = io.StringIO()
    logs.configure(Redactor(), form="json", stream=stream)
    yield stream
    structlog.reset_defaults()


def events(stream: io.StringIO, name: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, stream.getvalue().splitlines()) if line["event"] == name]


def row(number: int, status: str, **other: str) -> dict[str, str]:
    return {"node_name": f"a/b/{number}", "status": status, "file_name": f"x/y/{number}", "file_link": "", **other}


# --- the list of instances --------------------------------------------------------------------------------------------


def endless(nodes: int) -> Callable[[dict[str, Any]], Any]:
    """Return what makes each page of the list a full one of new instances, with so many nodes each."""
    numbers = count()

    def mangle(body: dict[str, Any]) -> Any:
        if "instances" not in body:
            return body
        page = [{"id": f"{number:032x}in02", "name": f"i{number}"} for number in (next(numbers) for _ in range(100))]
        group = {"type": "shard", "nodes": [{"id": "n"}] * nodes}
        return {"instances": [{**one, "groups": [group]} for one in page], "total_count": 10**9}

    return mangle


@pytest.mark.parametrize(("nodes", "what"), [(0, "20000 instances"), (1000, "200000 nodes")])
async def test_a_list_without_end_is_refused_and_the_fleet_stays(bed: Bed, nodes: int, what: str) -> None:
    async with bed.cloud(fleet=(single("one"), single("two"))) as sandbox:
        as_discovered(bed)
        async with bed.open() as service:
            before = await service.fleet()
            sandbox.faults.mangle = endless(nodes)
            after = await service.fleet()

            unlisted = service.unlisted()["sandbox"]
    assert ([one.name for one in before], after) == (["one", "two"], before)
    assert f"the cloud's reply holds more than {what}, with the pages before it: see endpoint" in unlisted


def as_discovered(bed: Bed) -> None:
    """Have the instances discovered, in place of named."""
    listed = bed.text[bed.text.index("instances:") :]
    bed.set(listed, f"instances:\n{DISCOVERED}\n")


async def test_ever_new_instances_are_refused_once_too_many_names_are_kept(bed: Bed, lines: io.StringIO) -> None:
    async with bed.cloud(fleet=(single("one"),)) as sandbox:
        as_discovered(bed)
        async with bed.open() as service:
            before = await service.fleet()
            ledger = bed.service._archive.ledger  # type: ignore[union-attr]
            many = {("sandbox", str(number)): str(number) for number in range(response_limits.MOST_KNOWN - 1)}
            await ledger.enter_names(many)
            again = await service.fleet()  # whom it knows already, it goes on with
            sandbox.faults.mangle = lambda body: body | {"instances": [*body["instances"], {"id": "x", "name": "y"}]}
            after = await service.fleet()

    assert [one.name for one in before] == ["one"]
    assert (again, after) == (before, before)
    (told,) = events(lines, "discovery.failed")
    assert "more than 40000 in all" in told["reason"]


async def test_a_list_that_changes_altogether_is_told_in_a_few_lines(bed: Bed, lines: io.StringIO) -> None:
    async with bed.cloud(fleet=tuple(single(f"one{number}") for number in range(50))):
        as_discovered(bed)
        async with bed.open() as service:
            fleet = await service.fleet()

    (left_out,) = events(lines, "lines.left_out")
    assert (len(fleet), len(events(lines, "instance.appeared"))) == (50, line_quota.MOST_LINES)
    assert left_out["events"] == {"instance.appeared": 30}


# --- exports ----------------------------------------------------------------------------------------------------------


async def test_replies_that_speak_of_ever_new_files_end_the_export(sandbox: Sandbox, bed: Bed) -> None:
    """A row that was prepared is remembered until the export ends."""
    numbers = count()
    sandbox.faults.mangle = lambda _: {
        "list": [row(next(numbers), "EXPORTING") for _ in range(response_limits.MAX_ROWS)]
    }

    report = await bed.collect()

    assert report.error_kind == "oversized"
    assert "more than 4000 files, with the replies before it" in report.error
    assert sandbox.calls["errorlog-download"] == 5


async def test_nodes_that_are_ever_new_are_refused(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    """Each would have a directory, a stream, and rows in the ledger that nothing removes."""
    numbers = count()

    def ready(_: dict[str, Any]) -> Any:
        found = [row(next(numbers), "SUCCESS", file_link="https://elsewhere/") for _ in range(response_limits.MAX_ROWS)]
        return {"list": found, "status": "FINISH"}

    sandbox.faults.mangle = ready
    kinds = []
    async with bed.open():
        for _ in range(6):
            report = await bed.collect()
            kinds.append(report.error_kind)
            clock.forward(hours=1)

    assert kinds == [None, None, None, None, "oversized", "oversized"]


async def test_replies_that_cycles_keep_are_bounded_for_each_cloud(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, b"a line\n")
    async with bed.open() as service:
        (account,) = service._accounts.all().values()
        account.api.held = response_limits.MOST_HELD  # by other cycles
        refused = await bed.collect()
        account.api.held = 0
        good = await bed.collect()

        assert account.api.held == 0
    assert ("more than 67108864 bytes, with those of other instances" in refused.error, good.stored) == (True, 1)


async def test_a_failure_in_a_thousand_rows_is_told_in_a_few_lines(
    sandbox: Sandbox, bed: Bed, lines: io.StringIO
) -> None:
    sandbox.faults.mangle = lambda _: {"list": [row(number, "FAILED") for number in range(1000)], "status": "FAILED"}

    report = await bed.collect()

    (left_out,) = events(lines, "lines.left_out")
    (done,) = events(lines, "cycle.done")
    assert (len(events(lines, "file.failed")), left_out["events"]) == (20, {"file.failed": 980})
    assert (done["failed"], len(report.failures), left_out["instance"]) == (1000, 1000, "solo")


async def test_what_a_large_reply_holds_is_read_beside_the_loop(
    sandbox: Sandbox, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is put in its place: it is looked where it runs."""
    threads: list[bool] = []
    read = dds.read_export

    def noted(body: bytes, *, request_id: str = "") -> ExportReply:
        threads.append(threading.current_thread() is threading.main_thread())
        return read(body, request_id=request_id)

    monkeypatch.setattr(dds, "DDS", replace(dds.DDS, read_export=noted))
    rows = [row(number, "FAILED") for number in range(1000)]
    for size in (1, 1000):
        sandbox.faults.mangle = lambda _, size=size: {"list": rows[:size], "status": "FAILED"}
        await bed.collect()

    assert threads == [True, False]


async def test_an_excess_of_one_instance_keeps_no_other_from_its_files(bed: Bed) -> None:
    async with bed.cloud(fleet=(single("one"), single("two"))) as sandbox:
        for each in sandbox.fleet:
            sandbox.write(each.nodes[0].name, b"a line\n")
        first = iter([True])

        def mangle(body: dict[str, Any]) -> Any:
            return {"list": [{}] * 1001} if next(first, False) else body

        sandbox.faults.mangle = mangle
        async with bed.open() as service:
            reports = [(await service.once([instance]))[0] for instance in bed.settings.fleet()]

    assert [one.outcome for one in reports] == [CycleOutcome.FAILED, CycleOutcome.OK]


# --- lines and names --------------------------------------------------------------------------------------------------


def test_of_each_kind_of_event_some_are_logged_and_all_are_counted() -> None:
    with limited() as quota:
        for _ in range(25):
            for event in ("a", "b"):
                passed(event)
        passed("c")
    told = [passed("a") for _ in range(30)]  # beyond the block nothing is limited

    assert (quota.rest, told) == ({"a": 5, "b": 5}, [True] * 30)


def passed(event: str) -> bool:
    try:
        within_quota(None, "info", {"event": event})
    except structlog.DropEvent:
        return False
    return True


@pytest.mark.parametrize(("number", "expected"), [(0, ""), (2, "0; 1"), (3, "0; 1; 1 more"), (9, "0; 1; 7 more")])
def test_of_many_texts_the_first_ones_are_in_a_line(number: int, expected: str) -> None:
    assert some([str(each) for each in range(number)], between="; ", most=2) == expected


def test_what_a_roster_has_seen_since_the_last_list_is_bounded(bed: Bed) -> None:
    """Where no list may be had, nothing else would end it."""
    node_registry, (kind,) = NodeRegistry(), bed.instance().logs
    rows: Sequence[Row] = ()
    for cycle in range(20):
        rows = dds.read_export(
            json.dumps({"list": [row(cycle * 1000 + number, "EXPORTING") for number in range(1000)]}).encode()
        ).rows
        node_registry.heard(bed.instance(), kind, rows)

    assert len(node_registry._seen["solo"]) <= response_limits.MOST_NODES + response_limits.MAX_ROWS
    assert node_registry.is_newer_than_list("solo", rows[-1].node)
