"""Files as the cloud had them, on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddslogd.model.instance import LogKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class LogFile:
    """The identity of one exported file.

    A file name alone does not identify it: a later export may use it again with other bytes.

    Attributes:
        instance: The instance's name, see ``Instance``.
        log: Which of its logs.
        node: The node's name for life, see ``NodeName``; hostile until it has become a path segment.
        file_name: As for the node.
        updated_at: When the cloud finished it; aware, UTC, whole milliseconds.
    """

    instance: str
    log: LogKind = LogKind.ERROR
    node: str
    file_name: str
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What proves that two replies of the object store speak of the same bytes.

    Attributes:
        etag: As sent, quotes included; empty where none came.
        total: Bytes of the whole object; None where no length came.
        last_modified: As sent; empty where none came.
        md5: What the bytes' MD5 must be, lower-case hex; empty where the ETag is no MD5. No part of the identity.
    """

    etag: str = ""
    total: int | None = None
    last_modified: str = ""
    md5: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One published file on disk: whole and final.

    Attributes:
        key: The path that belongs to the file's identity, relative to the storage directory.
        path: Where the bytes are: the key, that of an older file whose bytes are the same, or that of a file of the
            stream that stands for it.
        size: Bytes.
        md5: Lower-case hex, of the bytes on disk.
        sha256: The same; empty where the configuration does not ask for it.
        etag: As the object store sent it; empty where none is known.
        verified: True where length or ETag proved it whole; False is ``unverified``.
        began_at: When its transfer began; aware, UTC, as ``stored_at``.
        attempts: Requests to the object store.
        request_ids: Of the reply that held its link, and of the object store's.
        first_at: The first time that its lines tell; aware, UTC, as ``last_at``; None where none of them does.
        delta: Whether only what the node's last file did not hold was fetched.
        fetched: Bytes that crossed the wire for it; None where that is not known.
    """

    file: LogFile
    key: str
    path: str
    size: int
    md5: str
    sha256: str = ""
    etag: str
    verified: bool
    began_at: datetime
    stored_at: datetime
    attempts: int = 1
    request_ids: tuple[str, ...] = ()
    first_at: datetime | None = None
    last_at: datetime | None = None
    delta: bool = False
    fetched: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """What is held of a node's last file, which the next one may begin with the end of.

    Attributes:
        size: Bytes of that file, as the ledger has it, as all that follows.
        md5: Lower-case hex; empty where it is not known, as the next.
        sha256: The same.
        locate: Returns where the bytes are, files with their sizes, one behind the other: a published file, or those of
            a stream, which may begin earlier. Blocks; raises StorageError. They may be gone meanwhile.
        in_place: Whether the next file needs no copy of them: the stream stands for it.
        whole_lines: Bytes of the last file up to its last line end: in place, what is located ends with them.
    """

    size: int
    md5: str
    sha256: str = ""
    locate: Callable[[], Sequence[tuple[Path, int]]]
    in_place: bool = False
    whole_lines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The file is on disk, new."""

    snapshot: Snapshot
    fetched: int
    """Bytes that crossed the wire for it in this cycle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """The file is nothing new: the ledger had it, or its bytes are those of the node's last one, or it is empty.

    Attributes:
        entry: What is to be entered of it, at the path of the file that has the same bytes; None for nothing.
    """

    file: LogFile
    fetched: int = 0
    entry: Snapshot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """The cloud made a newer file of the same node meanwhile, which is fetched in its place."""

    file: LogFile
    fetched: int = 0
