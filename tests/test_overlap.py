"""Where a new export continues what was delivered: by force, over any log and any cuts, and in linear time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ddslogd.storage import overlap
from ddslogd.storage.overlap import Continuation, Held, How, Slice, continuation, end_of_lines, longest_end

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

EVERYWHERE: dict[str, object] = {"BLOCK_TRIES": 1000}  # as by force; what its real value gives up has tests below
# Of the module's own size, everything that these tests make up would fit into one read, one search and one probe.
SIZES: dict[str, dict[str, object]] = {
    "real sizes": EVERYWHERE,
    "tiny sizes": {"READ": 3, "SEARCHED": 5, "PROBE": 4, "TRIES": 2, "BLOCKS": (3, 2), **EVERYWHERE},
    "sizes of one": {"READ": 1, "SEARCHED": 1, "PROBE": 1, "TRIES": 1, "BLOCKS": (2, 1), **EVERYWHERE},
}


@pytest.fixture(params=list(SIZES.values()), ids=list(SIZES))
def _sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in request.param.items():
        monkeypatch.setattr(overlap, name, value)


of_any_size = pytest.mark.usefixtures("_sizes")
# The sizes are the same for all examples of a test: that is what is wanted.
many = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


# --- by force ---------------------------------------------------------------------------------------------------------


def border_by_force(tail: bytes, head: bytes) -> int:
    return next(size for size in range(min(len(tail), len(head)), -1, -1) if tail.endswith(head[:size]))


def lines_of(text: bytes) -> list[bytes]:
    return [line + b"\n" for line in text.split(b"\n")[:-1]]


def holds_line(text: bytes, start: int, end: int) -> bool:
    at = 0
    for line in lines_of(text):
        if start <= at and at + len(line) <= end:
            return True
        at += len(line)
    return False


def block_by_force(delivered: bytes, export: bytes) -> int | None:
    lines = lines_of(delivered)
    for count in (min(len(lines), overlap.BLOCKS[0]), *overlap.BLOCKS):
        block = b"".join(lines[-count:]) if 0 < count <= len(lines) else b"no lines"
        cut = count == len(lines)  # perhaps, so it may stand within a line where another follows
        for place in range(len(export)):
            begins = place == 0 or export[place - 1 : place] == b"\n"
            if export.startswith(block, place) and (begins or (cut and count > 1)):
                return place + len(block)
    return None


def by_force(delivered: bytes, export: bytes) -> Continuation | None:
    """The rules word for word, in cubic time."""
    size = border_by_force(delivered, export)
    if size and holds_line(delivered, len(delivered) - size, len(delivered)):
        return Continuation(start=size, how=How.OVERLAP)
    places = [place for place in range(len(delivered)) if export and delivered.startswith(export, place)]
    if any(holds_line(delivered, place, place + len(export)) for place in places):
        return Continuation(start=len(export), how=How.INSIDE)
    end = block_by_force(delivered, export)
    return None if end is None else Continuation(start=end, how=How.BLOCK)


ENDS = [b"", b"a", b"b"]


def repeated(unit: bytes, size: int) -> bytes:
    return (unit * (size // len(unit) + 1))[:size]


letters = st.text("ab\n", max_size=40).map(str.encode)
few_lines = st.lists(st.sampled_from([b"\n", b"a\n", b"b\n", b"ab\n", b"ba\n"]), max_size=40).map(b"".join)


@st.composite
def repeating(draw: DrawFn) -> bytes:
    """A text that repeats itself, cut anywhere, up to something else, and perhaps once more."""
    unit = draw(st.text("ab\n", min_size=1, max_size=7).map(str.encode))
    text = (unit * 40)[draw(st.integers(0, 6)) :][: draw(st.integers(0, 90))]
    return (text + draw(st.text("ab\n", max_size=3).map(str.encode))) * draw(st.integers(1, 2))


texts = letters | few_lines | repeating()


@st.composite
def pairs(draw: DrawFn) -> tuple[bytes, bytes]:
    """What was delivered and an export: two cuts of one text, with perhaps a byte changed, or two texts."""
    text = draw(texts)
    places = st.integers(0, len(text))
    (start, end), (first, last) = sorted((draw(places), draw(places))), sorted((draw(places), draw(places)))
    export = draw(st.just(text[first:last]) | st.just(text[start:last]) | texts)
    if export and draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(export) - 1))
        export = export[:at] + draw(st.sampled_from([b"", b"a", b"\n", b"ab"])) + export[at + 1 :]
    return text[start:end], export


@of_any_size
def test_the_longest_border_of_all_short_texts_is_the_one_found_by_force() -> None:
    short = [bytes(text) for size in range(8) for text in product(b"ab", repeat=size)]

    wrong = [
        (tail, head)
        for tail in short
        for head in short
        if overlap._longest_border(tail, head) != border_by_force(tail, head)
    ]

    assert wrong == []


@pytest.mark.parametrize("unit", [b"ab", b"aab", b"aabab"])
def test_the_longest_border_of_texts_that_stop_repeating_themselves_is_the_one_found_by_force(unit: bytes) -> None:
    """Both or one of them, sooner or later, and the first after a letter that is out of step."""
    sizes = range(22)
    tails = [
        before + repeated(unit, n) + after for before in (b"", b"a", b"b") for n in sizes for after in [*ENDS, unit]
    ]
    heads = [repeated(unit, n) + after for n in sizes for after in (*ENDS, b"\n" * 9)]

    wrong = [
        (tail, head)
        for tail in tails
        for head in heads
        if overlap._longest_border(tail, head) != border_by_force(tail, head)
    ]

    assert wrong == []


@of_any_size
@many
@given(pair=pairs())
def test_the_longest_border_is_the_one_found_by_force(pair: tuple[bytes, bytes]) -> None:
    tail, head = pair

    assert overlap._longest_border(tail, head) == border_by_force(tail, head)


@of_any_size
@many
@given(pair=pairs())
def test_the_longest_overlap_is_the_longest_border_wherever_it_is_looked_for(pair: tuple[bytes, bytes]) -> None:
    """By its probe, or by its period."""
    delivered, export = pair

    assert overlap._overlap(Held(delivered), Held(export))[0] == border_by_force(delivered, export)


@of_any_size
@many
@given(pair=pairs())
@example(pair=(b"xab\nab\nq\n", b"ab\n"))  # stands within a line first, and later as a line
@example(pair=(b"xab\n" * 9 + b"ab\nq\n", b"ab\n"))  # the same, beyond the tries
@example(pair=(b"\nab\n", b"\n"))  # ends what was delivered, where it is no line; is one at its beginning
@example(pair=(b"abc\ndef\n", b"ab"))
@example(pair=(b"abc\ndef\n", b"c\nde"))
@example(pair=(b"a\n" * 40 + b"b\nc\n", b"a\n" * 9 + b"b\n"))
@example(pair=(b"b\nab\nc\nd\n", b"b\nc\n"))  # stands within a line only, and beyond the tries
@example(pair=(b"b\n", b"aaaa\nb\n"))  # the line ends where the export does, and where a search does
def test_an_export_continues_where_the_rules_say(pair: tuple[bytes, bytes]) -> None:
    """Lines that repeat themselves included: then the longest overlap is right by definition, and may not be in truth.

    ``a a a`` followed by ``a a a`` is a log that stood still, or one that grew by three lines: both leave the same
    bytes, so no rule can tell. The longest overlap delivers no line twice, and loses only what equals its neighbour.
    """
    whole, export = pair[0][: end_of_lines(Held(pair[0]))], pair[1]

    assert continuation(Held(whole), Held(export)) == by_force(whole, export)


# --- a log, and windows that slide over it ----------------------------------------------------------------------------


@dataclass
class Stream:
    """What is made of a log's exports, as small as can be."""

    delivered: bytes = b""
    last: bytes = b""
    gaps: list[int] = field(default_factory=list)
    taken: int = 0

    def take(self, export: bytes) -> None:
        """Append the whole lines that are new. An empty export says nothing; an older one is not gone on from."""
        found = continuation(Held(self.last), Held(export)) if export else Continuation(start=0, how=How.INSIDE)
        whole = export[: end_of_lines(Held(export))]
        self.delivered += whole[found.start if found else 0 :]
        if found is None:
            self.gaps.append(self.taken)
        if found is None or found.how is not How.INSIDE:
            self.last = whole
        self.taken += 1


