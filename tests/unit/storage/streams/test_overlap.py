"""Where a new export continues what was delivered, and what proves it, in logs that repeat themselves, cut anywhere."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ddslogd.storage.streams import overlap
from ddslogd.storage.streams.overlap import (
    STRETCH,
    STRETCH_LINES,
    Continuation,
    HeldWindow,
    OverlapProof,
    Slice,
    Unproved,
    continuation,
    end_of_lines,
    longest_end,
)
from support.examples import examples

BEGAN = datetime(2026, 1, 2, 3, tzinfo=UTC)
BACKTRACE = [b" src/mongo/util/stacktrace_posix.cpp:%d\n" % number for number in range(20)]
Span = tuple[int, int]


def timed(number: int, words: str = "I  NETWORK  [conn1] message") -> bytes:
    """Return a line of a text log; each number has a time of its own."""
    moment = (BEGAN + timedelta(milliseconds=number)).isoformat(timespec="milliseconds").replace("+00:00", "+0000")
    return f"{moment} {words} {number}\n".encode()


def event(number: int) -> bytes:
    """Return what an assertion writes: the same words each time, but for the time."""
    return timed(number, "F  -  [conn1] Fatal Assertion").rpartition(b" ")[0] + b"\n" + b"".join(BACKTRACE)


def joined(first: int, end: int) -> bytes:
    return b"".join(map(timed, range(first, end)))


def found(delivered: bytes, export: bytes, *, complete: bool = False) -> Continuation | Unproved:
    return continuation(HeldWindow(delivered), HeldWindow(export), complete=complete)


def new_in(delivered: bytes, export: bytes, *, complete: bool = False) -> bytes | None:
    """Return what an export has that is new; None where nothing proves that it goes on."""
    result = found(delivered, export, complete=complete)
    return export[result.start :] if isinstance(result, Continuation) else None


# --- any log, cut anywhere --------------------------------------------------------------------------------------------

untimed = st.lists(st.sampled_from([b"a\n", b"\n", b"\xff\r\n", b"  at x\n"]), max_size=4).map(b"".join)
storms = st.lists(st.tuples(st.booleans(), untimed, st.integers(1, 3)), min_size=1, max_size=14)


@st.composite
def logs(draw: st.DrawFn) -> tuple[bytes, list[Span]]:
    """A log, and where its lines with a time are; what is between them repeats itself."""
    log, lines = b"", list[Span]()
    for number, (same_words, block, times) in enumerate(draw(storms)):
        line = timed(number, "F  -  boom") if same_words else timed(number * 7)
        lines.append((len(log), len(log) + len(line)))
        log += line + block * times
    return log, lines


def whole_lines(log: bytes, start: int, end: int, lines: list[Span]) -> list[Span]:
    return [line for line in lines if start <= line[0] and line[1] <= end and log[line[1] - 1 : line[1]] == b"\n"]


@settings(max_examples=examples(300))
@given(data=st.data(), made=logs())
def test_no_line_is_lost_and_none_is_twice_where_a_line_of_its_own_is_in_both(
    data: st.DataObject, made: tuple[bytes, list[Span]]
) -> None:
    """By the places of both windows in the log, and not by their bytes."""
    log, lines = made
    places = st.integers(0, len(log))
    (start, cut), (first, last) = (sorted((data.draw(places), data.draw(places))) for _ in "12")
    end = log.rfind(b"\n", start, cut) + 1
    assume(end > start and last > first)

    result = found(log[start:end], log[first:last])

    shared = whole_lines(log, max(start, first), min(end, last), lines)
    if isinstance(result, Continuation):
        assert first + result.start == (min(end, last)), "neither lost nor doubled"
        assert first <= end
        assert result.shift == first - start
    else:
        assert shared == []


@settings(max_examples=examples(300))
@given(data=st.data(), made=logs())
def test_where_all_was_delivered_from_the_first_line_on_nothing_else_is_needed(
    data: st.DataObject, made: tuple[bytes, list[Span]]
) -> None:
    log = made[0].replace(b"+0000", b"+?")
    end = data.draw(st.sampled_from([at + 1 for at, byte in enumerate(log) if byte == ord("\n")]))

    assert new_in(log[:end], log, complete=True) == log[end:]


@dataclass
class Stream:
    """What is made of a log's exports, as small as can be."""

    content: bytes = b""
    last: bytes = b""
    gaps: int = 0

    def take(self, export: bytes) -> None:
        result = found(self.last, export) if self.last else Continuation(start=0, shift=0, proof=OverlapProof.COMPLETE)
        whole = export[: end_of_lines(HeldWindow(export))]
        if isinstance(result, Unproved):
            self.content += whole
            self.gaps += 1
        else:
            self.content += whole[result.start :]
        if isinstance(result, Unproved) or not result.older:
            self.last = whole


