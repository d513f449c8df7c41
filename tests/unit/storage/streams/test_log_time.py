"""When lines were written, as mongod words it, whatever else is in a log and wherever it is cut."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ddslogd.sandbox.dds import error_log, slow_log
from ddslogd.storage.streams import log_time
from ddslogd.storage.streams.log_time import first_time, last_time, line_time
from ddslogd.storage.streams.overlap import HeldWindow

if TYPE_CHECKING:
    from collections.abc import Callable

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 123_000, tzinfo=UTC)
SECOND = MOMENT.replace(microsecond=0)
MEBIBYTE = 1024 * 1024
FIRST, LAST = SECOND.replace(hour=1), SECOND.replace(hour=23)

WRITERS = [error_log.json_line, error_log.text_line, slow_log.json_line, slow_log.text_line]
IDS = ["error log, JSON", "error log, text", "slow log, JSON", "slow log, text"]

milliseconds = st.datetimes(datetime(1990, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001  # bounds
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
zones = st.integers(-18 * 60, 18 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def line_at(moment: datetime) -> bytes:
    return b'{"t":{"$date":"%s"},"s":"W"}\n' % moment.isoformat().encode()


MOMENTS = {
    "1989-12-31T23:59:59.999Z": False,
    "1990-01-01T00:00:00.000Z": True,
    "2099-12-31T23:59:59.999Z": True,
    "2100-01-01T00:00:00.000Z": False,
    "2099-12-31T23:59:59.999-01:00": False,
    "0001-01-01T00:00:00.000+14:00": False,
    "9999-12-31T23:59:59.999999Z": False,
}


@pytest.mark.parametrize(("moment", "is_a_time"), MOMENTS.items())
@pytest.mark.parametrize("form", [b'{"t":{"$date":"%s"}}', b"%s W NETWORK"])
def test_what_no_server_has_written_is_no_time(moment: str, form: bytes, *, is_a_time: bool) -> None:
    assert (line_time(form % moment.encode()) is not None) == is_a_time


@pytest.mark.parametrize("number", [-(10**17), -1, 0, 631_151_999_999, 4_102_444_800_000, 10**17])
def test_a_number_that_no_server_has_written_is_no_time(number: int) -> None:
    assert line_time(b'{"t":{"$date":%d}}' % number) is None


def test_a_time_that_is_not_believed_is_passed_over() -> None:
    log = HeldWindow(line_at(LAST) + line_at(FIRST) + line_at(SECOND) + line_at(LAST))

    found = (first_time(log, 0, log.size, until=SECOND), last_time(log, 0, log.size, until=SECOND))

    assert found == (FIRST, SECOND)


# --- a line -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITERS, ids=IDS)
@given(moment=milliseconds, seed=st.integers(0, 1000))
def test_a_line_begins_with_its_time(write: Callable[[datetime, Random], str], moment: datetime, seed: int) -> None:
    assert line_time(write(moment, Random(seed)).encode()) == moment


@pytest.mark.parametrize("write", WRITERS, ids=IDS)
@given(moment=milliseconds, seed=st.integers(0, 50), cut=st.integers(1, 400))
def test_a_line_that_is_cut_at_its_beginning_has_no_time(
    write: Callable[[datetime, Random], str], moment: datetime, seed: int, cut: int
) -> None:
    assert line_time(write(moment, Random(seed)).encode()[cut:]) is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"t":{"$date":"2026-01-02T03:04:05.123+00:00"},"s":"W"}',
        b'{"t":{"$date":"2026-01-02T03:04:05.123Z"},"s":"W"}',
        b'{"t":{"$date":"2026-01-02T11:04:05.123+08:00"},"s":"W"}',
        b'{"t":{"$date":"2026-01-01T20:04:05.123-0700"},"s":"W"}',
        b'{"t":{"$date":"2026-01-02T03:04:05.123"},"s":"W"}',
        b'{"t":{"$date":"2026-01-02T03:04:05.123000000Z"}}',
        b' { "t" : { "$date" : "2026-01-02T03:04:05.123+00:00" } , "s" : "W" }\r\n',
        b'\t{\t"t":\t{"$date":"2026-01-02T03:04:05.123+00:00"}}',
        b'{"t":{"$date":{"$numberLong":"1767323045123"}},"s":"W"}',
        b'{ "t" : { "$date" : { "$numberLong" : "1767323045123" } } }',
        b'{"t":{"$date":1767323045123},"s":"W"}',
        b"2026-01-02T03:04:05.123+0000 E  NETWORK  [conn1] Oops",
        b"2026-01-02T03:04:05.123+00:00 E  NETWORK  [conn1] Oops",
        b"2026-01-02T03:04:05.123Z E  NETWORK  [conn1] Oops",
        b"2026-01-02T11:04:05.123+08:00 I  COMMAND  [conn1] command",
        b"2026-01-02T11:04:05.123+08 I  COMMAND  [conn1] command",
        b"2026-01-01T20:04:05.123-0700 I  COMMAND  [conn1] command",
        b"2026-01-02T03:04:05.123 E",
        b"2026-01-02 03:04:05,123 E",
        b"2026-01-02T03:04:05.123Z",
        b"2026-01-02T03:04:05.123Z\r\n",
        b" 2026-01-02T03:04:05.123Z\tE",
    ],
)
def test_a_time_can_be_written_in_many_ways(line: bytes) -> None:
    assert line_time(line) == MOMENT


@pytest.mark.parametrize(
    ("line", "moment"),
    [
        (b"2026-01-02T03:04:05Z E", SECOND),
        (b"2026-01-02T03:04:05 E", SECOND),
        (b'{"t":{"$date":"2026-01-02T03:04:05.1Z"}}', SECOND.replace(microsecond=100_000)),
        (b'{"t":{"$date":"2026-01-02T03:04:05.123456789Z"}}', SECOND.replace(microsecond=123_456)),
        (b'{"t":{"$date":631152000000}}', datetime(1990, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_can_be_more_or_less_precise_and_old(line: bytes, moment: datetime) -> None:
    assert line_time(line) == moment


@pytest.mark.parametrize(
    "line",
    [
        b'{"t":{"$date":"2026-02-30T03:04:05.123+00:00"}}',
        b'{"t":{"$date":"2026-01-02T25:04:05.123+00:00"}}',
        b'{"t":{"$date":"2026-01-02T03:04:61.123+00:00"}}',
        b'{"t":{"$date":"0000-01-02T03:04:05.123+00:00"}}',
        b'{"t":{"$date":"2026-01-02T03:04:05.123+24:00"}}',
        b'{"t":{"$date":"2026-01-02T03:04:05.123+00:60"}}',
        b'{"t":{"$date":"0001-01-01T00:00:00.000+08:00"}}',
        b'{"t":{"$date":"9999-12-31T23:59:59.999-08:00"}}',
        b'{"t":{"$date":999999999999999999}}',
        b'{"t":{"$date":{"$numberLong":"-999999999999999999"}}}',
        b"2026-13-01T03:04:05.123+0000 E",
    ],
)
def test_a_moment_that_there_is_not_is_none(line: bytes) -> None:
    assert line_time(line) is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}",
        b"    at src/mongo/db/repl/rs_1.cpp 12",
        b'{"s":"W","t":{"$date":"2026-01-02T03:04:05.123+00:00"}}',
        b'{"t":"2026-01-02T03:04:05.123+00:00"}',
        b'{"t":{"$date":"2026-01-02T03:04:05.123+00:00',
        b'{"t":{"$date":"2026-01-02T03:04:05.123+00:00"',
        b'{"t":{"$date":1767323045123',
        b'{"t":{"$date":"today"}}',
        b'{"t":{"$date":""}}',
        b'{"t":{"$date":"2026-01-02"}}',
        b'{"ts":{"$date":"2026-01-02T03:04:05.123+00:00"}}',
        b'{"t":{\n"$date":"2026-01-02T03:04:05.123+00:00"}}',
        b"x 2026-01-02T03:04:05.123+0000 E",
        b"\n2026-01-02T03:04:05.123+0000 E",
        b"2026-01-02T03:04:05.123+0000E",
        b"2026-01-02T03:04:05.123+080",
        b"2026-01-02T03:04",
        b"12026-01-02T03:04:05Z",
        "２026-01-02T03:04:05Z".encode(),  # noqa: RUF001  # a digit that is none
        b" " * 128 + b"2026-01-02T03:04:05Z",
    ],
)
def test_what_does_not_begin_with_a_time_has_none(line: bytes) -> None:
    assert line_time(line) is None


def test_a_time_without_a_zone_is_utc_wherever_the_daemon_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        moment = line_time(b"2026-01-02T03:04:05.123 E")
    time.tzset()

    assert moment == MOMENT


@given(moment=milliseconds, zone=zones, name=st.sampled_from([b'{"t":{"$date":"%s"}}', b"%s E"]))
def test_a_time_is_given_in_utc_whatever_its_zone(moment: datetime, zone: timezone, name: bytes) -> None:
    read = line_time(name % moment.astimezone(zone).isoformat(timespec="milliseconds").encode())

    assert (read, read and read.tzinfo) == (moment, UTC)


@given(moment=milliseconds)
def test_a_time_in_milliseconds_is_exact(moment: datetime) -> None:
    count = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)

    assert line_time(b'{"t":{"$date":{"$numberLong":"%d"}}}' % count) == moment


@given(
    line=st.binary(max_size=80)
    | st.from_regex(rb'\{"t":\{"\$date":("[0-9T:.+Z-]{0,40}"|-?[0-9]{0,40})\}')
    | st.from_regex(rb"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,12})?([+-]\d{2}:?\d{2}|Z)? ")
)
def test_any_line_has_a_time_in_utc_or_none(line: bytes) -> None:
    read = line_time(line)

    assert read is None or read.tzinfo is UTC


@given(moment=milliseconds, padding=st.integers(0, 4))
def test_the_longest_time_stands_within_the_beginning_of_its_line(moment: datetime, padding: int) -> None:
    """Whatever is read of a line."""
    gap = b" " * padding
    line = gap.join(
        [b"", b"{", b'"t"', b":", b"{", b'"$date"', b":", b"{", b'"$numberLong"', b":", b'"%d"', b"}", b"}"]
    )
    line %= (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)

    assert line_time(line[: log_time.BEGINNING]) == moment


# --- a range ----------------------------------------------------------------------------------------------------------


@dataclass
class Watched:
    """A window that notes which of its bytes are read."""

    content: bytes
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, start: int, size: int) -> bytes:
        self.reads.append((start, start + size))
        return self.content[start : start + size]

    @property
    def lowest(self) -> int:
        return min(start for start, _ in self.reads)

    @property
    def highest(self) -> int:
        return max(end for _, end in self.reads)

    @property
    def total(self) -> int:
        return sum(end - start for start, end in self.reads)


untimed = st.sampled_from([b"\n", b"  at x\n", b"}}\r\n", b"\xff\xfe\n", b'{"t":{"$date":"2026-02-30T00:00:00Z"}}\n'])
timed = milliseconds.map(line_at)
logs = st.lists(untimed | timed, max_size=8).map(b"".join)


@pytest.fixture(params=[log_time.READ, 200, 7, 1])
def _reads_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the module's own size, one read would hold all that is made up here."""
    monkeypatch.setattr(log_time, "READ", request.param)


