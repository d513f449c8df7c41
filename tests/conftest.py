"""What most tests stand on: policy time that is made, a sandbox cloud on loopback, and a daemon's parts against it."""

from __future__ import annotations

import asyncio
import importlib
import os
import sqlite3
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import stamina

from ddslogd import config
from ddslogd.operate.progress import Silent
from ddslogd.sandbox import Sandbox, configuration, single
from ddslogd.service import Service, opened
from ddslogd.storage import database, standing
from ddslogd.storage.streambook import gaps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from ddslogd.models import CycleReport, Gap, Instance, Progress
    from ddslogd.storage.standing import Failing

# The looptime plugin asks for the thread's event loop before tests that have none. Python then makes one that nobody
# closes, and warns of it in some later test; told that there is none, it does not.
asyncio.set_event_loop(None)

# The same examples at every run: what fails here fails there too.
hypothesis.settings.register_profile("ddslogd", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ddslogd")

# For a daemon that is run as a program: the default port is for one of them only.
ANY_PORT = "web: {listen: '127.0.0.1:0'}\n"
# Of an authority that signs nothing.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBfDCCASGgAwIBAgIUVjJtsL30RPSXjto/MD6j0lKg98kwCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHbWFkZS11cDAgFw0yNjExMjQxMTI3MTZaGA8yMTI2MTAzMTEx
MjcxNlowEjEQMA4GA1UEAwwHbWFkZS11cDBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABOc0rxLdEgoEffWxG0CYdlSzQrbs27Ez3A+gxB+MkKpdXB9kC949EYI+OxbP
hA8EwZSsjSPHoqQfQPeXOl72kzijUzBRMB0GA1UdDgQWBBQlidBC2xfh3Dn+0aft
UCMb87btUzAfBgNVHSMEGDAWgBQlidBC2xfh3Dn+0aftUCMb87btUzAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYCIQCxnaJWax20nbK2BdrSuC25WTh7
ab0xpssX4RywrcsahgIhAJqXazc8urMTULyloPP+gb6D5p1JiDD0eRuvWYS4Zn6X
-----END CERTIFICATE-----
"""
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def needed_module(name: str) -> Any:
    """Give a module of the extra ``dev``; without it the test is skipped, or fails where nothing may be skipped."""
    if os.environ.get("DDSLOGD_SKIP_NOTHING"):
        return importlib.import_module(name)
    return pytest.importorskip(name)


class ManualClock:
    """Policy time: a sleep takes none, it moves the clock; of several, the one that ends first."""

    def __init__(self) -> None:
        self.time = START
        self.slept: list[float] = []
        self._ends: list[datetime] = []

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return (self.time - START).total_seconds()

    async def sleep(self, seconds: float) -> None:
        end = self.time + timedelta(seconds=max(0.0, seconds))
        self.slept.append(seconds)
        self._ends.append(end)
        try:
            for _ in range(20):  # what is ready goes first
                await asyncio.sleep(0)
            while min(self._ends) < end:
                await asyncio.sleep(0)
        finally:
            self._ends.remove(end)
        self.time = max(self.time, end)

    def forward(self, **passed: float) -> None:
        self.time += timedelta(**passed)


class LoopClock:
    """Policy time that goes with the event loop's; the wall clock can be set while the steady one goes on."""

    def __init__(self) -> None:
        self.set_by = timedelta(0)

    def now(self) -> datetime:
        return START + self.set_by + timedelta(seconds=round(self.monotonic(), 3))

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class TurnClock(ManualClock):
    """Policy time for parts that wait beside each other: when all of them sleep, it moves to whose turn is next."""

    def __init__(self, sleepers: int) -> None:
        super().__init__()
        self.passed: Callable[[timedelta], None] = lambda _: None
        self._sleepers = sleepers
        self._asleep: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._number = count()

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heappush(self._asleep, (self.time + timedelta(seconds=max(0.0, seconds)), next(self._number), woken))
        if len(self._asleep) == self._sleepers:
            end, _, first = heappop(self._asleep)
            before, self.time = self.time, max(self.time, end)
            self.passed(self.time - before)
            first.set_result(None)
        await woken


def known_failures(state: Path) -> dict[str, tuple[Failing, ...]]:
    """Give what fails now, by instance, as the ledger in a directory knows it."""
    with database.reading(state / "ledger.sqlite3") as db:
        return dict(standing.books(db).failures)


def known_gaps(state: Path) -> tuple[Gap, ...]:
    """Give the gaps that the ledger in a directory knows."""
    with database.reading(state / "ledger.sqlite3") as db:
        return gaps(db)


@dataclass
class Bed:
    """A sandbox, a daemon's parts against it, and what they put on disk."""

    sandbox: Sandbox
    clock: ManualClock
    directory: Path
    state: Path
    secrets: list[str] = field(default_factory=list)
    changes: list[tuple[str, str]] = field(default_factory=list)
    progress: Progress = field(default_factory=Silent)
    service: Service | None = None

    @asynccontextmanager
    async def cloud(self, **dials: Any) -> AsyncIterator[Sandbox]:
        """Put another sandbox in the place of the one with a single node."""
        async with quiet_sandbox(self.clock, **dials) as self.sandbox:
            os.environ["DDSLOGD_TOKEN"] = self.sandbox.issue_token()
            yield self.sandbox

    def set(self, old: str, new: str) -> None:
        """Change the configuration's text before the service is opened."""
        self.changes.append((old, new))

    @property
    def text(self) -> str:
        """Give the configuration's text."""
        text = configuration(self.sandbox, directory=self.directory, state=self.state)
        text = text.replace("calls_per_minute: 60", "calls_per_minute: 12000")  # the budget runs by real time
        for old, new in self.changes:
            assert old in text
            text = text.replace(old, new)
        return text

    @property
    def settings(self) -> config.Settings:
        return config.parse(self.text, "test").settings

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service]:
        async with opened(
            self.settings, clock=self.clock, progress=self.progress, redact=self.secrets.append
        ) as self.service:
            yield self.service
        self.service = None

    def instance(self, name: str | None = None) -> Instance:
        fleet = self.settings.fleet()
        return fleet[0] if name is None else next(instance for instance in fleet if instance.name == name)

    async def collect(self, name: str | None = None) -> CycleReport:
        """Run one cycle, in the service that is open or in one of its own."""
        if self.service is not None:
            return (await self.service.once([self.instance(name)]))[0]
        async with self.open() as service:
            return (await service.once([self.instance(name)]))[0]

    def forget_exports(self) -> None:
        """Let the next start know nothing of exports, as if another host had asked for them."""
        with closing(sqlite3.connect(self.state / "ledger.sqlite3")) as db, db:
            db.execute("DELETE FROM exports")

    def files(self) -> list[Path]:
        """Give the snapshots, and whatever else is visible where they are, oldest first."""
        paths = (self.directory / "snapshots").rglob("*")
        return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))

    def contents(self) -> list[bytes]:
        return [path.read_bytes() for path in self.files()]

    def parts(self) -> list[Path]:
        return sorted(self.directory.rglob(".*.part"))


@pytest.fixture(autouse=True)
def _no_waits_between_retries() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def quiet_sandbox(clock: ManualClock, **dials: Any) -> Sandbox:
    """Make a sandbox by the test's clock, whose logs hold what the test writes and nothing else."""
    dials.setdefault("fleet", (single("solo"),))
    return Sandbox(now=clock.now, lines_per_second=0, backlog=timedelta(0), **dials)


@pytest.fixture
async def sandbox(clock: ManualClock) -> AsyncIterator[Sandbox]:
    """One instance of one node, ``solo_single_node_1``."""
    async with quiet_sandbox(clock) as started:
        yield started


@pytest.fixture
def bed(sandbox: Sandbox, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    monkeypatch.setenv("DDSLOGD_TOKEN", sandbox.issue_token())
    return Bed(sandbox=sandbox, clock=clock, directory=tmp_path / "logs", state=tmp_path / "state")
