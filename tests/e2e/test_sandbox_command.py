"""The sandbox as a command: its configuration as a file, and faults as options."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.sandbox import ApiError, Faults, fault_forms, read_faults
from support.places import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CONTRIBUTING = ROOT / "CONTRIBUTING.md"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["no_length"], {"no_length": True}),
        (["no-length", "packed"], {"no_length": True, "packed": True}),
        (["api_errors=500,503:DBS.280005"], {"api_errors": [ApiError(500), ApiError(503, "DBS.280005")]}),
        (["object_errors=503", "object_errors=403,404"], {"object_errors": [503, 403, 404]}),
        (["failed_rows=n1,n2"], {"failed_rows": {"n1", "n2"}}),
        (["slow_rows=n1:30", "slow_rows=n2:inf"], {"slow_rows": {"n1": 30.0, "n2": float("inf")}}),
        (["skew=-900"], {"skew": timedelta(minutes=-15)}),
        (["skew_of=iam:90"], {"skew_of": {"iam": timedelta(seconds=90)}}),
        (["bytes_per_second=1e5"], {"bytes_per_second": 100_000.0}),
        (["etag=none"], {"etag": "none"}),
        (["subject_token=x=y"], {"subject_token": "x=y"}),
        ([], {}),
    ],
)
def test_faults_are_read(texts: list[str], expected: dict[str, Any]) -> None:
    assert read_faults(texts) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("surplus", "there is no fault 'surplus'; there are api_errors, "),
        ("mangle=x", "there is no fault 'mangle'"),
        ("no_length=yes", "no_length takes no value, not 'yes'"),
        ("drop_api", "drop_api takes a number, not ''"),
        ("drop_api=x", "drop_api takes a number, not 'x'"),
        ("etag=sha1", "etag takes md5, multipart, encrypted or none, not 'sha1'"),
        ("skew=1e99", "skew takes seconds, not '1e99'"),
        ("slow_rows=n1", "slow_rows takes KEY:number, not 'n1'"),
    ],
)
def test_a_fault_that_is_none_says_what_there_is(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        read_faults([text])


def test_each_fault_that_is_no_function_can_be_named() -> None:
    unnamed = {each.name for each in fields(Faults)} - fault_forms().keys()

    assert unnamed == {"after_object", "page_instead", "metadata_mangle", "mangle", "link_rewrite"}


@pytest.mark.daemon
async def test_the_lines_for_contributors_work_as_they_are_pasted(tmp_path: Path) -> None:
    """In a shell that runs them one after the other; the sandbox is in the background."""
    (block,) = re.findall(r"```\n(ddslogd sandbox --speed 60 .*?)```", CONTRIBUTING.read_text(), re.DOTALL)
    block = block.replace("--speed 60", "--speed 600")
    program = f"set -m; ddslogd() {{ '{sys.executable}' -m ddslogd \"$@\"; }}\n{block}"

    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert "cycle      orders: ok" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "sandbox.yaml").stat().st_mode & 0o777 == 0o600


@pytest.mark.daemon
async def test_a_sandbox_that_is_told_to_go_wrong_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ddslogd"]
    sandbox = await asyncio.create_subprocess_exec(
        *(*command, "sandbox", "--speed", "600", "--fault", "failed_rows=orders_replica_node_1"),
        *("--config-out", "c.yaml", "--directory", str(tmp_path)),
        cwd=tmp_path,
    )
    try:
        async with asyncio.timeout(60):
            while not (tmp_path / "c.yaml").exists():
                await asyncio.sleep(0.05)
        text = (tmp_path / "c.yaml").read_text()
        (token,) = re.findall(r"^# export DDSLOGD_TOKEN=(.+)$", text, re.MULTILINE)
        done = await asyncio.to_thread(
            subprocess.run,
            [*command, "once", "-c", "c.yaml", "orders"],
            cwd=tmp_path,
            env={**os.environ, "DDSLOGD_TOKEN": token},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        sandbox.send_signal(signal.SIGINT)
        status = await sandbox.wait()

    assert (done.returncode, status) == (1, 0)
    assert re.search(r"^failed     orders/orders_replica_node_1 ", done.stdout, re.MULTILINE), done.stdout
