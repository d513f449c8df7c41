"""The clouds' instances as an operator reads them: a table, or objects for programs."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddslogd.discovery import Verdict

WIDTH = 200  # columns; a terminal folds longer lines by itself


def as_objects(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
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


def as_table(verdicts: Sequence[Verdict]) -> str:
    """Give a table, one instance a row."""
    table = Table(box=None, pad_edge=False)
    for heading in ("cloud", "id", "name", "mode", "status", "nodes", "collected by, or why not"):
        table.add_column(heading, overflow="fold")
    for verdict in verdicts:
        listed = verdict.listed
        said = verdict.entry or "; ".join(verdict.reasons) or "no entry names it, and none discovers in its cloud"
        if verdict.instance is not None and verdict.instance.name != listed.name:
            said += f" as {verdict.instance.name}"
        texts = (verdict.cloud, listed.id, listed.name, listed.mode, listed.status, str(len(listed.nodes)), said)
        table.add_row(*map(escape, texts))
    buffer = StringIO()
    Console(file=buffer, width=WIDTH).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
