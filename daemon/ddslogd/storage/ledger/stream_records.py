"""What the ledger holds of streams: how far each has come, what is about to be appended, its files, and its gaps."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.errors import LedgerDamaged
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.instance import LogKind
from ddslogd.model.stream import Gap, GapCause, Intent, StreamPart, StreamState
from ddslogd.storage import paths as storage_paths
from ddslogd.storage.ledger.cycle_records import KEPT_CYCLES
from ddslogd.storage.ledger.database import log_moment, log_ms, moment_of, ms_of
from ddslogd.storage.ledger.gap_records import (
    NOT_OVER,
    count_gaps,
    end_gap_of_absence,
    merge_oldest,
    next_with_gaps,
    read_gap,
    write_gap,
)
from ddslogd.storage.ledger.integrity_check import relative, row_reader, typed, types_of
from ddslogd.storage.ledger.snapshot_records import enter_snapshots, read_snapshot

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from ddslogd.model.snapshot import Snapshot
    from ddslogd.storage.ledger.snapshot_records import Ledger

# Few are to be taken; left to itself, SQLite reads all that are present: three seconds for a million.
BEHIND = (
    "SELECT DISTINCT series, instance FROM snapshots INDEXED BY snapshots_to_take"
    " WHERE published AND present AND NOT taken UNION SELECT series, instance FROM streams"
    " WHERE intent != '' OR size AND NOT closed AND path != '' AND born_ms <= ? OR ? AND reference LIKE 'snapshots/%'"
)


# Those that are entered at the path of another one are there with it.
MISSING_SINCE = (
    "SELECT 1 FROM snapshots WHERE series = ? AND updated_ms >= ? AND published"
    " AND (path = key AND NOT present OR path LIKE 'streams/%') LIMIT 1"
)


class StreamRow(NamedTuple):
    """A row of the table ``streams``, by the names of its columns."""

    series: str
    instance: str
    log: str
    node: str
    size: int
    born_ms: int
    first_ms: int | None
    last_ms: int | None
    reference: str
    reference_ms: int
    delivered: int
    delivered_ms: int | None
    intent: str
    complete: int
    path: str
    closed: int
    tail: bytes


_STREAM = types_of(StreamRow)
_INTENT: Final = TypeAdapter(Intent)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCycle:
    """How a cycle ended, as far as a gap may come from it."""

    started_at: datetime
    finished_at: datetime
    outcome: CycleOutcome
    error_kind: FailureKind | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What happened to a node's exports since a moment.

    Attributes:
        cycles: In order.
        whole: Whether these are all of them; the ledger forgets the oldest.
        failing: The kind of error that its exports fail with now; None where they do not.
    """

    cycles: tuple[PastCycle, ...]
    whole: bool
    failing: FailureKind | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What a stream has to take.

    Attributes:
        state: How far it has come; None where it never began.
        waiting: The snapshots that it has not taken, in order of their update time.
    """

    state: StreamState | None
    waiting: tuple[Snapshot, ...]


class StreamBook:
    """The ledger's pages on streams. One method is one transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def generation(self) -> int:
        """Return the ledger's."""
        return self._ledger.generation

    async def backlog(self, series: str) -> Backlog:
        """Return what a stream has to take, and how far it has come."""

        def ask(db: sqlite3.Connection) -> Backlog:
            end_gap_of_absence(db, series)  # an export with nothing new is taken without the stream
            rows = db.execute(
                "SELECT * FROM snapshots WHERE series = ? AND published AND present AND NOT taken"
                " ORDER BY updated_ms, key",
                (series,),
            )
            return Backlog(state=_state(db, series), waiting=tuple(read_snapshot(row) for row in rows))

        return await self._ledger.run(ask)

    async def behind(self, *, born_until: datetime, own_reference: bool = False) -> tuple[tuple[str, str], ...]:
        """Return each series whose stream has something to do that no cycle may bring it.

        That is: snapshots that it has not taken, something half appended, or a newest file that is to be closed.

        Args:
            born_until: A file that began until then is old enough to be closed.
            own_reference: Whether streams are to stand for the snapshots that they are compared with.

        Returns:
            Pairs of series and instance name.
        """

        def ask(db: sqlite3.Connection) -> tuple[tuple[str, str], ...]:
            return tuple(db.execute(BEHIND, (ms_of(born_until), own_reference)).fetchall())

        return await self._ledger.run(ask)

    async def note_gone(self, instance: str, *, now: datetime) -> tuple[Gap, ...]:
        """Record that an instance is gone: what its nodes wrote since the last export is lost, as far as is known.

        Returns:
            The gaps that were not known.
        """

        def write(db: sqlite3.Connection) -> tuple[Gap, ...]:
            noted = []
            for row in db.execute("SELECT * FROM streams WHERE instance = ?", (instance,)).fetchall():
                state = read_state(row)
                gap = Gap(
                    instance=instance,
                    log=state.log,
                    node=state.node,
                    after=state.delivered_at,
                    until=None,
                    cause=GapCause.INSTANCE_GONE,
                    noted_at=now,
                    cut=False,
                    path=NOT_OVER,
                )
                noted += [gap] if write_gap(db, state.series, gap) else []
            return tuple(noted)

        return await self._ledger.run(write)

    async def series_of(self, instance: str) -> tuple[str, ...]:
        """Return the series of an instance's snapshots that are on disk."""

        def ask(db: sqlite3.Connection) -> tuple[str, ...]:
            query = "SELECT DISTINCT series FROM snapshots WHERE instance = ? AND published AND present ORDER BY series"
            return tuple(series for (series,) in db.execute(query, (instance,)))

        return await self._ledger.run(ask)

    async def first_of_all(self, series: str) -> str | None:
        """Return the path of a series' oldest snapshot on disk; None where it, or one since, is not there."""

        def ask(db: sqlite3.Connection) -> str | None:
            query = "SELECT key, updated_ms FROM snapshots WHERE series = ? AND published AND present"
            row = db.execute(f"{query} ORDER BY updated_ms LIMIT 1", (series,)).fetchone()
            if row is None or db.execute(MISSING_SINCE, (series, row[1])).fetchone():
                return None
            return str(row[0])

        return await self._ledger.run(ask)

    async def intend(self, state: StreamState, intent: Intent) -> None:
        """Record what is about to be appended."""
        await self._ledger.run(lambda db: _write_state(db, replace(state, intent=intent)))

    async def commit(
        self,
        state: StreamState,
        intent: Intent,
        *,
        parts: Iterable[StreamPart] = (),
        entry: Snapshot | None = None,
    ) -> StreamState:
        """Record what was appended, all at once: the new state, the files that are closed, the gap.

        Args:
            state: How far the stream has come with it.
            intent: What was carried out.
            parts: Files that are closed with it.
            entry: The snapshot that the lines are of, where it has no file and is entered with them.

        Returns:
            The state as the ledger has it.
        """

        def write(db: sqlite3.Connection) -> StreamState:
            _write_state(db, state)
            enter_snapshots(db, [entry] if entry else [])
            db.execute("UPDATE snapshots SET taken = 1 WHERE key = ?", (intent.snapshot,))
            for part in parts:
                _write_part(db, part)
            if intent.gap is not None:
                write_gap(db, state.series, intent.gap)
            end_gap_of_absence(db, state.series)
            return _with_later_ones(db, state)

        return await self._ledger.run(write)

    async def adopt(self, state: StreamState, *, parts: Iterable[StreamPart], taken: Sequence[str]) -> None:
        """Record a stream that is on disk and that the ledger does not know, or not all files of.

        Args:
            state: How far it has come.
            parts: Its closed files.
            taken: The keys of snapshots that it must have taken.
        """

        def write(db: sqlite3.Connection) -> None:
            _write_state(db, state)
            for part in parts:
                _write_part(db, part)
            db.executemany("UPDATE snapshots SET taken = 1 WHERE key = ?", [(key,) for key in taken])

        await self._ledger.run(write)

    async def abandon(self, series: str, intent: Intent) -> None:
        """Record that what is about to be appended cannot be: the snapshot's file is gone.

        How much of it was is on disk alone: the stream is forgotten, and adopted from there.
        """

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM streams WHERE series = ?", (series,))
            db.execute("UPDATE snapshots SET taken = 1, present = 0 WHERE key = ?", (intent.snapshot,))

        await self._ledger.run(write)

    async def forget(self, series: str) -> None:
        """Forget how far a stream has come: its files say that, and what snapshots it has taken since."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM streams WHERE series = ?", (series,))
            db.execute("DELETE FROM stream_parts WHERE series = ?", (series,))

        await self._ledger.run(write)

    async def pass_over(self, keys: Sequence[str], *, gone: bool = False, kept: bool = False) -> None:
        """Record that streams need not take these snapshots.

        Args:
            keys: Of the snapshots.
            gone: They have no file any more.
            kept: They have lines that no stream has: they go by ``storage.keep`` alone.
        """

        def write(db: sqlite3.Connection) -> None:
            query = "UPDATE snapshots SET taken = 1, present = present AND NOT ?, kept = kept OR ? WHERE key = ?"
            db.executemany(query, [(gone, kept, key) for key in keys])
            for series in {storage_paths.series(key) for key in keys}:
                end_gap_of_absence(db, series)

        await self._ledger.run(write)

    async def begin_anew(self, series: str) -> None:
        """Forget how far a stream has come, so that it takes all snapshots on disk again; its gaps stay."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM streams WHERE series = ?", (series,))
            db.execute("DELETE FROM stream_parts WHERE series = ?", (series,))
            db.execute("UPDATE snapshots SET taken = 0 WHERE series = ? AND published AND present", (series,))

        await self._ledger.run(write)

    async def past(self, state: StreamState) -> Past:
        """Return what happened to a stream's exports since the last one that it has taken."""

        def ask(db: sqlite3.Connection) -> Past:
            rows = db.execute(
                "SELECT started_ms, finished_ms, outcome, error_kind FROM cycles WHERE instance = ? AND finished_ms > ?"
                " ORDER BY id",
                (state.instance, ms_of(state.reference_at)),
            )
            failing = db.execute(
                "SELECT kind FROM failures WHERE instance = ? AND node IN (?, '') AND log IN (?, '') AND last_ms > ?",
                (state.instance, state.node, state.log, ms_of(state.reference_at)),
            ).fetchone()
            cycles = tuple(_read_cycle(row) for row in rows)
            return Past(
                cycles=cycles,
                whole=len(cycles) < KEPT_CYCLES,
                failing=FailureKind.read(failing[0]) if failing else None,
            )

        return await self._ledger.run(ask)

    async def parts(self) -> tuple[str, ...]:
        """Return the paths of all closed files that are there, as far as is known."""

        def ask(db: sqlite3.Connection) -> tuple[str, ...]:
            return tuple(path for (path,) in db.execute("SELECT path FROM stream_parts"))

        return await self._ledger.run(ask)

    async def forget_files(self, paths: Sequence[str]) -> None:
        """Record that these snapshots and closed files are not on disk any more."""

        def write(db: sqlite3.Connection) -> None:
            gone = [(path,) for path in paths]
            for path in gone:
                count_gaps(db, db.execute("SELECT instance FROM gaps WHERE path = ? AND NOT counted", path).fetchall())
            db.executemany("UPDATE gaps SET counted = 1 WHERE path = ? AND NOT counted", gone)
            db.executemany("UPDATE snapshots SET present = 0 WHERE key = ?", gone)
            db.executemany("DELETE FROM stream_parts WHERE path = ?", gone)

        await self._ledger.run(write)

    async def make_own_reference(self, state: StreamState, tail: bytes) -> StreamState:
        """Record that a stream ends with the bytes of the snapshot that it is compared with, and stands for it.

        Args:
            state: How far it has come.
            tail: What that snapshot has behind them.

        Returns:
            The state as the ledger has it.
        """
        after = replace(state, reference=state.path, tail=tail)

        def write(db: sqlite3.Connection) -> StreamState:
            _write_state(db, after)
            place = "UPDATE snapshots SET path = ? WHERE series = ? AND path = ?"  # those with the same bytes, too
            db.execute(place, (state.path, state.series, state.reference))
            return after

        return await self._ledger.run(write)

    async def take_back(self, paths: Sequence[str]) -> None:
        """Record that these files, which were about to make room, are there still."""

        def write(db: sqlite3.Connection) -> None:
            query = "DELETE FROM gaps WHERE path = ? AND cause = ?"
            db.executemany(query, [(path, GapCause.EVICTED_UNSHIPPED) for path in paths])

        await self._ledger.run(write)

    async def gap(self, series: str, path: str) -> Gap | None:
        """Return the gap before a file, if one is known."""

        def ask(db: sqlite3.Connection) -> Gap | None:
            query = "SELECT * FROM gaps WHERE series = ? AND path = ? AND cause != ?"
            row = db.execute(query, (series, path, GapCause.EVICTED_UNSHIPPED)).fetchone()
            return read_gap(row) if row else None

        return await self._ledger.run(ask)

    async def merge_gaps(self) -> None:
        """Merge the oldest gaps of instances that have too many; in steps, so that others get their turn between them.

        Raises:
            StorageError: The ledger cannot be used.
        """
        after = ""
        while (instance := await self._ledger.run(partial(next_with_gaps, after=after))) is not None:
            after = instance
            while await self._ledger.run(partial(merge_oldest, instance=instance)):
                pass

    async def enter_gaps(self, gaps: Iterable[tuple[str, Gap]]) -> None:
        """Record gaps, each with its series; what is known of the same file stays."""

        def write(db: sqlite3.Connection) -> None:
            for series, gap in gaps:
                write_gap(db, series, gap)

        await self._ledger.run(write)