Cut = tuple[int, int]


def numbered(contents: list[bytes], first: int = 0) -> list[bytes]:
    """Make lines that differ: the byte that a line begins with stands nowhere else, so what is cut off is no line."""
    return [b"\x01%d:%s\n" % (number, content) for number, content in enumerate(contents, first)]


def lines_in(log: bytes, start: int, end: int) -> list[Cut]:
    """Give where the whole lines of a part of a log are: neither cut at its beginning nor at its end."""
    at = start if start == 0 or log[start - 1 : start] == b"\n" else log.find(b"\n", start, end) + 1
    found = []
    while (at > 0 or start == 0) and (after := log.find(b"\n", at, end) + 1):
        found.append((at, after))
        at = after
    return found


def common(one: Cut, other: Cut) -> Cut:
    return max(one[0], other[0]), min(one[1], other[1])


contents = st.binary(max_size=8).map(lambda raw: raw.translate(None, b"\n\x01")) | st.sampled_from(
    [b"\r", b"}}\r", b"\xff"]
)


@st.composite
def slides(draw: DrawFn, log: bytes) -> list[Cut]:
    """Windows that slide or grow, with some that repeat what is known, or a part of it, or more than that."""
    places = st.integers(0, len(log))
    cuts = draw(st.lists(st.tuples(places, places), min_size=1, max_size=8))
    windows: list[Cut] = []
    for start, end in zip(sorted(start for start, _ in cuts), sorted(end for _, end in cuts), strict=True):
        windows.append((min(start, end), end))
        within = st.integers(*windows[-1])
        older = st.tuples(within, within).map(lambda cuts: (min(cuts), max(cuts)))
        wider = st.tuples(st.integers(0, windows[-1][0]), st.just(end))
        windows += draw(st.lists(st.sampled_from([(end, end), windows[-1]]) | older | wider, max_size=1))
    return windows


