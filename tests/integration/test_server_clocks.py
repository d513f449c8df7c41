"""Each server's clock is known by its own replies: what signs, what expires, and what a cache or a set clock spoils."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ddslogd.config.settings import AccessKeyAuth, Secret
from ddslogd.huaweicloud.auth.access_key import AccessKey, Signer
from ddslogd.huaweicloud.auth.iam_client import IdentityService
from ddslogd.huaweicloud.auth.iam_protocol import ProjectName
from ddslogd.huaweicloud.http import Http, new_session
from ddslogd.huaweicloud.rate_limiter import Budget
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.redactor import Redactor
from ddslogd.scheduling.clock import Skew
from support.clocks import START
from support.interference import Interfering

if TYPE_CHECKING:
    from pathlib import Path

    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

NODE = "solo_single_node_1"
LOG = b"".join(b"2026-01-02T03:04:05.000+0000 W NETWORK  [conn1] line %05d\n" % number for number in range(2000))
HALF_AN_HOUR = timedelta(minutes=30)


class SetClock:
    """A host whose wall clock can be set, and whose steady one can stand still."""

    def __init__(self) -> None:
        self.wall = START
        self.steady_s = 100.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.steady_s

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    def forward(self, seconds: float, *, steady: bool = True) -> None:
        self.wall += timedelta(seconds=seconds)
        self.steady_s += seconds if steady else 0


def observe(skew: Skew, clock: SetClock, server: datetime, *, times: int = 1, age: str | None = None) -> None:
    for _ in range(times):
        date = format_datetime(server.astimezone(UTC), usegmt=True)
        skew.observe(date, clock.now(), age=age, steady_s=clock.monotonic())


@pytest.mark.parametrize("hours", [8, -8, 24 * 365])
def test_a_wall_clock_that_is_set_leaves_the_server_s_time_known(hours: int) -> None:
    """At once, before any reply, and while the replies before it are the most."""
    clock, skew = SetClock(), Skew()
    observe(skew, clock, START, times=5)

    clock.forward(60)
    clock.wall += timedelta(hours=hours)
    before = skew.now(clock)
    observe(skew, clock, START + timedelta(seconds=60))

    assert (before, skew.now(clock)) == (START + timedelta(seconds=60),) * 2


def test_a_host_that_slept_believes_its_wall_clock_after_one_reply() -> None:
    clock, skew = SetClock(), Skew()
    observe(skew, clock, START, times=5)

    clock.forward(3 * 3600, steady=False)
    observe(skew, clock, START + timedelta(hours=3))

    assert skew.now(clock) == START + timedelta(hours=3)


def test_one_odd_reply_after_the_clock_was_set_moves_nothing() -> None:
    clock, skew = SetClock(), Skew()
    observe(skew, clock, START, times=5)

    clock.wall += timedelta(hours=8)
    observe(skew, clock, START - timedelta(hours=5))

    assert skew.now(clock) == START


@pytest.mark.parametrize("age", ["0", "1800", "", "nonsense"])
def test_what_a_cache_sends_does_not_count(age: str) -> None:
    clock, skew = SetClock(), Skew()

    observe(skew, clock, START - HALF_AN_HOUR, times=5, age=age)

    assert (skew.known, skew.now(clock)) == (False, START)


def test_until_a_server_has_replied_another_of_its_cloud_is_the_best_guess() -> None:
    clock, other = SetClock(), Skew()
    skew = Skew(until_known=other)
    at_first = skew.now(clock)
    observe(other, clock, START + HALF_AN_HOUR)
    guessed = skew.now(clock)
    observe(skew, clock, START - HALF_AN_HOUR)

    assert (at_first, guessed, skew.now(clock)) == (START, START + HALF_AN_HOUR, START - HALF_AN_HOUR)


# --- in cycles --------------------------------------------------------------------------------------------------------


@pytest.fixture
def signed(bed: Bed, sandbox: Sandbox, tmp_path: Path) -> Bed:
    """Sign calls with access keys."""
    (tmp_path / "secret-key").write_text(sandbox.secret_key)
    lines = (
        f"method: access_key\n      access_key: {sandbox.access_key}\n      secret_key: {{file: {tmp_path}/secret-key}}"
    )
    bed.set("method: token\n      token: {env: DDSLOGD_TOKEN}", lines)
    return bed


def refused(sandbox: Sandbox) -> list[str]:
    return [request.kind for request in sandbox.requests if request.status in {400, 401, 403}]


@pytest.mark.parametrize("minutes", [30, -30])
async def test_the_object_store_s_clock_signs_no_call(
    sandbox: Sandbox, signed: Bed, clock: ManualClock, minutes: int
) -> None:
    """Nor do its links look dead, or alive, by any other clock than its own."""
    sandbox.faults.skew_of["objects"] = timedelta(minutes=minutes)
    outcomes = set()
    async with signed.open():
        for _ in range(6):
            sandbox.write(NODE, LOG)
            outcomes.add((await signed.collect()).outcome)
            clock.forward(minutes=20)

    assert (outcomes, refused(sandbox)) == ({CycleOutcome.OK}, [])


@pytest.mark.parametrize("server", ["dds", "objects"])
async def test_a_cache_s_clock_signs_no_call(sandbox: Sandbox, signed: Bed, clock: ManualClock, server: str) -> None:
    sandbox.faults.cached_for[server] = HALF_AN_HOUR
    outcomes = set()
    async with signed.open():
        for _ in range(4):
            sandbox.write(NODE, LOG)
            outcomes.add((await signed.collect()).outcome)
            clock.forward(minutes=20)

    assert (outcomes, refused(sandbox)) == ({CycleOutcome.OK}, [])


@pytest.mark.parametrize("minutes", [120, -120])
async def test_a_link_that_the_store_s_clock_has_ended_is_renewed_before_it_is_used(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, minutes: int
) -> None:
    """Once the store has said what its time is: no link is refused, and none is renewed for nothing."""
    sandbox.faults.skew_of["objects"] = timedelta(minutes=minutes)
    async with bed.open():
        for _ in range(3):
            sandbox.write(NODE, LOG)
            await bed.collect()
            clock.forward(minutes=20)
        calls = sandbox.calls["errorlog-download"]
        sandbox.write(NODE, LOG)
        await bed.collect()

    assert (refused(sandbox), sandbox.calls["errorlog-download"] - calls) == ([], 2)


@pytest.mark.parametrize("hours", [2, -2])
async def test_a_store_whose_clock_is_set_is_asked_again(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, hours: int
) -> None:
    """By what was known of its clock each new link is dead, or lives for hours; only a reply tells what is true."""
    sandbox.faults.skew_of["objects"] = timedelta(hours=hours)
    outcomes = []
    async with bed.open():
        for cycle in range(6):
            if cycle == 3:
                sandbox.faults.skew_of["objects"] = timedelta(0)
            sandbox.write(NODE, LOG)
            outcomes.append((await bed.collect()).outcome)
            clock.forward(minutes=20)

    assert outcomes == [CycleOutcome.OK] * 6


@pytest.mark.parametrize("minutes", [90, -90])
async def test_the_identity_service_s_clock_signs_its_own_calls_alone(
    sandbox: Sandbox, signed: Bed, clock: ManualClock, minutes: int
) -> None:
    """Each refuses one signature, whose answer says what its own time is, and no other in later cycles."""
    signed.set("iam_endpoint: http://127.0.0.1", "iam_endpoint: http://localhost")
    sandbox.faults.skew_of["iam"] = timedelta(minutes=minutes)
    signed.set(f'project_id: "{sandbox.project_id}"', f"project_name: {sandbox.project_name}")
    outcomes = set()
    async with signed.open():
        for _ in range(3):
            outcomes.add((await signed.collect()).outcome)
            clock.forward(minutes=20)

    assert (outcomes, refused(sandbox)) == ({CycleOutcome.OK}, ["projects", "errorlog-download"])


@pytest.mark.parametrize("minutes", [120, -120])
async def test_a_transfer_goes_on_with_a_link_that_lives_by_the_store_s_clock(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, minutes: int
) -> None:
    """A link of 5 minutes is renewed after 6; after one it is not, though by the API's clock it ended long ago."""
    sandbox.faults.skew_of["objects"] = timedelta(minutes=minutes)
    bed.set("attempts: 5", "attempts: 5\n  delta: off")
    renewed = []
    async with bed.open() as service:
        call_stats = service._accounts.all()["sandbox"].api.call_stats
        for waited in (0, 6, 1):
            sandbox.write(NODE, LOG)
            before = call_stats.renewed
            sandbox.faults.cut_after = [30_000]
            service._activity._progress = Interfering(partial(clock.forward, minutes=waited))
            await bed.collect()
            renewed.append(call_stats.renewed - before)
            clock.forward(minutes=20)

    assert (refused(sandbox), renewed) == ([], [0, 1, 0])


