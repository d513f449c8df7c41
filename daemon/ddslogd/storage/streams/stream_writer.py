"""Streams: one continuous log per node and kind, in which every line stands once, in order.

snapshot ─► where does it go on? (overlap) ─► intent in the ledger ─► stream_appender ─► ledger: taken, gap

A crash anywhere leaves either nothing or an intent, and an intent is carried out as often as it takes.
"""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import structlog

from ddslogd.model.errors import StorageError
from ddslogd.model.snapshot import Seed
from ddslogd.model.stream import Advance, Gap, GapCause, Intent, Piece, StreamPart, StreamState
from ddslogd.model.units import iso_time
from ddslogd.scheduling.clock import EPOCH, believed
from ddslogd.storage import paths
from ddslogd.storage.batch_executor import Grouped
from ddslogd.storage.directory_sync import Directories
from ddslogd.storage.disk_space import Reserve
from ddslogd.storage.filesystem import disk, exists, to_its_end, unbroken
from ddslogd.storage.ledger.stream_records import Backlog, StreamBook
from ddslogd.storage.streams import log_window
from ddslogd.storage.streams.gap_cause import cause_of_gap
from ddslogd.storage.streams.log_time import AHEAD, first_time, last_time, line_time
from ddslogd.storage.streams.overlap import (
    READ,
    Continuation,
    HeldWindow,
    Unproved,
    continuation,
    end_of_lines,
)
from ddslogd.storage.streams.stream_appender import Append, StreamAppender
from ddslogd.storage.streams.stream_end import MOST_TAIL, StreamEnds
from ddslogd.storage.streams.stream_files import StreamFiles, is_regular
from ddslogd.storage.streams.stream_recovery import Doubt, adoption, closed_parts, is_continued, look

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from ddslogd.config.live_settings import LiveSettings
    from ddslogd.model.instance import Cron, Every
    from ddslogd.model.snapshot import Snapshot
    from ddslogd.scheduling.clock import Clock
    from ddslogd.storage.ledger.snapshot_records import Ledger
    from ddslogd.storage.streams.overlap import ProofLine, Window
    from ddslogd.storage.streams.stream_appender import Appended

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger()

COMPARED = 2  # threads that compare snapshots, each of which is read from end to end
MOST = 16  # steps that one of them takes in a row: small files are compared sooner than a thread is woken
UNDER_WAY = 64  # streams that are appended to: durable together, and a stop waits for them
PUT_BACK = (
    "nothing, where you put the ledger back from a copy: streams go on where their files end, and the gaps that were"
    " noted since the copy was made are lost; else see the disk"
)
LEAVE_SNAPSHOTS = "leave a node's newest snapshots where they are; where lines are missing now, a gap is told of"
CHANGED = "see who changed or removed it: only ddslogd may; lines may be twice in it and in the next file"
NEW_IDS = "lines are in new files now, so that shippers send them again, and by path and offset they have new ids"
_LINE_HEAD = 256  # bytes, in which a line's time stands


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a stream's lines come from, as far as it says why some are missing.

    Attributes:
        schedule: Of the instance.
        key: The instance's id.
        ahead: By how much its cloud's clock is ahead of ours, as far as is known.
    """

    schedule: Every | Cron
    key: str
    ahead: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Find:
    """Where a snapshot goes on.

    Attributes:
        start: Where its new lines begin.
        end: Where they end: behind its last line end.
        lost: Whether lines are missing before them, or may be.
        alike: Where they are lost: whether they may be there all the same.
        full: As of ``Advance``.
        older: As of ``Intent``.
        complete: As of ``StreamState``.
        changed: As of ``Continuation``.
    """

    start: int
    end: int
    lost: bool = False
    alike: bool = False
    full: bool = False
    older: bool = False
    complete: bool = False
    changed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a snapshot goes on in a stream.

    Attributes:
        state: What it was compared with.
        intent: What is to be appended.
        cut: Whether its new lines begin within one.
        window: Bytes of the snapshot, unpacked.
    """

    state: StreamState
    find: _Find
    intent: Intent
    cut: bool
    window: int


