"""Commands on a terminal of 80 columns, and how they end when somebody stops them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from rich.console import Console

from ddslogd.cli.main import commands
from ddslogd.cli.progress import LONGEST_NAME, Bars, Lines
from ddslogd.cli.tables import gap_table, status_text
from ddslogd.model.cycle import CycleOutcome, CycleReport
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.instance import LogKind
from ddslogd.model.snapshot import LogFile
from ddslogd.model.stream import Gap, GapCause
from ddslogd.monitoring.status_json import as_object
from ddslogd.sandbox import Sandbox, configuration, single
from ddslogd.storage.ledger.status_queries import Failing
from support.clocks import START
from support.sample_status import fleet, instance, stale, status

if TYPE_CHECKING:
    from pathlib import Path

    from ddslogd.monitoring.status import Status

LONG = "orders-of-the-european-shop-that-has-a-very-long-name-indeed"
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def console(width: int) -> Console:
    return Console(file=StringIO(), width=width, force_terminal=True, color_system=None)


def text_of(shown: Console) -> str:
    assert isinstance(shown.file, StringIO)
    return shown.file.getvalue()


def test_a_time_in_the_table_of_gaps_is_whole_at_80_columns() -> None:
    gap = Gap(
        instance=LONG,
        node=f"{LONG}_node_1",
        log=LogKind.ERROR,
        after=START,
        until=START + timedelta(hours=1),
        cause=GapCause.WINDOW_OVERFLOW,
        noted_at=START,
        path="x",
        cut=False,
    )

    table = gap_table([gap], width=80)

    assert TIME.findall(table) == ["2026-01-02 03:04:05", "2026-01-02 04:04:05"]
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize("width", [80, 119, 120, 200])
def test_the_status_breaks_no_time_and_no_line(width: int) -> None:
    status: Status = fleet(3)
    shown = console(width)
    status_text(as_object(status), shown)

    text = text_of(shown)
    newest = [one.newest_line for one in status.instances if one.newest_line]
    assert len(TIME.findall(text)) == len(newest)
    assert max(map(len, text.splitlines())) <= width
    assert ("last cycle" in text) is (width >= 120)


def test_the_reason_has_room_at_80_columns() -> None:
    shown, found = console(80), as_object(fleet(1))
    found["instances"] = [found["instances"][0] | {"name": "orders", "why": "word " * 20, "state": "stale"}]
    status_text(found, shown)

    assert len([line for line in text_of(shown).splitlines() if "word" in line]) < 15


def test_a_node_that_fails_has_a_row_of_its_own_below_its_instance() -> None:
    """With the reason, where the instance's own row has another; nodes of which nothing fails have none."""
    broken = Failing(
        node="n[2]", log="slow", kind=FailureKind.EXPORT_FAILED, since=START, last=START, times=2, reason="not prepared"
    )
    whole = replace(broken, node="", log="error", reason="cut off")
    shown = console(200)
    status_text(as_object(status(instance("orders", failures=(whole, broken), turn="the cloud's: wait"))), shown)

    _, _, one, node = (" ".join(line.split()) for line in text_of(shown).splitlines())
    assert one.endswith("the cloud's: wait: export: cut off")
    assert node == "n[2] (slow log) failing since 2026-01-02 03:04:05: not prepared"


def test_a_reason_that_the_instances_row_has_is_not_told_twice() -> None:
    broken = Failing(
        node="n2", log="error", kind=FailureKind.EXPORT_FAILED, since=START, last=START, times=2, reason="no luck"
    )
    shown = console(200)
    status_text(as_object(status(stale("orders", failures=(broken,), why="only node n2 fails: no luck"))), shown)

    assert text_of(shown).count("no luck") == 1


def test_a_long_name_leaves_room_for_its_bar() -> None:
    shown = console(80)
    bars = Bars(shown)
    file = LogFile(instance=LONG, node=f"{LONG}_node_1", file_name="f", updated_at=START)
    with bars:
        bars.began(file, 1000, 0, resumed=False)
        (task,) = bars._progress.tasks

        assert len(task.description) <= LONGEST_NAME
        assert (task.description[:8], task.description[-6:]) == (LONG[:8], "node_1")


