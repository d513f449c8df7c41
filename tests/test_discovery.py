"""What the clouds list, matched against the configuration, and a fleet that is kept in line with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ddslogd import config
from ddslogd.discovery import judge, objection
from ddslogd.models import Every, ListedInstance, LogKind, Node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddslogd.discovery import Verdict

CLOUDS = """\
clouds:
  eu: {endpoint: https://dds.eu.example.com, project_id: p, auth: {method: token, token: {env: X}}}
  asia: {endpoint: https://dds.asia.example.com, project_id: q, auth: {method: token, token: {env: X}}}
instances:
"""
NODES = (Node(id="n", name="n1", group="shard", role="Primary"),)


def settings(*entries: str) -> config.Settings:
    return config.parse(CLOUDS + "".join(f"  - {entry}\n" for entry in entries), "f").settings


def listed(
    name: str, number: int = 1, *, mode: str = "ReplicaSet", status: str = "normal", **tags: str
) -> ListedInstance:
    return ListedInstance(
        id=f"{number:032x}in02", name=name, mode=mode, status=status, tags=tuple(tags.items()), nodes=NODES
    )


def names(verdicts: Sequence[Verdict]) -> list[str | None]:
    return [verdict.instance.name if verdict.instance else None for verdict in verdicts]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("{}", None),
        ("{include: [prod-*]}", None),
        ("{include: [test-*, '*-orders']}", None),
        ("{include: [test-*]}", "the name 'prod-orders' is not included"),
        ("{include: [PROD-*]}", "the name 'prod-orders' is not included"),
        ("{exclude: ['*-orders']}", "the name 'prod-orders' is excluded by '*-orders'"),
        ("{include: [prod-*], exclude: [prod-o*]}", "the name 'prod-orders' is excluded by 'prod-o*'"),
        ("{tags: {env: prod}}", None),
        ("{tags: {env: test}}", "the tag 'env' is 'prod', not 'test'"),
        ("{tags: {env: prod, team: dba}}", "the tag 'team' is 'not there', not 'dba'"),
        ("{modes: [ReplicaSet, Single]}", None),
        ("{modes: [Sharding]}", "the mode is ReplicaSet"),
        ("{statuses: [normal, data_disk_full]}", None),
        ("{statuses: [data_disk_full]}", "the status is normal"),
    ],
)
def test_a_rule_matches_or_says_why_not(rule: str, expected: str | None) -> None:
    ((_, entry),) = settings(f"{{discover: {rule}, cloud: eu}}").discover_entries("eu")

    assert objection(listed("prod-orders", env="prod"), entry.discover) == expected


def test_a_discovered_instance_has_the_entrys_schedule_and_logs() -> None:
    chosen = settings("{discover: {}, cloud: eu, every: 30m, logs: [error, slow]}")

    (verdict,) = judge(chosen, {"eu": [listed("orders")]})

    assert verdict.instance is not None
    schedule = verdict.instance.schedule
    assert (isinstance(schedule, Every), verdict.instance.logs) == (True, (LogKind.ERROR, LogKind.SLOW))


def test_the_first_entry_that_fits_takes_an_instance() -> None:
    chosen = settings("{discover: {include: [prod-*]}, cloud: eu}", "{discover: {}, cloud: eu}")

    verdicts = judge(chosen, {"eu": [listed("prod-a", 1), listed("test-b", 2)]})

    assert [verdict.entry for verdict in verdicts] == ["instances[0]", "instances[1]"]


def test_an_entry_discovers_in_its_own_cloud_only() -> None:
    chosen = settings("{discover: {}, cloud: eu}")

    verdicts = judge(chosen, {"eu": [listed("a", 1)], "asia": [listed("b", 2)]})

    assert names(verdicts) == ["a", None]


def test_an_entry_that_names_an_instance_wins() -> None:
    chosen = settings("{discover: {}, cloud: eu}", f"{{id: {1:032x}in02, name: mine, cloud: eu}}")

    (verdict,) = judge(chosen, {"eu": [listed("orders")]})

    assert (names([verdict]), verdict.entry) == (["mine"], "instances[1]")


def test_an_instance_that_an_entry_names_is_not_subject_to_rules() -> None:
    chosen = settings("{discover: {exclude: ['*']}, cloud: eu}", f"{{id: {1:032x}in02, name: mine, cloud: eu}}")

    assert names(judge(chosen, {"eu": [listed("orders")]})) == ["mine"]


def test_where_no_entry_fits_each_one_says_why() -> None:
    chosen = settings("{discover: {include: [x]}, cloud: eu}", "{discover: {modes: [Single]}, cloud: eu}")

    (verdict,) = judge(chosen, {"eu": [listed("orders")]})

    assert verdict.reasons == (
        "instances[0]: the name 'orders' is not included",
        "instances[1]: the mode is ReplicaSet",
    )


def test_instances_of_one_name_are_told_apart_by_their_ids() -> None:
    """Also across clouds, since their files lie in one directory."""
    chosen = settings("{discover: {}, cloud: eu}", "{discover: {}, cloud: asia}")
    listings = {"eu": [listed("orders", 0x1 << 96)], "asia": [listed("orders", 0x2 << 96), listed("other", 3)]}

    assert names(judge(chosen, listings)) == ["orders-00000001", "orders-00000002", "other"]


def test_a_name_that_an_entry_gives_to_another_is_told_apart_too() -> None:
    chosen = settings("{discover: {}, cloud: eu}", f"{{id: {9:032x}in02, name: orders, cloud: eu}}")

    assert names(judge(chosen, {"eu": [listed("orders", 0x1 << 96)]})) == ["orders-00000001"]


def test_an_instance_without_a_name_is_called_by_its_id() -> None:
    assert names(judge(settings("{discover: {}, cloud: eu}"), {"eu": [listed("", 0x1 << 96)]})) == ["00000001"]
