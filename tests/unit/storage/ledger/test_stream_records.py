from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from ddslogd.model.instance import LogKind
from ddslogd.model.stream import Gap, GapCause, Intent, Piece, StreamState
from ddslogd.storage.ledger.snapshot_records import Ledger
from ddslogd.storage.ledger.stream_records import StreamBook

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator
    from pathlib import Path

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PIECE = Piece(path="snapshots/orders/n/a.log", start=7, end=50)
GAP = Gap(
    instance="orders",
    log=LogKind.ERROR,
    node="n",
    after=None,
    until=AT,
    cause=GapCause.DAEMON_DOWN,
    noted_at=AT,
    cut=True,
    path="streams/orders/n.log",
)
INTENT = Intent(
    snapshot="snapshots/orders/n/a.log",
    lines=PIECE,
    unfinished=replace(PIECE, end=9),
    path="streams/orders/n/20260102T030405.000Z.log",
    base=100,
    delivered=50,
    updated_at=AT,
    first_at=AT,
    older=True,
    gap=GAP,
)
WRITTEN: dict[str, Any] = {
    "snapshot": "snapshots/orders/n/a.log",
    "lines": {"path": "snapshots/orders/n/a.log", "start": 7, "end": 50},
    "unfinished": {"path": "snapshots/orders/n/a.log", "start": 7, "end": 9},
    "path": "streams/orders/n/20260102T030405.000Z.log",
    "base": 100,
    "delivered": 50,
    "updated_at": "2026-01-02T03:04:05.678901+00:00",
    "first_at": "2026-01-02T03:04:05.678901+00:00",
    "last_at": None,
    "older": True,
    "complete": False,
    "gap": {
        "instance": "orders",
        "log": "error",
        "node": "n",
        "after": None,
        "until": "2026-01-02T03:04:05.678901+00:00",
        "cause": "daemon down",
        "noted_at": "2026-01-02T03:04:05.678901+00:00",
        "cut": True,
        "path": "streams/orders/n.log",
    },
}


SERIES = "snapshots/orders/n/*.log"


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """Yield a ledger that holds a stream with what is about to be appended to it."""
    ledger = Ledger(tmp_path)
    await ledger.open()
    state = StreamState(
        series=SERIES,
        instance="orders",
        log=LogKind.ERROR,
        node="n",
        path=INTENT.path,
        size=0,
        born_at=AT,
        reference_at=AT,
    )
    await StreamBook(ledger).intend(state, INTENT)
    yield ledger
    await ledger.close()


async def rewrite(ledger: Ledger, intent: dict[str, Any]) -> None:
    def write(db: sqlite3.Connection) -> None:
        db.execute("UPDATE streams SET intent = ?", (json.dumps(intent),))

    await ledger.run(write)


async def read(ledger: Ledger) -> Intent | None:
    state = (await StreamBook(ledger).backlog(SERIES)).state
    return state.intent if state else None


async def test_what_is_about_to_be_appended_is_read_as_it_was_written(ledger: Ledger) -> None:
    """To the microsecond: it is carried out again by who finds it."""
    assert await read(ledger) == INTENT


async def test_what_an_older_version_was_about_to_append_is_read(ledger: Ledger) -> None:
    """It renamed a file where it rotated, and had one place where lines went: the link's today."""
    older = WRITTEN | {"rotate_to": "streams/orders/n.log.20260102T030405.000Z", "rotated_inode": 2**62}
    del older["path"]
    await rewrite(ledger, older)

    assert await read(ledger) == replace(INTENT, path="streams/orders/n.log")


async def test_a_time_that_no_line_can_have_is_unknown(ledger: Ledger) -> None:
    gap = WRITTEN["gap"] | {"until": "1970-01-01T00:00:00+00:00"}
    await rewrite(ledger, WRITTEN | {"first_at": "2250-01-01T00:00:00+00:00", "gap": gap})

    assert await read(ledger) == replace(INTENT, first_at=None, gap=replace(GAP, until=None))


@pytest.mark.parametrize(
    "harm",
    [
        {"lines": WRITTEN["lines"] | {"path": "../../etc/shadow"}},
        {"unfinished": WRITTEN["unfinished"] | {"path": "/etc/shadow"}},
        {"path": "streams/../../n"},
        {"base": "100"},
        {"delivered": 50.5},
        {"lines": None},
        {"gap": WRITTEN["gap"] | {"cause": "bad luck"}},
        {"updated_at": "yesterday"},
    ],
    ids=lambda harm: next(iter(harm)),
)
async def test_what_nobody_wrote_is_not_appended(ledger: Ledger, harm: dict[str, Any]) -> None:
    """The ledger is quarantined, and rebuilt from what is on disk; the reason is one line."""
    await rewrite(ledger, WRITTEN | harm)

    with capture_logs() as logs:
        found = await read(ledger)

    [reason] = [one["reason"] for one in logs if one["event"] == "ledger.damaged"]
    assert (found, reason.splitlines(), "http" in reason) == (None, [reason], False)
