"""Dates at random, and at the ends of the calendar, from the line of a log to everything that shows them."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ddslogd.model.cycle import CycleOutcome
from ddslogd.web import page
from support.clocks import START
from support.commands import rebuild
from support.http_client import served
from support.testbed import known_gaps

if TYPE_CHECKING:
    from support.clocks import ManualClock
    from support.testbed import Bed

NODE = "solo_single_node_1"
ENDS = (
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.000Z",
    "0001-01-01T00:00:00.000Z",
    "1969-12-31T23:59:59.999Z",
)
FORMS = ('{{"t":{{"$date":"{}"}},"s":"W","id":{}}}\n', "{} W NETWORK [conn1] text {}\n")


def odd_line(chance: random.Random, number: int) -> bytes:
    """Return a line whose time is one of any year, or one of the calendar's ends."""
    moment = datetime(1, 1, 1) + timedelta(seconds=chance.randrange(9998 * 365 * 86_400))  # noqa: DTZ001  # spelled below
    spelled = chance.choice([*ENDS, moment.isoformat() + chance.choice(["Z", "+14:00", "-12:00"])])
    return chance.choice(FORMS).format(spelled, number).encode()


def plain_line(number: int) -> bytes:
    return FORMS[0].format((START + timedelta(seconds=number)).isoformat(timespec="milliseconds"), number).encode()


@pytest.mark.parametrize("seed", range(6))
async def test_no_date_stops_a_stream_or_what_is_shown_of_it(bed: Bed, clock: ManualClock, seed: int) -> None:
    """Through two exports, a gap, a restart, the page, the status, the metrics, and a rebuild."""
    chance = random.Random(seed)
    log = b""
    async with bed.cloud(window=3000) as cloud:
        for first in (0, 20, 500):  # the last one overflows
            written = b"".join(plain_line(first + number) + odd_line(chance, first + number) for number in range(20))
            written += b"".join(plain_line(number) for number in range(first + 20, first + 60)) if first == 500 else b""
            log += written
            cloud.write(NODE, written)
            clock.forward(minutes=20)
            report = await bed.collect()
            assert (report.outcome, report.stored) == (CycleOutcome.OK, 1)
        async with served(bed, page=page) as site:
            replies = [
                await site.ask(path)
                for path in ("/", "/instances/solo", "/metrics", "/readyz", "/api/v1/status", "/api/v1/instances/solo")
            ]
            instance = await site.instance()
        gaps = known_gaps(bed.state)
        await rebuild(bed)

    streamed = b"".join(path.read_bytes() for path in sorted((bed.directory / "streams").glob("*/*/*.log")))
    newest = plain_line(559)[15:34].decode()
    assert [reply.status for reply in replies] == [200] * len(replies)
    cut = set(streamed.splitlines()) - set(log.splitlines())  # the line that the export after the gap begins within
    assert len(cut) == len(gaps) == 1
    assert any(line.endswith(piece) for piece in cut for line in log.splitlines())
    assert instance["newest_line"].startswith(newest)
    assert all(START - timedelta(days=36_500) < (gap.after or START) < START + timedelta(days=3) for gap in gaps)
