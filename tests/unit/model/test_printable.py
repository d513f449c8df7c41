"""Text from outside is seen as it is, wherever it is printed, and obeyed nowhere."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import unicodedata
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ddslogd.cli.progress import Lines
from ddslogd.doctor import report
from ddslogd.doctor.check_result import CheckResult, Level
from ddslogd.model.printable import printable, printable_lines
from ddslogd.monitoring.rich_text import shown
from ddslogd.sandbox import Sandbox, configuration, single

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "a\x1b]52;c;ZXZpbA==\x07b\x9b31mc\u202ed\ne\u2028f\x7fg\ud800[bold]"
OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def obeyed(text: str) -> list[str]:
    """Return the characters that a terminal obeys or a reader does not see, but for ends of lines."""
    return [character for character in text if character != "\n" and unicodedata.category(character) in OBEYED]


@given(st.text())
def test_no_character_is_obeyed_and_the_line_is_one(text: str) -> None:
    made = printable(text)

    assert (obeyed(made), made.count("\n")) == ([], 0)


def test_what_is_seen_stays_as_it_is() -> None:
    text = "prod-orders_1 Ümläut 日本 [x] 100 % \u00a0"

    assert printable(text) == text


def test_what_is_not_seen_is_its_code_point() -> None:
    assert printable("a\x1bb\u202ec\ud800d\ne") == "a⟨U+001B⟩b⟨U+202E⟩c⟨U+D800⟩d e"


def test_lines_stay_lines() -> None:
    assert printable_lines("one\ntwo\x1b") == "one\ntwo⟨U+001B⟩"


def test_a_cell_holds_no_markup_and_no_control() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    console.print(shown(HOSTILE), highlight=False)

    assert isinstance(console.file, io.StringIO)
    assert (obeyed(console.file.getvalue()), "[bold]" in console.file.getvalue()) == ([], True)


def test_lines_of_progress_and_findings_are_printable() -> None:
    buffer = io.StringIO()
    Lines(Console(file=buffer, width=300))._print(f"stored {HOSTILE}")
    findings = [CheckResult(level=Level.FAIL, area="login", what=HOSTILE, todo=HOSTILE)]

    assert (obeyed(buffer.getvalue()), obeyed(report.lines(findings))) == ([], [])


# --- the streams of a command -----------------------------------------------------------------------------------------


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
