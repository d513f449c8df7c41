"""Which nodes an instance has, and which of them an export leaves out."""

from __future__ import annotations

from datetime import timedelta

import pytest
import structlog

from ddslogd.collection.node_registry import NodeRegistry
from ddslogd.model.export import Row, RowState
from ddslogd.model.instance import Every, Instance, LogKind, Node

MONGOS = Node(id="1" * 32 + "no02", name="mongos", group="mongos", role="master")
SHARD = Node(id="2" * 32 + "no02", name="shard", group="shard", role="Primary")
INSTANCE = Instance(id="x", name="orders", cloud="eu", schedule=Every(interval=timedelta(minutes=20)))


@pytest.fixture
def node_registry() -> NodeRegistry:
    node_registry = NodeRegistry()
    node_registry.enter("orders", [MONGOS, SHARD])
    return node_registry


def instance(*node_ids: str) -> Instance:
    return Instance(
        id="x", name="orders", cloud="eu", node_ids=node_ids, schedule=Every(interval=timedelta(minutes=20))
    )


def row(node: str, file_name: str = "f") -> Row:
    return Row(node=node, file_name=file_name, state=RowState.PENDING)


def warned(node_registry: NodeRegistry, kind: LogKind, *exports: list[Row]) -> list[str]:
    with structlog.testing.capture_logs() as events:
        for rows in exports:
            node_registry.heard(INSTANCE, kind, rows)
    return [event["node"] for event in events]


def test_without_named_nodes_all_are_asked_for(node_registry: NodeRegistry) -> None:
    assert node_registry.limited(INSTANCE, LogKind.SLOW) == INSTANCE


def test_nodes_that_have_no_such_log_are_not_asked_for(node_registry: NodeRegistry) -> None:
    asked = [node_registry.limited(instance(MONGOS.id, SHARD.id), kind) for kind in (LogKind.ERROR, LogKind.SLOW)]

    assert asked == [instance(MONGOS.id, SHARD.id), instance(SHARD.id)]


def test_where_no_node_is_left_nothing_is_asked_for(node_registry: NodeRegistry) -> None:
    assert node_registry.limited(instance(MONGOS.id), LogKind.SLOW) is None


def test_nodes_that_are_not_known_are_asked_for() -> None:
    assert NodeRegistry().limited(instance(MONGOS.id), LogKind.SLOW) == instance(MONGOS.id)


def test_a_node_without_a_row_is_warned_of_once_after_three_exports(node_registry: NodeRegistry) -> None:
    assert warned(node_registry, LogKind.ERROR, *[[row("mongos")]] * 9) == ["shard"]


def test_a_row_in_between_begins_the_count_anew(node_registry: NodeRegistry) -> None:
    without, with_both = [row("mongos")], [row("mongos"), row("shard")]

    assert warned(node_registry, LogKind.ERROR, without, without, with_both, without, without) == []


def test_a_row_may_tell_its_node_by_the_file_name_only(node_registry: NodeRegistry) -> None:
    rows = [row("renamed", f"p_{SHARD.id}_errorlog_1"), row("mongos")]

    assert warned(node_registry, LogKind.ERROR, rows, rows, rows) == []


def test_a_mongos_is_not_missed_in_slow_logs(node_registry: NodeRegistry) -> None:
    rows = [row("shard")]

    assert warned(node_registry, LogKind.SLOW, rows, rows, rows) == []


def test_of_nodes_that_were_not_asked_for_nothing_is_said(node_registry: NodeRegistry) -> None:
    with structlog.testing.capture_logs() as events:
        for _ in range(3):
            node_registry.heard(instance(MONGOS.id), LogKind.ERROR, [row("mongos")])

    assert events == []


# --- the list, as far as it is to be believed -------------------------------------------------------------------------


def test_a_list_that_could_not_be_had_this_time_says_nothing_of_nodes(node_registry: NodeRegistry) -> None:
    """But which of them have no slow log is known for ever."""
    node_registry.outdate(["orders"])

    assert (node_registry.listed("orders"), node_registry.nodes("orders")) == ((), (MONGOS, SHARD))


def test_a_list_that_comes_again_is_believed_again(node_registry: NodeRegistry) -> None:
    node_registry.outdate(["orders"])
    node_registry.enter("orders", [SHARD])

    assert node_registry.listed("orders") == (SHARD,)


def test_a_node_that_had_a_file_since_the_list_may_be_younger(node_registry: NodeRegistry) -> None:
    node_registry.heard(INSTANCE, LogKind.ERROR, [row("young")])
    before = node_registry.is_newer_than_list("orders", "young")
    node_registry.enter("orders", [SHARD])

    assert (before, node_registry.is_newer_than_list("orders", "young")) == (True, False)


@pytest.mark.parametrize("named", [SHARD.id, SHARD.name])
def test_a_node_that_is_named_elsewhere_is_not_warned_of(node_registry: NodeRegistry, named: str) -> None:
    with structlog.testing.capture_logs() as events:
        for _ in range(9):
            node_registry.heard(INSTANCE, LogKind.ERROR, [row("mongos")], named={named})

    assert events == []
