"""A part: a hidden file that grows to a snapshot."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import hashlib
import os
from typing import TYPE_CHECKING

import aiofiles

from ddslogd.errors import Changed, StorageError
from ddslogd.models import Identity
from ddslogd.storage import layout
from ddslogd.storage.filesystem import FILE_MODE, disk, md5_of, no_follow, sync_directory, unbroken

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from aiofiles.threadpool.binary import AsyncFileIO

UNTRUSTED_TAIL = 64 * 1024  # bytes at the end of a part that a crash may have left as zeroes
READ_SIZE = 1024 * 1024
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE: reserve blocks, leave the length as it is. fallocate(2)
_libc = ctypes.CDLL(None, use_errno=True)


class Digests:
    """The checksums of a file, taken as it grows.

    Attributes:
        with_sha256: Whether to take SHA-256 beside MD5.
    """

    def __init__(self, *, with_sha256: bool) -> None:
        self.with_sha256 = with_sha256
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256() if with_sha256 else None

    def update(self, data: bytes | memoryview) -> None:
        """Take in what follows; blocks for about 2 ms a MiB."""
        self._md5.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)

    @property
    def md5(self) -> str:
        """Give the lower-case hex MD5."""
        return self._md5.hexdigest()

    @property
    def sha256(self) -> str:
        """Give the lower-case hex SHA-256; empty where it is not taken."""
        return self._sha256.hexdigest() if self._sha256 is not None else ""


class Part:
    """A snapshot that is growing: a hidden file with one writer.

    Attributes:
        size: Bytes on disk that count.
        received: Bytes that were ever appended, thrown away since or not.
        digests: Of the bytes on disk.
        identity: What the bytes are a part of.
        tail: What the file held beyond ``size`` when it was taken over from an earlier process: not trusted, to be
            fetched again and compared.
    """

    def __init__(self, directory: Path, final_name: str, *, with_sha256: bool = False) -> None:
        self._directory = directory
        self._final_name = final_name
        self._path: Path | None = None
        self._file: AsyncFileIO | None = None
        self.digests = Digests(with_sha256=with_sha256)
        self.size = 0
        self.received = 0
        self.identity = Identity()
        self.tail = b""

    @property
    def path(self) -> Path | None:
        """Give the hidden file; None before anything has begun."""
        return self._path

    @property
    def resumable(self) -> bool:
        """Tell whether what is on disk can be proved to belong to what the object store holds."""
        return self.size > 0 and self.identity.total is not None and self.identity.etag.startswith('"')

    @unbroken
    async def take_over(self, path: Path, identity: Identity, *, trusted: bool) -> None:
        """Go on with a part that an earlier transfer left.

        Raises:
            StorageError: It cannot be opened or read.
        """
        with disk(path):
            self._file = await aiofiles.open(path, "r+b", buffering=0, opener=no_follow)
            self._path, self.identity = path, identity
            self.size, self.tail = await asyncio.to_thread(self._adopt, self._file.fileno(), trusted)

    @unbroken
    async def begin(self, identity: Identity) -> None:
        """Begin from zero with an object of this identity; what was on disk is thrown away.

        Raises:
            StorageError: The file cannot be made, or the disk has no room for the whole of it.
        """
        await self.remove()
        path = self._directory / layout.part_name(self._final_name, identity)
        with disk(path):
            await asyncio.to_thread(path.unlink, missing_ok=True)
            self._file = await aiofiles.open(path, "xb", buffering=0, opener=no_follow)
            self._path, self.identity = path, identity
            os.fchmod(self._file.fileno(), FILE_MODE)
            await asyncio.to_thread(_preallocate, self._file.fileno(), identity.total or 0)

    async def append(self, chunks: Sequence[bytes]) -> None:
        """Write the chunks behind what is there.

        Raises:
            Changed: They differ from the tail that an earlier process left: something before it may be wrong too.
            StorageError: The disk refuses; what was written counts.
            ValueError: Nothing has begun.
        """
        if self._file is None or self._path is None:
            msg = "a part is appended to after begin or take_over"
            raise ValueError(msg)
        batch = memoryview(b"".join(chunks))
        known = min(len(self.tail), len(batch))
        if batch[:known] != self.tail[:known]:
            raise Changed("what an earlier process left on disk is not what the object store sends")
        self.tail = self.tail[known:]
        while batch:
            batch = batch[await self._write(self._file, batch) :]

    @unbroken
    async def _write(self, file: AsyncFileIO, batch: memoryview) -> int:
        with disk(self._directory / self._final_name):
            written: int = await file.write(batch)
        await asyncio.to_thread(self.digests.update, batch[:written])
        self.size += written
        self.received += written
        return written

    @unbroken
    async def close(self) -> None:
        """Leave the part as it is, for a later transfer to go on with."""
        file, self._file = self._file, None
        if file is not None and self._path is not None:
            with disk(self._path):
                await asyncio.to_thread(_trim, file.fileno(), self.size)
                await file.close()

    @unbroken
    async def remove(self) -> None:
        """Throw away what is on disk."""
        file, self._file = self._file, None
        path, self._path = self._path, None
        self.size, self.tail, self.identity = 0, b"", Identity()
        self.digests = Digests(with_sha256=self.digests.with_sha256)
        if path is not None:
            with disk(path):
                if file is not None:
                    await file.close()
                await asyncio.to_thread(path.unlink, missing_ok=True)

    @unbroken
    async def publish(self) -> None:
        """Sync the part, give it its final name, and sync the directory.

        A part that cannot be synced is thrown away: the kernel has given its pages up, a second try would succeed
        without them.

        Raises:
            StorageError: The disk refuses, or a file with other bytes has that name already.
        """
        if self._file is None or self._path is None:
            msg = "a part is published after begin or take_over"
            raise ValueError(msg)
        final = self._directory / self._final_name
        try:
            with disk(final):
                await asyncio.to_thread(_settle, self._file.fileno(), self.size)
        except StorageError:
            await self.remove()
            raise
        file, self._file = self._file, None
        with disk(final):
            await file.close()
            await asyncio.to_thread(_rename_once, self._path, final, self.digests.md5)
        self._path = None

    def _adopt(self, fd: int, trusted: bool) -> tuple[int, bytes]:  # noqa: FBT001  # called through a thread
        size = os.fstat(fd).st_size
        good = size if trusted else max(0, size - UNTRUSTED_TAIL)
        offset = 0
        while offset < good and (chunk := os.pread(fd, min(READ_SIZE, good - offset), offset)):
            self.digests.update(chunk)
            offset += len(chunk)
        tail = os.pread(fd, size - offset, offset)
        os.ftruncate(fd, offset)
        os.lseek(fd, offset, os.SEEK_SET)
        return offset, tail


def _preallocate(fd: int, size: int) -> None:
    """Reserve the blocks, so that a full disk shows now; where the file system cannot, it shows later."""
    if size == 0 or _libc.fallocate(fd, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)) == 0:
        return
    number = ctypes.get_errno()
    if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}:
        raise OSError(number, os.strerror(number))


def _trim(fd: int, size: int) -> None:
    """Give back the blocks that were reserved and not written."""
    os.ftruncate(fd, size)


def _settle(fd: int, size: int) -> None:
    os.fchmod(fd, FILE_MODE)
    _trim(fd, size)
    os.fsync(fd)


def _rename_once(part: Path, final: Path, md5: str) -> None:
    """Rename, unless the name is taken: a published file is never rewritten. One writer, so nobody comes between."""
    if not os.path.lexists(final):
        part.rename(final)
    elif final.is_symlink() or md5_of(final) != md5:
        raise FileExistsError(errno.EEXIST, "a file with other bytes has this name already")
    else:  # published by a run that ended before it could enter it in the ledger
        part.unlink()
    sync_directory(final.parent)
