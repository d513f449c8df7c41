"""What only the daemon needs is only its own: who may read a lock or a ledger may lock it, and keep the daemon out."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddslogd.model.errors import Locked, StorageError
from ddslogd.monitoring import status_client
from ddslogd.storage.snapshots.store import claim
from support.clocks import START
from support.users import NOBODY, being

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.testbed import Bed

GROUP = 4711  # that shippers' users are in


def mode_of(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def modes(directory: Path) -> set[str]:
    return {mode_of(path) for path in directory.iterdir()}


async def test_the_state_is_the_daemon_s_alone_and_logs_are_the_group_s(bed: Bed) -> None:
    bed.sandbox.write("solo_single_node_1", b"2026-01-02T03:04:04.000+0000 one\n")
    async with bed.open():  # while it runs, there are -wal and -shm too
        await bed.collect()
        found = mode_of(bed.state), modes(bed.state), mode_of(bed.directory / ".ddslogd.lock")
        names = len(list(bed.state.iterdir()))

    logs = {mode_of(path) for path in (bed.directory / "streams").rglob("*") if path.is_file()}
    assert (found, names) == (("0o700", {"0o600"}, "0o600"), 4)
    assert (mode_of(bed.directory), mode_of(bed.directory / "streams"), logs) == ("0o750", "0o750", {"0o640"})


async def test_what_an_earlier_version_left_open_is_closed(bed: Bed) -> None:
    await bed.collect()
    bed.state.chmod(0o750)
    (bed.state / "ledger.sqlite3.damaged-1").write_text("old")
    for path in (*bed.state.iterdir(), bed.directory / ".ddslogd.lock"):
        path.chmod(0o640)
    await bed.collect()

    assert (mode_of(bed.state), modes(bed.state), mode_of(bed.directory / ".ddslogd.lock")) == (
        "0o700",
        {"0o600"},
        "0o600",
    )


async def test_a_directory_that_others_use_too_stays_as_it_is(bed: Bed) -> None:
    """Such as the logs' own, or one that they are below: the group has to get there."""
    bed.directory = bed.state / "logs"
    bed.state.mkdir(mode=0o750)
    await bed.collect()

    assert (mode_of(bed.state), mode_of(bed.state / "ledger.sqlite3"), mode_of(bed.directory)) == (
        "0o750",
        "0o600",
        "0o750",
    )


async def test_one_directory_for_both_stays_the_group_s(bed: Bed) -> None:
    bed.state = bed.directory
    await bed.collect()

    files = {mode_of(path) for path in bed.state.iterdir() if path.is_file()}
    assert (mode_of(bed.state), files) == ("0o750", {"0o600"})


async def test_a_link_in_the_state_is_not_followed(bed: Bed, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("somebody's")
    victim.chmod(0o644)
    await bed.collect()
    (bed.state / "ledger.sqlite3.link").symlink_to(victim)
    await bed.collect()

    assert mode_of(victim) == "0o644"


@pytest.fixture
def shared(bed: Bed) -> Iterator[Bed]:
    """Directories that other users can get to, as on a host, and that a group reads."""
    top = Path(tempfile.mkdtemp(prefix="ddslogd-test-"))
    top.chmod(0o755)
    bed.directory, bed.state = top / "logs", top / "state"
    yield bed
    shutil.rmtree(top)


async def test_nobody_of_the_group_can_lock_what_the_daemon_needs(shared: Bed) -> None:
    await shared.collect()
    os.chown(shared.directory, -1, GROUP)
    os.chown(shared.directory / ".ddslogd.lock", -1, GROUP)
    opened = []
    with being(NOBODY, GROUP):
        listed = sorted(path.name for path in shared.directory.iterdir())
        for path in (shared.directory / ".ddslogd.lock", shared.state, shared.state / "ledger.sqlite3"):
            try:
                os.close(os.open(path, os.O_RDONLY))
            except PermissionError:
                continue
            opened.append(path)
    await shared.collect()

    assert (listed[0], opened) == (".ddslogd.lock", [])


async def test_a_lock_of_another_program_is_told_with_its_name(bed: Bed) -> None:
    """Not with the process that worked there last."""
    bed.state.mkdir()
    (bed.state / ".ddslogd.lock").write_text("1\n")
    program = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, bed.state / ".ddslogd.lock"), stdin=pipe, stdout=pipe
    )
    assert other.stdout is not None
    await other.stdout.readline()
    with pytest.raises(Locked) as told:
        os.close(claim(bed.state))
    await other.communicate(b"")

    assert re.fullmatch(
        rf"process {other.pid} \('python.*'\) has locked {bed.state}/\.ddslogd\.lock: end it, or find out what .*",
        str(told.value),
    )


def test_a_lock_of_a_ddslogd_is_told_as_such(tmp_path: Path) -> None:
    held = claim(tmp_path)
    with pytest.raises(Locked, match=rf"another ddslogd \(process {os.getpid()}\) works on {tmp_path}"):
        claim(tmp_path)
    fcntl.flock(held, fcntl.LOCK_UN)
    os.close(held)


# As `python -m ddslogd`, for another user, who need not be able to read this Python's files.
AS_NOBODY = f"""if True:
    import os, sys
    import ddslogd.cli.status
    from ddslogd import __file__
    from ddslogd.cli import main as cli
    sys.argv[0] = __file__.replace("__init__", "__main__")
    os.setgroups([])
    os.setegid({NOBODY})
    os.seteuid({NOBODY})
    cli.main()
    """


@pytest.mark.daemon
@pytest.mark.parametrize("command", ["status", "gaps"])
async def test_who_may_not_read_the_ledger_is_told_what_works(shared: Bed, command: str) -> None:
    """A command line that does: here it is run without sudo, since this is root."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    await shared.collect()
    config = shared.directory.parent / "dds logd.yaml"
    config.write_text(shared.text)

    async def run(*line: str) -> tuple[int, str, str]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*line, stdout=pipe, stderr=pipe)
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    refused = await run(sys.executable, "-c", AS_NOBODY, command, "--json", "-c", str(config))
    _, _, advised = refused[2].partition("use sudo: sudo ")
    works = await run(*shlex.split(advised))

    assert (refused[0], refused[2].startswith("ddslogd: no daemon answers this user at /run/ddslogd/")) == (74, True)
    assert (works[0] in {0, 1}, works[1][:1] in {"{", "["}) == (True, True), works


async def test_the_sentence_has_the_command_that_was_typed(shared: Bed) -> None:
    await shared.collect()
    settings = shared.settings
    with being(NOBODY), pytest.raises(StorageError) as told:
        status_client.status(settings, now=START, again="sudo ddslogd status")

    assert str(told.value).endswith(
        f"only the daemon's user may read {shared.state}/ledger.sqlite3: use sudo: sudo ddslogd status"
    )
