"""How fresh an instance is, why it is not, and who has to act: judged by what the ledger holds."""

from __future__ import annotations

import ctypes
import os
import re
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.model.cycle import CycleOutcome, CycleReport, Failed
from ddslogd.model.errors import ConfigError
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.instance import Cron, Every, Instance, LogKind, Node
from ddslogd.model.snapshot import LogFile, Snapshot, Stored, Unchanged
from ddslogd.model.stream import Advance
from ddslogd.monitoring import freshness, status, status_json
from ddslogd.monitoring.freshness import Yardstick, judged
from ddslogd.monitoring.status import Live, State
from ddslogd.monitoring.status_reader import cleaned, recorded
from ddslogd.storage.ledger import database, status_queries
from ddslogd.storage.ledger.database import MIGRATIONS
from ddslogd.storage.ledger.snapshot_records import Ledger
from ddslogd.storage.ledger.status_queries import Failing, LedgerFacts, Standing
from ddslogd.storage.snapshots.store import claim, is_claimed
from support import sample_status
from support.clocks import START
from support.live_status import EU, GOOD, LIVE, MINUTE, ORDERS, ROOM, failing
from support.places import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.testbed import Bed


def judge(
    stands: Standing | None = GOOD,
    *failures: Failing,
    live: Live | None = LIVE,
    instance: Instance = ORDERS,
    unasked: bool = False,
) -> status.Status:
    books = LedgerFacts(
        standings={} if stands is None else {instance.name: stands},
        failures={instance.name: failures} if failures else {},
    )
    yardstick = Yardstick(factor=2, fresh_for=15 * MINUTE)
    return judged((instance,), books, live, ROOM, now=START, yardstick=yardstick, version="1", unasked=unasked)


def one(*arguments: Any, **keywords: Any) -> status.InstanceStatus:
    return judge(*arguments, **keywords).instances[0]


@pytest.mark.parametrize(
    ("minutes", "state"), [(0, State.FRESH), (40, State.FRESH), (40.001, State.STALE), (9000, State.STALE)]
)
def test_it_is_fresh_up_to_twice_its_schedule_after_its_last_good_cycle(minutes: float, state: State) -> None:
    found = one(replace(GOOD, good_at=START - minutes * MINUTE))

    assert found.age_s == pytest.approx(minutes * 60)
    assert (found.state, found.target_s) == (state, 2400)


def test_a_good_cycle_in_the_future_is_one_of_now() -> None:
    """The clock was set back."""
    assert one(replace(GOOD, good_at=START + MINUTE)).age_s == 0


@pytest.mark.parametrize(
    ("schedule", "target"),
    [
        (Every(interval=timedelta(hours=1)), timedelta(hours=2)),
        (Every(interval=timedelta(minutes=5)), timedelta(minutes=30)),
        (Cron(expression="0 8 * * 1-5", timezone="UTC"), timedelta(days=6)),
        (Cron(expression="*/30 8-18 * * 1-5", timezone="UTC"), timedelta(hours=123)),
        (Cron(expression="0 3 * * *", timezone="Europe/Berlin"), timedelta(days=2)),
        (Cron(expression="*/30 * * * *", timezone="UTC"), timedelta(hours=1)),
        (Cron(expression="0 0 1 * *", timezone="UTC"), timedelta(days=62)),
    ],
    ids=[
        "every",
        "below what the cloud serves again",
        "over a week-end",
        "in office hours",
        "daily",
        "often",
        "monthly",
    ],
)
def test_the_target_is_twice_the_usual_interval(schedule: Every | Cron, target: timedelta) -> None:
    """Of cron the longest time between its next runs; the cloud makes no export sooner than ``fresh_for``."""
    assert one(instance=replace(ORDERS, schedule=schedule)).target_s == target.total_seconds()


def test_a_silent_database_is_fresh_and_told_from_a_failed_collector() -> None:
    silent = one(replace(GOOD, quiet=1))
    failed = one(
        replace(GOOD, quiet=0, outcome="failed", good_at=START - 41 * MINUTE), failing("unavailable", "no reply")
    )

    assert (silent.state, silent.silent, silent.why, silent.turn) == (State.FRESH, True, "", "nobody's")
    assert (failed.state, failed.silent, failed.turn) == (State.STALE, False, "the cloud's: wait")
    assert failed.why == "no good cycle for 41m (target 40m): no reply"


