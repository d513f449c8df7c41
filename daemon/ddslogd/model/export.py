"""Exports: the cloud's preparation of an instance's log files, and the links to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from ddslogd.model.instance import Instance, LogKind, Node
    from ddslogd.model.snapshot import LogFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which files of an instance's export a call asks for; without any name or id, all.

    Attributes:
        node_ids: Only of these nodes; empty for all.
        file_names: Only these, as the cloud names them; empty for all.
    """

    node_ids: tuple[str, ...] = ()
    file_names: tuple[str, ...] = ()

    def includes(self, row: Row) -> bool:
        """Return whether a row is asked for; one whose node's id is not known may be of any node."""
        if self.node_ids and row.node_id and row.node_id not in self.node_ids:
            return False
        return not self.file_names or row.file_name in self.file_names


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedSize:
    """A file's size as the cloud's list has it: for information, so that only a gross contradiction counts.

    No document says whether a KB has 1,000 or 1,024 bytes, nor how it is rounded: both units will do, and one step of
    the last digit up or down. A file that length or checksum proves whole is whole whatever was stated, unless it is
    empty: then the cloud speaks of lines that did not come. What nothing else proves has to fit.

    Attributes:
        kb: Kilobytes.
        step: What they are rounded to.
    """

    kb: Decimal
    step: Decimal = Decimal(1)

    def fits(self, size: int) -> bool:
        """Return whether so many bytes may be meant."""
        if size == 0:
            return self.kb == 0
        return any(abs(size - self.kb * unit) <= self.step * unit for unit in (1000, 1024))

    def __str__(self) -> str:
        """Return it as the cloud has it, with its unit."""
        return f"{self.kb} KB"


class RowState(StrEnum):
    """What one row of an export is doing."""

    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One node's file in a reply, as the cloud describes it.

    Attributes:
        node: The name that its files have for life, once ``node_names`` has seen the row; before, what the cloud says.
        url: Secret, see ``Link``; None unless the state is READY.
        updated_at: Aware, UTC; None where the cloud did not say.
        stated: The file's size; None where the cloud did not say. It tells no row from another.
        node_id: The node's id: from the file name, or from the list of nodes; empty where neither tells.
        called: The node's name as the cloud has it now; empty where it names none.
    """

    node: str
    file_name: str
    state: RowState
    url: str | None = field(default=None, repr=False)
    updated_at: datetime | None = None
    stated: StatedSize | None = field(default=None, compare=False)
    node_id: str = ""
    called: str = ""

    def __post_init__(self) -> None:
        if (self.state is RowState.READY) != (self.url is not None):
            msg = "a row is ready exactly when it has a link"
            raise ValueError(msg)

    def is_of(self, node: Node) -> bool:
        """Return whether this is a file of a listed node: by its id where that is known, else by its current name."""
        if self.node_id:
            return self.node_id == node.id
        return (self.called or self.node) == node.name or node.id in self.file_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReply:
    """The cloud's answer to one errorlog-download call.

    Attributes:
        rows: One a file; may be empty while the export is created.
        creating: True where the cloud says in so many words that more is to come.
        failed: True where the cloud says that at least one file failed.
        silent: True where it has neither a row nor a word of how it goes.
        unknown_words: Status words that no document lists; their rows count as pending.
        request_id: For the vendor's support.
        size: Bytes of the reply.
    """

    rows: tuple[Row, ...]
    creating: bool
    failed: bool = False
    silent: bool = False
    unknown_words: tuple[str, ...] = ()
    request_id: str = ""
    size: int = field(default=0, compare=False)

    @property
    def settled(self) -> bool:
        """Return whether nothing more is to come: judged by the rows, the top-level word can only delay it."""
        return not self.creating and all(row.state is not RowState.PENDING for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the export of one kind of log of an instance offers now.

    Attributes:
        rows: One a file, ready or not.
        error: Why nothing is known of it; empty where the cloud replied.
    """

    instance: Instance
    log: LogKind
    rows: tuple[Row, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A signed link to one prepared file.

    Attributes:
        url: Secret: whoever holds it can read the log. Kept byte for byte; the signature covers it.
        expires_at: Aware, UTC; when it is no longer to be used: the earlier one of the two that follow.
        signed_until: When its signature ends, by the object store's clock; None where the URL does not say.
        served_until: Until when the cloud serves its export, by the API's clock; None where that does not matter.
        request_id: Of the reply it came with.
        stated: The file's size, as far as the cloud says.
    """

    file: LogFile
    url: str = field(repr=False)
    expires_at: datetime
    signed_until: datetime | None = None
    served_until: datetime | None = None
    request_id: str = ""
    stated: StatedSize | None = None

    def expires_within(self, margin: timedelta, *, now: datetime, store_now: datetime | None = None) -> bool:
        """Return whether less than the margin is left of its life.

        Args:
            margin: What is to be left.
            now: By the API's clock.
            store_now: By the object store's, which judges the signature; None where it is not known: then the API's
                judges that too.
        """
        if store_now is None or self.signed_until is None:
            return now + margin >= self.expires_at
        ended = self.served_until is not None and now + margin >= self.served_until
        return ended or store_now + margin >= self.signed_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """When a row was first seen that tells no update time, or one that cannot be believed.

    Attributes:
        claimed_at: Its update time; None where it tells none.
        seen_at: In its place; aware, UTC, whole milliseconds, by the cloud's clock.
    """

    node: str
    file_name: str
    claimed_at: datetime | None
    seen_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """What is known of an instance's exports of one kind of log, for the sake of the next one.

    Attributes:
        asked: Instance and nodes that were asked for: of anything else it says nothing.
        takes: Seconds that the last exports took, oldest first.
        fresh_until: Until when the cloud serves the last one once more; aware, UTC, by the cloud's clock. None where
            it is to be asked all the same: something failed, or the cloud did not say.
        arrivals: Of rows of the last one that have no update time, or none that is believed: when each was seen first.
    """

    log: LogKind
    asked: str
    takes: tuple[float, ...] = ()
    fresh_until: datetime | None = None
    arrivals: tuple[Arrival, ...] = ()
