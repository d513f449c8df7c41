"""What the ledger holds of streams: how far each has come, what is about to be appended, its files, and its gaps."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ddslogd.models import CycleOutcome, Gap, GapCause, LogKind
from ddslogd.storage import layout
from ddslogd.storage.database import moment_of, moment_or_none, ms_of, ms_or_none
from ddslogd.storage.ledger import KEPT_CYCLES, read_snapshot

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from ddslogd.models import Snapshot
    from ddslogd.storage.ledger import Ledger

NOT_OVER = ""
"""In place of a path: the log has not gone on since."""

# Few are to be taken; left to itself, SQLite reads all that are present: three seconds for a million.
BEHIND = (
    "SELECT DISTINCT series, instance FROM snapshots INDEXED BY snapshots_to_take"
    " WHERE published AND present AND NOT taken UNION SELECT series, instance FROM streams WHERE intent != ''"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of a file.

    Attributes:
        path: Relative to the storage directory.
    """

    path: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """Count the bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What is about to be appended to a stream. Whoever finds it carries it out, as often as that is begun.

    Attributes:
        snapshot: The key of the snapshot whose lines these are.
        lines: Those of it that are new; may be empty.
        unfinished: Where a gap follows: the line that waited for its end, which is appended with a line end of its own.
        rotate_to: The path that the live file takes before; empty where it is not rotated.
        rotated_inode: The number of that live file.
        base: Bytes of the live file before.
        delivered: Bytes of the snapshot up to its last line end.
        updated_at: Of the snapshot.
        first_at: The first time that the new lines tell.
        last_at: The last one.
        older: Whether all of the snapshot was in the stream, and more: the next export is not compared with it.
    """

    snapshot: str
    lines: Piece
    unfinished: Piece | None = None
    rotate_to: str = ""
    rotated_inode: int = 0
    base: int
    delivered: int
    updated_at: datetime
    first_at: datetime | None = None
    last_at: datetime | None = None
    older: bool = False
    gap: Gap | None = None

    @property
    def size(self) -> int:
        """Count the bytes that are appended."""
        return self.lines.size + (self.unfinished.size + 1 if self.unfinished else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """How far a stream has come.

    Attributes:
        series: What snapshots it is made of, see ``layout.series``.
        size: Bytes of the live file.
        born_at: When the live file got its first line.
        first_at: The first time that the live file's lines tell.
        last_at: The last one.
        reference: The path of the snapshot that the next one is compared with; empty for none.
        reference_at: When the cloud made the last export that brought nothing the stream has not: the reference, or a
            later one with the same bytes.
        delivered: Bytes of it that are in the stream.
        delivered_at: The last time that the stream's lines tell.
    """

    series: str
    instance: str
    log: LogKind
    node: str
    size: int
    born_at: datetime
    first_at: datetime | None = None
    last_at: datetime | None = None
    reference: str = ""
    reference_at: datetime
    delivered: int = 0
    delivered_at: datetime | None = None
    intent: Intent | None = None

    def after(self, intent: Intent, *, base: int, now: datetime) -> StreamState:
        """Give the state once the intent is carried out on a live file that had ``base`` bytes."""
        began = base == 0 and intent.size > 0
        state = replace(
            self,
            size=base + intent.size,
            born_at=now if began else self.born_at,
            first_at=intent.first_at if began else self.first_at or intent.first_at,
            last_at=intent.last_at if began else intent.last_at or self.last_at,
            delivered_at=intent.last_at or self.delivered_at,
            intent=None,
        )
        if intent.older:
            return state
        return replace(state, reference=intent.lines.path, reference_at=intent.updated_at, delivered=intent.delivered)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPart:
    """A file of a stream that was rotated away.

    Attributes:
        path: Relative to the storage directory.
        size: Bytes.
    """

    path: str
    series: str
    size: int
    first_at: datetime | None
    last_at: datetime | None
    rotated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCycle:
    """How a cycle ended, as far as a gap may come from it."""

    started_at: datetime
    finished_at: datetime
    outcome: CycleOutcome
    error_kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What happened to a node's exports since a moment.

    Attributes:
        cycles: In order.
        whole: Whether these are all of them; the ledger forgets the oldest.
        failing: The kind of error that its exports fail with now; empty where they do not.
    """

    cycles: tuple[PastCycle, ...]
    whole: bool
    failing: str


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

    async def backlog(self, series: str) -> Backlog:
        """Give what a stream has to take, and how far it has come."""

        def ask(db: sqlite3.Connection) -> Backlog:
            _note_back(db, series)  # an export with nothing new is taken without the stream
            rows = db.execute(
                "SELECT * FROM snapshots WHERE series = ? AND published AND present AND NOT taken"
                " ORDER BY updated_ms, key",
                (series,),
            )
            return Backlog(state=_state(db, series), waiting=tuple(read_snapshot(row) for row in rows))

        return await self._ledger.run(ask)

    async def behind(self) -> tuple[tuple[str, str], ...]:
        """Give each series that has snapshots which its stream has not taken, or something half appended.

        Returns:
            Pairs of series and instance name.
        """

        def ask(db: sqlite3.Connection) -> tuple[tuple[str, str], ...]:
            return tuple(db.execute(BEHIND).fetchall())

        return await self._ledger.run(ask)

    async def note_gone(self, instance: str, *, now: datetime) -> tuple[Gap, ...]:
        """Note that an instance is gone: what its nodes wrote since the last export is lost, as far as is known.

        Returns:
            The gaps that were not known.
        """

        def write(db: sqlite3.Connection) -> tuple[Gap, ...]:
            noted = []
            for row in db.execute("SELECT * FROM streams WHERE instance = ?", (instance,)).fetchall():
                state = _read_state(row)
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
                noted += [gap] if _write_gap(db, state.series, gap) else []
            return tuple(noted)

        return await self._ledger.run(write)

    async def series_of(self, instance: str) -> tuple[str, ...]:
        """Give the series of an instance's snapshots that are on disk."""

        def ask(db: sqlite3.Connection) -> tuple[str, ...]:
            query = "SELECT DISTINCT series FROM snapshots WHERE instance = ? AND published AND present ORDER BY series"
            return tuple(series for (series,) in db.execute(query, (instance,)))

        return await self._ledger.run(ask)

    async def intend(self, state: StreamState, intent: Intent) -> None:
        """Note what is about to be appended."""
        await self._ledger.run(lambda db: _write_state(db, replace(state, intent=intent)))

    async def commit(self, state: StreamState, intent: Intent, *, parts: Iterable[StreamPart] = ()) -> StreamState:
        """Note what was appended, all at once: the new state, the files that were rotated away, the gap.

        Args:
            state: How far the stream has come with it.
            intent: What was carried out.
            parts: Files that were rotated away on the way.

        Returns:
            The state as the books have it.
        """

        def write(db: sqlite3.Connection) -> StreamState:
            _write_state(db, state)
            db.execute("UPDATE snapshots SET taken = 1 WHERE key = ?", (intent.snapshot,))
            for part in parts:
                _write_part(db, part)
            if intent.gap is not None:
                _write_gap(db, state.series, intent.gap)
            _note_back(db, state.series)
            return _with_later_ones(db, state)

        return await self._ledger.run(write)

    async def adopt(self, state: StreamState, *, parts: Iterable[StreamPart], taken: Sequence[str]) -> None:
        """Note a stream that is on disk and that the ledger does not know.

        Args:
            state: How far it has come.
            parts: Its rotated files.
            taken: The keys of snapshots that it must have taken.
        """

        def write(db: sqlite3.Connection) -> None:
            _write_state(db, state)
            for part in parts:
                _write_part(db, part)
            db.executemany("UPDATE snapshots SET taken = 1 WHERE key = ?", [(key,) for key in taken])

        await self._ledger.run(write)

    async def abandon(self, series: str, intent: Intent) -> None:
        """Note that what is about to be appended cannot be: the snapshot's file is gone.

        How much of it was is on disk alone: the stream is forgotten, and adopted from there.
        """

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM streams WHERE series = ?", (series,))
            db.execute("UPDATE snapshots SET taken = 1, present = 0 WHERE key = ?", (intent.snapshot,))

        await self._ledger.run(write)

    async def pass_over(self, keys: Sequence[str], *, gone: bool = False) -> None:
        """Note that streams need not take these snapshots; with ``gone``: for they have no file any more."""

        def write(db: sqlite3.Connection) -> None:
            query = "UPDATE snapshots SET taken = 1, present = present AND NOT ? WHERE key = ?"
            db.executemany(query, [(gone, key) for key in keys])
            for series in {layout.series(key) for key in keys}:
                _note_back(db, series)

        await self._ledger.run(write)

    async def begin_anew(self, series: str) -> None:
        """Forget how far a stream has come, so that it takes all snapshots on disk again; its gaps stay."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM streams WHERE series = ?", (series,))
            db.execute("DELETE FROM stream_parts WHERE series = ?", (series,))
            db.execute("UPDATE snapshots SET taken = 0 WHERE series = ? AND published AND present", (series,))

        await self._ledger.run(write)

    async def past(self, state: StreamState) -> Past:
        """Give what happened to a stream's exports since the last one that it has taken."""

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
            return Past(cycles=cycles, whole=len(cycles) < KEPT_CYCLES, failing=failing[0] if failing else "")

        return await self._ledger.run(ask)

    async def parts(self) -> tuple[str, ...]:
        """Give the paths of all files that were rotated away and are there, as far as is known."""

        def ask(db: sqlite3.Connection) -> tuple[str, ...]:
            return tuple(path for (path,) in db.execute("SELECT path FROM stream_parts"))

        return await self._ledger.run(ask)

    async def forget_files(self, paths: Sequence[str]) -> None:
        """Note that these snapshots and rotated files are not on disk any more."""

        def write(db: sqlite3.Connection) -> None:
            gone = [(path,) for path in paths]
            db.executemany("UPDATE snapshots SET present = 0 WHERE key = ?", gone)
            db.executemany("DELETE FROM stream_parts WHERE path = ?", gone)

        await self._ledger.run(write)

    async def take_back(self, paths: Sequence[str]) -> None:
        """Note that these files, which were about to make room, are there still."""

        def write(db: sqlite3.Connection) -> None:
            query = "DELETE FROM gaps WHERE path = ? AND cause = ?"
            db.executemany(query, [(path, GapCause.EVICTED_UNSHIPPED) for path in paths])

        await self._ledger.run(write)

    async def gap(self, series: str, path: str) -> Gap | None:
        """Give the gap before a file, if one is known."""

        def ask(db: sqlite3.Connection) -> Gap | None:
            query = "SELECT * FROM gaps WHERE series = ? AND path = ? AND cause != ?"
            row = db.execute(query, (series, path, GapCause.EVICTED_UNSHIPPED)).fetchone()
            return _read_gap(row) if row else None

        return await self._ledger.run(ask)

    async def enter_gaps(self, gaps: Iterable[tuple[str, Gap]]) -> None:
        """Note gaps, each with its series; what is known of the same file stays."""

        def write(db: sqlite3.Connection) -> None:
            for series, gap in gaps:
                _write_gap(db, series, gap)

        await self._ledger.run(write)


def gaps(db: sqlite3.Connection, *, since: datetime | None = None, instances: Sequence[str] = ()) -> tuple[Gap, ...]:
    """Give the gaps that were noted, or that the log went on after, since a moment; of some instances or of all."""
    rows = db.execute(
        "SELECT * FROM gaps WHERE max(noted_ms, coalesce(until_ms, 0)) >= ?"
        " AND (? OR instance IN (SELECT value FROM json_each(?))) ORDER BY noted_ms, series, path",
        (ms_of(since) if since else 0, not instances, json.dumps(list(instances))),
    )
    return tuple(_read_gap(row) for row in rows)


def instances(db: sqlite3.Connection) -> set[str]:
    """Give the names of all instances that the ledger knows something of."""
    rows = db.execute(
        "SELECT instance FROM snapshots UNION SELECT instance FROM streams UNION SELECT instance FROM cycles"
        " UNION SELECT instance FROM gaps"
    )
    return {instance for (instance,) in rows}


def _note_back(db: sqlite3.Connection, series: str) -> None:
    """Where an export was taken since its instance was gone: whether lines are missing is known by that export."""
    db.execute(
        "DELETE FROM gaps WHERE series = ? AND path = ? AND noted_ms <"
        " (SELECT max(updated_ms) FROM snapshots AS s WHERE s.series = gaps.series AND published AND taken)",
        (series, NOT_OVER),
    )


def _state(db: sqlite3.Connection, series: str) -> StreamState | None:
    row = db.execute("SELECT * FROM streams WHERE series = ?", (series,)).fetchone()
    return None if row is None else _with_later_ones(db, _read_state(row))


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
        ms_or_none(state.first_at),
        ms_or_none(state.last_at),
        state.reference,
        ms_of(state.reference_at),
        state.delivered,
        ms_or_none(state.delivered_at),
        _to_json(state.intent) if state.intent else "",
    )
    db.execute(f"INSERT OR REPLACE INTO streams VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608  # only question marks are put in


def _read_state(row: tuple[Any, ...]) -> StreamState:
    series, instance, kind, node, size, born, first, last, *rest = row
    reference, reference_ms, delivered, delivered_ms, intent = rest
    return StreamState(
        series=series,
        instance=instance,
        log=LogKind(kind),
        node=node,
        size=size,
        born_at=moment_of(born),
        first_at=moment_or_none(first),
        last_at=moment_or_none(last),
        reference=reference,
        reference_at=moment_of(reference_ms),
        delivered=delivered,
        delivered_at=moment_or_none(delivered_ms),
        intent=_from_json(intent) if intent else None,
    )


def _write_part(db: sqlite3.Connection, part: StreamPart) -> None:
    times = (ms_or_none(part.first_at), ms_or_none(part.last_at), ms_of(part.rotated_at))
    row = (part.path, part.series, part.size, *times)
    db.execute("INSERT OR REPLACE INTO stream_parts VALUES (?, ?, ?, ?, ?, ?)", row)


def _write_gap(db: sqlite3.Connection, series: str, gap: Gap) -> bool:
    """Note a gap; tell whether it was not known."""
    row = (
        series,
        gap.path,
        gap.instance,
        gap.log,
        gap.node,
        ms_or_none(gap.after),
        ms_or_none(gap.until),
        gap.cause,
        ms_of(gap.noted_at),
        gap.cut,
    )
    return db.execute("INSERT OR IGNORE INTO gaps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row).rowcount > 0


def _read_gap(row: tuple[Any, ...]) -> Gap:
    _, path, instance, kind, node, after, until, cause, noted, cut = row
    return Gap(
        instance=instance,
        log=LogKind(kind),
        node=node,
        after=moment_or_none(after),
        until=moment_or_none(until),
        cause=GapCause(cause),
        noted_at=moment_of(noted),
        cut=bool(cut),
        path=path,
    )


def _read_cycle(row: tuple[Any, ...]) -> PastCycle:
    started, finished, outcome, kind = row
    return PastCycle(
        started_at=moment_of(started),
        finished_at=moment_of(finished),
        outcome=CycleOutcome(outcome),
        error_kind=kind,
    )


def _to_json(intent: Intent) -> str:
    return json.dumps(_shallow(intent), default=_plain)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else _shallow(value)


def _shallow(model: Any) -> dict[str, Any]:
    # dataclasses.asdict copies deeply, and takes 3.6 times as long.
    return {field.name: getattr(model, field.name) for field in fields(model)}


def _from_json(text: str) -> Intent:
    found = json.loads(text)
    gap, unfinished = found["gap"], found["unfinished"]
    found |= {
        "lines": Piece(**found["lines"]),
        "unfinished": Piece(**unfinished) if unfinished else None,
        "gap": Gap(**_timed(gap, "after", "until", "noted_at") | _worded(gap)) if gap else None,
    }
    return Intent(**_timed(found, "updated_at", "first_at", "last_at"))


def _timed(found: dict[str, Any], *names: str) -> dict[str, Any]:
    return found | {name: datetime.fromisoformat(found[name]) for name in names if found[name]}


def _worded(gap: dict[str, Any]) -> dict[str, Any]:
    return {"log": LogKind(gap["log"]), "cause": GapCause(gap["cause"])}
