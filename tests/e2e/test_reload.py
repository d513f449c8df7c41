"""A configuration that changes while the daemon runs, and a stop in the middle of a transfer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from ddslogd.config import loader, settings
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.errors import ConfigError
from ddslogd.sandbox import Sandbox, configuration, single
from support.testbed import ANY_PORT, CERTIFICATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiohttp

    from ddslogd.collection.context import Account
    from ddslogd.service.service import Service
    from support.testbed import Bed

NODE = "solo_single_node_1"
LOG = b"".join(b"line %06d of the log\n" % number for number in range(10_000))


def changed(bed: Bed, *changes: tuple[str, str]) -> settings.Settings:
    text = bed.text
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return loader.parse(text, "test").settings


def account(service: Service) -> Account:
    return service._accounts.all()["sandbox"]


def sessions(one: Account) -> list[aiohttp.ClientSession]:
    return [one.api._http._session, one.downloader._session]


async def closed(one: Account) -> list[bool]:
    for _ in range(20):  # they close next to what runs
        await asyncio.sleep(0)
    return [session.closed for session in sessions(one)]


FEWER_CALLS = ("calls_per_minute: 12000", "calls_per_minute: 6000")
FEWER_SLOTS = ("concurrent: 16", "concurrent: 2")


async def test_what_does_not_change_keeps_its_connections_and_its_login(bed: Bed) -> None:
    async with bed.open() as service:
        before = account(service)
        await service.reload(bed.settings)

        assert (account(service), await closed(before)) == (before, [False, False])


async def test_another_cloud_gets_an_account_of_its_own_and_the_old_one_is_closed(bed: Bed) -> None:
    async with bed.open() as service:
        before = account(service)
        await service.reload(changed(bed, FEWER_CALLS))

        assert (account(service).api is before.api, await closed(before)) == (False, [True, True])


async def test_other_settings_of_downloads_leave_the_calls_alone(bed: Bed) -> None:
    async with bed.open() as service:
        before = account(service)
        await service.reload(changed(bed, FEWER_SLOTS))

        assert (account(service).api is before.api, await closed(before)) == (True, [False, True])


async def test_a_running_cycle_ends_by_the_account_that_it_began_with(bed: Bed) -> None:
    """Two reloads come meanwhile; no byte is fetched twice, and in the end nothing old is open."""
    bed.sandbox.write(NODE, LOG)
    bed.sandbox.faults.bytes_per_second = 400_000
    async with bed.open() as service:
        before = account(service)
        cycle = asyncio.create_task(service.once([bed.instance()]))
        while not bed.sandbox.bytes_sent:
            await asyncio.sleep(0.01)
        await service.reload(changed(bed, FEWER_SLOTS))
        await service.reload(changed(bed, FEWER_CALLS))
        meanwhile = await closed(before)
        (report,) = await cycle

        assert (report.outcome, meanwhile, await closed(before)) == (CycleOutcome.OK, [False, False], [True, True])
        assert bed.sandbox.bytes_sent == len(LOG)


async def test_another_address_of_the_page_is_refused(bed: Bed) -> None:
    """Its port is bound before the service counts as ready."""
    async with bed.open() as service:
        with pytest.raises(ConfigError) as refused:
            await service.reload(changed(bed, ("instances:", "web: {listen: '127.0.0.1:1'}\ninstances:")))

        assert [one.path for one in refused.value.complaints] == ["web"]


@pytest.mark.parametrize(("key", "old"), [("storage.directory", "logs"), ("storage.state", "state")])
async def test_what_cannot_change_is_refused_and_all_stays_as_it_is(bed: Bed, key: str, old: str) -> None:
    async with bed.open() as service:
        before = account(service)
        path = str(bed.directory.parent / old)
        with pytest.raises(ConfigError) as refused:
            await service.reload(changed(bed, (json.dumps(path), json.dumps(path + "2")), FEWER_CALLS))

        told = [(one.path, one.text) for one in refused.value.complaints]
        assert told == [(key, "cannot change while ddslogd runs: restart for it")]
        assert (account(service), await closed(before)) == (before, [False, False])


async def test_where_one_account_cannot_be_built_none_is_replaced(bed: Bed) -> None:
    """A session that stays open fails the test by its ResourceWarning."""
    async with bed.open() as service:
        before = account(service)
        other = changed(bed, FEWER_CALLS)
        broken = other.clouds["sandbox"].model_copy(update={"ca_file": bed.directory / "nowhere.pem"})
        with pytest.raises(ConfigError):
            await service.reload(other.model_copy(update={"clouds": {**other.clouds, "second": broken}}))

        assert (account(service), await closed(before)) == (before, [False, False])


async def test_another_certificate_in_the_same_file_counts(bed: Bed, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text(CERTIFICATE)
    bed.set('link_hosts: ["127.0.0.1"]', f'link_hosts: ["127.0.0.1"]\n    ca_file: {bundle}')
    async with bed.open() as service:
        before = account(service)
        await service.reload(bed.settings)
        same = account(service)
        bundle.write_text(CERTIFICATE * 2)
        await service.reload(bed.settings)

        assert (same is before, account(service).api is before.api) == (True, False)


async def test_limits_of_the_disk_count_from_the_next_cycle_on(bed: Bed) -> None:
    bed.sandbox.write(NODE, LOG)
    async with bed.open() as service:
        await service.reload(changed(bed, ("keep_free: 0", "keep_free: 1000000GiB")))
        (report,) = await service.once([bed.instance()])

    assert report.outcome is CycleOutcome.NO_ROOM


async def test_streams_can_be_switched_off_and_on(bed: Bed) -> None:
    """What was collected without them, they take when they are there again."""
    bed.sandbox.write(NODE, LOG)
    async with bed.open() as service:
        await service.reload(changed(bed, ("instances:\n", "stream:\n  enabled: false\ninstances:\n")))
        await service.once([bed.instance()])
        without = list(bed.directory.glob("streams/solo/*"))
        await service.reload(bed.settings)
        await service._catch_up()

        streams = [path.read_bytes() for path in bed.directory.glob("streams/solo/*/*")]
        assert (without, streams) == ([], [LOG])


async def test_what_changed_is_told_by_counts(bed: Bed) -> None:
    more = ("instances:\n", f"instances:\n  - id: {'0' * 31}1in02\n    name: more\n")
    with capture_logs() as events:
        async with bed.open() as service:
            await service.reload(changed(bed, FEWER_CALLS, FEWER_SLOTS, more))

    (told,) = [event for event in events if event["event"] == "config.reloaded"]
    assert {key: value for key, value in told.items() if key not in {"event", "log_level"} and value} == {
        "clouds_changed": 1,
        "instances_added": 1,
        "sections": ["download"],
    }


class Running:
    """A daemon in a process of its own, and the cloud that it collects from."""

    def __init__(self, cloud: Sandbox, config: Path, logs: Path) -> None:
        self.cloud, self.config, self.logs = cloud, config, logs
        self.events: list[dict[str, Any]] = []
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", "run", "-c", str(self.config)),
            env={**os.environ, "DDSLOGD_TOKEN": self.cloud.issue_token()},
            stderr=asyncio.subprocess.PIPE,
        )

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def tells(self, event: str, **fields: object) -> None:
        """Wait for an event with these fields."""
        assert self.process is not None
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while line := await self.process.stderr.readline():
                self.events.append(told := json.loads(line))
                if told["event"] == event and all(told.get(name, 0) == value for name, value in fields.items()):
                    return
        pytest.fail(f"it ended without {event}")

    async def ends(self) -> None:
        assert self.process is not None
        await self.process.communicate()

    def stored(self, instance: str) -> list[bytes]:
        return [path.read_bytes() for path in (self.logs / "snapshots" / instance).rglob("[!.]*.log")]


@asynccontextmanager
async def running(tmp_path: Path, **dials: Any) -> AsyncIterator[Running]:
    fleet = (single("solo"), single("second"))
    async with Sandbox(fleet=fleet, lines_per_second=0, backlog=timedelta(0), **dials) as cloud:
        path = tmp_path / "ddslogd.yaml"
        path.write_text(ANY_PORT + configuration(cloud, directory=tmp_path / "logs", state=tmp_path / "state"))
        daemon = Running(cloud, path, tmp_path / "logs")
        yield daemon
        if daemon.process is not None and daemon.process.returncode is None:
            daemon.process.kill()
            await daemon.process.communicate()


def without_second(text: str) -> str:
    return text[: text.index("  - id: ", text.index('name: "solo"'))]


@pytest.mark.daemon
async def test_an_instance_that_is_added_is_collected_while_a_transfer_of_another_goes_on(tmp_path: Path) -> None:
    """The transfer is neither cut nor begun again: each byte comes once."""
    async with running(tmp_path, speed=300) as daemon:
        daemon.cloud.write(NODE, LOG)
        daemon.cloud.write("second_single_node_1", b"a line of the second\n")
        whole = daemon.config.read_text()
        daemon.config.write_text(without_second(whole))
        daemon.cloud.faults.bytes_per_second = 100_000
        await daemon.start()
        async with asyncio.timeout(30):
            while not daemon.cloud.bytes_sent:
                await asyncio.sleep(0.02)
        daemon.config.write_text(whole)
        daemon.signal(signal.SIGHUP)
        await daemon.tells("config.reloaded", instances_added=1, instances_changed=0, clouds_changed=0)
        await daemon.tells("cycle.done", instance="second", outcome="ok")
        meanwhile = daemon.stored("solo")
        await daemon.tells("file.stored", instance="solo")
        daemon.signal(signal.SIGTERM)
        await daemon.ends()

        assert (meanwhile, daemon.stored("solo")[:1], daemon.stored("second")) == (
            [],
            [LOG],
            [b"a line of the second\n"],
        )
        assert daemon.cloud.bytes_sent == len(LOG) + len(b"a line of the second\n")


@pytest.mark.daemon
async def test_a_stop_in_a_transfer_is_quick_and_the_next_start_goes_on_with_it(tmp_path: Path) -> None:
    """No byte that was on disk is fetched again."""
    log = LOG * 20
    async with running(tmp_path, speed=30) as daemon:
        daemon.config.write_text(without_second(daemon.config.read_text()))
        daemon.cloud.write(NODE, log)
        daemon.cloud.faults.bytes_per_second = 1_000_000
        await daemon.start()
        async with asyncio.timeout(30):
            while daemon.cloud.bytes_sent < 2_000_000:
                await asyncio.sleep(0.02)
        daemon.signal(signal.SIGTERM)
        await daemon.ends()
        (part,) = daemon.logs.rglob(".*.part")
        held, sent = part.stat().st_size, daemon.cloud.bytes_sent
        daemon.cloud.faults.clear()
        await daemon.start()
        await daemon.tells("file.stored", instance="solo")
        daemon.signal(signal.SIGTERM)
        await daemon.ends()

        assert (sent < len(log), held > 1_000_000, daemon.stored("solo")) == (True, True, [log])
        assert daemon.cloud.bytes_sent - sent < len(log) - held + 600_000
