"""Settings that change while the daemon runs: each takes effect, or is refused and changes nothing."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from ddslogd.model.cycle import Silent
from ddslogd.model.errors import ConfigError
from ddslogd.sandbox import replica_set
from ddslogd.service.reload import Reloads
from ddslogd.service.systemd import Notifier
from support.certificates import certificate, secure
from support.log_streams import NODE, cycle, lines, stream, stream_files

if TYPE_CHECKING:
    from pathlib import Path

    from ddslogd.config.settings import Settings
    from ddslogd.model.snapshot import LogFile
    from support.clocks import ManualClock
    from support.testbed import Bed


async def test_a_stream_is_rotated_by_the_size_of_the_new_settings(bed: Bed, clock: ManualClock) -> None:
    before = bed.settings
    bed.set("instances:", "stream: {rotate: {size: 1KiB}}\ninstances:")
    rotating, bed.changes = bed.settings, []
    assert before.stream.rotate.size > rotating.stream.rotate.size
    async with bed.open() as service:
        files: list[int] = []
        for settings in (before, rotating):
            await service.reload(settings)
            for _ in range(2):
                bed.sandbox.write(NODE, lines(start := 30 * len(files), start + 30))
                await cycle(bed, clock)
                files.append(len(stream_files(bed)))

    assert files == [1, 1, 2, 3]


class Arrivals(Silent):
    """Remembers whose bytes came, in their order."""

    def __init__(self) -> None:
        self.nodes: list[str] = []

    def advanced(self, file: LogFile, size: int) -> None:
        self.nodes.extend([file.node] * bool(size))


async def test_so_many_files_are_read_at_a_time_as_the_new_settings_say(bed: Bed, clock: ManualClock) -> None:
    """With one slot the bytes of a file come together; with more, those of several come by turns."""
    bed.progress = arrivals = Arrivals()
    async with bed.cloud(fleet=(replica_set("solo", nodes=2),)) as cloud:
        cloud.faults.bytes_per_second = 2_000_000
        bed.set("concurrent: 16", "concurrent: 1")
        one, bed.changes = bed.settings, []
        turns = []
        async with bed.open() as service:
            for settings in (bed.settings, one):
                await service.reload(settings)
                for node in cloud.fleet[0].nodes:
                    cloud.write(node.name, lines(0, 10_000))
                clock.forward(minutes=20)
                arrivals.nodes.clear()
                await bed.collect()
                turns.append(len(list(groupby(arrivals.nodes))))

    assert (turns[0] > 2, turns[1]) == (True, 2)


async def test_an_authority_that_the_new_settings_name_is_trusted_from_then_on(bed: Bed, tmp_path: Path) -> None:
    pem, endpoint = certificate(tmp_path, days=200), bed.sandbox.endpoint
    async with secure(pem, int(endpoint.rpartition(":")[2])) as port:
        bed.set(endpoint, f"https://localhost:{port}")
        strange = bed.settings
        bed.set('link_hosts: ["127.0.0.1"]', f'link_hosts: ["127.0.0.1"]\n    ca_file: {pem}')
        trusting, bed.changes = bed.settings, bed.changes[:1]
        async with bed.open() as service:
            listings = []
            for settings in (strange, trusting, strange):
                await service.reload(settings)
                listings.append(await service.listings())

    assert ["is not trusted" in listing.get("error", "") for listing in listings] == [True, False, True]
    assert "error" not in listings[1]


async def test_settings_are_in_force_only_once_nothing_refuses_them(bed: Bed, tmp_path: Path) -> None:
    """An account that cannot be built is found last."""
    bed.set("keep_free: 0", "keep_free: 1GiB")
    bed.set('link_hosts: ["127.0.0.1"]', f'link_hosts: ["127.0.0.1"]\n    ca_file: {tmp_path / "nowhere.pem"}')
    broken, bed.changes = bed.settings, []
    async with bed.open() as service:
        with pytest.raises(ConfigError):
            await service.reload(broken)
        status = await service.observer.status()

    assert status.disk.keep_free == 0


async def test_a_running_cycle_ends_by_the_settings_that_it_began_with(bed: Bed) -> None:
    """Streams that are switched off in its transfer take what it brings; what the next one brings they do not."""
    bed.sandbox.faults.bytes_per_second = 1_000_000
    bed.sandbox.write(NODE, lines(0, 5_000))
    bed.set("instances:", "stream: {enabled: false}\ninstances:")
    without, bed.changes = bed.settings, []
    async with bed.open() as service:
        running = asyncio.create_task(bed.collect())
        while not bed.sandbox.bytes_sent:
            await asyncio.sleep(0.01)
        assert not bed.files()
        await service.reload(without)
        await running
        first = stream(bed)
        bed.sandbox.write(NODE, lines(5_000, 5_100))
        await cycle(bed, bed.clock)

    assert (first, stream(bed), len(bed.files())) == (lines(0, 5_000), first, 2)


# --- a configuration that is read again -------------------------------------------------------------------------------


class Heard(Notifier):
    """Counts the reloads that have begun."""

    def __init__(self) -> None:
        super().__init__()
        self.reloads = 0

    def reloading(self) -> None:
        self.reloads += 1


class Reloading:
    """Reloads of a file, and what becomes of them."""

    def __init__(self, path: Path) -> None:
        self.heard = Heard()
        self.applied: list[Settings] = []
        self.reasons: list[str] = []
        self.reloads = Reloads(path, apply=self.apply, refused=self.reasons.append, notifier=self.heard)

    async def apply(self, settings: Settings) -> None:
        self.applied.append(settings)
        if len(self.applied) == 1:
            self.while_it_runs()

    def while_it_runs(self) -> None:
        """Do nothing; a test may put something else here."""


@pytest.fixture
def reloading(bed: Bed, tmp_path: Path) -> Reloading:
    path = tmp_path / "ddslogd.yaml"
    path.write_text(bed.text)
    return Reloading(path)


async def second_of(reloading: Reloading) -> bool:
    """Return whether a reload begins after the first one."""
    await reloading.reloads.run()
    again = asyncio.create_task(reloading.reloads.run())
    for _ in range(5):  # it begins at once, where it was asked for
        await asyncio.sleep(0)
    begun = reloading.heard.reloads == 2
    if not begun:
        again.cancel()
    await asyncio.wait([again])
    return begun


async def test_one_signal_gives_one_reload(reloading: Reloading) -> None:
    """Also where it comes twice before the first is seen to."""
    reloading.reloads.ask()
    reloading.reloads.ask()

    assert (await second_of(reloading), len(reloading.applied)) == (False, 1)


async def test_a_signal_that_comes_in_a_reload_gives_another(reloading: Reloading) -> None:
    """The file may have changed since it was read."""
    reloading.while_it_runs = reloading.reloads.ask  # type: ignore[method-assign]  # as its docstring says
    reloading.reloads.ask()

    assert (await second_of(reloading), len(reloading.applied)) == (True, 2)


async def test_a_file_of_authorities_that_cannot_be_read_is_refused(
    bed: Bed, tmp_path: Path, reloading: Reloading
) -> None:
    bed.set('link_hosts: ["127.0.0.1"]', f'link_hosts: ["127.0.0.1"]\n    ca_file: {tmp_path / "nowhere.pem"}')
    (tmp_path / "ddslogd.yaml").write_text(bed.text)
    reloading.reloads.ask()
    with capture_logs() as events:
        await reloading.reloads.run()

    assert "nowhere.pem" in reloading.reasons[0]
    assert (reloading.applied, [event["event"] for event in events]) == ([], ["config.refused"])