@pytest.mark.parametrize("percent", [2, 10, 100])
@pytest.mark.parametrize("seed", range(3))
def test_in_an_assertion_storm_each_overflow_is_a_gap_and_no_line_of_an_export_is_dropped(
    percent: int, seed: int
) -> None:
    """Windows of 60 kB that grow by 9 to 90 kB, cut anywhere: what two events have in common proves nothing."""
    chance, window = random.Random(seed), 60_000
    log = bytearray()
    number, end, overflows, stream, served = 0, 0, 0, Stream(), set[bytes]()
    for _ in range(40):
        start = max(0, end - window)
        grown = end + chance.randrange(9_000, 90_000)
        while len(log) < grown:
            log += event(number) if chance.randrange(100) < percent else timed(number)
            number += 1
        delivered = start + end_of_lines(HeldWindow(bytes(log[start:end])))
        end, first = grown, max(0, grown - window)
        overflows += first > delivered > 0
        export = bytes(log[first:end])
        served |= {line for line in export.split(b"\n")[1:-1] if line.startswith(b"2026")}
        stream.take(export)

    written = [line for line in stream.content.split(b"\n") if line.startswith(b"2026")]
    assert stream.gaps >= overflows > 5
    assert served <= set(written)
    assert len(written) - len(set(written)) <= 0.2 * len(written)


# --- what proves it ---------------------------------------------------------------------------------------------------


def test_a_line_with_a_time_that_is_in_both_windows_once_is_a_proof() -> None:
    assert found(joined(0, 3), joined(2, 5)) == Continuation(
        start=len(timed(2)), shift=len(joined(0, 2)), proof=OverlapProof.LINE
    )


@pytest.mark.parametrize(
    ("delivered", "export"),
    [
        (b"a\n" * 9, b"a\n" * 9 + b"b\n"),
        (b"a\nb\n", b"b\nc\n"),
        (timed(1) * 2, timed(1) + timed(2)),
        (timed(1) + b"x\n", timed(1) + timed(1) + timed(2)),
        (timed(1) + b"".join(BACKTRACE), b"".join(BACKTRACE[5:]) + timed(9)),
        (timed(1)[4:], timed(1)[4:] + timed(2)),
    ],
    ids=["repeated", "no time", "twice delivered", "twice exported", "a backtrace", "a cut line"],
)
def test_what_may_be_elsewhere_in_the_log_is_no_proof(delivered: bytes, export: bytes) -> None:
    assert isinstance(found(delivered, export), Unproved)


@pytest.mark.parametrize(
    ("delivered", "export"),
    [
        (b"a\nb\n", b"b\nc\n"),
        (b"a\nb\n", b"a\nb\nc\n"),
        (timed(1) + b"x y\nz\n", b"y\nz\n" + timed(2)),
        (b"a\nb\nc\n", b"b\n"),
        (event(1), BACKTRACE[-1][-25:] + timed(2)),
        (event(1), event(2)[len(timed(1)) :]),
        (event(1)[:-9] + b"[truncated]\n", event(2)[len(timed(1)) + 9 :] + timed(3)),
    ],
    ids=["a line", "all", "after a cut line", "a part", "the end of a line", "a backtrace", "a changed one"],
)
def test_what_may_go_on_all_the_same_is_alike(delivered: bytes, export: bytes) -> None:
    assert found(delivered, export) == Unproved(alike=True)


@pytest.mark.parametrize("export", [b"\n" + joined(20, 30), joined(20, 30), b"x\n" * 30, b"no line end"])
def test_what_has_nothing_in_common_is_not_alike(export: bytes) -> None:
    assert found(joined(0, 10), export) == Unproved(alike=False)


def test_a_line_with_a_time_at_the_end_of_another_is_no_line() -> None:
    assert isinstance(found(joined(0, 3), b"x" + timed(2) + timed(3)), Unproved)