class _UnknownFiles(Exception):  # no error: they are adopted
    """A stream that the ledger does not know has files on disk."""


class Streams:
    """All streams of one storage directory."""

    def __init__(
        self,
        directory: Path,
        *,
        ledger: Ledger,
        settings: LiveSettings,
        clock: Clock,
        directories: Directories | None = None,
        reserve: Reserve | None = None,
    ) -> None:
        """Prepare.

        Args:
            directory: The storage directory.
            ledger: Open.
            settings: Say when a file is closed, and the next line goes to a new one.
            clock: For names and notes.
            directories: Shared with the snapshots of the same directory; None for those of its own.
            reserve: The same; None to keep nothing free.
        """
        self.book = StreamBook(ledger)
        self._directory = directory
        self._settings = settings
        self._clock = clock
        self._files = StreamFiles(directory, directories=directories or Directories())
        self._reserve = reserve or Reserve()
        self._ends = StreamEnds(self._files, self._reserve)
        self._appender = StreamAppender(self._files, self._reserve)
        self._locks: dict[str, asyncio.Lock] = {}
        self._replaced: dict[str, str] = {}  # by series: the name of the last file that a rebuild moved away
        self._compared: set[str] = set()  # series whose files were compared with the ledger
        self._began_with = ledger.generation
        self._known_to: dict[str, int] = {}  # by series: the generation of the ledger that knows its closed files
        self._outdated = False
        self._under_way = asyncio.Semaphore(UNDER_WAY)
        self._threads = ThreadPoolExecutor(COMPARED, thread_name_prefix="stream")
        self._steps: Grouped[Callable[[], Any], Any] = Grouped(
            _taken, thread=self._threads, most=MOST, at_once=COMPARED
        )

    def close(self) -> None:
        """Finish what was handed in."""
        self._threads.shutdown()
        self._appender.close()

    async def _run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Take a blocking step; once it has begun, to its end: what it holds counts as held until then."""
        future: asyncio.Future[T] = self._steps(partial(step, *args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not self._steps.withdraw(future):
                with suppress(Exception):
                    await to_its_end(future)  # nobody is left to hear how it ended
            raise

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
            backlog = await self._settled(series, origin)
            try:
                state = await self._take_all(backlog, series, origin, note, is_new=backlog.state is None)
            except _UnknownFiles:
                if await self._adopt(series, backlog.waiting, latest=self._latest(origin)):
                    backlog = await self.book.backlog(series)
                state = await self._take_all(backlog, series, origin, note)
            if state is None:
                return
            state = await self._own_reference(state)
            if self._is_to_be_closed(state):
                await self._close(state)

    def is_due(self, state: StreamState | None) -> bool:
        """Return whether a stream has something to do, though no snapshot waits for it."""
        if state is None:
            return False
        return state.intent is not None or self._is_to_be_closed(state)

    def _is_to_be_closed(self, state: StreamState) -> bool:
        is_full = bool(state.size) and self._is_old(state) and not _is_of_old_layout(state)
        return is_full and state.intent is None

    def seed(self, newest: Snapshot, state: StreamState | None) -> Seed | None:
        """Return what a stream has of its last file, where it stands for that; else None.

        Args:
            newest: The last file.
            state: How far the stream has come.
        """
        if state is None or state.intent is not None or not state.is_own_reference:
            return None
        locate = partial(self._ends.locate, state, newest.size)
        return Seed(
            size=newest.size,
            md5=newest.md5,
            sha256=newest.sha256,
            locate=locate,
            in_place=True,
            whole_lines=state.delivered,
        )

    async def extend(
        self,
        snapshot: Snapshot,
        new: Window,
        *,
        proof_line: ProofLine | None,
        base: StreamState,
        origin: Origin,
        note: Callable[[Advance], None],
    ) -> Snapshot | None:
        """Let a stream take what a file has behind what the stream has of it: the MD5 of both is the file's.

        Args:
            snapshot: The file, which has no copy of its own.
            new: What is behind.
            proof_line: Has seen what the stream has of it.
            base: How far the stream had come when that was found.
            origin: As of ``catch_up``.
            note: Hears what the file brought.

        Returns:
            The file with its place; None where it needs a copy of its own: the stream is another one by now, nothing
            proves that the file continues it, or the line that it ends in is too long for the ledger.

        Raises:
            StorageError: The disk or the ledger refuses.
        """
        series = base.series
        async with self._locks.setdefault(series, asyncio.Lock()):
            backlog = await self._settled(series, origin)
            state = backlog.state
            if backlog.waiting or state is None or _place_of(state) != _place_of(base):
                return None
            if series not in self._compared:
                if await self._run(look, self._files, state) is not Doubt.NONE:
                    return None
                self._compared.add(series)
            held = snapshot.size - new.size
            found = await self._run(self._look_behind, state, snapshot, new, proof_line, latest=self._latest(origin))
            if found is None:
                return None
            intent, tail = found
            async with self._under_way:
                after = await self._carry_out(state, intent, lines=new, tail=tail, entry=snapshot)
            note(
                Advance(
                    file=snapshot.file,
                    new=intent.size,
                    window=snapshot.size,
                    full=held < state.delivered,
                    took=snapshot.file.updated_at - state.reference_at,
                )
            )
            if self._is_to_be_closed(after):
                await self._close(after)
            return replace(snapshot, path=after.reference)

    def _look_behind(
        self, state: StreamState, snapshot: Snapshot, new: Window, proof_line: ProofLine | None, *, latest: datetime
    ) -> tuple[Intent, bytes] | None:
        """Return what is to be appended of a file that the stream has the beginning of, and what is behind; blocks.

        That the bytes are the file's does not prove that it continues the stream: see ``overlap``.
        """
        end, held = end_of_lines(new), snapshot.size - new.size
        if new.size - end > MOST_TAIL:
            return None
        shift = state.delivered - held
        if not (proof_line and proof_line.proves(proof_line.since + shift, new)) and not self._ends.is_continued(
            state, held, new
        ):
            return None
        path, base = self._target(state, end)
        intent = Intent(
            snapshot=snapshot.key,
            lines=Piece(path="", start=0, end=end),
            md5=_md5_of(new, 0, end),
            path=path,
            base=base,
            delivered=held + end,
            updated_at=snapshot.file.updated_at,
            first_at=first_time(new, 0, end, until=latest),
            last_at=last_time(new, 0, end, until=latest),
            complete=state.complete and shift == 0,
        )
        return intent, new.read(end, new.size - end)

    async def _own_reference(self, state: StreamState) -> StreamState:
        """Let a stream stand for the snapshot that it is compared with, if none is to stay and it ends with that."""
        is_wanted = self._settings.current.kept_snapshots == "none" and state.reference and not state.is_own_reference
        if not is_wanted or state.intent is not None or _is_of_old_layout(state):
            return state
        tail = await self._run(self._ends.copied_tail, state)
        return state if tail is None else await self.book.make_own_reference(state, tail)

    async def _take_all(
        self,
        backlog: Backlog,
        series: str,
        origin: Origin,
        note: Callable[[Advance], None],
        *,
        is_new: bool = False,
    ) -> StreamState | None:
        """Take what waits; return how far the stream is then.

        Raises:
            _UnknownFiles: It is new, but files of it are on disk.
        """
        state = backlog.state
        for snapshot in backlog.waiting:
            state, advance = await self._take(snapshot, series, state, origin, is_new=is_new and state is None)
            if advance is not None:
                note(advance)
        return state

    async def behind(self) -> tuple[tuple[str, str], ...]:
        """Return what is to catch up, though no cycle may come: pairs of series and instance name."""
        settings = self._settings.current
        born_until = self._clock.now() - settings.stream.rotate.every
        return await self.book.behind(born_until=born_until, own_reference=settings.kept_snapshots == "none")

    async def is_covered(self, series: str) -> bool:
        """Return whether the snapshots on disk reach back to a stream's first line: it can be made of them again.

        Raises:
            StorageError: The disk or the ledger refuses.
        """
        oldest = await self.book.first_of_all(series)
        return oldest is not None and await self._run(self._ends.reaches_back, series, oldest)

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
        home = self._directory / paths.stream_directory(series)
        aside = home.parent / f".replaced.{paths.stamp(self._clock.now())}" / home.name
        await self.book.begin_anew(series)  # first: a stream that is on disk and not in the books is adopted
        moved = await self._run(self._files.move_all, series, aside)
        if not moved:
            return None
        self._replaced[series] = moved[-1].name
        log.warning("stream.replaced", path=str(aside.relative_to(self._directory)), todo=NEW_IDS)
        return aside.parent

    async def note_gone(self, instance: str, *, now: datetime | None = None) -> None:
        """Record that the cloud has no such instance any more: what it wrote since its last export is lost.

        Args:
            instance: Its name.
            now: By the cloud's clock, as the update times of the exports that may yet come; None: by the host's.

        Raises:
            StorageError: The ledger cannot be used.
        """
        for gap in await self.book.note_gone(instance, now=now or self._clock.now()):
            _tell_gap(gap)

    async def _settled(self, series: str, origin: Origin) -> Backlog:
        """Return what a stream has to take, once what was begun is carried out, and what is on disk is known."""
        generation = self.book.generation
        backlog = await self.book.backlog(series)
        if backlog.state is not None and backlog.waiting and series not in self._compared:
            if await self._is_outdated(backlog.state, backlog.waiting):
                await self._forget(backlog.state)
                backlog = await self.book.backlog(series)
            self._compared.add(series)
        intent = backlog.state.intent if backlog.state is not None else None
        if backlog.state is not None and intent is not None:
            async with self._under_way:
                resumed = await self._resume(backlog.state, intent)
            backlog = await self.book.backlog(series) if resumed else backlog
        if backlog.state is not None and self._known_to.get(series, self._began_with) != generation:
            # What was being appended went into a new ledger, and nothing else.
            parts = await self._run(closed_parts, self._files, backlog.state, latest=self._latest(origin))
            await self.book.adopt(backlog.state, parts=parts, taken=())
        self._known_to[series] = generation
        return backlog

    async def _is_outdated(self, state: StreamState, waiting: Sequence[Snapshot]) -> bool:
        """Return whether the ledger is older than the stream's files, or contradicts them."""
        match await self._run(look, self._files, state):
            case Doubt.NONE:
                return False
            case Doubt.SOME:
                return await self._run(is_continued, self._files, state.series, waiting)
            case Doubt.CERTAIN:
                return True

    async def _forget(self, state: StreamState) -> None:
        """Forget what an outdated ledger says of a stream; that it is outdated is reported once."""
        if not self._outdated:
            log.error("ledger.outdated", instance=state.instance, node=state.node, todo=PUT_BACK)
        self._outdated = True
        await self.book.forget(state.series)

    @unbroken
    async def _resume(self, state: StreamState, intent: Intent) -> bool:
        """Carry out what was begun, or forget the stream where that cannot be done any more.

        Returns:
            False where that waits for the next snapshot, since no file has the lines.
        """
        if intent.is_held:
            return await self._complete(state, intent)
        if await self._is_there(intent.lines.path):
            await self._carry_out(state, await self._as_far_as_there(intent))
        else:
            log.error("stream.source_gone", instance=state.instance, path=intent.lines.path, todo=LEAVE_SNAPSHOTS)
            await self.book.abandon(state.series, intent)
        return True

    async def _complete(self, state: StreamState, intent: Intent) -> bool:
        """Record lines that no file but the stream's own has, where all of them are there; return whether they are."""
        if not await self._run(self._is_appended, intent):
            return False
        parts = await self._closed_with(state, intent)
        after = state.after(intent, now=self._clock.now())
        after = replace(after, reference="", delivered=0, complete=False)  # what else the file had is not known
        await self.book.commit(after, intent, parts=parts)
        return True

    def _is_appended(self, intent: Intent) -> bool:
        path = self._directory / intent.path
        with disk(path):
            if not is_regular(path):
                return False
        with log_window.opened(path) as file:
            end = intent.base + intent.size
            if intent.unfinished or file.size != end or _md5_of(file, intent.base, end) != intent.md5:
                return False
        self._files.make_durable(path)
        return True

    @unbroken
    async def _adopt(self, series: str, waiting: Sequence[Snapshot], *, latest: datetime) -> bool:
        """Record what is on disk of a stream that the ledger does not know; return whether there is anything."""
        found = await self._run(adoption, self._files, series, waiting, latest=latest)
        if found is None:
            return False
        await self._run(self._files.make_durable, self._directory / found.state.path)
        log.warning("stream.adopted", instance=found.state.instance, node=found.state.node)
        await self.book.adopt(found.state, parts=found.parts, taken=found.taken)
        return True

    async def _as_far_as_there(self, intent: Intent) -> Intent:
        there = intent.unfinished is None or await self._is_there(intent.unfinished.path)
        return intent if there else replace(intent, unfinished=None)

    async def _is_there(self, path: str) -> bool:
        return await self._run(exists, self._directory / path)

    async def _take(
        self, snapshot: Snapshot, series: str, state: StreamState | None, origin: Origin, *, is_new: bool
    ) -> tuple[StreamState | None, Advance | None]:
        """Append what a snapshot has that its stream has not.

        Returns:
            How far the stream has come, and what the snapshot brought; None where it is passed over.
        """
        known = state or _fresh(series, snapshot, self._clock.now())
        place = await self._place(known, snapshot, origin, is_new=is_new)
        if place is None:
            return state, None
        known, find, intent = place.state, place.find, place.intent
        if find.lost and _is_older(known, intent, now=self._clock.now() + origin.ahead):
            await self._pass_over(snapshot, "it is older than the stream's end, and has nothing in common with it")
            return state, None
        if find.lost:
            intent = await self._with_gap(known, intent, origin, place)
        if find.end == 0:  # not one whole line: the next snapshot is compared with the last one
            await self.book.pass_over([snapshot.key])
        else:
            async with self._under_way:
                state = await self._carry_out(known, intent)
        if find.changed:
            _bound(known).info("stream.line_changed", path=snapshot.path, changed_bytes=find.changed)
        return state, Advance(
            file=snapshot.file,
            new=intent.size,
            window=place.window,
            full=find.full,
            took=snapshot.file.updated_at - known.reference_at if known.reference else None,
            gap=intent.gap,
        )

    async def _place(self, state: StreamState, snapshot: Snapshot, origin: Origin, *, is_new: bool) -> _Place | None:
        """Find where a snapshot goes on; None where it is passed over."""
        latest = self._latest(origin)
        try:
            return await self._run(self._look, state, snapshot, latest, is_new=is_new)
        except StorageError as exc:
            if exc.passing:
                raise  # the snapshot waits for the next cycle
            if not await self._run(_is_readable, self._directory / snapshot.path):
                await self._pass_over(snapshot, str(exc), gone=not await self._is_there(snapshot.path))
                return None
            if not state.is_own_reference and await self._run(_is_readable, self._directory / state.reference):
                raise
        # Compared with the stream itself.
        return await self._run(self._look, replace(state, reference=""), snapshot, latest)

    def _latest(self, origin: Origin) -> datetime:
        """Return the latest time of a line that is believed."""
        return self._clock.now() + origin.ahead + AHEAD

    async def _pass_over(self, snapshot: Snapshot, reason: str, *, gone: bool = False) -> None:
        """Go on without a snapshot; where that leaves lines out, the next one shows a gap."""
        log.warning(
            "stream.passed_over",
            instance=snapshot.file.instance,
            path=snapshot.path,
            reason=reason,
            todo=LEAVE_SNAPSHOTS if gone else "see the file; where lines are missing now, a gap is told of",
        )
        await self.book.pass_over([snapshot.key], gone=gone, kept=True)

    def _look(self, state: StreamState, snapshot: Snapshot, latest: datetime, *, is_new: bool = False) -> _Place:
        """Find where the snapshot goes on; blocks."""
        if is_new:
            with disk(self._directory / state.path):
                if self._files.of(state.series):
                    raise _UnknownFiles
        with self._ends.lines(snapshot.path) as export, self._ends.last(state, is_new=is_new) as (delivered, complete):
            began = bool(state.reference or state.size or state.delivered_at)
            find = _find(delivered, export, began=began, complete=complete)
            find = _from_first_line(find, export)
            path, base = self._target(state, find.end - find.start)
            intent = Intent(
                snapshot=snapshot.key,
                lines=Piece(path=snapshot.path, start=find.start, end=find.end),
                path=path,
                base=base,
                delivered=find.end,
                updated_at=snapshot.file.updated_at,
                first_at=first_time(export, find.start, find.end, until=latest),
                last_at=last_time(export, find.start, find.end, until=latest),
                older=find.older,
                complete=find.complete,
            )
            cut = line_time(export.read(find.start, _LINE_HEAD)) is None
        return _Place(state=state, find=find, intent=intent, cut=cut, window=export.size)

    def _target(self, state: StreamState, size: int) -> tuple[str, int]:
        """Return to which file lines go, and how much that has: a new one where the newest is old, large or closed."""
        if not size:
            return state.path, state.size
        if state.intent is not None:  # a beginning of it may be there
            return state.intent.path, state.intent.base
        is_large = state.size + size > self._settings.current.stream.rotate.size
        is_full = state.size and (is_large or self._is_old(state))
        if state.closed or is_full or _is_of_old_layout(state):
            return self._next_path(state), 0
        return state.path, state.size

    def _is_old(self, state: StreamState) -> bool:
        now = self._clock.now()
        born_at = believed(state.born_at, now=now)
        return born_at is None or now - born_at >= self._settings.current.stream.rotate.every

    @unbroken
    async def _close(self, state: StreamState) -> None:
        """Record that the newest file of a quiet node is complete."""
        part = await self._run(self._part, state)
        await self.book.adopt(replace(state, size=0, closed=True), parts=[part] if part else [], taken=())
        _bound(state).info("stream.rotated", path=state.path, size=state.size)

    def _next_path(self, state: StreamState, *known: str) -> str:
        known = (state.path, self._replaced.get(state.series, ""), *known)
        with disk(self._directory / state.path):
            path = self._files.next_path(state.series, known=known, now=self._clock.now())
        return path.as_posix()

    async def _with_gap(self, state: StreamState, intent: Intent, origin: Origin, place: _Place) -> Intent:
        """Add what a gap adds: its note, and the line that waited for an end which does not come any more."""
        gap = await self.book.gap(state.series, intent.lines.path)  # known where a stream is rebuilt
        if gap is None:
            gap = Gap(
                instance=state.instance,
                log=state.log,
                node=state.node,
                after=state.delivered_at,
                until=intent.first_at,
                cause=GapCause.UNPROVED if place.find.alike else await self._cause(state, intent, origin),
                noted_at=self._clock.now(),
                cut=place.cut,
                path=intent.lines.path,
            )
        return replace(intent, gap=gap, unfinished=await self._run(self._ends.unfinished, state))

    async def _cause(self, state: StreamState, intent: Intent, origin: Origin) -> GapCause:
        past, until = await self.book.past(state), intent.updated_at
        since = max(state.reference_at, state.delivered_at or EPOCH)
        return cause_of_gap(past, since=since, until=until, schedule=origin.schedule, key=origin.key)

    @unbroken
    async def _carry_out(
        self,
        state: StreamState,
        intent: Intent,
        *,
        lines: Window | None = None,
        tail: bytes = b"",
        entry: Snapshot | None = None,
    ) -> StreamState:
        """Record what is to be appended, unless that is done; append it; record that.

        Args:
            state: How far the stream has come.
            intent: What is to be appended.
            lines: What the intent's lines are of, where no file has them.
            tail: What is behind them then.
            entry: The snapshot that they are of then.

        Returns:
            How far the stream is then.
        """
        trouble, parts, planned = "", list[StreamPart](), intent.path
        if intent.size:
            if state.intent != intent:
                await self.book.intend(state, intent)
            appended = await self._append(state, intent, lines)
            if not appended.is_done:
                intent, appended = await self._append_elsewhere(state, intent, lines)
            trouble = appended.link_trouble
            parts = await self._closed_with(state, intent)
        after = state.after(intent, now=self._clock.now(), tail=tail)
        entry = entry and replace(entry, path=after.reference, first_at=intent.first_at, last_at=intent.last_at)
        after = await self.book.commit(after, intent, parts=parts, entry=entry)
        if intent.size and state.size and planned != state.path:
            _bound(state).info("stream.rotated", path=state.path, size=state.size)
        self._report(state, intent, trouble)
        return after

    async def _append(self, state: StreamState, intent: Intent, lines: Window | None) -> Appended:
        append = Append(
            series=state.series,
            intent=intent,
            old_until=self._clock.now() if _is_of_old_layout(state) else None,
            lines=lines or HeldWindow(b""),
            tail=state.tail,
        )
        return await self._appender.append(append)

    async def _append_elsewhere(
        self, state: StreamState, intent: Intent, lines: Window | None
    ) -> tuple[Intent, Appended]:
        """Append to a new file, since the one that was meant is not as it was left; that one stays as it is."""
        if intent.path != state.path:
            _bound(state).warning("stream.file_changed", path=intent.path, todo=CHANGED)
        path = await self._run(self._next_path, state, intent.path)
        intent = replace(intent, path=path, base=0)
        await self.book.intend(state, intent)  # before a byte is written: a file that the books do not know is a doubt
        appended = await self._append(state, intent, lines)
        if not appended.is_done:
            raise StorageError(f"others write to the files of this stream: {path}")
        return intent, appended

    async def _closed_with(self, state: StreamState, intent: Intent) -> list[StreamPart]:
        """Describe what is closed with an intent: nothing, unless another file begins with it."""
        begins = state.size and not state.closed and intent.path != state.path
        return await self._run(self._closed_before, state, intent) if begins else []

    def _closed_before(self, state: StreamState, intent: Intent) -> list[StreamPart]:
        """Describe what is closed as a file begins; blocks."""
        if _is_of_old_layout(state):  # it has another name now, and perhaps not only since this try
            latest = self._clock.now() + AHEAD
            return [*closed_parts(self._files, replace(state, path=intent.path), latest=latest)]
        part = self._part(state)
        return [part] if part else []

    def _part(self, state: StreamState) -> StreamPart | None:
        """Describe the newest file, which is closed with that; None where it is gone. Blocks."""
        path = self._directory / state.path
        with disk(path):
            size = path.stat().st_size if is_regular(path) else None
        if (size or 0) != state.size:
            _bound(state).warning("stream.file_changed", path=state.path, todo=CHANGED)
        if size is None:
            return None
        return StreamPart(
            path=state.path,
            series=state.series,
            size=size,
            first_at=state.first_at,
            last_at=state.last_at,
            rotated_at=self._clock.now(),
        )

    def _report(self, state: StreamState, intent: Intent, trouble: str) -> None:
        if trouble:
            link = paths.stream_link(state.series).as_posix()
            todo = "remove what is there; shippers need no link"
            _bound(state).warning("stream.link_failed", path=link, reason=trouble, todo=todo)
        if intent.gap is not None:
            _tell_gap(intent.gap)
        log.debug(
            "stream.advanced", instance=state.instance, node=state.node, log=state.log.value, new_bytes=intent.size
        )