def test_a_cycle_that_failed_as_a_whole_counts_no_files() -> None:
    shown = console(200)
    report = CycleReport(
        instance="orders",
        started_at=START,
        finished_at=START + timedelta(seconds=45),
        outcome=CycleOutcome.FAILED,
        error="no answer",
        error_kind=FailureKind.UNAVAILABLE,
    )

    Lines(shown).cycled(report)

    assert text_of(shown).splitlines() == ["failed     orders: no answer", "cycle      orders: failed after 45.0 s"]


@pytest.mark.daemon
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
async def test_once_that_is_stopped_says_what_stays(tmp_path: Path, number: signal.Signals, status: int) -> None:
    async with Sandbox(fleet=(single("solo"),), speed=1, lines_per_second=0) as cloud:
        (tmp_path / "c.yaml").write_text(configuration(cloud, directory=tmp_path / "logs", state=tmp_path / "state"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", "once", "-c", str(tmp_path / "c.yaml")),
            env={**os.environ, "DDSLOGD_TOKEN": cloud.issue_token()},
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(60):
            while not cloud.calls["errorlog-download"]:
                await asyncio.sleep(0.02)
        process.send_signal(number)
        _, err = await process.communicate()

    said = "ddslogd: stopped before the end; what is on disk stays, and the next cycle goes on with the rest\n"
    assert (process.returncode, err.decode()) == (status, said)


@pytest.mark.daemon
async def test_ctrl_c_on_a_terminal_ends_with_130(tmp_path: Path) -> None:
    """As somebody types it: the terminal sends the signal."""
    async with Sandbox(fleet=(single("solo"),), speed=1, lines_per_second=0) as cloud:
        (tmp_path / "c.yaml").write_text(configuration(cloud, directory=tmp_path / "logs", state=tmp_path / "state"))
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", RUN, str(tmp_path / "c.yaml")),
            env={**os.environ, "DDSLOGD_TOKEN": cloud.issue_token()},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        async with asyncio.timeout(60):
            while not cloud.calls["errorlog-download"]:
                await asyncio.sleep(0.02)
        os.write(ours, b"\x03")
        status = await process.wait()
        os.close(ours)

    assert status == 130


RUN = """if True:
    import fcntl, os, sys, termios
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.execv(sys.executable, [sys.executable, "-m", "ddslogd", "once", "-c", sys.argv[1]])
"""


def test_the_help_cuts_no_summary_and_names_each_command_once() -> None:
    told = CliRunner().invoke(commands, ["--help"]).output

    assert "..." not in told.replace("[ARGS]...", "")
    assert [told.count(f"\n  {name} ") for name in commands.commands] == [1] * len(commands.commands)
    assert "Examples:" in told


@pytest.mark.parametrize(
    ("arguments", "environ", "read"),
    [
        (["-c", "before.yaml", "check"], {}, "before.yaml"),
        (["check", "-c", "behind.yaml"], {}, "behind.yaml"),
        (["-c", "before.yaml", "check", "-c", "behind.yaml"], {}, "behind.yaml"),
        (["-c", "before.yaml", "check"], {"DDSLOGD_CONFIG": "env.yaml"}, "before.yaml"),
        (["check"], {"DDSLOGD_CONFIG": "env.yaml"}, "env.yaml"),
    ],
)
async def test_the_configuration_is_named_before_the_command_or_behind_it(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], read: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ddslogd", *arguments),
        cwd=tmp_path,
        env={**os.environ, **environ},
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()

    assert err.decode() == f"{read}: cannot be read: No such file or directory\n"


async def test_a_wrong_option_is_an_error_in_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        found = os.fstat(stream.fileno())
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", "run", "--surplus"),
            env={**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"},
            stderr=stream,
        )
        status = await process.wait()
        stream.seek(0)
        lines = stream.read().splitlines()

    assert (status, [line for line in lines if not line.startswith("<3>")]) == (2, [])
    assert any("--surplus" in line for line in lines)
