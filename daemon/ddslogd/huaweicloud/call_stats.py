"""What has happened on one account since the start, counted where it happens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ddslogd.model.errors import CredentialsRefused, Misdirected, Unavailable

if TYPE_CHECKING:
    from ddslogd.model.errors import CloudError

OK = "ok"


class Accepted(StrEnum):
    """Whether the cloud knows who we are."""

    OK = "ok"
    REFUSED = "refused"
    UNTRIED = "untried"


@dataclass(slots=True, kw_only=True)
class CallStats:
    """Counts of one account.

    Attributes:
        calls: By call and outcome, ``ok`` or the kind of error; retries included.
        throttled: How often the cloud said that there are too many calls.
        renewed: Links that were replaced by younger ones.
        credentials: As of the last call that could tell.
    """

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    throttled: int = 0
    renewed: int = 0
    credentials: Accepted = Accepted.UNTRIED

    def answered(self, call: str, error: CloudError | None) -> None:
        """Count one call."""
        self.calls[call, OK if error is None else error.kind.value] += 1

    def ended(self, error: CloudError | None) -> None:
        """Learn from how a call ended after all its tries what the cloud holds of our credentials."""
        match error:
            case CredentialsRefused():
                self.credentials = Accepted.REFUSED
            case Unavailable() | Misdirected():
                pass  # who gives no answer says nothing, nor does who is not the one that was meant
            case _:
                self.credentials = Accepted.OK
