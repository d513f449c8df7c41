"""What commands ask: the daemon that runs, by its unix socket; else the ledger, where this user may read it."""

from __future__ import annotations

import hashlib
import http.client
import json
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ddslogd.model.errors import CloudError, StorageError
from ddslogd.model.instance import ListedInstance, LogKind, Node
from ddslogd.model.stream import Gap, GapCause
from ddslogd.monitoring import control_socket
from ddslogd.monitoring.status_json import as_object
from ddslogd.monitoring.status_reader import recorded, recorded_gaps
from ddslogd.storage.ledger.gap_records import MERGED, NOT_OVER
from ddslogd.storage.ledger.snapshot_records import FILE_NAME

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ddslogd.config.settings import Cloud, Settings

TIMEOUT_S = 10.0  # for a ledger on a slow disk that many read
LIST_TIMEOUT_S = 120.0  # clouds are asked meanwhile, within their budget of calls
MOST = 64 * 1024 * 1024  # bytes of a reply; ten thousand instances take some 10 MiB


def status(settings: Settings, *, now: datetime, again: str = "") -> dict[str, Any]:
    """Return what ``/api/v1/status`` sends. Blocks.

    Args:
        settings: Of the daemon.
        now: For what the ledger holds.
        again: The command that works where this user may not read the ledger.

    Raises:
        ConfigError: No daemon answers, and another version of ddslogd wrote the ledger.
        StorageError: No daemon answers, and there is no ledger, or it cannot be read.
    """
    found = _asked(settings, "/api/v1/status")
    if found is None:
        _refuse_what_is_not_ours(settings, again)
        return as_object(recorded(settings, now=now))
    return found


def gaps(
    settings: Settings, *, since: datetime | None, instances: Sequence[str], again: str = ""
) -> tuple[tuple[Gap, ...], tuple[str, ...]]:
    """Return the gaps, and which of the instances nothing was ever collected of. Blocks.

    Args:
        settings: Of the daemon.
        since: Only gaps since then.
        instances: Of these; where none is given, of all.
        again: As of ``status``.

    Raises:
        ConfigError: As of ``status``.
        StorageError: As of ``status``.
    """
    asked = [("instance", name) for name in instances] + ([("since", since.isoformat())] if since else [])
    found = _asked(settings, f"/api/v1/gaps?{urlencode(asked)}")
    if found is None:
        _refuse_what_is_not_ours(settings, again)
        found = recorded_gaps(settings.storage, since=since, instances=tuple(instances))
    return tuple(_gap(one) for one in found["gaps"]), tuple(found["unknown"])


def listings(settings: Settings) -> dict[str, tuple[ListedInstance, ...]] | None:
    """Return what the clouds have, each as the daemon listed it just now. Blocks.

    None where no daemon runs, or it does not know these clouds by the same settings.

    Raises:
        CloudError: A cloud did not answer the daemon, or does not let it see its list.
    """
    found = _asked(settings, "/api/v1/listings", timeout_s=LIST_TIMEOUT_S)
    if found is None:
        return None
    if "error" in found:
        raise CloudError(found["error"])
    known = found["clouds"]
    if any(known.get(name, {}).get("settings") != fingerprint(cloud) for name, cloud in settings.clouds.items()):
        return None
    return {name: tuple(_listed(one) for one in known[name]["instances"]) for name in settings.clouds}


def listing_objects(settings: Settings, listings: Mapping[str, Sequence[ListedInstance]]) -> dict[str, Any]:
    """Return what ``/api/v1/listings`` sends."""
    clouds = {
        name: {
            "settings": fingerprint(settings.clouds[name]),
            "instances": [
                {
                    "id": one.id,
                    "name": one.name,
                    "mode": one.mode,
                    "status": one.status,
                    "tags": one.tags,
                    "nodes": [(node.id, node.name, node.group, node.role) for node in one.nodes],
                }
                for one in listed
            ],
        }
        for name, listed in listings.items()
        if name in settings.clouds
    }
    return {"directory": str(settings.storage.directory), "clouds": clouds}


def fingerprint(cloud: Cloud) -> str:
    """Return by what two settings of a cloud are known to be the same. They hold no secret, only where it is."""
    return hashlib.sha256(cloud.model_dump_json().encode()).hexdigest()


def _listed(told: dict[str, Any]) -> ListedInstance:
    nodes = (Node(id=id_, name=name, group=group, role=role) for id_, name, group, role in told["nodes"])
    tags = tuple((key, value) for key, value in told["tags"])
    return ListedInstance(
        id=told["id"], name=told["name"], mode=told["mode"], status=told["status"], tags=tags, nodes=tuple(nodes)
    )


def _gap(told: dict[str, Any]) -> Gap:
    number = told.get("number", 1)
    return Gap(
        instance=told["instance"],
        log=LogKind(told["log"]),
        node=told["node"],
        after=_moment(told["from"]),
        until=_moment(told["to"]),
        cause=GapCause(told["cause"]),
        noted_at=datetime.fromisoformat(told["noted"]),
        cut=told["begins_within_a_line"],
        path=told["file"] or (MERGED if number > 1 else NOT_OVER),
        number=number,
        first_noted_at=_moment(told.get("first_noted")),
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _refuse_what_is_not_ours(settings: Settings, again: str) -> None:
    """Raise where this user may not read the ledger.

    Raises:
        StorageError: With what to do about it.
    """
    path = settings.storage.state / FILE_NAME
    try:
        path.open("rb").close()
    except PermissionError as exc:
        sockets = " or ".join(map(str, control_socket.looked_for_at(settings)))
        text = f"no daemon answers this user at {sockets}, and only the daemon's user may read {path}"
        raise StorageError(f"{text}: use sudo{f': {again}' if again else ''}") from exc
    except OSError:  # who reads it says why
        return


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket that is connected already."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__("localhost")
        self.sock = connected


def _asked(settings: Settings, path: str, *, timeout_s: float = TIMEOUT_S) -> dict[str, Any] | None:
    """Ask the daemon; None where none answers, or it is that of another configuration."""
    trusted = control_socket.trusted_users(settings)
    for place in control_socket.looked_for_at(settings):
        found = _answer(place, path, trusted, timeout_s=timeout_s)
        if found is not None and _directory(found) == str(settings.storage.directory):
            return found
    return None


def _answer(place: Path, path: str, trusted: frozenset[int], *, timeout_s: float) -> dict[str, Any] | None:
    try:
        with closing(_Connection(control_socket.connect(place, trusted, timeout_s=timeout_s))) as connection:
            connection.request("GET", path)
            reply = connection.getresponse()
            found: Any = json.loads(reply.read(MOST)) if reply.status == http.client.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _directory(found: dict[str, Any]) -> object:
    """Return the storage directory of who answered."""
    room = found.get("disk")
    return room.get("directory") if isinstance(room, dict) else found.get("directory")
