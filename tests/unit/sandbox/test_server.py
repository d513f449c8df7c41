"""The sandbox keeps the rules of the API's reference, on real sockets and by a clock of our own."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import aiohttp
import pytest
import yaml
from yarl import URL

from ddslogd.sandbox import (
    ApiError,
    Sandbox,
    SandboxInstance,
    cluster,
    configuration,
    default_fleet,
    replica_set,
    single,
)
from ddslogd.sandbox.obs.url_signature import sign, string_to_sign
from support.clocks import epoch_ms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SOLO = single("solo")
NODE = SOLO.nodes[0].name
LOG = bytes(range(256)) * 400


class Clock:
    """The only time there is: it moves when a test moves it."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def forward(self, **passed: float) -> None:
        self.time += timedelta(**passed)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def xml_code(self) -> str:
        found = re.search(rb"<Code>(.*?)</Code>", self.body)
        return found[1].decode() if found else ""


class Client:
    """A client that hides nothing: no redirects, no decompression, no retries."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session
        self.token = sandbox.issue_token()

    async def send(self, method: str, url: str, **more: Any) -> Reply:
        async with self.session.request(method, URL(url, encoded=True), allow_redirects=False, **more) as reply:
            return Reply(reply.status, reply.headers, await reply.read())

    async def ask(self, path: str) -> Reply:
        return await self.send("GET", self.sandbox.endpoint + path, headers={"X-Auth-Token": self.token})

    async def post(self, instance: SandboxInstance, body: Any = None, *, project: str = "") -> Reply:
        path = f"/v3/{project or self.sandbox.project_id}/instances/{instance.id}/errorlog-download"
        data = json.dumps({} if body is None else body)
        return await self.send("POST", self.sandbox.endpoint + path, data=data, headers={"X-Auth-Token": self.token})

    async def export(self, instance: SandboxInstance = SOLO) -> list[dict[str, Any]]:
        """Follow an export to its end and give its rows."""
        await self.post(instance)
        self.sandbox.finish_exports()
        rows: list[dict[str, Any]] = (await self.post(instance)).json["list"]
        return rows

    async def link(self) -> str:
        """Return a link to the only node's file, which holds LOG."""
        self.sandbox.write(NODE, LOG)
        link: str = (await self.export())[0]["file_link"]
        return link

    async def get(self, link: str, **headers: str) -> Reply:
        return await self.send("GET", link, headers={name.replace("_", "-"): text for name, text in headers.items()})

    async def login(self, *, password: str = "", scope: Any = "project") -> Reply:
        sandbox = self.sandbox
        user = {
            "name": sandbox.user_name,
            "password": password or sandbox.password,
            "domain": {"name": sandbox.domain_name},
        }
        auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
        if scope is not None:
            auth["scope"] = {"project": {"id": sandbox.project_id}} if scope == "project" else scope
        url = f"{sandbox.iam_endpoint}/v3/auth/tokens?nocatalog=1"
        return await self.send("POST", url, data=json.dumps({"auth": auth}))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sandbox(clock: Clock) -> AsyncIterator[Sandbox]:
    """A cloud of one instance of one node, whose log holds what a test writes."""
    async with Sandbox(fleet=[SOLO], now=clock, lines_per_second=0) as sandbox:
        yield sandbox


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        # aiohttp repeats a GET by itself when the server hangs up, which would hide a fault.
        session._retry_connection = False
        yield session


@pytest.fixture
def client(sandbox: Sandbox, session: aiohttp.ClientSession) -> Client:
    return Client(sandbox, session)


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


# --- exports ---------------------------------------------------------------------------------------------------------


async def test_the_first_call_begins_an_export_without_size_or_link(client: Client) -> None:
    reply = (await client.post(SOLO)).json

    row = reply["list"][0]
    name = f"{client.sandbox.project_id}_{SOLO.nodes[0].id}_errorlog_20260102030405000"
    assert row == {
        "node_name": NODE,
        "file_name": name,
        "status": "EXPORTING",
        "file_size": None,
        "file_link": None,
        "updated_at": epoch_ms(START),
    }
    assert (reply["status"], reply["count"]) == ("CREATING", 0)


async def test_a_row_is_ready_before_the_export_is(session: aiohttp.ClientSession, clock: Clock) -> None:
    """Each node has its own time, between 8 and 25 seconds."""
    fleet = [replica_set("trio")]
    async with Sandbox(fleet=fleet, now=clock, lines_per_second=0) as sandbox:
        client = Client(sandbox, session)
        await client.post(fleet[0])
        seen: list[tuple[str, int]] = []
        for _ in range(26):
            clock.forward(seconds=1)
            reply = (await client.post(fleet[0])).json
            seen.append((reply["status"], reply["count"]))

    counts = [count for _, count in seen]
    assert counts[:7] == [0] * 7
    assert {1, 2} & set(counts)
    assert all((status == "FINISH") == (count == 3) for status, count in seen)
    assert seen[-1] == ("FINISH", 3)


async def test_a_file_holds_the_newest_window_at_the_moment_its_row_was_ready(
    session: aiohttp.ClientSession, clock: Clock
) -> None:
    """What is written later is not in it, however late somebody asks."""
    async with Sandbox(fleet=[SOLO], now=clock, lines_per_second=0, window=1000, export_takes=(10, 10)) as sandbox:
        client = Client(sandbox, session)
        sandbox.write(NODE, LOG)
        await client.post(SOLO)
        clock.forward(seconds=11)
        sandbox.write(NODE, b"too late")
        row = (await client.post(SOLO)).json["list"][0]

        assert sandbox.exports_of(NODE) == [LOG[-1000:]]
        assert row["updated_at"] == epoch_ms(START + timedelta(seconds=10))
        assert (await client.get(row["file_link"])).body == LOG[-1000:]


