"""The systemd unit, by systemd's own judgement."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "systemd" / "ddslogd.service"


def needed(tool: str) -> str:
    """Give the tool's path; without it the test is skipped, or fails where nothing may be skipped."""
    path = shutil.which(tool)
    if path is None and os.environ.get("DDSLOGD_SKIP_NOTHING"):
        pytest.fail(f"{tool} is missing")
    if path is None:
        pytest.skip(f"{tool} is missing: install Debian's systemd")
    return path


def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    """`verify` exits 0 on unknown keys: silence is what counts. The program is not installed, so another stands in."""
    analyze = needed("systemd-analyze")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/ddslogd/bin/ddslogd", sys.executable))

    told = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=True)

    assert told.stdout + told.stderr == ""


def test_a_configuration_that_is_wrong_is_not_restarted() -> None:
    assert "RestartPreventExitStatus=78" in UNIT.read_text().splitlines()
