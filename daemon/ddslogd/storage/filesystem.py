"""What every file needs of the disk: errors that say so, steps that end, names that outlive a power cut."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ddslogd.model.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

P = ParamSpec("P")
T = TypeVar("T")

FILE_MODE = 0o640
DIRECTORY_MODE = 0o750
# Of what nobody but the daemon needs: who may read a file may lock it too, and keep the daemon waiting.
PRIVATE_FILE_MODE = 0o600
PRIVATE_DIRECTORY_MODE = 0o700
# What is wrong with the file itself, and stays so: a bad sector, a link, nothing there, or nothing that may be read.
# All else comes from the host (ENOSPC, EDQUOT, EFBIG, EROFS, EMFILE, ENFILE, ENOMEM, a share that is away), and passes.
_OF_THE_FILE = {
    errno.EIO,
    errno.EBADMSG,
    errno.EUCLEAN,
    errno.ELOOP,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENXIO,
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
}


@contextmanager
def disk(path: Path, *, host: bool = False) -> Iterator[None]:
    """Turn the disk's refusals into ``StorageError``.

    Args:
        path: The file that is named.
        host: Whether no refusal says anything of that file: it is another one that is written.
    """
    try:
        yield
    except OSError as exc:
        raise refusal(exc, path, host=host) from exc


def refusal(exc: OSError, path: Path, *, host: bool = False) -> StorageError:
    """Return what a refusal of the disk is raised as; the arguments as of ``disk``."""
    name = errno.errorcode.get(exc.errno or 0, "?")
    passing = host or exc.errno not in _OF_THE_FILE
    hint = _of_root(path) if exc.errno in {errno.EACCES, errno.EPERM} else ""
    return StorageError(f"{exc.strerror} ({name}): {path}{hint}", passing=passing)


def _of_root(path: Path) -> str:
    """Return what fixes it, where a command that root started has left something of root's on the way to a path."""
    user = os.geteuid()
    highest = None
    for one in (path, *path.parents):
        try:
            owner = one.lstat().st_uid
        except OSError:
            continue
        if owner == user:
            return f": {highest} is root's: chown -R {user}: {highest}" if highest else ""
        if owner != 0:
            return ""
        highest = one
    return ""


async def to_its_end(step: asyncio.Future[T]) -> T:
    """Wait until a step on disk has ended although the caller is cancelled, and cancel the caller then.

    A thread may still use the descriptor: closed under its feet, its number becomes another file's.
    """
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        while not step.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([step])
        if not step.cancelled():
            step.exception()  # nobody is left to hear it
        raise


def unbroken(steps: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let several steps that belong together end although their caller is cancelled, as ``to_its_end`` does for one."""

    @wraps(steps)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await to_its_end(asyncio.create_task(steps(*args, **kwargs)))

    return run


def exists(path: Path) -> bool:
    """Return whether there is a file; blocks.

    Raises:
        StorageError: The disk does not say.
    """
    with disk(path):
        return path.exists()


def no_follow(path: str, flags: int) -> int:
    """Open a file that is not a link to another: an opener for ``open``."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)


def new_file(path: Path) -> int:
    """Make a file, in place of what may have been left under its name; give its descriptor, to read and to write.

    Raises:
        OSError: The disk refuses.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    try:
        return no_follow(str(path), flags)
    except FileExistsError:
        path.unlink()
        return no_follow(str(path), flags)


def make_directories(root: Path, path: Path, *, seen: set[str]) -> set[Path]:
    """Make the directories below the root, whatever the umask; give those whose entries are new, to be synced.

    Args:
        root: It exists.
        path: The last of them.
        seen: Directories that were there a moment ago, and are not looked at again; those below the root are added.

    Raises:
        OSError: The disk refuses.
        StorageError: One of them is a link to elsewhere, or no directory.
    """
    new = set()
    directory = str(root)
    names = path.parts[len(root.parts) :]
    for above, name in zip(range(len(names))[::-1], names, strict=True):
        directory = f"{directory}/{name}"  # text, not a path: this is done for each file
        if directory not in seen and _make_directory(directory):
            new.add(path.parents[above])
        seen.add(directory)
    return new


def make_root(directory: Path, *, mode: int = DIRECTORY_MODE) -> None:
    """Make a directory that all else is kept below, and have its name outlive a power cut.

    Whether an earlier process made it, or one above it, and ended before it could sync that, is not known. So all are
    synced that are above it on the same file system. What somebody else made and this user may not read is theirs to
    sync.

    Raises:
        OSError: The disk refuses.
    """
    directory = directory.absolute()
    made_in = {one.parent for one in (directory, *directory.parents) if not one.exists()}
    directory.mkdir(mode=mode, parents=True, exist_ok=True)
    device = directory.stat().st_dev
    for above in directory.parents:
        if above.stat().st_dev != device:
            return
        try:
            sync_directory(above)
        except OSError:
            if above in made_in:
                raise


def make_private(directory: Path, *, names: tuple[str, ...], itself: bool) -> None:
    """Take files from everybody but their owner, and their directory where nothing else is in it; blocks.

    Not while SQLite has one of them open: closing it here would take away the locks that SQLite holds.

    Args:
        directory: It exists.
        names: What the names of the files begin with.
        itself: Whether the directory is meant for them alone.

    Raises:
        OSError: The disk refuses.
    """
    with os.scandir(directory) as entries:
        found = list(entries)
    for entry in found:
        if entry.name.startswith(names) and entry.is_file(follow_symlinks=False):
            _make_private(Path(entry.path), os.O_NOFOLLOW | os.O_NONBLOCK, PRIVATE_FILE_MODE)
    if itself and all(entry.name.startswith(names) for entry in found):
        _make_private(directory, os.O_DIRECTORY, PRIVATE_DIRECTORY_MODE)


def _make_private(path: Path, flags: int, mode: int) -> None:
    """Narrow the mode of what is this user's; what is somebody else's is theirs to guard."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        status = os.fstat(fd)
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & ~mode:
            os.fchmod(fd, stat.S_IMODE(status.st_mode) & mode)
    finally:
        os.close(fd)


def _make_directory(path: str) -> bool:
    """Make a directory where there is none; tell whether there was none."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        with suppress(FileExistsError):  # another thread was quicker
            os.mkdir(path)  # noqa: PTH102  # text
            os.chmod(path, DIRECTORY_MODE)  # noqa: PTH101  # text
            return True
        found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise StorageError(f"this is no directory, so nothing is written through it: {path}")
    return False


def sync_directory(path: Path) -> None:
    """Make the directory's entries outlive a power cut."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_at(fd: int, data: bytes, at: int) -> None:
    """Write all bytes into an open file, from a place on; blocks.

    Raises:
        OSError: The disk refuses; how much was written is not known.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def md5_of(path: Path) -> str:
    """Read a whole file for its MD5; blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
