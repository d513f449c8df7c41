"""The kinds of log the cloud exports: each has a call of its own, and some of the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ddslogd.sandbox.dds.topology import GroupType

LogKind = Literal["error", "slow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What tells one kind from another.

    Attributes:
        call: The end of the path that exports it; it is counted by this name.
        word: What is in its files' names.
        groups: The types of group whose nodes have such a log.
        share: Of the sandbox's lines a second, how many are in it.
    """

    name: LogKind
    call: str
    word: str
    groups: frozenset[GroupType]
    share: float


# The nodes are from the reference, section 1 (error) and 2 (slow). The slow log's word is from dds_api_0094's example.
KINDS: dict[LogKind, Kind] = {
    "error": Kind(
        name="error",
        call="errorlog-download",
        word="errorlog",
        groups=frozenset(["mongos", "shard", "config", "replica", "single"]),
        share=1.0,
    ),
    "slow": Kind(
        name="slow",
        call="slowlog-download",
        word="slowlog",
        groups=frozenset(["shard", "replica", "single"]),
        share=0.2,
    ),
}