@st.composite
def unique_logs(draw: DrawFn) -> tuple[bytes, list[Cut]]:
    log = b"".join(numbered(draw(st.lists(contents, min_size=1, max_size=12))))
    return log, draw(slides(log))


@st.composite
def repeating_logs(draw: DrawFn) -> tuple[bytes, list[Cut]]:
    """Lines that differ, with runs of lines between them that do not: empty ones, and some that end like others."""
    lines = numbered(draw(st.lists(contents, min_size=1, max_size=8)))
    runs = st.lists(st.sampled_from([b"\n", b"\r\n", b"}}\n", b"a\xff\n"]), max_size=4)
    log = b"".join(line + b"".join(draw(runs)) * draw(st.integers(1, 2)) for line in lines)
    return log, draw(slides(log))


def expected_stream(log: bytes, windows: list[Cut]) -> tuple[bytes, list[int]]:
    """Give what a stream of the windows holds, and which begin after a gap: by their places, not their bytes."""
    stream, gaps, known = b"", [], (0, 0)
    for number, (start, end) in enumerate(windows):
        whole = (start, log.rfind(b"\n", start, end) + 1)
        if start == end:
            continue
        is_continued = bool(lines_in(log, *common(known, whole)))
        stream += log[known[1] if is_continued else start : whole[1]]
        gaps += [] if is_continued else [number]
        known = known if is_continued and end < known[1] else whole
    return stream, gaps


def taken(log: bytes, windows: list[Cut]) -> tuple[bytes, list[int]]:
    stream = Stream()
    for start, end in windows:
        stream.take(log[start:end])
    return stream.delivered, stream.gaps


