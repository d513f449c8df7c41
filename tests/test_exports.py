"""One export, from its request to its last row, and the renewal of its links."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from ddslogd.models import CycleOutcome, Failed, Stored, Superseded
from ddslogd.operate.progress import Silent
from ddslogd.sandbox import replica_set

if TYPE_CHECKING:
    from conftest import Bed, ManualClock
    from ddslogd.models import LogFile
    from ddslogd.sandbox import Sandbox

NODE = "solo_single_node_1"
LOG = b"".join(b"line %06d of the log\n" % number for number in range(8000))


class Interfering(Silent):
    """Does something once, when the first bytes of a transfer are on disk."""

    def __init__(self, deed: Any) -> None:
        self._deed = deed

    def advanced(self, file: LogFile, size: int) -> None:  # noqa: ARG002  # any progress will do
        deed, self._deed = self._deed, None
        if deed is not None:
            deed()


async def test_polls_begin_at_first_poll_and_grow_to_max_poll(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(export_takes=(200.0, 200.0)):
        await bed.collect()

        waits = [round(seconds, 1) for seconds in clock.slept]
        assert waits == [10.0, 15.0, 22.5, 30.0, 30.0, 30.0, 30.0, 30.0, 30.0]


async def test_an_export_that_never_ends_is_given_up_after_its_time(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(export_takes=(10_000.0, 10_000.0)):
        report = await bed.collect()

        (failed,) = report.failures
        assert (failed.kind, sum(clock.slept)) == ("ExportPending", 600.0)


async def test_a_cached_export_is_asked_for_once(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    """Within the 15 minutes the first answer is FINISH already: no poll follows."""
    sandbox.write(NODE, LOG)
    await bed.collect()
    calls = sandbox.calls["errorlog-download"]
    clock.forward(minutes=5)

    await bed.collect()

    assert sandbox.calls["errorlog-download"] - calls == 1


async def test_an_unknown_status_word_is_said_once_and_waited_for(sandbox: Sandbox, bed: Bed) -> None:
    """The row counts as pending until a word comes that is known."""
    sandbox.write(NODE, LOG)
    answers = iter(range(3))

    def odd(reply: dict[str, Any]) -> dict[str, Any]:
        if next(answers, None) is not None:
            reply["list"][0]["status"] = "Preparing"
        return reply

    sandbox.faults.mangle = odd
    with structlog.testing.capture_logs() as events:
        await bed.collect()

    told = [event["status"] for event in events if event["event"] == "export.unknown_status"]
    assert (told, bed.contents()) == (["PREPARING"], [LOG])


async def test_a_success_row_without_a_link_is_waited_for(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    answers = iter(range(4))

    def linkless(reply: dict[str, Any]) -> dict[str, Any]:
        if next(answers, None) is not None:
            reply["list"][0]["file_link"] = ""
        return reply

    sandbox.faults.mangle = linkless
    await bed.collect()

    assert bed.contents() == [LOG]


async def test_a_row_without_a_time_is_stored_and_not_taken_for_a_later_one(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    def timeless(reply: dict[str, Any]) -> dict[str, Any]:
        for row in reply["list"]:
            del row["updated_at"]
            row["file_name"] = "always_the_same"
        return reply

    sandbox.faults.mangle = timeless
    sandbox.write(NODE, LOG)
    await bed.collect()
    sandbox.write(NODE, b"more\n")
    clock.forward(minutes=20)

    await bed.collect()

    assert bed.contents() == [LOG, LOG + b"more\n"]


async def test_a_renewal_that_finds_the_export_expired_goes_on_with_the_newer_file(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    """The transfer breaks off and takes up again after 15 minutes: the export is made anew, and fetched instead."""
    sandbox.write(NODE, LOG)

    def late() -> None:
        clock.forward(minutes=16)
        sandbox.write(NODE, b"more\n")

    bed.progress = Interfering(late)
    sandbox.faults.cut_after = [30_000]

    report = await bed.collect()

    kinds = sorted(type(outcome).__name__ for outcome in report.outcomes)
    assert (kinds, bed.contents(), bed.parts()) == (["Stored", "Superseded"], [LOG + b"more\n"], [])


async def test_a_renewal_within_the_15_minutes_resumes_the_same_file(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    """The link is dead after its 5 minutes; the file is the same, and no byte is fetched twice."""
    sandbox.write(NODE, LOG)
    bed.progress = Interfering(lambda: clock.forward(minutes=6))
    sandbox.faults.cut_after = [30_000]

    await bed.collect()

    assert (bed.contents(), sandbox.bytes_sent) == ([LOG], len(LOG))


async def test_links_that_outlive_the_15_minutes_by_their_signature_are_renewed_all_the_same(bed: Bed) -> None:
    """The export's freshness is a second limit: what the cloud may replace at any moment is asked for anew."""
    async with bed.cloud(link_life=timedelta(hours=24)) as sandbox:
        sandbox.write(NODE, LOG)
        bed.progress = Interfering(lambda: bed.clock.forward(minutes=14.8))
        sandbox.faults.cut_after = [30_000]
        calls = 3

        await bed.collect()

        assert (bed.contents(), sandbox.calls["errorlog-download"] > calls) == ([LOG], True)


