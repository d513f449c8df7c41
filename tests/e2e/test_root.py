"""Commands that root starts: what they write belongs to whom the directories belong to.

Each runs in a mount namespace of its own, with another /etc, /var/lib and /var/log, in which the user ``ddslogd`` is.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import sys
import sysconfig
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddslogd.sandbox import Sandbox, configuration, single
from support.places import ROOT
from support.testbed import ANY_PORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.slow

UID = 64_123
LOG = b"".join(b"line %06d of the log\n" % number for number in range(400))
SOURCES = ROOT / "daemon"
# The Python of the tests may lie where nobody but root can look: /mnt has it for everybody.
SCRIPT = f"""
set -e
for name in etc var/lib var/log; do mount --bind "$0/$name" "/$name"; done
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/python /mnt/libraries /mnt/sources
mount --bind {sys.base_prefix} /mnt/python
mount --bind {sysconfig.get_path("purelib")} /mnt/libraries
mount --bind {SOURCES} /mnt/sources
export PYTHONPATH=/mnt/sources:/mnt/libraries PYTHONDONTWRITEBYTECODE=1 LD_LIBRARY_PATH=/mnt/python/lib
exec "$@"
"""
PYTHON = f"/mnt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"


class Host:
    """A host with the user ``ddslogd``, and a cloud that its configuration names."""

    def __init__(self, root: Path, cloud: Sandbox) -> None:
        self.root, self.cloud = root, cloud
        self.logs, self.state, self.etc = root / "var/log/ddslogd", root / "var/lib/ddslogd", root / "etc/ddslogd"

    def install(self) -> None:
        for path in ("etc/ddslogd", "var/log", "var/lib"):
            (self.root / path).mkdir(parents=True)
        (self.root / "etc/passwd").write_text(
            f"root:x:0:0::/root:/bin/sh\nddslogd:x:{UID}:{UID}::/var/lib/ddslogd:/usr/sbin/nologin\n"
        )
        (self.root / "etc/group").write_text(f"root:x:0:\nddslogd:x:{UID}:\njournal:x:{UID + 1}:ddslogd\n")
        self.configure()
        token = self.etc / "token"
        token.write_text(self.cloud.issue_token())
        token.chmod(0o600)  # root's alone, as the unit reads it
        self.made(self.logs)
        self.made(self.state)

    def configure(self, *, logs: str = "/var/log/ddslogd", state: str = "/var/lib/ddslogd") -> None:
        text = configuration(self.cloud, directory=Path(logs), state=Path(state))
        (self.etc / "ddslogd.yaml").write_text(ANY_PORT + text.replace("env: DDSLOGD_TOKEN", "credential: token"))

    def made(self, directory: Path, *, uid: int = UID) -> None:
        directory.mkdir(mode=0o750)
        os.chown(directory, uid, uid)

    def owners(self) -> set[int]:
        """Return the owners of all that is in both directories, and of them."""
        places = [place for place in (self.logs, self.state) if place.exists()]
        return {path.lstat().st_uid for place in places for path in (place, *place.rglob("*"))}

    async def start(self, *command: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        environ = {key: value for key, value in os.environ.items() if key not in {"DDSLOGD_TOKEN", "DDSLOGD_CONFIG"}}
        arguments = ("unshare", "--mount", "sh", "-c", SCRIPT, str(self.root), *command)
        return await asyncio.create_subprocess_exec(*arguments, stdout=pipe, stderr=pipe, env=environ)

    async def run(self, *command: str) -> tuple[int, str]:
        """Run a program; give its status and all that it printed."""
        process = await self.start(*command)
        try:
            async with asyncio.timeout(60):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:  # it should have been refused, and runs
                process.kill()
                await process.communicate()
        return process.returncode or 0, out.decode() + err.decode()

    async def ddslogd(self, *arguments: str) -> tuple[int, str]:
        return await self.run(PYTHON, "-m", "ddslogd", *arguments)

    async def ddslogd_as_user(self, *arguments: str) -> tuple[int, str]:
        become = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
        return await self.run(*become, PYTHON, "-m", "ddslogd", *arguments)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    if os.geteuid() != 0:
        pytest.skip("only root can start a command as root")
    async with Sandbox(fleet=(single("solo"),), speed=300, lines_per_second=0, backlog=timedelta(0)) as cloud:
        cloud.write("solo_single_node_1", LOG)
        host = Host(tmp_path / "host", cloud)
        host.install()
        yield host


async def test_once_reads_a_secret_of_root_s_and_writes_as_the_owner(host: Host) -> None:
    status, told = await host.ddslogd("once")

    streams = [path.read_bytes() for path in host.logs.glob("streams/*/*.log")]
    assert (status, streams, host.owners()) == (0, [LOG], {UID}), told


async def test_rebuild_and_prune_leave_nothing_of_root_s(host: Host) -> None:
    await host.ddslogd("once")

    rebuilt = await host.ddslogd("rebuild", "solo")
    pruned = await host.ddslogd("prune")

    assert (rebuilt[0], pruned[0], host.owners()) == (0, 0, {UID}), rebuilt[1] + pruned[1]


async def test_commands_that_look_leave_nothing_of_root_s(host: Host) -> None:
    """SQLite makes files next to a ledger that it reads."""
    await host.ddslogd("once")

    for command in (
        ["status"],
        ["gaps"],
        ["doctor", "--offline"],
        ["check"],
        ["support-bundle", "-o", "/mnt/b.tar.gz"],
    ):
        await host.ddslogd(*command)

    assert host.owners() == {UID}


async def test_run_is_the_owner_with_its_groups_and_can_never_be_root_again(host: Host) -> None:
    process = await host.start(PYTHON, "-m", "ddslogd", "run")
    async with asyncio.timeout(60):
        while not list(host.logs.glob("streams/*/*.log")):
            await asyncio.sleep(0.02)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    process.send_signal(signal.SIGTERM)
    _, err = await process.communicate()

    held = [status[key].split() for key in ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapAmb")]
    none = ["0" * 16]
    assert held == [[str(UID)] * 4, [str(UID)] * 4, [str(UID), str(UID + 1)], none, none, none], err
    assert (process.returncode, host.owners(), '"event": "process.user"' in err.decode()) == (0, {UID}, True)


async def test_directories_that_are_not_there_yet_become_the_service_s(host: Host) -> None:
    host.logs.rmdir()
    host.state.rmdir()

    status, told = await host.ddslogd("once")

    assert (status, host.owners(), oct(host.logs.stat().st_mode & 0o777)) == (0, {UID}, "0o750"), told


async def test_elsewhere_they_become_the_other_directory_s_owner_s(host: Host) -> None:
    host.configure(logs="/var/log/elsewhere/logs")

    status, told = await host.ddslogd("once")

    made = host.root / "var/log/elsewhere/logs"
    assert (status, made.stat().st_uid, host.owners()) == (0, UID, {UID}), told


async def test_where_root_owns_the_directories_it_stays_root(host: Host) -> None:
    """As in a container."""
    host.configure(logs="/var/log/of-root", state="/var/lib/of-root")
    for path in ("var/log/of-root", "var/lib/of-root"):
        host.made(host.root / path, uid=0)

    status, told = await host.ddslogd("once")

    owners = {path.stat().st_uid for path in host.root.glob("var/*/of-root/**/*")}
    assert (status, owners, host.owners()) == (0, {0}, {UID}), told


async def test_check_judges_for_the_service_and_leaves_out_what_only_that_can_see(host: Host) -> None:
    """As root, as the service's user (whom systemd gives the credential elsewhere), and as somebody else."""
    good = await host.ddslogd("check")
    as_user = await host.ddslogd_as_user("check")
    other = ("setpriv", f"--reuid={UID + 9}", f"--regid={UID + 9}", "--clear-groups")
    as_other = await host.run(*other, PYTHON, "-m", "ddslogd", "check")
    hidden = host.root / "etc/hidden"  # as ExecReload= is shown the service's credentials
    hidden.mkdir(mode=0o700)
    reload = (
        "env",
        "CREDENTIALS_DIRECTORY=/etc/hidden",
        "setpriv",
        f"--reuid={UID}",
        f"--regid={UID}",
        "--clear-groups",
    )
    in_reload = await host.run(*reload, PYTHON, "-m", "ddslogd", "check")
    (host.etc / "token").unlink()
    missing = await host.ddslogd("check")
    os.chown(host.state, 0, 0)
    unwritable = await host.ddslogd_as_user("check")

    assert [status for status, _ in (good, as_user, as_other, in_reload, missing, unwritable)] == [0] * 6
    not_seen = "not checked: clouds.sandbox.auth.token: systemd gives the credential token to the service"
    assert ("warning" in good[1], "not checked" in good[1], "warning" in as_user[1]) == (False, False, False), good[1]
    assert [not_seen in told for _, told in (as_user, as_other, in_reload)] == [True] * 3, in_reload[1]
    assert ("not checked: whether ddslogd may write" in as_other[1], "warning" in as_other[1]) == (True, False)
    assert "warning: clouds.sandbox.auth.token: there is no /etc/ddslogd/token" in missing[1], missing[1]
    assert "warning: storage.state: ddslogd may not write to /var/lib/ddslogd" in unwritable[1], unwritable[1]