async def test_a_log_that_grew_on_is_exported_as_it_was(session: aiohttp.ClientSession, clock: Clock) -> None:
    async with Sandbox(fleet=[SOLO], now=clock, seed=1, export_takes=(10, 10)) as sandbox:
        client = Client(sandbox, session)
        await client.post(SOLO)
        clock.forward(minutes=5)
        await client.post(SOLO)
        files = sandbox.exports_of(NODE)

    assert files == [log_after([10])]


async def test_times_are_whole_milliseconds_and_links_end_at_whole_seconds(client: Client, clock: Clock) -> None:
    """The seconds are rounded up: no link lives shorter than it should."""
    clock.forward(seconds=0.6789)
    row = (await client.export())[0]
    ends = parse_qs(urlsplit(row["file_link"]).query)["Expires"]

    assert row["updated_at"] == epoch_ms(START) + 678
    assert ends == [str(int(START.timestamp()) + 301)]


async def test_a_call_while_fresh_signs_the_same_files_anew(client: Client, clock: Clock) -> None:
    first = await client.export()
    clock.forward(minutes=14, seconds=59)
    second = (await client.post(SOLO)).json["list"]

    assert first[0].pop("file_link") != second[0].pop("file_link")
    assert first == second


async def test_a_call_when_stale_shows_the_old_file_without_size_and_link(client: Client, clock: Clock) -> None:
    """The reference's third example: the same name and time, but nothing to fetch."""
    old = await client.export()
    clock.forward(minutes=15)
    reply = (await client.post(SOLO)).json

    assert reply["status"] == "CREATING"
    assert reply["list"] == [old[0] | {"status": "EXPORTING", "file_size": None, "file_link": None}]


async def test_a_finished_re_export_has_another_name_and_time(client: Client, clock: Clock) -> None:
    old = await client.export()
    clock.forward(minutes=15)
    new = await client.export()

    assert new[0]["file_name"] != old[0]["file_name"]
    assert new[0]["updated_at"] == epoch_ms(START + timedelta(minutes=15))


async def test_calls_while_an_export_runs_begin_no_other(client: Client, clock: Clock) -> None:
    first = (await client.post(SOLO)).json["list"]
    clock.forward(seconds=2)
    second = (await client.post(SOLO)).json["list"]

    assert first == second


async def test_a_row_that_never_gets_ready_is_begun_anew_when_all_is_stale(client: Client, clock: Clock) -> None:
    client.sandbox.faults.slow_rows = {NODE: math.inf}
    hung = (await client.post(SOLO)).json["list"][0]
    clock.forward(minutes=15)
    again = (await client.post(SOLO)).json["list"][0]

    assert hung["status"] == again["status"] == "EXPORTING"
    assert hung["file_name"] != again["file_name"]


async def test_all_links_of_a_reply_end_together_five_minutes_after_it(
    session: aiohttp.ClientSession, clock: Clock
) -> None:
    fleet = [replica_set("trio")]
    async with Sandbox(fleet=fleet, now=clock, lines_per_second=0) as sandbox:
        client = Client(sandbox, session)
        await client.export(fleet[0])
        clock.forward(minutes=3)
        links = column((await client.post(fleet[0])).json["list"], "file_link")

    ends = {int(parse_qs(urlsplit(link).query)["Expires"][0]) for link in links}
    assert ends == {int((START + timedelta(minutes=8)).timestamp())}


async def test_successive_windows_overlap(session: aiohttp.ClientSession, clock: Clock) -> None:
    async with Sandbox(fleet=[SOLO], now=clock, window=500_000) as sandbox:
        client = Client(sandbox, session)
        for _ in range(3):
            await client.export()
            clock.forward(minutes=15)
        files = sandbox.exports_of(NODE)
        log = sandbox.log_of(NODE)

    places = [(log.index(file), log.index(file) + len(file)) for file in files]
    assert [len(file) for file in files] == [500_000] * 3
    assert all(first[0] < second[0] < first[1] < second[1] for first, second in pairwise(places))


@pytest.mark.parametrize(("size", "told"), [(0, "0"), (3676, "3.59"), (5, "0.00"), (40_000_000, "39062.50")])
async def test_a_size_is_text_in_kilobytes(client: Client, size: int, told: str) -> None:
    client.sandbox.write(NODE, b"x" * size)

    assert column(await client.export(), "file_size") == [told]


async def test_a_quiet_node_has_a_link_to_an_empty_file(client: Client) -> None:
    row = (await client.export())[0]
    reply = await client.get(row["file_link"])

    assert (reply.status, reply.headers["Content-Length"], reply.body) == (200, "0", b"")


async def test_a_call_may_be_limited_to_nodes(session: aiohttp.ClientSession, clock: Clock) -> None:
    trio = replica_set("trio")
    async with Sandbox(fleet=[trio], now=clock) as sandbox:
        client = Client(sandbox, session)
        reply = await client.post(trio, {"node_id_list": [trio.nodes[1].id]})

    assert column(reply.json["list"], "node_name") == [trio.nodes[1].name]


async def test_a_reply_may_be_limited_to_file_names(session: aiohttp.ClientSession, clock: Clock) -> None:
    trio = replica_set("trio")
    async with Sandbox(fleet=[trio], now=clock) as sandbox:
        client = Client(sandbox, session)
        name = (await client.export(trio))[2]["file_name"]
        reply = (await client.post(trio, {"file_name_list": [name]})).json

    assert column(reply["list"], "file_name") == [name]
    assert (reply["status"], reply["count"]) == ("FINISH", 1)


