"""A real ``ddslogd run``: its configuration, its process, its clock, what it says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from fuzz.cloud import FRESH_FOR, PROJECT, TOKEN

if TYPE_CHECKING:
    import signal

    from fuzz.cloud import Cloud
    from fuzz.scenario import Scenario

COMMAND = Path(sys.executable).with_name("ddslogd")
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)  # Debian: faketime
EVERY = 1.0  # seconds between two cycles
TARGET_FACTOR = 5
TARGET = TARGET_FACTOR * max(EVERY, FRESH_FOR)  # seconds without a good cycle, after which an instance is stale
_ERRORS = re.compile(r"Traceback|never awaited|RuntimeWarning|ResourceWarning")
_PATIENCE_S = 30.0


def configuration(scenario: Scenario, cloud: Cloud, directory: Path) -> str:
    """Return the YAML: as a real one, but all durations are short."""
    entries = "".join(
        f"  - {{id: {one.id}, name: {one.plan.name}}}\n" for one in cloud.instances if not one.plan.discovered
    )
    if any(one.plan.discovered for one in cloud.instances):
        entries += "  - discover: {}\n"
    return f"""\
clouds:
  fuzz:
    endpoint: {cloud.endpoint}
    project_id: {PROJECT}
    auth: {{method: token, token: {{env: DDSLOGD_TOKEN}}}}
    calls_per_minute: 12000
    link_hosts: ["127.0.0.1"]
schedule: {{every: {EVERY:g}s, refresh: 2s, cycle_timeout: 20s, adapt: {str(scenario.adapt).lower()}}}
export: {{first_poll: 100ms, max_poll: 300ms, give_up_after: 4s, fresh_for: {round(FRESH_FOR * 1000)}ms}}
download: {{stall_timeout: 3s, connect_timeout: 3s, renew_before: 500ms, attempts: 3, delta: {scenario.delta}}}
storage:
  directory: {directory / "logs"}
  state: {directory / "state"}
  keep_free: 0
  snapshots: {scenario.snapshots}
stream: {{rotate: {{size: {scenario.rotate}}}}}
health: {{target_factor: {TARGET_FACTOR}}}
web: {{listen: "127.0.0.1:0"}}
instances:
{entries}"""


class HostClock:
    """The clock that the daemon sees: the host's own, and so much; steady time is left alone. Needs libfaketime."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "clock"
        self.set_by(0)

    def set_by(self, seconds: float) -> None:
        """Set the clock so far ahead of the host's."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{seconds:+.0f}\n")
        new.replace(self._path)

    @property
    def environment(self) -> dict[str, str]:
        """Return what a process needs to see this clock."""
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_CACHE_DURATION": "1",  # second: without, every look at a clock reads the file, and all is slow
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "NO_FAKE_STAT": "1",
        }


class Daemon:
    """Runs of the daemon, one after the other.

    Attributes:
        events: All that it ever said, one object an event.
        errors: Lines that no daemon should ever print.
        address: Where its status is served; empty while that is not known.
    """

    def __init__(self, directory: Path, *, clock: HostClock | None) -> None:
        self.events: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.address = ""
        self.config = directory / "ddslogd.yaml"
        self._log = (directory / "daemon.log").open("a")
        self._environment = {**os.environ, "DDSLOGD_TOKEN": TOKEN} | (clock.environment if clock else {})
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[int] | None = None

    @property
    def running(self) -> bool:
        """Return whether there is a process that has not ended, and was not told to."""
        return self._process is not None and self._process.returncode is None and self._stopping is None

    async def start(self) -> None:
        """Start a run, once the one before has ended."""
        if self._stopping is not None:
            await self._stopping
        self._say("started")
        self._process = await asyncio.create_subprocess_exec(
            *(COMMAND, "run", "-c", self.config, "--log-format", "json"),
            env=self._environment,
            stderr=asyncio.subprocess.PIPE,
            limit=2**22,
        )
        self._reading = asyncio.create_task(self._read(self._process), name="daemon's events")

    async def stop(self, how: signal.Signals) -> int:
        """End the run, also where the caller is cancelled meanwhile; return its exit status."""
        self._stopping = self._stopping or asyncio.create_task(self._end(how), name="end of the run")
        return await asyncio.shield(self._stopping)

    async def _end(self, how: signal.Signals) -> int:
        process, reading = self._process, self._reading
        if process is None or reading is None:
            self._stopping = None
            return 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                status = await process.wait()
                await reading
        except TimeoutError:
            process.kill()
            await process.wait()
            self.errors.append(f"{how.name} did not end it within {_PATIENCE_S:g} s")
            status = 0
        self._say(f"ended with {status} after {how.name}")
        self._process, self.address, self._stopping = None, "", None
        return status

    async def ask(self, path: str) -> dict[str, Any] | None:
        """Return what it serves under a path; None where it does not answer."""
        if not self.running or not self.address:
            return None
        try:
            timeout = aiohttp.ClientTimeout(total=5)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self.address + path) as reply:
                found: dict[str, Any] = json.loads(await reply.read())
                return found | {"http_status": reply.status}
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None

    async def gaps(self) -> list[dict[str, Any]] | None:
        """Return what ``ddslogd gaps`` lists; None where it cannot."""
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "gaps", "--json", "-c", self.config),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment,
        )
        out, _ = await process.communicate()
        try:
            found: list[dict[str, Any]] = json.loads(out)
        except ValueError:
            return None
        return found

    def note(self, what: str) -> None:
        """Write into the log of the run what is done to it."""
        self._say(what)

    def _say(self, what: str) -> None:
        self._log.write(f"{time.time():.3f} ---- {what}\n")
        self._log.flush()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is None:
            return
        async for line in process.stderr:
            text = line.decode(errors="replace").rstrip("\n")
            self._log.write(f"{time.time():.3f} {text}\n")
            try:
                event = json.loads(text)
            except ValueError:
                self.errors.append(text)
                continue
            self.events.append(event)
            if event.get("event") == "web.listening":
                self.address = f"http://{event['host']}:{event['port']}"
            if ".bug" in event.get("event", "") or _ERRORS.search(text):
                self.errors.append(text)
        self._log.flush()
