"""The sandbox cloud as a newcomer meets it: alone, or with a daemon that collects from it."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.tree import Tree

from ddslogd import config
from ddslogd.operate import page
from ddslogd.operate.progress import watching
from ddslogd.operate.web import listening
from ddslogd.pacing import SystemClock
from ddslogd.sandbox import Faults, Sandbox, configuration
from ddslogd.service import opened
from ddslogd.storage import layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddslogd.models import CycleReport, LogFile, Outcome
    from ddslogd.operate.progress import Lines

SPEED = 240.0  # the cloud's 20 minutes take 5 seconds
CYCLES = 3  # of each instance, until the demo ends by itself
WINDOW = 400_000  # bytes of an export, in place of the cloud's 40 MB
ANY_PORT = "web: {listen: '127.0.0.1:0'}\n"
LINES_PER_SECOND = 60.0
BACKLOG = timedelta(seconds=15)  # less than a window, so that windows grow first and slide then
BYTES_PER_SECOND = 300_000.0  # of a transfer, so that there is something to see


async def serve_sandbox(*, port: int, speed: float, directory: Path) -> None:
    """Run a sandbox until cancelled; print its endpoints and a configuration that fits, together valid YAML."""
    async with Sandbox(port=port, speed=speed) as cloud:
        text = configuration(cloud, directory=directory / "logs", state=directory / "state")
        print(  # noqa: T201  # what the command is for
            f"# A made-up cloud, {speed:g} times as fast as the real one.",
            f"# DDS: {cloud.endpoint}  IAM: {cloud.iam_endpoint}",
            f"# Its user is {cloud.user_name} of {cloud.domain_name}, password {cloud.password}.",
            f"# This token lives for {24 * 60 / speed:.0f} minutes:",
            f"# export DDSLOGD_TOKEN={cloud.issue_token()}",
            text,
            sep="\n",
            flush=True,
        )
        await asyncio.Event().wait()


async def run_demo(
    *, keep: bool, directory: Path | None, redact: Callable[[str], None], clean: Callable[[str], str]
) -> bool:
    """Collect from a sandbox and print what came; tell whether all of it is what the sandbox exported.

    Args:
        keep: Go on until cancelled, in place of ending after a few cycles.
        directory: Where to store; a temporary one where none is given.
        redact: Hears every secret, so that none is printed.
        clean: Takes those out of a text.
    """
    console = Console()
    async with AsyncExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ddslogd-demo-")))
        sandbox = Sandbox(
            speed=SPEED,
            window=WINDOW,
            lines_per_second=LINES_PER_SECOND,
            backlog=BACKLOG,
            faults=Faults(bytes_per_second=BYTES_PER_SECOND),
        )
        await stack.enter_async_context(sandbox)
        os.environ["DDSLOGD_TOKEN"] = sandbox.issue_token()
        text = configuration(sandbox, directory=directory / "logs", state=directory / "state") + ANY_PORT
        settings = config.parse(text, "demo").settings
        console.print(
            f"A made-up cloud at {sandbox.endpoint}, {SPEED:g} times as fast as the real one; logs: {directory}/logs",
            soft_wrap=True,
        )
        with watching(console) as shown:
            watch = _Count(shown, {instance.name for instance in settings.fleet()})
            async with (
                opened(settings, clock=SystemClock(), progress=watch, redact=redact) as service,
                listening(settings.web, service.observer, clean=clean, page=page) as address,
            ):
                if address is not None:
                    console.print(f"Look at it while it runs: http://{address[0]}:{address[1]}/", soft_wrap=True)
                serving = asyncio.create_task(service.serve(), name="service")
                with suppress(asyncio.CancelledError):
                    await (serving if keep else watch.enough.wait())
                serving.cancel()
                await asyncio.wait([serving])
        return _show(console, directory / "logs", sandbox)


class _Count:
    """Passes on what is shown, and counts cycles."""

    def __init__(self, shown: Lines, instances: set[str]) -> None:
        self._shown = shown
        self._left = Counter(dict.fromkeys(instances, CYCLES))
        self.enough = asyncio.Event()

    def began(self, file: LogFile, total: int | None, at: int, *, resumed: bool) -> None:
        self._shown.began(file, total, at, resumed=resumed)

    def advanced(self, file: LogFile, size: int) -> None:
        self._shown.advanced(file, size)

    def ended(self, file: LogFile, outcome: Outcome) -> None:
        self._shown.ended(file, outcome)

    def cycled(self, report: CycleReport) -> None:
        self._shown.cycled(report)
        self._left[report.instance] -= 1
        if max(self._left.values()) <= 0:
            self.enough.set()


def _show(console: Console, directory: Path, sandbox: Sandbox) -> bool:
    """Print the tree of what is stored, and whether all of it is what the sandbox had."""
    tree, good, counts = Tree(str(directory)), True, Counter[str]()
    branches: dict[Path, Tree] = {}
    for path in sorted(directory.rglob("*.log")):
        kind = path.relative_to(directory).parts[0]
        whole = _is_export(path, sandbox) if kind == layout.SNAPSHOTS else _is_stream(path, sandbox)
        good = good and whole
        counts[kind] += 1
        branch = tree
        for parent in reversed(path.relative_to(directory).parents[:-1]):
            branch = branches[parent] = branches.get(parent) or branch.add(parent.name)
        branch.add(f"{path.name}  {decimal(path.stat().st_size)}{'' if whole else '  NOT WHAT THE CLOUD HAD'}")
    Console(width=max(console.width, 250)).print(tree, highlight=False)
    snapshots, streams = counts[layout.SNAPSHOTS], counts[layout.STREAMS]
    said = "each byte for byte what the cloud exported" if good else "NOT ALL AS EXPORTED"
    text = f"{snapshots} snapshots, {streams} streams, {said}; in a stream every line stands once."
    console.print(text, soft_wrap=True)
    return good and snapshots > 0 and streams > 0


def _is_export(path: Path, sandbox: Sandbox) -> bool:
    return path.read_bytes() in sandbox.exports_of(path.parent.name)


def _is_stream(path: Path, sandbox: Sandbox) -> bool:
    """Tell whether the file holds its node's log, from the beginning of some export on, without a gap."""
    return path.read_bytes() in sandbox.log_of(path.stem)