async def test_a_reply_limited_to_nodes_and_file_names_has_what_is_both(
    session: aiohttp.ClientSession, clock: Clock
) -> None:
    trio = replica_set("trio")
    async with Sandbox(fleet=[trio], now=clock) as sandbox:
        client = Client(sandbox, session)
        rows = await client.export(trio)
        nodes, names = [trio.nodes[0].id, trio.nodes[1].id], [rows[1]["file_name"], rows[2]["file_name"]]
        reply = (await client.post(trio, {"node_id_list": nodes, "file_name_list": names})).json

    assert column(reply["list"], "file_name") == names[:1]


async def test_a_name_that_is_forgotten_is_refused_and_listed_all_the_same(client: Client) -> None:
    (row,) = await client.export()
    client.sandbox.faults.forgotten_files = {row["file_name"]}

    by_name = await client.post(SOLO, {"file_name_list": [row["file_name"]]})

    assert (by_name.status, by_name.json["error_code"]) == (400, "DBS.280361")
    assert column(await client.export(), "file_name") == [row["file_name"]]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([], "DBS.280001"),
        ({"node_id_list": ["f" * 32 + "no02"]}, "DBS.280407"),
        ({"node_id_list": "all"}, "DBS.280407"),
        ({"file_name_list": ["no such file"]}, "DBS.280361"),
        ({"file_name_list": [7]}, "DBS.280361"),
    ],
)
async def test_a_wrong_body_is_refused_with_its_code(client: Client, body: Any, code: str) -> None:
    reply = await client.post(SOLO, body)

    assert (reply.status, reply.json["error_code"]) == (400, code)


async def test_another_project_or_instance_is_refused(client: Client) -> None:
    foreign = await client.post(SOLO, project="a" * 32)
    unknown = await client.post(single("unknown"))

    assert (foreign.status, foreign.json["error_code"]) == (400, "DBS.200010")
    assert (unknown.status, unknown.json["error_code"]) == (404, "DBS.200002")


async def test_a_failed_row_stands_beside_good_ones(session: aiohttp.ClientSession, clock: Clock) -> None:
    """FAILED at the top says that there is a failed file, not that there is no other."""
    trio = replica_set("trio")
    async with Sandbox(fleet=[trio], now=clock) as sandbox:
        client = Client(sandbox, session)
        sandbox.faults.failed_rows = {trio.nodes[0].name}
        sandbox.faults.slow_rows = {trio.nodes[2].id: 100}
        await client.post(trio)
        clock.forward(seconds=30)
        before = (await client.post(trio)).json
        clock.forward(seconds=100)
        after = (await client.post(trio)).json

    assert (before["status"], column(before["list"], "status")) == ("CREATING", ["FAILED", "SUCCESS", "EXPORTING"])
    assert (after["status"], column(after["list"], "status")) == ("FAILED", ["FAILED", "SUCCESS", "SUCCESS"])
    assert after["list"][0]["file_link"] is None


async def test_speed_divides_every_duration(session: aiohttp.ClientSession, clock: Clock) -> None:
    async with Sandbox(fleet=[SOLO], now=clock, lines_per_second=0, speed=300) as sandbox:
        client = Client(sandbox, session)
        await client.post(SOLO)
        clock.forward(seconds=25 / 300)
        ready = (await client.post(SOLO)).json
        clock.forward(seconds=3)
        stale = (await client.post(SOLO)).json

    assert (ready["status"], stale["status"]) == ("FINISH", "CREATING")


# --- instances -------------------------------------------------------------------------------------------------------


async def test_instances_come_in_pages(session: aiohttp.ClientSession, clock: Clock) -> None:
    fleet = default_fleet()
    async with Sandbox(now=clock) as sandbox:
        client = Client(sandbox, session)
        path = f"/v3/{sandbox.project_id}/instances"
        pages = [(await client.ask(f"{path}?offset={offset}&limit=2")).json for offset in (0, 2, 4)]

    assert [len(page["instances"]) for page in pages] == [2, 1, 0]
    assert {page["total_count"] for page in pages} == {3}
    assert {one["id"] for page in pages for one in page["instances"]} == {one.id for one in fleet}


async def test_a_cluster_is_told_by_groups_and_nodes(session: aiohttp.ClientSession, clock: Clock) -> None:
    events = cluster("events")
    async with Sandbox(fleet=[events], now=clock) as sandbox:
        told = (await Client(sandbox, session).ask(f"/v3/{sandbox.project_id}/instances")).json["instances"][0]

    groups = told["groups"]
    nodes = [node["id"] for group in groups for node in group["nodes"]]
    assert [(group["type"], len(group["nodes"])) for group in groups] == [
        ("mongos", 2),
        ("shard", 2),
        ("shard", 2),
        ("config", 3),
    ]
    assert nodes == [node.id for node in events.nodes]
    assert ["id" in group for group in groups] == [False, True, True, True]
    assert ["volume" in group for group in groups] == [False, True, True, True]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name=orders", ["orders"]),
        ("name=order", []),
        ("name=*t", ["events", "audit"]),
        ("mode=Single", ["audit"]),
        (f"id={default_fleet()[0].id}", ["orders"]),
    ],
)
async def test_instances_can_be_looked_for(
    session: aiohttp.ClientSession, clock: Clock, query: str, names: list[str]
) -> None:
    async with Sandbox(now=clock) as sandbox:
        found = (await Client(sandbox, session).ask(f"/v3/{sandbox.project_id}/instances?{query}")).json

    assert column(found["instances"], "name") == names


@pytest.mark.parametrize(
    ("query", "code"),
    [("limit=0", "DBS.280439"), ("limit=101", "DBS.280439"), ("limit=x", "DBS.280439"), ("offset=-1", "DBS.280440")],
)
async def test_a_wrong_page_is_refused(client: Client, query: str, code: str) -> None:
    reply = await client.ask(f"/v3/{client.sandbox.project_id}/instances?{query}")

    assert (reply.status, reply.json["error_code"]) == (400, code)


