"""A real file system that is full or read-only: what is kept, what is said, and that it fixes itself."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import structlog

from ddslogd.model.cycle import CycleOutcome, Silent
from ddslogd.sandbox import replica_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ddslogd.model.snapshot import LogFile
    from support.clocks import ManualClock
    from support.testbed import Bed

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
    disk.mount("-o remount,size=700k")
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


# --- the room that stays free -----------------------------------------------------------------------------------------

KEEP_FREE = 600_000  # bytes


class Watching(Silent):
    """Looks whenever bytes have come."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def advanced(self, file: LogFile, size: int) -> None:  # noqa: ARG002  # which it was does not matter
        self._look()


def free_on(disk: Disk) -> int:
    found = os.statvfs(disk.path)
    return found.f_bavail * found.f_frsize


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "without a length"])
async def test_a_file_that_would_take_of_the_room_that_stays_free_fails_and_leaves_nothing(
    bed: Bed, disk: Disk, *, announced: bool
) -> None:
    """A store that sends without end took all but a megabyte. How much was free the least is seen while it comes.

    A small file next to one of no length may find all that is left taken just then: it comes in the next cycle.
    """
    disk.mount("-o remount,size=2m")
    bed.set("keep_free: 0", f"keep_free: {KEEP_FREE}")
    least = [free_on(disk)]
    bed.progress = Watching(lambda: least.append(free_on(disk)))
    async with bed.cloud(fleet=FLEET) as sandbox:
        large, small = (node.name for node in sandbox.fleet[0].nodes[:2])
        sandbox.write(large, LOG * 9)
        sandbox.write(small, b"a small file comes all the same\n")
        sandbox.faults.no_length = not announced

        report = await bed.collect()

    failed = {failure.node: failure for failure in report.failures}
    assert {failure.kind for failure in failed.values()} == {"no_room"}
    assert ("storage.keep_free: make room" in failed[large].reason, bed.parts()) == (True, [])
    assert bed.contents() == ([] if small in failed else [b"a small file comes all the same\n"])
    assert (min(least) >= KEEP_FREE, announced and small in failed) == (True, False)


async def test_many_small_files_leave_the_room_that_stays_free(bed: Bed, disk: Disk) -> None:
    disk.mount("-o remount,size=1500k")
    bed.set("keep_free: 0", f"keep_free: {KEEP_FREE}")
    async with bed.cloud(fleet=tuple(replica_set(name, nodes=7) for name in ("solo", "more", "many"))) as sandbox:
        for instance in sandbox.fleet:
            for node in instance.nodes:
                sandbox.write(node.name, LOG[:60_000] + node.name.encode() + b"\n")
        async with bed.open() as service:
            reports = await service.once(await service.fleet())

    assert {failed.kind for report in reports for failed in report.failures} == {"no_room"}
    assert (free_on(disk) >= KEEP_FREE - 14 * 4096, bed.parts()) == (True, [])  # the last block of each


async def test_a_stream_that_would_take_of_the_room_that_stays_free_waits_and_loses_nothing(
    bed: Bed, disk: Disk, clock: ManualClock
) -> None:
    """What came compressed is many times as large in the stream."""
    disk.mount("-o remount,size=6m")
    bed.set("keep_free: 0", "keep_free: 2000000")
    async with bed.cloud(fleet=FLEET) as sandbox:
        sandbox.write(sandbox.fleet[0].nodes[0].name, LOG * 20)
        sandbox.faults.packed = True
        async with bed.open():
            first = await bed.collect()
            held = free_on(disk)
            disk.mount("-o remount,size=20m")
            clock.forward(minutes=20)
            sandbox.write(sandbox.fleet[0].nodes[0].name, b"one more\n")
            await bed.collect()

    (stream,) = [path for path in (bed.directory / "streams").glob("*/*/*.log") if path.stat().st_size]
    said = f"{first.error} {first.failures}"
    assert ("storage.keep_free" in said, held >= 2_000_000) == (True, True)
    assert stream.read_bytes() == LOG * 20 + b"one more\n"


async def test_old_files_make_room_for_what_was_refused(bed: Bed, disk: Disk, clock: ManualClock) -> None:
    """Free room never falls below what stays free: that a file was refused has to be reason enough."""
    disk.mount("-o remount,size=3m")
    bed.set("keep_free: 0", "keep_free: 1500000")
    async with bed.cloud(fleet=FLEET, window=10_000_000) as sandbox, bed.open():
        reports = []
        for number in range(8):
            sandbox.write(sandbox.fleet[0].nodes[0].name, b"%03d\n" % number + b"x" * 250_000 + b"\n")
            reports.append(await bed.collect())
            clock.forward(minutes=20)

    outcomes = [report.outcome for report in reports]
    assert free_on(disk) >= 1_500_000
    assert outcomes[0] is CycleOutcome.OK
    assert any(one.kind == "no_room" for report in reports for one in report.failures)
    assert len(bed.contents()) < 8