def provable(log: bytes, windows: list[Cut]) -> list[Cut]:
    """Leave out what holds bytes but no whole line: there is nothing in it that could prove anything."""
    return [(start, end) for start, end in windows if start == end or lines_in(log, start, end)]


@of_any_size
@many
@given(made=unique_logs())
def test_a_stream_is_the_log_but_for_its_gaps_and_they_are_where_windows_share_no_line(
    made: tuple[bytes, list[Cut]],
) -> None:
    log, windows = made[0], provable(*made)

    assert taken(log, windows) == expected_stream(log, windows)


@of_any_size
@many
@given(made=repeating_logs())
def test_windows_that_share_one_line_of_its_own_make_the_whole_log(made: tuple[bytes, list[Cut]]) -> None:
    """Byte for byte, from where the first begins to the last line's end, whatever else repeats itself around it."""
    log, windows = made
    kept: list[Cut] = []
    for window in windows:
        last = kept[-1] if kept else window
        shared = lines_of(log[slice(*common(last, window))])
        if last[0] <= window[0] and last[1] <= window[1] and any(line.startswith(b"\x01") for line in shared):
            kept.append(window)

    stream, gaps = taken(log, kept)

    assert (stream, gaps) == ((log[kept[0][0] : log.rfind(b"\n", 0, kept[-1][1]) + 1], [0]) if kept else (b"", []))


@settings(max_examples=60)
@given(data=st.data(), at=st.integers(0, 8))
def test_a_line_of_a_megabyte_is_a_line_like_others(data: st.DataObject, at: int) -> None:
    short = [b"a", b"b\r", b"\xff", b"", b"}}", b"c", b"d", b"e"]
    lines = numbered([*short[:at], b"x" * 1_000_000, *short[at:]])
    log = b"".join(lines)
    ends = [sum(map(len, lines[:count])) for count in range(10)]
    near = st.builds(lambda end, off: max(0, min(end + off, len(log))), st.sampled_from(ends), st.integers(-3, 3))
    cuts = data.draw(st.lists(st.tuples(near, near), min_size=2, max_size=6))
    starts, stops = sorted(start for start, _ in cuts), sorted(stop for _, stop in cuts)
    windows = provable(log, [(min(start, stop), stop) for start, stop in zip(starts, stops, strict=True)])

    result, expected = taken(log, windows), expected_stream(log, windows)

    assert expected[1] == result[1]
    assert expected[0] == result[0], "not shown: a megabyte"


def test_an_empty_export_continues_nothing() -> None:
    assert continuation(Held(b"a\nb\n"), Held(b"")) is None


def test_nothing_delivered_is_continued_by_nothing() -> None:
    assert continuation(Held(b""), Held(b"a\nb\n")) is None


def test_the_same_export_again_has_nothing_new() -> None:
    assert continuation(Held(b"a\nb\n"), Held(b"a\nb\n")) == Continuation(start=4, how=How.OVERLAP)


def test_what_is_new_begins_within_the_line_that_was_waiting_for_its_end() -> None:
    delivered, export = Held(b"a\nb\n"), Held(b"b\nc, whose end was miss")

    assert continuation(delivered, export) == Continuation(start=2, how=How.OVERLAP)


def test_a_last_line_without_its_end_waits_for_the_next_export() -> None:
    stream = Stream()
    waiting = []
    for export in (b"a\nb\nc", b"b\nc and", b"b\nc and d\ne"):
        stream.take(export)
        waiting.append(stream.delivered)

    assert waiting == [b"a\nb\n", b"a\nb\n", b"a\nb\nc and d\n"]


# --- evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delivered", "export"),
    [
        (b"{a}}\n{b}}\n", b"}}\n{c}}\n"),
        (b"{a}}\n{b}}\n", b"}}\n"),
        (b"{a}}\r\n{b}}\r\n", b"\r\n{c}}\r\n"),
        (b"xab\n", b"ab\ncd\n"),
        (b"a\nxab\n", b"ab\nxab\n"),
    ],
    ids=["the end of a line", "the end of a line alone", "a line end", "a line of its own", "a line, and no end"],
)
def test_a_piece_of_a_line_is_no_evidence(delivered: bytes, export: bytes) -> None:
    assert continuation(Held(delivered), Held(export)) is None


