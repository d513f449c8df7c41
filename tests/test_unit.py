"""The systemd unit, by systemd's own judgement."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "systemd" / "ddslogd.service"


def needed(tool: str, todo: str = "install Debian's systemd") -> str:
    """Give the tool's path; without it the test is skipped, or fails where nothing may be skipped."""
    path = shutil.which(tool)
    if path is None and os.environ.get("DDSLOGD_SKIP_NOTHING"):
        pytest.fail(f"{tool} is missing")
    if path is None:
        pytest.skip(f"{tool} is missing: {todo}")
    return path


def installed(directory: Path, *, with_drop_in: bool) -> Path:
    """Put the unit into a directory. The program is not installed, so another stands in."""
    unit = directory / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/ddslogd/bin/ddslogd", sys.executable))
    if with_drop_in:
        (directory / f"{UNIT.name}.d").mkdir()
        shutil.copy(UNIT.with_name("read-shipper.conf"), directory / f"{UNIT.name}.d")
    return unit


def settings(key: str) -> list[str]:
    return [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{key}=")]


@pytest.mark.parametrize("with_drop_in", [False, True])
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path, *, with_drop_in: bool) -> None:
    """`verify` exits 0 on unknown keys: silence is what counts."""
    analyze = needed("systemd-analyze")
    unit = installed(tmp_path, with_drop_in=with_drop_in)

    told = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=True)

    assert told.stdout + told.stderr == ""


def test_the_unit_is_hardened() -> None:
    """By systemd's own measure: 10 is a service without any hardening."""
    analyze = needed("systemd-analyze")
    command = [analyze, "security", "--offline=true", "--threshold=15", "--no-pager", str(UNIT)]

    told = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (told.returncode, "Overall exposure level" in told.stdout) == (0, True), told.stdout


def test_a_configuration_that_is_wrong_is_not_restarted() -> None:
    assert settings("RestartPreventExitStatus") == ["78"]


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
    logs = (tmp_path / "var/log/ddslogd").stat()
    assert (logs.st_uid, logs.st_gid, oct(logs.st_mode & 0o777)) == (user, group, "0o750")
