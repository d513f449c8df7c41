"""The DDS API: the list of instances, and for each kind of log the one call that exports, reports and signs links."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ddslogd.sandbox.dds.exports import request_exports
from ddslogd.sandbox.dds.instance_list import told, wanted
from ddslogd.sandbox.dds.log_kinds import KINDS
from ddslogd.sandbox.error_responses import dds_refusal, json_reply, ordered
from ddslogd.sandbox.faults import take
from ddslogd.sandbox.obs.object_response import hang_up

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ddslogd.sandbox.clock import CloudClock
    from ddslogd.sandbox.dds.exports import CloudRules, NodeExports
    from ddslogd.sandbox.dds.instances import Estate
    from ddslogd.sandbox.dds.log_kinds import LogKind
    from ddslogd.sandbox.iam.service import Iam

Sign = Callable[[str, int], str]
"""Key and expiry (epoch seconds) become a link."""

_INSTANCE_ID = re.compile(r"[0-9a-f]{32}in02")
_PAGE = 100


class Dds:
    """Answers for what the cloud has.

    Args:
        estate: The instances and their nodes' exports.
        rules: How the cloud behaves.
        iam: Says which tokens are good.
        clock: The cloud's.
        sign: Makes links.
    """

    def __init__(self, estate: Estate, *, rules: CloudRules, iam: Iam, clock: CloudClock, sign: Sign) -> None:
        self._estate = estate
        self._rules = rules
        self._iam = iam
        self._clock = clock
        self._faults = clock.faults
        self._sign = sign

    async def instances(self, request: web.Request) -> web.Response:
        """Answer ``GET /v3/{project}/instances``: newest first, in pages."""
        await self._admit(request, "instances")
        offset = _number(request, "offset", default=0, allowed=range(10**9), code="DBS.280440")
        limit = _number(request, "limit", default=_PAGE, allowed=range(1, _PAGE + 1), code="DBS.280439")
        most = min(limit, self._faults.short_pages) if self._faults.short_pages > 0 else limit
        found = list(filter(wanted(request.query), self._estate.listed()))
        page = [told(instance) for instance in found[offset : offset + most]]
        return self._reply({"instances": page, "total_count": len(found) + self._faults.total_count_off})

    async def download(self, request: web.Request, *, kind: LogKind) -> web.Response:
        """Answer ``POST …/errorlog-download`` or its like for another kind."""
        if self._faults.drop_api > 0:
            self._faults.drop_api -= 1
            await hang_up(request)
        if error := take(self._faults.api_errors):
            raise ordered(error)
        await self._admit(request, KINDS[kind].call)
        nodes = self._instance_nodes(request.match_info["instance"], kind)
        asked = await _asked(request)
        chosen = _chosen(nodes, asked.get("node_id_list"))
        names = _names(nodes, asked.get("file_name_list"), forgotten=self._faults.forgotten_files)
        request_exports(chosen, now=self._clock.now(), fresh_for=self._clock.scaled(self._rules.fresh_for))
        return self._reply(self._report(chosen, names))

    async def _admit(self, request: web.Request, call: str) -> None:
        await self._iam.require(request)
        if call in self._faults.missing_rights:
            raise dds_refusal(403, "DBS.280032", "You do not have permission to perform the operation.")
        project = request.match_info["project"]
        if project != self._rules.project_id or self._iam.project_of(request) not in {None, project}:
            raise dds_refusal(400, "DBS.200010", "The tenant and the instance do not match.")

    def _instance_nodes(self, instance_id: str, kind: LogKind) -> list[NodeExports]:
        if not _INSTANCE_ID.fullmatch(instance_id):
            raise dds_refusal(400, "DBS.280404", "The instance ID is invalid.")
        instance = self._estate.find(instance_id)
        if instance is None:
            raise dds_refusal(404, "DBS.200002", "The DB instance does not exist.")
        return self._estate.exports(instance, kind)

    def _report(self, nodes: Sequence[NodeExports], names: Sequence[str]) -> dict[str, Any]:
        """Return the reply: all links in it are signed now, so they end together."""
        life = self._clock.scaled(self._rules.link_life)
        expires = math.ceil((self._clock.shown(by="objects") + life).timestamp())
        rows = [self._row(node, expires) for node in nodes]
        if names:
            rows = [row for row in rows if row["file_name"] in names]
        count = sum(row["file_link"] is not None for row in rows)
        return {"list": rows, "status": _overall(rows), "count": count}

    def _row(self, node: NodeExports, expires: int) -> dict[str, Any]:
        """Return one row; while an export is under way it shows the file before, without size and link."""
        file, run = node.file, node.run
        if run is not None:
            name, stamp = (file.name, file.stamp) if file else (run.name, run.stamp)
            status, size, link = "EXPORTING", None, None
        elif file is None:
            msg = f"{node.node.name} has neither a file nor an export under way"
            raise RuntimeError(msg)
        else:
            name, stamp = file.name, file.stamp
            status, size, link = "FAILED", None, None
            if not file.failed:
                status, size, link = "SUCCESS", _kilobytes(file.size), self._link(name, expires)
        return {
            "node_name": node.node.name,
            "file_name": name,
            "status": status,
            "file_size": size,
            "file_link": link,
            "updated_at": _epoch_ms(stamp),
        }

    def _link(self, key: str, expires: int) -> str:
        link = self._sign(key, expires)
        return self._faults.link_rewrite(link) if self._faults.link_rewrite else link

    def _reply(self, body: dict[str, Any]) -> web.Response:
        said = self._faults.mangle(body) if self._faults.mangle else body
        if isinstance(said, bytes):
            return web.Response(body=said, content_type="application/json")
        return json_reply(said)


def _number(request: web.Request, name: str, *, default: int, allowed: range, code: str) -> int:
    text = request.query.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or int(text) not in allowed:
        raise dds_refusal(400, code, f"The parameter {name} is invalid.")
    return int(text)


async def _asked(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise dds_refusal(400, "DBS.280001", "The request body is invalid.")
    return body


def _chosen(nodes: list[NodeExports], ids: Any) -> list[NodeExports]:
    """Return the nodes that are asked for: all, where none is named."""
    known = {node.node.id for node in nodes}
    if not _strings(ids) or not set(ids or ()) <= known:
        raise dds_refusal(400, "DBS.280407", "The node ID is invalid.")
    return [node for node in nodes if not ids or node.node.id in ids]


def _names(nodes: list[NodeExports], names: Any, *, forgotten: set[str]) -> list[str]:
    """Return the file names that the reply is limited to; a name that no export ever had is refused."""
    if not _strings(names) or not set(names or ()) <= set().union(*(node.names for node in nodes)) - forgotten:
        raise dds_refusal(400, "DBS.280361", "The file name is invalid.")
    return names or []


def _strings(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _overall(rows: Sequence[Mapping[str, Any]]) -> str:
    states = {row["status"] for row in rows}
    if "EXPORTING" in states:
        return "CREATING"
    return "FAILED" if "FAILED" in states else "FINISH"


def _epoch_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _kilobytes(size: int) -> str:
    """Return a size as the cloud does: text, in KB; a quiet node's is a bare 0."""
    return f"{size / 1024:.2f}" if size else "0"
