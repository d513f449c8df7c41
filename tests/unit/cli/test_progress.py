"""How transfers look while they run."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from ddslogd.cli.progress import Bars, Lines, watching
from ddslogd.model.cycle import CycleOutcome, CycleReport, Failed, Outcome
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.snapshot import LogFile, Snapshot, Stored, Superseded, Unchanged

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FILE = LogFile(instance="orders", node="n[1]", file_name="errorlog", updated_at=NOW)
SNAPSHOT = Snapshot(
    file=FILE,
    key="snapshots/orders/n/x.log",
    path="snapshots/orders/n/x.log",
    size=1_500_000,
    md5="",
    etag="",
    verified=True,
    began_at=NOW,
    stored_at=NOW,
)


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=terminal)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Stored(snapshot=SNAPSHOT, fetched=1), "stored     snapshots/orders/n/x.log (1.5 MB)\n"),
        (Unchanged(file=FILE), "unchanged  orders/n[1] (error log): nothing new since the last export\n"),
        (Superseded(file=FILE), "superseded orders/n[1] (error log): a newer export is fetched instead\n"),
        (Failed(node="n", file_name="f", reason="r", kind=FailureKind.CORRUPT), ""),
    ],
)
def test_a_file_is_told_in_one_line(outcome: Outcome, expected: str) -> None:
    shown = console()
    Lines(shown).ended(FILE, outcome)

    assert text(shown) == expected


def test_a_cycle_is_told_with_each_failure_and_its_sum() -> None:
    shown = console()
    Lines(shown).cycled(
        CycleReport(
            instance="orders",
            started_at=NOW,
            finished_at=NOW + timedelta(seconds=2.5),
            outcome=CycleOutcome.PARTIAL,
            outcomes=[
                Stored(snapshot=SNAPSHOT, fetched=1),
                Failed(node="n2", file_name="f", reason="cut", kind=FailureKind.CORRUPT),
            ],
            error="the cloud is busy",
        )
    )

    assert text(shown).splitlines() == [
        "failed     orders/n2 (error log): cut",
        "failed     orders: the cloud is busy",
        "cycle      orders: partial, 1 stored (1.5 MB), 0 unchanged, 1 failed, 0 B new in 2.5 s",
    ]


def test_on_a_terminal_a_transfer_has_a_bar() -> None:
    shown = console(terminal=True)
    with Bars(shown) as bars:
        bars.began(FILE, 1_500_000, 0, resumed=False)
        bars.advanced(FILE, 750_000)
        bars._progress.refresh()

    assert ("orders/n[1]" in text(shown), "0.8/1.5 MB" in text(shown)) == (True, True)


def test_a_bar_that_has_ended_leaves_its_line() -> None:
    shown = console(terminal=True)
    with Bars(shown) as bars:
        bars.began(FILE, 1_500_000, 0, resumed=False)
        bars.ended(FILE, Stored(snapshot=SNAPSHOT, fetched=1))
        left = bars._progress.tasks

    assert (left, "stored     snapshots/orders/n/x.log" in text(shown)) == ([], True)


@pytest.mark.parametrize(("terminal", "kind"), [(True, Bars), (False, Lines)])
def test_bars_are_for_terminals_only(*, terminal: bool, kind: type[Lines]) -> None:
    assert type(watching(console(terminal=terminal))) is kind


def test_a_cycle_that_asked_for_nothing_says_until_when_there_is_nothing_new() -> None:
    shown = console()
    Lines(shown).cycled(
        CycleReport(
            instance="orders",
            started_at=NOW,
            finished_at=NOW,
            outcome=CycleOutcome.CACHED,
            fresh_until=NOW + timedelta(minutes=10),
        )
    )

    assert text(shown) == (
        "cycle      orders: cached: the cloud would serve the last export once more until 03:14:05 UTC; "
        "nothing was asked for\n"
    )
