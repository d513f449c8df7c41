"""A daemon's parts against a sandbox cloud on loopback, and what they put on disk."""

from __future__ import annotations

import importlib
import os
import sqlite3
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.config import loader
from ddslogd.config import settings as config_settings
from ddslogd.model.cycle import Silent
from ddslogd.model.redactor import Redactor
from ddslogd.sandbox import Sandbox, configuration, single
from ddslogd.scheduling.triggers import next_tick
from ddslogd.service.factory import opened
from ddslogd.storage.ledger import database, status_queries
from ddslogd.storage.ledger.gap_records import gaps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ddslogd.model.cycle import CycleReport, Progress
    from ddslogd.model.instance import Instance
    from ddslogd.model.stream import Gap
    from ddslogd.service.service import Service
    from ddslogd.storage.ledger.status_queries import Failing
    from support.clocks import ManualClock


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


def needed_module(name: str) -> Any:
    """Return a module of the extra ``dev``; without it the test is skipped, or fails where nothing may be skipped."""
    if os.environ.get("DDSLOGD_SKIP_NOTHING"):
        return importlib.import_module(name)
    return pytest.importorskip(name)


def config_of(bed: Bed) -> Path:
    """Write the configuration to a file next to the state directory."""
    path = bed.state.parent / "ddslogd.yaml"
    path.write_text(bed.text)
    return path


async def next_cycle(bed: Bed, name: str | None = None, *, ticks: int = 1) -> CycleReport:
    """Let time pass until a run of the schedule, and run its cycle."""
    instance = bed.instance(name)
    for _ in range(ticks):
        bed.clock.time = next_tick(instance.schedule, after=bed.clock.time, key=instance.id)
    return await bed.collect(name)


def posts(sandbox: Sandbox) -> int:
    """Count the calls for exports of error logs."""
    return sandbox.calls["errorlog-download"]


def known_failures(state: Path) -> dict[str, tuple[Failing, ...]]:
    """Return what fails now, by instance, as the ledger in a directory knows it."""
    with database.reading(state / "ledger.sqlite3") as db:
        return dict(status_queries.books(db).failures)


def known_gaps(state: Path) -> tuple[Gap, ...]:
    """Return the gaps that the ledger in a directory knows."""
    with database.reading(state / "ledger.sqlite3") as db:
        return gaps(db)


class RecordingRedactor(Redactor):
    """A redactor that says what it was told; ``on_add`` is called with each secret, before it is known."""

    def __init__(self, on_add: Callable[[str], None] = lambda _: None) -> None:
        super().__init__()
        self.secrets: list[str] = []
        self._on_add = on_add

    def add(self, secret: str) -> None:
        self.secrets.append(secret)
        self._on_add(secret)
        super().add(secret)

    def add_issued(self, secret: str) -> None:
        self.secrets.append(secret)
        super().add_issued(secret)


@dataclass
class Bed:
    """A sandbox, a daemon's parts against it, and what they put on disk."""

    sandbox: Sandbox
    clock: ManualClock
    directory: Path
    state: Path
    redactor: RecordingRedactor = field(default_factory=RecordingRedactor)
    snapshots: str = "all"
    changes: list[tuple[str, str]] = field(default_factory=list)
    progress: Progress = field(default_factory=Silent)
    service: Service | None = None

    @asynccontextmanager
    async def cloud(self, **dials: Any) -> AsyncIterator[Sandbox]:
        """Put another sandbox in the place of the one with a single node."""
        async with quiet_sandbox(self.clock, **dials) as self.sandbox:
            os.environ["DDSLOGD_TOKEN"] = self.sandbox.issue_token()
            yield self.sandbox

    @property
    def secrets(self) -> list[str]:
        """Return what the redactor was told."""
        return self.redactor.secrets

    def set(self, old: str, new: str) -> None:
        """Change the configuration's text before the service is opened."""
        self.changes.append((old, new))

    @property
    def text(self) -> str:
        """Return the configuration's text."""
        text = configuration(self.sandbox, directory=self.directory, state=self.state)
        text = text.replace("calls_per_minute: 60", "calls_per_minute: 12000")  # the budget runs by real time
        text = text.replace("  keep_free: 0\n", f"  snapshots: {self.snapshots}\n  keep_free: 0\n")
        for old, new in self.changes:
            assert old in text
            text = text.replace(old, new)
        return text

    @property
    def settings(self) -> config_settings.Settings:
        return loader.parse(self.text, "test").settings

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service]:
        async with opened(
            self.settings, clock=self.clock, progress=self.progress, redactor=self.redactor
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
        """Return the snapshots, and whatever else is visible where they are, oldest first."""
        paths = (self.directory / "snapshots").rglob("*")
        return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))

    def contents(self) -> list[bytes]:
        return [path.read_bytes() for path in self.files()]

    def parts(self) -> list[Path]:
        return sorted(self.directory.rglob(".*.part"))


def quiet_sandbox(clock: ManualClock, **dials: Any) -> Sandbox:
    """Make a sandbox by the test's clock, whose logs hold what the test writes and nothing else."""
    dials.setdefault("fleet", (single("solo"),))
    return Sandbox(now=clock.now, lines_per_second=0, backlog=timedelta(0), **dials)
