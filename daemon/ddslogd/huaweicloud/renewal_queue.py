"""Whose links are renewed next: the files of one export that wait for bytes, those that are asked for now first."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ddslogd.huaweicloud.services.dds import DDS

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from ddslogd.model.snapshot import LogFile


class RenewalQueue:
    """The files whose links may have to be renewed, each from when it is handed on until nothing more is fetched."""

    def __init__(self) -> None:
        self._waiting: dict[LogFile, None] = {}  # in the order in which they were handed on
        self._asking: Counter[LogFile] = Counter()  # who awaits its renewal, by file

    def add(self, file: LogFile) -> None:
        """Add a file behind the others."""
        self._waiting[file] = None

    def remove(self, file: LogFile) -> None:
        """Remove a file of which nothing more is fetched; one that is not there is none."""
        self._waiting.pop(file, None)

    @contextmanager
    def asking(self, file: LogFile) -> Iterator[None]:
        """Put a file before those that nobody asks for, while its renewal is awaited."""
        self._asking[file] += 1
        try:
            yield
        finally:
            self._asking[file] -= 1
            if not self._asking[file]:
                del self._asking[file]

    def batch(self, served: Container[LogFile]) -> tuple[LogFile, ...]:
        """Return as many files as one call may name, of those that are served."""
        files = dict.fromkeys([*self._asking, *self._waiting])
        return tuple(file for file in files if file in served)[: DDS.most_file_names]
