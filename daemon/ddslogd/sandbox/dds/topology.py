"""The instances the sandbox has: groups of nodes, named and numbered as DDS does."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Mode = Literal["Sharding", "ReplicaSet", "Single"]
GroupType = Literal["mongos", "shard", "config", "replica", "single"]
Tags = tuple[tuple[str, str], ...]

_FIRST_JSON = (4, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxNode:
    """One mongod or mongos.

    Attributes:
        id: 32 hex digits and ``no02``.
        role: As DDS words it: Primary, Secondary, master (a mongos).
    """

    id: str
    name: str
    role: str
    private_ip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxGroup:
    """The nodes of one kind, or of one shard.

    Attributes:
        id: 32 hex digits and ``gr02``; DDS gives it for shard and config groups only.
    """

    id: str
    name: str
    type: GroupType
    nodes: tuple[SandboxNode, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxInstance:
    """One instance.

    Attributes:
        id: 32 hex digits and ``in02``.
        version: Of MongoDB; decides how its nodes write their lines.
        status: As DDS words it: normal, abnormal, frozen …
        created: ISO, without a zone, as DDS writes it.
        tags: Keys and values; a key comes once.
    """

    id: str
    name: str
    mode: Mode
    version: str
    groups: tuple[SandboxGroup, ...]
    status: str = "normal"
    created: str = "2026-01-02T03:04:05"
    tags: Tags = ()

    @property
    def nodes(self) -> tuple[SandboxNode, ...]:
        """Return all its nodes, in the order DDS lists them."""
        return tuple(node for group in self.groups for node in group.nodes)

    @property
    def writes_json(self) -> bool:
        """Return whether its nodes write JSON lines."""
        return tuple(int(part) for part in self.version.split(".")[:2]) >= _FIRST_JSON


Fleet = tuple[SandboxInstance, ...]


def single(name: str = "solo", *, version: str = "4.4", tags: Tags = (), status: str = "normal") -> SandboxInstance:
    """Make an instance of one node."""
    groups = (_group(name, "single", "single", ("Primary",)),)
    return SandboxInstance(
        id=_id(name, "in02"), name=name, mode="Single", version=version, groups=groups, status=status, tags=tags
    )


def replica_set(
    name: str = "trio", *, nodes: int = 3, version: str = "4.4", tags: Tags = (), status: str = "normal"
) -> SandboxInstance:
    """Make a replica set: one primary, the rest secondaries."""
    groups = (_group(name, "replica", "replica", _replicas(nodes)),)
    return SandboxInstance(
        id=_id(name, "in02"), name=name, mode="ReplicaSet", version=version, groups=groups, status=status, tags=tags
    )


def cluster(
    name: str = "cluster",
    *,
    mongos: int = 2,
    shards: int = 2,
    per_shard: int = 2,
    version: str = "5.0",
    tags: Tags = (),
    status: str = "normal",
) -> SandboxInstance:
    """Make a sharded cluster; its config group has three nodes."""
    groups = [_group(name, "mongos", "mongos", ("master",) * mongos)]
    groups += [_group(name, "shard", f"shard_{index}", _replicas(per_shard)) for index in range(1, shards + 1)]
    groups.append(_group(name, "config", "config", _replicas(3)))
    return SandboxInstance(
        id=_id(name, "in02"),
        name=name,
        mode="Sharding",
        version=version,
        groups=tuple(groups),
        status=status,
        tags=tags,
    )


def default_fleet() -> Fleet:
    """Make one of each: ``orders`` (replica set), ``events`` (cluster) and ``audit`` (single, text lines)."""
    return (replica_set("orders"), cluster("events"), single("audit", version="4.2"))


def _group(instance: str, kind: GroupType, label: str, roles: tuple[str, ...]) -> SandboxGroup:
    names = [f"{instance}_{label}_node_{index}" for index in range(1, len(roles) + 1)]
    nodes = tuple(
        SandboxNode(id=_id(name, "no02"), name=name, role=role, private_ip=_address(name))
        for name, role in zip(names, roles, strict=True)
    )
    name = f"{instance}_{label}"
    return SandboxGroup(id=_id(name, "gr02"), name=name, type=kind, nodes=nodes)


def _replicas(nodes: int) -> tuple[str, ...]:
    return ("Primary", *("Secondary",) * (nodes - 1))


def _id(name: str, suffix: str) -> str:
    """Make an id as DDS does, 32 hex digits and what it is of, the same for the same name."""
    return hashlib.sha256(f"{suffix} {name}".encode()).hexdigest()[:32] + suffix


def _address(name: str) -> str:
    digest = hashlib.sha256(name.encode()).digest()
    return f"192.168.{digest[0]}.{digest[1]}"
