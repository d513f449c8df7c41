"""A part: a hidden file that grows to a snapshot.

A batch is one ``writev`` in one of a few threads, with its checksums; where a thread is spare they follow there, while
more is written. The disk's own work begins before the end. A small file is not even made before it is whole; the
publisher writes it together with others.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ddslogd.model.errors import Changed, StorageError
from ddslogd.model.snapshot import Identity
from ddslogd.storage import gzip_file, paths
from ddslogd.storage.directory_sync import Directories
from ddslogd.storage.disk_space import Reserve, room_at
from ddslogd.storage.filesystem import FILE_MODE, disk, new_file, no_follow, to_its_end, unbroken
from ddslogd.storage.snapshots import publisher
from ddslogd.storage.snapshots.checksums import READ, Digests
from ddslogd.storage.snapshots.publisher import Publisher, Whole
from ddslogd.storage.streams import log_window
from ddslogd.storage.streams.log_time import NEWEST
from ddslogd.storage.streams.overlap import HeldWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from ddslogd.storage.gzip_file import Unpacked
    from ddslogd.storage.snapshots.checksums import Checks
    from ddslogd.storage.snapshots.publisher import LogTimes
    from ddslogd.storage.streams.overlap import ProofLine, Window

P = ParamSpec("P")
T = TypeVar("T")

UNTRUSTED_TAIL = 64 * 1024  # bytes at the end of a part that a crash may have left as zeroes
WRITERS = 4  # threads that write and take checksums, at the most: more than there are processors hinder each other
SHORT = 4 * 1024 * 1024  # bytes of a file whose checksums are taken as they are written: not worth a further step
BEHIND = 1024 * 1024  # bytes behind these that are worth one
STRIDE = 32 * 1024 * 1024  # bytes of one at the most: others wait for the thread, and so does whoever gives up
WRITE_BACK = 8 * 1024 * 1024  # bytes of a file after which the disk begins with them, so that the sync finds few left
SMALL = 64 * 1024  # bytes of a file that is kept in memory until it is whole
MOST_NEW = 1024 * 1024  # bytes behind others that are elsewhere, of one file that is kept in memory until it is whole
MOST_HELD = 4 * 1024 * 1024  # bytes of all of these; who would add to them waits, or goes to the disk
_MOST_PIECES = 1024  # of one writev: IOV_MAX
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE: reserve blocks, leave the length as it is. fallocate(2)
_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin to write what is dirty, wait for nothing. sync_file_range(2)
_libc = ctypes.CDLL(None, use_errno=True)


class Desk:
    """What all parts of a store work with: threads that write, who publishes, and how much is held in memory.

    Attributes:
        reserve: Keeps room free on the disk.
        directories: Where parts are made, shared with the publisher.
        publisher: Gives what is whole its name.
        threads: How many write.
    """

    def __init__(self, checks: Callable[[], Checks], reserve: Reserve | None = None) -> None:
        self._checks = checks
        self.reserve = reserve or Reserve()
        self.directories = Directories()
        self.publisher = Publisher(self.directories, self.reserve)
        self._held = 0  # bytes
        self._new = 0  # the same, behind those of other files
        self._has_room = asyncio.Event()
        self._has_room.set()
        self.threads = max(2, min(WRITERS, len(os.sched_getaffinity(0))))
        self._busy = 0  # steps that are under way, or wait for a thread
        self._writers = ThreadPoolExecutor(self.threads, thread_name_prefix="writer")

    @property
    def checks(self) -> Checks:
        """Return which checksums a part takes that begins now."""
        return self._checks()

    def close(self) -> None:
        """Finish what was handed in."""
        self._writers.shutdown()
        self.publisher.close()

    async def room(self) -> None:
        """Wait until there is room in memory for another small file: the publisher is behind."""
        await self._has_room.wait()

    def has_room_for(self, size: int) -> bool:
        """Return whether so many bytes more may be kept in memory behind those of other files."""
        return self._new + size <= MOST_HELD

    def hold_new(self, size: int) -> None:
        """Record that so many are, or with a negative number that they are not any more. Nobody waits for these."""
        self._new += size

    def hold(self, size: int) -> None:
        """Record that bytes are kept in memory, or with a negative number that they are not any more."""
        self._held += size
        if self._held < MOST_HELD:
            self._has_room.set()
        else:
            self._has_room.clear()

    @property
    def has_spare(self) -> bool:
        """Return whether two more steps could run at the same time."""
        return self._busy + 2 <= self.threads

    async def run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Take a blocking step in one of the writers' threads, to its end although the caller is cancelled."""
        return await to_its_end(self.begin(partial(step, *args, **kwargs)))

    def begin(self, step: Callable[[], T]) -> asyncio.Future[T]:
        """Begin a blocking step in one of the writers' threads."""
        begun = asyncio.get_running_loop().run_in_executor(self._writers, step)
        self._busy += 1
        begun.add_done_callback(self._end)
        return begun

    def _end(self, _: asyncio.Future[Any]) -> None:
        self._busy -= 1


