"""Files that are made durable as a group: step by step, with syncs in a few lanes, and each directory once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ddslogd.model.errors import StorageError
from ddslogd.storage.filesystem import disk, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ddslogd.storage.directory_sync import Directories

T = TypeVar("T")

LANES = 4  # threads of a group


class GroupedFile:
    """One file of a group; whom one step fails, the others leave out. Blocks.

    Attributes:
        path: The file, as it is called in the end.
        error: What failed first; None where nothing has.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error: Exception | None = None

    def step(self, step: Callable[[], None]) -> None:
        """Take a step, unless one before it failed."""
        if self.error is not None:
            return
        try:
            step()
        except OSError as exc:
            self.fail(refusal(exc, self.path))
        except Exception as exc:  # noqa: BLE001  # a bug, too, is one file's alone, and leaves no descriptor open
            self.fail(exc)

    def fail(self, error: Exception) -> None:
        """Fail, unless that was done before."""
        self.error = self.error or error

    def lies_in(self, directory: Path) -> bool:
        """Return whether its name may be lost with an entry of the directory: also with one that another file made."""
        return directory in self.path.parents


class SyncLanes:
    """Threads in which the files of a group are synced at once: the file system commits together what is."""

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(LANES, thread_name_prefix=name)

    def close(self) -> None:
        """Finish what was handed in."""
        self._threads.shutdown()

    def each(self, step: Callable[[T], None], items: Sequence[T]) -> None:
        """Take a step for each item; blocks."""

        def lane(mine: Sequence[T]) -> None:
            for item in mine:
                step(item)

        if len(items) == 1:
            step(items[0])
            return
        for _ in self._threads.map(lane, [items[first::LANES] for first in range(min(LANES, len(items)))]):
            pass

    def sync_directories(self, directories: Directories, files: Sequence[GroupedFile]) -> None:
        """Sync what was noted, each once for all whose names depend on it; blocks.

        What cannot be synced fails them, and is tried by the next group.
        """
        self.each(partial(_sync, directories, files), directories.waiting())


def _sync(directories: Directories, files: Sequence[GroupedFile], directory: Path) -> None:
    try:
        with disk(directory):
            directories.sync(directory)
    except StorageError as exc:
        for file in files:
            if file.lies_in(directory):
                file.fail(exc)
