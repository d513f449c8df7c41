"""What most tests stand on: policy time that is made, a sandbox cloud on loopback, and a daemon's parts against it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import hypothesis
import pytest
import stamina
import structlog

from support.clocks import ManualClock
from support.examples import examples
from support.postgresql import postgresql
from support.testbed import Bed, quiet_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from ddslogd.sandbox import Sandbox
    from support.postgresql import Server


# The looptime plugin asks for the thread's event loop before tests that have none. Python then makes one that nobody
# closes, and warns of it in some later test; told that there is none, it does not.
asyncio.set_event_loop(None)

# The same examples at every run: what fails here fails there too.
hypothesis.settings.register_profile(
    "ddslogd", deadline=None, derandomize=True, database=None, max_examples=examples(100)
)
hypothesis.settings.load_profile("ddslogd")


# Without this rich draws each traceback that a test has logged, with all variables: seconds for one.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback

SLOW_LIMIT_S = 1800


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT_S))


@pytest.fixture(autouse=True)
def _no_waits_between_retries() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def sandbox(clock: ManualClock) -> AsyncIterator[Sandbox]:
    """One instance of one node, ``solo_single_node_1``."""
    async with quiet_sandbox(clock) as started:
        yield started


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with postgresql() as started:
        yield started


@pytest.fixture
def role(server: Server) -> str:
    """A role of PostgreSQL with rights on the schema of its name, and on nothing else."""
    return server.role()


@pytest.fixture
def bed(sandbox: Sandbox, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    monkeypatch.setenv("DDSLOGD_TOKEN", sandbox.issue_token())
    return Bed(sandbox=sandbox, clock=clock, directory=tmp_path / "logs", state=tmp_path / "state")