class Part:
    """A snapshot that is growing: a hidden file with one writer.

    Attributes:
        size: Bytes that count.
        received: Bytes that were ever appended, thrown away since or not; whoever fetches others to tell what to append
            adds them.
        seeded: Bytes at the beginning that are another file's; 0 for none. Only the MD5 of the whole proves that they
            belong there.
        in_place: Whether these were not copied: the part has only what comes behind them.
        proof_line: In place: has seen what the others hold.
        digests: Of the bytes that count, once it is settled.
        identity: What the bytes are a part of.
        tail: What the file held beyond ``size`` when it was taken over from an earlier process: not trusted, to be
            fetched again and compared.
    """

    def __init__(self, root: Path, final: Path, *, desk: Desk) -> None:
        self._root = root
        self._final = final
        self._desk = desk
        self._begun = False
        self._path: Path | None = None
        self._fd: int | None = None
        self._held: tuple[bytes, ...] = ()  # all there is of a small file
        self._checking: asyncio.Future[None] | None = None  # the last step that took checksums; it may be over
        self._begun_back = 0  # bytes that the disk has begun with
        self._reserved = 0  # bytes that have their blocks already
        self.digests = Digests(desk.checks)
        self.size = 0
        self.received = 0
        self.seeded = 0
        self.in_place = False
        self.proof_line: ProofLine | None = None
        self._expected = 0  # bytes in memory that were asked for
        self.identity = Identity()
        self.tail = b""

    @property
    def path(self) -> Path | None:
        """Return the hidden file; None where there is none (yet)."""
        return self._path

    @property
    def resumable(self) -> bool:
        """Return whether what is there can be proved to belong to what the object store holds."""
        return self.size > 0 and self.identity.total is not None and self.identity.etag.startswith('"')

    async def take_over(self, path: Path, identity: Identity, *, trusted: bool, seeded: int = 0) -> None:
        """Go on with a part that an earlier transfer left.

        Args:
            path: The hidden file.
            identity: What the bytes are a part of.
            trusted: Whether all of them count: this process wrote them.
            seeded: As it was.

        Raises:
            StorageError: It cannot be opened or read.
        """
        with disk(path):
            await self._desk.run(self._adopt, path, identity, trusted=trusted, seeded=seeded)

    async def begin(self, identity: Identity) -> None:
        """Begin from zero with an object of this identity; what was there is thrown away.

        Raises:
            StorageError: The file cannot be made, or the disk has no room for the whole of it.
        """
        if self._begun:
            await self.remove()
        self.identity, self._begun = identity, True
        if identity.total is None or identity.total > SMALL:
            await self._create(identity)
        else:
            await self._desk.room()

    async def seed(self, identity: Identity, path: Path, *, start: int) -> None:
        """Begin with an object of this identity and with the bytes of another file, from ``start`` to its end.

        The hidden file's name tells no identity: after a crash nothing goes on with it.

        Raises:
            StorageError: The other file cannot be read, or as of ``begin``; nothing of it counts.
        """
        await self.begin(Identity())
        if self._fd is not None and self._path is not None:
            with disk(self._path):
                copy, total = self._path, identity.total or 0
                await self._desk.run(self._copy, self._fd, copy, path, start=start, total=total)
            self.identity = identity

    async def begin_in_place(
        self, identity: Identity, files: Sequence[tuple[Path, int]], *, start: int, proof_line: ProofLine
    ) -> None:
        """Begin with an object of this identity and with the bytes of other files, from ``start`` on, which stay there.

        What comes behind them is kept in memory if it is not much, else in a hidden file that no later transfer takes.

        Args:
            identity: Its length is known.
            files: With their sizes; one behind the other.
            start: Bytes of them that come before the object.
            proof_line: Is shown all that is read.

        Raises:
            StorageError: They cannot be read, or as of ``begin``; nothing of it counts.
        """
        if self._begun:
            await self.remove()
        try:
            await self._desk.run(self._take_in, files, start, proof_line)
        except BaseException:
            self.digests = Digests(self._desk.checks)
            raise
        self.size = self.seeded = self._begun_back = self.digests.size
        self.identity, self._begun, self.in_place, self.proof_line = identity, True, True, proof_line
        new = (identity.total or 0) - self.seeded
        if new <= MOST_NEW and self._desk.has_room_for(new):
            self._expected = new
            self._desk.hold_new(new)
            return
        try:
            await self._create(Identity())
        except BaseException:
            await self.remove()
            raise

    @property
    def new(self) -> Window:
        """Return what a part in place has behind the bytes of other files."""
        if self._fd is None:
            return HeldWindow(b"".join(self._held))
        return log_window.FileWindow(self._final, self._fd, self.size - self.seeded)

    async def append(self, chunks: Sequence[bytes]) -> None:
        """Write the chunks behind what is there.

        Raises:
            Changed: They differ from the tail that an earlier process left: something before it may be wrong too; or
                they are more than the object has, in place.
            StorageError: The disk refuses; what was written counts.
            ValueError: Nothing has begun.
        """
        if not self._begun:
            msg = "a part is appended to after begin or take_over"
            raise ValueError(msg)
        size = sum(map(len, chunks))
        if self.in_place and self.size + size > (self.identity.total or 0):
            raise Changed("the object store sends more bytes than the object has")
        if self._fd is None and (self.in_place or self._held or size == self.identity.total):
            await self._hold(chunks, size)
            return
        if self._fd is None:
            await self._create(self.identity)
        follow = self.size + size > SHORT and self._desk.has_spare
        with disk(self._final):
            await self._desk.run(self._write_all, self._compared(chunks) if self.tail else chunks, follow=follow)
            self._check()

    async def settle(self) -> None:
        """Have the checksums of all bytes that count.

        Raises:
            StorageError: The file cannot be read, or somebody has cut it short.
        """
        if self._fd is None:
            return
        with disk(self._final):
            if self._checking is not None:
                await to_its_end(self._checking)
            while (before := self.digests.size) < self.size:
                await self._desk.run(self.digests.read, self._fd, self._stride(), before=self._elsewhere)
                if self.digests.size == before:
                    raise StorageError(f"shorter than what was written to it, {publisher.CHANGED}: {self._final}")

    async def unpack(self, *, most: int) -> Unpacked | None:
        """Return what a compressed file holds, once it is settled; None where it is not compressed.

        Raises:
            Corrupt: It cannot be unpacked.
            Unpublishable: It would become larger than ``most``, or is packed too well to be a log.
            StorageError: It cannot be read.
        """
        if self.in_place:
            return None
        content = self._content()
        with disk(self._final):
            if not gzip_file.is_packed(content):
                return None
            unpacked = await self._desk.run(gzip_file.examined, content, most=most)
            with self._desk.reserve.take(self._fd or self._root, unpacked.size):  # else nobody could read its lines
                return unpacked

    async def holds(self, at: int, chunks: Sequence[bytes]) -> bool:
        """Return whether what is there has these bytes from ``at`` on.

        Raises:
            StorageError: It cannot be read.
        """
        content, batch = self._content(), b"".join(chunks)
        with disk(self._final):
            return await self._desk.run(content.read, at, len(batch)) == batch

    def _content(self) -> Window:
        if self._fd is None:
            return HeldWindow(b"".join(self._held))
        return log_window.FileWindow(self._final, self._fd, self.size)

    def _check(self) -> None:
        """Have the checksums taken of what was written, where enough was and none are being taken."""
        if self._checking is not None:
            if not self._checking.done():
                return
            self._checking.result()
        if self._fd is not None and self.size - self.digests.size >= BEHIND:
            step = partial(self.digests.read, self._fd, self._stride(), before=self._elsewhere)
            self._checking = self._desk.begin(step)

    @property
    def _elsewhere(self) -> int:
        """Return the bytes at the beginning that are in other files."""
        return self.seeded if self.in_place else 0

    def _stride(self) -> int:
        return min(self.size, self.digests.size + STRIDE)

    async def _hold(self, chunks: Sequence[bytes], size: int) -> None:
        """Keep all of a small file. What comes beyond its end is counted too, so that it does not pass for whole."""
        piece = b"".join(chunks)  # one, for each checksum hands Python's lock over
        if size > SMALL:
            await self._desk.run(self.digests.update, piece)
        else:
            self.digests.update(piece)
        self._held += (piece,)
        self.size += size
        self.received += size
        if not self.in_place:
            self._desk.hold(size)

    def _release(self) -> None:
        if not self.in_place:
            self._desk.hold(-sum(map(len, self._held)))
        self._desk.hold_new(-self._expected)
        self._held, self._expected = (), 0

    def _compared(self, chunks: Sequence[bytes]) -> Sequence[bytes]:
        batch = b"".join(chunks)
        known = min(len(self.tail), len(batch))
        if batch[:known] != self.tail[:known]:
            raise Changed("what an earlier process left on disk is not what the object store sends")
        self.tail = self.tail[known:]
        return [batch]

    async def _create(self, identity: Identity) -> None:
        path = self._final.parent / paths.part_name(self._final.name, identity)
        with disk(path):
            await self._desk.run(self._make, path)

    def _write_all(self, chunks: Sequence[bytes], *, follow: bool) -> None:
        """Write; what was before an error counts. The checksums are taken here, unless they are to follow, or do."""
        fd, before = self._fd or 0, self.size
        beyond = max(0, before + sum(map(len, chunks)) - max(before, self._reserved))
        with self._desk.reserve.take(fd, beyond) if beyond else nullcontext():
            self._write_pieces(fd, chunks)
        if self.digests.size == before and not follow:
            for chunk in chunks:
                self.digests.update(chunk)
        if self.size - self._begun_back >= WRITE_BACK:
            begun = ctypes.c_int64(self._begun_back - self._elsewhere)
            _libc.sync_file_range(fd, begun, ctypes.c_int64(self.size - self._begun_back), _WRITE)
            self._begun_back = self.size

    def _write_pieces(self, fd: int, chunks: Sequence[bytes]) -> None:
        for first in range(0, len(chunks), _MOST_PIECES):
            pieces = [memoryview(chunk) for chunk in chunks[first : first + _MOST_PIECES]]
            while pieces:
                written = os.writev(fd, pieces)
                self.size += written
                self.received += written
                pieces = _left(pieces, written)

    @unbroken
    async def close(self) -> None:
        """Leave the part as it is, for a later transfer to go on with."""
        fd = await self._let_go()
        if fd is not None and self._path is not None:
            with disk(self._path):
                await self._desk.run(_trim_and_close, fd, self.size)

    async def remove(self) -> None:
        """Throw away what is there."""
        if not self._begun:
            return
        self._release()
        self.size, self.seeded, self.tail, self.identity, self._begun = 0, 0, b"", Identity(), False
        self.in_place = False
        self.digests, self._begun_back, self._reserved = Digests(self._desk.checks), 0, 0
        if self._path is not None:
            await self._unlink(self._path)

    @unbroken
    async def _unlink(self, path: Path) -> None:
        fd, self._path = await self._let_go(), None
        with disk(path):
            await self._desk.run(_close_and_unlink, fd, path)

    async def _let_go(self) -> int | None:
        """Return the descriptor up, once nobody reads from it any more."""
        fd, self._fd = self._fd, None
        checking, self._checking = self._checking, None
        if checking is not None:
            await asyncio.wait([checking])
            checking.exception()  # nobody is left to hear it
        return fd

    async def publish(self, *, latest: datetime = NEWEST) -> LogTimes:
        """Sync the part, give it its final name, and sync the directory; give the times that its lines tell.

        A part that cannot be published is thrown away.

        Args:
            latest: Later times of lines are not believed.

        Raises:
            StorageError: The disk refuses, or a file with other bytes has that name already.
            ValueError: Nothing has begun.
        """
        if not self._begun:
            msg = "a part is published after begin or take_over"
            raise ValueError(msg)
        part = self._path or self._final.with_name(paths.part_name(self._final.name, Identity()))
        await self.settle()
        whole = Whole(
            root=self._root,
            part=part,
            final=self._final,
            fd=self._fd,
            chunks=self._held,
            size=self.size,
            latest=latest,
        )
        self._fd, self._path = None, None  # the publisher's from here on
        try:
            return await self._desk.publisher.publish(whole)
        finally:
            self._release()
            self._begun = False  # nothing is left to be thrown away

    def _make(self, path: Path) -> None:
        self._desk.directories.make(self._root, path.parent, seen=set())  # each time: somebody may have tidied up
        size = self.identity.total or 0
        self._fd, is_reserved = _made(path, size - self._elsewhere, self._desk.reserve)
        self._path, self._reserved = path, size if is_reserved else 0

    def _adopt(self, path: Path, identity: Identity, *, trusted: bool, seeded: int) -> None:
        self._fd = fd = no_follow(str(path), os.O_RDWR)
        self._path, self.identity, self._begun, self.seeded = path, identity, True, seeded
        size = os.fstat(fd).st_size
        self.digests.read(fd, size if trusted else max(0, size - UNTRUSTED_TAIL))
        offset = self.digests.size
        self.tail = os.pread(fd, size - offset, offset)
        os.ftruncate(fd, offset)
        os.lseek(fd, offset, os.SEEK_SET)
        self.size = offset

    def _take_in(self, files: Sequence[tuple[Path, int]], start: int, proof_line: ProofLine) -> None:
        """Take the checksums of what other files hold of the part."""
        with log_window.joined(files) as held:
            for at in range(min(start, proof_line.since), held.size, READ):
                piece = held.read(at, READ)
                proof_line.read(at, piece)
                self.digests.update(memoryview(piece)[max(0, start - at) :])

    def _copy(self, fd: int, part: Path, path: Path, *, start: int, total: int) -> None:
        is_reserved = _preallocate(fd, total, self._desk.reserve)
        with log_window.opened(path) as source:
            size = source.size - start
            self._reserved = max(total if is_reserved else 0, size)
            source.copy_to(fd, 0, start=start, size=size)
        with log_window.opened(part) as copy:  # what was written, not what was read: a copy that failed unseen is found
            self.digests.read(copy.fd, size)
        os.lseek(fd, size, os.SEEK_SET)
        self.size = self.seeded = size


