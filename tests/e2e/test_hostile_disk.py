"""A store that sends without end, seen from outside: the room that is to stay free stays free."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from ddslogd.sandbox import Sandbox, configuration, replica_set

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

MB = 1_000_000
KEEP_FREE = 150 * MB
LOG = b"%0999d\n" % 7 * 39_000  # 39 MB, of a node


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 200 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={200 * MB}", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def free(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


async def test_a_store_that_announces_no_length_takes_nothing_of_what_stays_free(small: Path, tmp_path: Path) -> None:
    """Six nodes of 39 MB each at the same time, and room for one: it was 1 MB that stayed free, of 150."""
    fleet = (replica_set("solo", nodes=6),)
    async with Sandbox(fleet=fleet, speed=1000, lines_per_second=0, backlog=timedelta(0)) as cloud:
        for node in fleet[0].nodes:
            cloud.write(node.name, LOG)
        cloud.faults.no_length = True
        text = configuration(cloud, directory=small / "logs", state=tmp_path / "state")
        (tmp_path / "c.yaml").write_text(text.replace("keep_free: 0", "keep_free: 150MB"))
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", "once", "-c", str(tmp_path / "c.yaml")),
            env={**os.environ, "DDSLOGD_TOKEN": cloud.issue_token()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        over, least = asyncio.create_task(command.communicate()), free(small)
        while not over.done():
            least = min(least, free(small))
            await asyncio.wait([over], timeout=0.01)
        told, _ = await over

    assert (command.returncode, b"storage.keep_free: make room on it" in told) == (1, True), told
    assert least >= KEEP_FREE
    assert list(small.rglob(".*.part")) == []