@pytest.mark.usefixtures("_reads_of")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # one size for all examples
@given(log=logs, cuts=st.tuples(st.integers(0, 400), st.integers(0, 400)))
@example(log=line_at(FIRST) + line_at(LAST), cuts=(0, 400))
def test_the_first_and_the_last_time_are_those_of_the_lines_in_the_range(log: bytes, cuts: tuple[int, int]) -> None:
    """Wherever it begins and ends, also within a line."""
    start, end = sorted(min(cut, len(log)) for cut in cuts)
    times = [read for line in log[start:end].split(b"\n") if (read := line_time(line))]

    found = (first_time(HeldWindow(log), start, end), last_time(HeldWindow(log), start, end))

    assert found == ((times[0], times[-1]) if times else (None, None))


@pytest.mark.parametrize("writer", WRITERS, ids=IDS)
def test_the_range_of_a_nodes_log_is_from_its_first_line_to_its_last(writer: Callable[[datetime, Random], str]) -> None:
    """Cut at its beginning, as an export is."""
    node = error_log.NodeLog(Random(1), line=writer, begins=FIRST, rate=1)
    node.advance(FIRST + timedelta(hours=1))
    log = HeldWindow(bytes(node.content))
    lines = log.content.splitlines()

    found = (first_time(log, 10, log.size), last_time(log, 10, log.size))

    assert found == (line_time(lines[1]), line_time(lines[-1]))


