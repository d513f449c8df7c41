"""The checksums of a part follow its writer, and the disk begins before the end."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.model.errors import StorageError
from ddslogd.model.snapshot import Identity
from ddslogd.storage.snapshots import partial_file
from ddslogd.storage.snapshots.checksums import Checks
from ddslogd.storage.snapshots.partial_file import SHORT, WRITE_BACK, Desk, Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BATCH = 1024 * 1024
LARGE = [bytes([at]) * BATCH for at in range(20)]
SHA256 = Checks(md5=False, sha256=True)


@pytest.fixture(params=[Checks(), SHA256], ids=["md5", "sha256"])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    desk = Desk(lambda: request.param)
    yield desk
    desk.close()


@pytest.fixture
async def part(desk: Desk, tmp_path: Path) -> Part:
    part = Part(tmp_path, tmp_path / "x.20260102T030405.678Z.log", desk=desk)
    await part.begin(Identity(etag='"x"', total=len(LARGE) * BATCH))
    return part


def checksum(part: Part) -> str:
    return part.digests.md5 or part.digests.sha256


def expected(part: Part, data: bytes) -> str:
    digest = hashlib.md5(data, usedforsecurity=False) if part.digests.md5 else hashlib.sha256(data)
    return digest.hexdigest()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Slow:
    """Reads of parts wait until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.let_go = threading.Event(), threading.Event()
        self._real = os.preadv
        monkeypatch.setattr(os, "preadv", self._preadv)

    def _preadv(self, fd: int, buffers: Any, offset: int) -> int:
        self.reached.set()
        self.let_go.wait()
        return self._real(fd, buffers, offset)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow(monkeypatch)
    yield slow
    slow.let_go.set()


