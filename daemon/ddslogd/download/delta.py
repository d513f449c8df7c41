"""Only new bytes cross the wire: a file begins with the end of its node's last one, where the ETag proves it.

first bytes (GET, a small range) ─► the longest end of the last file that begins with them ─► copied into the part
the rest (GET, a range, If-Match) is a resume like any other ─► the MD5 of all must be the ETag

What cannot be proved is fetched whole. Where that is so several times in a row, an instance's deltas rest. Only answers
that say something about proof count: an outage, a store that asks for less, and a refused link say nothing of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from ddslogd.model.errors import StorageError
from ddslogd.storage.gzip_file import MAGIC
from ddslogd.storage.streams import log_window
from ddslogd.storage.streams.overlap import ProofLine, longest_end

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddslogd.download.response import Beginning
    from ddslogd.model.snapshot import Seed
    from ddslogd.scheduling.clock import Clock
    from ddslogd.storage.snapshots.partial_file import Part

log = structlog.get_logger()

HEAD = 8192  # bytes that are asked for first
SMALL = 16 * 1024  # bytes: nothing is spared with a file of so many
MOST_IN_A_ROW = 3  # files of an instance that had to be fetched whole
REST = timedelta(days=1)


class Deltas:
    """Whose files are fetched by delta. It is known in memory only: a restart tries again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._vain: Counter[str] = Counter()  # by instance: files in a row
        self._until_s: dict[str, float] = {}  # by the steady clock: the other one may be set

    def of(self, instance: str, seed: Seed | None) -> Delta:
        """Begin the delta of one file; it is over at once where nothing is held, or nothing to be spared."""
        now_s = self._clock.monotonic()
        rests = self._until_s.get(instance, now_s) > now_s
        return Delta(instance, seed if seed is not None and seed.size > SMALL and not rests else None)

    def note(self, instance: str, delta: Delta) -> None:
        """Take note of a delta whose file is whole now."""
        if delta.proven:
            self._vain.pop(instance, None)
        if not delta.reason:
            return
        self._vain[instance] += 1
        if self._vain[instance] >= MOST_IN_A_ROW:
            del self._vain[instance]
            self._until_s[instance] = self._clock.monotonic() + REST.total_seconds()
            told = (self._clock.now() + REST).isoformat(timespec="seconds")
            log.info("delta.rests", instance=instance, reason=delta.reason, until=told)


class Delta:
    """The delta of one file, from the first bytes on.

    Attributes:
        proven: What was held was part of the file.
        unchanged: The file is the one that is held, to the last byte: nothing more is needed.
        reason: Why the file had to be fetched whole; empty where it had not.
    """

    def __init__(self, instance: str, seed: Seed | None) -> None:
        self._instance = instance
        self.proven = False
        self.unchanged = False
        self.reason = ""
        self._seed = seed

    @property
    def wanted(self) -> bool:
        """Return whether the first bytes are to be asked for."""
        return self._seed is not None

    def end(self, reason: str = "") -> None:
        """Ask for no first bytes any more."""
        self._seed = None
        self.reason = reason

    async def begin(self, beginning: Beginning, head: bytes, part: Part) -> None:
        """Begin the part with what is held of the object, as much as that may be.

        It has to be proved by the MD5 once all is there; where it cannot be, and where nothing fits, the part stays
        empty.
        """
        seed, identity = self._seed, beginning.identity
        self.end()
        if seed is None or identity.total is None:
            return
        if not identity.md5:
            self.reason = "the ETag is no MD5"
            return
        if _is_same(beginning, seed, part):
            self.proven = self.unchanged = True
            part.identity = identity
            return
        try:
            if head.startswith(MAGIC):  # one that grew is another from its first new line on
                self.reason = "the file is compressed"
                return
            held = await asyncio.to_thread(_held_from, seed, head, identity.total)
            if held is None:
                self.reason = "the file does not begin with the end of the last one"
            elif seed.in_place:
                await part.begin_in_place(identity, held.files, start=held.start, proof_line=held.proof_line)
            else:
                await part.seed(identity, held.files[0][0], start=held.start)
        except StorageError as exc:  # no loss: the file is fetched whole, and says where the disk refuses that
            log.info("delta.failed", instance=self._instance, reason=str(exc))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What is held of an object.

    Attributes:
        files: Where, with their sizes.
        start: Where in them the object begins.
        proof_line: Of the last file.
    """

    files: Sequence[tuple[Path, int]]
    start: int
    proof_line: ProofLine


def _held_from(seed: Seed, head: bytes, total: int) -> _Held | None:
    files = seed.locate()
    with log_window.joined(files) as held:
        start = longest_end(held, head, most=total)
        if start is None or held.size < seed.whole_lines:
            return None
        return _Held(files=files, start=start, proof_line=ProofLine(held, since=held.size - seed.whole_lines))


def _is_same(beginning: Beginning, seed: Seed, part: Part) -> bool:
    """Return whether the object is what is held, by the known checksums; none that is wanted may be missing."""
    same = (beginning.identity.total, beginning.identity.md5) == (seed.size, seed.md5)
    return same and bool(seed.sha256) == bool(part.digests.sha256)
