"""Made-up statuses, as the page and what serves it are shown them."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ddslogd.model.failure_kind import FailureKind
from ddslogd.monitoring.freshness import headline
from ddslogd.monitoring.status import CloudStatus, Disk, InstanceStatus, LastCycle, NextTick, State, Status, Transfer
from ddslogd.storage.ledger.status_queries import Failing, GapLine, NodeFacts, SnapshotLine

NOW = datetime(2026, 11, 24, 14, 12, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
REFUSED = (
    "the cloud refused the credentials of cloud europe with 401 since 13:02 UTC: check that the user exists and that "
    "the password in /etc/ddslogd/password is right (request id 0f5f0d9a8c1e4b7f9f21c6f0a4f9f9b1)"
)


def cycle(**fields: Any) -> LastCycle:
    """Return a cycle that ended well two minutes ago."""
    usual: dict[str, Any] = {
        "outcome": "ok",
        "started_at": NOW - 2 * MINUTE - timedelta(seconds=4),
        "finished_at": NOW - 2 * MINUTE,
        "took_s": 4.2,
        "stored": 3,
        "unchanged": 0,
        "failed": 0,
        "fetched_bytes": 180_000,
        "new_bytes": 146_000,
        "error": "",
    }
    return LastCycle(**usual | fields)


def instance(name: str = "orders", **fields: Any) -> InstanceStatus:
    """Return a fresh instance."""
    usual: dict[str, Any] = {
        "name": name,
        "id": "5a2c3e6f9d1b4c8a9e7f0d3b6a5c4e21in02",
        "cloud": "main",
        "state": State.FRESH,
        "why": "",
        "turn": "nobody's",
        "age_s": 120.0,
        "target_s": 2400.0,
        "last_success": NOW - 2 * MINUTE,
        "newest_line": NOW - 3 * MINUTE,
        "silent": False,
        "schedule": "every 20m",
        "next_tick": NOW + 8 * MINUTE,
        "running": False,
        "last_cycle": cycle(),
        "new_bytes": tuple(int(90_000 * (1 + ((place * 7) % 11) / 5)) for place in range(24)),
    }
    return InstanceStatus(**usual | fields)


def stale(name: str = "ledger", **fields: Any) -> InstanceStatus:
    """Return an instance whose credentials the cloud refuses."""
    usual: dict[str, Any] = {
        "cloud": "europe",
        "state": State.STALE,
        "why": f"no good cycle for 1h 10m (target 40m): {REFUSED}",
        "turn": "yours: fix the credentials",
        "age_s": 4200.0,
        "last_success": NOW - 70 * MINUTE,
        "newest_line": NOW - 72 * MINUTE,
        "last_cycle": cycle(outcome="failed", stored=0, failed=3, new_bytes=0, error=REFUSED),
        "new_bytes": (90_000, 120_000, 80_000, *(0 for _ in range(5))),
        "failures": (
            Failing(
                node="",
                log="error",
                kind=FailureKind.CREDENTIALS_REFUSED,
                since=NOW - 70 * MINUTE,
                last=NOW - 2 * MINUTE,
                times=4,
                reason=REFUSED,
            ),
        ),
    }
    return instance(name, **usual | fields)


def silent(name: str = "archive", **fields: Any) -> InstanceStatus:
    """Return an instance whose exports are fine and bring no new line."""
    usual: dict[str, Any] = {
        "silent": True,
        "newest_line": NOW - timedelta(hours=31),
        "last_cycle": cycle(stored=0, unchanged=3, new_bytes=0, fetched_bytes=0, took_s=1.1),
        "new_bytes": (0,) * 24,
    }
    return instance(name, **usual | fields)


def new(name: str = "billing-eu", **fields: Any) -> InstanceStatus:
    """Return an instance that never had a cycle."""
    usual: dict[str, Any] = {
        "state": State.NEW,
        "why": "it never had a cycle: its cycle has not begun yet",
        "age_s": None,
        "last_success": None,
        "newest_line": None,
        "last_cycle": None,
        "new_bytes": (),
        "next_tick": NOW + timedelta(seconds=40),
    }
    return instance(name, **usual | fields)


def nodes(name: str = "orders") -> tuple[NodeFacts, ...]:
    """Return the three nodes of a replica set; the second has a gap, the third nothing at all."""
    return (
        _node(name, 1, role="Primary"),
        _node(
            name,
            2,
            role="Secondary",
            gaps=(
                GapLine(
                    after=NOW - timedelta(hours=5),
                    until=NOW - timedelta(hours=4, minutes=41),
                    cause="window overflow",
                    noted_at=NOW - timedelta(hours=4, minutes=40),
                ),
                GapLine(after=None, until=None, cause="instance gone", noted_at=NOW - timedelta(days=3)),
            ),
        ),
        NodeFacts(name=f"{name}_replica_node_3", log="error", role="Hidden"),
    )


def _node(name: str, number: int, *, role: str, gaps: tuple[GapLine, ...] = ()) -> NodeFacts:
    full = f"{name}_replica_node_{number}"
    return NodeFacts(
        name=full,
        log="error",
        role=role,
        newest_line=NOW - 3 * MINUTE,
        stream=f"streams/{name}/{full}.log",
        stream_bytes=48_120_000,
        snapshots=tuple(
            SnapshotLine(
                path=f"snapshots/{name}/{full}/0f1e2d3c_errorlog_2026112413{place}322.20261124T13{place}322.599Z.log",
                size=1_530_000 + 1000 * place,
                stored_at=NOW - (2 + 20 * place) * MINUTE,
                first_at=NOW - timedelta(hours=6) - 20 * place * MINUTE,
                last_at=NOW - (3 + 20 * place) * MINUTE,
                verified=place != 3,  # one that nothing proves
                delta=place == 1,
            )
            for place in range(5)
        ),
        gaps=gaps,
    )


def transfer(of: str = "orders", **fields: Any) -> Transfer:
    """Return a transfer that is at two thirds."""
    usual: dict[str, Any] = {
        "instance": of,
        "node": f"{of}_replica_node_2",
        "log": "error",
        "file": "0f1e2d3c_errorlog_20261124141157322",
        "done": 27_900_000,
        "total": 41_943_040,
        "began_at": NOW - timedelta(seconds=9),
        "resumed": False,
        "bytes_per_second": 3_100_000.0,
    }
    return Transfer(**usual | fields)


def status(*instances: InstanceStatus, **fields: Any) -> Status:
    """Return a status of these instances, whose counts and headline fit them."""
    counts = {state: sum(one.state is state for one in instances) for state in State}
    fresh, late, young = counts[State.FRESH], counts[State.STALE], counts[State.NEW]
    usual: dict[str, Any] = {
        "version": "0.1.0",
        "now": NOW,
        "started_at": NOW - timedelta(days=3, hours=4),
        "headline": headline(fresh, late, young),
        "fresh": fresh,
        "stale": late,
        "new": young,
        "next_tick": NextTick(instance=instances[0].name, at=NOW + 8 * MINUTE) if instances else None,
        "instances": tuple(instances),
        "clouds": (
            CloudStatus(
                name="main",
                calls_per_minute=60,
                left=5,
                waiting=0,
                throttled=0,
                paused_until=None,
                credentials="ok",
                reachable=True,
            ),
        ),
        "disk": Disk(
            directory="/var/log/ddslogd",
            free=61_000_000_000,
            total=107_000_000_000,
            keep_free=5_368_709_120,
            parts=2,
            parts_bytes=31_000_000,
            below=False,
        ),
        "transfers": (),
        "loop_lag_s": 0.0021,
        "host": "collector-1",
    }
    return Status(**usual | fields)


def dozen(*, late: bool = False) -> Status:
    """Return a dozen instances of every kind; with ``late`` some of them are stale, and a cloud is in trouble."""
    names = ("orders", "audit", "events", "customers", "payments", "sessions", "catalogue", "reports-eu")
    few = [instance(name, new_bytes=_bytes(place), cloud=_cloud(place)) for place, name in enumerate(names)]
    few[2] = replace(few[2], running=True)
    few[4] = replace(few[4], gaps=2)
    few += [silent("archive"), silent("test-cluster", schedule="15 */2 * * * Europe/Berlin", target_s=14_400.0)]
    few += [stale("ledger"), _unprepared("invoices"), new()] if late else [instance("ledger"), instance("invoices")]
    transfers = (
        transfer("events"),
        transfer("events", node="events_shard_1_node_1", done=3_000_000, resumed=True),
        transfer("events", node="events_mongos_node_2", done=900_000, total=None, log="slow"),
    )
    return status(*few, transfers=transfers, clouds=_clouds(late=late))


def _unprepared(name: str) -> InstanceStatus:
    error = "the cloud could not prepare this file: wait for the next cycle (request id 7be1c05d4f2a)"
    return stale(
        name,
        age_s=3120.0,
        why=f"no good cycle for 52m (target 40m): only node {name}_replica_node_2 fails: {error}",
        turn="the cloud's: wait; if it stays, open a ticket with the request id",
        last_cycle=cycle(outcome="partial", stored=2, failed=1),
        failures=(
            Failing(
                node=f"{name}_replica_node_2",
                log="error",
                kind=FailureKind.EXPORT_FAILED,
                since=NOW - 42 * MINUTE,
                last=NOW - 2 * MINUTE,
                times=3,
                reason=error,
            ),
        ),
        new_bytes=_bytes(3),
    )


def _clouds(*, late: bool) -> tuple[CloudStatus, ...]:
    eu = CloudStatus(
        name="europe",
        calls_per_minute=60,
        left=0 if late else 6,
        waiting=4 if late else 0,
        throttled=12 if late else 0,
        paused_until=None,
        credentials="refused" if late else "ok",
        reachable=True,
    )
    return (*status().clouds, eu)


def _cloud(place: int) -> str:
    return "main" if place % 3 else "europe"


def _bytes(seed: int) -> tuple[int, ...]:
    chance = random.Random(seed)
    return tuple(int(chance.paretovariate(1.4) * 40_000) for _ in range(24))


def fleet(count: int) -> Status:
    """Return many instances: each 50th is stale, each 80th new, each 7th silent."""
    return status(*(_one_of_many(number) for number in range(count)), transfers=dozen().transfers)


def _one_of_many(number: int) -> InstanceStatus:
    name = f"shop-{number:05d}"
    if number % 50 == 0:
        return stale(name)
    if number % 80 == 1:
        return new(name)
    if number % 7 == 0:
        return silent(name)
    return instance(name, new_bytes=_bytes(number), age_s=float(number % 1200))