# --- IAM -------------------------------------------------------------------------------------------------------------


async def test_a_login_gives_a_token_that_dds_accepts(client: Client) -> None:
    reply = await client.login()
    client.token = reply.headers["X-Subject-Token"]
    token = reply.json["token"]

    assert (reply.status, token["project"]["id"]) == (201, client.sandbox.project_id)
    assert (token["issued_at"], token["expires_at"]) == ("2026-01-02T03:04:05.000000Z", "2026-01-03T03:04:05.000000Z")
    assert (await client.post(SOLO)).status == 200


@pytest.mark.parametrize("domain", [{}, {"domain": {"name": "sandbox"}}])
async def test_a_login_may_name_its_project(client: Client, domain: dict[str, Any]) -> None:
    reply = await client.login(scope={"project": {"name": client.sandbox.project_name, **domain}})

    assert reply.json["token"]["project"]["id"] == client.sandbox.project_id


async def test_a_token_without_scope_is_good_for_iam_only(client: Client) -> None:
    client.token = (await client.login(scope=None)).headers["X-Subject-Token"]
    projects = await client.ask(f"/v3/projects?name={client.sandbox.project_name}")
    export = await client.post(SOLO)

    assert column(projects.json["projects"], "id") == [client.sandbox.project_id]
    assert (export.status, export.json["error_code"]) == (401, "APIGW.0307")


async def test_a_token_ends_with_its_life(client: Client, clock: Clock) -> None:
    clock.forward(hours=23, minutes=59, seconds=59)
    alive = await client.post(SOLO)
    clock.forward(seconds=1)
    dead = await client.post(SOLO)

    assert (alive.status, dead.status, dead.json["error_code"]) == (200, 401, "APIGW.0307")


async def test_a_token_can_be_revoked(client: Client) -> None:
    client.sandbox.revoke_tokens()
    dead = await client.post(SOLO)
    client.token = client.sandbox.issue_token()

    assert (dead.json["error_code"], (await client.post(SOLO)).status) == ("APIGW.0307", 200)


async def test_a_garbled_token_cannot_be_read(client: Client) -> None:
    client.token = "garbled"

    assert (await client.post(SOLO)).json["error_code"] == "APIGW.0301"


async def test_another_identity_service_may_have_the_only_word_on_tokens(session: aiohttp.ClientSession) -> None:
    async def is_theirs(token: str) -> bool:
        return token == "theirs"

    async with Sandbox(fleet=[SOLO], project_id="their-project", token_check=is_theirs) as sandbox:
        client = Client(sandbox, session)
        own = await client.post(SOLO)
        client.token = "theirs"
        theirs = await client.post(SOLO, project="their-project")

    assert (own.status, own.json["error_code"], theirs.status) == (401, "APIGW.0307", 200)


async def test_a_wrong_password_is_refused_in_the_shape_of_iam(client: Client) -> None:
    reply = await client.login(password="wrong")

    error = {"message": "The username or password is wrong.", "code": 401, "title": "Unauthorized"}
    assert (reply.status, reply.json) == (401, {"error": error})


async def test_a_changed_password_ends_the_old_one(client: Client) -> None:
    old = client.sandbox.password
    client.sandbox.password = "changed"

    assert [(await client.login(password=word)).status for word in (old, "changed")] == [401, 201]


async def test_five_wrong_passwords_lock_out_the_right_one_for_15_minutes(client: Client, clock: Clock) -> None:
    wrong = [(await client.login(password="wrong")).status for _ in range(5)]
    right = await client.login()
    clock.forward(minutes=15)

    assert (wrong, right.status, (await client.login()).status) == ([401] * 5, 401, 201)


async def test_a_right_password_forgives_the_wrong_ones_before_it(client: Client) -> None:
    passwords = ["wrong"] * 4 + [""] + ["wrong"] * 4 + [""]
    statuses = [(await client.login(password=password)).status for password in passwords]

    assert statuses == ([401] * 4 + [201]) * 2


async def test_wrong_passwords_over_a_longer_time_lock_nothing(client: Client, clock: Clock) -> None:
    for _ in range(6):
        await client.login(password="wrong")
        clock.forward(minutes=4)

    assert (await client.login()).status == 201


# --- the object store ------------------------------------------------------------------------------------------------


async def test_a_link_is_signed_as_the_s3_manual_says(client: Client) -> None:
    """HMAC-SHA1 over verb, two empty headers, expiry and the resource with its sub-resource."""
    parts = urlsplit(await client.link())
    query = parse_qs(parts.query)
    text = f"GET\n\n\n{query['Expires'][0]}\n{parts.path}?response-cache-control=no-cache,no-store"
    secret = client.sandbox._store._secret.encode()
    digest = hmac.new(secret, text.encode(), hashlib.sha1).digest()

    assert query["Signature"] == [base64.b64encode(digest).decode()]


def test_the_s3_manuals_own_link_has_its_signature() -> None:
    """From "Signing and authenticating REST requests", query string request authentication."""
    text = string_to_sign("GET", "/johnsmith/photos/puppy.jpg", expires="1175139620", headers={}, query=[])

    assert sign("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", text) == "NpgCjnDzrM+WFzoENXmpNDUsSn8="


async def test_a_bucket_that_is_not_there_has_no_objects(client: Client) -> None:
    sandbox = client.sandbox
    key, secret = sandbox._store._access_key, sandbox._store._secret
    text = string_to_sign("GET", "/elsewhere/key", expires="2000000000", headers={}, query=[])
    asked = f"AWSAccessKeyId={key}&Expires=2000000000&Signature={quote(sign(secret, text), safe='')}"
    reply = await client.get(f"{sandbox.endpoint}/elsewhere/key?{asked}")

    assert (reply.status, reply.xml_code) == (404, "NoSuchBucket")