def test_a_line_that_is_written_twice_in_one_millisecond_hides_no_other() -> None:
    log = joined(0, 5) + timed(5) * 2

    assert new_in(log, log[len(timed(0)) :] + timed(6)) == timed(6)


def numbered(count: int, width: int = 8) -> list[bytes]:
    return [b"%0*d\n" % (width, number) for number in range(count)]


@pytest.mark.parametrize("width", [8, 300], ids=["lines", "bytes"])
def test_a_long_stretch_without_a_time_that_fits_nowhere_else_is_a_proof(width: int) -> None:
    lines = numbered(1000, width)
    count = min(STRETCH_LINES, STRETCH // (width + 1) + 1)
    export = b"".join(lines[500 - count :])

    assert found(b"".join(lines[:500]), export) == Continuation(
        start=count * (width + 1), shift=(500 - count) * (width + 1), proof=OverlapProof.STRETCH
    )


def test_a_shorter_stretch_is_none() -> None:
    lines = numbered(1000)

    assert found(b"".join(lines[:500]), b"".join(lines[501 - STRETCH_LINES :])) == Unproved(alike=True)


@pytest.mark.parametrize(
    ("delivered", "export"),
    [
        (b"x\n" * 400, b"x\n" * 400),
        (b"a\n" + b"x\n" * 300, b"x\n" * 300 + b"b\n" + b"x\n" * 300),
        (b"x\n" * 300 + b"a\n" + b"x\n" * 300, b"x\n" * 300 + b"b\n"),
        (b"".join(numbered(300)) * 2, b"".join(numbered(300)) + b"new\n"),
    ],
    ids=["all of it", "twice exported", "twice delivered", "twice on end"],
)
def test_a_stretch_that_fits_at_a_second_place_is_no_proof(delivered: bytes, export: bytes) -> None:
    assert isinstance(found(delivered, export), Unproved)


@pytest.mark.parametrize("lines", [[b"a\n"], [b"a\n", b"a\n"], [timed(1)[4:], timed(2)]])
def test_all_that_was_ever_delivered_is_a_proof(lines: list[bytes]) -> None:
    """A log that is shorter than an export, from its first byte on."""
    log = b"".join(lines)

    assert (new_in(log, log + b"a\nb", complete=True), new_in(log, log, complete=True)) == (b"a\nb", b"")


def test_a_part_of_all_that_was_ever_delivered_is_none() -> None:
    assert isinstance(found(b"a\nb\n", b"b\nc\n", complete=True), Unproved)


def test_an_export_that_begins_within_the_last_line_delivered_goes_on_after_it() -> None:
    rest = timed(9)[-20:]

    assert found(joined(0, 10), rest + timed(10)) == Continuation(
        start=20, shift=len(joined(0, 10)) - 20, proof=OverlapProof.REST
    )


@pytest.mark.parametrize(
    ("delivered", "export"),
    [
        (joined(0, 10), timed(9)[-15:] + timed(10)),
        (event(1), BACKTRACE[-1][-20:] + timed(2)),
        (
            timed(1, "F  boom boom boom")[:-2] + b"\n" + timed(2, "F  boom boom boom")[:-2] + b"\n",
            b"F  boom boom boom\n",
        ),
        (joined(0, 10), timed(9)[-20:] + timed(10) + timed(9)[-20:]),
    ],
    ids=["short", "no time", "the end of another line", "twice exported"],
)
def test_the_rest_of_a_line_that_may_be_anothers_is_no_proof(delivered: bytes, export: bytes) -> None:
    assert isinstance(found(delivered, export), Unproved)


DUMP = b"".join(b"  thread %d: #0 __lll_lock_wait () from libpthread\n" % number for number in range(300))


def dumping(number: int) -> bytes:
    """Return an event of its own time, with a dump that is a stretch, and 99 lines after it."""
    return timed(number * 1000, "F  -  all threads") + DUMP + joined(number * 1000 + 1, number * 1000 + 100)


@pytest.mark.parametrize("cut", [-500, 0, 40, 80, 900])
def test_a_dump_that_is_a_stretch_and_comes_again_is_no_proof(cut: int) -> None:
    """What is before it is of another time, or the times do not go on there."""
    log = b"".join(map(dumping, range(1, 6)))
    end = log.index(b"thread 290")
    begin = log.index(timed(3000, "F  -  all threads")) + cut

    assert isinstance(found(log[: log.rfind(b"\n", 0, end) + 1], log[begin : begin + 24_000]), Unproved)


def test_a_dump_right_after_an_equal_one_is_no_proof() -> None:
    """The times go on, but what is before the one is not what is before the other."""
    first, second = timed(1, "F  -  all threads"), timed(2, "F  -  all threads")
    delivered = joined(3000, 3050) + first + DUMP[: DUMP.index(b"  thread 290")]

    assert isinstance(found(delivered, second + DUMP + joined(3, 50)), Unproved)


def test_a_dump_that_both_windows_hold_shows_where_the_log_goes_on() -> None:
    log = b"".join(map(dumping, range(1, 4)))
    end = log.rfind(b"\n", 0, log.index(b"thread 290")) + 1

    export = log[20 : log.index(timed(2000, "F  -  all threads"))]

    assert new_in(log[:end], export) == export[end - 20 :]


@pytest.mark.parametrize("rest", [20, 40])
def test_the_rest_of_a_line_is_no_proof_where_the_times_do_not_go_on(rest: int) -> None:
    """A rare line that ends as the last one of its kind did, a window later."""
    rare = b" the checkpoint took longer than was expected\n"
    delivered = joined(0, 50) + timed(50)[:-1] + rare

    assert new_in(delivered, rare[-rest:] + joined(51, 99)) == joined(51, 99)
    assert isinstance(found(delivered, rare[-rest:] + joined(9051, 9099)), Unproved)


def test_of_two_equal_lines_of_one_millisecond_none_is_lost_where_the_export_begins_within_the_first() -> None:
    twin = timed(60, "W  STORAGE  the same words")
    export = twin[20:] + twin + joined(70, 90)

    assert (new_in(joined(0, 50) + twin, export) or export).count(twin) == 1


def test_many_pairs_of_equal_lines_at_the_end_hide_no_line_of_its_own_before_them() -> None:
    pairs = b"".join(timed(number) * 2 for number in range(100, 140))

    assert new_in(joined(0, 100) + pairs, joined(50, 100) + pairs + joined(140, 150)) == joined(140, 150)


# --- the last lines are otherwise -------------------------------------------------------------------------------------

ENDED_EARLY = timed(9)[:-6] + b"\n"


@pytest.mark.parametrize(
    ("last", "twice"),
    [
        (ENDED_EARLY, timed(9)),
        (timed(9)[:-6] + b"[truncated]\n", timed(9)),
        (timed(9) + b"-- end of export --\n", b""),
        (timed(9) + b"a trailer\nof two lines\n", b""),
        (timed(9, "rewritten") + timed(9, "and more"), timed(9)),
        (b"", timed(9)),
    ],
    ids=["ended early", "marked", "a trailer", "a longer one", "rewritten", "missing"],
)
@pytest.mark.parametrize("first", [0, 3, 8])
def test_at_most_the_changed_lines_are_twice(last: bytes, twice: bytes, first: int) -> None:
    assert new_in(joined(0, 9) + last, joined(first, 12) + b"-- end of export --\n") == (
        twice + joined(10, 12) + b"-- end of export --\n"
    )


def test_how_much_of_what_was_delivered_is_otherwise_is_known() -> None:
    result = found(joined(0, 9) + ENDED_EARLY, joined(0, 12))

    assert result == Continuation(start=len(joined(0, 9)), shift=0, proof=OverlapProof.LINE, changed=len(ENDED_EARLY))


def test_the_only_line_of_a_log_that_was_ended_early_is_known_again() -> None:
    assert new_in(timed(0)[:-5] + b"\n", joined(0, 2), complete=True) == joined(0, 2)


def test_lines_without_times_that_were_changed_at_the_end_are_known_by_those_before() -> None:
    lines = numbered(600)
    delivered = b"".join(lines[:500]) + b"[truncated]\n"

    assert new_in(delivered, b"".join(lines[100:])) == b"".join(lines[500:])


# --- an older export --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1, 30])
@pytest.mark.parametrize("end", [0, 1, 20])
def test_what_ends_earlier_has_nothing_new_wherever_it_begins(start: int, end: int) -> None:
    """Earlier than what is known of the log, too."""
    export = joined(10, 30)[start:] + timed(30)[:end]
    result = found(joined(20, 50), export)

    assert isinstance(result, Continuation)
    assert (result.start, result.older) == (len(export), True)


def test_what_ends_earlier_within_a_line_that_was_ended_then_has_nothing_new() -> None:
    export = joined(10, 30) + timed(30)[:-9] + b"\n"

    result = found(joined(20, 50), export)

    assert isinstance(result, Continuation)
    assert (result.start, result.older) == (len(export), True)


@pytest.mark.parametrize("ending", [b"[truncated]\n", b" (changed)\n-- end of export --\n", b"[truncated]"])
def test_what_ends_earlier_with_a_line_that_was_changed_then_has_nothing_new(ending: bytes) -> None:
    """Else the next export would be compared with it, and all that came after it would be twice."""
    export = joined(10, 30) + timed(30)[:-9] + ending

    result = found(joined(20, 50), export)

    assert isinstance(result, Continuation)
    assert (result.start, result.older) == (len(export), True)


@pytest.mark.parametrize(
    "after", [b"", b"".join(b"  frame %d\n" % number for number in range(9000)) + joined(200, 300)]
)
def test_a_line_that_the_next_export_has_whole_is_new_though_a_trailer_had_a_time(after: bytes) -> None:
    """Whatever comes after it: nothing, or a dump that is longer than a read."""
    line = timed(30, "W  a long one " + "x" * 300)
    delivered = joined(0, 30) + line[:200] + b"\n" + timed(31, "exported")

    assert new_in(delivered, joined(0, 30) + line + after) == line + after


def test_a_last_line_without_a_time_that_was_ended_early_in_an_older_export_is_nothing_new() -> None:
    lines = numbered(1000, 20)
    export = b"".join(lines[100:700]) + lines[700][:-4] + b"\n"

    result = found(b"".join(lines), export)

    assert isinstance(result, Continuation)
    assert (result.start, result.older) == (len(export), True)


def test_a_marked_last_line_that_nothing_follows_is_new_once_it_is_whole() -> None:
    line = timed(30)

    assert new_in(joined(0, 30) + line[:-3] + b"[truncated]\n", joined(0, 30) + line) == line


def test_a_log_that_goes_on_otherwise_is_no_older_one() -> None:
    """It was put back from a copy, perhaps."""
    other = b"".join(timed(number, "I  after the restore") for number in range(30, 40))

    assert isinstance(found(joined(0, 60), joined(10, 30) + other), Unproved)
    assert new_in(joined(0, 32), joined(10, 30) + other) == other


def test_a_long_older_export_is_found_by_its_stretch() -> None:
    lines = numbered(1000)
    export = b"".join(lines[100:700])

    assert found(b"".join(lines), export) == Continuation(
        start=len(export), shift=900, proof=OverlapProof.STRETCH, older=True
    )


# --- work -------------------------------------------------------------------------------------------------------------


@dataclass
class Reads:
    """How much was read and searched, and in how large pieces."""

    most: int
    total: int = 0
    largest: int = 0

    def count(self, size: int) -> None:
        self.total += size
        self.largest = max(self.largest, size)
        assert self.total <= self.most, "more work than a few times what there is"


@dataclass(frozen=True)
class Counted:
    """A window that counts what is read of it."""

    content: bytes
    reads: Reads

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, start: int, size: int) -> bytes:
        read = self.content[start : start + size]
        self.reads.count(len(read))
        return read

    def find(self, text: bytes, start: int, end: int) -> int:
        place = self.content.find(text, start, end)
        self.reads.total += (place + len(text) if place >= 0 else min(end, self.size)) - start
        self.reads.count(0)
        return place


