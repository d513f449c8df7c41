"""What a daemon takes: memory that does not grow with the size of files."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from ddslogd.sandbox import Sandbox, configuration, replica_set
from support.testbed import ANY_PORT

NODES = 32
SIZE = 6_000_000  # bytes of each node's export: 192 MB in all
MOST = 100 * 1024 * 1024  # bytes; 78 MiB were measured, 114 with TLS


def peak_of(pid: int) -> int:
    """Return the most memory that a process ever had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.daemon
async def test_thirty_two_transfers_at_a_time_take_little_memory(tmp_path: Path) -> None:
    fleet = (replica_set("solo", nodes=NODES),)
    async with Sandbox(fleet=fleet, speed=60, window=SIZE, lines_per_second=0) as sandbox:
        for node in fleet[0].nodes:
            sandbox.write(node.name, b"x" * (SIZE - 1) + b"\n")
        text = configuration(sandbox, directory=tmp_path / "logs", state=tmp_path / "state")
        (tmp_path / "ddslogd.yaml").write_text(text.replace("concurrent: 16", "concurrent: 32") + ANY_PORT)
        daemon = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", "run", "-c", str(tmp_path / "ddslogd.yaml")),
            env={**os.environ, "DDSLOGD_TOKEN": sandbox.issue_token()},
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(60):
            while len(list((tmp_path / "logs" / "snapshots").glob("*/*/[!.]*.log"))) < NODES:
                await asyncio.sleep(0.05)
        peak = peak_of(daemon.pid)
        daemon.send_signal(signal.SIGTERM)
        ended = await daemon.wait()

    assert (ended, peak < MOST) == (0, True), f"{peak / 2**20:.0f} MiB"
