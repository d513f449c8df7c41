"""What every file needs of the disk: errors that say so, steps that end, names that outlive a power cut."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
from contextlib import contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ddslogd.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from concurrent.futures import Executor

P = ParamSpec("P")
T = TypeVar("T")

FILE_MODE = 0o640
DIRECTORY_MODE = 0o750


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into ``StorageError``."""
    try:
        yield
    except OSError as exc:
        name = errno.errorcode.get(exc.errno or 0, "?")
        raise StorageError(f"{exc.strerror} ({name}): {path}") from exc


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


async def in_thread(threads: Executor, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Take a blocking step in one of these threads, to its end; whoever is cancelled hears of no result."""
    return await to_its_end(asyncio.get_running_loop().run_in_executor(threads, partial(step, *args, **kwargs)))


def unbroken(steps: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let several steps that belong together end although their caller is cancelled, as ``to_its_end`` does for one."""

    @wraps(steps)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await to_its_end(asyncio.create_task(steps(*args, **kwargs)))

    return run


def exists(path: Path) -> bool:
    """Tell whether there is a file; blocks.

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
    for name in path.parts[len(root.parts) :]:  # text, not paths: this is done for each file
        parent, directory = directory, f"{directory}/{name}"
        if directory not in seen and _make_directory(directory):
            new.add(Path(parent))
        seen.add(directory)
    return new


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


def md5_of(path: Path) -> str:
    """Read a whole file for its MD5; blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