async def test_a_skewed_cloud_clock_is_seen_through(bed: Bed) -> None:
    """The cloud's clock is an hour behind: its links look dead by ours, and are not."""
    async with bed.cloud() as sandbox:
        sandbox.faults.skew = timedelta(hours=-1)
        sandbox.write(NODE, LOG)

        await bed.collect()

        refused = [request for request in sandbox.requests if request.kind == "object" and request.status != 200]
        assert (bed.contents(), refused) == ([LOG], [])
        assert sandbox.calls["object"] == 1


async def test_a_link_that_may_not_be_followed_is_forgiven_once_a_good_one_comes(bed: Bed) -> None:
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as sandbox:
        slow, quick = sandbox.fleet[0].nodes
        sandbox.write(quick.name, LOG)
        sandbox.write(slow.name, LOG)
        sandbox.faults.slow_rows[slow.name] = 60.0
        odd = iter(range(1))
        sandbox.faults.link_rewrite = lambda link: (
            link if next(odd, None) is None else link.replace("127.0.0.1", "127.0.0.2")
        )

        report = await bed.collect()

        assert (report.outcome, report.failures, len(bed.files())) == (CycleOutcome.OK, (), 2)


async def test_a_call_that_fails_in_the_middle_loses_no_file_that_was_handed_on(bed: Bed) -> None:
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as sandbox:
        slow, quick = sandbox.fleet[0].nodes
        sandbox.write(quick.name, LOG)
        sandbox.faults.slow_rows[slow.name] = 10_000.0

        def broken_after_a_while(reply: dict[str, Any]) -> Any:
            return reply if sandbox.calls["errorlog-download"] < 5 else {"list": "nonsense"}

        sandbox.faults.mangle = broken_after_a_while

        report = await bed.collect()

        kinds = [type(outcome) for outcome in report.outcomes]
        assert (report.outcome, report.error_kind, kinds) == (CycleOutcome.PARTIAL, "Rejected", [Stored])


@pytest.mark.parametrize(
    ("reply", "kind", "calls"),
    [
        ({"status": "FAILED", "list": []}, "ExportFailed", 1),
        ({"status": "FAILED", "list": None}, "ExportFailed", 1),
        ({"status": "CREATING", "list": None}, "ExportPending", 22),
        ({"list": []}, "ExportPending", 22),
    ],
)
async def test_an_export_that_never_speaks_of_a_file_is_no_success(
    sandbox: Sandbox, bed: Bed, reply: dict[str, Any], kind: str, calls: int
) -> None:
    sandbox.faults.mangle = lambda _: reply

    report = await bed.collect()

    assert (report.outcome, [failed.kind for failed in report.failures]) == (CycleOutcome.FAILED, [kind])
    assert abs(sandbox.calls["errorlog-download"] - calls) <= 1


async def test_a_reply_that_holds_two_files_of_one_node_brings_both(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)

    def doubled(reply: dict[str, Any]) -> dict[str, Any]:
        row = reply["list"][0]
        return {**reply, "list": [row, {**row, "file_name": "another", "updated_at": row["updated_at"] + 1}]}

    sandbox.faults.mangle = doubled

    report = await bed.collect()

    failed = [outcome for outcome in report.outcomes if isinstance(outcome, Failed | Superseded)]
    assert (failed, len(report.outcomes)) == ([], 2)
