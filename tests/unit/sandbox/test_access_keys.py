"""The sandbox's gateway and metadata service: which signatures it takes, and when it locks a key."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from ddslogd.huaweicloud.auth.request_signing import Keys, sign, wire_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock

TTL = {"X-Metadata-Token-Ttl-Seconds": "21600"}


@dataclass(kw_only=True)
class Caller:
    """Sends requests that are signed, or nearly so."""

    session: aiohttp.ClientSession
    sandbox: Sandbox
    clock: ManualClock
    keys: Keys | None = None
    wrong: dict[str, str] = field(default_factory=dict)

    async def list_instances(
        self, *, query: str = "limit=100&offset=0", sent: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """List the instances; ``sent`` is the query that goes out in place of the signed one."""
        base = f"{self.sandbox.endpoint}/v3/{self.sandbox.project_id}/instances"
        keys = self.keys or Keys(access_key=self.sandbox.access_key, secret_key=self.sandbox.secret_key)
        url = wire_url(f"{base}?{query}")
        added = sign(method="GET", url=url, headers=headers or {}, body=b"", keys=keys, now=self.clock.now())
        target = URL(url if sent is None else f"{base}?{sent}", encoded=True)
        async with self.session.get(target, headers={**(headers or {}), **added, **self.wrong}) as reply:
            return reply.status, await reply.json()

    async def metadata(self, *, token: str = "") -> tuple[int, dict[str, Any]]:
        url = f"{self.sandbox.metadata_endpoint}/openstack/latest/securitykey"
        async with self.session.get(url, headers={"X-Metadata-Token": token} if token else {}) as reply:
            return reply.status, await reply.json() if reply.status == 200 else {}

    async def metadata_token(self, headers: Mapping[str, str] = TTL) -> tuple[int, str]:
        url = f"{self.sandbox.metadata_endpoint}/meta-data/latest/api/token"
        async with self.session.put(url, headers=headers) as reply:
            return reply.status, await reply.text()

    async def server_keys(self) -> Keys:
        """Return what the metadata service gives."""
        _, told = await self.metadata(token=(await self.metadata_token())[1])
        found = told["credential"]
        return Keys(access_key=found["access"], secret_key=found["secret"], security_token=found["securitytoken"])


@pytest.fixture
async def caller(sandbox: Sandbox, clock: ManualClock) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as session:
        yield Caller(session=session, sandbox=sandbox, clock=clock)


async def statuses(caller: Caller, count: int) -> list[int]:
    return [(await caller.list_instances())[0] for _ in range(count)]


@pytest.mark.parametrize("query", ["", "limit=1&offset=0", "name=%2Aa%20b%2F%C3%BC&limit=10", "tags=a%3Db"])
async def test_a_good_signature_is_taken(caller: Caller, query: str) -> None:
    assert (await caller.list_instances(query=query))[0] == 200


async def test_the_order_of_the_query_does_not_matter(caller: Caller) -> None:
    assert (await caller.list_instances(query="limit=100&offset=0", sent="offset=0&limit=100"))[0] == 200


@pytest.mark.parametrize(
    "sent", ["limit=100&offset=1", "limit=100", "limit=100&offset=0&name=x", "limit=100&offset=+0"]
)
async def test_another_query_than_the_signed_one_is_refused(caller: Caller, sent: str) -> None:
    assert (await caller.list_instances(sent=sent))[0] == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"Authorization": "SDK-HMAC-SHA256 Access=A"},
        {"X-Sdk-Date": "20260102T030406Z"},
        {"X-Sdk-Date": "today"},
        {"Host": "dds.example.com"},
        {"X-Project-Id": "0" * 32},
        {"X-Security-Token": "of nobody"},
    ],
)
async def test_what_was_changed_or_added_after_signing_is_refused(caller: Caller, wrong: dict[str, str]) -> None:
    caller.wrong = wrong

    status, told = await caller.list_instances()

    assert (status, told["error_code"]) == (401, "APIGW.0301")


async def test_a_project_that_is_not_signed_is_refused(caller: Caller, sandbox: Sandbox) -> None:
    caller.wrong = {"X-Project-Id": sandbox.project_id}

    assert (await caller.list_instances())[0] == 401


async def test_another_project_is_refused(caller: Caller) -> None:
    assert (await caller.list_instances(headers={"X-Project-Id": "0" * 32}))[0] == 401


@pytest.mark.parametrize(("minutes", "expected"), [(15, 200), (-15, 200), (16, 401), (-16, 401)])
async def test_a_signature_may_be_a_quarter_of_an_hour_off(
    caller: Caller, sandbox: Sandbox, minutes: int, expected: int
) -> None:
    sandbox.faults.skew = timedelta(minutes=minutes)

    assert (await caller.list_instances())[0] == expected


async def test_the_refusal_of_an_old_signature_names_both_times(caller: Caller, sandbox: Sandbox) -> None:
    sandbox.faults.skew = timedelta(hours=1)

    _, told = await caller.list_instances()

    assert ("20260102T030405Z" in told["error_msg"], "20260102T040405Z" in told["error_msg"]) == (True, True)


async def test_a_sixth_failure_in_a_row_locks_the_key_for_five_minutes(
    caller: Caller, sandbox: Sandbox, clock: ManualClock
) -> None:
    good, sandbox.secret_key = sandbox.secret_key, "another"
    caller.keys = Keys(access_key=sandbox.access_key, secret_key=good)
    await statuses(caller, 6)
    sandbox.secret_key = good
    locked, told = await caller.list_instances()
    clock.forward(minutes=5)
    after, _ = await caller.list_instances()

    assert (locked, "AK access failed to reach the limit" in told["error_msg"], after) == (401, True, 200)


async def test_five_failures_lock_nothing_and_a_success_ends_the_count(caller: Caller, sandbox: Sandbox) -> None:
    good = sandbox.secret_key
    caller.keys = Keys(access_key=sandbox.access_key, secret_key=good)
    seen = []
    for _ in range(2):
        sandbox.secret_key = "another"
        await statuses(caller, 5)
        sandbox.secret_key = good
        seen += await statuses(caller, 1)

    assert seen == [200, 200]


async def test_a_rotated_key_is_good_and_the_old_one_is_not(caller: Caller, sandbox: Sandbox) -> None:
    caller.keys = Keys(access_key=sandbox.access_key, secret_key=sandbox.secret_key)
    sandbox.access_key, sandbox.secret_key = "HSTANEWKEY", "another"
    old = await statuses(caller, 1)
    caller.keys = Keys(access_key="HSTANEWKEY", secret_key="another")

    assert old + await statuses(caller, 1) == [401, 200]


@pytest.mark.parametrize("token", ["", "another"])
async def test_a_temporary_key_is_good_with_its_token_only(caller: Caller, sandbox: Sandbox, token: str) -> None:
    key = sandbox.issue_key()
    caller.keys = Keys(access_key=key.access, secret_key=key.secret, security_token=token)
    without = await statuses(caller, 1)
    caller.keys = Keys(access_key=key.access, secret_key=key.secret, security_token=key.token)

    assert without + await statuses(caller, 1) == [401, 200]


async def test_a_temporary_key_ends(caller: Caller, clock: ManualClock) -> None:
    caller.keys = await caller.server_keys()
    clock.forward(minutes=59, seconds=59)
    before = await statuses(caller, 1)
    clock.forward(seconds=1)

    assert before + await statuses(caller, 1) == [200, 401]


async def test_the_next_key_is_there_ten_minutes_before_the_end_and_both_work(
    caller: Caller, clock: ManualClock
) -> None:
    first = await caller.server_keys()
    clock.forward(minutes=49, seconds=59)
    same = await caller.server_keys()
    clock.forward(seconds=1)
    second = await caller.server_keys()
    seen = []
    for caller.keys in (first, second):
        seen += await statuses(caller, 1)

    assert (same == first, second == first, seen) == (True, False, [200, 200])


async def test_the_end_of_a_key_is_told_by_the_clouds_clock(
    caller: Caller, sandbox: Sandbox, clock: ManualClock
) -> None:
    sandbox.faults.skew = timedelta(hours=2)

    _, told = await caller.metadata(token=(await caller.metadata_token())[1])

    assert datetime.fromisoformat(told["credential"]["expires_at"]) == clock.now() + timedelta(hours=3)


async def test_the_metadata_service_wants_a_token_that_has_not_ended(caller: Caller, clock: ManualClock) -> None:
    _, token = await caller.metadata_token({"X-Metadata-Token-Ttl-Seconds": "60"})
    good, _ = await caller.metadata(token=token)
    clock.forward(seconds=60)

    assert [good, (await caller.metadata(token=token))[0], (await caller.metadata())[0]] == [200, 401, 401]


@pytest.mark.parametrize("life", ["0", "21601", "", "a day"])
async def test_a_metadata_token_lives_between_a_second_and_six_hours(caller: Caller, life: str) -> None:
    assert (await caller.metadata_token({"X-Metadata-Token-Ttl-Seconds": life}))[0] == 400


async def test_version_one_knows_no_tokens_and_wants_none(caller: Caller, sandbox: Sandbox) -> None:
    sandbox.faults.metadata_v1_only = True

    assert ((await caller.metadata_token())[0], (await caller.metadata())[0]) == (404, 200)
