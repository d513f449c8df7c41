"""What a command does whose standard streams are closed, full, or read by somebody who has seen enough."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from ddslogd.sandbox import Sandbox, configuration, single

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.daemon


def ddslogd(arguments: str, tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a shell that closes or redirects what the line says."""
    program = f"'{sys.executable}' -m ddslogd {arguments}"
    return subprocess.run(
        ["sh", "-c", program],
        cwd=tmp_path,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
async def test_a_cycle_ends_well_whatever_its_standard_streams_are(tmp_path: Path, closed: str) -> None:
    """Else what is opened first, a socket or the ledger, would be the descriptor that is printed to."""
    async with Sandbox(fleet=(single("solo"),), speed=1000, lines_per_second=0, backlog=timedelta(0)) as cloud:
        cloud.write("solo_single_node_1", b"a line\n")
        (tmp_path / "c.yaml").write_text(configuration(cloud, directory=tmp_path / "logs", state=tmp_path / "state"))
        token = cloud.issue_token()

        ended = await asyncio.to_thread(ddslogd, f"once -c c.yaml {closed}", tmp_path, DDSLOGD_TOKEN=token)

    found = [path.read_bytes() for path in (tmp_path / "logs" / "snapshots").rglob("[!.]*.log")]
    assert (ended.returncode, found) == (1 if "full" in closed else 0, [b"a line\n"]), ended.stderr


def test_output_that_is_full_is_reported_and_no_work_is_lost(tmp_path: Path) -> None:
    ended = ddslogd("schema >/dev/full", tmp_path)

    assert (ended.returncode, ended.stderr) == (
        1,
        "ddslogd: standard output cannot be written: No space left on device\n",
    )


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(tmp_path: Path) -> None:
    ended = ddslogd("schema | head -c 1", tmp_path)

    assert (ended.stdout, ended.stderr) == ("{", "")


def test_a_terminal_that_knows_ascii_only_is_served(tmp_path: Path) -> None:
    (tmp_path / "größe.yaml").write_text("clouds: 1\n")

    ended = ddslogd("check -c größe.yaml", tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert (ended.returncode, "gr\\xf6\\xdfe.yaml" in ended.stderr) == (78, True)


def test_what_ends_a_start_is_an_error_in_the_journal(tmp_path: Path) -> None:
    """Each line: `journalctl -p warning` would not show the others."""
    journal = tmp_path / "journal"
    with journal.open("w") as stream:
        status = os.fstat(stream.fileno())
        subprocess.run(
            [sys.executable, "-m", "ddslogd", "run", "-c", tmp_path / "none.yaml"],
            env={**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
            stderr=stream,
            check=False,
        )

    lines = journal.read_text().splitlines()
    assert lines
    assert [line for line in lines if not line.startswith("<3>")] == []


def test_the_memory_of_a_command_is_its_own(tmp_path: Path) -> None:
    program = (
        "import os; os.environ['SSLKEYLOGFILE'] = 'keys'; from ddslogd.cli.private_memory import"
        " keep_memory_private as keep; import ctypes; before = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0); keep();"
        " print(before, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), 'SSLKEYLOGFILE' in os.environ)"
    )

    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert ended.stdout == "1 0 False\n"
