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
from rich.tree import Tree

from ddslogd.cli.progress import watching
from ddslogd.config import loader
from ddslogd.model.units import spelled_size
from ddslogd.sandbox import Faults, Sandbox, configuration
from ddslogd.scheduling.clock import SystemClock
from ddslogd.service.factory import opened
from ddslogd.storage import paths
from ddslogd.storage.filesystem import disk
from ddslogd.web import page
from ddslogd.web.server import listening

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ddslogd.cli.progress import Lines
    from ddslogd.model.cycle import CycleReport, Outcome
    from ddslogd.model.redactor import Redactor
    from ddslogd.model.snapshot import LogFile

SPEED = 240.0  # the cloud's 20 minutes take 5 seconds
CYCLES = 3  # of each instance, until the demo ends by itself
WINDOW = 400_000  # bytes of an export, in place of the cloud's 40 MB
ANY_PORT = "web: {listen: '127.0.0.1:0'}\n"
LINES_PER_SECOND = 60.0
BACKLOG = timedelta(seconds=15)  # less than a window, so that windows grow first and slide then
BYTES_PER_SECOND = 300_000.0  # of a transfer, so that there is something to see


async def serve_sandbox(
    *, port: int, speed: float, directory: Path, faults: Mapping[str, object], config_out: Path | None
) -> None:
    """Run a sandbox until cancelled; print its endpoints and a configuration that fits, together valid YAML.

    Args:
        port: 0 for any free one.
        speed: How many times as fast as the real cloud.
        directory: Where the configuration stores logs.
        faults: Fields of ``Faults``, see ``read_faults``.
        config_out: Where the same text goes in place of standard output, once the sandbox answers.

    Raises:
        StorageError: That file cannot be written.
    """
    async with Sandbox(port=port, speed=speed) as cloud:
        for name, value in faults.items():
            setattr(cloud.faults, name, value)
        lines = (
            f"# A sandbox of the cloud, {speed:g} times as fast as the real one.",
            f"# DDS: {cloud.endpoint}  IAM: {cloud.iam_endpoint}",
            f"# Its user is {cloud.user_name} of {cloud.domain_name}, password {cloud.password}.",
            *(f"# Fault: {name}: {value}" for name, value in faults.items()),
            f"# This token lives for {24 * 60 / speed:.0f} minutes:",
            f"# export DDSLOGD_TOKEN={cloud.issue_token()}",
            configuration(cloud, directory=directory / "logs", state=directory / "state"),
        )
        if config_out is None:
            print(*lines, sep="\n", flush=True)  # noqa: T201  # what the command is for
        else:
            await asyncio.to_thread(_write_whole, config_out, "\n".join(lines) + "\n")
        await asyncio.Event().wait()


def _write_whole(path: Path, text: str) -> None:
    """Write a file that is never seen in part; it holds a password."""
    with disk(path):
        hidden = path.with_name(f".{path.name}.part")
        fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        hidden.replace(path)


async def run_demo(*, keep: bool, directory: Path | None, redactor: Redactor, clean: Callable[[str], str]) -> bool:
    """Collect from a sandbox and print what came; tell whether all of it is what the sandbox exported.

    Args:
        keep: Go on until cancelled, in place of ending after a few cycles.
        directory: Where to store; a temporary one where none is given.
        redactor: Is told every secret, so that none is printed.
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
        settings = loader.parse(text, "demo").settings
        console.print(
            f"A sandbox cloud at {sandbox.endpoint}, {SPEED:g} times as fast as the real one; logs: {directory}/logs",
            soft_wrap=True,
        )
        with watching(console) as shown:
            watch = _Count(shown, {instance.name for instance in settings.fleet()})
            async with (
                opened(settings, clock=SystemClock(), progress=watch, redactor=redactor) as service,
                listening(settings.web, service.observer, clean=clean, page=page) as listener,
            ):
                address = listener.address
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
    for path in sorted(path for path in directory.rglob("*.log") if not path.is_symlink()):
        kind = path.relative_to(directory).parts[0]
        whole = _is_export(path, sandbox) if kind == paths.SNAPSHOTS else _is_stream(path, sandbox)
        good = good and whole
        counts[kind] += 1
        branch = tree
        for parent in reversed(path.relative_to(directory).parents[:-1]):
            branch = branches[parent] = branches.get(parent) or branch.add(parent.name)
        branch.add(f"{path.name}  {spelled_size(path.stat().st_size)}{'' if whole else '  NOT WHAT THE CLOUD HAD'}")
    Console(width=max(console.width, 250)).print(tree, highlight=False)
    snapshots, streams = counts[paths.SNAPSHOTS], counts[paths.STREAMS]
    said = "each byte for byte what the cloud exported" if good else "NOT ALL AS EXPORTED"
    text = f"{snapshots} snapshots, {streams} streams, {said}; in a stream every line stands once."
    console.print(text, soft_wrap=True)
    return good and snapshots > 0 and streams > 0


def _is_export(path: Path, sandbox: Sandbox) -> bool:
    return path.read_bytes() in sandbox.exports_of(path.parent.name)


def _is_stream(path: Path, sandbox: Sandbox) -> bool:
    """Return whether the file holds its node's log, from the beginning of some export on, without a gap."""
    return path.read_bytes() in sandbox.log_of(path.parent.name)