def test_one_that_wrote_and_one_that_failed_is_not_silent() -> None:
    assert not one(GOOD).silent
    assert not one(replace(GOOD, quiet=3), failing("unavailable")).silent
    assert not one(replace(GOOD, quiet=3, good_at=START - timedelta(days=1))).silent


@pytest.mark.parametrize(
    ("kind", "turn"),
    [
        ("credentials_refused", "yours: fix the credentials"),
        ("not_allowed", "yours: grant the permission that the error names"),
        ("gone", "yours: take the instance or node out of the configuration"),
        ("misdirected", "yours: correct endpoint, region or project"),
        ("foreign_answer", "yours: see the proxy and the firewall on the way to the cloud"),
        ("storage_error", "yours: see the disk"),
        ("unavailable", "the cloud's: wait"),
        ("throttled", "the cloud's: wait"),
        ("interrupted", "the cloud's: wait"),
    ],
)
def test_each_kind_of_failure_says_whose_turn_it_is(kind: str, turn: str) -> None:
    assert one(replace(GOOD, outcome="failed"), failing(kind)).turn == turn


def test_of_several_failures_the_operators_own_is_told() -> None:
    found = one(
        replace(GOOD, good_at=None), failing("unavailable", "no reply"), failing("not_allowed", "grant dds:log:list")
    )

    assert (found.why, found.turn[:5]) == ("it never had a good cycle: grant dds:log:list", "yours")


def of_node(node: str, *, log: str = "error") -> Failing:
    return replace(failing("export_failed", "it could not be prepared"), node=node, log=log)


PARTIAL_NOW = replace(GOOD, good_at=START - 50 * MINUTE, outcome="partial", stored=2, failed=1)


@pytest.mark.parametrize(
    ("stands", "failures", "said"),
    [
        (PARTIAL_NOW, [of_node("n2")], "only node n2 fails"),
        (PARTIAL_NOW, [of_node("n2", log="slow")], "only node n2 (slow log) fails"),
        (PARTIAL_NOW, [of_node("n2"), of_node("n2", log="slow")], "only node n2 fails"),
        (PARTIAL_NOW, [of_node("n2"), of_node("n3")], "only 2 nodes fail, one of them n2"),
        (replace(PARTIAL_NOW, stored=0, unchanged=2), [of_node("n2")], "only node n2 fails"),
        (replace(PARTIAL_NOW, stored=0), [of_node("n2")], "node n2 fails"),
        (PARTIAL_NOW, [of_node("n2"), failing("Zzz", "cut")], "node n2 fails"),
    ],
    ids=["one", "of one kind of log", "both kinds", "two", "others unchanged", "nothing came", "a whole export too"],
)
def test_what_fails_of_a_node_is_told_by_its_name(stands: Standing, failures: list[Failing], said: str) -> None:
    """And that nothing else fails, where the last cycle shows it."""
    assert one(stands, *failures).why == f"no good cycle for 50m (target 40m): {said}: it could not be prepared"


def test_what_fails_of_all_nodes_is_told_of_none() -> None:
    assert one(PARTIAL_NOW, failing("unavailable", "no reply")).why == "no good cycle for 50m (target 40m): no reply"


@pytest.mark.parametrize(
    ("kind", "owner"),
    [
        ("credentials_refused", "operator"),
        ("no_room", "operator"),
        ("ledger_damaged", "nobody"),
        ("left_out", "cloud"),
        ("unavailable", "cloud"),
    ],
)
def test_who_has_to_act_is_a_word_for_programs_too(kind: str, owner: str) -> None:
    judged = one(replace(GOOD, good_at=None), failing(kind))

    assert (judged.owner.value, judged.turn.partition(":")[0]) == (
        owner,
        {"operator": "yours", "nobody": "nobody's", "cloud": "the cloud's"}[owner],
    )


def test_a_full_disk_is_the_operators_turn() -> None:
    found = one(replace(GOOD, outcome="no_room", good_at=START - 50 * MINUTE))

    assert found.why == "no good cycle for 50m (target 40m): the disk is below storage.keep_free"
    assert found.turn == "yours: make room on the disk"