@pytest.mark.parametrize(
    ("delivered", "export", "start"),
    [
        (b"a}}\nb}}\n", b"b}}\nc}}\n", 4),
        (b"a}}\nb}}\n", b"}}\nb}}\nc}}\n", 7),
        (b"b}}\n", b"b}}\nc}}\n", 4),
        (b"a\n\n", b"\nb\n", 1),
    ],
    ids=["whole", "after a cut one", "the only one", "empty"],
)
def test_one_whole_line_is_evidence(delivered: bytes, export: bytes, start: int) -> None:
    assert continuation(Held(delivered), Held(export)) == Continuation(start=start, how=How.OVERLAP)


def test_a_line_that_is_longer_than_a_read_is_evidence() -> None:
    """And so is one that begins after a long piece."""
    long = b"x" * (3 * overlap.READ)
    delivered = b"a" + long + b"\n" + b"b" + long + b"\n"

    starts = [
        continuation(Held(delivered), Held(delivered[cut:] + b"c\n")) for cut in (2, len(long) + 2, len(long) + 3)
    ]

    assert [found and found.start for found in starts] == [2 * len(long) + 2, len(long) + 2, None]


# --- an older export --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "export",
    [b"a\nbb\n", b"a\nbb\ncc", b"a\nb", b"a\nbb\nccc\ndd", b"bb\nccc\n", b"b\nccc\n", b"bb\nc"],
    ids=["its beginning", "with a piece", "one line", "nearly all", "from within", "from within a line", "a line"],
)
def test_what_was_delivered_whole_has_nothing_new(export: bytes) -> None:
    found = continuation(Held(b"a\nbb\nccc\ndddd\n"), Held(export))

    assert found == Continuation(start=len(export), how=How.INSIDE)


@pytest.mark.parametrize("export", [b"a", b"b\ncc", b"\n", b"bb", b"c\n"])
def test_what_was_delivered_but_holds_no_line_is_no_evidence(export: bytes) -> None:
    assert continuation(Held(b"a\nbb\nccc\ndddd\n"), Held(export)) is None


def test_what_stands_within_a_line_first_and_later_as_a_line_was_delivered() -> None:
    assert continuation(Held(b"xab\nab\nq\n"), Held(b"ab\n")) == Continuation(start=3, how=How.INSIDE)


def test_what_was_delivered_late_in_a_log_that_repeats_itself_has_nothing_new() -> None:
    """Its beginning stands in more places than are tried."""
    export = b"x\n" * overlap.PROBE + b"y\n"
    delivered = b"x\n" * (overlap.PROBE + overlap.TRIES) + b"y\nz\n"

    assert continuation(Held(delivered), Held(export)) == Continuation(start=len(export), how=How.INSIDE)


def test_an_older_export_that_begins_before_what_is_known_is_a_gap() -> None:
    """It cannot be told from a log that was replaced. What is delivered twice is not lost."""
    lines = numbered([b""] * 100)

    assert continuation(Held(b"".join(lines[50:])), Held(b"".join(lines[40:80]))) is None


def test_an_older_export_changes_nothing_of_what_comes_next() -> None:
    stream = Stream()
    for export in (b"a\nb\nc\n", b"a\nb\n", b"b\nc\nd\n"):
        stream.take(export)

    assert (stream.delivered, stream.gaps) == (b"a\nb\nc\nd\n", [0])


# --- the last lines as one block --------------------------------------------------------------------------------------

LINES = numbered([b"said"] * 50)
NEW = numbered([b"new"] * 3, first=50)


def continued(delivered: list[bytes], export: list[bytes]) -> tuple[How, bytes] | None:
    """Give how an export continues what was delivered, and what is new in it."""
    whole = b"".join(export)
    found = continuation(Held(b"".join(delivered)), Held(whole))
    return None if found is None else (found.how, whole[found.start :])