def test_both_kinds_of_lines_can_stand_in_one_log() -> None:
    log = HeldWindow(b"2026-01-02T01:04:05.000+0000 E  NETWORK\n" + line_at(LAST))

    assert (first_time(log, 0, log.size), last_time(log, 0, log.size)) == (FIRST, LAST)


@pytest.mark.parametrize("span", [(0, 0), (5, 5), (0, 1)])
def test_a_range_without_a_line_has_no_time(span: tuple[int, int]) -> None:
    log = HeldWindow(line_at(FIRST))

    assert (first_time(log, *span), last_time(log, *span)) == (None, None)


def test_a_megabyte_of_one_last_line_hides_its_time_as_little_as_that_of_the_first() -> None:
    log = HeldWindow(line_at(FIRST) + line_at(LAST)[:-1] + b"x" * 1_000_000 + b"\n")

    assert (first_time(log, 0, log.size), last_time(log, 0, log.size)) == (FIRST, LAST)


def test_a_megabyte_of_the_end_of_a_cut_line_hides_no_time() -> None:
    log = HeldWindow(b"x" * 1_000_000 + b"\n" + line_at(FIRST) + line_at(LAST) + b"y" * 1_000_000)

    assert (first_time(log, 0, log.size), last_time(log, 0, log.size)) == (FIRST, LAST)


