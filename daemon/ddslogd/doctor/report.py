"""What the checks found, as text."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from ddslogd import __version__
from ddslogd.doctor.check_result import CheckResult, Level
from ddslogd.model.printable import printable
from ddslogd.model.units import iso_time
from ddslogd.monitoring.rich_text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_COLOURS: Final = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def report(findings: Sequence[CheckResult], now: datetime) -> dict[str, Any]:
    """Return it for programs."""
    counts = Counter(finding.level for finding in findings)
    return {
        "version": __version__,
        "checked_at": iso_time(now),
        **{level.value: counts[level] for level in Level},
        "findings": [asdict(finding) for finding in findings],
    }


def lines(findings: Sequence[CheckResult]) -> str:
    """Return it as text: a line for each, and below it what to do."""
    told = []
    for finding in findings:
        told.append(f"{finding.level:<4}  {finding.area:<13}  {printable(finding.what)}")
        if finding.todo:
            told.append(f"{'':<21}to do: {printable(finding.todo)}")
    return "\n".join([*told, _summary(findings)])


def table(findings: Sequence[CheckResult], *, width: int) -> str:
    """Return it with colours, for a terminal of so many columns."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(2):
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in findings:
        todo = f"\n[dim]→ {shown(finding.todo)}[/dim]" if finding.todo else ""
        colour = _COLOURS[finding.level]
        grid.add_row(f"[{colour}]{finding.level}[/{colour}]", finding.area, shown(finding.what) + todo)
    buffer = StringIO()
    console = Console(file=buffer, width=width, force_terminal=True)
    console.print(grid)
    console.print(_summary(findings), highlight=False)
    return buffer.getvalue().rstrip("\n")


def _summary(findings: Sequence[CheckResult]) -> str:
    counts = Counter(finding.level for finding in findings)
    return ", ".join(f"{counts[level]} {level}" for level in Level)
