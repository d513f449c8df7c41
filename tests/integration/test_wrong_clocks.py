"""Times that cannot be: ahead of the best clock that is known. They are not believed, and make nothing fresh or old."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from ddslogd.huaweicloud.auth.credentials import Refusal
from ddslogd.model.errors import CredentialsRefused
from ddslogd.model.instance import Instance, LogKind
from ddslogd.model.snapshot import LogFile
from ddslogd.model.stream import StreamPart, StreamState
from ddslogd.monitoring.status import State
from ddslogd.sandbox import single
from ddslogd.sandbox.faults import ApiError
from ddslogd.storage import paths
from ddslogd.storage.file_age import Ages, NotedClock
from ddslogd.storage.ledger.stream_records import StreamBook
from support.clocks import START, ManualClock
from support.log_streams import mongod_lines
from support.testbed import Bed, known_gaps, next_cycle, quiet_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ddslogd.monitoring.status import InstanceStatus as Seen
    from ddslogd.sandbox import Sandbox
    from ddslogd.service.service import Service

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NODE = "solo_single_node_1"
WINDOW = 20_000


class HostClock(ManualClock):
    """A host whose wall clock is set, while its steady one and the cloud's go on."""

    def __init__(self) -> None:
        super().__init__()
        self.set_by = timedelta(0)

    def now(self) -> datetime:
        return self.time + self.set_by


@pytest.fixture
def clock() -> HostClock:
    return HostClock()


@pytest.fixture
async def sandbox(clock: HostClock) -> AsyncIterator[Sandbox]:
    """A cloud whose clock is right."""
    async with quiet_sandbox_of(clock) as started:
        yield started


def quiet_sandbox_of(clock: HostClock, **dials: Any) -> Sandbox:
    true = ManualClock()
    true.now = lambda: clock.time  # type: ignore[method-assign]  # the cloud's time is the true one
    return quiet_sandbox(true, **dials)


async def seen(service: Service) -> Seen:
    service.observer._books = None  # what was read a moment ago will not do
    (one,) = (await service.observer.status()).instances
    return one


# --- what is fresh ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cycles_before", [0, 6])
async def test_a_good_cycle_of_a_host_8_hours_ahead_is_fresh_for_no_longer_than_another(
    bed: Bed, clock: HostClock, cycles_before: int
) -> None:
    """Then its clock is right, and every cycle fails. With a restart, and without a reply of the cloud too."""
    states = []
    async with bed.open():
        for _ in range(cycles_before):
            await bed.collect()
            clock.forward(minutes=20)
        clock.set_by = 8 * HOUR
        await bed.collect()
    clock.set_by = timedelta(0)
    async with bed.open() as service:
        bed.sandbox.faults.drop_api = 10_000
        states.append((await seen(service)).state)
        for _ in range(30):
            clock.forward(minutes=20)
            await bed.collect()
            states.append((await seen(service)).state)

    assert states[3:] == [State.STALE] * 28


async def test_the_age_of_a_good_cycle_is_told_by_the_cloud_s_clock(bed: Bed, clock: HostClock) -> None:
    clock.set_by = 8 * HOUR
    async with bed.open() as service:
        await bed.collect()
        clock.forward(minutes=10)
        clock.set_by = timedelta(0)
        one = await seen(service)

    assert (one.state, one.age_s) == (State.FRESH, 600)


@pytest.mark.parametrize("ahead", [6 * MINUTE, 8 * HOUR, 365 * DAY])
async def test_what_an_older_version_noted_ahead_of_the_clock_is_not_fresh(
    bed: Bed, clock: HostClock, ahead: timedelta
) -> None:
    """Nor once the clock has caught up with it, where a cycle failed before that."""
    await bed.collect()
    with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db, db:
        noted = round((clock.time + ahead).timestamp() * 1000)
        db.execute("UPDATE standings SET good_ms = ?", (noted,))
    async with bed.open() as service:
        at_first = await seen(service)
        bed.sandbox.faults.drop_api = 10_000
        clock.forward(minutes=20 if ahead > 20 * MINUTE else 0)
        await bed.collect()
        clock.time = max(clock.time, datetime.fromtimestamp(noted / 1000, UTC))
        caught_up = await seen(service)

    assert (at_first.state, at_first.age_s, caught_up.state) == (State.STALE, None, State.STALE)
    assert "lies ahead of the clock" in at_first.why


