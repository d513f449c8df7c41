"""Members of a cluster as processes: killed, and stopped for longer than their leases last."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from support.cluster import Cluster, disorder, instances, prepare, until
from support.places import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.postgresql import Server

pytestmark = pytest.mark.slow

TTL_S = 5
FLEET = 12
A_FEW = 3


@dataclass
class Processes:
    """Members as processes, seen by what is in PostgreSQL."""

    server: Server
    role: str
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        arguments = self.server.dsn(self.role), self.role, name, str(TTL_S), str(FLEET)
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "daemon"), str(ROOT / "tests")])}
        command = [sys.executable, "-m", "support.cluster_member", *arguments]
        self.running[name] = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)

    def signal(self, name: str, number: signal.Signals) -> None:
        self.running[name].send_signal(number)

    async def stop(self, name: str) -> None:
        """End a member in order."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.communicate)
        assert process.returncode == 0

    def owners(self) -> Counter[str | None]:
        rows = self.server.admin("SELECT collector FROM leases", self.role)
        return Counter(owner for (owner,) in rows)

    def commits(self) -> list[tuple[str, int, str]]:
        return Cluster(self.server, self.role, instances(FLEET), timedelta(seconds=TTL_S)).commits()

    async def shared_by(self, *names: str) -> None:
        """Wait until each instance is owned, and a few by each of these members."""
        await until(
            lambda: self.owners().keys() == set(names) and min(self.owners().values()) >= A_FEW,
            f"the fleet is not shared by {names}",
        )

    async def all_committed_again(self) -> None:
        """Wait until each instance has a commit that it has not now."""
        before = len(self.commits())
        await until(lambda: len({name for name, *_ in self.commits()[before:]}) == FLEET, "not all go on")


@pytest.fixture
async def processes(server: Server, role: str) -> AsyncIterator[Processes]:
    await prepare(server, role)
    some = Processes(server, role)
    yield some
    for process in some.running.values():
        process.kill()
        process.communicate()


async def test_a_member_that_is_stopped_for_two_ttls_commits_nothing_late_when_it_goes_on(processes: Processes) -> None:
    """What it was about to commit is of an epoch that is over; then it gets its share again."""
    for name in ("a", "b"):
        processes.start(name)
    await processes.shared_by("a", "b")
    await processes.all_committed_again()

    processes.signal("a", signal.SIGSTOP)
    await processes.shared_by("b")
    await processes.all_committed_again()
    await asyncio.sleep(TTL_S)  # the fault itself: more than another TTL
    processes.signal("a", signal.SIGCONT)
    await processes.shared_by("a", "b")
    await processes.all_committed_again()

    await processes.stop("a")
    assert disorder(processes.commits()) == []


async def test_what_a_killed_member_had_goes_on_with_another(processes: Processes) -> None:
    for name in ("a", "b"):
        processes.start(name)
    await processes.shared_by("a", "b")

    processes.signal("a", signal.SIGKILL)
    await processes.shared_by("b")
    await processes.all_committed_again()

    await processes.stop("b")
    assert disorder(processes.commits()) == []


def test_the_witness_sees_an_epoch_that_comes_late_and_one_that_two_have() -> None:
    late = [("x", 1, "a"), ("y", 9, "b"), ("x", 2, "b"), ("x", 1, "a"), ("x", 2, "a"), ("x", 3, "a")]

    assert disorder(late) == [("x", 1, "a"), ("x", 2, "a")]
