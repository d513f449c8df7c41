"""Access keys, given or the cloud server's own: what they sign is accepted, and no key is ever locked."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import structlog

from ddslogd.config.settings import AccessKeyAuth, Secret
from ddslogd.huaweicloud.api_client import Api
from ddslogd.huaweicloud.auth.access_key import AccessKey, Signer
from ddslogd.huaweicloud.auth.credentials import Request, Trial
from ddslogd.huaweicloud.auth.iam_client import IdentityService
from ddslogd.huaweicloud.auth.iam_protocol import ProjectName
from ddslogd.huaweicloud.auth.instance_metadata import MetadataKeys
from ddslogd.huaweicloud.auth.metadata_client import MetadataService
from ddslogd.huaweicloud.http import Http, new_session
from ddslogd.huaweicloud.rate_limiter import Budget
from ddslogd.huaweicloud.services.dds import DDS
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.export import Selection
from ddslogd.model.instance import LogKind
from ddslogd.model.redactor import Redactor
from ddslogd.sandbox import ApiError, single
from ddslogd.scheduling.clock import Skew
from support.testbed import RecordingRedactor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ddslogd.model.instance import Instance
    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

NODE = "solo_single_node_1"
LOG = b"a line\n" * 100
METADATA = ("metadata-token", "securitykey")


def sign_with(bed: Bed, auth: str) -> None:
    bed.set("method: token\n      token: {env: DDSLOGD_TOKEN}", auth)


def by_access_key(bed: Bed, sandbox: Sandbox, file: Path) -> None:
    """Sign with the access key of the sandbox's user; the file holds the secret key."""
    file.write_text(sandbox.secret_key + "\n")
    sign_with(bed, f"method: access_key\n      access_key: {sandbox.access_key}\n      secret_key: {{file: {file}}}")


def by_metadata(bed: Bed, sandbox: Sandbox) -> None:
    sign_with(bed, f"method: metadata\n      address: {sandbox.metadata_endpoint}")


def refused(sandbox: Sandbox) -> int:
    """Count the calls to DDS that were refused for who made them."""
    return sum(request.status == 401 and request.kind not in METADATA for request in sandbox.requests)


@pytest.fixture
def secret(sandbox: Sandbox, bed: Bed, tmp_path: Path) -> Path:
    """Sign with a given access key; give the file that holds its secret key."""
    file = tmp_path / "secret-key"
    by_access_key(bed, sandbox, file)
    sandbox.write(NODE, LOG)
    return file


@pytest.fixture
def server(sandbox: Sandbox, bed: Bed) -> Sandbox:
    """Sign with the keys of a cloud server."""
    by_metadata(bed, sandbox)
    sandbox.write(NODE, LOG)
    return sandbox


@pytest.fixture
def instance(bed: Bed) -> Instance:
    return bed.instance()


async def call(  # a call without the daemon around it
    sandbox: Sandbox,
    clock: ManualClock,
    instance: Instance,
    secret: Path,
    *,
    redactor: Redactor | None = None,
    budget: Budget | None = None,
) -> None:
    auth = AccessKeyAuth(method="access_key", access_key=sandbox.access_key, secret_key=Secret(file=secret))
    budget = budget or Budget(calls_per_minute=12_000, clock=clock, name="test")
    async with new_session(ca_file=None, proxy=None, connect_timeout_s=5, read_timeout_s=5) as session:
        http = Http(session, clock=clock, skew=Skew())
        project = ProjectName(id=sandbox.project_id, name="", domain="")
        identity = IdentityService("sandbox", endpoint=sandbox.iam_endpoint, http=http, budget=budget)
        signer = Signer(server_now=http.now)
        keys = AccessKey(
            auth, project=project, identity=identity, signer=signer, clock=clock, redactor=redactor or Redactor()
        )
        api = Api(DDS, endpoint=sandbox.endpoint, http=http, credentials=keys, budget=budget)
        await api.export(instance, LogKind.ERROR, Selection(), urgency=0.0)
    budget.close()