@pytest.mark.parametrize("command", [["run"], ["once"], ["prune"], ["rebuild", "solo"]])
async def test_a_directory_of_the_unit_s_that_is_root_s_is_refused_with_what_mends_it(
    host: Host, command: list[str]
) -> None:
    os.chown(host.state, 0, 0)

    status, told = await host.ddslogd(*command)

    fixes = "/var/lib/ddslogd is root's, and ddslogd is to write there: chown -R ddslogd: /var/lib/ddslogd"
    assert (status, fixes in told, list(host.logs.iterdir())) == (74, True, []), told


async def test_directories_of_two_users_are_refused(host: Host) -> None:
    os.chown(host.logs, UID + 7, UID + 7)

    status, told = await host.ddslogd("once")

    fixes = f"/var/log/ddslogd is {UID + 7}'s and /var/lib/ddslogd is ddslogd's: make them one user's"
    assert (status, fixes in told) == (74, True), told


@pytest.mark.parametrize("left", ["var/lib/ddslogd/ledger.sqlite3", "var/log/ddslogd/.ddslogd.lock"])
async def test_what_an_earlier_root_left_in_the_way_is_named_with_what_mends_it(host: Host, left: str) -> None:
    """To root, and to the service's user."""
    await host.ddslogd("once")
    os.chown(host.root / left, 0, 0)

    _, looked = await host.ddslogd("doctor", "--offline")
    assert f"/{left} is root's (1 in all)" in looked, looked
    for status, told in (await host.ddslogd("once"), await host.ddslogd_as_user("run")):
        fixes = f"/{left} is root's, left by a command that root started: chown -R ddslogd: "
        assert (status, f"{fixes}/var/log/ddslogd /var/lib/ddslogd" in told) == (74, True), told


