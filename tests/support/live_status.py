"""What a running daemon says of itself, as values."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.instance import Every, Instance
from ddslogd.monitoring import status
from ddslogd.monitoring.freshness import Yardstick, judged
from ddslogd.monitoring.status import CloudStatus, Disk, Live, Status, Transfer
from ddslogd.storage.ledger.status_queries import Failing, Gaps, LedgerFacts, Standing
from support.clocks import START

RUNNING = Transfer(
    instance="orders",
    node="n1",
    log="error",
    file="f",
    done=5,
    total=9,
    began_at=START,
    resumed=True,
    bytes_per_second=2.5,
)


def status_of(*names: str) -> Status:
    """Return a status in which the first instance is stale, and all else is fresh."""
    fleet = [replace(ORDERS, name=name) for name in names]
    stale = replace(GOOD, good_at=START - 90 * MINUTE, outcome="failed")
    books = LedgerFacts(
        standings=dict.fromkeys(names, GOOD) | {names[0]: stale},
        failures={names[0]: (failing("unavailable"),)},
        gaps={names[0]: Gaps(listed=3, total=5, recent=1)},
    )
    live = replace(LIVE, transfers=(RUNNING,), clouds=(EU, replace(EU, name="otc", credentials="refused")))
    yardstick = Yardstick(factor=2, fresh_for=15 * MINUTE)
    return judged(fleet, books, live, ROOM, now=START, yardstick=yardstick, version="1.2.3")


MINUTE = timedelta(minutes=1)
EVERY = Every(interval=20 * MINUTE)
ORDERS = Instance(id="6ade8143870047b8999aba8f1891b48ein02", name="orders", cloud="eu", schedule=EVERY)
ROOM = Disk(directory="/logs", free=9, total=10, keep_free=1, parts=0, parts_bytes=0, below=False)
EU = CloudStatus(
    name="eu",
    calls_per_minute=60,
    left=6,
    waiting=0,
    throttled=0,
    paused_until=None,
    credentials="ok",
    reachable=True,
)
LIVE = Live(
    started_at=START - timedelta(days=1),
    known_since={},
    next_ticks={"orders": START + MINUTE},
    running=(),
    clouds=(EU,),
    transfers=(),
    loop_lag_s=0.001,
    config=status.Configuration(loaded_at=START - timedelta(days=1)),
)
GOOD = Standing(
    good_at=START - 5 * MINUTE,
    quiet=0,
    newest_line=START - 6 * MINUTE,
    new_bytes=(7, 0, 12),
    outcome="ok",
    started_at=START - 6 * MINUTE,
    finished_at=START - 5 * MINUTE,
    stored=1,
    unchanged=0,
    failed=0,
    fetched_bytes=12,
    last_new_bytes=12,
    error="",
)


def failing(kind: str, reason: str = "it broke") -> Failing:
    return Failing(
        node="", log="", kind=FailureKind.read(kind), since=START - MINUTE, last=START, times=3, reason=reason
    )