# --- given keys -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("secret")
async def test_a_cycle_collects_with_an_access_key(sandbox: Sandbox, bed: Bed) -> None:
    await bed.collect()

    assert (bed.contents(), refused(sandbox)) == ([LOG], 0)


@pytest.mark.usefixtures("secret")
async def test_the_project_goes_along_signed_and_no_token_does(sandbox: Sandbox, bed: Bed) -> None:
    await bed.collect()

    headers = sandbox.requests[0].headers
    assert (headers["X-Project-Id"], "x-project-id" in headers["Authorization"], "X-Auth-Token" in headers) == (
        sandbox.project_id,
        True,
        False,
    )


async def test_the_access_key_may_be_in_a_file_too(sandbox: Sandbox, bed: Bed, tmp_path: Path) -> None:
    (tmp_path / "ak").write_text(sandbox.access_key + "\n")
    (tmp_path / "sk").write_text(sandbox.secret_key + "\n")
    keys = f"access_key: {{file: {tmp_path}/ak}}\n      secret_key: {{file: {tmp_path}/sk}}"
    sign_with(bed, f"method: access_key\n      {keys}")
    sandbox.write(NODE, LOG)

    await bed.collect()

    assert bed.contents() == [LOG]


async def test_a_temporary_key_signs_together_with_its_token(sandbox: Sandbox, bed: Bed, tmp_path: Path) -> None:
    key = sandbox.issue_key()
    (tmp_path / "sk").write_text(key.secret)
    (tmp_path / "token").write_text(key.token)
    keys = f"secret_key: {{file: {tmp_path}/sk}}\n      security_token: {{file: {tmp_path}/token}}"
    sign_with(bed, f"method: access_key\n      access_key: {key.access}\n      {keys}")
    sandbox.write(NODE, LOG)

    await bed.collect()

    assert (bed.contents(), refused(sandbox)) == ([LOG], 0)
    assert {key.secret, key.token} <= set(bed.secrets)


async def test_a_wrong_secret_key_costs_one_refused_call_per_cool_down(
    sandbox: Sandbox, bed: Bed, secret: Path, clock: ManualClock
) -> None:
    """An hour of cycles a minute apart; more than five refusals in a row would lock the key."""
    secret.write_text("wrong")
    async with bed.open():
        for _ in range(60):
            clock.forward(minutes=1)
            await bed.collect()

    assert (refused(sandbox), len(sandbox.requests)) == (12, 12)


async def test_many_instances_try_an_unproven_key_once(bed: Bed, tmp_path: Path) -> None:
    """Else each would send its first call before the first refusal came, and the key would be locked."""
    async with bed.cloud(fleet=tuple(single(f"one{number}") for number in range(20))) as sandbox:
        by_access_key(bed, sandbox, tmp_path / "secret-key")
        (tmp_path / "secret-key").write_text("wrong")
        with structlog.testing.capture_logs() as events:
            async with bed.open() as service:
                reports = await service.once(bed.settings.fleet())

        said = [event["event"] for event in events if not event["event"].startswith("cycle.")]
        assert (len(sandbox.requests), {report.error_kind for report in reports}) == (1, {"credentials_refused"})
        assert said.count("credentials.refused") == 1
        assert next(event["cloud"] for event in events if event["event"] == "credentials.refused") == "sandbox"
        assert "account.unreachable" not in said


async def test_many_instances_do_not_wait_for_each_other_once_a_key_is_proven(bed: Bed, tmp_path: Path) -> None:
    async with bed.cloud(fleet=tuple(single(f"one{number}") for number in range(20))) as sandbox:
        by_access_key(bed, sandbox, tmp_path / "secret-key")
        async with bed.open() as service:
            reports = await service.once(bed.settings.fleet())

        assert ({report.outcome for report in reports}, refused(sandbox)) == ({CycleOutcome.OK}, 0)


