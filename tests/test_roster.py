"""Which nodes an instance has, and which of them an export leaves out."""

from __future__ import annotations

from datetime import timedelta

import pytest
import structlog

from ddslogd.models import Every, Instance, LogKind, Node, Row, RowState
from ddslogd.roster import Roster

MONGOS = Node(id="1" * 32 + "no02", name="mongos", group="mongos", role="master")
SHARD = Node(id="2" * 32 + "no02", name="shard", group="shard", role="Primary")
INSTANCE = Instance(id="x", name="orders", cloud="eu", schedule=Every(interval=timedelta(minutes=20)))


@pytest.fixture
def roster() -> Roster:
    roster = Roster()
    roster.enter("orders", [MONGOS, SHARD])
    return roster


def instance(*node_ids: str) -> Instance:
    return Instance(
        id="x", name="orders", cloud="eu", node_ids=node_ids, schedule=Every(interval=timedelta(minutes=20))
    )


def row(node: str, file_name: str = "f") -> Row:
    return Row(node=node, file_name=file_name, state=RowState.PENDING)


def warned(roster: Roster, kind: LogKind, *exports: list[Row]) -> list[str]:
    with structlog.testing.capture_logs() as events:
        for rows in exports:
            roster.heard(INSTANCE, kind, rows)
    return [event["node"] for event in events]


def test_without_named_nodes_all_are_asked_for(roster: Roster) -> None:
    assert roster.limited(INSTANCE, LogKind.SLOW) == INSTANCE


def test_nodes_that_have_no_such_log_are_not_asked_for(roster: Roster) -> None:
    asked = [roster.limited(instance(MONGOS.id, SHARD.id), kind) for kind in (LogKind.ERROR, LogKind.SLOW)]

    assert asked == [instance(MONGOS.id, SHARD.id), instance(SHARD.id)]


def test_where_no_node_is_left_nothing_is_asked_for(roster: Roster) -> None:
    assert roster.limited(instance(MONGOS.id), LogKind.SLOW) is None


def test_nodes_that_are_not_known_are_asked_for() -> None:
    assert Roster().limited(instance(MONGOS.id), LogKind.SLOW) == instance(MONGOS.id)


def test_a_node_without_a_row_is_warned_of_once_after_three_exports(roster: Roster) -> None:
    assert warned(roster, LogKind.ERROR, *[[row("mongos")]] * 9) == ["shard"]


def test_a_row_in_between_begins_the_count_anew(roster: Roster) -> None:
    without, with_both = [row("mongos")], [row("mongos"), row("shard")]

    assert warned(roster, LogKind.ERROR, without, without, with_both, without, without) == []


def test_a_row_may_tell_its_node_by_the_file_name_only(roster: Roster) -> None:
    rows = [row("renamed", f"p_{SHARD.id}_errorlog_1"), row("mongos")]

    assert warned(roster, LogKind.ERROR, rows, rows, rows) == []


def test_a_mongos_is_not_missed_in_slow_logs(roster: Roster) -> None:
    rows = [row("shard")]

    assert warned(roster, LogKind.SLOW, rows, rows, rows) == []


def test_of_nodes_that_were_not_asked_for_nothing_is_said(roster: Roster) -> None:
    with structlog.testing.capture_logs() as events:
        for _ in range(3):
            roster.heard(instance(MONGOS.id), LogKind.ERROR, [row("mongos")])

    assert events == []