def test_behind_a_header_that_was_rewritten_the_last_lines_show_where_it_goes_on() -> None:
    found = continued([b"# exported at 3\n", *LINES], [b"# exported at 4\n", *LINES, *NEW])

    assert found == (How.BLOCK, b"".join(NEW))


@pytest.mark.parametrize("back", [50, 34, 33, 32, 20, 17, 16, 10, 9, 8, 6])
def test_two_lines_that_changed_places_before_the_last_four_hide_nothing(back: int) -> None:
    """So many lines from the end: before the last 32, or among them and not the last 16, and so on."""
    swapped = [*LINES[:-back], LINES[-back + 1], LINES[-back], *LINES[len(LINES) - back + 2 :]]

    assert continued(LINES, swapped + NEW) == (How.BLOCK, b"".join(NEW))


@pytest.mark.parametrize("back", [5, 4, 3, 2])
def test_two_lines_that_changed_places_among_the_last_four_make_a_gap(back: int) -> None:
    swapped = [*LINES[: 50 - back], LINES[50 - back + 1], LINES[50 - back], *LINES[50 - back + 2 :]]

    assert continued(LINES, swapped + NEW) is None


def test_an_export_that_is_cut_otherwise_goes_on_after_the_last_lines() -> None:
    """Its first line has lost its middle, so that it is no end of a line either."""
    cut = [b"\x0119:...d\n", *LINES[20:], *NEW]

    assert continued(LINES, cut) == (How.BLOCK, b"".join(NEW))


def test_an_export_that_begins_before_what_is_known_goes_on_after_the_last_lines() -> None:
    assert continued(LINES[45:], LINES + NEW) == (How.BLOCK, b"".join(NEW))


@pytest.mark.parametrize("count", range(1, 8))
def test_of_few_lines_all_are_looked_for(count: int) -> None:
    assert continued(LINES[:count], [b"header\n", *LINES[:count], *NEW]) == (How.BLOCK, b"".join(NEW))


@pytest.mark.parametrize("count", range(1, 4))
def test_fewer_than_four_of_more_lines_are_too_few(count: int) -> None:
    """They may repeat themselves: what lies before them would be lost."""
    assert continued([b"old header\n", *LINES[:count]], [b"new header\n", *LINES[:count], *NEW]) is None


def test_four_of_five_lines_are_enough() -> None:
    found = continued([b"old header\n", *LINES[:4]], [b"new header\n", *LINES[:4], *NEW])

    assert found == (How.BLOCK, b"".join(NEW))


def test_of_a_block_that_stands_twice_the_first_counts() -> None:
    """What is delivered twice is not lost."""
    export = [b"header\n", *LINES[-32:], b"between\n", *LINES[-32:], *NEW]

    assert continued(LINES, export) == (How.BLOCK, b"".join([b"between\n", *LINES[-32:], *NEW]))


@pytest.mark.parametrize(("fewer", "more"), [(16, 32), (8, 16), (4, 8)])
def test_more_lines_count_before_fewer(fewer: int, more: int) -> None:
    """Though the fewer stand in it earlier."""
    export = [b"header\n", *LINES[-fewer:], b"between\n", *LINES[-more:], *NEW]

    assert continued(LINES, export) == (How.BLOCK, b"".join(NEW))


@pytest.mark.parametrize("before", [[], [b"header\n"]], ids=["at the beginning", "later"])
@pytest.mark.parametrize("count", [1, 4])
def test_a_block_that_begins_within_a_line_does_not_count(before: list[bytes], count: int) -> None:
    """Of one line, or of four of five: so that no fewer are looked for."""
    known = [b"old header\n", *LINES[:4]] if count > 1 else LINES[:1]

    assert continued(known, [*before, b"x" + LINES[0], *LINES[1:count], *NEW]) is None


@pytest.mark.parametrize("before", [[], [b"header\n"]], ids=["at the beginning", "later"])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_a_cut_line_at_the_beginning_of_what_is_known_hides_nothing(before: list[bytes], count: int) -> None:
    """An export that begins earlier holds all of it, with at least one whole line behind the cut one."""
    known = [LINES[0][3:], *LINES[1:count]]

    assert continued(known, [*before, *LINES[:count], *NEW]) == (How.BLOCK, b"".join(NEW))


