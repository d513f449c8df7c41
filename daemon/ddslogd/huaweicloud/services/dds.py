"""DDS, the log service of this daemon: its paths, its kinds of log, and how its replies are read. Pure.

Each fact has its source: numbers like dds_api_0096 are pages of the API reference.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ddslogd.huaweicloud.error_codes import excess, success
from ddslogd.huaweicloud.json_reader import MAX_NAME, objects, read_moment, read_text, read_word, stripped
from ddslogd.huaweicloud.response_limits import MAX_ROWS, MOST_INSTANCE_NODES, MOST_TAGS
from ddslogd.huaweicloud.services.base import LogExport, LogService
from ddslogd.model.errors import Rejected
from ddslogd.model.export import ExportReply, Row, RowState, Selection, StatedSize
from ddslogd.model.instance import ListedInstance, ListPage, LogKind, Node

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FILE_NAMES = 50  # of one call. No document has a limit; the sister call auditlog-links takes 50 ids
NO_FILE_NAME = "errorlog"  # in place of one that the cloud does not tell


# --- errorlog-download ------------------------------------------------------------------------------------------------


# Words of file names: the examples of dds_api_0094 and dds_api_0096. Rights: the API's table of actions.
LOG_EXPORTS = {
    # dds_api_0096: every node, mongos and config nodes too.
    LogKind.ERROR: LogExport(
        call="errorlog-download",
        word="_errorlog_",
        right="dds:instance:downloadErrorLog",
        groups=frozenset({"mongos", "shard", "config", "replica", "single"}),
    ),
    # OTC, "Obtaining Links for Downloading Slow Query Logs": shard nodes of a cluster, not mongos nor config nodes.
    LogKind.SLOW: LogExport(
        call="slowlog-download",
        word="_slowlog_",
        right="dds:instance:downloadSlowLog",
        groups=frozenset({"shard", "replica", "single"}),
    ),
}


def export_path(project_id: str, instance_id: str, kind: LogKind) -> str:
    """Return the path of the call that starts an export, reports on it and renews its links. dds_api_0096."""
    return f"/v3/{project_id}/instances/{instance_id}/{LOG_EXPORTS[kind].call}"


def export_body(selection: Selection) -> bytes:
    """Return the call's body: ``{}`` means all nodes that have such a log. OTC, note on the empty body.

    Empty lists are left out, as Terraform does.
    """
    lists = {"node_id_list": selection.node_ids, "file_name_list": selection.file_names}
    return json.dumps({name: values for name, values in lists.items() if values}).encode()


def read_export(body: bytes, *, request_id: str = "") -> ExportReply:
    """Read the reply to errorlog-download.

    Raises:
        ForeignAnswer: It is a page.
        Unavailable: It is no JSON (a cut body).
        Rejected: It is JSON of another shape.
        Oversized: It has more rows than an instance can have.
        CloudError: It holds an error in place of a list.
    """
    reply = success(body, request_id=request_id)
    entries = reply.get("list")
    if entries is None:
        entries = []
    if not isinstance(entries, list):
        raise Rejected(
            "the cloud's reply has no usable list; report this to ddslogd", status=200, request_id=request_id
        )
    if len(entries) > MAX_ROWS:
        raise excess(f"{len(entries)} rows, more than the {MAX_ROWS} of any instance", request_id=request_id)
    rows: list[Row] = []
    unknown: set[str] = set()
    for entry in entries:
        row, word = _row(stripped(entry) if isinstance(entry, dict) else {})
        rows.append(row)
        unknown.update(word)
    top = read_word(reply.get("status"))
    if top not in _TOP_WORDS:
        unknown.add(top)
    # Without rows nothing but a known last word settles it. With rows the rows decide, and CREATING delays it.
    creating = top == "CREATING" or (not rows and top not in {"FINISH", "FAILED"})
    return ExportReply(
        rows=tuple(rows),
        creating=creating,
        failed=top == "FAILED",
        silent=not rows and not top,
        size=len(body),
        unknown_words=tuple(sorted(unknown)),
        request_id=request_id,
    )


_TOP_WORDS = {"", "CREATING", "FINISH", "FAILED"}  # dds_api_0096; lower-case in RDS's example of the same call
_ROW_WORDS = {
    "SUCCESS": RowState.READY,
    "FINISH": RowState.READY,  # the word of RDS's extended-event rows
    "EXPORTING": RowState.PENDING,
    "CREATING": RowState.PENDING,
    "FAILED": RowState.FAILED,
}
_NODE_IN_FILE_NAME = re.compile(r"[0-9a-f]{32}no\d\d")
_KILOBYTES = re.compile(r"([0-9]{1,15}(?:\.([0-9]{1,6}))?)(?:\s*KB)?", re.IGNORECASE)


def node_id_in(file_name: str) -> str:
    """Return the id of the node whose log an exported file is; empty where the name is of the older shape."""
    found = _NODE_IN_FILE_NAME.search(file_name)
    return found.group() if found else ""


def _row(entry: dict[str, Any]) -> tuple[Row, tuple[str, ...]]:
    word = read_word(entry.get("status"))
    state = _ROW_WORDS.get(word, RowState.PENDING)
    url = read_text(entry.get("file_link"))
    if state is RowState.READY and not url:
        state = RowState.PENDING  # Terraform's rule for the sister call of TaurusDB
    file_name = read_text(entry.get("file_name"))[:MAX_NAME]
    called, node_id = read_text(entry.get("node_name"))[:MAX_NAME], node_id_in(file_name)
    row = Row(
        node=called or node_id,
        file_name=file_name or NO_FILE_NAME,
        state=state,
        url=url if state is RowState.READY else None,
        # The reference's table says update_at, its examples updated_at; the live service sent updated_at to Terraform's
        # acceptance test. Milliseconds. dds_api_0096, OTC.
        updated_at=read_moment(entry.get("updated_at")) or read_moment(entry.get("update_at")),
        stated=_stated(entry.get("file_size")),
        node_id=node_id,
        called=called,
    )
    return row, () if word in _ROW_WORDS else (word,)


def _stated(value: object) -> StatedSize | None:
    """Read a size in KB: text, with or without decimals; null while the file is being made. dds_api_0096, OTC."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    found = _KILOBYTES.fullmatch(str(value).strip())
    if found is None:
        return None
    return StatedSize(kb=Decimal(found[1]), step=Decimal(1).scaleb(-len(found[2] or "")))


