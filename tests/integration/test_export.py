"""One export, from its request to its last row, and the renewal of its links."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from ddslogd.huaweicloud.export import RunningExport
from ddslogd.huaweicloud.services.dds import MAX_FILE_NAMES
from ddslogd.model.cycle import CycleOutcome, Failed, Silent
from ddslogd.model.instance import LogKind
from ddslogd.model.snapshot import Stored, Superseded
from ddslogd.sandbox import replica_set
from support.clocks import ManualClock
from support.interference import Interfering
from support.testbed import posts, quiet_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from ddslogd.model.export import Link
    from ddslogd.model.snapshot import LogFile
    from ddslogd.sandbox import Sandbox
    from support.testbed import Bed

NODE = "solo_single_node_1"
LOG = b"".join(b"line %06d of the log\n" % number for number in range(8000))


async def test_polls_begin_at_first_poll_and_grow_to_max_poll(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(export_takes=(200.0, 200.0)):
        await bed.collect()

        waits = [round(seconds, 1) for seconds in clock.slept]
        assert waits == [10.0, 15.0, 22.5, 30.0, 30.0, 30.0, 30.0, 30.0, 30.0]


async def test_an_export_that_never_ends_is_given_up_after_its_time(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(export_takes=(10_000.0, 10_000.0)):
        report = await bed.collect()

        (failed,) = report.failures
        assert (failed.kind, sum(clock.slept)) == ("export_pending", 600.0)


async def test_the_end_of_an_exports_time_is_reached_though_seconds_do_not_add_up(bed: Bed, clock: ManualClock) -> None:
    """7877.689932 + 600.0 is more than 8477.689932, by less than a clock can wait for."""
    clock.forward(microseconds=7_877_689_932)
    async with bed.cloud(export_takes=(10_000.0, 10_000.0)), asyncio.timeout(20):
        await bed.collect()

    assert len(clock.slept) < 30


async def test_a_cached_export_is_asked_for_once(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    """Within the 15 minutes the first answer is FINISH already: no poll follows. (Another host asked for it.)"""
    sandbox.write(NODE, LOG)
    await bed.collect()
    bed.forget_exports()
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
    """The transfer breaks off and takes up again after 15 minutes: the export is made again, and fetched instead."""
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
    """The export's freshness is a second limit: what the cloud may replace at any moment is asked for again."""
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
        assert (report.outcome, report.error_kind, kinds) == (CycleOutcome.PARTIAL, "rejected", [Stored])


@pytest.mark.parametrize(
    ("reply", "kind", "calls"),
    [
        ({"status": "FAILED", "list": []}, "export_failed", 1),
        ({"status": "FAILED", "list": None}, "export_failed", 1),
        ({"status": "CREATING", "list": None}, "export_pending", 22),
        ({"list": []}, "export_pending", 22),
    ],
)
async def test_an_export_that_never_speaks_of_a_file_is_no_success(
    sandbox: Sandbox, bed: Bed, reply: dict[str, Any], kind: str, calls: int
) -> None:
    sandbox.faults.mangle = lambda _: reply

    report = await bed.collect()

    assert (report.outcome, [failed.kind for failed in report.failures]) == (CycleOutcome.FAILED, [kind])
    assert abs(sandbox.calls["errorlog-download"] - calls) <= 1


async def test_two_rows_of_one_object_are_one(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)

    def doubled(reply: dict[str, Any]) -> dict[str, Any]:
        row = reply["list"][0]
        return {**reply, "list": [row, {**row, "file_name": "another", "updated_at": row["updated_at"] + 1}]}

    sandbox.faults.mangle = doubled

    report = await bed.collect()

    failed = [outcome for outcome in report.outcomes if isinstance(outcome, Failed | Superseded)]
    assert (failed, len(report.outcomes)) == ([], 1)


# --- one question for polls and renewals ------------------------------------------------------------------------------


