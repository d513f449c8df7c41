"""The fuzz judges streams; here its judgement is judged, by streams with faults that are put into them."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from fuzz.checker import UNPROVED, Gap, History, Kind, judge
from fuzz.node_log import Habits, NodeLog
from fuzz.objects import Ending, Exported, exported
from fuzz.scenario import KINDS, Options, scenario

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def written(*, storm: float = 0.5, json: bool = False) -> NodeLog:
    log = NodeLog("a0", Habits(json=json, storm=storm, odd_dates=0.02), Random(7))
    log.write(40_000, since=NOON, now=NOON + timedelta(minutes=1))
    return log


def lines_of(log: NodeLog) -> list[bytes]:
    return [line.text for line in log.lines]


def kinds(log: NodeLog, lines: list[bytes], *gaps: Gap, **known: Any) -> set[Kind]:
    """Return what is wrong with a stream of these lines; ``known`` is of ``History``."""
    history = History(lines=log.lines, **known)
    return {violation.kind for violation in judge(history, b"".join(lines), gaps)}


def event_behind(log: NodeLog, number: int) -> int:
    """Return the number of the first timed line from a line on."""
    return next(at for at in range(number, len(log.lines)) if log.lines[at].timed)


def frame_behind(log: NodeLog, number: int) -> int:
    """Return the number of a line without a time, with one before it and one behind it."""
    return next(
        at for at in range(number, len(log.lines)) if not any(line.timed for line in log.lines[at - 1 : at + 2])
    )


def gap_over(log: NodeLog, first: int, last: int, cause: str = "window overflow") -> Gap:
    return Gap(after=log.lines[first].time, until=log.lines[event_behind(log, last)].time, cause=cause)


@pytest.mark.parametrize("json", [True, False])
@pytest.mark.parametrize("storm", [0.0, 0.5, 1.0])
def test_a_whole_log_is_right(storm: float, json: bool) -> None:  # noqa: FBT001  # a parameter
    log = written(storm=storm, json=json)
    assert kinds(log, lines_of(log)) == set()


@pytest.mark.parametrize("find", [event_behind, frame_behind])
def test_a_lost_line_is_found(find: Callable[[NodeLog, int], int]) -> None:
    log = written()
    lines, lost = lines_of(log), find(log, 50)
    assert kinds(log, lines[:lost] + lines[lost + 1 :]) == {Kind.LOST}


@pytest.mark.parametrize("find", [event_behind, frame_behind])
def test_a_doubled_line_is_found(find: Callable[[NodeLog, int], int]) -> None:
    log = written()
    lines, twice = lines_of(log), find(log, 50)
    assert kinds(log, [*lines[: twice + 1], *lines[twice:]]) & {Kind.DOUBLE, Kind.ORDER}


def test_a_window_that_comes_again_is_doubled() -> None:
    log = written()
    lines, end = lines_of(log), event_behind(log, 100)
    assert kinds(log, [*lines[:end], *lines[60:]]) == {Kind.DOUBLE}


def test_a_foreign_line_is_found() -> None:
    log = written()
    lines = lines_of(log)
    assert kinds(log, [*lines[:50], b"<html>later</html>\n", *lines[50:]]) == {Kind.FOREIGN}


def test_a_wrong_order_is_found() -> None:
    log = written(storm=0.0)
    lines = lines_of(log)
    assert Kind.ORDER in kinds(log, [*lines[:50], *lines[60:70], *lines[50:60], *lines[70:]])


def test_a_line_that_no_export_held_whole_is_found() -> None:
    log = written(storm=0.0)
    lines = lines_of(log)
    assert kinds(log, [*lines[:50], lines[50][:30] + b"\n", *lines[50:]]) == {Kind.FOREIGN}


def test_missing_lines_that_a_gap_names_are_right() -> None:
    """The window behind the gap begins within an event, whose lines without a time stand before the next one."""
    log = written()
    lines, first, last = lines_of(log), frame_behind(log, 50), frame_behind(log, 150)
    gap = gap_over(log, first, last)
    piece = lines[last][-9:]
    stream = [*lines[:first], piece, *lines[last + 1 :]]
    assert kinds(log, stream, gap, heads=frozenset({piece})) == set()
    assert kinds(log, stream, heads=frozenset({piece})) == {Kind.LOST, Kind.CUT}


def test_a_gap_elsewhere_names_nothing() -> None:
    log = written(storm=0.0)
    lines = lines_of(log)
    elsewhere = Gap(after=log.lines[5].time, until=log.lines[9].time, cause="window overflow")
    assert kinds(log, [*lines[:50], *lines[80:]], elsewhere) == {Kind.LOST, Kind.FALSE_GAP}


def test_a_gap_across_a_clock_that_was_set_back_is_known_by_its_place() -> None:
    log = written(storm=0.0)
    log.write(20_000, since=NOON - timedelta(hours=2), now=NOON - timedelta(hours=1))
    lines = lines_of(log)
    before, after = 50, event_behind(log, len(log.lines) - 20)
    gap = Gap(after=log.lines[before].time, until=log.lines[after].time, cause="window overflow")
    assert gap.after is not None
    assert gap.until is not None
    assert gap.until < gap.after
    assert kinds(log, [*lines[: before + 1], *lines[after:]], gap) == set()


def test_a_gap_where_an_export_begins_right_behind_the_last_line_is_none_that_is_false() -> None:
    """They have nothing in common; in the middle of an export the same gap is false."""
    log = written(storm=0.0)
    gap = Gap(after=log.lines[59].time, until=log.lines[60].time, cause="window overflow")

    assert kinds(log, lines_of(log), gap, begins=frozenset({60})) == set()
    assert kinds(log, lines_of(log), gap, begins=frozenset({0, 90})) == {Kind.FALSE_GAP}


def test_a_gap_where_nothing_is_missing_is_false() -> None:
    log = written()
    assert kinds(log, lines_of(log), gap_over(log, 50, 80)) == {Kind.FALSE_GAP}


def test_frames_twice_behind_an_unproved_gap_are_right_and_events_are_needless() -> None:
    log = written(storm=1.0)
    lines, frame = lines_of(log), frame_behind(log, 50)
    gap = gap_over(log, frame, frame, UNPROVED)
    assert kinds(log, [*lines[: frame + 1], *lines[frame:]], gap) == set()
    event = event_behind(log, frame)
    gap = gap_over(log, event, event, UNPROVED)
    assert kinds(log, [*lines[: event + 1], *lines[event:]], gap) == {Kind.NEEDLESS}


@pytest.mark.parametrize("ending", list(Ending))
def test_what_an_exporter_makes_of_its_end_may_be_there_once(ending: Ending) -> None:
    """Two exports in a row: of the first all whole lines, of the second those behind them."""
    log = written()
    first = exported(log, window=30_000, end=20_000, ending=ending, random=Random(1))
    lines = lines_of(log)
    held = first.data[: first.data.rindex(b"\n") + 1]
    stream = [held, *lines[first.reaches :]]
    assert kinds(log, stream, **known(first)) == set()


def known(made: Exported) -> dict[str, Any]:
    changed = dict([made.changed]) if made.changed else {}
    return {"changed": changed, "heads": frozenset({made.head}), "tails": frozenset({made.tail + b"\n"})}


def test_a_stream_that_begins_behind_its_first_snapshot_has_lost_lines() -> None:
    log = written()
    lines, start = lines_of(log), event_behind(log, 30)
    assert kinds(log, lines[start:]) == set()
    assert kinds(log, lines[start:], first=0) == {Kind.LOST}


def test_a_seed_decides_all_and_one_kind_less_changes_no_other() -> None:
    """So a kind of trouble can be taken out to see whether it is to blame."""
    assert scenario(3, Options()) == scenario(3, Options())
    every = scenario(3, Options(only=frozenset(KINDS)))
    less = scenario(3, Options(only=frozenset(KINDS), without=frozenset({"outage"})))
    names = {"api 500", "api 503", "api 429", "api reset", "api down", "store 503", "store reset", "store torn"}
    assert less.instances == every.instances
    assert less.troubles == tuple(trouble for trouble in every.troubles if trouble.name not in names)


def test_the_fuzz_imports_nothing_of_the_package() -> None:
    for path in Path(__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert [name for name in names if name.partition(".")[0] == "ddslogd"] == [], path.name
