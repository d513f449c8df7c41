"""Streams: one continuous log per node and kind, in which every line stands once, in order.

snapshot ─► where does it go on? (overlap) ─► intent in the ledger ─► append, sync (livefile) ─► ledger: taken, gap

A crash anywhere leaves either nothing or an intent, and an intent is carried out as often as it takes.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import structlog

from ddslogd.errors import StorageError
from ddslogd.models import Advance, Gap
from ddslogd.pacing import EPOCH
from ddslogd.storage import layout, livefile, window
from ddslogd.storage.adoption import adoption
from ddslogd.storage.blame import cause_of_gap
from ddslogd.storage.filesystem import disk, exists, in_thread, sync_directory, unbroken
from ddslogd.storage.logtime import first_time, last_time, line_time
from ddslogd.storage.overlap import READ, Continuation, How, Slice, continuation, end_of_lines
from ddslogd.storage.streambook import Backlog, Intent, Piece, StreamBook, StreamPart, StreamState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from ddslogd.config import Rotate
    from ddslogd.models import Cron, Every, Snapshot
    from ddslogd.pacing import Clock
    from ddslogd.storage.ledger import Ledger
    from ddslogd.storage.overlap import Window

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()

COMPARED = 2  # snapshots at the same time: of a log that repeats itself, each is held in memory
UNDER_WAY = 32  # streams that are appended to: durable together, and a stop waits for them
THREADS = 4  # for all of these; the disk does no more at the same time
LEAVE_SNAPSHOTS = "leave a node's newest snapshots where they are; where lines are missing now, a gap is told of"
_LINE_HEAD = 256  # bytes, in which a line's time stands


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a stream's lines come from, as far as it says why some are missing.

    Attributes:
        schedule: Of the instance.
        key: The instance's id.
    """

    schedule: Every | Cron
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Find:
    """Where a snapshot goes on.

    Attributes:
        start: Where its new lines begin.
        end: Where they end: behind its last line end.
        lost: Whether lines are missing before them.
        full: As of ``Advance``.
        older: As of ``Intent``.
    """

    start: int
    end: int
    lost: bool = False
    full: bool = False
    older: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a snapshot goes on in a stream.

    Attributes:
        state: What it was compared with.
        intent: What is to be appended.
        cut: Whether its new lines begin within one.
    """

    state: StreamState
    find: _Find
    intent: Intent
    cut: bool


class Streams:
    """All streams of one storage directory."""

    def __init__(self, directory: Path, *, ledger: Ledger, rotate: Rotate, clock: Clock) -> None:
        """Prepare.

        Args:
            directory: The storage directory.
            ledger: Open.
            rotate: When a live file is rotated away.
            clock: For names and notes.
        """
        self.book = StreamBook(ledger)
        self._directory = directory
        self._rotate = rotate
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = {}
        self._turns = asyncio.Semaphore(COMPARED)
        self._under_way = asyncio.Semaphore(UNDER_WAY)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="stream")

    def close(self) -> None:
        """Finish what was handed in."""
        self._threads.shutdown()

    async def _run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Take a blocking step, to its end: what it holds counts as held until then."""
        return await in_thread(self._threads, step, *args, **kwargs)

    def take_over(self, rotate: Rotate) -> None:
        """Rotate by other limits from now on."""
        self._rotate = rotate

    async def catch_up(self, series: str, *, origin: Origin, note: Callable[[Advance], None]) -> None:
        """Let a stream take all snapshots that wait for it, in order of their update time.

        Args:
            series: See ``layout.series``.
            origin: Says why a gap is there.
            note: Hears what each snapshot brought, as soon as it is on disk.

        Raises:
            StorageError: The disk or the ledger refuses. What was taken counts; the rest waits.
        """
        async with self._locks.setdefault(series, asyncio.Lock()):
            backlog = await self._settled(series)
            state = backlog.state
            for snapshot in backlog.waiting:
                state, advance = await self._take(snapshot, series, state, origin)
                if advance is not None:
                    note(advance)

    async def rebuild(self, series: str, *, origin: Origin, note: Callable[[Advance], None]) -> Path | None:
        """Put the stream's files aside, and let a new one take all snapshots that are on disk.

        Returns:
            The directory that its files were moved to; None where it had none.

        Raises:
            StorageError: The disk or the ledger refuses.
        """
        aside = await self._put_aside(series)
        await self.catch_up(series, origin=origin, note=note)
        return aside

    @unbroken
    async def _put_aside(self, series: str) -> Path | None:
        live = self._directory / layout.stream_path(series)
        aside = live.parent / f".replaced.{layout.stamp(self._clock.now())}"
        await self.book.begin_anew(series)  # first: a stream that is on disk and not in the books is adopted
        return aside if await self._run(_move_all, live, aside) else None

    async def note_gone(self, instance: str) -> None:
        """Note that the cloud has no such instance any more: what it wrote since its last export is lost.

        Raises:
            StorageError: The ledger cannot be used.
        """
        for gap in await self.book.note_gone(instance, now=self._clock.now()):
            _tell_gap(gap)

    async def _settled(self, series: str) -> Backlog:
        """Give what a stream has to take, once what was begun is carried out, and what is on disk is known."""
        backlog = await self.book.backlog(series)
        if backlog.state is not None and backlog.state.intent is not None:
            async with self._under_way:
                await self._resume(backlog.state, backlog.state.intent)
            backlog = await self.book.backlog(series)
        if backlog.state is None and backlog.waiting:
            async with self._turns:
                adopted = await self._adopt(series, backlog.waiting)
            backlog = await self.book.backlog(series) if adopted else backlog
        return backlog

    @unbroken
    async def _resume(self, state: StreamState, intent: Intent) -> None:
        """Carry out what was begun, or forget the stream where that cannot be done any more."""
        if await self._is_there(intent.lines.path):
            await self._carry_out(state, await self._as_far_as_there(intent))
        else:
            log.error("stream.source_gone", instance=state.instance, path=intent.lines.path, todo=LEAVE_SNAPSHOTS)
            await self.book.abandon(state.series, intent)

    @unbroken
    async def _adopt(self, series: str, waiting: Sequence[Snapshot]) -> bool:
        """Note what is on disk of a stream that the ledger does not know; tell whether there is anything."""
        found = await self._run(adoption, self._directory, series, waiting)
        if found is None:
            return False
        log.warning("stream.adopted", instance=found.state.instance, node=found.state.node)
        await self.book.adopt(found.state, parts=found.parts, taken=found.taken)
        return True

    async def _as_far_as_there(self, intent: Intent) -> Intent:
        there = intent.unfinished is None or await self._is_there(intent.unfinished.path)
        return intent if there else replace(intent, unfinished=None)

    async def _is_there(self, path: str) -> bool:
        return await self._run(exists, self._directory / path)

    async def _take(
        self, snapshot: Snapshot, series: str, state: StreamState | None, origin: Origin
    ) -> tuple[StreamState | None, Advance | None]:
        """Append what a snapshot has that its stream has not.

        Returns:
            How far the stream has come, and what the snapshot brought; None where it is passed over.
        """
        async with self._turns:
            place = await self._place(state or _fresh(series, snapshot, self._clock.now()), snapshot)
        if place is None:
            return state, None
        known, find, intent = place.state, place.find, place.intent
        if find.lost and snapshot.file.updated_at < known.reference_at:
            await self._pass_over(snapshot, "it is older than the stream's end, and has nothing in common with it")
            return state, None
        if find.lost:
            intent = await self._with_gap(known, intent, origin, cut=place.cut)
        if find.end == 0:  # not one whole line: the next snapshot is compared with the last one
            await self.book.pass_over([snapshot.key])
        else:
            async with self._under_way:
                state = await self._carry_out(known, intent)
        return state, Advance(
            file=snapshot.file,
            new=intent.size,
            window=snapshot.size,
            full=find.full,
            took=snapshot.file.updated_at - known.reference_at if known.reference else None,
            gap=intent.gap,
        )

    async def _place(self, state: StreamState, snapshot: Snapshot) -> _Place | None:
        """Find where a snapshot goes on; None where it is passed over."""
        try:
            return await self._run(self._look, state, snapshot)
        except StorageError as exc:
            if not await self._run(_is_readable, self._directory / snapshot.path):
                await self._pass_over(snapshot, str(exc), gone=not await self._is_there(snapshot.path))
                return None
            if await self._run(_is_readable, self._directory / state.reference):
                raise
        return await self._run(self._look, replace(state, reference=""), snapshot)  # compared with the stream itself

    async def _pass_over(self, snapshot: Snapshot, reason: str, *, gone: bool = False) -> None:
        """Go on without a snapshot; where that leaves lines out, the next one shows a gap."""
        log.warning(
            "stream.passed_over",
            instance=snapshot.file.instance,
            path=snapshot.path,
            reason=reason,
            todo=LEAVE_SNAPSHOTS if gone else "see the file; where lines are missing now, a gap is told of",
        )
        await self.book.pass_over([snapshot.key], gone=gone)

    def _look(self, state: StreamState, snapshot: Snapshot) -> _Place:
        """Find where the snapshot goes on; blocks."""
        with window.opened(self._directory / snapshot.path) as export, self._last(state) as delivered:
            find = _find(delivered, export, began=bool(state.reference or state.size or state.delivered_at))
            intent = Intent(
                snapshot=snapshot.key,
                lines=Piece(path=snapshot.path, start=find.start, end=find.end),
                base=state.size,
                delivered=find.end,
                updated_at=snapshot.file.updated_at,
                first_at=first_time(export, find.start, find.end),
                last_at=last_time(export, find.start, find.end),
                older=find.older,
            )
            cut = line_time(export.read(find.start, _LINE_HEAD)) is None
        return _Place(state=state, find=find, intent=self._rotating(state, intent), cut=cut)

    @contextmanager
    def _last(self, state: StreamState) -> Iterator[Window | None]:
        """Give the end of what was delivered: of the last snapshot, or of the stream itself where that is gone."""
        live = self._directory / layout.stream_path(state.series)
        if state.reference and exists(self._directory / state.reference):
            with window.opened(self._directory / state.reference) as last:
                yield Slice(last, min(state.delivered, last.size))
        else:
            with disk(live):
                files = [*livefile.rotated_files(live), *([live] if state.size and live.exists() else [])]
            if not files:
                yield None
                return
            with window.opened(files[-1]) as last:
                yield Slice(last, end_of_lines(last))

    def _rotating(self, state: StreamState, intent: Intent) -> Intent:
        """Let the live file be rotated away before, where it is old or would grow too large."""
        now = self._clock.now()
        too_large = state.size + intent.size > self._rotate.size
        if not (state.size and intent.size and (too_large or now - state.born_at >= self._rotate.every)):
            return intent
        stream = layout.stream_path(state.series)
        with disk(self._directory / stream):
            target = livefile.free_path(self._directory, stream, now)
            inode = livefile.inode(self._directory / stream)
        return replace(intent, rotate_to=target.as_posix(), rotated_inode=inode, base=0)

    async def _with_gap(self, state: StreamState, intent: Intent, origin: Origin, *, cut: bool) -> Intent:
        """Add what a gap adds: its note, and the line that waited for an end which does not come any more."""
        gap = await self.book.gap(state.series, intent.lines.path)  # known where a stream is rebuilt
        if gap is None:
            past, until = await self.book.past(state), intent.updated_at
            since = max(state.reference_at, state.delivered_at or EPOCH)
            gap = Gap(
                instance=state.instance,
                log=state.log,
                node=state.node,
                after=state.delivered_at,
                until=intent.first_at,
                cause=cause_of_gap(past, since=since, until=until, schedule=origin.schedule, key=origin.key),
                noted_at=self._clock.now(),
                cut=cut,
                path=intent.lines.path,
            )
        return replace(intent, gap=gap, unfinished=await self._run(self._unfinished, state))

    def _unfinished(self, state: StreamState) -> Piece | None:
        path = self._directory / state.reference
        if not state.reference or not exists(path):
            return None
        with disk(path):
            size = path.stat().st_size
        return Piece(path=state.reference, start=state.delivered, end=size) if size > state.delivered else None

    @unbroken
    async def _carry_out(self, state: StreamState, intent: Intent) -> StreamState:
        """Say what is to be appended, unless that is done; append it; note it. Gives how far the stream has come."""
        now, done, parts = self._clock.now(), livefile.Appended(base=intent.base), list[StreamPart]()
        if intent.size:
            if state.intent is None:
                await self.book.intend(state, intent)
            done, parts = await self._run(self._append, state, intent, now)
        after = await self.book.commit(state.after(intent, base=done.base, now=now), intent, parts=parts)
        self._tell(state, intent, done)
        return after

    def _append(self, state: StreamState, intent: Intent, now: datetime) -> tuple[livefile.Appended, list[StreamPart]]:
        """Append; give the files that were put elsewhere on the way, too; blocks."""
        done = livefile.append(self._directory, layout.stream_path(state.series), intent, now=now)
        aside = [done.aside.as_posix()] if done.aside else []
        rotated = [intent.rotate_to] if intent.rotate_to else []
        return done, self._parts(state, [*rotated, *aside], now)

    def _parts(self, state: StreamState, paths: Sequence[str], now: datetime) -> list[StreamPart]:
        """Describe the files that were rotated away, as far as they are there; blocks."""
        parts = []
        for path in paths:
            if exists(self._directory / path):
                with disk(self._directory / path):
                    size = (self._directory / path).stat().st_size
                part = StreamPart(
                    path=path,
                    series=state.series,
                    size=size,
                    first_at=state.first_at,
                    last_at=state.last_at,
                    rotated_at=now,
                )
                parts.append(part)
        return parts

    def _tell(self, state: StreamState, intent: Intent, done: livefile.Appended) -> None:
        told = log.bind(instance=state.instance, node=state.node, log=state.log.value)
        if intent.rotate_to:
            told.info("stream.rotated", path=intent.rotate_to, size=state.size)
        if done.aside:
            todo = "see who writes to it: only ddslogd may; lines may be twice in it and in the file that follows"
            told.warning("stream.put_aside", path=done.aside.as_posix(), todo=todo)
        elif done.base != intent.base:
            told.warning("stream.begun_anew", todo="nothing, if you rotate it yourself; stream.rotate does so too")
        if intent.gap is not None:
            _tell_gap(intent.gap)
        told.debug("stream.advanced", new_bytes=intent.size)