@pytest.mark.parametrize("size", [SHORT // BATCH, SHORT // BATCH + 1, len(LARGE)])
async def test_the_checksum_is_that_of_all_that_was_written(part: Part, size: int) -> None:
    for batch in LARGE[:size]:
        await part.append([batch[:1000], batch[1000:]])

    await part.settle()

    assert checksum(part) == expected(part, b"".join(LARGE[:size]))


async def test_what_comes_is_written_while_checksums_are_taken(part: Part, slow: Slow) -> None:
    """A slow processor is waited for at the end, and not at each batch."""
    for batch in LARGE:
        await part.append([batch])
    before = part.digests.size, slow.reached.is_set()
    slow.let_go.set()
    await part.settle()

    assert before == (SHORT, True)
    assert (part.size, checksum(part)) == (len(LARGE) * BATCH, expected(part, b"".join(LARGE)))


async def test_a_write_that_fails_half_way_leaves_the_checksum_of_what_counts(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.writev, [3]

    def full(fd: int, pieces: Sequence[memoryview]) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        return real(fd, [pieces[0][:500]])

    with monkeypatch.context() as broken:
        broken.setattr(os, "writev", full)
        with pytest.raises(StorageError, match="ENOSPC"):
            await part.append([LARGE[0], LARGE[1]])
    await part.append([LARGE[2]])
    await part.settle()

    assert checksum(part) == expected(part, LARGE[0][:1500] + LARGE[2])


async def test_a_part_that_somebody_cut_short_is_not_whole(part: Part, slow: Slow) -> None:
    for batch in LARGE[:6]:
        await part.append([batch])
    assert part.path is not None
    os.truncate(part.path, SHORT)
    slow.let_go.set()

    with pytest.raises(StorageError, match="shorter than what was written"):
        await part.settle()


@pytest.mark.parametrize("checks", [Checks(), SHA256, Checks(md5=False)], ids=["md5", "sha256", "none"])
async def test_a_part_that_somebody_cut_short_does_not_get_its_name(tmp_path: Path, checks: Checks) -> None:
    """Not even where its checksums were taken before, or are not taken at all."""
    desk = Desk(lambda: checks)
    part = Part(tmp_path, tmp_path / "x.20260102T030405.678Z.log", desk=desk)
    await part.begin(Identity(etag='"x-2"', total=2 * BATCH))
    await part.append(LARGE[:2])
    assert part.path is not None
    os.truncate(part.path, BATCH)

    with pytest.raises(StorageError, match="not as long as what was written"):
        await part.publish()
    desk.close()

    assert list(tmp_path.iterdir()) == []


async def test_a_part_is_published_once(part: Part, tmp_path: Path) -> None:
    for batch in LARGE:
        await part.append([batch])
    await part.publish()
    await part.remove()

    with pytest.raises(ValueError, match="after begin"):
        await part.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["x.20260102T030405.678Z.log"]


async def test_what_somebody_cut_off_a_part_is_not_made_up_for_by_zeroes(
    part: Part, desk: Desk, tmp_path: Path
) -> None:
    """A later transfer goes on where the cut is."""
    for batch in LARGE[:6]:
        await part.append([batch])
    path = part.path
    assert path is not None
    os.truncate(path, 5 * BATCH)
    await part.close()
    later = Part(tmp_path, tmp_path / "x.20260102T030405.678Z.log", desk=desk)
    await later.take_over(path, part.identity, trusted=True)

    assert (later.size, checksum(later)) == (5 * BATCH, expected(later, b"".join(LARGE[:5])))
    await later.remove()


async def test_checksums_far_behind_are_taken_in_strides(
    part: Part, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two the thread is free for others, and whoever is cancelled is not kept waiting."""
    monkeypatch.setattr(partial_file, "STRIDE", BATCH // 2)
    for batch in LARGE:
        await part.append([batch])
    settling = asyncio.create_task(part.settle())
    await asyncio.sleep(0)
    settling.cancel()
    slow.let_go.set()
    await asyncio.wait([settling])
    after_one = part.digests.size
    await part.settle()

    assert (settling.cancelled(), after_one) == (True, SHORT + BATCH // 2)
    assert checksum(part) == expected(part, b"".join(LARGE))


@pytest.mark.parametrize("later", [0, 1])
async def test_what_cannot_be_read_back_is_an_error_of_the_disk(
    part: Part, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", broken)

    with pytest.raises(StorageError, match="EIO"):  # noqa: PT012  # the next batch may hear of it, or the end
        for batch in LARGE[: SHORT // BATCH + 1 + later]:
            await part.append([batch])
        await part.settle()


@pytest.mark.parametrize("leave", [Part.close, Part.remove])
async def test_no_descriptor_is_closed_while_checksums_are_taken(part: Part, slow: Slow, leave: Any) -> None:
    """Its number would become another file's, whose bytes would be read."""
    before = descriptors()
    for batch in LARGE[: SHORT // BATCH + 1]:
        await part.append([batch])
    await asyncio.to_thread(slow.reached.wait)
    leaving = asyncio.create_task(leave(part))
    await asyncio.wait([leaving], timeout=0.05)
    held = descriptors(), leaving.done()
    slow.let_go.set()
    await leaving

    assert (held, descriptors()) == ((before, False), before - 1)


async def test_a_part_is_closed_though_its_transfer_is_cancelled_twice(part: Part, slow: Slow) -> None:
    before = descriptors()
    for batch in LARGE[: SHORT // BATCH + 1]:
        await part.append([batch])
    await asyncio.to_thread(slow.reached.wait)
    leaving = asyncio.create_task(part.close())
    for _ in range(2):
        await asyncio.sleep(0)
        leaving.cancel()
    slow.let_go.set()
    await asyncio.wait([leaving])

    assert (leaving.cancelled(), descriptors()) == (True, before - 1)


async def test_a_part_that_is_published_at_once_is_settled_before(part: Part, slow: Slow, tmp_path: Path) -> None:
    for batch in LARGE:
        await part.append([batch])
    await asyncio.to_thread(slow.reached.wait)
    publishing = asyncio.create_task(part.publish())
    await asyncio.wait([publishing], timeout=0.05)
    held = publishing.done()
    slow.let_go.set()
    await publishing

    assert (held, (tmp_path / "x.20260102T030405.678Z.log").read_bytes()) == (False, b"".join(LARGE))


async def test_the_disk_begins_with_a_large_file_before_its_end(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte once, some MiB at a time: the sync at the end is left with little."""
    begun = []

    class Libc:
        def sync_file_range(self, fd: int, offset: Any, size: Any, flags: int) -> int:
            begun.append((offset.value, size.value))
            assert real.sync_file_range(fd, offset, size, flags) == 0
            return 0

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    real = partial_file._libc
    monkeypatch.setattr(partial_file, "_libc", Libc())
    for batch in LARGE:
        await part.append([batch])

    assert begun == [(0, WRITE_BACK), (WRITE_BACK, WRITE_BACK)]


async def test_where_no_thread_is_spare_checksums_are_taken_with_the_writing(
    part: Part, desk: Desk, slow: Slow
) -> None:
    """To read it back would cost what nobody is free to spend."""
    others_end = threading.Event()
    others = [desk.begin(others_end.wait) for _ in range(desk.threads - 1)]
    for batch in LARGE:
        await part.append([batch])
    before = part.digests.size, slow.reached.is_set()
    others_end.set()
    await asyncio.wait(others)

    assert (before, checksum(part)) == ((len(LARGE) * BATCH, False), expected(part, b"".join(LARGE)))


async def test_a_thread_is_spare_again_once_a_step_is_over(desk: Desk) -> None:
    await asyncio.gather(*(desk.run(int) for _ in range(desk.threads)))

    assert desk.has_spare