def _left(pieces: Sequence[memoryview], written: int) -> list[memoryview]:
    """Return what is left of pieces of which so many bytes were written."""
    left = []
    for piece in pieces:
        done = min(written, len(piece))
        written -= done
        if done < len(piece):
            left.append(piece[done:])
    return left


def _made(path: Path, size: int, reserve: Reserve) -> tuple[int, bool]:
    """Make the file of a part, with blocks for all of it; return its descriptor, and whether it has the blocks."""
    fd = new_file(path)
    try:
        os.fchmod(fd, FILE_MODE)
        return fd, _preallocate(fd, size, reserve)
    except (OSError, StorageError):
        _close_and_unlink(fd, path)
        raise


def _preallocate(fd: int, size: int, reserve: Reserve) -> bool:
    """Reserve the blocks, so that a full disk shows now; return whether the file system can.

    What there is no room for is not even tried: the kernel would take all that is free before it finds out, and fail
    every other writer of the host meanwhile; so would two of ours that are tried at the same time, of which one fits.
    """
    with reserve.allocating:
        if size > room_at(fd).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return _allocate(fd, size, reserve)


def _allocate(fd: int, size: int, reserve: Reserve) -> bool:
    with reserve.take(fd, size):
        if size == 0 or _libc.fallocate(fd, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)) == 0:
            return True
        number = ctypes.get_errno()
    if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}:
        raise OSError(number, os.strerror(number))
    return False


def _trim_and_close(fd: int, size: int) -> None:
    """Release the blocks that were reserved and not written; what somebody cut off does not come back as zeroes."""
    try:
        os.ftruncate(fd, min(size, os.fstat(fd).st_size))
    finally:
        os.close(fd)


def _close_and_unlink(fd: int | None, path: Path) -> None:
    if fd is not None:
        os.close(fd)
    path.unlink(missing_ok=True)