def test_calls_that_wait_are_the_operators_turn_and_a_pause_is_the_clouds() -> None:
    late = replace(GOOD, good_at=START - 50 * MINUTE)
    waiting = replace(LIVE, clouds=(replace(EU, waiting=9),))
    paused = replace(LIVE, clouds=(replace(EU, waiting=9, paused_until=START),))

    turns = [one(late, live=live).turn for live in (LIVE, waiting, paused)]
    assert turns == ["nobody's", "yours: raise calls_per_minute, or give longer schedules", "the cloud's: wait"]


def test_one_that_never_had_a_cycle_is_new_until_its_target_has_passed() -> None:
    """Since the start, or since it was discovered."""
    young = replace(LIVE, started_at=START - 40 * MINUTE)
    old = replace(LIVE, started_at=START - 41 * MINUTE)
    discovered = replace(old, known_since={"orders": START - MINUTE})

    states = [one(None, live=live).state for live in (young, old, discovered)]
    assert states == [State.NEW, State.STALE, State.NEW]
    assert one(None, live=old).why == "it never had a cycle: its cycle has not begun yet"


def test_one_whose_first_cycle_failed_is_stale_at_once() -> None:
    assert one(replace(GOOD, good_at=None, outcome="failed"), failing("unavailable")).state is State.STALE


def test_without_a_daemon_the_turn_is_the_operators() -> None:
    found = judge(None, live=None)

    assert found.headline == "1 of 1 instance stale; no daemon runs"
    assert (found.instances[0].state, found.instances[0].turn) == (State.STALE, "yours: start ddslogd")
    assert found.started_at is None


def test_a_daemon_that_cannot_be_asked_is_not_called_absent() -> None:
    found = judge(None, live=None, unasked=True)

    assert found.headline == "0 of 1 instance fresh, 1 new; read from the ledger, the daemon could not be asked"


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((12, 0, 0), "All 12 instances fresh"),
        ((1, 0, 0), "The instance is fresh"),
        ((10, 2, 0), "2 of 12 instances stale"),
        ((10, 0, 2), "10 of 12 instances fresh, 2 new"),
        ((9, 1, 2), "1 of 12 instances stale"),
        ((0, 0, 0), "No instances"),
    ],
)
def test_the_headline_says_it_in_words(counts: tuple[int, int, int], said: str) -> None:
    assert freshness.headline(*counts) == said


def test_the_line_for_systemd_says_that_all_is_well_and_when_it_goes_on() -> None:
    assert freshness.one_line(judge()) == f"1/1 instances fresh, next at {(START + MINUTE).astimezone():%H:%M}"


def test_the_line_for_systemd_counts_as_the_page_does_and_names_what_is_stale_first() -> None:
    """An instance that begins to fail is fresh until it is too old: told of, but only where none is stale."""
    failing = sample_status.instance(
        "archive", failures=(replace(sample_status.stale().failures[0], reason="it is gone"),)
    )
    late, unknown = sample_status.stale("orders"), sample_status.new("events")

    said = [
        freshness.one_line(sample_status.status(*instances, next_tick=None))
        for instances in ((failing, unknown), (failing, late, unknown))
    ]

    assert said == [
        "1/2 instances fresh, 1 not asked yet, archive: it is gone",
        f"1/3 instances fresh, 1 not asked yet, orders: {late.why}",
    ]


def test_the_next_tick_is_the_first_of_all() -> None:
    assert judge().next_tick == status.NextTick(instance="orders", at=START + MINUTE)


def test_the_object_has_times_in_utc_and_no_nodes_unless_asked() -> None:
    found = status_json.as_object(judge())
    whole = status_json.as_object(judge(), nodes=True)

    assert found["now"] == "2026-01-02T03:04:05.000+00:00"
    assert found["instances"][0]["state"] == "fresh"
    assert found["instances"][0]["last_cycle"]["took_s"] == 60
    assert ("nodes" in found["instances"][0], whole["instances"][0]["nodes"]) == (False, [])


# --- what the ledger keeps --------------------------------------------------------------------------------------------


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    books = Ledger(tmp_path)
    await books.open()
    yield books
    await books.close()