def test_a_block_at_the_very_end_counts() -> None:
    assert continued(LINES, [b"header\n", *LINES]) == (How.BLOCK, b"")


def test_a_block_whose_last_line_has_no_end_yet_does_not_count() -> None:
    assert continued(LINES, [b"header\n", *LINES[:-1], LINES[-1].removesuffix(b"\n")]) is None


def test_a_block_whose_last_line_goes_on_does_not_count() -> None:
    assert continued(LINES, [b"header\n", *LINES[:-1], LINES[-1].removesuffix(b"\n"), b" and on\n"]) is None


def test_a_block_that_begins_as_others_do_is_found_among_them() -> None:
    """Longer than a probe, and looked for in a part that is longer than one search."""
    long = [b"x" * overlap.PROBE + line for line in LINES[:4]]
    others = [b"x" * overlap.PROBE + b"other\n"] * 10 + [b"y" * overlap.SEARCHED + b"\n"]

    found = continued(long, [b"header\n", *others, *long, *NEW])

    assert found == (How.BLOCK, b"".join(NEW))


# --- work -------------------------------------------------------------------------------------------------------------


@dataclass
class Reads:
    """How much was read, and in how large pieces."""

    most: int
    total: int = 0
    largest: int = 0

    def count(self, size: int) -> None:
        self.total += size
        self.largest = max(self.largest, size)
        assert self.total <= self.most, "more work than a few times what there is"


@dataclass(frozen=True)
class Counted:
    """A window that tells what is read of it."""

    content: bytes
    reads: Reads

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, start: int, size: int) -> bytes:
        read = self.content[start : start + size]
        self.reads.count(len(read))
        return read


END = b"the end of what was delivered\n"
LINE = b"x" * 99 + b"\n"
BLOCK = b"".join(numbered([b"y" * 80] * 1000))
PROBES = [b"x" * 5000 + b"\n", b"x" * 4999 + b"y\n"]