def repeated(unit: bytes, size: int) -> bytes:
    return (unit * (size // len(unit) + 1))[:size]


Windows = Callable[[int], tuple[bytes, bytes]]
MONOTONOUS: dict[str, Windows] = {
    "two bytes, an end": lambda n: (repeated(b"x\n", n) + b"end\n", repeated(b"x\n", n)),
    "two bytes, standing still": lambda n: (repeated(b"x\n", n), repeated(b"x\n", n)),
    "empty lines": lambda n: (repeated(b"\n", n) + b"end\n", repeated(b"\n", n)),
    "a line": lambda n: (repeated(timed(1), n) + b"\nend\n", repeated(timed(1), n)),
    "events": lambda n: (repeated(event(1), n) + timed(2), repeated(event(1), n)),
    "a block": lambda n: (repeated(joined(0, 1000), n) + b"\n", repeated(joined(0, 1000), n)),
    "one letter": lambda n: (b"y" + repeated(b"x", n) + b"\n", repeated(b"x", n)),
    "half of it once more": lambda n: (repeated(b"x" * (n // 2 - 1) + b"\n", n), repeated(b"x", n)),
}


@pytest.mark.parametrize("windows", list(MONOTONOUS.values()), ids=list(MONOTONOUS))
def test_work_grows_with_a_log_that_repeats_itself_and_no_faster(windows: Windows) -> None:
    """A search that compared each place would read terabytes here, and run for minutes."""

    def work(size: int) -> Reads:
        delivered, export = windows(size)
        reads = Reads(most=60 * 2 * size)
        continuation(Counted(delivered, reads), Counted(export, reads))
        return reads

    assert work(4_000_000).total <= 2.2 * work(2_000_000).total + 2_000_000


@pytest.mark.parametrize("new", [0, 1000, 250_000, 970_000, 2_200_000])
def test_a_log_is_read_a_few_times_in_small_pieces(new: int) -> None:
    log, size = joined(0, 64_000), 1_000_000
    delivered = log[: log.rfind(b"\n", 0, size) + 1]
    export = log[new : new + size]
    reads = Reads(most=20 * size)

    result = continuation(Counted(delivered, reads), Counted(export, reads))

    assert (isinstance(result, Continuation), reads.largest <= STRETCH) == (new < size, True)
    assert reads.total <= (3 if new < size else 16) * 2 * size


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "size", "expected"), [(0, 2, b"ab"), (1, 9, b"bcd"), (2, 1, b"c"), (4, 1, b""), (5, 1, b""), (9, 1, b"")]
)
def test_a_slice_ends_where_it_ends(start: int, size: int, expected: bytes) -> None:
    assert Slice(HeldWindow(b"abcdefg"), 4).read(start, size) == expected


@pytest.mark.parametrize(("text", "expected"), [(b"bc", 1), (b"cd", 2), (b"de", -1), (b"g", -1)])
def test_a_slice_is_searched_up_to_its_end(text: bytes, expected: int) -> None:
    assert Slice(HeldWindow(b"abcdefg"), 4).find(text, 0, 99) == expected


@pytest.mark.parametrize("read", [1, 2, 3, 64])
@given(text=st.text("ab\n", max_size=40).map(str.encode))
def test_the_last_whole_line_ends_after_the_last_line_end(read: int, text: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "READ", read)
        patch.setattr(overlap, "LINE", 1)

        assert end_of_lines(HeldWindow(text)) == text.rfind(b"\n") + 1


@pytest.mark.parametrize("read", [2, 3, 5, 64])
@given(text=st.text("ab\n", max_size=40).map(str.encode))
def test_lines_come_from_the_last_one_back(read: int, text: bytes) -> None:
    """But those that are longer than a read."""
    whole = [line + b"\n" for line in text.split(b"\n")[:-1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "READ", read)
        lines = list(overlap._lines_back(HeldWindow(text), reach=1000))

    assert all(text[at : at + len(line)] == line for at, line in lines)
    assert [line for line in reversed(whole) if len(line) < read] == [line for _, line in lines if len(line) < read]


# --- where an object may begin ----------------------------------------------------------------------------------------


@settings(max_examples=examples(300))
@given(
    st.binary(max_size=40).map(lambda text: bytes(byte % 3 for byte in text)),
    st.binary(min_size=1, max_size=4),
    st.integers(0, 45),
)
@example(b"\1\1\1\1", b"\1\1", 3)
@example(b"\1\2\1\2", b"\1\2", 4)
@example(b"\1\2\1\2", b"\1\2", 1)
def test_the_longest_end_that_an_object_may_begin_with_is_found(text: bytes, head: bytes, most: int) -> None:
    head = bytes(byte % 3 for byte in head)
    ends = [at for at in range(len(text)) if text.startswith(head, at) and len(text) - at <= most]

    assert longest_end(HeldWindow(text), head, most=most) == min(ends, default=None)