class HandClock(ManualClock):
    """Policy time that the test moves; sleepers wake when theirs has come."""

    def __init__(self) -> None:
        super().__init__()
        self._asleep: list[tuple[datetime, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._asleep.append((self.time + timedelta(seconds=max(0.0, seconds)), woken))
        await woken

    async def go(self, seconds: int, *, sandbox: Sandbox) -> None:
        target = self.time + timedelta(seconds=seconds)
        await quiet(sandbox)
        while due := [one for one in self._asleep if one[0] <= target and not one[1].done()]:
            end, woken = min(due, key=lambda one: one[0])
            self.time = max(self.time, end)
            woken.set_result(None)
            await quiet(sandbox)
        self.time = target


async def quiet(sandbox: Sandbox) -> None:
    """Let everything go on until it waits for time: no request is on its way any more."""
    turns = 0
    while turns < 25:
        before = sandbox.calls.total()
        await asyncio.sleep(0.0005)
        turns = turns + 1 if sandbox.calls.total() == before else 0


@pytest.fixture
async def hand_clock() -> HandClock:
    return HandClock()


@asynccontextmanager
async def followed(
    bed: Bed, clock: HandClock, *, nodes: int = 3, link_life: timedelta = timedelta(minutes=5), **faults: float
) -> AsyncIterator[tuple[Sandbox, RunningExport, list[Link]]]:
    """Follow an export of some nodes; those that are named take so many seconds more."""
    links: list[Link] = []
    async with (
        quiet_sandbox(
            clock, fleet=(replica_set("solo", nodes=nodes),), export_takes=(9.0, 9.0), link_life=link_life
        ) as bed.sandbox,
        AsyncExitStack() as stack,
    ):
        bed.clock = clock
        os.environ["DDSLOGD_TOKEN"] = bed.sandbox.issue_token()
        for number, node in enumerate(bed.sandbox.fleet[0].nodes, start=1):
            bed.sandbox.write(node.name, LOG)
            bed.sandbox.faults.slow_rows[node.name] = faults.get(f"node_{number}", 0.0)
        service = await stack.enter_async_context(bed.open())
        (account,) = service._accounts.all().values()
        export = RunningExport(
            bed.instance(),
            kind=LogKind.ERROR,
            api=account.api,
            rule=account.rule,
            settings=bed.settings.export,
            clock=clock,
            hand_on=links.append,
        )
        task = asyncio.create_task(export.follow(urgency=1.0))
        try:
            await quiet(bed.sandbox)
            yield bed.sandbox, export, links
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_one_call_renews_the_links_of_all_who_ask_at_once_and_shortly_after(
    bed: Bed, hand_clock: HandClock
) -> None:
    async with followed(bed, hand_clock) as (sandbox, export, links):
        await hand_clock.go(280, sandbox=sandbox)
        before = posts(sandbox)

        first = await asyncio.gather(*(export.renew(link) for link in links[:2]))
        await hand_clock.go(5, sandbox=sandbox)
        last = await export.renew(links[2])

    renewed = [*first, last]
    died = max(link.expires_at for link in links)
    assert (len(links), posts(sandbox) - before) == (3, 1)
    assert all(link is not None and link.expires_at > died for link in renewed)


async def test_what_has_begun_is_polled_before_a_new_export_begins(bed: Bed, hand_clock: HandClock) -> None:
    """Though the new one is more urgent than the first was when it began."""
    async with followed(bed, hand_clock) as (sandbox, export, _):
        begun = len(sandbox.requests)
        export._api.budget.pause(20)
        another = RunningExport(
            bed.instance(),
            kind=LogKind.SLOW,
            api=export._api,
            rule=export._rule,
            settings=bed.settings.export,
            clock=hand_clock,
            hand_on=lambda _: None,
        )
        task = asyncio.create_task(another.follow(urgency=0.5))
        await hand_clock.go(20, sandbox=sandbox)
        task.cancel()
        await asyncio.wait([task])
        asked = [request.kind for request in sandbox.requests][begun:]

    assert asked[:2] == ["errorlog-download", "slowlog-download"]


async def test_a_link_whose_signature_lives_longer_ends_with_its_export(bed: Bed, hand_clock: HandClock) -> None:
    async with followed(bed, hand_clock, link_life=timedelta(hours=24)) as (sandbox, _, links):
        await hand_clock.go(30, sandbox=sandbox)

    assert len(links) == 3
    assert all(link.expires_at - link.file.updated_at == timedelta(minutes=15) for link in links)


async def test_the_reply_to_a_poll_renews_links_too(bed: Bed, hand_clock: HandClock) -> None:
    async with followed(bed, hand_clock, node_1=400.0) as (sandbox, export, links):
        await hand_clock.go(280, sandbox=sandbox)
        before = posts(sandbox)

        renewed = await export.renew(links[0])

        assert (renewed is not links[0], posts(sandbox) - before) == (True, 0)


async def test_the_reply_to_a_renewal_is_a_poll_s_and_the_next_poll_waits_from_there(
    bed: Bed, hand_clock: HandClock
) -> None:
    """Polls come every 30 seconds by now: at 197.5, 227.5, 257.5 …; a renewal at 217 puts off the next to 247."""
    async with followed(bed, hand_clock, node_1=400.0) as (sandbox, export, links):
        await hand_clock.go(217, sandbox=sandbox)
        newest = await export.renew(links[0])
        assert newest is not None
        before = posts(sandbox)
        await export.renew(newest)
        renewal = posts(sandbox) - before
        await hand_clock.go(29, sandbox=sandbox)
        none = posts(sandbox) - before - renewal

        await hand_clock.go(2, sandbox=sandbox)

        assert (renewal, none, posts(sandbox) - before - renewal) == (1, 0, 1)


async def test_a_renewal_that_finds_the_last_file_ready_ends_the_polls(bed: Bed, hand_clock: HandClock) -> None:
    async with followed(bed, hand_clock, node_1=200.0) as (sandbox, export, links):
        await hand_clock.go(212, sandbox=sandbox)  # polls at 197.5 and 227.5; ready at 209
        newest = await export.renew(links[0])
        assert newest is not None
        await export.renew(newest)
        before = posts(sandbox)

        await hand_clock.go(60, sandbox=sandbox)

        assert (len(links), posts(sandbox) - before) == (3, 0)


async def test_who_asks_while_a_new_export_is_under_way_waits_for_it_with_the_others(
    bed: Bed, hand_clock: HandClock
) -> None:
    """The links and the export have ended: the first who asks begins a new one, and nobody's asking adds a call."""
    async with followed(bed, hand_clock) as (sandbox, export, links):
        await hand_clock.go(16 * 60, sandbox=sandbox)
        before = posts(sandbox)
        asking = []
        for link in links:
            asking.append(asyncio.create_task(export.renew(link)))
            await hand_clock.go(2, sandbox=sandbox)
        await hand_clock.go(20, sandbox=sandbox)

        assert (await asyncio.gather(*asking), posts(sandbox) - before) == ([None] * 3, 2)


# --- renewals by the names of files -----------------------------------------------------------------------------------


def asked(sandbox: Sandbox, since: int = 0) -> list[dict[str, list[str]]]:
    """Return what the calls asked for, from one on."""
    calls = [request for request in sandbox.requests if request.kind == "errorlog-download"]
    return [json.loads(request.body) for request in calls[since:]]


def sent(sandbox: Sandbox) -> list[int]:
    """Return how many bytes the replies had."""
    return [request.sent for request in sandbox.requests if request.kind == "errorlog-download"]


async def test_a_settled_export_s_links_are_renewed_by_the_names_of_the_files_that_wait(
    bed: Bed, hand_clock: HandClock
) -> None:
    """Of 40 nodes two files have not come yet: the reply holds two rows and is a twentieth of the whole one."""
    async with followed(bed, hand_clock, nodes=40) as (sandbox, export, links):
        await hand_clock.go(280, sandbox=sandbox)
        before = posts(sandbox)
        for link in links[2:]:
            export.ended(link.file)

        renewed = [await export.renew(link) for link in links[:2]]

        *_, whole, by_name = sent(sandbox)
        names = [link.file.file_name for link in links[:2]]
        assert asked(sandbox, before) == [{"file_name_list": names}]
        assert [(link and link.file, link and link.url) for link in renewed] != [(one.file, one.url) for one in links]
        assert [link and link.file for link in renewed] == [link.file for link in links[:2]]
        assert by_name < whole / 15


async def test_an_export_under_way_is_asked_for_as_a_whole_by_its_renewals(bed: Bed, hand_clock: HandClock) -> None:
    async with followed(bed, hand_clock, node_1=400.0) as (sandbox, export, links):
        await hand_clock.go(217, sandbox=sandbox)
        newest = await export.renew(links[0])
        assert newest is not None

        await export.renew(newest)

        assert asked(sandbox) == [{}] * posts(sandbox)


async def test_a_name_that_the_cloud_has_forgotten_costs_one_whole_question_and_is_not_tried_again(
    bed: Bed, hand_clock: HandClock
) -> None:
    async with followed(bed, hand_clock) as (sandbox, export, links):
        await hand_clock.go(280, sandbox=sandbox)
        before, name = posts(sandbox), links[1].file.file_name
        sandbox.faults.forgotten_files = {name}

        first = await export.renew(links[1])
        assert first is not None
        await hand_clock.go(280, sandbox=sandbox)
        second = await export.renew(first)

    names = [link.file.file_name for link in (links[1], links[0], links[2])]
    assert asked(sandbox, before) == [{"file_name_list": names}, {}, {}]
    assert second is not None
    assert (first.file, second.file, second.expires_at > first.expires_at) == (links[1].file, links[1].file, True)


@pytest.mark.parametrize("said", [{"list": [], "status": "FINISH"}, {"list": "nonsense"}], ids=["no row", "no list"])
async def test_a_reply_by_name_that_lacks_a_file_is_followed_by_the_whole_question(
    bed: Bed, hand_clock: HandClock, said: dict[str, Any]
) -> None:
    async with followed(bed, hand_clock) as (sandbox, export, links):
        await hand_clock.go(280, sandbox=sandbox)
        before = posts(sandbox)
        sandbox.faults.mangle = lambda reply: said if "file_name_list" in asked(sandbox)[-1] else reply

        renewed = await export.renew(links[0])

    assert [[*one] for one in asked(sandbox, before)] == [["file_name_list"], []]
    assert renewed is not None
    assert (renewed.file, renewed.expires_at > links[0].expires_at) == (links[0].file, True)


async def test_a_cloud_that_heeds_no_names_renews_all_the_same(bed: Bed, hand_clock: HandClock) -> None:
    """It answers the whole question."""
    replies: list[dict[str, Any]] = []

    def heedless(reply: dict[str, Any]) -> dict[str, Any]:
        if "file_name_list" not in asked(sandbox)[-1]:
            replies.append(reply)
        return replies[-1]

    async with followed(bed, hand_clock) as (sandbox, export, links):
        sandbox.faults.mangle = heedless
        await hand_clock.go(280, sandbox=sandbox)
        before = posts(sandbox)
        for link in links[1:]:
            export.ended(link.file)

        renewed = await export.renew(links[0])

    assert asked(sandbox, before) == [{"file_name_list": [links[0].file.file_name]}]
    assert (renewed and renewed.file, renewed is links[0]) == (links[0].file, False)


async def test_a_call_names_no_more_files_than_it_may_and_the_next_ones_the_rest(
    bed: Bed, hand_clock: HandClock
) -> None:
    """All 60 ask at once: two calls, and each name in one of them."""
    async with followed(bed, hand_clock, nodes=60) as (sandbox, export, links):
        await hand_clock.go(280, sandbox=sandbox)
        before = posts(sandbox)

        renewed = await asyncio.gather(*(export.renew(link) for link in links))

    names = [one["file_name_list"] for one in asked(sandbox, before)]
    assert [len(one) for one in names] == [MAX_FILE_NAMES, MAX_FILE_NAMES]
    assert {name for one in names for name in one} == {link.file.file_name for link in links}
    assert [link and link.file for link in renewed] == [link.file for link in links]


async def test_who_asks_first_is_named_though_many_wait(bed: Bed, hand_clock: HandClock) -> None:
    async with followed(bed, hand_clock, nodes=60) as (sandbox, export, links):
        await hand_clock.go(280, sandbox=sandbox)
        before = posts(sandbox)

        await export.renew(links[-1])

    (names,) = asked(sandbox, before)
    assert names["file_name_list"][:2] == [links[-1].file.file_name, links[0].file.file_name]


async def test_a_new_export_is_renewed_by_name_again(bed: Bed, hand_clock: HandClock) -> None:
    """What the cloud had forgotten of the last one says nothing of the next."""
    async with followed(bed, hand_clock) as (sandbox, export, links):
        await hand_clock.go(280, sandbox=sandbox)
        sandbox.faults.forgotten_files = {link.file.file_name for link in links}
        renewed = await export.renew(links[0])
        assert renewed is not None
        await hand_clock.go(16 * 60, sandbox=sandbox)
        begun = asyncio.create_task(export.renew(renewed))
        await hand_clock.go(20, sandbox=sandbox)
        await begun
        newest = links[-3:]
        await hand_clock.go(280, sandbox=sandbox)
        before = posts(sandbox)

        await export.renew(newest[0])

    assert (len(links), [[*one] for one in asked(sandbox, before)]) == (6, [["file_name_list"]])


class LateInTheLast(Silent):
    """Does something once, when the first bytes of the third file have come."""

    def __init__(self, deed: Any) -> None:
        self._deed = deed
        self._files: set[LogFile] = set()

    def advanced(self, file: LogFile, size: int) -> None:  # noqa: ARG002  # any progress will do
        self._files.add(file)
        if len(self._files) == 3 and self._deed is not None:
            deed, self._deed = self._deed, None
            deed()


async def test_a_cycle_renews_the_one_file_that_has_not_come_and_stores_all(bed: Bed) -> None:
    """Files come one by one, and the transfer of the last breaks off when its link has died."""
    async with bed.cloud(fleet=(replica_set("solo"),)) as sandbox:
        for node in sandbox.fleet[0].nodes:
            sandbox.write(node.name, LOG)
        bed.set("concurrent: 16", "concurrent: 1")
        bed.progress = LateInTheLast(lambda: bed.clock.forward(minutes=6))
        sandbox.faults.cut_after = [len(LOG), len(LOG), 30_000]

        report = await bed.collect()

        by_name = [len(one["file_name_list"]) for one in asked(sandbox) if one]
        assert (report.outcome, bed.contents(), by_name) == (CycleOutcome.OK, [LOG] * 3, [1])
