"""What an operator lists, as a table or as objects for programs: instances, gaps, files that go."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from ddslogd.discovery import Verdict
    from ddslogd.models import Gap
    from ddslogd.storage.retention import Removal

WIDTH = 200  # columns; a terminal folds longer lines by itself


def instance_objects(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Give an object for each instance; ``collected_as`` is null where none of the entries took it."""
    return [
        {
            "cloud": verdict.cloud,
            "id": verdict.listed.id,
            "name": verdict.listed.name,
            "mode": verdict.listed.mode,
            "status": verdict.listed.status,
            "tags": dict(verdict.listed.tags),
            "nodes": [
                {"id": node.id, "name": node.name, "type": node.group, "role": node.role}
                for node in verdict.listed.nodes
            ],
            "collected_as": verdict.instance.name if verdict.instance else None,
            "entry": verdict.entry or None,
            "reasons": list(verdict.reasons),
        }
        for verdict in verdicts
    ]


def instance_table(verdicts: Sequence[Verdict]) -> str:
    """Give a table, one instance a row."""
    rows = []
    for verdict in verdicts:
        listed = verdict.listed
        said = verdict.entry or "; ".join(verdict.reasons) or "no entry names it, and none discovers in its cloud"
        if verdict.instance is not None and verdict.instance.name != listed.name:
            said += f" as {verdict.instance.name}"
        rows.append((verdict.cloud, listed.id, listed.name, listed.mode, listed.status, str(len(listed.nodes)), said))
    return _table(("cloud", "id", "name", "mode", "status", "nodes", "collected by, or why not"), rows)


def gap_objects(gaps: Sequence[Gap]) -> list[dict[str, Any]]:
    """Give an object for each gap; times are ISO 8601, or null where they are not known."""
    return [
        {
            "instance": gap.instance,
            "node": gap.node,
            "log": gap.log.value,
            "from": _iso(gap.after),
            "to": _iso(gap.until),
            "cause": gap.cause.value,
            "noted": _iso(gap.noted_at),
            "begins_within_a_line": gap.cut,
            "file": gap.path or None,
        }
        for gap in gaps
    ]


def gap_table(gaps: Sequence[Gap]) -> str:
    """Give a table, one gap a row."""
    rows = [
        (gap.instance, gap.node, gap.log.value, _iso(gap.after) or "?", _iso(gap.until) or "?", gap.cause.value)
        for gap in gaps
    ]
    return _table(("instance", "node", "log", "from", "to", "cause"), rows)


def removal_table(removals: Sequence[Removal]) -> str:
    """Give a table, one file a row."""
    rows = [
        (removal.file.path, decimal(removal.file.size), removal.reason.value, "unshipped" if removal.unshipped else "")
        for removal in removals
    ]
    return _table(("file", "size", "for its", ""), rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    buffer = StringIO()
    Console(file=buffer, width=WIDTH).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
