"""One link to one whole file, whatever the connection does: bytes on disk, requests made, bytes fetched."""

from __future__ import annotations

import gzip
import hashlib
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.model.cycle import CycleOutcome, Silent
from ddslogd.model.snapshot import Snapshot, Stored
from ddslogd.sandbox import replica_set

if TYPE_CHECKING:
    from ddslogd.model.cycle import CycleReport
    from ddslogd.model.snapshot import LogFile
    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

NODE = "solo_single_node_1"
LOG = b"".join(b"line %06d of the log\n" % number for number in range(8000))  # 184,000 bytes


@pytest.fixture
def log(sandbox: Sandbox) -> bytes:
    sandbox.write(NODE, LOG)
    return LOG


def snapshot_of(report: CycleReport) -> Snapshot:
    (outcome,) = report.outcomes
    assert isinstance(outcome, Stored), outcome
    return outcome.snapshot


def ranges(sandbox: Sandbox) -> list[str | None]:
    return [request.range or None for request in sandbox.requests if request.kind == "object"]


async def test_a_cut_body_is_resumed_and_whole(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    """Two torn connections leave one whole file, no part, and no byte fetched twice."""
    sandbox.faults.cut_after = [30_000, 60_000]

    await bed.collect()

    assert (bed.contents(), bed.parts(), sandbox.bytes_sent) == ([log], [], len(log))


async def test_a_resume_asks_from_where_the_disk_is(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.cut_after = [30_000]

    await bed.collect()

    assert ranges(sandbox) == [None, f"bytes={30_000}-"]
    assert bed.contents() == [log]


async def test_a_resume_names_the_object_it_goes_on_with(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.cut_after = [30_000]

    await bed.collect()

    sent = [request.headers.get("If-Match") for request in sandbox.requests if request.kind == "object"]
    assert sent == [None, f'"{hashlib.md5(log, usedforsecurity=False).hexdigest()}"']


async def test_a_link_gets_no_header_of_ours_but_range_and_if_match(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.cut_after = [30_000]

    await bed.collect()

    sent = {name.lower() for request in sandbox.requests if request.kind == "object" for name in request.headers}
    assert sent == {"host", "user-agent", "accept", "accept-encoding", "range", "if-match"}
    assert bed.contents() == [log]


async def test_a_stalled_connection_is_given_up_and_resumed(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.stall_after = [50_000]
    bed.set("stall_timeout: 60s", "stall_timeout: 100ms")

    await bed.collect()

    assert (bed.contents(), ranges(sandbox)) == ([log], [None, "bytes=50000-"])


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_busy_store_is_asked_again(sandbox: Sandbox, bed: Bed, log: bytes, status: int) -> None:
    sandbox.faults.object_errors = [status, status]

    await bed.collect()

    assert (bed.contents(), sandbox.calls["object"]) == ([log], 3)


async def test_retries_end_and_the_failure_says_what_it_was(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.object_errors = [503] * 50

    report = await bed.collect()

    (failed,) = report.failures
    assert ("HTTP 503" in failed.reason, sandbox.calls["object"], bed.files()) == (True, 5, [])
    assert log


async def test_progress_renews_the_tries(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    """A connection that is cut every 70,000 bytes still brings the file where no try may be fruitless."""
    sandbox.faults.cut_after = [70_000, 70_000]
    bed.set("attempts: 5", "attempts: 1")

    await bed.collect()

    assert bed.contents() == [log]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refused_link_is_renewed_once_and_used(sandbox: Sandbox, bed: Bed, log: bytes, status: int) -> None:
    async with bed.open():
        sandbox.finish_exports()
        sandbox.faults.object_errors = [status]

        await bed.collect()

    assert (bed.contents(), sandbox.calls["object"]) == ([log], 2)


async def test_a_link_refused_twice_in_a_row_is_a_failure_that_says_so(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.object_errors = [403] * 50

    report = await bed.collect()

    (failed,) = report.failures
    assert ("neither the new link" in failed.reason, sandbox.calls["object"], bed.files()) == (True, 2, [])
    assert log


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        ("NoSuchKey", "object_gone", "the object is gone from the object store (HTTP 404, NoSuchKey"),
        ("NoSuchBucket", "object_gone", "the bucket is gone from the object store (HTTP 404, NoSuchBucket"),
        ("AccessDenied", "link_refused", "the object store does not accept the link (HTTP 404, AccessDenied"),
    ],
)
async def test_a_404_says_what_the_store_says_is_gone(
    sandbox: Sandbox, bed: Bed, log: bytes, code: str, kind: str, expected: str
) -> None:
    sandbox.faults.object_errors = [404] * 2
    sandbox.faults.object_codes = [code] * 2

    (failed,) = (await bed.collect()).failures

    assert (failed.kind, expected in failed.reason) == (kind, True)
    assert ("rights" in failed.reason) == (kind == "link_refused")
    assert log


async def test_a_link_about_to_die_is_renewed_before_it_is_used(bed: Bed) -> None:
    """With 20 s of life, less than the 30 s of renew_before, no request is made on the link that came first."""
    async with bed.cloud(link_life=timedelta(seconds=20)) as sandbox:
        sandbox.write(NODE, LOG)

        await bed.collect()

        refused = [request.status for request in sandbox.requests if request.kind == "object" and request.status >= 400]
        assert (bed.contents(), refused) == ([LOG], [])


async def test_one_renewal_serves_every_download_that_waits(bed: Bed) -> None:
    """The ten links of the first answer are refused: one call renews them all."""
    async with bed.cloud(fleet=(replica_set("solo", nodes=10),), export_takes=(0.0, 0.0)) as sandbox:
        for node in sandbox.fleet[0].nodes:
            sandbox.write(node.name, node.name.encode() + LOG)
        refused = iter(range(10))
        sandbox.faults.link_rewrite = lambda link: link if next(refused, None) is None else f"{link}x"

        report = await bed.collect()

        statuses = sorted(request.status for request in sandbox.requests if request.kind == "object")
        assert (report.stored, statuses) == (10, [200] * 10 + [403] * 10)
        assert sandbox.calls["errorlog-download"] == 3  # the request, a poll, the renewal


async def test_a_range_answered_with_the_whole_begins_again_from_zero(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.cut_after = [30_000]
    sandbox.faults.ignore_range = True

    await bed.collect()

    assert (bed.contents(), sandbox.bytes_sent) == ([log], 30_000 + len(log))


@pytest.mark.parametrize("etag", ["md5", "multipart"])
@pytest.mark.parametrize("shift", [-1, 1, 4096])
async def test_a_206_that_begins_elsewhere_is_not_appended(
    sandbox: Sandbox, bed: Bed, log: bytes, shift: int, etag: Any
) -> None:
    """Also where no checksum would find it out later."""
    sandbox.faults.cut_after = [30_000]
    sandbox.faults.shift_range = [shift]
    sandbox.faults.etag = etag

    await bed.collect()

    assert (bed.contents(), bed.parts()) == ([log], [])


async def test_a_cut_body_without_a_checksum_is_known_to_be_cut_by_its_length(
    sandbox: Sandbox, bed: Bed, log: bytes
) -> None:
    sandbox.faults.cut_after = [30_000]
    sandbox.faults.etag = "multipart"

    await bed.collect()

    assert (bed.contents(), sandbox.bytes_sent) == ([log], len(log))


class Bar(Silent):
    """Keeps where a file's bar stands, and looks at the disk whenever it moves."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self.at: int | None = None
        self.totals: list[int | None] = []
        self.moved: list[tuple[int, int]] = []  # where it stood, and the bytes that were on disk

    def began(self, file: LogFile, total: int | None, at: int, *, resumed: bool) -> None:
        del file, resumed
        self.at = at
        self.totals.append(total)

    def advanced(self, file: LogFile, size: int) -> None:  # noqa: ARG002  # there is one file
        assert self.at is not None, "it moved before there was one"
        self.at += size
        self.moved.append((self.at, sum(path.stat().st_size for path in self._bed.parts())))


@pytest.mark.parametrize("size", [5_000, 20_000, len(LOG)], ids=["first bytes", "in memory", "less than a batch"])
async def test_a_file_smaller_than_a_batch_is_seen_to_grow_before_it_is_written(
    sandbox: Sandbox, bed: Bed, size: int
) -> None:
    sandbox.write(NODE, LOG[:size])
    bed.progress = bar = Bar(bed)

    await bed.collect()

    first, *_ = bar.moved
    assert (first[1], bar.at, bar.totals) == (0, size, [size])


async def test_a_bar_goes_back_to_what_is_on_disk_where_a_transfer_is_resumed(
    sandbox: Sandbox, bed: Bed, log: bytes
) -> None:
    """Bytes that came are counted once, by the bar and by the cycle."""
    bed.progress = bar = Bar(bed)
    sandbox.faults.cut_after = [30_000, 60_000]

    report = await bed.collect()

    assert (bar.at, bar.totals, report.fetched_bytes) == (len(log), [len(log)] * 3, len(log))


class ReplacedMeanwhile(Silent):
    """Replaces the object once the first of the old ones have come."""

    def __init__(self, sandbox: Sandbox, data: bytes) -> None:
        self._sandbox = sandbox
        self._data: bytes | None = data

    def advanced(self, file: LogFile, size: int) -> None:  # noqa: ARG002  # any progress will do
        if self._data is not None:
            self._sandbox.replace_object(NODE, self._data)
            self._data = None


async def test_an_object_that_changed_meanwhile_begins_again_from_zero(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    """If-Match answers 412: not one byte of the old object is in the file."""
    bed.progress = ReplacedMeanwhile(sandbox, log.upper())
    sandbox.faults.cut_after = [30_000]

    await bed.collect()

    statuses = [request.status for request in sandbox.requests if request.kind == "object"]
    assert (bed.contents(), statuses) == ([log.upper()], [200, 412, 200])


async def test_a_flipped_byte_is_found_and_fetched_again_once(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.corrupt = [1234]

    await bed.collect()

    assert (bed.contents(), sandbox.calls["object"]) == ([log], 2)


async def test_bytes_that_never_match_their_checksum_are_not_published(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.corrupt = [1234] * 50

    report = await bed.collect()

    (failed,) = report.failures
    assert (failed.kind, sandbox.calls["object"], bed.files(), bed.parts()) == ("corrupt", 2, [], [])
    assert log


async def test_a_checksum_over_a_resumed_file_covers_its_first_part(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.cut_after = [30_000]
    sandbox.faults.corrupt = [1234]

    await bed.collect()

    assert (bed.contents(), ranges(sandbox)) == ([log], [None, "bytes=30000-", None])


@pytest.mark.parametrize("etag", ["multipart", "encrypted"])
async def test_an_etag_that_is_no_md5_is_no_checksum(sandbox: Sandbox, bed: Bed, log: bytes, etag: Any) -> None:
    sandbox.faults.etag = etag

    report = await bed.collect()

    assert (bed.contents(), snapshot_of(report).verified) == ([log], True)


@pytest.mark.parametrize("etag", ["none", "multipart", "encrypted"])
async def test_with_neither_length_nor_checksum_it_is_unverified(
    sandbox: Sandbox, bed: Bed, log: bytes, etag: Any
) -> None:
    """It is fetched twice, since only the end of the connection says that it is all."""
    sandbox.faults.no_length = True
    sandbox.faults.etag = etag

    snapshot = snapshot_of(await bed.collect())

    assert (bed.contents(), snapshot.verified, sandbox.calls["object"]) == ([log], False, 2)
    assert (snapshot.fetched, sandbox.bytes_sent) == (2 * len(log), 2 * len(log))


async def test_the_last_chunk_says_that_a_body_is_whole_and_proves_nothing(
    sandbox: Sandbox, bed: Bed, log: bytes
) -> None:
    sandbox.faults.chunked = True
    sandbox.faults.etag = "none"

    report = await bed.collect()

    assert (bed.contents(), snapshot_of(report).verified, sandbox.calls["object"]) == ([log], False, 1)


async def test_a_chunked_body_without_its_last_chunk_is_not_whole(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.chunked = True
    sandbox.faults.etag = "none"
    sandbox.faults.cut_after = [30_000]

    await bed.collect()

    assert (bed.contents(), sandbox.calls["object"]) == ([log], 2)


@pytest.mark.parametrize("cuts", [[30_000] * 50, [30_000, 40_000] * 50, [30_000, 30_000, 40_000, 40_000] * 50])
async def test_a_body_that_ends_early_and_that_nothing_proves_is_never_published(
    sandbox: Sandbox, bed: Bed, log: bytes, cuts: list[int]
) -> None:
    """Not even where it ends at the same place twice: the cloud's list says that it is longer."""
    sandbox.faults.no_length = True
    sandbox.faults.etag = "none"
    sandbox.faults.cut_after = cuts

    report = await bed.collect()

    assert (report.outcome, bed.files(), bed.parts()) == (CycleOutcome.FAILED, [], [])
    assert ("184" in report.failures[0].reason or "179" in report.failures[0].reason) == bool(log)


def without_sizes(reply: dict[str, Any]) -> dict[str, Any]:
    return reply | {"list": [row | {"file_size": None} for row in reply["list"]]}


@pytest.mark.parametrize("second", [0, 30_000, len(LOG) - 1])
async def test_two_bodies_that_differ_are_not_published_where_no_size_is_known(
    sandbox: Sandbox, bed: Bed, log: bytes, second: int
) -> None:
    sandbox.faults.mangle = without_sizes
    sandbox.faults.no_length = True
    sandbox.faults.etag = "none"
    sandbox.faults.cut_after = [len(log), second] * 50

    report = await bed.collect()

    assert (report.failures[0].kind, bed.files(), bed.parts()) == ("corrupt", [], [])


async def test_two_bodies_of_one_length_that_differ_in_a_byte_are_not_published(
    sandbox: Sandbox, bed: Bed, log: bytes
) -> None:
    sandbox.faults.no_length = True
    sandbox.faults.etag = "none"
    sandbox.faults.corrupt = [-1, len(log) - 1] * 50  # the first one as it is

    report = await bed.collect()

    assert (report.failures[0].kind, bed.files(), bed.parts()) == ("corrupt", [], [])


async def test_a_second_body_that_is_longer_is_another(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    """The first one has all its bytes in common with it; what they should have been comes with the second try."""
    sandbox.faults.mangle = without_sizes
    sandbox.faults.no_length = True
    sandbox.faults.etag = "none"
    sandbox.faults.cut_after = [30_000]

    report = await bed.collect()

    assert (bed.contents(), snapshot_of(report).verified, sandbox.calls["object"]) == ([log], False, 4)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_quiet_nodes_empty_object_needs_no_more_proof_than_a_last_chunk(
    sandbox: Sandbox, bed: Bed, *, chunked: bool
) -> None:
    sandbox.faults.chunked = chunked
    sandbox.faults.etag = "none"

    report = await bed.collect()

    assert (report.outcome, report.unchanged, bed.files()) == (CycleOutcome.OK, 1, [])


async def test_an_empty_object_beside_a_row_with_a_size_is_no_quiet_node(
    sandbox: Sandbox, bed: Bed, log: bytes
) -> None:
    """The cloud speaks of lines that did not come."""
    sandbox.faults.emptied = 1
    async with bed.open():
        first = await bed.collect()
        second = await bed.collect()

    (failed,) = first.failures
    assert (failed.kind, "is empty, and the cloud's list has 179.69 KB" in failed.reason) == ("corrupt", True)
    assert (second.outcome, bed.contents()) == (CycleOutcome.OK, [log])


async def test_nothing_at_all_is_asked_for_again_where_nothing_says_that_it_is_all(
    sandbox: Sandbox, bed: Bed, log: bytes
) -> None:
    """Twice, so that two equal bodies do not prove it either."""
    sandbox.faults.mangle = without_sizes
    sandbox.faults.no_length = True
    sandbox.faults.etag = "none"
    sandbox.faults.emptied = 2

    report = await bed.collect()

    assert (report.outcome, bed.contents()) == (CycleOutcome.OK, [log])


async def test_more_bytes_than_were_announced_are_not_published(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    """A resume that begins earlier than it says brings some bytes twice, and no checksum would find it out."""
    sandbox.faults.cut_after = [30_000]
    sandbox.faults.shift_range = [-100]
    sandbox.faults.content_range = [f"bytes 30000-{len(log) - 1}/{len(log)}"]
    sandbox.faults.etag = "multipart"

    await bed.collect()

    assert (bed.contents(), ranges(sandbox)) == ([log], [None, "bytes=30000-", None])


async def test_the_checksum_of_a_file_of_several_mib_is_that_of_all_its_bytes(sandbox: Sandbox, bed: Bed) -> None:
    """Checksums follow the writer: those of a prefix would find the first body wrong, or the second one right."""
    long = random.Random(7).randbytes(6 * 1024 * 1024)
    sandbox.write(NODE, long)

    report = await bed.collect()

    md5 = hashlib.md5(long, usedforsecurity=False).hexdigest()
    assert (snapshot_of(report).md5, sandbox.calls["object"]) == (md5, 1)


async def test_a_wrong_byte_at_the_end_of_a_file_of_several_mib_is_found(sandbox: Sandbox, bed: Bed) -> None:
    long = random.Random(7).randbytes(6 * 1024 * 1024)
    sandbox.write(NODE, long)
    sandbox.faults.corrupt = [len(long) - 1]

    await bed.collect()

    assert (bed.contents(), sandbox.calls["object"]) == ([long], 2)


async def test_without_a_length_the_checksum_proves_it(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.no_length = True

    report = await bed.collect()

    assert (bed.contents(), snapshot_of(report).verified) == ([log], True)


async def test_a_cut_body_without_length_is_no_whole_file(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    """It looks like a clean end; the checksum says that it is none."""
    sandbox.faults.no_length = True
    sandbox.faults.cut_after = [30_000]

    await bed.collect()

    assert bed.contents() == [log]


async def test_without_an_etag_nothing_is_resumed(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.etag = "none"
    sandbox.faults.cut_after = [30_000]

    await bed.collect()

    assert (bed.contents(), ranges(sandbox)) == ([log], [None, None])


@pytest.mark.parametrize("kind", ["text/html", "application/xml; charset=utf-8"])
async def test_a_page_in_place_of_a_log_is_not_published(sandbox: Sandbox, bed: Bed, log: bytes, kind: str) -> None:
    sandbox.faults.page_instead = [(kind, b"<html>come back later</html>")]

    await bed.collect()

    assert bed.contents() == [log]


async def test_no_error_body_is_ever_published(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.page_instead = [("text/html", b"<html>come back later</html>")] * 50

    report = await bed.collect()

    assert (report.outcome, bed.files(), bed.parts()) == (CycleOutcome.FAILED, [], [])
    assert log


async def test_a_compressed_body_is_kept_as_it_came(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.encoding = "gzip"

    await bed.collect()

    (kept,) = bed.contents()
    assert (kept != log, gzip.decompress(kept)) == (True, log)


async def test_a_redirect_is_not_followed(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.redirect = [f"{sandbox.endpoint}/elsewhere/x"] * 5

    report = await bed.collect()

    assert (report.failures[0].kind, sandbox.calls["object"], bed.files()) == ("unpublishable", 1, [])
    assert log


async def test_a_file_over_max_size_is_left_out(bed: Bed, log: bytes) -> None:
    bed.set("attempts: 5", "attempts: 5\n  max_size: 100KiB")

    report = await bed.collect()

    assert (report.failures[0].kind, bed.files(), bed.parts()) == ("unpublishable", [], [])
    assert log


async def test_a_file_that_hides_its_size_is_cut_off_at_max_size(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.no_length = True
    bed.set("attempts: 5", "attempts: 5\n  max_size: 100KiB")

    report = await bed.collect()

    assert (report.failures[0].kind, bed.files(), bed.parts()) == ("unpublishable", [], [])
    assert log


async def test_a_part_left_by_a_cycle_is_gone_on_with_by_the_next(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.cut_after = [100_000, *[0] * 50]
    bed.set("attempts: 5", "attempts: 2")
    async with bed.open():
        first = await bed.collect()
        sandbox.faults.clear()
        await bed.collect()

    assert (first.outcome, bed.contents(), sandbox.bytes_sent) == (CycleOutcome.FAILED, [log], len(log))


async def test_after_a_restart_the_last_64_kib_are_fetched_again(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.cut_after = [100_000, *[0] * 50]
    bed.set("attempts: 5", "attempts: 2")
    await bed.collect()
    sandbox.faults.clear()

    await bed.collect()

    assert (bed.contents(), ranges(sandbox)[-1]) == ([log], f"bytes={100_000 - 65_536}-")


async def test_zeroes_that_a_crash_left_at_the_end_of_a_part_are_found(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    sandbox.faults.cut_after = [100_000, *[0] * 50]
    bed.set("attempts: 5", "attempts: 2")
    await bed.collect()
    (part,) = bed.parts()
    with part.open("r+b") as file:
        file.seek(90_000)
        file.write(bytes(10_000))
    sandbox.faults.clear()
    sandbox.faults.etag = "md5"

    await bed.collect()

    assert (bed.contents(), ranges(sandbox)[-2:]) == ([log], [f"bytes={100_000 - 65_536}-", None])


async def test_a_part_of_an_older_export_is_swept_at_the_next_cycle(
    sandbox: Sandbox, bed: Bed, log: bytes, clock: ManualClock
) -> None:
    sandbox.faults.cut_after = [100_000, *[0] * 50]
    bed.set("attempts: 5", "attempts: 2")
    async with bed.open():
        await bed.collect()
        assert len(bed.parts()) == 1
        sandbox.faults.clear()
        clock.forward(minutes=20)
        await bed.collect()

    assert (bed.contents(), bed.parts()) == ([log], [])


async def test_a_part_of_an_older_export_is_swept_at_start(
    sandbox: Sandbox, bed: Bed, log: bytes, clock: ManualClock
) -> None:
    sandbox.faults.cut_after = [100_000, *[0] * 50]
    bed.set("attempts: 5", "attempts: 2")
    await bed.collect()
    clock.forward(minutes=20)

    async with bed.open() as service:
        await service._archive.recovery.whole()  # which the first chore does
        assert bed.parts() == []
    assert log


async def test_a_link_to_a_host_that_is_not_allowed_is_never_opened(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    port = sandbox.endpoint.rpartition(":")[2]
    sandbox.faults.link_rewrite = lambda link: link.replace("127.0.0.1", "127.0.0.2")

    report = await bed.collect()

    assert (report.failures[0].kind, sandbox.calls["object"]) == ("link_refused", 0)
    assert port not in report.failures[0].reason
    assert log


async def test_the_books_know_the_checksum_and_the_etag(bed: Bed, log: bytes) -> None:
    report = await bed.collect()

    md5 = hashlib.md5(log, usedforsecurity=False).hexdigest()
    snapshot = snapshot_of(report)
    assert (snapshot.md5, snapshot.etag, snapshot.size) == (md5, f'"{md5}"', len(log))


async def test_by_length_alone_no_md5_is_taken_so_that_a_flipped_byte_is_not_seen(
    sandbox: Sandbox, bed: Bed, log: bytes
) -> None:
    bed.set("attempts: 5", "attempts: 5\n  verify: length")
    sandbox.faults.corrupt = [0]

    snapshot = snapshot_of(await bed.collect())

    assert (snapshot.md5, snapshot.verified, bed.contents()[0][1:]) == ("", True, log[1:])


async def test_by_length_alone_a_file_without_a_length_is_unverified(sandbox: Sandbox, bed: Bed, log: bytes) -> None:
    """Its MD5, which would prove it, is not taken."""
    bed.set("attempts: 5", "attempts: 5\n  verify: length")
    sandbox.faults.no_length = True

    assert (snapshot_of(await bed.collect()).verified, bed.contents()) == (False, [log])
