"""What the ledger holds of one instance's files and streams at a moment, read at once for all of its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddslogd.storage import paths
from ddslogd.storage.ledger.snapshot_records import read_newest
from ddslogd.storage.ledger.stream_records import read_state

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from ddslogd.model.snapshot import Snapshot
    from ddslogd.model.stream import StreamState
    from ddslogd.storage.ledger.snapshot_records import Ledger

TO_TAKE = (
    "SELECT DISTINCT series FROM snapshots INDEXED BY snapshots_to_take"
    " WHERE published AND present AND NOT taken AND series >= ? AND series < ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecords:
    """What is known of an instance.

    Attributes:
        generation: The ledger's, by which it is known.
        newest: By series: the newest published snapshot.
        states: By series: how far its stream has come.
        waiting: The series of snapshots that their stream has not taken.
    """

    generation: int
    newest: Mapping[str, Snapshot]
    states: Mapping[str, StreamState]
    waiting: frozenset[str]


async def instance_records(ledger: Ledger, instance: str) -> InstanceRecords:
    """Return what is known of an instance, by its name.

    Raises:
        StorageError: The ledger cannot be used.
    """
    generation = ledger.generation
    directory = f"{paths.SNAPSHOTS}/{paths.segment(instance)}"
    scope = (f"{directory}/", f"{directory}0")  # a slash is followed by a zero

    def ask(db: sqlite3.Connection) -> InstanceRecords:
        states = map(read_state, db.execute("SELECT * FROM streams WHERE series >= ? AND series < ?", scope))
        return InstanceRecords(
            generation=generation,
            newest=read_newest(db, directory),
            states={state.series: state for state in states},
            waiting=frozenset(series for (series,) in db.execute(TO_TAKE, scope)),
        )

    return await ledger.run(ask)
