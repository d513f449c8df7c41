"""What an operator lists, as a table or as objects for programs: instances, gaps, files that go."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from ddslogd.operate.status import in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from ddslogd.discovery import Verdict
    from ddslogd.models import Gap
    from ddslogd.storage.retention import Removal

_ORDER = {"stale": 0, "new": 1, "fresh": 2}
_COLOURS = {"stale": "red", "new": "yellow", "fresh": "green"}
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


def status_text(found: dict[str, Any], console: Console) -> None:
    """Print a status, as ``/api/v1/status`` has it: what is wrong first."""
    console.print(f"[bold]{escape(found['headline'])}[/]", highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in (
        "instance",
        "state",
        "good cycle",
        "target",
        "newest line",
        "last cycle",
        "gaps",
        "whose turn, and why",
    ):
        table.add_column(heading, overflow="fold")
    for one in sorted(found["instances"], key=lambda one: (_ORDER[one["state"]], one["name"])):
        table.add_row(*_status_row(one))
    console.print(table, highlight=False)
    if found["disk"]["below"]:
        console.print("[red]the disk is below storage.keep_free: nothing is requested[/]", highlight=False)
    for cloud in found["clouds"]:
        for said in _cloud_troubles(cloud):
            console.print(f"[red]{escape(cloud['name'])}: {escape(said)}[/]", highlight=False)


def _status_row(one: dict[str, Any]) -> list[str]:
    cycle = one["last_cycle"]
    state = "silent" if one["silent"] else one["state"]
    failing = "; ".join(f"{each['node'] or 'export'}: {each['reason']}" for each in one["failures"])
    said = ": ".join(filter(None, (one["turn"] if one["turn"] != "nobody's" else "", one["why"] or failing)))
    return [
        escape(one["name"]),
        f"[{_COLOURS[one['state']]}]{state}[/]",
        "never" if one["age_s"] is None else f"{in_words(timedelta(seconds=one['age_s']))} ago",
        in_words(timedelta(seconds=one["target_s"])),
        one["newest_line"] or "?",
        cycle["outcome"] if cycle else "none",
        str(one["gaps"]),
        escape(said),
    ]


def _cloud_troubles(cloud: dict[str, Any]) -> Iterator[str]:
    if cloud["credentials"] == "refused":
        yield "the credentials are refused"
    if not cloud["reachable"]:
        yield "no answer"
    if cloud["paused_until"]:
        yield f"the cloud asked for no call until {cloud['paused_until']}"
    if cloud["unlisted"]:
        yield f"its instances could not be listed: {cloud['unlisted']}"


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
