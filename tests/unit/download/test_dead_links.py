"""Links that end before their turn comes: a file that is never asked for is given up all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ddslogd.config.settings import Download
from ddslogd.download.downloader import Downloader
from ddslogd.download.retry_policy import MOST_STARVED
from ddslogd.download.slots import Slots
from ddslogd.huaweicloud.http import new_session
from ddslogd.model.cycle import Silent
from ddslogd.model.errors import LinkRefused
from ddslogd.model.export import Link
from ddslogd.model.snapshot import LogFile
from ddslogd.scheduling.clock import Skew
from ddslogd.storage.snapshots.checksums import Checks
from ddslogd.storage.snapshots.partial_file import Desk, Part
from support.clocks import START

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from support.clocks import ManualClock

FILE = LogFile(instance="orders", node="node", file_name="f", updated_at=START)


class DeadExport:
    """An export whose links have ended whenever one is asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def link(self) -> Link:
        return Link(file=FILE, url=f"https://obs.example.com/{self.asked}", expires_at=START)

    async def renew(self, _: Link) -> Link:
        self.asked += 1
        return self.link()


@pytest.fixture
async def downloader(clock: ManualClock) -> AsyncIterator[Downloader]:
    async with new_session(ca_file=None, proxy=None, connect_timeout_s=5, read_timeout_s=5) as session:
        yield Downloader(
            session=session, slots=Slots(1), settings=Download(), clock=clock, skew=Skew(), progress=Silent()
        )


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Part]:
    desk = Desk(Checks)
    yield Part(tmp_path, tmp_path / "x.20260102T030405.678Z.log", desk=desk)
    desk.close()


async def test_a_file_whose_links_end_before_they_have_a_slot_is_given_up(downloader: Downloader, part: Part) -> None:
    export = DeadExport()

    with pytest.raises(LinkRefused, match=r"raise download\.concurrent"):
        await downloader.fetch(export.link(), part, renew=export.renew)

    assert export.asked == MOST_STARVED


async def test_to_ask_whether_a_file_is_still_the_same_ends_the_same_way(downloader: Downloader) -> None:
    export = DeadExport()

    with pytest.raises(LinkRefused, match=r"raise download\.concurrent"):
        await downloader.same(export.link(), etag="", size=1, renew=export.renew)

    assert export.asked == MOST_STARVED
