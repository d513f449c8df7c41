"""The vocabulary's own rules."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ddslogd.model.cycle import CycleOutcome, CycleReport, Failed
from ddslogd.model.export import ExportReply, Link, Row, RowState
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.snapshot import Identity, LogFile, Snapshot, Stored, Superseded, Unchanged

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
URL = "https://obs.example.com/o?Signature=secret"
READY = Row(node="n", file_name="f", state=RowState.READY, url=URL)
PENDING = Row(node="n", file_name="f", state=RowState.PENDING)
FAILED = Row(node="n", file_name="f", state=RowState.FAILED)
FILE = LogFile(instance="orders", node="n", file_name="f", updated_at=NOW)
LINK = Link(file=FILE, url=URL, expires_at=NOW)


@pytest.mark.parametrize(
    ("state", "url"), [(RowState.READY, None), (RowState.PENDING, URL), (RowState.FAILED, URL)], ids=str
)
def test_a_row_is_ready_exactly_when_it_has_a_link(state: RowState, url: str | None) -> None:
    with pytest.raises(ValueError, match="ready exactly when"):
        Row(node="n", file_name="f", state=state, url=url)


@pytest.mark.parametrize(
    ("rows", "creating", "settled"),
    [
        ((), False, True),
        ((), True, False),
        ((READY, FAILED), False, True),
        ((READY, FAILED), True, False),
        ((READY, PENDING), False, False),
        ((PENDING,), True, False),
    ],
)
def test_a_reply_is_settled_when_its_rows_are_and_nothing_more_is_to_come(
    rows: tuple[Row, ...], *, creating: bool, settled: bool
) -> None:
    assert ExportReply(rows=rows, creating=creating).settled == settled


@pytest.mark.parametrize(
    ("left", "margin", "expires"),
    [
        (timedelta(seconds=31), timedelta(seconds=30), False),
        (timedelta(seconds=30), timedelta(seconds=30), True),
        (timedelta(seconds=-1), timedelta(seconds=30), True),
        (timedelta(microseconds=1), timedelta(0), False),
        (timedelta(0), timedelta(0), True),
    ],
)
def test_a_link_expires_within_a_margin_when_no_more_than_that_is_left(
    left: timedelta, margin: timedelta, *, expires: bool
) -> None:
    assert LINK.expires_within(margin, now=NOW - left) == expires


@pytest.mark.parametrize(
    "holder", [READY, LINK, ExportReply(rows=(READY,), creating=False)], ids=lambda one: type(one).__name__
)
def test_a_link_is_never_shown(holder: object) -> None:
    """Whoever holds it can read the log, and what is logged may be shown."""
    assert "secret" not in repr(holder)


def test_a_checksum_is_no_part_of_an_identity() -> None:
    """It is known only to some answers about the same bytes."""
    assert Identity(etag='"e"', total=1, md5="0" * 32) == Identity(etag='"e"', total=1)


def test_a_report_counts_and_sums_what_became_of_each_file() -> None:
    snapshot = Snapshot(
        file=FILE, key="p", path="p", size=100, md5="", etag="", verified=True, began_at=NOW, stored_at=NOW
    )
    failed = Failed(node="n", file_name="f", reason="r", kind=FailureKind.CORRUPT, fetched=7)
    report = CycleReport(
        instance="orders",
        started_at=NOW,
        finished_at=NOW,
        outcome=CycleOutcome.PARTIAL,
        outcomes=(
            Stored(snapshot=snapshot, fetched=130),
            Stored(snapshot=replace(snapshot, size=1), fetched=0),
            Unchanged(file=FILE, fetched=20),
            Superseded(file=FILE, fetched=3),
            failed,
        ),
    )

    found = (report.stored, report.unchanged, report.failures, report.stored_bytes, report.fetched_bytes)

    assert found == (2, 1, (failed,), 101, 160)
