"""The systemd unit, by systemd's own judgement."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.places import ROOT
from support.programs import needed

if TYPE_CHECKING:
    from pathlib import Path

UNIT = ROOT / "systemd" / "ddslogd.service"


def installed(directory: Path, *, with_drop_in: bool) -> Path:
    """Put the unit into a directory. The program is not installed, so another is in."""
    unit = directory / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/ddslogd/bin/ddslogd", sys.executable))
    shutil.copy(UNIT.with_suffix(".socket"), directory)
    if with_drop_in:
        (directory / f"{UNIT.name}.d").mkdir()
        shutil.copy(UNIT.with_name("read-shipper.conf"), directory / f"{UNIT.name}.d")
    return unit


def settings(key: str) -> list[str]:
    return [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{key}=")]


@pytest.mark.parametrize("with_drop_in", [False, True])
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path, *, with_drop_in: bool) -> None:
    """`verify` exits 0 on unknown keys: silence is what counts. The manual is not installed here."""
    analyze = needed("systemd-analyze")
    unit = installed(tmp_path, with_drop_in=with_drop_in)

    units = [str(unit), str(unit.with_suffix(".socket"))]
    told = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=True)

    assert told.stdout + told.stderr == ""


@pytest.mark.daemon
def test_the_unit_names_the_pages_of_the_manual(tmp_path: Path) -> None:
    """Those that the package is built with; `systemctl status` shows them, `systemctl help` opens them."""
    subprocess.run([sys.executable, ROOT / "systemd/deb/manual.py", tmp_path], check=True)
    pages = [path.name.removesuffix(".gz").rpartition(".") for path in tmp_path.rglob("*.gz")]

    (named,) = settings("Documentation")
    assert sorted(named.split()) == sorted(f"man:{name}({section})" for name, _, section in pages)


def test_the_group_gets_to_logs_and_socket_and_not_to_the_state() -> None:
    """Else who may read the logs could lock the ledger."""
    modes = [settings(f"{directory}DirectoryMode") for directory in ("Logs", "Runtime", "State")]

    assert modes == [["0750"], ["0750"], ["0700"]]


def test_the_unit_is_hardened() -> None:
    """By systemd's own measure: 10 is a service without any hardening."""
    analyze = needed("systemd-analyze")
    command = [analyze, "security", "--offline=true", "--threshold=15", "--no-pager", str(UNIT)]

    told = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (told.returncode, "Overall exposure level" in told.stdout) == (0, True), told.stdout


def test_a_configuration_that_is_wrong_is_not_restarted() -> None:
    assert settings("RestartPreventExitStatus") == ["78"]


@pytest.mark.parametrize("verdict", [0, 78])
def test_a_reload_ends_as_check_does_and_the_daemon_hears_of_it_either_way(tmp_path: Path, verdict: int) -> None:
    """The command of the unit, with another check and another daemon."""
    (command,) = settings("ExecReload")
    program, daemon = tmp_path / "ddslogd", tmp_path / "daemon"
    program.write_text(f"#!/bin/sh\necho $* > {tmp_path}/checked\nexit {verdict}\n")
    program.chmod(0o755)
    daemon.write_text("trap 'echo reload; exit' HUP\ntrap exit TERM\necho ready\nwhile :; do sleep 0.02; done\n")
    started = ["env", "--default-signal=HUP", "/bin/sh", str(daemon)]  # a shell traps none that is ignored
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        listener.stdout.readline()
        text = command.replace("$$", "$").replace("/opt/ddslogd/bin/ddslogd", str(program))
        done = subprocess.run(shlex.split(text), env={**os.environ, "MAINPID": str(listener.pid)}, check=False)
        try:
            heard = listener.stdout.read()  # to its end, which comes with what it hears
        finally:
            listener.kill()

    assert (done.returncode, heard, (tmp_path / "checked").read_text()) == (verdict, "reload\n", "check\n")


def test_a_secret_that_is_not_there_is_given_as_empty() -> None:
    """Else the service would not start for want of a secret that its configuration does not name."""
    loaded = [entry.partition(":")[0] for entry in settings("LoadCredential")]

    assert settings("SetCredential") == [f"{name}:\\n" for name in loaded]


def test_users_and_directories_are_as_systemd_reads_them(tmp_path: Path) -> None:
    """In a root directory of their own, twice: the second time nothing is left to do."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files to others")
    sysusers, tmpfiles = needed("systemd-sysusers"), needed("systemd-tmpfiles")
    (tmp_path / "etc").mkdir()
    for _ in range(2):
        for tool, name, *options in (
            (sysusers, "ddslogd.sysusers"),
            (tmpfiles, "ddslogd.tmpfiles", "--create"),
        ):
            command = [tool, f"--root={tmp_path}", *options, str(UNIT.with_name(name))]
            told = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (told.returncode, "Failed" in told.stderr) == (0, False), told.stderr

    entry = next(line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("ddslogd:"))
    user, group = (int(number) for number in entry.split(":")[2:4])
    for directory, mode in (("var/log/ddslogd", "0o750"), ("var/lib/ddslogd", "0o700")):
        there = (tmp_path / directory).stat()
        assert (there.st_uid, there.st_gid, oct(there.st_mode & 0o777)) == (user, group, mode)