def instances(db: sqlite3.Connection) -> set[str]:
    """Return the names of all instances that the ledger knows something of."""
    rows = db.execute(
        "SELECT instance FROM snapshots UNION SELECT instance FROM streams UNION SELECT instance FROM cycles"
        " UNION SELECT instance FROM gaps"
    )
    return {instance for (instance,) in rows}


def _state(db: sqlite3.Connection, series: str) -> StreamState | None:
    row = db.execute("SELECT * FROM streams WHERE series = ?", (series,)).fetchone()
    return None if row is None else _with_later_ones(db, read_state(row))


def _with_later_ones(db: sqlite3.Connection, state: StreamState) -> StreamState:
    """Take account of later exports with the bytes of the reference: they are entered at its path."""
    seen = "SELECT max(updated_ms) FROM snapshots WHERE series = ? AND published AND taken AND path = ?"
    (same_ms,) = db.execute(seen, (state.series, state.reference)).fetchone()
    return replace(state, reference_at=max(state.reference_at, moment_of(same_ms or 0)))


def _write_state(db: sqlite3.Connection, state: StreamState) -> None:
    row = (
        state.series,
        state.instance,
        state.log,
        state.node,
        state.size,
        ms_of(state.born_at),
        log_ms(state.first_at),
        log_ms(state.last_at),
        state.reference,
        ms_of(state.reference_at),
        state.delivered,
        log_ms(state.delivered_at),
        _to_json(state.intent) if state.intent else "",
        state.complete,
        state.path,
        state.closed,
        state.tail,
    )
    db.execute(f"INSERT OR REPLACE INTO streams VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608  # only question marks are put in


@row_reader
def read_state(row: tuple[Any, ...]) -> StreamState:
    """Make a state of a row of the ledger's table."""
    found = StreamRow._make(typed(row, *_STREAM))
    link = storage_paths.stream_link(found.series).as_posix()
    return StreamState(
        series=found.series,
        instance=found.instance,
        log=LogKind(found.log),
        node=found.node,
        path=relative(found.path) or link,
        size=found.size,
        born_at=moment_of(found.born_ms),
        first_at=log_moment(found.first_ms),
        last_at=log_moment(found.last_ms),
        reference=relative(found.reference),
        reference_at=moment_of(found.reference_ms),
        delivered=found.delivered,
        delivered_at=log_moment(found.delivered_ms),
        complete=bool(found.complete),
        closed=bool(found.closed),
        tail=found.tail,
        intent=_from_json(found.intent, link=link) if found.intent else None,
    )


def _write_part(db: sqlite3.Connection, part: StreamPart) -> None:
    times = (log_ms(part.first_at), log_ms(part.last_at), ms_of(part.rotated_at))
    row = (part.path, part.series, part.size, *times)
    db.execute("INSERT OR REPLACE INTO stream_parts VALUES (?, ?, ?, ?, ?, ?)", row)


@row_reader
def _read_cycle(row: tuple[Any, ...]) -> PastCycle:
    started, finished, outcome, kind = row
    return PastCycle(
        started_at=moment_of(started),
        finished_at=moment_of(finished),
        outcome=CycleOutcome(outcome),
        error_kind=FailureKind.read(kind) if kind else None,
    )


def _to_json(intent: Intent) -> str:
    return _INTENT.dump_json(intent).decode()


def _from_json(text: str, *, link: str) -> Intent:
    """Read an intent; one of the old layout goes to the file that is in the link's place."""
    try:
        found = _INTENT.validate_json(json.dumps({"path": link} | json.loads(text)), strict=True)
    except ValidationError as exc:
        wrong = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, wrong["loc"]))
        raise LedgerDamaged(f"an intent is none that ddslogd wrote ({place}: {wrong['msg']})") from exc
    except (TypeError, ValueError) as exc:
        raise LedgerDamaged("an intent is no JSON object") from exc
    for path in (found.path, found.lines.path, found.unfinished.path if found.unfinished else ""):
        relative(path)
    gap = found.gap and replace(found.gap, after=_of_a_log(found.gap.after), until=_of_a_log(found.gap.until))
    return replace(found, first_at=_of_a_log(found.first_at), last_at=_of_a_log(found.last_at), gap=gap)


def _of_a_log(moment: datetime | None) -> datetime | None:
    """Return a line's time; None for one that no line can have."""
    return None if log_ms(moment) is None else moment
