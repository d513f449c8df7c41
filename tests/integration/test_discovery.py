"""What the clouds list, matched against the configuration, and a fleet that is kept in line with it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog

from ddslogd.collection import discovery
from ddslogd.collection.discovery import LIST_LIMIT, NOT_YET, Discovery, objection
from ddslogd.collection.node_registry import NodeRegistry
from ddslogd.config import loader
from ddslogd.config import settings as config_settings
from ddslogd.config.live_settings import LiveSettings
from ddslogd.model.cycle import Silent
from ddslogd.model.errors import Rejected
from ddslogd.model.instance import Every, ListedInstance, LogKind, Node
from ddslogd.sandbox import replica_set, single
from ddslogd.storage.ledger.database import MIGRATIONS
from ddslogd.storage.ledger.snapshot_records import Ledger
from support.clocks import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from ddslogd.collection.discovery import DiscoveryVerdict
    from ddslogd.huaweicloud.api_client import Api
    from ddslogd.model.cycle import CycleReport
    from ddslogd.model.instance import Instance
    from ddslogd.service.service import Service
    from support.testbed import Bed

CLOUDS = """\
clouds:
  eu: {endpoint: https://dds.eu.example.com, project_id: p, auth: {method: token, token: {env: X}}}
  asia: {endpoint: https://dds.asia.example.com, project_id: q, auth: {method: token, token: {env: X}}}
instances:
"""
NODES = (Node(id="n", name="n1", group="shard", role="Primary"),)


def settings(*entries: str) -> config_settings.Settings:
    return loader.parse(CLOUDS + "".join(f"  - {entry}\n" for entry in entries), "f").settings


def listed(
    name: str, number: int = 1, *, mode: str = "ReplicaSet", status: str = "normal", **tags: str
) -> ListedInstance:
    return ListedInstance(
        id=f"{number:032x}in02", name=name, mode=mode, status=status, tags=tuple(tags.items()), nodes=NODES
    )


HOUR_S = 3600.0
BOTH = settings("{discover: {}, cloud: eu}", "{discover: {}, cloud: asia}")


def judge(
    chosen: config_settings.Settings,
    listings: Mapping[str, Sequence[ListedInstance]],
    given: Mapping[tuple[str, str], str] | None = None,
) -> tuple[DiscoveryVerdict, ...]:
    return discovery.judge(chosen, listings, names=given or {})


def names(verdicts: Sequence[DiscoveryVerdict]) -> list[str | None]:
    return [verdict.instance.name if verdict.instance else None for verdict in verdicts]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("{}", None),
        ("{include: [prod-*]}", None),
        ("{include: [test-*, '*-orders']}", None),
        ("{include: [test-*]}", "the name 'prod-orders' is not included"),
        ("{include: [PROD-*]}", "the name 'prod-orders' is not included"),
        ("{exclude: ['*-orders']}", "the name 'prod-orders' is excluded by '*-orders'"),
        ("{include: [prod-*], exclude: [prod-o*]}", "the name 'prod-orders' is excluded by 'prod-o*'"),
        ("{tags: {env: prod}}", None),
        ("{tags: {env: test}}", "the tag 'env' is 'prod', not 'test'"),
        ("{tags: {env: prod, team: dba}}", "the tag 'team' is 'not there', not 'dba'"),
        ("{modes: [ReplicaSet, Single]}", None),
        ("{modes: [Sharding]}", "the mode is ReplicaSet"),
        ("{statuses: [normal, data_disk_full]}", None),
        ("{statuses: [data_disk_full]}", "the status is normal"),
    ],
)
def test_a_rule_matches_or_says_why_not(rule: str, expected: str | None) -> None:
    ((_, entry),) = settings(f"{{discover: {rule}, cloud: eu}}").discover_entries("eu")

    assert objection(listed("prod-orders", env="prod"), entry.discover) == expected


def test_a_discovered_instance_has_the_entrys_schedule_and_logs() -> None:
    chosen = settings("{discover: {}, cloud: eu, every: 30m, logs: [error, slow]}")

    (verdict,) = judge(chosen, {"eu": [listed("orders")]})

    assert verdict.instance is not None
    schedule = verdict.instance.schedule
    assert (isinstance(schedule, Every), verdict.instance.logs) == (True, (LogKind.ERROR, LogKind.SLOW))


def test_the_first_entry_that_fits_takes_an_instance() -> None:
    chosen = settings("{discover: {include: [prod-*]}, cloud: eu}", "{discover: {}, cloud: eu}")

    verdicts = judge(chosen, {"eu": [listed("prod-a", 1), listed("test-b", 2)]})

    assert [verdict.entry for verdict in verdicts] == ["instances[0]", "instances[1]"]


def test_the_configuration_is_read_once_for_each_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each listed instance: with as many entries as instances, that took a minute of the loop's processor."""
    asked, entries = [], config_settings.Settings.discover_entries

    def counted(self: config_settings.Settings, cloud: str) -> tuple[tuple[str, config_settings.DiscoverEntry], ...]:
        asked.append(cloud)
        return entries(self, cloud)

    monkeypatch.setattr(config_settings.Settings, "discover_entries", counted)
    judge(BOTH, {cloud: [listed(str(number), number) for number in range(9)] for cloud in ("eu", "asia")})

    assert asked == ["eu", "asia"]


def test_an_entry_discovers_in_its_own_cloud_only() -> None:
    chosen = settings("{discover: {}, cloud: eu}")

    verdicts = judge(chosen, {"eu": [listed("a", 1)], "asia": [listed("b", 2)]})

    assert names(verdicts) == ["a", None]


def test_an_entry_that_names_an_instance_wins() -> None:
    chosen = settings("{discover: {}, cloud: eu}", f"{{id: {1:032x}in02, name: mine, cloud: eu}}")

    (verdict,) = judge(chosen, {"eu": [listed("orders")]})

    assert (names([verdict]), verdict.entry) == (["mine"], "instances[1]")


def test_an_instance_that_an_entry_names_is_not_subject_to_rules() -> None:
    chosen = settings("{discover: {exclude: ['*']}, cloud: eu}", f"{{id: {1:032x}in02, name: mine, cloud: eu}}")

    assert names(judge(chosen, {"eu": [listed("orders")]})) == ["mine"]


def test_where_no_entry_fits_each_one_says_why() -> None:
    chosen = settings("{discover: {include: [x]}, cloud: eu}", "{discover: {modes: [Single]}, cloud: eu}")

    (verdict,) = judge(chosen, {"eu": [listed("orders")]})

    assert verdict.reasons == (
        "instances[0]: the name 'orders' is not included",
        "instances[1]: the mode is ReplicaSet",
    )


def test_instances_of_one_name_are_told_apart_by_their_ids() -> None:
    """Also across clouds, since their files lie in one directory."""
    listings = {"eu": [listed("orders", 1)], "asia": [listed("orders", 2), listed("other", 3)]}

    assert names(judge(BOTH, listings)) == [f"orders-{1:032x}in02", f"orders-{2:032x}in02", "other"]


def test_a_name_that_an_entry_gives_to_another_is_told_apart_too() -> None:
    chosen = settings("{discover: {}, cloud: eu}", f"{{id: {9:032x}in02, name: orders, cloud: eu}}")

    assert names(judge(chosen, {"eu": [listed("orders")]})) == [f"orders-{1:032x}in02"]


def test_an_instance_without_a_name_is_called_by_its_id() -> None:
    assert names(judge(settings("{discover: {}, cloud: eu}"), {"eu": [listed("")]})) == [f"{1:032x}in02"]


def test_a_name_is_kept_whoever_else_has_it_and_whatever_the_instance_is_called_now() -> None:
    given = {("eu", listed("", 1).id): "orders", ("eu", listed("", 2).id): "events"}

    verdicts = judge(BOTH, {"asia": [listed("orders", 3)], "eu": [listed("orders", 1), listed("renamed", 2)]}, given)

    assert names(verdicts) == [f"orders-{3:032x}in02", "orders", "events"]


def test_a_name_of_an_instance_that_is_not_listed_now_is_not_given_to_another() -> None:
    given = {("asia", listed("", 1).id): "orders"}

    assert names(judge(BOTH, {"eu": [listed("orders", 2)]}, given)) == [f"orders-{2:032x}in02"]


def test_a_name_that_an_entry_takes_later_is_its_own() -> None:
    """Two instances in one directory would be worse than another name."""
    chosen = settings("{discover: {}, cloud: eu}", f"{{id: {9:032x}in02, name: orders, cloud: eu}}")

    verdicts = judge(chosen, {"eu": [listed("orders")]}, {("eu", listed("").id): "orders"})

    assert names(verdicts) == [f"orders-{1:032x}in02"]


def test_an_instance_that_two_clouds_list_has_two_names() -> None:
    found = names(judge(BOTH, {"eu": [listed("orders")], "asia": [listed("orders")]}))

    assert len(set(found)) == 2


# --- against the sandbox ----------------------------------------------------------------------------------------------


def discovering(bed: Bed, rule: str = "{}") -> None:
    """Let an entry that discovers are in the place of those that name instances."""
    text = bed.text
    bed.set(text[text.index("instances:\n") :], f"instances:\n  - discover: {rule}\n")


async def fleet(service: Service) -> list[str]:
    return sorted(instance.name for instance in await service.fleet())


async def test_what_the_cloud_lists_is_collected(bed: Bed) -> None:
    async with bed.cloud(fleet=(single("one"), single("two"), single("three"))) as sandbox:
        for name in ("one", "two", "three"):
            sandbox.write(f"{name}_single_node_1", f"{name}\n".encode())
        discovering(bed, "{include: [t*]}")
        async with bed.open() as service:
            await service.once(await service.fleet())

        assert sorted(bed.contents()) == [b"three\n", b"two\n"]


async def test_more_instances_than_a_page_holds_are_all_seen(bed: Bed) -> None:
    """Three pages for 250; the short last one ends the list."""
    async with bed.cloud(fleet=tuple(single(f"one{number:03}") for number in range(250))) as sandbox:
        discovering(bed)
        async with bed.open() as service:
            names = await fleet(service)

        assert (len(names), sandbox.calls["instances"]) == (250, 3)


async def test_pages_that_are_shorter_than_asked_for_hide_nothing(bed: Bed) -> None:
    async with bed.cloud(fleet=tuple(single(f"one{number:03}") for number in range(25))) as sandbox:
        sandbox.faults.short_pages = 10
        discovering(bed)
        async with bed.open() as service:
            assert len(await fleet(service)) == 25


@pytest.mark.parametrize("off", [-3, 3])
async def test_a_total_that_is_wrong_is_a_hint_only(bed: Bed, off: int) -> None:
    async with bed.cloud(fleet=tuple(single(f"one{number:03}") for number in range(5))) as sandbox:
        sandbox.faults.total_count_off = off
        discovering(bed)
        async with bed.open() as service:
            assert len(await fleet(service)) == 5


async def test_a_new_instance_begins_with_the_next_refresh_and_is_told(bed: Bed) -> None:
    async with bed.cloud(fleet=(single("one"),)) as sandbox:
        discovering(bed)
        async with bed.open() as service:
            await service.fleet()
            sandbox.add(single("two"))
            with structlog.testing.capture_logs() as events:
                names = await fleet(service)

        told = [event["instance"] for event in events if event["event"] == "instance.appeared"]
        assert (names, told) == (["one", "two"], ["two"])


async def test_an_instance_is_gone_after_two_refreshes_without_it(bed: Bed) -> None:
    async with bed.cloud(fleet=(single("one"), single("two"))) as sandbox:
        discovering(bed)
        async with bed.open() as service:
            await service.fleet()
            sandbox.remove("two")
            with structlog.testing.capture_logs() as events:
                names = [await fleet(service) for _ in range(3)]

        told = [event["instance"] for event in events if event["event"] == "instance.disappeared"]
        assert (names, told) == ([["one", "two"], ["one"], ["one"]], ["two"])


async def test_an_instance_that_comes_back_in_time_was_never_gone(bed: Bed) -> None:
    async with bed.cloud(fleet=(single("one"), single("two"))) as sandbox:
        discovering(bed)
        async with bed.open() as service:
            await service.fleet()
            sandbox.remove("two")
            await service.fleet()
            sandbox.add(single("two"))
            await service.fleet()
            sandbox.remove("two")

            assert await fleet(service) == ["one", "two"]


async def test_a_cloud_that_does_not_answer_changes_nothing(bed: Bed) -> None:
    async with bed.cloud(fleet=(single("one"), single("two"))) as sandbox:
        discovering(bed)
        async with bed.open() as service:
            await service.fleet()
            await sandbox.stop()
            with structlog.testing.capture_logs() as events:
                names = [await fleet(service) for _ in range(3)]
            await sandbox.start()

        told = [event["event"] for event in events if event["event"].startswith("discovery.")]
        assert (names, told) == ([["one", "two"]] * 3, ["discovery.failed"] * 3)


async def test_the_nodes_of_what_is_collected_stand_in_the_ledger(bed: Bed) -> None:
    async with bed.cloud(fleet=(replica_set("solo"),)):
        discovering(bed)
        async with bed.open() as service:
            await service.fleet()

        with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db:
            rows = db.execute("SELECT name, type, role FROM nodes ORDER BY name").fetchall()
        roles = ["Primary", "Secondary", "Secondary"]
        assert rows == [(f"solo_replica_node_{n + 1}", "replica", role) for n, role in enumerate(roles)]


async def test_a_node_that_exports_leave_out_is_warned_of(bed: Bed) -> None:
    async with bed.cloud(fleet=(replica_set("solo"),)) as sandbox:
        left_out = sandbox.fleet[0].nodes[1].name

        def without(reply: dict[str, Any]) -> dict[str, Any]:
            if "list" in reply:
                reply["list"] = [row for row in reply["list"] if row["node_name"] != left_out]
            return reply

        sandbox.faults.mangle = without
        discovering(bed)
        with structlog.testing.capture_logs() as events:
            async with bed.open() as service:
                instances = await service.fleet()
                for _ in range(4):
                    await service.once(instances)
                    bed.clock.forward(minutes=20)

        assert [event["node"] for event in events if event["event"] == "node.left_out"] == [left_out]


class ChoresWait(ManualClock):
    """Policy time that the hourly chores do not move: while cycles wait for sockets, they would run the day through."""

    async def sleep(self, seconds: float) -> None:
        if seconds < HOUR_S:
            await super().sleep(seconds)
            return
        end = self.time + timedelta(seconds=seconds)
        while self.time < end:
            await asyncio.sleep(0)


async def test_the_daemon_takes_up_what_appears_and_drops_what_disappears(bed: Bed) -> None:
    """The service as it runs: a refresh every 15 minutes of policy time, and the fleet of the scheduler after it."""
    bed.clock = ChoresWait()
    async with bed.cloud(fleet=(single("one"),)) as sandbox:
        discovering(bed)
        reports = Reports()
        bed.progress = reports
        async with bed.open() as service:
            serving = asyncio.create_task(service.serve())
            await reports.until("one")
            sandbox.add(single("two"))
            await reports.until("two")
            sandbox.remove("one")
            await reports.until("two", times=8)
            reports.names.clear()
            await reports.until("two", times=3)
            serving.cancel()
            await asyncio.wait([serving])

        assert set(reports.names) == {"two"}


async def test_the_first_name_is_kept_over_a_restart(bed: Bed) -> None:
    async with bed.cloud(fleet=(single("orders"),)) as sandbox:
        discovering(bed)
        async with bed.open() as service:
            await service.fleet()

        def renamed(reply: dict[str, Any]) -> dict[str, Any]:
            return {**reply, "instances": [{**one, "name": "renamed"} for one in reply["instances"]]}

        sandbox.faults.mangle = renamed
        async with bed.open() as service:
            assert await fleet(service) == ["orders"]


# --- a restart while no list comes ------------------------------------------------------------------------------------


async def found_once(bed: Bed) -> list[str]:
    """Discover, collect and stop."""
    async with bed.open() as service:
        instances = await service.fleet()
        await service.once(instances)
    return sorted(instance.name for instance in instances)


async def test_a_restart_without_the_list_goes_on_with_what_was_discovered(bed: Bed) -> None:
    """Under the names of before, by what was listed of them last, and it is said which list is missing."""
    async with bed.cloud(fleet=(single("one", tags=(("env", "prod"),)), single("two"))) as sandbox:
        discovering(bed, "{tags: {env: prod}, modes: [Single], statuses: [normal]}")
        await found_once(bed)
        sandbox.faults.missing_rights = {"instances"}
        sandbox.write("one_single_node_1", b"a line\n")
        bed.clock.forward(minutes=20)

        assert await found_once(bed) == ["one"]
        assert bed.contents() == [b"a line\n"]


async def test_cycles_begin_before_any_list_comes_and_none_is_doubled_when_it_does(bed: Bed) -> None:
    """One right is revoked, and given back later: the runs go on as they were."""
    bed.clock = ChoresWait()
    async with bed.cloud(fleet=(single("one"), single("two"))) as sandbox:
        discovering(bed)
        await found_once(bed)
        sandbox.faults.missing_rights = {"instances"}
        ticks, bed.progress = await serve_until(bed, "one", times=3), Reports()
        with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db:
            found = db.execute("SELECT instance, tick_ms FROM cycles ORDER BY instance, id").fetchall()

        assert ticks >= {"one", "two"}
        assert len(found) == len(set(found))


async def serve_until(bed: Bed, name: str, *, times: int) -> set[str]:
    """Serve without a list until so many cycles have ended, and with it for as many; return whose they were."""
    bed.progress = reports = Reports()
    async with bed.open() as service:
        serving = asyncio.create_task(service.serve())
        await reports.until(name, times=times)
        assert list(service.unlisted()) == ["sandbox"]
        bed.sandbox.faults.missing_rights = set()
        async with asyncio.timeout(20):
            while service.unlisted():
                await asyncio.sleep(0)
        await reports.until(name, times=times)
        serving.cancel()
        await asyncio.wait([serving])
    return set(reports.names)


async def test_what_left_while_the_daemon_was_down_is_gone_after_two_lists(bed: Bed) -> None:
    async with bed.cloud(fleet=(single("one"), single("two"))) as sandbox:
        discovering(bed)
        await found_once(bed)
        sandbox.remove("two")
        bed.changes.clear()
        discovering(bed)
        async with bed.open() as service:
            after = [await fleet(service) for _ in range(2)]

        assert after == [["one", "two"], ["one"]]
        async with bed.open() as service:
            assert [instance.name for instance in service._discovery.fleet()] == ["one"]


async def test_what_no_entry_wants_any_more_goes_with_the_first_list(bed: Bed) -> None:
    async with bed.cloud(fleet=(single("one", tags=(("env", "prod"),)),)) as sandbox:
        discovering(bed, "{tags: {env: prod}}")
        await found_once(bed)
        sandbox.add(replace(sandbox.fleet[0], tags=()))
        async with bed.open() as service:
            before = [instance.name for instance in service._discovery.fleet()]

            assert (before, await fleet(service)) == (["one"], [])


async def test_an_entry_that_is_gone_takes_nothing_up_again(bed: Bed) -> None:
    async with bed.cloud(fleet=(single("one"), single("two"))) as sandbox:
        discovering(bed)
        await found_once(bed)
        sandbox.faults.missing_rights = {"instances"}
        bed.changes.clear()
        discovering(bed, "{include: [two]}")

        assert await found_once(bed) == ["two"]


CYCLE_COLUMNS = (
    "id, instance, tick_ms, started_ms, finished_ms, outcome, stored, unchanged, failed, stored_bytes, fetched_bytes,"
    " error, error_kind, new_bytes"
)
STANDING_COLUMNS = "instance, cycle, good_ms, quiet, newest_ms, new_bytes"


async def test_an_older_versions_instances_are_taken_up_though_how_they_were_listed_is_not_known(bed: Bed) -> None:
    async with bed.cloud(fleet=(single("one", tags=(("env", "prod"),)),)) as sandbox:
        discovering(bed, "{tags: {env: prod}}")
        await found_once(bed)
        path = bed.state / "ledger.sqlite3"
        newer = path.rename(path.with_name("newer"))
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for number, schema in enumerate(MIGRATIONS[:4], start=1):
                db.executescript(f"{schema} PRAGMA user_version = {number};")
            db.execute("ATTACH ? AS newer", (str(newer),))
            db.execute("INSERT INTO names SELECT * FROM newer.names")
            for table, columns in {"cycles": CYCLE_COLUMNS, "standings": STANDING_COLUMNS}.items():
                db.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM newer.{table}")  # noqa: S608  # constants
        sandbox.faults.missing_rights = {"instances"}

        assert await found_once(bed) == ["one"]


# --- two clouds, made up: one may fail while the other answers --------------------------------------------------------


class Lists:
    """A cloud that only lists; what is in for its answer is a list, an error, or a wait without end."""

    def __init__(self, *answers: list[ListedInstance] | Exception | None) -> None:
        self._answers = list(answers)

    async def instances(self) -> tuple[ListedInstance, ...]:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        return tuple(answer or ())


@pytest.fixture
def gone() -> list[str]:
    """The instances that a discovery says the cloud has no more."""
    return []


@pytest.fixture
def live() -> LiveSettings:
    """The settings in force, of the discovery that a test makes."""
    return LiveSettings(BOTH)


@pytest.fixture
async def found(tmp_path: Path, gone: list[str], live: LiveSettings) -> AsyncIterator[Callable[..., Discovery]]:
    """Make a discovery in clouds that list."""
    ledger = Ledger(tmp_path)
    await ledger.open()

    async def forget(instance: Instance) -> None:
        gone.append(instance.name)

    def made(chosen: config_settings.Settings = BOTH, **clouds: Lists) -> Discovery:
        apis = cast("dict[str, Api]", clouds)
        live.current = chosen
        return Discovery(apis=apis, settings=live, node_registry=NodeRegistry(), ledger=ledger, gone=forget)

    yield made
    await ledger.close()


DOWN = Rejected("the list makes no sense")


async def test_names_do_not_change_with_the_clouds_that_answer(found: Callable[..., Discovery]) -> None:
    eu, asia = [listed("orders", 1)], [listed("orders", 2)]
    discovery = found(eu=Lists(eu, DOWN, eu), asia=Lists(DOWN, asia, asia))

    names = []
    for _ in range(3):
        await discovery.refresh()
        names.append([instance.name for instance in discovery.fleet()])

    assert names == [["orders"], *[["orders", f"orders-{2:032x}in02"]] * 2]


async def test_an_instance_that_two_lists_miss_is_told_of_as_gone_once(
    found: Callable[..., Discovery], gone: list[str]
) -> None:
    discovery = found(eu=Lists([listed("orders")], [], [], [], []), asia=Lists(*[[]] * 5))

    after = []
    for _ in range(5):
        await discovery.refresh()
        after.append(list(gone))

    assert after == [[], [], ["orders"], ["orders"], ["orders"]]


async def test_an_instance_that_is_listed_and_no_longer_wanted_is_not_gone(
    found: Callable[..., Discovery], gone: list[str]
) -> None:
    unwanted = replace(listed("orders"), name="other-tmp")
    chosen = settings("{discover: {include: [orders]}, cloud: eu}", "{discover: {}, cloud: asia}")
    discovery = found(chosen, eu=Lists([listed("orders")], *[[unwanted]] * 3), asia=Lists(*[[]] * 4))

    for _ in range(4):
        await discovery.refresh()

    assert (gone, [instance.name for instance in discovery.fleet()]) == ([], [])


async def test_a_list_that_is_needed_and_missing_is_remembered_until_it_comes(found: Callable[..., Discovery]) -> None:
    discovery = found(eu=Lists([], []), asia=Lists(DOWN, []))

    unlisted = [discovery.unlisted()]
    for _ in range(2):
        await discovery.refresh()
        unlisted.append(discovery.unlisted())

    assert unlisted == [{"eu": NOT_YET, "asia": NOT_YET}, {"asia": "the list makes no sense"}, {}]


async def test_after_a_reload_a_list_that_was_there_is_not_missed_and_a_new_clouds_is(
    found: Callable[..., Discovery], live: LiveSettings
) -> None:
    lists = Lists([], [])
    discovery = found(settings("{discover: {}, cloud: eu}"), eu=lists)
    await discovery.refresh()

    live.current = BOTH
    discovery.reloaded(cast("dict[str, Api]", {"eu": lists, "asia": Lists([])}))

    assert discovery.unlisted() == {"asia": NOT_YET}


@pytest.mark.looptime
async def test_a_cloud_that_hangs_is_given_up_and_keeps_no_other_waiting(found: Callable[..., Discovery]) -> None:
    discovery = found(eu=Lists(None), asia=Lists([listed("orders")]))
    began = asyncio.get_running_loop().time()

    with structlog.testing.capture_logs() as events:
        await discovery.refresh()

    took_s = asyncio.get_running_loop().time() - began
    reasons = [event["reason"] for event in events if event["event"] == "discovery.failed"]
    assert took_s == pytest.approx(LIST_LIMIT.total_seconds(), abs=5)
    assert (reasons, len(discovery.fleet())) == (["the list of instances did not come within 10 minutes"], 1)


class Reports(Silent):
    """Remembers whose cycles ended."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def cycled(self, report: CycleReport) -> None:
        self.names.append(report.instance)

    async def until(self, name: str, *, times: int = 1) -> None:
        seen = self.names.count(name)
        async with asyncio.timeout(20):
            while self.names.count(name) < seen + times:
                await asyncio.sleep(0)


async def test_what_new_settings_do_not_want_goes_at_the_next_refresh_and_is_not_gone(
    found: Callable[..., Discovery], live: LiveSettings, gone: list[str]
) -> None:
    """Two refreshes in a row are for a list that misses an instance, not for an operator who leaves it out."""
    lists = Lists(*[[listed("orders"), listed("events", 2)]] * 2)
    discovery = found(settings("{discover: {}, cloud: eu}"), eu=lists)
    await discovery.refresh()

    apis = cast("dict[str, Api]", {"eu": lists})
    live.current = settings("{discover: {exclude: [orders]}, cloud: eu}")
    discovery.reloaded(apis)
    before = [instance.name for instance in discovery.fleet()]
    await discovery.refresh()

    assert (before, [one.name for one in discovery.fleet()], gone) == (["orders", "events"], ["events"], [])


async def test_where_nothing_is_to_be_discovered_any_more_what_was_goes_at_once(
    found: Callable[..., Discovery], live: LiveSettings
) -> None:
    discovery = found(eu=Lists([listed("orders")]), asia=Lists([listed("events", 2)]))
    await discovery.refresh()

    live.current = settings("{discover: {}, cloud: asia}")
    discovery.reloaded({})

    assert [instance.name for instance in discovery.fleet()] == []


async def test_who_is_named_from_now_on_is_there_once(found: Callable[..., Discovery], live: LiveSettings) -> None:
    eu = Lists([listed("orders")])
    discovery = found(settings("{discover: {}, cloud: eu}"), eu=eu)
    await discovery.refresh()

    live.current = settings(f"{{id: {listed('orders').id}, name: sales, cloud: eu}}", "{discover: {}, cloud: eu}")
    discovery.reloaded(cast("dict[str, Api]", {"eu": eu}))

    assert [instance.name for instance in discovery.fleet()] == ["sales"]
