"""The daemon as it is run: a process of its own against a cloud on real sockets, by the real clock."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from conftest import ANY_PORT
from ddslogd.sandbox import Sandbox, cluster, configuration, replica_set, single

if TYPE_CHECKING:
    from pathlib import Path

GENERATIONS = 2
SPEED = 300  # the cloud's 15 minutes take 3 seconds, the schedule's 20 take 4


async def test_two_generations_of_exports_are_on_disk_byte_for_byte(tmp_path: Path) -> None:
    """Three kinds of instances write all the while, so windows grow and slide and exports overlap."""
    fleet = (replica_set("orders"), cluster("events", mongos=1, shards=1), single("audit", version="4.2"))
    backlog = timedelta(seconds=10)
    async with Sandbox(fleet=fleet, speed=SPEED, window=60_000, lines_per_second=50, backlog=backlog) as cloud:
        config = tmp_path / "ddslogd.yaml"
        config.write_text(configuration(cloud, directory=tmp_path / "logs", state=tmp_path / "state") + ANY_PORT)
        nodes = [node.name for instance in fleet for node in instance.nodes]
        daemon = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", "run", "-c", str(config)),
            env={**os.environ, "DDSLOGD_TOKEN": cloud.issue_token()},
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(40):
            while any(len(snapshots(tmp_path, node)) < GENERATIONS for node in nodes):
                await asyncio.sleep(0.05)
        daemon.send_signal(signal.SIGTERM)

        assert await daemon.wait() == 0
        kept = {node: snapshots(tmp_path, node)[:GENERATIONS] for node in nodes}
        assert kept == {node: cloud.exports_of(node)[:GENERATIONS] for node in nodes}


def snapshots(tmp_path: Path, node: str) -> list[bytes]:
    """Give a node's visible files in order of their update time, which their names end in."""
    paths = (tmp_path / "logs" / "snapshots").glob(f"*/{node}/[!.]*")
    return [path.read_bytes() for path in sorted(paths, key=lambda path: path.name.split(".", 1)[1])]
