"""A real file system that is full or read-only: what is kept, what is said, and that it mends itself."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import structlog

from ddslogd.models import CycleOutcome
from ddslogd.sandbox import replica_set

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Bed, ManualClock

LOG = b"".join(b"line %06d of the log\n" % number for number in range(8000))  # 184,000 bytes
FLEET = (replica_set("solo", nodes=2),)


class Disk:
    """A tmpfs of a few pages."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, options: str) -> None:
        subprocess.run(["mount", *options.split(), str(self.path)], check=True, capture_output=True)


@pytest.fixture
def disk(bed: Bed, tmp_path: Path) -> Iterator[Disk]:
    """Put the logs on a file system of 300 KiB: room for one of two files."""
    path = tmp_path / "disk"
    path.mkdir()
    disk = Disk(path)
    try:
        disk.mount("-t tmpfs -o size=300k tmpfs")
    except (subprocess.CalledProcessError, FileNotFoundError) as exc:
        pytest.skip(f"this machine forbids mounts (uid {os.getuid()}): {exc}")
    bed.directory = path / "logs"
    yield disk
    subprocess.run(["umount", str(path)], check=True)


async def test_a_full_disk_fails_one_file_says_where_and_why_and_keeps_the_other(bed: Bed, disk: Disk) -> None:
    async with bed.cloud(fleet=FLEET) as sandbox:
        for node in sandbox.fleet[0].nodes:
            sandbox.write(node.name, LOG)

        report = await bed.collect()

        (failed,) = report.failures
        assert (report.outcome, bed.contents(), bed.parts()) == (CycleOutcome.PARTIAL, [LOG], [])
        assert ("(ENOSPC)" in failed.reason, str(disk.path) in failed.reason) == (True, True)


async def test_the_blocks_are_reserved_before_the_bytes_are_fetched(bed: Bed, disk: Disk) -> None:
    """The file that does not fit costs no transfer."""
    async with bed.cloud(fleet=FLEET) as sandbox:
        sandbox.write(sandbox.fleet[0].nodes[0].name, LOG * 2)
        sandbox.faults.bytes_per_second = 1_000_000

        await bed.collect()

        assert (sandbox.bytes_sent < len(LOG), bed.files()) == (True, [])
        assert disk.path.exists()


async def test_a_disk_that_fills_in_mid_write_leaves_nothing_visible(bed: Bed, disk: Disk) -> None:
    """Without a length nothing can be reserved."""
    async with bed.cloud(fleet=FLEET) as sandbox:
        sandbox.write(sandbox.fleet[0].nodes[0].name, LOG * 2)
        sandbox.faults.no_length = True

        report = await bed.collect()

        (failed,) = report.failures
        assert ("(ENOSPC)" in failed.reason, bed.files(), bed.parts()) == (True, [], [])
        assert disk.path.exists()


async def test_when_there_is_room_again_the_next_cycle_brings_what_failed(
    bed: Bed, disk: Disk, clock: ManualClock
) -> None:
    async with bed.cloud(fleet=FLEET) as sandbox:
        for node in sandbox.fleet[0].nodes:
            sandbox.write(node.name, LOG)
        async with bed.open():
            await bed.collect()
            disk.mount("-o remount,size=2m")
            clock.forward(minutes=20)
            report = await bed.collect()

        assert (report.outcome, bed.contents()) == (CycleOutcome.OK, [LOG, LOG])


async def test_a_disk_that_turned_read_only_is_said_and_got_over(bed: Bed, disk: Disk, clock: ManualClock) -> None:
    async with bed.cloud(fleet=FLEET) as sandbox:
        sandbox.write(sandbox.fleet[0].nodes[0].name, LOG)
        async with bed.open():
            disk.mount("-o remount,ro")
            first = await bed.collect()
            disk.mount("-o remount,rw")
            clock.forward(minutes=20)
            await bed.collect()

        assert (["(EROFS)" in failed.reason for failed in first.failures], bed.contents()) == ([True], [LOG])


async def test_a_ledger_on_a_full_disk_stops_no_file_and_is_said(bed: Bed, disk: Disk, clock: ManualClock) -> None:
    """What was published and could not be entered is adopted by the next start."""
    async with bed.cloud(fleet=FLEET) as sandbox:
        bed.state = disk.path / "state"
        with structlog.testing.capture_logs() as events:
            async with bed.open():
                room = os.statvfs(disk.path)
                with (disk.path / "filler").open("wb") as filler:
                    filler.write(bytes(room.f_bavail * room.f_frsize))
                sandbox.write(sandbox.fleet[0].nodes[0].name, b"small\n")
                await bed.collect()
                (disk.path / "filler").unlink()
                clock.forward(minutes=20)
                report = await bed.collect()

        told = {event["event"] for event in events}
        assert (report.outcome, bed.contents(), "ledger.failed" in told) == (CycleOutcome.OK, [b"small\n"], True)
