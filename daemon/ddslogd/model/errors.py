"""Every way to fail, by who has to act.

    DdslogdError
    ├── ConfigError               the operator fixes the file (exit 78)
    │   └── LedgerOlder           nobody: the next start of the daemon brings the ledger up to this version
    ├── Locked                    another ddslogd works on the directory (exit 75)
    ├── CloudError                a call to the cloud did not give what it should
    │   ├── Unavailable           nobody yet: it is tried again (network, 408, 5xx, busy)
    │   │   ├── Unreachable       the operator: proxy, name or certificate on the way; it is tried again all the same
    │   │   ├── Throttled         the same, and the whole account pauses
    │   │   ├── Oversized         the operator looks at endpoint and proxy, or opens a ticket: no reply is so large
    │   │   └── ForeignAnswer     the operator looks at the proxy on the way: it answered, not the cloud
    │   ├── Misdirected           the operator corrects endpoint, region or project: there is no such API there
    │   ├── CredentialsRefused    the operator fixes the credentials; nothing is tried for a while
    │   ├── NotAllowed            the operator grants a permission or settles the account
    │   ├── Gone                  the operator takes the instance or node out of the file
    │   ├── Unsupported           the operator: this kind of instance has no such logs
    │   └── Rejected              us: the cloud calls the request wrong, or its reply makes no sense
    │       └── UnknownFile       nobody: the whole export is asked for; the operator, where he named the file
    ├── TransferError             one file did not come whole
    │   ├── Interrupted           nobody yet: it is resumed (cut, stall, 5xx)
    │   │   └── TooSlow           the same, from the end of the queue
    │   ├── LinkRefused           a new link is asked for, once
    │   │   └── ObjectGone        the same; then the cloud, which has deleted what it lists
    │   ├── Changed               the object is another one now: begin again from zero
    │   ├── Corrupt               the bytes are not what they have to be: begin again, once
    │   └── Unpublishable         what came is no log, or too large; it is left out
    ├── ClusterError              the operator: what the members share cannot be used as it is; it is tried again
    │   └── NotOwned              nobody: another collector has the instance, or nothing proves that this one has it
    ├── UnknownNode               the operator names a node that the instance has
    ├── StorageError              the operator: the disk refuses (full, read-only, permissions)
    │   ├── NoRoom                the operator: it would leave less free than storage.keep_free
    │   └── LedgerDamaged         nobody yet: the daemon puts it aside and rebuilds it from what is on disk
    └── Bug                       us: something that nobody foresaw; the operator reports it

Messages never hold a link's query, a token or a password: they are written to logs as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ddslogd.model.failure_kind import FailureKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class DdslogdError(Exception):
    """The root: whatever ddslogd foresees.

    Attributes:
        kind: What is stored, counted and shown of it, with who has to act and how.
    """

    kind: ClassVar = FailureKind.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Complaint:
    """One thing that is wrong in a configuration file.

    Attributes:
        line: From 1; 0 where the complaint is about the whole file.
        column: From 1; 0 as for the line.
        path: Where in the tree, as ``instances[2].every``; empty for the whole file.
        text: What is wrong, and a guess at what was meant. Never holds a secret.
        warning: True where the daemon runs all the same.
    """

    line: int
    column: int
    path: str
    text: str
    warning: bool = False

    def render(self, file: Path | str) -> str:
        """Return the line an editor can jump to: ``file:line:column: path: text``."""
        place = f"{file}:{self.line}:{self.column}" if self.line else str(file)
        kind = "warning: " if self.warning else ""
        where = f"{self.path}: " if self.path else ""
        return f"{place}: {kind}{where}{self.text}"


class ConfigError(DdslogdError):
    """The configuration cannot be used; holds every complaint, not only the first."""

    kind: ClassVar = FailureKind.CONFIG_ERROR

    def __init__(self, file: Path | str, complaints: Sequence[Complaint]) -> None:
        self.file = file
        self.complaints = tuple(sorted(complaints))
        super().__init__("\n".join(complaint.render(file) for complaint in self.complaints))


class LedgerOlder(ConfigError):
    """An older ddslogd wrote the ledger: the next start of the daemon brings it up to this version."""


class Locked(DdslogdError):
    """Another process writes to the same directory."""

    kind: ClassVar = FailureKind.LOCKED


class ClusterError(DdslogdError):
    """What the members of a cluster share cannot be used by this one."""

    kind: ClassVar = FailureKind.CLUSTER


class NotOwned(ClusterError):
    """This collector does not own the instance, or not any more: its cycle does not begin, or is not committed."""


class UnknownNode(DdslogdError):
    """A node is named that the instance does not have, or that the configuration does not take."""

    kind: ClassVar = FailureKind.UNKNOWN_NODE


class CloudError(DdslogdError):
    """A call to the cloud did not give what it should.

    Attributes:
        code: The vendor's error code (``DBS.280443``), empty where it sent none.
        status: HTTP status; 0 where no reply came.
        request_id: What the vendor's support asks for; empty where none came.
    """

    def __init__(self, message: str, *, code: str = "", status: int = 0, request_id: str = "") -> None:
        self.code = code
        self.status = status
        self.request_id = request_id
        facts = [f"HTTP {status}" if status else "", code, f"request id {request_id}" if request_id else ""]
        known = ", ".join(fact for fact in facts if fact)
        super().__init__(f"{message} ({known})" if known else message)


class Unavailable(CloudError):
    """Nothing is wrong with the request: the same call may succeed later.

    Attributes:
        retry_after_s: What the server asked for, in seconds; None where it asked for nothing.
    """

    kind: ClassVar = FailureKind.UNAVAILABLE

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        status: int = 0,
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, code=code, status=status, request_id=request_id)


class Unreachable(Unavailable):
    """Something on the way to the cloud has to be put right: the proxy, the name or the certificate."""

    kind: ClassVar = FailureKind.UNREACHABLE


class Throttled(Unavailable):
    """The account made too many calls."""

    kind: ClassVar = FailureKind.THROTTLED


class ForeignAnswer(Unavailable):
    """Something between here and the cloud answered in its place: it says nothing of credentials, rights, instances."""

    kind: ClassVar = FailureKind.FOREIGN_ANSWER


class Oversized(Unavailable):
    """What came is more than a reply may be or hold: it was not taken, and is not asked for again in this call."""

    kind: ClassVar = FailureKind.OVERSIZED


class Misdirected(CloudError):
    """What is asked for is not where we ask: another service's endpoint, another region, another project's name."""

    kind: ClassVar = FailureKind.MISDIRECTED


class CredentialsRefused(CloudError):
    """The cloud does not accept who we say we are."""

    kind: ClassVar = FailureKind.CREDENTIALS_REFUSED


class NotAllowed(CloudError):
    """The cloud knows who we are and says no."""

    kind: ClassVar = FailureKind.NOT_ALLOWED


class Gone(CloudError):
    """The instance or node does not exist, or is another tenant's."""

    kind: ClassVar = FailureKind.GONE