async def test_a_stream_that_an_earlier_root_left_is_named_and_the_rest_goes_on(host: Host) -> None:
    await host.ddslogd("once")
    (stream,) = host.logs.glob("streams/*/*.log")
    os.chown(stream, 0, 0)
    stream.chmod(0o640)

    status, told = await host.ddslogd("rebuild", "--log-level", "warning", "solo")

    todo = '"todo": "chown -R ddslogd: /var/log/ddslogd /var/lib/ddslogd"'
    assert (status, '"event": "storage.of_root"' in told, todo in told) == (0, True, True), told


async def test_a_refusal_of_the_disk_names_what_is_root_s_on_the_way(host: Host) -> None:
    """Each later cycle fails with it, in the journal and in the status."""
    await host.ddslogd("once")
    (node,) = host.logs.glob("snapshots/*/[!.]*")
    os.chown(node, 0, 0)
    host.cloud.write("solo_single_node_1", b"a new line\n")
    (host.state / "ledger.sqlite3").unlink()  # the export counts as new

    status, told = await host.ddslogd("once")

    name = node.relative_to(host.root)
    assert (status, f"/{name} is root's: chown -R {UID}: /{name}" in told) == (1, True), told


async def test_a_group_that_the_service_may_write_by_is_as_good_as_an_owner(host: Host) -> None:
    for directory in (host.logs, host.state):
        os.chown(directory, 0, UID)
        directory.chmod(0o2770)

    status, told = await host.ddslogd("once")

    made = {path.stat().st_uid for place in (host.logs, host.state) for path in place.rglob("*")}
    assert (status, made) == (0, {UID}), told


async def test_where_root_may_not_become_another_user_it_says_who_can(host: Host) -> None:
    """Its right to set groups is gone, as in some containers."""
    without = ("setpriv", "--bounding-set=-setgid", PYTHON, "-m", "ddslogd", "once")

    status, told = await host.run(*without)

    assert (status, "sudo -u ddslogd ddslogd" in told, host.owners()) == (74, True, {UID}), told


def test_the_user_of_these_tests_is_nobody_of_this_host() -> None:
    with pytest.raises(KeyError):
        pwd.getpwuid(UID)