def file(node: str = "n1", *, log: LogKind = LogKind.ERROR, hours: int = 0) -> LogFile:
    updated_at = START + timedelta(hours=hours)
    return LogFile(instance="orders", log=log, node=node, file_name="mongod.log", updated_at=updated_at)


def snapshot(of: LogFile) -> Snapshot:
    ending = ".slow.log" if of.log is LogKind.SLOW else ".log"
    key = f"snapshots/orders/{of.node}/mongod.log.{of.updated_at:%Y%m%dT%H%M%S}.000Z{ending}"
    return Snapshot(
        file=of,
        key=key,
        path=key,
        size=100,
        md5="",
        etag="",
        verified=True,
        began_at=START,
        stored_at=of.updated_at,
        last_at=of.updated_at - MINUTE,
    )


def cycle(outcome: CycleOutcome, minute: int, new: int | None = None) -> CycleReport:
    """Return a cycle that ends at a minute, and brings so many new bytes; None: the cloud's files were unchanged."""
    of = file(hours=minute)
    advance = Advance(file=of, new=new or 0, window=100, full=False, took=None)
    outcomes: dict[CycleOutcome, Any] = {
        CycleOutcome.OK: Stored(snapshot=snapshot(of), fetched=5) if new is not None else Unchanged(file=of),
        CycleOutcome.PARTIAL: Failed(node="n1", file_name="f", reason="cut", kind=FailureKind.INTERRUPTED),
    }
    return CycleReport(
        instance="orders",
        started_at=START + minute * MINUTE - MINUTE / 2,
        finished_at=START + minute * MINUTE,
        outcome=outcome,
        outcomes=[outcomes[outcome]] if outcome in outcomes else [],
        advances=[advance] if new is not None else [],
        error="no reply" if outcome is CycleOutcome.FAILED else "",
        error_kind=FailureKind.UNAVAILABLE if outcome is CycleOutcome.FAILED else None,
    )


async def stand(ledger: Ledger, *reports: CycleReport) -> Standing:
    for report in reports:
        await ledger.close_cycle(report, tick=report.started_at)
    with database.reading(ledger.path) as db:
        return status_queries.books(db).standings["orders"]


@contextmanager
def somebody_else() -> Iterator[None]:
    """Let this thread touch files as a user who owns none, where it is root's; see setfsuid(2)."""
    libc = ctypes.CDLL(None)
    own = libc.setfsuid(65534)
    try:
        yield
    finally:
        libc.setfsuid(own)


@pytest.mark.parametrize("in_use", [True, False])
async def test_the_ledger_can_be_read_by_who_may_only_read_it(*, in_use: bool) -> None:
    """Also where its last entries are in the file next to it, and where that file would have to be made."""
    with TemporaryDirectory() as name:  # the way to tmp_path is its owner's alone
        directory = Path(name)
        directory.chmod(0o755)
        ledger = Ledger(directory)
        await ledger.close_cycle(cycle(OK, 1), tick=START)
        if not in_use:
            await ledger.close()
        directory.chmod(0o555)
        for path in directory.iterdir():
            path.chmod(0o444)
        with somebody_else():
            with pytest.raises(PermissionError):
                (directory / "another").touch()
            with database.reading(ledger.path) as db:
                found = status_queries.books(db).standings
        directory.chmod(0o755)
        if in_use:
            await ledger.close()

    assert list(found) == ["orders"]


OK, NOTHING, PARTIAL, FAILED, CACHED, NO_ROOM = (
    CycleOutcome.OK,
    CycleOutcome.NOTHING,
    CycleOutcome.PARTIAL,
    CycleOutcome.FAILED,
    CycleOutcome.CACHED,
    CycleOutcome.NO_ROOM,
)


@pytest.mark.parametrize("outcome", [OK, NOTHING])
async def test_a_good_cycle_is_the_last_good_one(ledger: Ledger, outcome: CycleOutcome) -> None:
    found = await stand(ledger, cycle(OK, 1, 5), cycle(outcome, 21))

    assert found.good_at == START + 21 * MINUTE


@pytest.mark.parametrize("outcome", [PARTIAL, FAILED, CACHED, NO_ROOM])
async def test_what_brought_no_whole_export_is_not_the_last_good_cycle(ledger: Ledger, outcome: CycleOutcome) -> None:
    """A cached one rests on the export before: that is how old the lines are."""
    found = await stand(ledger, cycle(OK, 1, 5), cycle(outcome, 21))

    assert (found.good_at, found.outcome) == (START + MINUTE, outcome.value)