class Unsupported(CloudError):
    """This kind of instance has no logs to download."""

    kind: ClassVar = FailureKind.UNSUPPORTED


class Rejected(CloudError):
    """The cloud calls the request wrong, or answers what makes no sense."""

    kind: ClassVar = FailureKind.REJECTED


class UnknownFile(Rejected):
    """The cloud knows no file, or no file any more, of a name that was asked for; it does not say which."""

    kind: ClassVar = FailureKind.UNKNOWN_FILE


class TransferError(DdslogdError):
    """A file did not come whole from the object store."""


class Interrupted(TransferError):
    """The transfer broke off; what is on disk is good and can be gone on with.

    Attributes:
        retry_after_s: What the server asked for, in seconds; None where it asked for nothing.
        busy: Whether it asks for less.
    """

    kind: ClassVar = FailureKind.INTERRUPTED

    def __init__(self, message: str, *, retry_after_s: float | None = None, busy: bool = False) -> None:
        self.retry_after_s = retry_after_s
        self.busy = busy or retry_after_s is not None
        super().__init__(message)


class TooSlow(Interrupted):
    """The transfer dribbled while others waited for its slot."""

    kind: ClassVar = FailureKind.TOO_SLOW


class LinkRefused(TransferError):
    """The object store does not accept the link (any more)."""

    kind: ClassVar = FailureKind.LINK_REFUSED


class ObjectGone(LinkRefused):
    """The link is good, and the object store has no such object or bucket any more."""

    kind: ClassVar = FailureKind.OBJECT_GONE


class Changed(TransferError):
    """What is on disk is no part of what the object store holds now."""

    kind: ClassVar = FailureKind.CHANGED


class Corrupt(TransferError):
    """What came is not what checksum, second request or the cloud's list speak of, or is damaged in itself."""

    kind: ClassVar = FailureKind.CORRUPT


class Unpublishable(TransferError):
    """What the object store sends is not a log that may be published."""

    kind: ClassVar = FailureKind.UNPUBLISHABLE


class Bug(DdslogdError):
    """Something that nobody foresaw, in the work on one file or one stream; the journal has its traceback."""

    kind: ClassVar = FailureKind.BUG

    def __init__(self, cause: BaseException) -> None:
        # The words of the cause may be anybody's, with a link or a token in them.
        super().__init__(f"a bug in ddslogd ({type(cause).__name__}): report it with the traceback in the journal")


class StorageError(DdslogdError):
    """The local disk refuses; the message names path and errno.

    Attributes:
        passing: Whether it says nothing of the file itself, as where the disk is full: it is to be tried again.
    """

    kind: ClassVar = FailureKind.STORAGE_ERROR

    def __init__(self, message: str, *, passing: bool = False) -> None:
        self.passing = passing
        super().__init__(message)


class NoRoom(StorageError):
    """What is to be written would leave less free than ``storage.keep_free``."""

    kind: ClassVar = FailureKind.NO_ROOM

    def __init__(self, message: str) -> None:
        super().__init__(message, passing=True)


class LedgerDamaged(StorageError):
    """What the ledger holds is not what was written to it."""

    kind: ClassVar = FailureKind.LEDGER_DAMAGED
