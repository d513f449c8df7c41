"""By which clock a file is old: pure.

A file that is removed as too old is gone, so its age is counted only as far as a clock proves it:

- The clock of the cloud that it came from has been read by this process: the age is counted by that one. Where it and
  the host's differ by more than a day, one of them is wrong and nobody knows which: nothing of that cloud is too old.
- It has not been read yet, and another cloud's has, which agrees with the host's: the host's clock will do.
- No cloud has replied: it is certain that it is no earlier than the last time that was noted of the cloud, so the host
  may be believed up to a day beyond that. A host whose clock jumped forward while no cloud can be reached removes
  nothing for it.

Whoever asks for a removal by hand is believed to have looked at the clock, unless it is known to differ from the
cloud's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from ddslogd.scheduling.clock import believed
from ddslogd.storage.ledger.database import moment_of, moment_or_none

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping
    from datetime import datetime

DISAGREEMENT = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedClock:
    """What the ledger knows of a cloud's clock.

    Attributes:
        ahead: Of the host's, when it was last read.
        seen_at: What it showed then; aware, UTC.
    """

    ahead: timedelta
    seen_at: datetime


@dataclass(slots=True, kw_only=True)
class Ages:
    """The time by which the files of each instance are old.

    Attributes:
        now: By the host's clock.
        read: By cloud: how far its clock is ahead of the host's, as this process has read it; None where a removal is
            asked for by hand, and no cloud is called.
        noted: By cloud: what the ledger knows.
        origins: By instance: its cloud.
        newest_at: When the newest file came; None where there is none.
        stopped: By cloud that had files to judge, and whose clock differs from the host's: by how much.
    """

    now: datetime
    read: Mapping[str, timedelta] | None = None
    noted: Mapping[str, NotedClock] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    newest_at: datetime | None = None
    stopped: dict[str, timedelta] = field(default_factory=dict)
    _known: dict[str, datetime | None] = field(default_factory=dict)

    @property
    def latest(self) -> datetime:
        """Return a time that no instance's is later than."""
        return self.now + DISAGREEMENT

    def now_for(self, instance: str) -> datetime | None:
        """Return the time by which an instance's files are old; None where none of them is."""
        cloud = self.origins.get(instance, "")
        if cloud not in self._known:
            self._known[cloud] = self._judged(cloud)
        return self._known[cloud]

    def newest_of(self, instance: str, moments: Iterable[datetime | None]) -> datetime:
        """Return the newest of some times of a file that can be believed; now, where none can."""
        now = self.now_for(instance) or self.now
        return max((one for moment in moments if (one := believed(moment, now=now)) is not None), default=now)

    def _judged(self, cloud: str) -> datetime | None:
        read, noted = self.read or {}, self.noted.get(cloud)
        ahead = read.get(cloud, noted.ahead if noted and abs(noted.ahead) > DISAGREEMENT else None)
        if ahead is not None and abs(ahead) > DISAGREEMENT:
            self.stopped[cloud] = ahead
            return None
        if ahead is not None:
            return self.now + ahead
        if self.read is None or any(abs(one) <= DISAGREEMENT for one in read.values()):
            return self.now
        certain = noted.seen_at if noted else self.newest_at
        return None if certain is None else min(self.now, certain + DISAGREEMENT)


def ages(db: sqlite3.Connection, *, now: datetime, read: Mapping[str, timedelta] | None) -> Ages:
    """Return the ages that a ledger's files have.

    Args:
        db: The ledger.
        now: As of ``Ages``.
        read: As of ``Ages``.
    """
    origins = {name: cloud for cloud, name in db.execute("SELECT cloud, name FROM names")}
    return Ages(now=now, read=read, noted=noted_clocks(db), origins=origins | _origins(db), newest_at=_newest(db, read))


def noted_clocks(db: sqlite3.Connection) -> dict[str, NotedClock]:
    """Return what a ledger knows of the clouds' clocks, by cloud."""
    rows = db.execute("SELECT cloud, ahead_ms, seen_ms FROM clocks")
    return {
        cloud: NotedClock(ahead=timedelta(milliseconds=ahead_ms), seen_at=moment_of(seen_ms))
        for cloud, ahead_ms, seen_ms in rows
    }


def _origins(db: sqlite3.Connection) -> dict[str, str]:
    return dict(db.execute("SELECT instance, cloud FROM origins"))


def _newest(db: sqlite3.Connection, read: Mapping[str, timedelta] | None) -> datetime | None:
    """Return when the newest file came; it is not looked for where it does not matter."""
    if read is None or read:
        return None
    (newest_ms,) = db.execute(
        "SELECT max(min(updated_ms, stored_ms)) FROM snapshots WHERE published AND present"
    ).fetchone()
    return moment_or_none(newest_ms)
