"""The checksums of a file, taken as it grows: of bytes in memory, or behind its writer from the file itself.

Read back from the page cache they wait for no writer, hold no memory, and prove what the file holds.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddslogd.config.settings import Settings

READ = 256 * 1024  # bytes at a time: they stay in the processor's cache from the copy to the checksum


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """Which checksums are taken.

    Attributes:
        md5: What object stores give; about 1.7 s of a processor a GiB.
        sha256: Next to it; about half as much where the processor has instructions for it.
    """

    md5: bool = True
    sha256: bool = False


class Digests:
    """The checksums of a file's first bytes; one thread at a time adds to them.

    Attributes:
        size: Bytes that were taken in.
    """

    def __init__(self, checks: Checks) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False) if checks.md5 else None
        self._sha256 = hashlib.sha256() if checks.sha256 else None
        self.size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take in what follows; blocks for about 2 ms a MiB."""
        for digest in (self._md5, self._sha256):
            if digest is not None:
                digest.update(data)
        self.size += len(data)

    def read(self, fd: int, until: int, *, before: int = 0) -> None:
        """Take in what follows in an open file, until it has come to that byte or the file's end; blocks as ``update``.

        Args:
            fd: Of the file.
            until: Bytes, of all that is taken in.
            before: Of these: bytes that are not in the file.

        Raises:
            OSError: The disk refuses.
        """
        if self._md5 is None and self._sha256 is None:
            self.size = until
            return
        buffer = memoryview(bytearray(READ))
        while self.size < until and (got := os.preadv(fd, [buffer[: until - self.size]], self.size - before)):
            self.update(buffer[:got])

    @property
    def md5(self) -> str:
        """Return the lower-case hex MD5; empty where it is not taken."""
        return self._md5.hexdigest() if self._md5 is not None else ""

    @property
    def sha256(self) -> str:
        """Return the lower-case hex SHA-256; empty where it is not taken."""
        return self._sha256.hexdigest() if self._sha256 is not None else ""


def checks_of(settings: Settings) -> Checks:
    """Return which checksums the settings ask for."""
    return Checks(md5=settings.download.verify == "md5", sha256=settings.storage.sha256)