Windows = Callable[[int], tuple[bytes, bytes]]
MONOTONOUS: dict[str, Windows] = {
    "two bytes, an end": lambda n: (repeated(b"x\n", n) + END, repeated(b"x\n", n)),
    "two bytes, another end": lambda n: (repeated(b"x\n", n), repeated(b"x\n", n * 2 // 3) + b"z\n"),
    "two bytes, no overlap": lambda n: (repeated(b"x\n", n) + END, repeated(b"x\n", n) + b"z\n"),
    "two bytes, standing still": lambda n: (repeated(b"x\n", n), repeated(b"x\n", n)),
    "empty lines": lambda n: (repeated(b"\n", n) + END, repeated(b"\n", n)),
    "a line": lambda n: (repeated(LINE, n) + END, repeated(LINE, n)),
    "a line, and its beginning": lambda n: (repeated(LINE, n)[:-1] + b"y\n", repeated(LINE, n)[50:]),
    "a block": lambda n: (repeated(BLOCK, n) + END, repeated(BLOCK, n)),
    "a block, a late change": lambda n: (repeated(BLOCK, n), repeated(BLOCK, n)[: n // 2] + b"z\n"),
    "two probes in turn": lambda n: (repeated(PROBES[0] + PROBES[1], n) + END, repeated(PROBES[0], n)),
    "half of it once more": lambda n: (repeated(b"x" * (n // 2 - 1) + b"\n", n) + END, repeated(b"x", n)),
    "one letter": lambda n: (b"y" + repeated(b"x", n) + b"\n", repeated(b"x", n)),
    "one letter, then another": lambda n: (repeated(b"x", n) + b"\n", repeated(b"x", n // 2) + b"y\n"),
}


def work(windows: tuple[bytes, bytes], patch: pytest.MonkeyPatch) -> Reads:
    """Search, and count what is read of the windows and what is compared in memory."""
    reads = Reads(most=22 * sum(map(len, windows)))
    patch.setattr(overlap, "Held", lambda content: Counted(content, reads))
    continuation(Counted(windows[0], reads), Counted(windows[1], reads))
    return reads


@pytest.mark.parametrize("windows", list(MONOTONOUS.values()), ids=list(MONOTONOUS))
def test_work_grows_with_a_log_that_repeats_itself_and_no_faster(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that compared each place would read terabytes here, and run for minutes."""
    one, two = (work(windows(size), monkeypatch) for size in (2_000_000, 4_000_000))

    assert two.total <= 2.2 * one.total


@pytest.mark.parametrize("windows", list(MONOTONOUS.values()), ids=list(MONOTONOUS))
def test_a_log_that_repeats_itself_continues_where_the_rules_say(windows: Windows) -> None:
    delivered, export = windows(12_000)
    delivered = delivered[: end_of_lines(Held(delivered))]

    assert continuation(Held(delivered), Held(export)) == by_force(delivered, export)


def test_a_log_without_repetition_is_read_about_once_in_small_pieces() -> None:
    """Searched for the beginning of the export, and then compared."""
    log = b"".join(numbered([b"z" * 90] * 80_000))
    size = len(log) // 2
    delivered = log[: log.rfind(b"\n", 0, size) + 1]
    shares = []
    for slide in (0, size // 40, size // 2, size - 1000):
        reads = Reads(most=3 * size)
        found = continuation(Counted(delivered, reads), Counted(log[slide : slide + size], reads))
        shares.append((found, reads.largest <= overlap.SEARCHED + overlap.PROBE))

    assert shares == [
        (Continuation(start=len(delivered) - slide, how=How.OVERLAP), True)
        for slide in (0, size // 40, size // 2, size - 1000)
    ]


@pytest.mark.parametrize("how", ["gap", "block", "inside"])
def test_what_is_no_overlap_is_searched_for_in_small_pieces_too(how: str) -> None:
    log = b"".join(numbered([b"z" * 90] * 60_000))
    size = len(log) // 3
    delivered = log[: log.rfind(b"\n", 0, 2 * size) + 1]
    export = {"gap": log[2 * size :], "block": b"header\n" + log[size:], "inside": log[size // 2 : size]}[how]
    reads = Reads(most=12 * size)

    found = continuation(Counted(delivered, reads), Counted(export, reads))

    assert reads.largest <= overlap.SEARCHED + overlap.PROBE
    assert (found.how if found else "gap") == how


def test_blocks_that_begin_alike_are_tried_in_few_places() -> None:
    """Lines of 50 KB that differ at their ends only; the search gives up, and what is delivered twice is not lost."""
    lines = [b"x" * 50_000 + line for line in numbered([b""] * 200)]
    delivered, export = b"".join(lines[:40]), b"header\n" + b"".join(lines[100:])
    reads = Reads(most=50 * (len(delivered) + len(export)))

    assert continuation(Counted(delivered, reads), Counted(export, reads)) is None


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "size", "expected"), [(0, 2, b"ab"), (1, 9, b"bcd"), (2, 1, b"c"), (4, 1, b""), (5, 1, b""), (9, 1, b"")]
)
def test_a_slice_ends_where_it_ends(start: int, size: int, expected: bytes) -> None:
    assert Slice(Held(b"abcdefg"), 4).read(start, size) == expected


@of_any_size
@many
@given(text=texts, size=st.integers(0, 100))
def test_a_slice_continues_like_the_bytes_it_is_of(text: bytes, size: int) -> None:
    export, size = text[len(text) // 2 :], min(size, len(text))

    assert continuation(Slice(Held(text), size), Held(export)) == continuation(Held(text[:size]), Held(export))


@of_any_size
@many
@given(text=texts)
def test_the_last_whole_line_ends_after_the_last_line_end(text: bytes) -> None:
    assert end_of_lines(Held(text)) == text.rfind(b"\n") + 1


# --- where an object may begin ----------------------------------------------------------------------------------------


@of_any_size
@many
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

    assert longest_end(Held(text), head, most=most) == min(ends, default=None)