async def test_a_trial_lets_one_in_until_that_one_is_accepted_and_then_all() -> None:
    """In the end two are inside at the same time, or neither comes any further."""
    trial, inside, together = Trial(), 0, asyncio.Barrier(2)

    async def second() -> None:
        async with trial.of("key"):
            assert inside == 0
            await together.wait()

    async with asyncio.TaskGroup() as group, trial.of("key"):
        inside += 1
        for _ in range(2):
            group.create_task(second())
        await asyncio.sleep(0)
        inside -= 1
        trial.accepted("key")

    assert together.broken is False


async def test_a_trial_begins_anew_when_a_proven_secret_is_refused() -> None:
    trial, seen = Trial(), []

    async def enter(name: str) -> None:
        async with trial.of("key"):
            seen.append(f"{name} in")
            await asyncio.sleep(0)
            seen.append(f"{name} out")

    trial.accepted("key")
    trial.refused()
    await asyncio.gather(enter("a"), enter("b"))

    assert seen == ["a in", "a out", "b in", "b out"]


async def test_a_new_secret_key_in_the_file_ends_the_cool_down(sandbox: Sandbox, bed: Bed, secret: Path) -> None:
    secret.write_text("wrong")
    async with bed.open():
        await bed.collect()
        secret.write_text(sandbox.secret_key)
        await bed.collect()

    assert (bed.contents(), refused(sandbox)) == ([LOG], 1)


async def test_a_key_that_is_put_in_place_during_a_call_is_found_by_it(
    sandbox: Sandbox, clock: ManualClock, instance: Instance, secret: Path
) -> None:
    """The cloud has the new key, and the file gets it a moment after it was read."""
    secret.write_text("old")
    reads: list[str] = []

    def put_in_place(read: str) -> None:
        reads.append(read)
        if len(reads) == 2:  # once for who has to act, once to sign
            secret.write_text(sandbox.secret_key)

    await call(sandbox, clock, instance, secret, redactor=RecordingRedactor(put_in_place))

    assert [request.status for request in sandbox.requests] == [401, 200]


async def test_a_missing_secret_key_says_where_it_was_looked_for(sandbox: Sandbox, bed: Bed, secret: Path) -> None:
    secret.unlink()

    report = await bed.collect()

    assert (f"{secret}: No such file" in report.error, len(sandbox.requests)) == (True, 0)


async def test_a_key_that_no_header_can_hold_is_refused_here(sandbox: Sandbox, bed: Bed, tmp_path: Path) -> None:
    (tmp_path / "ak").write_text(f"{sandbox.access_key}\r\nX-Evil: 1")
    sign_with(bed, f"method: access_key\n      access_key: {{file: {tmp_path}/ak}}\n      secret_key: {{env: PATH}}")

    report = await bed.collect()

    assert (report.error_kind, len(sandbox.requests)) == ("credentials_refused", 0)


@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.usefixtures("secret")
async def test_a_clock_that_is_an_hour_off_costs_one_refused_call(
    sandbox: Sandbox, bed: Bed, clock: ManualClock, hours: int
) -> None:
    """The refusal's Date says what the cloud's time is."""
    sandbox.faults.skew = timedelta(hours=hours)
    async with bed.open():
        await bed.collect()
        clock.forward(minutes=20)
        report = await bed.collect()

    assert (bed.contents(), report.outcome, refused(sandbox)) == ([LOG], CycleOutcome.OK, 1)


async def test_a_clock_that_is_off_costs_a_whole_fleet_one_refused_call(bed: Bed, tmp_path: Path) -> None:
    async with bed.cloud(fleet=tuple(single(f"one{number}") for number in range(20))) as sandbox:
        by_access_key(bed, sandbox, tmp_path / "secret-key")
        sandbox.faults.skew = timedelta(hours=1)
        async with bed.open() as service:
            reports = await service.once(bed.settings.fleet())

        assert ({report.outcome for report in reports}, refused(sandbox)) == ({CycleOutcome.OK}, 1)


