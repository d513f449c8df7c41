"""What an operator selects of one instance, and what of it the cloud did not have. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ddslogd.huaweicloud.services.dds import DDS
from ddslogd.model.cycle import Failed
from ddslogd.model.errors import UnknownNode
from ddslogd.model.export import Selection
from ddslogd.model.failure_kind import FailureKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ddslogd.model.export import Row
    from ddslogd.model.instance import Instance, LogKind, Node

_NODE_ID = re.compile(r"[0-9a-f]{32}no[0-9]{2}")


def node_ids_of(asked: Sequence[str], instance: Instance, listed: Sequence[Node]) -> tuple[str, ...]:
    """Return the ids of nodes that are told by their ids or names.

    Args:
        asked: By the operator.
        instance: With the nodes that the configuration limits it to.
        listed: Its nodes as far as the cloud has listed them; one that is not among them may be new.

    Raises:
        UnknownNode: One is no id and no name of a listed node, or is not of those that the configuration takes.
    """
    found = {text: [node.id for node in listed if text in {node.id, node.name}] for text in asked}
    found |= {text: [text] for text, ids in found.items() if not ids and _NODE_ID.fullmatch(text)}
    known = ", ".join(f"{node.id} ({node.name})" for node in listed) or "its nodes are not listed yet: give their ids"
    for text, ids in found.items():
        if len(ids) != 1:
            said = "is the name of several nodes" if ids else "is no node"
            raise UnknownNode(f"{text!r} {said} of {instance.name}: {known}")
        if instance.node_ids and ids[0] not in instance.node_ids:
            raise UnknownNode(f"{text!r} is not among the nodes that the configuration takes of {instance.name}")
    return tuple(dict.fromkeys(ids[0] for ids in found.values()))


def of_kind(selection: Selection, kind: LogKind, node_ids: tuple[str, ...]) -> Selection | None:
    """Return what is selected of one kind of log; None where its names are all of other kinds.

    Args:
        selection: As the operator made it.
        kind: The kind.
        node_ids: Those nodes of it that have such a log.
    """
    names = tuple(name for name in selection.file_names if DDS.kind_may_be(kind, name))
    if selection.file_names and not names:
        return None
    return Selection(node_ids=node_ids, file_names=names)


def unmet(selection: Selection, instance: Instance, rows: Sequence[Row]) -> Iterator[Failed]:
    """Return a failure for each file and each node of which no kind of log has a row.

    Args:
        selection: As the operator made it.
        instance: Whose logs.
        rows: Of the last replies about all kinds of log.
    """
    came = {row.file_name for row in rows}
    for name in selection.file_names:
        if name not in came:
            yield _unknown(name, [kind for kind in instance.logs if DDS.kind_may_be(kind, name)], instance)
    ids = {row.node_id for row in rows}
    if selection.file_names or "" in ids:  # a row whose node is not known may be of any
        return
    for node_id in selection.node_ids:
        if node_id not in ids:
            reason = "the cloud's export has no file of this node: see in the console whether it runs"
            yield Failed(log=instance.logs[0], node=node_id, file_name="", reason=reason, kind=FailureKind.LEFT_OUT)


def _unknown(name: str, kinds: Collection[LogKind], instance: Instance) -> Failed:
    reason = (
        f"the cloud knows no file {name!r} (DBS.280361), or none any more, since it keeps a name until the next export:"
        f" `ddslogd instances --files {instance.name}` lists what it offers now"
    )
    if not kinds:
        reason = f"the file {name!r} is of a log that is not collected of this instance: see logs in the configuration"
    kind = next(iter(kinds), instance.logs[0])
    return Failed(log=kind, node="", file_name=name, reason=reason, kind=FailureKind.UNKNOWN_FILE)