async def test_an_instance_that_is_known_since_a_time_to_come_is_not_new_until_then(bed: Bed, clock: HostClock) -> None:
    clock.set_by = 8 * HOUR
    async with bed.open() as service:
        at_first = (await seen(service)).state
        clock.set_by = timedelta(0)
        later = (await seen(service)).state

    assert (at_first, later) == (State.NEW, State.STALE)


async def test_a_failure_that_began_at_a_time_to_come_began_now(bed: Bed, clock: HostClock) -> None:
    bed.sandbox.faults.drop_api = 10_000
    clock.set_by = 365 * DAY
    async with bed.open() as service:
        await bed.collect()
        clock.set_by = timedelta(0)
        clock.forward(minutes=20)
        await bed.collect()
        (failing,) = (await seen(service)).failures

    assert (failing.since, failing.times) == (failing.last, 2)


# --- the order of exports ---------------------------------------------------------------------------------------------


def one_row(ahead: timedelta) -> Callable[[dict[str, Any]], Any]:
    """Change what a reply says of when files were finished."""

    def mangle(reply: dict[str, Any]) -> Any:
        for row in reply["list"]:
            if row["updated_at"]:
                row["updated_at"] += round(ahead / timedelta(milliseconds=1))
        return reply

    return mangle


@pytest.mark.parametrize("snapshots", ["all", "latest", "none"])
@pytest.mark.parametrize("ahead", [6 * MINUTE, DAY, 365 * DAY])
async def test_a_row_of_a_time_to_come_stops_no_stream(
    bed: Bed, clock: HostClock, monkeypatch: pytest.MonkeyPatch, snapshots: str, ahead: timedelta
) -> None:
    """After it the window overflows: that is a gap, and the lines behind it are in the stream."""
    bed.snapshots = snapshots
    async with quiet_sandbox_of(clock, window=WINDOW, fleet=(single("solo"),)) as bed.sandbox:
        monkeypatch.setenv("DDSLOGD_TOKEN", bed.sandbox.issue_token())
        bed.sandbox.write(NODE, mongod_lines(0, 50))
        async with bed.open():
            bed.sandbox.faults.mangle = one_row(ahead)
            with capture_logs() as events:
                await next_cycle(bed)
            bed.sandbox.faults.mangle = None
            bed.sandbox.write(NODE, mongod_lines(50, 1000))
            await next_cycle(bed)
            bed.sandbox.write(NODE, mongod_lines(1050, 10))
            await next_cycle(bed)
        log = bed.sandbox.log_of(NODE)

    stream = (bed.directory / "streams" / "solo" / f"{NODE}.log").read_bytes()
    assert [event["node"] for event in events if event["event"] == "export.time_ahead"] == [NODE]
    assert (stream.startswith(mongod_lines(0, 50)), log.endswith(stream[-WINDOW // 2 :])) == (True, True)
    assert [gap.cause.value for gap in known_gaps(bed.state)] == ["window overflow"]


@pytest.mark.parametrize("ahead", [4 * MINUTE, -DAY])
async def test_a_row_s_time_within_the_clock_is_believed(bed: Bed, ahead: timedelta) -> None:
    bed.sandbox.write(NODE, mongod_lines(0, 50))
    bed.sandbox.faults.mangle = one_row(ahead)

    await bed.collect()

    (path,) = bed.files()
    told = paths.updated_at(path.name)
    assert told is not None
    assert abs(told - bed.clock.time - ahead) < MINUTE


# --- turns, cool-downs ------------------------------------------------------------------------------------------------


async def test_an_instance_that_was_served_at_a_time_to_come_has_its_turn(bed: Bed, clock: HostClock) -> None:
    """Next year's would wait behind all others, at each run, until next year."""
    async with bed.open() as service:
        collector = service._collector
        names = [f"one-{number}" for number in range(16)]
        collector._served_at = {name: clock.now() - MINUTE for name in names} | {names[0]: clock.now() + 365 * DAY}
        schedule = bed.instance().schedule

        def urgency(name: str) -> float:
            return collector.urgency(Instance(id="1", name=name, cloud="sandbox", schedule=schedule))

        assert min(names, key=urgency) == names[0]


def test_a_cool_down_ends_though_the_clock_is_set_back(clock: HostClock) -> None:
    refusal = Refusal("sandbox", clock, 5 * MINUTE, todo="")
    refusal.note("secret", "no")
    clock.set_by = -365 * DAY
    clock.forward(minutes=4)
    with pytest.raises(CredentialsRefused):
        refusal.check("secret")
    clock.forward(minutes=1)

    refusal.check("secret")


async def test_what_was_warned_of_by_a_clock_a_year_ahead_is_warned_of_a_day_later(bed: Bed, clock: HostClock) -> None:
    bed.sandbox.faults.api_errors = [ApiError(404, "DBS.200002") for _ in range(3)]
    with capture_logs() as events:
        async with bed.open():
            clock.set_by = 365 * DAY
            await bed.collect()
            clock.set_by = timedelta(0)
            clock.forward(hours=23)
            await bed.collect()
            clock.forward(hours=2)
            await bed.collect()

    assert [event["log_level"] for event in events if event["event"] == "cycle.done"] == ["warning", "info", "warning"]


# --- what is old ------------------------------------------------------------------------------------------------------


async def several(bed: Bed, number: int) -> list[Path]:
    for cycle in range(number):
        bed.sandbox.write(NODE, mongod_lines(cycle * 300, 300))
        await next_cycle(bed)
    return bed.files()


def removed(events: list[Any]) -> list[str]:
    return [event["event"] for event in events if event["event"].startswith("retention.")]


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("set_by", [365 * DAY, 40 * DAY])
async def test_a_host_whose_clock_jumps_forward_removes_nothing_for_its_age(
    bed: Bed, clock: HostClock, set_by: timedelta, *, heard: bool
) -> None:
    """Whether the cloud has told this process its time, or none can be reached since its start."""
    events: list[Any] = []
    async with bed.open() as service:
        before = await several(bed, 10)
        if heard:
            clock.set_by = set_by
            with capture_logs() as events:
                await service._archive.retention.run()
                await service._archive.retention.run()
            clock.set_by = timedelta(0)
            await service._archive.retention.run()
    clock.set_by = set_by
    if not heard:
        async with bed.open() as service:
            with capture_logs() as events:
                await service._archive.retention.run()

    assert (bed.files(), len(before)) == (before, 10)
    assert removed(events) == (["retention.age_stopped"] if heard else [])


async def test_limits_of_size_go_on_with_the_oldest_that_came(bed: Bed, clock: HostClock) -> None:
    bed.set("keep_free: 0\n", "keep_free: 0\n  keep: {age: 30d, size: 100KB}\n")
    async with bed.open() as service:
        before = await several(bed, 10)
        clock.set_by = 365 * DAY
        await service._archive.retention.run()

    left = bed.files()
    assert (0 < len(left) < 10, left) == (True, before[-len(left) :])


async def test_what_is_old_by_both_clocks_goes(bed: Bed, clock: HostClock) -> None:
    async with bed.open() as service:
        before = await several(bed, 4)
        clock.forward(days=31)
        await bed.collect()
        await service._archive.retention.run()

    assert bed.files() == before[-1:]


async def test_a_stream_s_file_that_a_host_of_1970_rotated_is_as_old_as_its_last_line(
    bed: Bed, clock: HostClock
) -> None:
    """The clock is right when retention runs."""
    async with bed.open() as service:
        await bed.collect()
        path = await rotated(bed, service, at=datetime(1970, 1, 1, 0, 5, tzinfo=UTC), last_at=clock.time - DAY)
        await service._archive.retention.run()

    assert (bed.directory / path).exists()


@pytest.mark.parametrize(("lines_age", "stays"), [(29, True), (31, False)])
async def test_a_stream_s_file_that_was_rotated_at_a_time_to_come_is_as_old_as_its_last_line(
    bed: Bed, clock: HostClock, lines_age: int, *, stays: bool
) -> None:
    async with bed.open() as service:
        await bed.collect()
        path = await rotated(bed, service, at=clock.time + 365 * DAY, last_at=clock.time - lines_age * DAY)
        await service._archive.retention.run()

    assert (bed.directory / path).exists() is stays


async def rotated(bed: Bed, service: Service, *, at: datetime, last_at: datetime) -> str:
    series = paths.series(f"snapshots/solo/{NODE}/x.log")
    path, newest = paths.stream_file(series, at), paths.stream_file(series, at + DAY)
    state = StreamState(
        series=series,
        instance="solo",
        log=LogKind.ERROR,
        node=NODE,
        path=newest.as_posix(),
        size=0,
        born_at=last_at,
        reference_at=last_at,
    )
    part = StreamPart(path=path.as_posix(), series=series, size=1, first_at=last_at, last_at=last_at, rotated_at=at)
    await StreamBook(service._archive.ledger).adopt(state, parts=[part], taken=())
    (bed.directory / path).parent.mkdir(parents=True, exist_ok=True)
    (bed.directory / path).write_bytes(b"x")
    return path.as_posix()


def test_one_cloud_s_clock_judges_that_cloud_s_files_alone() -> None:
    ages = Ages(now=START, read={"a": 2 * DAY, "b": HOUR}, origins={"one": "a", "two": "b"})

    found = [ages.now_for(name) for name in ("one", "two", "left the configuration")]

    assert (found, ages.stopped) == ([None, START + HOUR, START], {"a": 2 * DAY})


@pytest.mark.parametrize(
    ("read", "noted", "newest", "expected"),
    [
        ({}, {"a": (0, 1)}, None, START),  # seen an hour ago
        ({}, {"a": (0, 24 * 365)}, None, START - 364 * DAY),
        ({}, {"a": (24 * 300, 1)}, None, None),
        (None, {"a": (24 * 300, 1)}, None, None),
        (None, {"a": (0, 24 * 365)}, None, START),
        ({}, {}, 24 * 40, START - 39 * DAY),
        ({}, {}, None, None),
        ({"b": 0}, {"a": (0, 24 * 40)}, None, START),
        ({"b": 24 * 40}, {"a": (0, 24 * 40)}, None, START - 39 * DAY),
        ({"a": -25}, {"a": (0, 1)}, None, None),
        ({"a": 24}, {"a": (24 * 300, 1)}, None, START + DAY),
    ],
)
def test_a_clock_counts_as_far_as_something_proves_it(
    read: dict[str, int] | None, noted: dict[str, tuple[int, int]], newest: int | None, expected: datetime | None
) -> None:
    """All numbers are hours: how far clocks are ahead, and how long ago something was seen."""
    ages = Ages(
        now=START,
        read=None if read is None else {cloud: ahead * HOUR for cloud, ahead in read.items()},
        noted={
            cloud: NotedClock(ahead=ahead * HOUR, seen_at=START - ago * HOUR) for cloud, (ahead, ago) in noted.items()
        },
        origins={"one": "a"},
        newest_at=None if newest is None else START - newest * HOUR,
    )

    assert ages.now_for("one") == expected


async def test_a_lost_ledger_does_not_make_the_newest_arrival_of_what_is_found(bed: Bed, clock: HostClock) -> None:
    """The host is a year ahead by then, and no cloud can be reached."""
    async with bed.open():
        before = await several(bed, 6)
    (bed.state / "ledger.sqlite3").unlink()
    clock.set_by = 365 * DAY
    async with bed.open() as service:
        await service._archive.retention.run()

    assert bed.files() == before


async def test_a_part_of_a_time_to_come_is_swept(bed: Bed, clock: HostClock) -> None:
    file = LogFile(instance="solo", node=NODE, file_name="errorlog", updated_at=clock.time + 365 * DAY)
    bed.sandbox.write(NODE, mongod_lines(0, 2000))
    async with bed.open() as service:
        await bed.collect()
        part = bed.directory / paths.snapshot_path(file)
        left = part.with_name(f".{part.name}~10~~.part")
        left.write_bytes(b"x" * 5)
        store = service._archive.store
        store.survey("solo", clock.now())
        await store.sweep(clock.now())

    assert not left.exists()


async def test_a_gap_has_the_times_of_its_lines_though_the_host_is_a_month_behind(bed: Bed, clock: HostClock) -> None:
    """The cloud's clock says what a line's time can be."""
    clock.set_by = -30 * DAY
    async with bed.open():
        bed.sandbox.rewrite(NODE, mongod_lines(0, 100))
        await bed.collect()
        clock.forward(minutes=20)
        bed.sandbox.rewrite(NODE, mongod_lines(1000, 100))
        await bed.collect()

    (gap,) = known_gaps(bed.state)
    assert (gap.after, gap.until) == (START + timedelta(seconds=99), START + timedelta(seconds=1000))
