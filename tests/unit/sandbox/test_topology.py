"""The sandbox's slow logs, its tags, a fleet that changes, the agency, and what a token says of itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from ddslogd.sandbox import ApiError, LogKind, Sandbox, SandboxInstance, cluster, replica_set, single
from support.clocks import START, ManualClock, epoch_ms
from support.testbed import quiet_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SOLO = single("solo")
EVENTS = cluster("events", mongos=1, shards=1, per_shard=1)
SOLO_NODE = SOLO.nodes[0].name
MONGOS, SHARD, CONFIG = (group.nodes[0] for group in EVENTS.groups)
FLEET = (
    replica_set("orders", nodes=1, tags=(("env", "prod"), ("team", "shop"))),
    single("audit", tags=(("env", "prod"), ("note", "")), status="frozen"),
    SOLO,
)


class Reply:
    """A reply that is whole."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> tuple[int, str]:
        """Return what DDS or the gateway refused with."""
        return self.status, self.json["error_code"]

    @property
    def token(self) -> str:
        token: str = self.headers["X-Subject-Token"]
        return token


class Caller:
    """Calls the sandbox, with the token it has at the time."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session
        self.token = sandbox.issue_token()

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        told = {"X-Auth-Token": self.token} if self.token else {}
        told |= {name.replace("_", "-"): text for name, text in headers.items()}
        data = None if body is None else json.dumps(body)
        url = URL(self.sandbox.endpoint + path, encoded=True)
        async with self.session.request(method, url, data=data, headers=told) as reply:
            return Reply(reply.status, reply.headers, await reply.read())

    async def export(self, instance: SandboxInstance, kind: LogKind = "slow", body: Any = None) -> Reply:
        path = f"/v3/{self.sandbox.project_id}/instances/{instance.id}/{kind}log-download"
        return await self.send("POST", path, body or {})

    async def finish(self, instance: SandboxInstance, kind: LogKind = "slow") -> list[dict[str, Any]]:
        """Follow an export to its end and give its rows."""
        await self.export(instance, kind)
        self.sandbox.finish_exports()
        rows: list[dict[str, Any]] = (await self.export(instance, kind)).json["list"]
        return rows

    async def fetch(self, row: dict[str, Any]) -> bytes:
        async with self.session.get(URL(row["file_link"], encoded=True)) as reply:
            return await reply.read()

    async def instances(self, query: str = "") -> Reply:
        return await self.send("GET", f"/v3/{self.sandbox.project_id}/instances{query and '?'}{query}")

    async def listed(self, query: str = "") -> list[str]:
        return [one["name"] for one in (await self.instances(query)).json["instances"]]

    async def login(self, scope: Any) -> Reply:
        sandbox = self.sandbox
        user = {"name": sandbox.user_name, "password": sandbox.password, "domain": {"name": sandbox.domain_name}}
        identity = {"methods": ["password"], "password": {"user": user}}
        return await self.send("POST", "/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}})

    async def assume(self, scope: Any = None, **role: str) -> Reply:
        """Assume the sandbox's agency, or what ``role`` says of it."""
        asked = role or {"agency_name": self.sandbox.agency_name, "domain_name": self.sandbox.agency_domain_name}
        identity = {"methods": ["assume_role"], "assume_role": asked}
        scope = scope or {"project": {"name": self.sandbox.project_name}}
        return await self.send("POST", "/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}})

    async def shown(self, token: str) -> Reply:
        return await self.send("GET", "/v3/auth/tokens", X_Subject_Token=token)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def caller(clock: ManualClock, session: aiohttp.ClientSession) -> AsyncIterator[Caller]:
    """A cloud of a single and a cluster, whose logs hold what a test writes."""
    async with quiet_sandbox(clock, fleet=(SOLO, EVENTS)) as sandbox:
        yield Caller(sandbox, session)


@pytest.fixture
async def tagged(clock: ManualClock, session: aiohttp.ClientSession) -> AsyncIterator[Caller]:
    """A cloud of instances that differ in tags and status."""
    async with quiet_sandbox(clock, fleet=FLEET) as sandbox:
        yield Caller(sandbox, session)


@pytest.fixture
async def guest(clock: ManualClock, session: aiohttp.ClientSession) -> AsyncIterator[Caller]:
    """A cloud whose instances are another domain's, and only the agency leads there."""
    async with quiet_sandbox(clock, agency_only=True) as sandbox:
        yield Caller(sandbox, session)


# --- slow logs -------------------------------------------------------------------------------------------------------


async def test_a_slow_log_begins_as_an_error_log_does_under_a_name_of_its_own(caller: Caller) -> None:
    reply = (await caller.export(SOLO)).json

    row = {
        "node_name": SOLO_NODE,
        "file_name": f"{caller.sandbox.project_id}_{SOLO.nodes[0].id}_slowlog_20260102030405000",
        "status": "EXPORTING",
        "file_size": None,
        "file_link": None,
        "updated_at": epoch_ms(START),
    }
    assert reply == {"list": [row], "status": "CREATING", "count": 0}


async def test_each_kind_of_log_has_its_own_bytes(caller: Caller) -> None:
    caller.sandbox.write(SOLO_NODE, b"an error\n")
    caller.sandbox.write(SOLO_NODE, b"a slow query\n", "slow")
    files = {kind: await caller.fetch((await caller.finish(SOLO, kind))[0]) for kind in ("error", "slow")}

    expected = {"error": b"an error\n", "slow": b"a slow query\n"}
    assert files == expected
    assert caller.sandbox.log_of(SOLO_NODE) == expected["error"]
    assert caller.sandbox.log_of(SOLO_NODE, "slow") == expected["slow"]
    assert caller.sandbox.exports_of(SOLO_NODE) == [expected["error"]]
    assert caller.sandbox.exports_of(SOLO_NODE, "slow") == [expected["slow"]]


async def test_each_kind_of_log_is_stale_by_itself(caller: Caller, clock: ManualClock) -> None:
    await caller.finish(SOLO, "slow")
    clock.forward(minutes=10)
    await caller.finish(SOLO, "error")
    clock.forward(minutes=5)

    states = [(await caller.export(SOLO, kind)).json["status"] for kind in ("slow", "error")]
    assert states == ["CREATING", "FINISH"]


async def test_a_replaced_object_is_of_one_kind(caller: Caller) -> None:
    error, slow = (await caller.finish(SOLO, "error"))[0], (await caller.finish(SOLO, "slow"))[0]
    caller.sandbox.replace_object(SOLO_NODE, b"other bytes", "slow")

    assert [await caller.fetch(row) for row in (error, slow)] == [b"", b"other bytes"]


async def test_only_shards_of_a_cluster_have_slow_logs(caller: Caller) -> None:
    kinds: tuple[LogKind, ...] = ("slow", "error")
    nodes = {kind: [row["node_name"] for row in (await caller.export(EVENTS, kind)).json["list"]] for kind in kinds}

    assert nodes == {"slow": [SHARD.name], "error": [node.name for node in EVENTS.nodes]}


@pytest.mark.parametrize("node", [MONGOS, CONFIG])
async def test_a_node_without_slow_log_is_no_node_to_ask_for(caller: Caller, node: Any) -> None:
    reply = await caller.export(EVENTS, "slow", {"node_id_list": [SHARD.id, node.id]})

    assert reply.code == (400, "DBS.280407")
    with pytest.raises(KeyError, match=f"{node.name} has no slow log"):
        caller.sandbox.log_of(node.name, "slow")


async def test_a_file_name_of_another_kind_is_refused(caller: Caller) -> None:
    name = (await caller.finish(SOLO, "error"))[0]["file_name"]
    reply = await caller.export(SOLO, "slow", {"file_name_list": [name]})

    assert reply.code == (400, "DBS.280361")


async def test_slow_logs_are_counted_by_their_own_name(caller: Caller) -> None:
    await caller.finish(SOLO, "slow")
    await caller.export(SOLO, "error")

    assert caller.sandbox.calls == {"slowlog-download": 2, "errorlog-download": 1}


async def test_faults_of_the_call_are_for_both_kinds(caller: Caller) -> None:
    caller.sandbox.faults.drop_api = 1
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await caller.export(SOLO)
    caller.sandbox.faults.api_errors = [ApiError(429, "DBS.280443"), ApiError(429, "DBS.280443")]
    refused = [(await caller.export(SOLO, kind)).code for kind in ("slow", "error")]
    caller.sandbox.faults.mangle = lambda _: b"{cut"

    assert refused == [(429, "DBS.280443")] * 2
    assert (await caller.export(SOLO)).body == b"{cut"


async def test_a_failed_row_fails_in_both_kinds(caller: Caller) -> None:
    caller.sandbox.faults.failed_rows = {SOLO_NODE}
    rows = [(await caller.finish(SOLO, kind))[0]["status"] for kind in ("slow", "error")]

    assert rows == ["FAILED", "FAILED"]


def lines_of(instance: SandboxInstance, kind: LogKind) -> list[str]:
    """Return the lines of an hour of backlog, at two a second."""
    sandbox = Sandbox(fleet=[instance], now=ManualClock().now, seed=1)
    return sandbox.log_of(instance.nodes[0].name, kind).decode().splitlines()


def test_a_slow_log_has_a_fifth_of_the_lines() -> None:
    """Some lines come twice."""
    assert len(set(lines_of(SOLO, "slow"))) in range(2 * 3600 // 5 - 1, 2 * 3600 // 5 + 1)


def test_slow_lines_are_slow_queries_in_json_since_4_4() -> None:
    lines = [json.loads(line) for line in lines_of(SOLO, "slow")]

    assert {(line["s"], line["id"], line["msg"]) for line in lines} == {("I", 51803, "Slow query")}
    assert {line["c"] for line in lines} == {"COMMAND", "WRITE"}
    assert {line["attr"]["type"] for line in lines} == {"command", "update"}
    assert all(line["attr"].keys() >= {"ns", "command", "planSummary", "docsExamined"} for line in lines)
    assert min(line["attr"]["durationMillis"] for line in lines) >= 100


def test_slow_lines_are_sentences_that_end_in_milliseconds_up_to_4_2() -> None:
    shape = re.compile(
        r"2026-01-02T0[23]:\d\d:\d\d\.\d{3}\+0000 I (COMMAND|WRITE  )  \[conn\d+\] (command|update) shop\.orders "
        r'appName: "app\d+" command: .+ planSummary: .+ docsExamined:\d+ .+ protocol:op_msg \d+ms'
    )

    assert [line for line in lines_of(single("old", version="4.2"), "slow") if not shape.fullmatch(line)] == []


# --- tags and statuses -----------------------------------------------------------------------------------------------


async def test_the_list_shows_tags_and_statuses(tagged: Caller) -> None:
    listed = (await tagged.instances()).json["instances"]

    assert [(one["status"], one["tags"]) for one in listed] == [
        ("normal", [{"key": "env", "value": "prod"}, {"key": "team", "value": "shop"}]),
        ("frozen", [{"key": "env", "value": "prod"}, {"key": "note", "value": ""}]),
        ("normal", []),
    ]


def test_a_cluster_may_have_tags_and_a_status_too() -> None:
    made = cluster("made", tags=(("env", "prod"),), status="abnormal")

    assert (made.tags, made.status) == ((("env", "prod"),), "abnormal")


@pytest.mark.parametrize(
    ("tags", "names"),
    [
        ("env=prod", ["orders", "audit"]),
        ("env=prod,team=shop", ["orders"]),
        ("env=prod,team=other", []),
        ("note=", ["audit"]),
        ("env=", []),
        ("", ["orders", "audit", "solo"]),
    ],
)
async def test_an_instance_is_found_by_all_tags_that_are_asked_for(tagged: Caller, tags: str, names: list[str]) -> None:
    assert await tagged.listed(f"tags={tags}") == names


@pytest.mark.parametrize("tags", ["=prod", "env", "env=prod,env=test", ",".join(f"k{at}=v" for at in range(21))])
async def test_wrong_tags_are_refused(tagged: Caller, tags: str) -> None:
    """No key, no pair, a key twice, more than 20."""
    assert (await tagged.instances(f"tags={tags}")).code == (400, "DBS.280001")


# --- a fleet that changes --------------------------------------------------------------------------------------------


async def test_an_added_instance_is_the_first_of_the_list_and_answers(caller: Caller) -> None:
    late = single("late")
    caller.sandbox.add(late)
    caller.sandbox.write(late.nodes[0].name, b"hello\n")

    assert await caller.listed() == ["late", "solo", "events"]
    assert [one.name for one in caller.sandbox.fleet] == ["late", "solo", "events"]
    assert await caller.fetch((await caller.finish(late, "error"))[0]) == b"hello\n"


async def test_the_list_is_newest_first(caller: Caller) -> None:
    """What counts is when an instance was created, not when it was added."""
    caller.sandbox.add(replace(single("old"), created="2020-01-01T00:00:00"))

    assert await caller.listed() == ["solo", "events", "old"]


async def test_an_instance_that_comes_between_two_pages_shifts_the_second(caller: Caller) -> None:
    first = await caller.listed("limit=1")
    caller.sandbox.add(single("late"))
    second = await caller.listed("limit=1&offset=1")

    assert (first, second) == (["solo"], ["solo"])


@pytest.mark.parametrize("given", [lambda one: one.name, lambda one: one.id])
async def test_a_removed_instance_is_unknown_but_its_logs_can_be_read(
    caller: Caller, given: Callable[[SandboxInstance], str]
) -> None:
    caller.sandbox.write(SOLO_NODE, b"once there\n")
    await caller.finish(SOLO, "error")
    caller.sandbox.remove(given(SOLO))
    refused = [(await caller.export(SOLO, kind)).code for kind in ("error", "slow")]

    assert refused == [(404, "DBS.200002")] * 2
    assert (await caller.instances()).json["total_count"] == 1
    assert await caller.listed() == [one.name for one in caller.sandbox.fleet] == ["events"]
    assert (caller.sandbox.log_of(SOLO_NODE), caller.sandbox.exports_of(SOLO_NODE)) == (
        b"once there\n",
        [b"once there\n"],
    )


def test_what_is_not_there_cannot_be_removed() -> None:
    with pytest.raises(KeyError, match="nobody"):
        Sandbox(fleet=[SOLO]).remove("nobody")


async def test_an_instance_that_comes_back_has_its_logs(caller: Caller) -> None:
    caller.sandbox.write(SOLO_NODE, b"before\n")
    caller.sandbox.remove("solo")
    caller.sandbox.add(SOLO)
    caller.sandbox.write(SOLO_NODE, b"after\n")

    assert await caller.fetch((await caller.finish(SOLO, "error"))[0]) == b"before\nafter\n"


async def test_an_instance_that_is_there_can_be_changed(caller: Caller) -> None:
    """Its place in the list and its logs stay."""
    caller.sandbox.write(SOLO_NODE, b"before\n")
    node = replace(SOLO.nodes[0], name="renamed")
    group = replace(SOLO.groups[0], nodes=(node,))
    caller.sandbox.add(replace(EVENTS, status="frozen"))
    caller.sandbox.add(replace(SOLO, groups=(group,)))
    listed = (await caller.instances()).json["instances"]

    assert [(one["name"], one["status"]) for one in listed] == [("solo", "normal"), ("events", "frozen")]
    assert [row["node_name"] for row in (await caller.export(SOLO)).json["list"]] == ["renamed"]
    assert caller.sandbox.log_of("renamed") == b"before\n"


async def test_a_short_page_is_not_the_last(tagged: Caller) -> None:
    """Who asks for 100 gets two, and the third only by asking on."""
    tagged.sandbox.faults.short_pages = 2
    pages = [await tagged.listed(f"limit=100&offset={offset}") for offset in (0, 2, 3)]

    assert pages == [["orders", "audit"], ["solo"], []]


async def test_short_pages_make_no_page_longer(tagged: Caller) -> None:
    tagged.sandbox.faults.short_pages = 2

    assert await tagged.listed("limit=1") == ["orders"]


async def test_the_total_may_be_wrong(tagged: Caller) -> None:
    tagged.sandbox.faults.total_count_off = -1
    reply = (await tagged.instances()).json

    assert (len(reply["instances"]), reply["total_count"]) == (3, 2)


# --- the agency ------------------------------------------------------------------------------------------------------


async def test_an_agency_token_is_of_the_other_domain_and_dds_accepts_it(guest: Caller) -> None:
    reply = await guest.assume()
    guest.token = reply.token
    token = reply.json["token"]

    assert (reply.status, token["methods"], token["expires_at"]) == (
        201,
        ["assume_role"],
        "2026-01-03T03:04:05.000000Z",
    )
    assert token["user"]["name"] == f"{guest.sandbox.agency_domain_name}/{guest.sandbox.agency_name}"
    assert token["user"]["domain"]["name"] == guest.sandbox.agency_domain_name
    assert token["assumed_by"]["user"]["name"] == guest.sandbox.user_name
    assert token["project"]["id"] == guest.sandbox.project_id
    assert token["project"]["domain"]["name"] == guest.sandbox.agency_domain_name
    assert (await guest.export(SOLO)).status == 200


async def test_an_agency_token_ends_with_its_life(guest: Caller, clock: ManualClock) -> None:
    guest.token = (await guest.assume()).token
    clock.forward(days=1)

    assert (await guest.export(SOLO)).code == (401, "APIGW.0307")


@pytest.mark.parametrize("scope", [{"domain": {"name": "sandbox"}}, {"project": {"name": "loopback-1"}}, None])
async def test_any_token_of_the_user_may_assume_the_agency(guest: Caller, scope: Any) -> None:
    guest.token = (await guest.login(scope)).token

    assert (await guest.assume()).status == 201


async def test_the_agency_may_be_named_by_its_domains_id_and_the_project_by_its_id(guest: Caller) -> None:
    domain_id = (await guest.assume()).json["token"]["user"]["domain"]["id"]
    scope = {"project": {"id": guest.sandbox.project_id}}
    reply = await guest.assume(scope, agency_name=guest.sandbox.agency_name, domain_id=domain_id)

    assert (reply.status, reply.json["token"]["project"]["id"]) == (201, guest.sandbox.project_id)


@pytest.mark.parametrize(
    ("role", "status"),
    [
        ({"agency_name": "other", "domain_name": "customer"}, 404),
        ({"agency_name": "log-collection", "domain_name": "sandbox"}, 404),
        ({"agency_name": "log-collection", "domain_id": "customer"}, 404),
        ({"xrole_name": "log-collection", "domain_name": "customer"}, 400),
        ({"agency_name": "log-collection"}, 400),
    ],
)
async def test_a_wrong_agency_is_refused_in_the_shape_of_iam(guest: Caller, role: dict[str, str], status: int) -> None:
    reply = await guest.assume(**role)

    assert (reply.status, reply.json["error"]["code"], set(reply.json["error"])) == (
        status,
        status,
        {"code", "message", "title"},
    )


@pytest.mark.parametrize("token", ["", "garbled"])
async def test_nobody_cannot_assume_the_agency(guest: Caller, token: str) -> None:
    guest.token = token
    reply = await guest.assume()

    assert (reply.status, reply.json["error"]["message"]) == (401, "The X-Auth-Token is invalid!")


async def test_an_agency_cannot_assume_itself(guest: Caller) -> None:
    guest.token = (await guest.assume()).token

    assert (await guest.assume()).status == 403


async def test_an_agency_does_not_lead_to_the_users_own_domain(guest: Caller) -> None:
    own = await guest.assume({"project": {"name": "loopback-1", "domain": {"name": "sandbox"}}})

    assert (own.status, own.json["error"]["title"]) == (401, "Unauthorized")


async def test_without_the_agency_the_same_project_name_is_another_project(guest: Caller) -> None:
    """As in a cloud, where each domain has a project for each region."""
    by_name = await guest.login({"project": {"name": guest.sandbox.project_name}})
    by_id = await guest.login({"project": {"id": guest.sandbox.project_id}})
    guest.token = by_name.token
    export = await guest.export(SOLO)
    listed = await guest.instances()

    assert by_name.json["token"]["project"]["id"] != guest.sandbox.project_id
    assert (by_id.status, by_id.json["error"]["title"]) == (401, "Unauthorized")
    assert (export.code, listed.code) == ((400, "DBS.200010"), (400, "DBS.200010"))


async def test_a_token_of_the_test_is_the_users_own(guest: Caller) -> None:
    assert (await guest.export(SOLO)).code == (400, "DBS.200010")


async def test_by_default_both_domains_have_the_instances(caller: Caller) -> None:
    own = await caller.export(SOLO)
    caller.token = (await caller.assume()).token

    assert (own.status, (await caller.export(SOLO)).status) == (200, 200)


@pytest.mark.parametrize("key", ["name", "id"])
async def test_a_token_of_the_domain_is_not_for_dds(caller: Caller, key: str) -> None:
    domain = (await caller.login({"domain": {"name": caller.sandbox.domain_name}})).json["token"]["domain"]
    reply = await caller.login({"domain": {key: domain[key]}})
    caller.token = reply.token

    assert (reply.status, "project" in reply.json["token"]) == (201, False)
    assert (await caller.export(SOLO)).code == (401, "APIGW.0307")


async def test_a_login_to_another_domain_is_refused(caller: Caller) -> None:
    assert (await caller.login({"domain": {"name": caller.sandbox.agency_domain_name}})).status == 401


async def test_a_project_beside_a_domain_wins(caller: Caller) -> None:
    scope = {"domain": {"name": "sandbox"}, "project": {"name": "loopback-1"}}
    caller.token = (await caller.login(scope)).token

    assert (await caller.export(SOLO)).status == 200


# --- what a token says of itself -------------------------------------------------------------------------------------


async def test_a_token_tells_its_project(caller: Caller) -> None:
    reply = await caller.shown(caller.token)

    project = reply.json["token"]["project"]
    assert (reply.status, reply.token) == (200, caller.token)
    assert (project["id"], project["name"]) == (caller.sandbox.project_id, caller.sandbox.project_name)
    assert caller.sandbox.calls == {"token": 1}
    assert "X-IAM-Trace-Id" in reply.headers


async def test_a_token_is_shown_as_it_was_given(guest: Caller, clock: ManualClock) -> None:
    given = await guest.assume()
    guest.token = given.token
    clock.forward(hours=1)

    assert (await guest.shown(guest.token)).json == given.json


async def test_a_token_of_the_domain_tells_no_project(caller: Caller) -> None:
    token = (await caller.login({"domain": {"name": caller.sandbox.domain_name}})).token

    assert "project" not in (await caller.shown(token)).json["token"]


async def test_a_token_that_is_not_good_is_not_found(caller: Caller, clock: ManualClock) -> None:
    old = caller.token
    clock.forward(hours=24)
    caller.token = caller.sandbox.issue_token()
    replies = [await caller.shown(token) for token in ("garbled", old)]

    assert [reply.status for reply in replies] == [404, 404]


@pytest.mark.parametrize("token", ["", "garbled"])
async def test_nobody_is_told_of_a_token(caller: Caller, token: str) -> None:
    good, caller.token = caller.token, token

    assert (await caller.shown(good)).status == 401


async def test_a_token_of_another_domain_is_not_shown(guest: Caller) -> None:
    theirs = (await guest.assume()).token

    assert (await guest.shown(theirs)).status == 403


async def test_the_projects_are_those_of_the_tokens_domain(guest: Caller) -> None:
    own = (await guest.send("GET", f"/v3/projects?name={guest.sandbox.project_name}")).json["projects"]
    guest.token = (await guest.assume({"domain": {"name": guest.sandbox.agency_domain_name}})).token
    lent = (await guest.send("GET", f"/v3/projects?name={guest.sandbox.project_name}")).json["projects"]

    assert [one["id"] for one in lent] == [guest.sandbox.project_id]
    assert [one["name"] for one in own] == [guest.sandbox.project_name]
    assert own[0]["id"] != lent[0]["id"]


async def test_a_project_of_another_name_is_not_there(caller: Caller) -> None:
    assert (await caller.send("GET", "/v3/projects?name=elsewhere-1")).json["projects"] == []


async def test_projects_are_told_for_a_good_token_only(caller: Caller, clock: ManualClock) -> None:
    clock.forward(hours=24)
    dead = (await caller.send("GET", "/v3/projects")).code
    caller.token = ""

    assert [dead, (await caller.send("GET", "/v3/projects")).code] == [(401, "APIGW.0307"), (401, "APIGW.0301")]
