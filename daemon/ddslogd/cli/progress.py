"""How transfers look while they run: bars on a terminal, a line a file elsewhere, nothing in the daemon."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from ddslogd.model.cycle import CycleOutcome, Failed, Silent
from ddslogd.model.snapshot import Stored, Superseded, Unchanged
from ddslogd.model.units import spelled_size
from ddslogd.monitoring.rich_text import shown

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.console import Console

    from ddslogd.model.cycle import CycleReport, Outcome
    from ddslogd.model.snapshot import LogFile


LONGEST_NAME = 32  # characters next to a bar, of the 80 that a terminal has


class Lines(Silent):
    """One line for each file, and one for each cycle."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.lost: OSError | None = None  # why nobody saw a line

    def __enter__(self) -> Self:
        """Begin; there is nothing to prepare."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End; there is nothing to clear away."""

    def ended(self, file: LogFile, outcome: Outcome) -> None:
        """Print what became of the file."""
        match outcome:
            case Stored(snapshot=snapshot):
                self._print(f"stored     {snapshot.path} ({spelled_size(snapshot.size)})")
            case Unchanged():
                self._print(
                    f"unchanged  {file.instance}/{file.node} ({file.log} log): nothing new since the last export"
                )
            case Superseded():
                self._print(
                    f"superseded {file.instance}/{file.node} ({file.log} log): a newer export is fetched instead"
                )
            case Failed():
                pass  # told with the cycle, next to the files that never had a link

    def waiting(self, cloud: str, reason: str) -> None:
        """Print what is waited for."""
        self._print(f"waiting    {cloud}: {reason}; it is tried again")

    def cycled(self, report: CycleReport) -> None:
        """Print what failed, and the cycle's sum."""
        if report.outcome is CycleOutcome.CACHED and report.fresh_until is not None:
            until = report.fresh_until.astimezone(UTC)
            self._print(
                f"cycle      {report.instance}: cached: the cloud would serve the last export once more until "
                f"{until:%H:%M:%S} UTC; nothing was asked for"
            )
            return
        for failed in report.failures:
            self._print(f"failed     {report.instance}/{failed.node} ({failed.log} log): {failed.reason}")
        for stalled in report.stalled:
            self._print(f"stalled    {report.instance}/{stalled.node} ({stalled.log} log): {stalled.reason}")
        if report.error:
            self._print(f"failed     {report.instance}: {report.error}")
        took_s = (report.finished_at - report.started_at).total_seconds()
        if report.error and not report.outcomes:  # nothing came of it: no numbers of files
            self._print(f"cycle      {report.instance}: {report.outcome} after {took_s:.1f} s")
            return
        gaps = f", {report.gaps} gap{'' if report.gaps == 1 else 's'}" if report.gaps else ""
        what = f"{report.instance} (what was selected of it)" if report.selected else report.instance
        self._print(
            f"cycle      {what}: {report.outcome}, {report.stored} stored ({spelled_size(report.stored_bytes)}), "
            f"{report.unchanged} unchanged, {len(report.failures)} failed, {spelled_size(report.new_bytes)} new{gaps} "
            f"in {took_s:.1f} s"
        )

    def _print(self, line: str) -> None:
        try:
            self._console.print(shown(line), soft_wrap=True, highlight=False)
        except OSError as exc:  # the cycle goes on: what it brings counts, not who watches
            self.lost = exc


class Bars(Lines):
    """A bar for each running transfer, above it a line for each that has ended."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[LogFile, TaskID] = {}

    def __enter__(self) -> Self:
        """Take the lower lines of the terminal."""
        self._progress.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Hand the terminal back."""
        self._progress.stop()

    def began(self, file: LogFile, total: int | None, at: int, *, resumed: bool) -> None:  # noqa: ARG002  # it shows
        """Show the transfer's bar, where it was left if it is resumed."""
        if file not in self._tasks:
            self._tasks[file] = self._progress.add_task(shown(_short(f"{file.instance}/{file.node}")), total=total)
        self._progress.update(self._tasks[file], total=total, completed=at)

    def advanced(self, file: LogFile, size: int) -> None:
        """Let the bar grow."""
        self._progress.advance(self._tasks[file], size)

    def ended(self, file: LogFile, outcome: Outcome) -> None:
        """Put a line in the bar's place."""
        task = self._tasks.pop(file, None)
        if task is not None:
            self._progress.remove_task(task)
        super().ended(file, outcome)


def _short(name: str) -> str:
    """Return a name that leaves room for its bar: what is in the middle of a long one is left out."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[1 - LONGEST_NAME // 2 :]}"


def watching(console: Console) -> Lines:
    """Return bars for a terminal, lines for anything else."""
    return Bars(console) if console.is_terminal else Lines(console)