@pytest.mark.usefixtures("secret")
async def test_a_clock_that_is_put_right_while_we_run_is_followed(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    """The newest replies outvote the older ones within a few cool-downs, and the key is not locked meanwhile."""
    async with bed.open():
        for _ in range(5):
            await bed.collect()
            clock.forward(minutes=20)
        sandbox.faults.skew = timedelta(hours=1)
        for _ in range(20):
            await bed.collect()
            clock.forward(minutes=20)
        report = await bed.collect()

    assert (report.outcome, refused(sandbox) <= 5) == (CycleOutcome.OK, True)


@pytest.mark.usefixtures("secret")
async def test_a_missing_right_is_no_reason_for_a_cool_down(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.api_errors = [ApiError(400, "DBS.280015")]
    async with bed.open():
        first = await bed.collect()
        await bed.collect()

    assert (first.error_kind, bed.contents()) == ("not_allowed", [LOG])


@pytest.mark.usefixtures("secret")
async def test_every_secret_is_told_to_who_blanks_them_out(sandbox: Sandbox, bed: Bed) -> None:
    await bed.collect()

    assert sandbox.secret_key in bed.secrets


class LateTurn(Budget):
    """A budget whose turns come after twenty minutes."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(calls_per_minute=12_000, clock=clock, name="late")
        self._manual = clock

    @asynccontextmanager
    async def call(self, urgency: float) -> AsyncIterator[None]:
        async with super().call(urgency):
            self._manual.forward(minutes=20)
            yield


async def test_a_request_is_signed_when_its_turn_comes(
    sandbox: Sandbox, clock: ManualClock, instance: Instance, secret: Path
) -> None:
    """The wait for a turn may be long, and a signature lives for a quarter of an hour."""
    await call(sandbox, clock, instance, secret, budget=LateTurn(clock))

    assert [request.status for request in sandbox.requests] == [200]


# --- a cloud server's keys --------------------------------------------------------------------------------------------


async def test_a_cycle_collects_with_the_keys_of_the_metadata_service(server: Sandbox, bed: Bed) -> None:
    await bed.collect()

    assert (bed.contents(), [server.calls[kind] for kind in METADATA], refused(server)) == ([LOG], [1, 1], 0)


async def test_what_the_metadata_service_gives_is_told_to_who_blanks_it_out(server: Sandbox, bed: Bed) -> None:
    told: list[str] = []

    def overheard(keys: dict[str, str]) -> bytes:
        told.extend(keys.values())
        return json.dumps({"credential": keys}).encode()

    server.faults.metadata_mangle = overheard

    await bed.collect()

    access, secret, token, _ = told
    sent = server.requests[1].headers["X-Metadata-Token"]
    assert {secret, token, sent} - set(bed.secrets) == set()
    assert access not in bed.secrets


async def test_a_request_without_a_body_says_nothing_of_one(server: Sandbox, bed: Bed) -> None:
    await bed.collect()

    (key,) = (request for request in server.requests if request.kind == "securitykey")
    assert [name for name in key.headers if name.startswith("Content-")] == []


async def test_a_metadata_service_of_the_first_version_serves_too(server: Sandbox, bed: Bed) -> None:
    server.faults.metadata_v1_only = True

    await bed.collect()

    assert (bed.contents(), refused(server)) == ([LOG], 0)


@pytest.mark.parametrize("status", [404, 405, 503])
async def test_what_has_no_tokens_is_asked_without_one(server: Sandbox, bed: Bed, status: int) -> None:
    server.faults.metadata_v1_only = True
    server.faults.metadata_errors = [status]

    await bed.collect()

    assert (bed.contents(), server.calls["metadata-token"]) == ([LOG], 1)


async def test_keys_are_refreshed_in_time_for_days(server: Sandbox, bed: Bed, clock: ManualClock) -> None:
    """Two days of cycles 20 minutes apart, with keys that live an hour and tokens that live six: no 401 at all."""
    async with bed.open():
        for _ in range(144):
            clock.forward(minutes=20)
            await bed.collect()

    assert (refused(server), server.calls["securitykey"] < 2 * 144) == (0, True)


async def test_keys_are_refreshed_in_time_at_any_pace(server: Sandbox, bed: Bed, clock: ManualClock) -> None:
    """Nor is the metadata service asked at every call where a cycle comes every minute."""
    async with bed.open():
        for _ in range(600):
            clock.forward(minutes=1)
            await bed.collect()

    assert (refused(server), server.calls["securitykey"] <= 10 * 10) == (0, True)


async def test_a_token_of_the_metadata_service_that_ended_is_replaced(
    server: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    async with bed.open():
        await bed.collect()
        clock.forward(hours=7)
        report = await bed.collect()

    assert (report.outcome, server.calls["metadata-token"], refused(server)) == (CycleOutcome.OK, 2, 0)


async def test_many_instances_share_one_refresh(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(fleet=tuple(single(f"one{number}") for number in range(20))) as sandbox:
        by_metadata(bed, sandbox)
        async with bed.open() as service:
            await service.once(bed.settings.fleet())
            clock.forward(minutes=55)
            reports = await service.once(bed.settings.fleet())

        assert ({report.outcome for report in reports}, sandbox.calls["securitykey"]) == ({CycleOutcome.OK}, 2)


async def test_the_old_key_serves_while_a_refresh_fails(server: Sandbox, bed: Bed, clock: ManualClock) -> None:
    async with bed.open():
        await bed.collect()
        server.faults.metadata_errors = [500] * 99
        clock.forward(minutes=50)
        report = await bed.collect()

    assert (report.outcome, len(server.faults.metadata_errors) < 99) == (CycleOutcome.OK, True)


async def test_without_life_left_a_refresh_that_fails_is_said(server: Sandbox, bed: Bed, clock: ManualClock) -> None:
    async with bed.open():
        await bed.collect()
        server.faults.metadata_errors = [500] * 999
        clock.forward(minutes=61)
        report = await bed.collect()

    assert (report.error_kind, "the metadata service gave no key" in report.error) == ("unavailable", True)
    assert refused(server) == 0


@pytest.mark.parametrize("v1_only", [False, True])
async def test_a_missing_agency_is_said_in_words(server: Sandbox, bed: Bed, *, v1_only: bool) -> None:
    server.faults.metadata_v1_only = v1_only
    server.faults.no_agency = True

    report = await bed.collect()

    assert (report.error_kind, "bind an agency" in report.error) == ("credentials_refused", True)
    assert [server.calls[kind] for kind in METADATA] == [1, 1]


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_whatever_else_means_that_there_is_no_key_is_said_in_the_same_words(
    server: Sandbox, bed: Bed, status: int
) -> None:
    server.faults.metadata_errors = [404, status, 404, status]

    report = await bed.collect()

    assert (report.error_kind, "bind an agency" in report.error) == ("credentials_refused", True)


async def test_a_token_that_no_header_can_hold_is_none(server: Sandbox, bed: Bed) -> None:
    server.faults.metadata_token = "<html>\r\n</html>"

    report = await bed.collect()

    assert (report.error_kind, server.calls["securitykey"]) == ("unavailable", 0)


@pytest.mark.parametrize("end", ["2026-01-02T04:04:05.000000Z", "2026-01-02T04:04:05Z", "2026-01-02T04:04:05"])
async def test_the_end_of_a_key_is_read_in_every_spelling(server: Sandbox, bed: Bed, end: str) -> None:
    server.faults.metadata_mangle = lambda keys: json.dumps({"credential": {**keys, "expires_at": end}}).encode()

    await bed.collect()

    assert bed.contents() == [LOG]


async def test_an_agency_that_is_bound_later_is_used_at_once(server: Sandbox, bed: Bed) -> None:
    server.faults.no_agency = True
    async with bed.open():
        await bed.collect()
        server.faults.no_agency = False
        await bed.collect()

    assert bed.contents() == [LOG]


async def test_keys_that_die_early_are_replaced_once_for_all(bed: Bed, clock: ManualClock) -> None:
    """As after a change of the agency. What is under way at that moment is refused, what comes later is not."""
    async with bed.cloud(fleet=tuple(single(f"one{number}") for number in range(4))) as sandbox:
        by_metadata(bed, sandbox)
        async with bed.open() as service:
            await service.once(bed.settings.fleet())
            sandbox.revoke_keys()
            clock.forward(minutes=16)
            reports = await service.once(bed.settings.fleet())

        assert {report.outcome for report in reports} == {CycleOutcome.OK}
        assert sandbox.calls["securitykey"] == 2


async def test_who_hears_later_that_keys_died_takes_those_that_are_there(server: Sandbox, clock: ManualClock) -> None:
    request = Request(method="GET", url=server.endpoint, headers={}, body=b"")
    async with new_session(ca_file=None, proxy=None, connect_timeout_s=5, read_timeout_s=5) as session:
        http = Http(session, clock=clock, skew=Skew())
        budget = Budget(calls_per_minute=12_000, clock=clock, name="test")
        service = MetadataService(address=server.metadata_endpoint, http=http, redactor=Redactor())
        keys = MetadataKeys(
            service,
            project=ProjectName(id=server.project_id, name="", domain=""),
            identity=IdentityService("sandbox", endpoint=server.iam_endpoint, http=http, budget=budget),
            signer=Signer(server_now=http.now),
            clock=clock,
            redactor=Redactor(),
        )
        died = await keys.authenticate(request)
        server.revoke_keys()
        renewed = [await keys.renew(died, sure=True) for _ in range(3)]

    assert (renewed, server.calls["securitykey"]) == ([True] * 3, 2)


async def test_a_missing_right_is_no_reason_to_ask_for_other_keys(server: Sandbox, bed: Bed) -> None:
    server.faults.api_errors = [ApiError(400, "DBS.280015")]

    report = await bed.collect()

    assert (report.error_kind, server.calls["securitykey"]) == ("not_allowed", 1)


async def test_keys_that_the_cloud_refuses_are_left_alone_for_a_while(
    server: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    server.faults.api_errors = [ApiError(401, "APIGW.0301", shape="gateway")] * 99
    async with bed.open():
        for _ in range(15):
            clock.forward(minutes=1)
            await bed.collect()

    assert server.calls["errorlog-download"] == 3


async def test_other_keys_than_those_that_were_refused_end_the_cool_down(
    server: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    server.faults.api_errors = [ApiError(401, "APIGW.0301", shape="gateway")]
    async with bed.open():
        await bed.collect()
        server.revoke_keys()
        clock.forward(minutes=1)
        await bed.collect()

    assert (bed.contents(), server.calls["errorlog-download"]) == ([LOG], 4)


async def test_the_metadata_service_is_never_asked_through_a_proxy(server: Sandbox, bed: Bed) -> None:
    bed.set("link_hosts:", "proxy: http://127.0.0.1:9\n    link_hosts:")

    report = await bed.collect()

    assert (server.calls["securitykey"], server.calls["errorlog-download"], report.error_kind) == (1, 0, "unavailable")


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_clock_that_is_an_hour_off_does_no_harm_to_keys_that_end(
    server: Sandbox, bed: Bed, clock: ManualClock, hours: int
) -> None:
    server.faults.skew = timedelta(hours=hours)
    async with bed.open():
        first = await bed.collect()
        for _ in range(30):
            clock.forward(minutes=20)
            await bed.collect()
        clock.forward(minutes=20)
        last = await bed.collect()

    assert (first.outcome, last.outcome, refused(server)) == (CycleOutcome.OK, CycleOutcome.OK, 1)


@pytest.mark.parametrize(
    "mangle",
    [
        lambda _: b"<html>",
        lambda _: b"[]",
        lambda _: b'{"credential": null}',
        lambda _: b'{"credential": {"access": "A", "secret": "S", "securitytoken": "T", "expires_at": "soon"}}',
        lambda _: b'{"credential": {"access": "", "secret": "S", "securitytoken": "T", "expires_at": "2026-01-02"}}',
        lambda _: b'{"credential": {"access": "A", "secret": "S", "securitytoken": "\\r", "expires_at": "2026-01-02"}}',
    ],
)
async def test_a_reply_that_makes_no_sense_is_no_key(
    server: Sandbox, bed: Bed, mangle: Callable[[object], bytes]
) -> None:
    server.faults.metadata_mangle = mangle

    report = await bed.collect()

    assert report.error_kind == "unavailable"
