"""Instances, their nodes, and when they are due."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """A schedule by interval: runs lie on a grid through the epoch, shifted by a phase per instance."""

    interval: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A schedule by five cron fields, read in a time zone.

    Attributes:
        expression: As cronsim reads it; it fires at some time (the configuration has tried it).
        timezone: An IANA name.
    """

    expression: str
    timezone: str


class LogKind(StrEnum):
    """A kind of log that DDS exports; the value is in the configuration."""

    ERROR = "error"
    SLOW = "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A mongod or mongos, as the cloud lists it.

    Attributes:
        id: 32 hex digits and ``no02``; stable, which the name may not be.
        group: The type of its group: shard, config, mongos, replica, single.
        role: Changes with a fail-over: Primary, Secondary, Hidden, master (a mongos); ``unknown`` when broken.
    """

    id: str
    name: str
    group: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeName:
    """How a node is called.

    Attributes:
        name: For life: it names the node's files.
        called: By the cloud, when it last had a file; empty where it named none, or another node has that name now.
    """

    name: str
    called: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedInstance:
    """An instance as the cloud lists it.

    Attributes:
        mode: Sharding, ReplicaSet, Single.
        status: normal, abnormal, creating, frozen, data_disk_full …
    """

    id: str
    name: str
    mode: str
    status: str
    tags: tuple[tuple[str, str], ...] = ()
    nodes: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPage:
    """One page of the list of instances.

    Attributes:
        total: How many there are in all, as the cloud says: a hint, its own example contradicts it.
        size: Bytes of the reply.
    """

    instances: tuple[ListedInstance, ...]
    total: int
    size: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One DDS instance whose logs are collected.

    Attributes:
        id: 32 hex digits and ``in02``.
        name: What the operator calls it: unique, and the directory of its files.
        cloud: The name of its entry under ``clouds``.
        node_ids: Only these nodes; empty for all.
        logs: The kinds that are collected.
        schedule: When its cycles begin.
    """

    id: str
    name: str
    cloud: str
    node_ids: tuple[str, ...] = ()
    logs: tuple[LogKind, ...] = (LogKind.ERROR,)
    schedule: Every | Cron


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownNode:
    """What is known of the node whose files go by a name.

    Attributes:
        id: Empty where it is not known.
        called: By the cloud, as of ``NodeName``.
        several: Whether the node has other files next to, of the same kind of log.
    """

    id: str
    called: str = ""
    several: bool = False