def _find(delivered: Window | None, export: Window, *, began: bool) -> _Find:
    """Say what an export has that was not delivered."""
    end = end_of_lines(export)
    if delivered is None:
        return _Find(start=0, end=end, lost=began and end > 0, full=began)
    match continuation(delivered, export):
        case None:
            return _Find(start=0, end=end, lost=end > 0, full=True)
        case Continuation(how=How.INSIDE):
            return _Find(start=end, end=end, older=True)
        case Continuation(start=start, how=How.OVERLAP):
            return _Find(start=start, end=end, full=start < delivered.size)
        case Continuation(start=start):
            return _Find(start=start, end=end, full=True)


def _is_readable(path: Path) -> bool:
    """Tell whether a whole file can be read; blocks."""
    try:
        with window.opened(path) as file:
            return all(file.read(start, READ) for start in range(0, file.size, READ))
    except StorageError:
        return False


def _fresh(series: str, snapshot: Snapshot, now: datetime) -> StreamState:
    file = snapshot.file
    return StreamState(
        series=series,
        instance=file.instance,
        log=file.log,
        node=file.node,
        size=0,
        born_at=now,
        reference_at=EPOCH,
    )


def _move_all(live: Path, aside: Path) -> bool:
    """Move a live file and what was rotated away from it into a directory; tell whether there was anything."""
    with disk(live):
        files: Sequence[Path] = [*livefile.rotated_files(live), *([live] if os.path.lexists(live) else [])]
        if files:
            aside.mkdir(exist_ok=True)
            for file in files:
                file.rename(aside / file.name)
            sync_directory(aside)
            sync_directory(live.parent)
    return bool(files)


def _tell_gap(gap: Gap) -> None:
    log.warning(
        "stream.gap",
        instance=gap.instance,
        node=gap.node,
        log=gap.log.value,
        after=_iso(gap.after),
        until=_iso(gap.until),
        cause=gap.cause.value,
    )


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
