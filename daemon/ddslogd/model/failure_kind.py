"""The kinds of failures, as the ledger, the status and the metrics have them: who has to act on each, and how."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Self

_WAIT: Final = "wait"
_TICKET: Final = "wait; if it stays, open a ticket with the request id"
_NODE: Final = "see whether the node runs; if it does, open a ticket with the request id"


class Owner(StrEnum):
    """Who has to act."""

    NOBODY = "nobody"
    """It fixes itself, or nothing is wrong."""
    OPERATOR = "operator"
    """Whoever runs ddslogd."""
    CLOUD = "cloud"
    """The cloud; the operator waits, or opens a ticket."""


class FailureKind(StrEnum):
    """What kind of failure it is. No member comes without its owner and its advice.

    Their order counts: where several things fail, the first of them is shown. The last ones pass by themselves.

    Attributes:
        owner: Who has to act.
        advice: What to do, as the end of a sentence.
    """

    owner: Owner
    advice: str

    def __new__(cls, word: str, owner: Owner, advice: str) -> Self:
        """Make a member: its word, which is stored and shown, with its owner and its advice."""
        kind = str.__new__(cls, word)
        kind._value_ = word
        kind.owner = owner
        kind.advice = advice
        return kind

    CREDENTIALS_REFUSED = "credentials_refused", Owner.OPERATOR, "fix the credentials"
    NOT_ALLOWED = "not_allowed", Owner.OPERATOR, "grant the permission that the error names"
    GONE = "gone", Owner.OPERATOR, "take the instance or node out of the configuration"
    UNSUPPORTED = "unsupported", Owner.OPERATOR, "take the instance out of the configuration, it has no such logs"
    MISDIRECTED = "misdirected", Owner.OPERATOR, "correct endpoint, region or project"
    FOREIGN_ANSWER = "foreign_answer", Owner.OPERATOR, "see the proxy and the firewall on the way to the cloud"
    OVERSIZED = (
        "oversized",
        Owner.OPERATOR,
        "see endpoint and proxy; if they are right, open a ticket with the cloud",
    )
    STORAGE_ERROR = "storage_error", Owner.OPERATOR, "see the disk"
    LEDGER_DAMAGED = "ledger_damaged", Owner.NOBODY, "the ledger is rebuilt from the files"
    NO_ROOM = "no_room", Owner.OPERATOR, "make room on the disk"
    LINK_REFUSED = "link_refused", Owner.OPERATOR, "see what the error says of the link"
    UNREACHABLE = "unreachable", Owner.OPERATOR, "see what the error says of the proxy, name or certificate"
    TIMEOUT = "timeout", Owner.OPERATOR, "see the network and download.concurrent"
    """The cycle took longer than ``schedule.cycle_timeout``."""
    REJECTED = "rejected", Owner.OPERATOR, "report it with its request id"
    BUG = "bug", Owner.OPERATOR, "report it with the traceback in the journal"
    UNPUBLISHABLE = "unpublishable", Owner.OPERATOR, "see what the error says of the file"
    OBJECT_GONE = "object_gone", Owner.CLOUD, _TICKET
    EXPORT_FAILED = "export_failed", Owner.CLOUD, _TICKET
    """The cloud could not prepare the file."""
    LEFT_OUT = "left_out", Owner.CLOUD, _NODE
    """An export says nothing of the node, though it had a file before."""
    SOURCE_STALLED = "source_stalled", Owner.CLOUD, _NODE
    """The cloud makes no new export of the node."""
    CONFIG_ERROR = "config_error", Owner.OPERATOR, "correct the configuration file"
    CLUSTER = "cluster", Owner.OPERATOR, "see what the error says of PostgreSQL or of the other members"
    LOCKED = "locked", Owner.OPERATOR, "stop the other ddslogd, or give this one another storage.directory"
    UNKNOWN_NODE = "unknown_node", Owner.OPERATOR, "name a node that the instance has"
    UNKNOWN_FILE = "unknown_file", Owner.OPERATOR, "name a file that `ddslogd instances --files` lists"
    UNKNOWN = "unknown", Owner.OPERATOR, "see what the error says"
    """Another version of ddslogd wrote it, under a word that this one does not know."""
    UNAVAILABLE = "unavailable", Owner.CLOUD, _WAIT
    THROTTLED = "throttled", Owner.CLOUD, _WAIT
    EXPORT_PENDING = "export_pending", Owner.CLOUD, _WAIT
    """The cloud was still preparing the file after ``export.give_up_after``."""
    INTERRUPTED = "interrupted", Owner.CLOUD, _WAIT
    TOO_SLOW = "too_slow", Owner.CLOUD, _WAIT
    CHANGED = "changed", Owner.CLOUD, _WAIT
    CORRUPT = "corrupt", Owner.CLOUD, _WAIT

    @property
    def passes(self) -> bool:
        """Return whether there is nothing to do but to wait."""
        return self.advice == _WAIT

    @classmethod
    def read(cls, word: str) -> FailureKind:
        """Return the kind that a stored word names: ``UNKNOWN`` where this version has no such kind."""
        return _BY_WORD.get(word, cls.UNKNOWN)


_BY_WORD: Final = {kind.value: kind for kind in FailureKind}
