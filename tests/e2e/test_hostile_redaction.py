"""What a cloud chooses as a token, and echoes of a password, seen from outside: every line of the journal is whole."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.sandbox import ApiError, Sandbox, configuration, replica_set
from support.testbed import ANY_PORT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

LONG = "/" * 3_000_000  # bytes of one message, within what a reply may have


async def test_a_cloud_that_chooses_a_token_and_echoes_the_password_spoils_no_line(tmp_path: Path) -> None:
    """And what it sends costs the daemon no pause: the next cycle comes, and the daemon stops when it is told to."""
    async with Sandbox(fleet=(replica_set("trio"),), speed=1000, lines_per_second=0, backlog=timedelta(0)) as cloud:
        (tmp_path / "password").write_text(cloud.password)
        text = configuration(cloud, directory=tmp_path / "logs", state=tmp_path / "state") + ANY_PORT
        text = text.replace("method: token", "method: password").replace(
            "token: {env: DDSLOGD_TOKEN}",
            f"username: {cloud.user_name}\n      domain_name: {cloud.domain_name}\n"
            f"      password: {{file: {tmp_path}/password}}",
        )
        (tmp_path / "c.yaml").write_text(text)
        cloud.faults.subject_token = '", "'
        cloud.faults.login_errors = [ApiError(500, "X", f"{LONG} {cloud.password}", shape="iam")]
        journal = tmp_path / "journal"
        with journal.open("w") as stream:
            daemon = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ddslogd", "run", "-c", str(tmp_path / "c.yaml")),
                env={**os.environ, "MALLOC_ARENA_MAX": "2"},
                stderr=stream,
            )
        try:
            await told(journal, "cycle.done", outcome="failed")
        finally:
            daemon.terminate()
            assert await daemon.wait() == 0

    lines = journal.read_text()
    assert all(json.loads(line)["event"] for line in lines.splitlines())
    assert cloud.password not in lines
    assert len(lines) < 100_000


async def told(journal: Path, event: str, **fields: Any) -> None:
    """Wait until an event with these fields is in the journal."""
    async with asyncio.timeout(120):
        while True:
            found = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
            if any(one["event"] == event and fields.items() <= one.items() for one in found):
                return
            await asyncio.sleep(0.1)