async def test_a_link_gives_the_whole_file_with_what_proves_it(client: Client, clock: Clock) -> None:
    link = await client.link()
    clock.forward(minutes=1)
    reply = await client.get(link)

    headers = {name: reply.headers[name] for name in ("Content-Length", "Content-Type", "Accept-Ranges", "ETag")}
    assert (reply.status, reply.body) == (200, LOG)
    assert headers == {
        "Content-Length": str(len(LOG)),
        "Content-Type": "binary/octet-stream",
        "Accept-Ranges": "bytes",
        "ETag": f'"{hashlib.md5(LOG, usedforsecurity=False).hexdigest()}"',
    }
    assert parsedate_to_datetime(reply.headers["Last-Modified"]) == START


async def test_a_link_lives_as_long_as_it_says(client: Client, clock: Clock) -> None:
    link = await client.link()
    clock.forward(minutes=4, seconds=59)
    alive = await client.get(link)
    clock.forward(seconds=1)
    dead = await client.get(link)

    assert (alive.status, dead.status, dead.xml_code) == (200, 403, "AccessDenied")
    assert b"<Message>Request has expired</Message>" in dead.body
    assert dead.headers["Content-Type"] == "application/xml"


async def test_a_link_that_ends_leaves_a_running_transfer_alone(client: Client, clock: Clock) -> None:
    """More than sockets hold, so that the store is still sending when the link ends."""
    log = b"x" * 20_000_000
    client.sandbox.write(NODE, log)
    link = (await client.export())[0]["file_link"]
    async with client.session.get(URL(link, encoded=True)) as reply:
        clock.forward(hours=1)
        body = await reply.read()
    resumed = await client.get(link, Range="bytes=5-")

    assert (len(body), resumed.status) == (len(log), 403)


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda link: link.replace("Signature=", "Signature=A"),
        lambda link: link.replace("_errorlog_", "_errorlog_1"),
        lambda link: re.sub(r"Expires=\d", "Expires=2", link),
        lambda link: link.replace("no-store", "no-cash"),
        lambda link: link.split("&Signature")[0],
        lambda link: link.replace("AWSAccessKeyId=S", "AWSAccessKeyId=T"),
    ],
)
async def test_a_link_holds_for_nothing_but_itself(client: Client, spoiled: Any) -> None:
    assert (await client.get(spoiled(await client.link()))).status == 403


async def test_a_link_that_was_decoded_on_the_way_is_broken(client: Client, clock: Clock) -> None:
    """A plus in the signature must stay percent-encoded: bare, it is a blank."""
    link = await client.link()
    while "%2B" not in link:
        clock.forward(seconds=1)
        link = (await client.post(SOLO)).json["list"][0]["file_link"]

    assert [(await client.get(tried)).status for tried in (link, unquote(link))] == [200, 403]


async def test_a_link_does_not_hold_for_head(client: Client) -> None:
    assert (await client.send("HEAD", await client.link())).status == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "text/plain"}, 403),
        ({"Content_MD5": "x"}, 403),
        ({"x_amz_date": "now"}, 403),
        ({"x_obs_date": "now"}, 403),
        ({"Authorization": "Bearer x"}, 400),
        ({"X_Auth_Token": "x"}, 400),
        ({"Accept": "text/plain", "User_Agent": "x"}, 200),
    ],
)
async def test_headers_that_are_signed_or_prove_somebody_break_a_link(
    client: Client, headers: dict[str, str], status: int
) -> None:
    assert (await client.get(await client.link(), **headers)).status == status


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=100-", 100, len(LOG)),
        ("bytes=100-999999999", 100, len(LOG)),
        ("bytes=-10", len(LOG) - 10, len(LOG)),
        ("bytes=-999999999", 0, len(LOG)),
    ],
)
async def test_a_range_gives_its_part(client: Client, asked: str, start: int, end: int) -> None:
    reply = await client.get(await client.link(), Range=asked)

    assert (reply.status, reply.body) == (206, LOG[start:end])
    assert reply.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(LOG)}"
    assert reply.headers["ETag"] == f'"{hashlib.md5(LOG, usedforsecurity=False).hexdigest()}"'


@pytest.mark.parametrize("asked", ["bytes=5-4", "bytes=", "bytes=a-b", "lines=0-5", "bytes=0-1,5-6"])
async def test_a_malformed_range_gives_the_whole(client: Client, asked: str) -> None:
    reply = await client.get(await client.link(), Range=asked)

    assert (reply.status, reply.body, "Content-Range" in reply.headers) == (200, LOG, False)


@pytest.mark.parametrize("asked", [f"bytes={len(LOG)}-", "bytes=999999999-", "bytes=-0"])
async def test_a_range_past_the_end_cannot_be_satisfied(client: Client, asked: str) -> None:
    reply = await client.get(await client.link(), Range=asked)

    assert (reply.status, reply.xml_code) == (416, "InvalidRange")
    assert reply.headers["Content-Range"] == f"bytes */{len(LOG)}"


async def test_no_range_of_an_empty_object_can_be_satisfied(client: Client) -> None:
    link = (await client.export())[0]["file_link"]

    assert [(await client.get(link, Range=asked)).status for asked in ("bytes=0-", "bytes=-5")] == [416, 416]