async def test_the_identity_service_s_calls_are_signed_by_its_clock(
    sandbox: Sandbox, clock: ManualClock, tmp_path: Path
) -> None:
    """Whatever the API's clock shows, which is known by then."""
    (tmp_path / "secret").write_text(sandbox.secret_key)
    auth = AccessKeyAuth(
        method="access_key", access_key=sandbox.access_key, secret_key=Secret(file=tmp_path / "secret")
    )
    sandbox.faults.skew_of["iam"] = timedelta(minutes=90)
    skew = Skew()
    skew.observe(format_datetime(clock.now() + timedelta(minutes=90), usegmt=True), clock.now())
    budget = Budget(calls_per_minute=12_000, clock=clock, name="test")
    async with new_session(ca_file=None, proxy=None, connect_timeout_s=5, read_timeout_s=5) as session:
        http = Http(session, clock=clock, skew=skew)
        identity = IdentityService("sandbox", endpoint=sandbox.iam_endpoint, http=http, budget=budget)
        project = ProjectName(id="", name=sandbox.project_name, domain="")
        signer = Signer(server_now=clock.now)
        keys = AccessKey(auth, project=project, identity=identity, signer=signer, clock=clock, redactor=Redactor())
        found = await keys.project_id()
    budget.close()

    assert (found, refused(sandbox)) == (sandbox.project_id, [])
