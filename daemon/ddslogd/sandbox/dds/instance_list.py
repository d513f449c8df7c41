"""The list of instances: which of them are asked for, and how they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddslogd.sandbox.error_responses import dds_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ddslogd.sandbox.dds.topology import SandboxGroup, SandboxInstance

_MOST_TAGS = 20


def wanted(query: Mapping[str, str]) -> Callable[[SandboxInstance], bool]:
    """Return what the list is filtered by: id, name (``*`` before it: a part of it), mode, tags (all of them)."""
    name, tags = query.get("name", ""), _tags(query.get("tags", ""))
    if name == "*":
        raise dds_refusal(400, "DBS.280001", "The instance name is invalid.")

    def fits(instance: SandboxInstance) -> bool:
        return (
            query.get("id", instance.id) == instance.id
            and query.get("mode", instance.mode) == instance.mode
            and tags <= set(instance.tags)
            and (name[1:] in instance.name if name.startswith("*") else name in {"", instance.name})
        )

    return fits


def told(instance: SandboxInstance) -> dict[str, Any]:
    """Return an instance as the list shows it."""
    return {
        "id": instance.id,
        "name": instance.name,
        "status": instance.status,
        "mode": instance.mode,
        "region": "loopback-1",
        "port": "8635",
        "ssl": 1,
        "engine": "wiredTiger",
        "datastore": {"type": "DDS-Community", "version": instance.version, "patch_available": False},
        "created": instance.created,
        "updated": instance.created,
        "db_user_name": "rwuser",
        "vpc_id": "",
        "subnet_id": "",
        "security_group_id": "",
        "backup_strategy": {"start_time": "23:00-00:00", "keep_days": 7},
        "maintenance_window": "02:00-06:00",
        "pay_mode": "0",
        "enterprise_project_id": "0",
        "time_zone": "",
        "actions": [],
        "tags": [{"key": key, "value": value} for key, value in instance.tags],
        "groups": [_group(group) for group in instance.groups],
    }


def _tags(text: str) -> set[tuple[str, str]]:
    """Read ``k=v,k=v``: at most 20, a value may be empty, a key neither empty nor there twice (dds_api_0023, table 1).

    The page names no code for what is wrong: the one for a wrong name is the best guess.
    """
    pairs = [pair.partition("=") for pair in text.split(",")] if text else []
    keys = [key for key, _, _ in pairs]
    if len(pairs) > _MOST_TAGS or not all(key and sign for key, sign, _ in pairs) or len(set(keys)) < len(keys):
        raise dds_refusal(400, "DBS.280001", "The tags are invalid.")
    return {(key, value) for key, _, value in pairs}


def _group(group: SandboxGroup) -> dict[str, Any]:
    """Return a group: only shards and config groups have an id, a name and a status; a mongos has no volume."""
    shown: dict[str, Any] = {"type": group.type}
    if group.type in {"shard", "config"}:
        shown |= {"id": group.id, "name": group.name, "status": "normal"}
    if group.type != "mongos":
        shown["volume"] = {"size": "20", "used": "0.5"}
    shown["nodes"] = [
        {
            "id": node.id,
            "name": node.name,
            "status": "normal",
            "role": node.role,
            "private_ip": node.private_ip,
            "public_ip": "",
            "spec_code": "dds.mongodb.s6.large.4.repset",
            "availability_zone": "loopback-1a",
        }
        for node in group.nodes
    ]
    return shown
