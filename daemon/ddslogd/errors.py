"""Every way to fail, by who has to act.

    DdslogdError
    ├── ConfigError               the operator mends the file (exit 78)
    ├── Locked                    another ddslogd works on the directory (exit 75)
    ├── CloudError                a call to the cloud did not give what it should
    │   ├── Unavailable           nobody yet: it is tried again (network, 408, 5xx, busy)
    │   │   └── Throttled         the same, and the whole account pauses
    │   ├── CredentialsRefused    the operator mends the credentials; nothing is tried for a while
    │   ├── NotAllowed            the operator grants a permission or settles the account
    │   ├── Gone                  the operator takes the instance or node out of the file
    │   ├── Unsupported           the operator: this kind of instance has no such logs
    │   └── Rejected              us: the cloud calls the request wrong, or its reply makes no sense
    ├── TransferError             one file did not come whole
    │   ├── Interrupted           nobody yet: it is resumed (cut, stall, 5xx)
    │   ├── LinkRefused           a new link is asked for, once
    │   ├── Changed               the object is another one now: begin again from zero
    │   ├── Corrupt               the bytes are not what the checksum says: begin again, once
    │   └── Unpublishable         what came is no log, or too large; it is left out
    ├── NotListening              the operator gives web.listen an address that is free
    └── StorageError              the operator: the disk refuses (full, read-only, permissions)

Messages never hold a link's query, a token or a password: they are written to logs as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class DdslogdError(Exception):
    """The root: whatever ddslogd foresees."""


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
        """Give the line an editor can jump to: ``file:line:column: path: text``."""
        place = f"{file}:{self.line}:{self.column}" if self.line else str(file)
        kind = "warning: " if self.warning else ""
        where = f"{self.path}: " if self.path else ""
        return f"{place}: {kind}{where}{self.text}"


class ConfigError(DdslogdError):
    """The configuration cannot be used; holds every complaint, not only the first."""

    def __init__(self, file: Path | str, complaints: Sequence[Complaint]) -> None:
        self.file = file
        self.complaints = tuple(sorted(complaints))
        super().__init__("\n".join(complaint.render(file) for complaint in self.complaints))


class Locked(DdslogdError):
    """Another process writes to the same directory."""


class NotListening(DdslogdError):
    """The address for the page and the metrics cannot be had."""


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


class Throttled(Unavailable):
    """The account made too many calls."""


class CredentialsRefused(CloudError):
    """The cloud does not accept who we say we are."""


class NotAllowed(CloudError):
    """The cloud knows who we are and says no."""


class Gone(CloudError):
    """The instance or node does not exist, or is another tenant's."""


class Unsupported(CloudError):
    """This kind of instance has no logs to download."""


class Rejected(CloudError):
    """The cloud calls the request wrong, or answers what makes no sense."""


class TransferError(DdslogdError):
    """A file did not come whole from the object store."""


class Interrupted(TransferError):
    """The transfer broke off; what is on disk is good and can be gone on with.

    Attributes:
        retry_after_s: What the server asked for, in seconds; None where it asked for nothing.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class LinkRefused(TransferError):
    """The object store does not accept the link (any more)."""


class Changed(TransferError):
    """What is on disk is no part of what the object store holds now."""


class Corrupt(TransferError):
    """All bytes came, and they are not the ones that the object store's checksum speaks of."""


class Unpublishable(TransferError):
    """What the object store sends is not a log that may be published."""


class StorageError(DdslogdError):
    """The local disk refuses; the message names path and errno."""