async def test_a_failure_that_lasts_longer_than_cycles_are_kept_leaves_the_last_success(ledger: Ledger) -> None:
    found = await stand(ledger, cycle(OK, 1, 5), *(cycle(FAILED, minute) for minute in range(2, 130)))

    assert found.good_at == START + MINUTE


async def test_good_cycles_without_new_lines_are_counted(ledger: Ledger) -> None:
    """Fresh lines end it, and so does a failure, after which nothing is known; a cached cycle says nothing of it."""
    steps = [
        (cycle(OK, 1, 5), 0),
        (cycle(OK, 2, 0), 1),
        (cycle(OK, 3), 2),
        (cycle(CACHED, 4), 2),
        (cycle(NOTHING, 5), 3),
        (cycle(FAILED, 6), 0),
        (cycle(OK, 7), 1),
        (cycle(OK, 8, 9), 0),
    ]

    quiet = [(await stand(ledger, report)).quiet for report, _ in steps]
    assert quiet == [expected for _, expected in steps]


async def test_the_last_24_cycles_tell_what_they_brought(ledger: Ledger) -> None:
    found = await stand(ledger, *(cycle(OK, minute, minute) for minute in range(1, 31)), cycle(CACHED, 31))

    assert (found.new_bytes, found.last_new_bytes) == (tuple(range(7, 31)), 0)


async def test_the_newest_line_is_known_without_streams_too(ledger: Ledger) -> None:
    """And an export that ends earlier does not take it back."""
    found = await stand(ledger, cycle(OK, 3, 5), cycle(OK, 2, 5))

    assert found.newest_line == START + timedelta(hours=3) - MINUTE


async def test_instances_that_are_gone_from_the_configuration_are_forgotten(ledger: Ledger) -> None:
    await stand(ledger, cycle(OK, 1, 5))
    await ledger.forget_instances({"events"})

    with database.reading(ledger.path) as db:
        assert status_queries.books(db).standings == {}


async def test_a_node_has_its_newest_snapshots_and_its_role(ledger: Ledger) -> None:
    for hour in range(7):
        await ledger.enter(snapshot(file(hours=hour)))
    await ledger.enter(snapshot(file(log=LogKind.SLOW)))
    await ledger.enter_nodes(
        {"orders": [Node(id=f"{n}no02", name=f"n{n}", group="replica", role="Primary") for n in (1, 2)]}
    )

    with database.reading(ledger.path) as db:
        nodes = status_queries.books(db, nodes_of="orders").nodes["orders"]
        whole = status_queries.books(db, all_nodes=True).nodes
        none = status_queries.books(db).nodes
    told = [(node.name, node.log, node.role, len(node.snapshots)) for node in nodes]
    assert told == [("n1", "error", "Primary", 5), ("n1", "slow", "Primary", 1), ("n2", "error", "Primary", 0)]
    assert nodes[0].snapshots[0].stored_at == START + timedelta(hours=6)
    assert (whole, none) == ({"orders": nodes}, {})


async def test_what_fails_of_a_node_is_with_that_node_also_where_it_never_had_a_file(ledger: Ledger) -> None:
    report = cycle(OK, 1, 5)
    failed = Failed(node="n2", file_name="", reason="it could not be prepared", kind=FailureKind.EXPORT_FAILED)
    await ledger.enter(snapshot(file(hours=1)))
    await stand(ledger, replace(report, outcome=PARTIAL, outcomes=[*report.outcomes, failed]))

    with database.reading(ledger.path) as db:
        nodes = status_queries.books(db, nodes_of="orders").nodes["orders"]
    told = [(node.name, node.state, node.failure and node.failure.reason, len(node.snapshots)) for node in nodes]
    assert told == [("n1", "", None, 1), ("n2", "failing", "it could not be prepared", 0)]
    assert nodes[1].state_since == START + MINUTE


