"""What an operator lists, as a table or as objects for programs: instances, gaps, files that go."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from itertools import compress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ddslogd.model.cycle import NodeState
from ddslogd.model.instance import LogKind
from ddslogd.model.units import in_words, iso_time, spelled_size
from ddslogd.monitoring.rich_text import shown
from ddslogd.storage.file_age import DISAGREEMENT
from ddslogd.storage.ledger.status_queries import FAILING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ddslogd.collection.discovery import DiscoveryVerdict
    from ddslogd.model.export import Offer
    from ddslogd.model.stream import Gap
    from ddslogd.storage.retention_plan import Removal

_ORDER = {"stale": 0, "new": 1, "fresh": 2}
_COLOURS = {"stale": "red", "new": "yellow", "fresh": "green"}
_WHOLE = {"from", "to", "updated", "log", "state", "size", "good cycle", "target", "newest line", "last cycle", "gaps"}
_LESS_BELOW = 120  # columns: what the last cycle and the target were stays out of a narrower terminal
_ONLY_WIDE = ("target", "last cycle")
AGES = "none of its files counts as too old"
WIDTH = 200  # columns; a terminal folds longer lines by itself


def instance_objects(verdicts: Sequence[DiscoveryVerdict]) -> list[dict[str, Any]]:
    """Return an object for each instance; ``collected_as`` is null where none of the entries took it."""
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


def instance_table(verdicts: Sequence[DiscoveryVerdict], *, width: int = WIDTH) -> str:
    """Return a table, one instance a row."""
    rows = []
    for verdict in verdicts:
        listed = verdict.listed
        said = verdict.entry or "; ".join(verdict.reasons) or "no entry names it, and none discovers in its cloud"
        if verdict.instance is not None and verdict.instance.name != listed.name:
            said += f" as {verdict.instance.name}"
        rows.append((verdict.cloud, listed.id, listed.name, listed.mode, listed.status, str(len(listed.nodes)), said))
    return _table(("cloud", "id", "name", "mode", "status", "nodes", "collected by, or why not"), rows, width)


def file_objects(offers: Sequence[Offer]) -> list[dict[str, Any]]:
    """Return an object for each file; ``size_kb`` is text, as the cloud has it; what it does not say is null."""
    return [
        {
            "cloud": offer.instance.cloud,
            "instance": offer.instance.name,
            "log": offer.log.value,
            "node": row.node,
            "file": row.file_name,
            "state": row.state.value,
            "size_kb": str(row.stated.kb) if row.stated else None,
            "updated": iso_time(row.updated_at),
        }
        for offer in offers
        for row in offer.rows
    ]


def file_table(offers: Sequence[Offer], *, width: int = WIDTH) -> str:
    """Return a table, one file a row."""
    rows = [
        (one["instance"], one["log"], one["node"], one["file"], size, one["updated"] or "?", one["state"])
        for one in file_objects(offers)
        for size in (f"{one['size_kb']} KB" if one["size_kb"] else "?",)
    ]
    return _table(("instance", "log", "node", "file", "size", "updated", "state"), rows, width)


def gap_table(gaps: Sequence[Gap], *, width: int = WIDTH) -> str:
    """Return a table, one gap a row."""
    rows = [
        (gap.instance, gap.node, gap.log.value, _brief(iso_time(gap.after)), _brief(iso_time(gap.until)), _cause(gap))
        for gap in gaps
    ]
    return _table(("instance", "node", "log", "from", "to", "cause"), rows, width)


def _cause(gap: Gap) -> str:
    return gap.cause.value if gap.number == 1 else f"{gap.cause.value} ({gap.number:,} gaps)"


def removal_table(removals: Sequence[Removal], *, width: int = WIDTH) -> str:
    """Return a table, one file a row."""
    rows = [
        (
            removal.file.path,
            spelled_size(removal.file.size),
            removal.reason.value,
            "unshipped" if removal.unshipped else "",
        )
        for removal in removals
    ]
    return _table(("file", "size", "for its", ""), rows, width)


def status_text(found: dict[str, Any], console: Console) -> None:
    """Print a status, as ``/api/v1/status`` has it: what is wrong first."""
    console.print(f"[bold]{shown(found['headline'])}[/]", highlight=False)
    headings = ("instance", "state", "good cycle", "target", "newest line", "last cycle", "gaps", "whose turn, and why")
    kept = [heading not in _ONLY_WIDE or console.width >= _LESS_BELOW for heading in headings]
    table = Table(box=None, pad_edge=False)
    for heading in compress(headings, kept):
        table.add_column(heading, overflow="fold", no_wrap=heading in _WHOLE)
    for one in sorted(found["instances"], key=lambda one: (_ORDER[one["state"]], one["name"])):
        table.add_row(*compress(_status_row(one), kept))
        for row in _node_rows(one):
            table.add_row(*compress(row, kept))
    console.print(table, highlight=False)
    for said in _new_gaps(found["instances"]):
        console.print(f"[yellow]{shown(said)}[/]", highlight=False)
    if found["disk"]["below"]:
        console.print("[red]the disk is below storage.keep_free: nothing is requested[/]", highlight=False)
    for cloud in found["clouds"]:
        for said in _cloud_troubles(cloud):
            console.print(f"[red]{shown(cloud['name'])}: {shown(said)}[/]", highlight=False)


def _status_row(one: dict[str, Any]) -> list[str]:
    cycle = one["last_cycle"]
    state = "silent" if one["silent"] else one["state"]
    failing = "; ".join(f"export: {each['reason']}" for each in one["failures"] if not each["node"])
    quiet = ", ".join(f"{each['node']}: {each['state']}" for each in one.get("node_states", ()) if _is_over(each))
    said = ": ".join(filter(None, (one["turn"] if one["turn"] != "nobody's" else "", one["why"] or failing or quiet)))
    return [
        shown(one["name"]),
        f"[{_COLOURS[one['state']]}]{state}[/]",
        "never" if one["age_s"] is None else f"{in_words(timedelta(seconds=one['age_s']))} ago",
        in_words(timedelta(seconds=one["target_s"])),
        _brief(one["newest_line"]),
        cycle["outcome"] if cycle else "none",
        f"{one['gaps']} ({one['gaps_24h']} in 24 h)" if one.get("gaps_24h") else str(one["gaps"]),
        shown(said),
    ]


def _node_rows(one: dict[str, Any]) -> Iterator[list[str]]:
    """Return a row for each node of an instance of which something fails; of the others nothing does."""
    states = {(each["node"], each["log"]): each["state"] for each in one.get("node_states", ())}
    for each in one["failures"]:
        if each["node"]:
            where = each["node"] if each["log"] == LogKind.ERROR else f"{each['node']} ({each['log']} log)"
            state = states.get((each["node"], each["log"]), FAILING)
            reason = "" if each["reason"] in one["why"] else f": {each['reason']}"
            said = shown(f"since {_brief(each['since'])}{reason}")
            yield [f"  {shown(where)}", f"[red]{shown(state)}[/]", "", "", "", "", "", said]


def _is_over(node: dict[str, Any]) -> bool:
    """Return whether nothing of a node fails any more, since nobody expects a file of it."""
    return node["state"] in {NodeState.NO_LONGER_EXPORTED, NodeState.REMOVED}


def _new_gaps(instances: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Return what is said of the gaps of the last 24 hours."""
    for one in instances:
        for gap in one.get("new_gaps", ()):  # a daemon that was not restarted since an upgrade sends none
            after, until = gap["after"] or "?", gap["until"] or "?"
            where = f"{one['name']}, {gap['node']}, {gap['log']} log"
            yield f"lines are missing: {where}, {after} to {until}: {gap['cause']}"


def _cloud_troubles(cloud: dict[str, Any]) -> Iterator[str]:
    if cloud["credentials"] == "refused":
        yield "the credentials are refused"
    if not cloud["reachable"]:
        yield f"no answer: {cloud['silence']}" if cloud.get("silence") else "no answer"
    if cloud["paused_until"]:
        yield f"the cloud asked for no call until {cloud['paused_until']}"
    if abs(cloud.get("clock_ahead_s") or 0.0) > DISAGREEMENT.total_seconds():
        yield f"its clock and this host's differ by {in_words(abs(timedelta(seconds=cloud['clock_ahead_s'])))}: {AGES}"
    if cloud["unlisted"]:
        yield f"its instances could not be listed: {cloud['unlisted']}"


def table_width(console: Console) -> int:
    """Return how wide a table may be: as the terminal, or wide where there is none."""
    return console.width if console.is_terminal else WIDTH


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> str:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in _WHOLE)
    for row in rows:
        table.add_row(*map(shown, row))
    buffer = StringIO()
    Console(file=buffer, width=width).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def _brief(moment: str | None) -> str:
    """Return a time in ISO 8601 as a table shows it: to the second, UTC."""
    return "?" if moment is None else moment[:19].replace("T", " ")