# --- instances --------------------------------------------------------------------------------------------------------

PAGE = 100  # instances a page, the most there is. OTC, "Querying Instances and Details"


def instances_path(project_id: str, offset: int) -> str:
    """Return the path and query of one page of the list of instances, newest first."""
    return f"/v3/{project_id}/instances?limit={PAGE}&offset={offset}"


def listed_instance_path(project_id: str, instance_id: str) -> str:
    """Return the path and query of the list that holds one instance only. OTC, "Querying Instances and Details"."""
    return f"/v3/{project_id}/instances?id={quote(instance_id, safe='')}&limit={PAGE}&offset=0"


def one_instance_path(project_id: str) -> str:
    """Return the path and query of the smallest list of instances there is: it shows whether there is the right."""
    return f"/v3/{project_id}/instances?limit=1&offset=0"


NO_INSTANCE = f"{'0' * 32}in02"


def read_instances(body: bytes, *, request_id: str = "") -> ListPage:
    """Read one page of the list of instances; entries without an id are passed over.

    Raises:
        ForeignAnswer: It is a page.
        Unavailable: It is no JSON.
        Rejected: It is JSON of another shape.
        Oversized: It has more instances than a page, or one has more nodes or tags than there can be.
        CloudError: It holds an error in place of a list.
    """
    reply = success(body, request_id=request_id)
    entries = reply.get("instances")
    if not isinstance(entries, list):
        said = "the cloud's reply lists no instances; report this to ddslogd"
        raise Rejected(said, status=200, request_id=request_id)
    if len(entries) > PAGE:
        raise excess(f"{len(entries)} instances in a page, where {PAGE} were asked for", request_id=request_id)
    listed = [_listed(entry) for entry in entries if isinstance(entry, dict)]
    for one in listed:
        for number, most, what in ((len(one.nodes), MOST_INSTANCE_NODES, "nodes"), (len(one.tags), MOST_TAGS, "tags")):
            if number > most:
                raise excess(f"an instance with {number} {what}, more than {most}", request_id=request_id)
    total = reply.get("total_count")
    return ListPage(
        instances=tuple(instance for instance in listed if instance.id),
        total=total if isinstance(total, int) and not isinstance(total, bool) else 0,
        size=len(body),
    )


def _listed(entry: Mapping[str, Any]) -> ListedInstance:
    return ListedInstance(
        id=read_text(entry.get("id"))[:MAX_NAME],
        name=read_text(entry.get("name"))[:MAX_NAME],
        mode=read_text(entry.get("mode"))[:64],
        status=read_text(entry.get("status"))[:64],
        tags=tuple(
            (read_text(tag.get("key"))[:MAX_NAME], read_text(tag.get("value"))[:MAX_NAME])
            for tag in objects(entry.get("tags"))
        ),
        nodes=tuple(
            Node(
                id=read_text(node.get("id"))[:MAX_NAME],
                name=read_text(node.get("name"))[:MAX_NAME],
                group=read_text(group.get("type"))[:64],
                role=read_text(node.get("role"))[:64],
            )
            for group in objects(entry.get("groups"))
            for node in objects(group.get("nodes"))
        ),
    )


DDS = LogService(
    exports=LOG_EXPORTS,
    list_right="dds:instance:list",
    page_size=PAGE,
    most_file_names=MAX_FILE_NAMES,
    no_file_name=NO_FILE_NAME,
    no_instance=NO_INSTANCE,
    export_path=export_path,
    export_body=export_body,
    read_export=read_export,
    instances_path=instances_path,
    listed_instance_path=listed_instance_path,
    one_instance_path=one_instance_path,
    read_instances=read_instances,
    node_id_in=node_id_in,
)