async def test_if_match_holds_until_the_object_is_another(client: Client) -> None:
    link = await client.link()
    etag = (await client.get(link)).headers["ETag"]
    same = await client.get(link, Range="bytes=5-", If_Match=etag)
    client.sandbox.replace_object(NODE, LOG[::-1])
    other = await client.get(link, Range="bytes=5-", If_Match=etag)

    assert (same.status, other.status, other.xml_code) == (206, 412, "PreconditionFailed")
    assert b"<Condition>If-Match</Condition>" in other.body


async def test_if_range_is_not_looked_at(client: Client) -> None:
    reply = await client.get(await client.link(), Range="bytes=5-", If_Range='"another"')

    assert reply.status == 206


async def test_a_replaced_object_has_the_same_link_and_other_bytes(client: Client) -> None:
    link = await client.link()
    client.sandbox.replace_object(NODE, b"other bytes")

    assert (await client.get(link)).body == b"other bytes"
    assert client.sandbox.exports_of(NODE) == [LOG, b"other bytes"]


async def test_an_object_is_gone_when_enough_others_came(session: aiohttp.ClientSession, clock: Clock) -> None:
    async with Sandbox(fleet=[SOLO], now=clock, link_life=timedelta(days=1), keep_exports=2) as sandbox:
        client = Client(sandbox, session)
        links = []
        for _ in range(3):
            links.append((await client.export())[0]["file_link"])
            clock.forward(minutes=15)
        replies = [await client.get(link) for link in links]

    assert [(reply.status, reply.xml_code) for reply in replies] == [(404, "NoSuchKey"), (200, ""), (200, "")]


# --- faults ----------------------------------------------------------------------------------------------------------