@pytest.mark.parametrize("content", [b"\n", b"x", b"  at x\n", b" "], ids=["no lines", "one", "many", "blanks"])
def test_not_more_than_a_mebibyte_is_looked_at(content: bytes) -> None:
    """From the range's beginning, and from its end."""
    filling = (content * MEBIBYTE)[: MEBIBYTE - 1] + b"\n"
    log = Watched(line_at(FIRST) + filling + line_at(SECOND) + filling + line_at(LAST))
    start, end = len(line_at(FIRST)), log.size - len(line_at(LAST))

    assert first_time(log, start, end) is None
    assert (log.lowest, log.highest <= start + MEBIBYTE) == (start, True)
    log.reads.clear()
    assert last_time(log, start, end) is None
    assert (log.lowest >= end - MEBIBYTE, log.highest) == (True, end)
    assert log.total <= 1.01 * MEBIBYTE


@pytest.mark.parametrize("before_the_edge", [1, 31, 32, 127, 128, 129, 130])
def test_a_time_at_the_edge_of_the_first_mebibyte_is_whole_or_none(before_the_edge: int) -> None:
    """A piece of it would be another moment, in another zone. So it is read from BEGINNING bytes or not."""
    log = HeldWindow(b"x" * (MEBIBYTE - before_the_edge - 1) + b"\n2026-01-02T11:04:05.123+08:00 E\n")

    expected = MOMENT if before_the_edge > log_time.BEGINNING else None

    assert expected == first_time(log, 0, log.size)


@pytest.mark.parametrize("behind_the_edge", [0, 1, 2])
def test_a_line_that_begins_at_the_edge_of_the_last_mebibyte_needs_the_line_end_before_it(behind_the_edge: int) -> None:
    """Which must be within, as it shows that there a line begins."""
    line = b"2026-01-02T11:04:05.123+08:00 E\n"
    log = HeldWindow(b"x\n" + line + b"y" * (MEBIBYTE - len(line) - behind_the_edge))

    expected = MOMENT if behind_the_edge else None

    assert expected == last_time(log, 0, log.size)


def test_mostly_one_small_read_is_enough() -> None:
    log = Watched(b"".join(line_at(FIRST + timedelta(seconds=second)) for second in range(50_000)))

    first_time(log, 0, log.size)
    last_time(log, 0, log.size)

    assert (len(log.reads), log.total < 100_000) == (2, True)