def test_no_secret_is_in_what_fails_of_a_node() -> None:
    broken = replace(of_node("n2"), reason="the token is s3cret")
    shown = sample_status.instance(
        failures=(broken,), nodes=(status_queries.NodeFacts(name="n2", log="error", failure=broken),)
    )

    found = cleaned(sample_status.status(shown), lambda text: text.replace("s3cret", "[redacted]"))

    assert "s3cret" not in str(status_json.as_object(found, nodes=True))


def test_an_older_ledger_is_brought_up_with_what_its_cycles_tell(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        for number, schema in enumerate(MIGRATIONS[:3], start=1):
            db.executescript(f"{schema} PRAGMA user_version = {number};")
        rows = [("orders", "ok", 1000), ("orders", "failed", 2000), ("events", "failed", 3000)]
        db.executemany(
            "INSERT INTO cycles (instance, tick_ms, started_ms, finished_ms, outcome, stored, unchanged, failed,"
            " stored_bytes, fetched_bytes, error) VALUES (?, 0, 0, ?, ?, 0, 0, 0, 0, 0, '')",
            [(name, ms, outcome) for name, outcome, ms in rows],
        )
        db.commit()

    db, _ = database.connect(path)
    with closing(db):
        found = status_queries.books(db).standings
    told = {name: (one.good_at and one.good_at.timestamp(), one.outcome, one.quiet) for name, one in found.items()}
    assert told == {"orders": (1.0, "failed", 0), "events": (None, "failed", 0)}


# --- without a daemon -------------------------------------------------------------------------------------------------


async def test_the_ledger_alone_says_how_it_stood(bed: Bed) -> None:
    bed.sandbox.write("solo_single_node_1", b"2026-01-02T03:04:04.000+0000 E STORAGE  [conn1] one\n")
    await bed.collect()

    found = recorded(bed.settings, now=bed.clock.now())

    assert (found.headline, found.instances[0].state) == ("The instance is fresh; no daemon runs", State.FRESH)
    assert found.instances[0].newest_line == START - timedelta(seconds=1)


async def test_a_daemon_that_runs_is_seen_by_its_claim(bed: Bed) -> None:
    async with bed.open():
        await bed.collect()
        found = recorded(bed.settings, now=bed.clock.now())

    assert found.headline == "The instance is fresh; read from the ledger, the daemon could not be asked"


def test_a_claim_is_seen_by_others_without_one_of_their_own(tmp_path: Path) -> None:
    before = is_claimed(tmp_path)
    descriptor = claim(tmp_path)
    meanwhile = is_claimed(tmp_path)
    os.close(descriptor)

    assert (before, meanwhile, is_claimed(tmp_path)) == (False, True, False)


async def test_parts_that_were_left_are_counted(bed: Bed) -> None:
    await bed.collect()
    part = bed.directory / "snapshots" / "solo" / "n" / ".mongod.log.20260102T030405.000Z.log.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"12345")

    found = recorded(bed.settings, now=bed.clock.now()).disk

    assert (found.parts, found.parts_bytes) == (1, 5)


def test_an_older_ledger_asks_for_the_daemon(bed: Bed) -> None:
    bed.state.mkdir(parents=True)
    with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db:
        db.executescript(f"{MIGRATIONS[0]} PRAGMA user_version = 1;")

    with pytest.raises(ConfigError, match="start the daemon once first"):
        recorded(bed.settings, now=START)


KINDS = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)
UNWRITTEN = {FailureKind.CONFIG_ERROR, FailureKind.LOCKED, FailureKind.UNKNOWN_NODE, FailureKind.UNKNOWN}


def test_the_operations_manual_says_of_every_kind_of_failure_who_has_to_act() -> None:
    """Of all that a cycle, a file or a node can fail with."""
    named = KINDS.findall((ROOT / "systemd/README.md").read_text())

    assert set(FailureKind) - UNWRITTEN - set(named) == set()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Every(interval=timedelta(minutes=20)), "every 20m"),
        (Every(interval=timedelta(hours=1, minutes=30)), "every 1h 30m"),
        (Cron(expression="*/20 * * * *", timezone="UTC"), "*/20 * * * *"),
        (Cron(expression="0 3 * * *", timezone="Europe/Berlin"), "0 3 * * * Europe/Berlin"),
    ],
)
def test_a_schedule_is_told_in_words(schedule: Every | Cron, expected: str) -> None:
    assert freshness.spelled(schedule) == expected