async def test_a_cut_body_ends_where_it_was_cut(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.cut_after = [30_000]
    async with client.session.get(URL(link, encoded=True)) as reply:
        body = await reply.content.readexactly(30_000)
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.content.readany()
    whole = await client.get(link)

    assert (reply.content_length, body, whole.body) == (len(LOG), LOG[:30_000], LOG)
    assert client.sandbox.bytes_sent == 30_000 + len(LOG)


async def test_a_stalled_body_stops_and_the_sandbox_can_still_stop(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.stall_after = [30_000]
    async with client.session.get(URL(link, encoded=True)) as reply:
        body = await reply.content.readexactly(30_000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reply.content.readany()
        await client.sandbox.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.content.readany()

    assert body == LOG[:30_000]


async def test_a_reply_that_is_held_back_ends_with_its_client(client: Client) -> None:
    link = await client.link()
    idle = len(asyncio.all_tasks())
    client.sandbox.faults.stall_after = [0]
    async with client.session.get(URL(link, encoded=True)) as reply:
        held = len(asyncio.all_tasks())
        reply.close()
    while len(asyncio.all_tasks()) > idle:
        await asyncio.sleep(0)

    assert held > idle


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (404, "NoSuchKey"), (429, "TooManyRequests"), (500, "InternalError"), (503, "SlowDown")],
)
async def test_an_object_error_comes_once_with_its_code(client: Client, status: int, code: str) -> None:
    link = await client.link()
    client.sandbox.faults.object_errors = [status]
    replies = [await client.get(link) for _ in range(2)]

    assert [(reply.status, reply.xml_code) for reply in replies] == [(status, code), (200, "")]


async def test_an_api_error_comes_once_in_its_shape(client: Client) -> None:
    client.sandbox.faults.api_errors = [
        ApiError(429, "DBS.280443", "Too many calls.", {"Retry-After": "7"}),
        ApiError(429, "APIGW.0308", shape="gateway"),
        ApiError(503, shape="html"),
        ApiError(502, shape="empty"),
    ]
    replies = [await client.post(SOLO) for _ in range(5)]

    assert [reply.status for reply in replies] == [429, 429, 503, 502, 200]
    assert replies[0].json == {"error_code": "DBS.280443", "error_msg": "Too many calls."}
    assert replies[0].headers["Retry-After"] == "7"
    assert (replies[1].json["error_code"], "request_id" in replies[1].json) == ("APIGW.0308", True)
    assert (replies[2].headers["Content-Type"], replies[3].body) == ("text/html; charset=utf-8", b"")


async def test_a_login_error_comes_once(client: Client) -> None:
    client.sandbox.faults.login_errors = [ApiError(429, headers={"Retry-After": "3"}, shape="iam")]

    assert [(await client.login()).status for _ in range(2)] == [429, 201]


async def test_dropped_connections_give_no_reply(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.drop_api = client.sandbox.faults.drop_objects = 1
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.post(SOLO)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.get(link)

    assert [(await client.post(SOLO)).status, (await client.get(link)).status] == [200, 200]


async def test_a_slow_row_is_ready_when_the_fault_ends(client: Client, clock: Clock) -> None:
    client.sandbox.faults.slow_rows = {NODE: math.inf}
    await client.post(SOLO)
    clock.forward(minutes=5)
    slow = (await client.post(SOLO)).json["status"]
    client.sandbox.faults.clear()

    assert (slow, (await client.post(SOLO)).json["status"]) == ("CREATING", "FINISH")


async def test_a_body_without_length_ends_with_the_connection(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.no_length = True
    reply = await client.get(link)

    told = {"Content-Length", "Transfer-Encoding"} & set(reply.headers)
    assert (reply.body, told, reply.headers["Connection"]) == (LOG, set(), "close")


async def test_a_paced_body_is_whole_and_takes_its_time(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.bytes_per_second = 20 * len(LOG)
    begins = asyncio.get_running_loop().time()
    reply = await client.get(link)

    assert reply.body == LOG
    assert asyncio.get_running_loop().time() - begins >= 1 / 20


async def test_an_etag_may_be_no_md5(client: Client) -> None:
    link = await client.link()
    md5 = hashlib.md5(LOG, usedforsecurity=False)
    seen: list[str | None] = []
    for client.sandbox.faults.etag in ("multipart", "encrypted", "none"):
        reply = await client.get(link)
        seen += [reply.headers.get("ETag"), reply.headers.get("x-obs-server-side-encryption")]

    assert seen[0] == f'"{hashlib.md5(md5.digest(), usedforsecurity=False).hexdigest()}-1"'
    assert re.fullmatch(r'"[0-9a-f]{32}"', seen[2] or "")
    assert md5.hexdigest() not in (seen[2] or "")
    assert (seen[1], seen[3], seen[4], seen[5]) == (None, "kms", None, None)


async def test_a_range_may_be_ignored_or_shifted(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.shift_range = [7]
    shifted = await client.get(link, Range="bytes=100-")
    client.sandbox.faults.ignore_range = True
    ignored = await client.get(link, Range="bytes=100-")

    assert (shifted.status, shifted.headers["Content-Range"]) == (206, f"bytes 107-{len(LOG) - 1}/{len(LOG)}")
    assert (shifted.body, ignored.status, ignored.body) == (LOG[107:], 200, LOG)


async def test_a_range_may_be_refused_and_the_whole_is_not(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.refuse_range = 403

    refused, whole = await client.get(link, Range="bytes=100-"), await client.get(link)

    assert (refused.status, whole.status, whole.body) == (403, 200, LOG)


async def test_a_range_may_end_later_than_was_asked_for(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.range_surplus = [50, 10**9]

    longer, to_the_end = [await client.get(link, Range="bytes=0-99") for _ in range(2)]

    assert (longer.headers["Content-Range"], longer.body) == (f"bytes 0-149/{len(LOG)}", LOG[:150])
    assert to_the_end.body == LOG


async def test_a_206_may_lie_about_itself(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.content_range = ["bytes 0-1/2"]

    lie, truth = [await client.get(link, Range="bytes=0-99") for _ in range(2)]

    told = [reply.headers["Content-Range"] for reply in (lie, truth)]
    assert (told, lie.body) == (["bytes 0-1/2", f"bytes 0-99/{len(LOG)}"], LOG[:100])


async def test_one_reply_may_have_another_etag(client: Client) -> None:
    link = await client.link()
    true = (await client.get(link)).headers["ETag"]
    client.sandbox.faults.etags = ["none", "encrypted"]

    bare, encrypted, after = [await client.get(link, **{"If-Match": true}) for _ in range(3)]

    assert ("ETag" in bare.headers, encrypted.headers["ETag"] == true, after.headers["ETag"]) == (False, False, true)
    assert encrypted.headers["x-obs-server-side-encryption"] == "kms"


async def test_something_may_happen_as_soon_as_a_body_has_gone(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.after_object = [lambda: client.sandbox.faults.object_errors.append(503)]

    found = [(await client.get(link)).status for _ in range(3)]

    assert found == [200, 503, 200]


async def test_a_corrupt_reply_differs_in_one_byte(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.corrupt = [150]
    part = await client.get(link, Range="bytes=100-199")

    assert [at for at in range(100) if part.body[at] != LOG[100 + at]] == [50]
    assert (await client.get(link)).body == LOG


async def test_a_page_may_come_in_place_of_an_object(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.page_instead = [("text/html", b"<html>log in</html>")]
    reply = await client.get(link)

    assert (reply.status, reply.headers["Content-Type"], reply.body) == (200, "text/html", b"<html>log in</html>")
    assert client.sandbox.bytes_sent == 0


async def test_an_object_may_be_stored_compressed(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.encoding = "gzip"
    reply = await client.get(link)

    etag = f'"{hashlib.md5(reply.body, usedforsecurity=False).hexdigest()}"'
    assert (reply.headers["Content-Encoding"], reply.headers["ETag"]) == ("gzip", etag)
    assert gzip.decompress(reply.body) == LOG


async def test_an_object_may_be_elsewhere(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.redirect = ["http://192.0.2.1/elsewhere"]
    reply = await client.get(link)

    assert (reply.status, reply.headers["Location"]) == (307, "http://192.0.2.1/elsewhere")


async def test_a_skewed_cloud_lives_by_its_own_clock(client: Client) -> None:
    link = await client.link()
    client.sandbox.faults.skew = timedelta(minutes=10)
    early = await client.get(link)
    reply = await client.post(SOLO)
    row = reply.json["list"][0]
    late = await client.get(row["file_link"])

    assert (early.status, late.status) == (403, 200)
    assert row["updated_at"] == epoch_ms(START)
    assert parsedate_to_datetime(reply.headers["Date"]) == START + timedelta(minutes=10)


async def test_a_file_keeps_the_time_it_was_given_when_the_clouds_clock_moves(client: Client) -> None:
    client.sandbox.faults.skew = timedelta(minutes=10)
    begun = (await client.post(SOLO)).json["list"][0]
    row = (await client.export())[0]
    client.sandbox.faults.skew = timedelta(0)
    reply = await client.get((await client.post(SOLO)).json["list"][0]["file_link"])

    assert begun["updated_at"] == row["updated_at"] == epoch_ms(START + timedelta(minutes=10))
    assert parsedate_to_datetime(reply.headers["Last-Modified"]) == START + timedelta(minutes=10)


async def test_a_reply_and_its_links_can_be_mangled(client: Client) -> None:
    await client.export()
    client.sandbox.faults.link_rewrite = lambda link: link.replace("127.0.0.1", "localhost")
    client.sandbox.faults.mangle = lambda body: {"links": column(body["list"], "file_link")}
    mangled = (await client.post(SOLO)).json
    client.sandbox.faults.mangle = lambda _: b"{cut"

    assert mangled["links"][0].startswith("http://localhost:")
    assert (await client.post(SOLO)).body == b"{cut"


# --- logs ------------------------------------------------------------------------------------------------------------


def log_after(steps: list[float], *, seed: int = 1, instance: SandboxInstance = SOLO) -> bytes:
    """Return a node's log after so many seconds, asked for at each step."""
    clock = Clock()
    sandbox = Sandbox(fleet=[instance], now=clock, seed=seed)
    for seconds in steps:
        clock.forward(seconds=seconds)
        sandbox.log_of(instance.nodes[0].name)
    return sandbox.log_of(instance.nodes[0].name)


def test_a_log_is_the_same_for_its_seed_however_often_it_is_read() -> None:
    assert log_after([600]) == log_after([0, 0.25, 300, 299.75])


def test_a_log_is_another_for_another_seed() -> None:
    assert log_after([600], seed=1) != log_after([600], seed=2)


def test_a_log_only_grows() -> None:
    assert log_after([600]).startswith(log_after([300]))


def test_a_log_has_its_backlog_and_its_rate() -> None:
    """An hour of backlog and ten minutes since, at two a second; some lines come twice."""
    lines = len(set(log_after([600]).splitlines()))

    assert 2 * 4200 - 1 <= lines <= 2 * 4200


def test_a_line_may_come_twice_in_a_row() -> None:
    lines = log_after([0]).splitlines()

    assert any(first == second for first, second in pairwise(lines))


def test_lines_are_json_objects_since_4_4() -> None:
    lines = [json.loads(line) for line in log_after([0]).splitlines()]

    times = [datetime.fromisoformat(line["t"]["$date"]) for line in lines]
    assert {tuple(line) for line in lines} == {("t", "s", "c", "id", "ctx", "msg", "attr")}
    severities = Counter(line["s"] for line in lines)
    assert set(severities) <= {"W", "E", "F"}
    assert severities["F"] < len(lines) / 100
    assert START - timedelta(hours=1, milliseconds=1) <= times[0] <= times[-1] <= START
    assert times == sorted(times)


def test_lines_are_text_up_to_4_2() -> None:
    text = log_after([0], instance=single("old", version="4.2")).decode()

    shape = re.compile(r"2026-01-02T0[23]:\d\d:\d\d\.\d{3}\+0000 [WEF] [A-Z-]+ +\[conn\d+\] .+")
    assert [line for line in text.splitlines() if not shape.fullmatch(line)] == []


# --- the whole -------------------------------------------------------------------------------------------------------


async def test_what_was_served_is_counted_by_kind(client: Client) -> None:
    await client.login()
    await client.ask("/v3/projects")
    await client.ask(f"/v3/{client.sandbox.project_id}/instances")
    await client.get(await client.link(), Range="bytes=5-")
    await client.ask("/v3/nothing/here")

    assert client.sandbox.calls == {
        "login": 1,
        "projects": 1,
        "instances": 1,
        "errorlog-download": 2,
        "object": 1,
        "other": 1,
    }
    assert client.sandbox.bytes_sent == len(LOG) - 5


async def test_a_request_is_remembered_without_its_query(client: Client) -> None:
    link = await client.link()
    await client.get(link, Range="bytes=5-")
    record = client.sandbox.requests[-1]

    assert (record.kind, record.method, record.status, record.range) == ("object", "GET", 206, "bytes=5-")
    assert record.path == urlsplit(link).path
    assert "Authorization" not in record.headers


async def test_every_reply_has_the_clouds_date_and_a_request_id(client: Client) -> None:
    api, login, store = await client.post(SOLO), await client.login(), await client.get(await client.link())

    dates = {parsedate_to_datetime(reply.headers["Date"]) for reply in (api, login, store)}
    ids = {api.headers["X-Request-Id"], login.headers["X-IAM-Trace-Id"], store.headers["x-obs-request-id"]}
    assert (dates, len(ids)) == ({START}, 3)


async def test_a_sandbox_that_starts_again_has_its_port_and_its_objects(client: Client) -> None:
    link = await client.link()
    await client.sandbox.stop()
    await client.sandbox.start()

    assert (await client.get(link)).body == LOG


def test_the_configuration_fits_the_sandbox() -> None:
    sandbox = Sandbox(speed=60)
    told = yaml.safe_load(configuration(sandbox, directory=Path("/logs: all"), state=Path("/state")))

    assert told["clouds"]["sandbox"]["endpoint"] == sandbox.endpoint
    assert told["clouds"]["sandbox"]["auth"] == {"method": "token", "token": {"env": "DDSLOGD_TOKEN"}}
    assert told["schedule"] == {"every": "20s"}
    assert told["export"] == {"first_poll": "167ms", "max_poll": "500ms", "give_up_after": "10s", "fresh_for": "15s"}
    assert told["storage"] == {"directory": "/logs: all", "state": "/state", "keep_free": 0}
    assert column(told["instances"], "id") == [instance.id for instance in default_fleet()]


async def test_with_a_jitter_an_instance_s_exports_take_about_the_same_time(clock: Clock) -> None:
    """All of its nodes' do; another instance has a time of its own."""
    fleet = [replica_set("orders"), single("audit")]
    async with Sandbox(fleet=fleet, now=clock, lines_per_second=0, export_jitter=1.0) as sandbox:
        takes: dict[str, list[float]] = {}
        for instance in fleet:
            for node in sandbox._estate.exports(instance, "error"):
                for _ in range(20):
                    node.begin()
                    assert node.run is not None
                    takes.setdefault(instance.name, []).append(node.run.takes.total_seconds())

    middles = [sum(times) / len(times) for times in takes.values()]
    assert all(1.0 < max(times) - min(times) <= 2.0 for times in takes.values())
    assert abs(middles[0] - middles[1]) > 1.0