def _taken(steps: Sequence[Callable[[], Any]]) -> list[Any]:
    """Take steps in a row; return what each gives, or raises. Blocks."""
    return [_taken_one(step) for step in steps]


def _taken_one(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except Exception as exc:  # noqa: BLE001  # it is whose step it was, and nobody else's
        return exc


def _md5_of(window: Window, start: int, end: int) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for at in range(start, end, READ):
        digest.update(window.read(at, min(READ, end - at)))
    return digest.hexdigest()


def _place_of(state: StreamState) -> tuple[str, int, bool, Intent | None]:
    """Return what has to be the same where nothing was appended meanwhile."""
    return state.path, state.size, state.closed, state.intent


def _is_of_old_layout(state: StreamState) -> bool:
    """Return whether the newest file is named as in the old layout, or none is there."""
    return paths.born_at(PurePosixPath(state.path).name, log=state.log) is None


def _bound(state: StreamState) -> structlog.typing.FilteringBoundLogger:
    bound: structlog.typing.FilteringBoundLogger = log.bind(
        instance=state.instance, node=state.node, log=state.log.value
    )
    return bound


def _find(delivered: Window | None, export: Window, *, began: bool, complete: bool) -> _Find:
    """Return what an export has that was not delivered."""
    end = end_of_lines(export)
    if delivered is None:
        return _Find(start=0, end=end, lost=began and end > 0, full=began, complete=not began)
    match continuation(delivered, export, complete=complete):
        case Unproved(alike=alike):
            return _Find(start=0, end=end, lost=end > 0, alike=alike, full=True)
        case Continuation(older=True):
            return _Find(start=end, end=end, older=True, complete=complete)
        case Continuation(start=start, shift=shift, changed=changed):
            complete = complete and shift == 0
            return _Find(start=start, end=end, full=shift > 0, complete=complete, changed=changed)


def _is_older(state: StreamState, intent: Intent, *, now: datetime) -> bool:
    """Return whether a snapshot that has nothing in common with the stream's end is from before it.

    The cloud's clock may have been set back: so the lines' own times have to say it, too, and an export that was made
    ahead of the best clock, by which it is now, says nothing of what came before it.
    """
    reference_at = believed(state.reference_at, now=now)
    made_before = reference_at is not None and intent.updated_at < reference_at
    written_before = intent.last_at and state.delivered_at and intent.last_at <= state.delivered_at
    return made_before and bool(written_before)


def _from_first_line(find: _Find, export: Window) -> _Find:
    """Return the find without the line end that an export begins with where it was cut right before that.

    The line itself is in no export, and an empty one is none.
    """
    if find.start:
        return find
    head = export.read(0, 2)
    start = 1 if head[:1] == b"\n" else 2 if head == b"\r\n" else 0
    if start < find.end:
        return replace(find, start=start)
    return replace(find, end=0, lost=False)  # it has no other line


def _is_readable(path: Path) -> bool:
    """Return whether a whole file can be read; blocks.

    Raises:
        StorageError: That is not to be known now: the disk is full, and the like.
    """
    try:
        with log_window.lines(path) as file:
            return all(file.read(start, READ) for start in range(0, file.size, READ))
    except StorageError as exc:
        if exc.passing:
            raise
        return False


def _fresh(series: str, snapshot: Snapshot, now: datetime) -> StreamState:
    file = snapshot.file
    return StreamState(
        series=series,
        instance=file.instance,
        log=file.log,
        node=file.node,
        path=paths.stream_link(series).as_posix(),
        size=0,
        born_at=now,
        reference_at=EPOCH,
    )


def _tell_gap(gap: Gap) -> None:
    log.warning(
        "stream.gap",
        instance=gap.instance,
        node=gap.node,
        log=gap.log.value,
        after=iso_time(gap.after),
        until=iso_time(gap.until),
        cause=gap.cause.value,
    )
