"""Metrics, health and status over real sockets, of a real service against the sandbox."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp.web import AppRunner, TCPSite
from structlog.testing import capture_logs
from yarl import URL

from conftest import START
from ddslogd import config
from ddslogd.config import Web
from ddslogd.errors import NotListening
from ddslogd.models import CycleOutcome, CycleReport
from ddslogd.operate import asking
from ddslogd.operate.log import Redactor
from ddslogd.operate.observer import Observer
from ddslogd.operate.web import HEADERS, application, listening
from ddslogd.sandbox.faults import ApiError
from test_cli import ddslogd
from test_metrics import status_of
from test_unit import needed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from conftest import Bed, ManualClock
    from ddslogd.operate.status import Instance, Status
    from ddslogd.operate.web import Page
    from ddslogd.service import Service

LINE = b"2026-01-02T03:04:04.000+0000 E STORAGE  [conn1] "
NODE = "solo_single_node_1"
PATHS = ("/", "/instances/solo", "/metrics", "/healthz", "/readyz", "/api/v1/status", "/api/v1/instances/solo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What listens, and whom it shows."""

    bed: Bed
    service: Service
    address: tuple[str, int]

    async def ask(self, path: str, *, method: str = "GET", host: str | None = None) -> Answer:
        url = f"http://{self.address[0]}:{self.address[1]}{path}"
        headers = {} if host is None else {"Host": host}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, headers=headers) as reply,
        ):
            return Answer(status=reply.status, headers=reply.headers.copy(), text=await reply.text())

    async def instance(self) -> Any:
        (found,) = (await self.ask("/api/v1/status")).json["instances"]
        return found


@asynccontextmanager
async def served(bed: Bed, *, page: Page | None = None, hosts: tuple[str, ...] = ()) -> AsyncIterator[Site]:
    redactor = Redactor()
    for secret in bed.secrets:
        redactor.add(secret)
    async with (
        bed.open() as service,
        listening(
            Web(listen="127.0.0.1:0", hosts=hosts),
            Observer(service.daemon(), clock=bed.clock, kept_s=0),
            clean=redactor.clean,
            page=page,
        ) as address,
    ):
        assert address is not None
        yield Site(bed=bed, service=service, address=address)


# --- health -----------------------------------------------------------------------------------------------------------


async def test_an_instance_goes_stale_and_comes_back(bed: Bed, clock: ManualClock) -> None:
    """With its age, its target, and whose turn it is."""
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with served(bed) as site:
        new = await site.ask("/readyz")
        await bed.collect()
        fresh = await site.ask("/readyz")
        clock.forward(minutes=41)
        bed.sandbox.faults.api_errors = [ApiError(status=403, code="DBS.200010")]
        await bed.collect()
        stale = await site.ask("/readyz")
        clock.forward(minutes=20)
        await bed.collect()
        again = await site.ask("/readyz")

    assert (new.status, new.json["headline"], new.json["new"]) == (200, "0 of 1 instance fresh, 1 new", ["solo"])
    assert (fresh.status, fresh.json["headline"], fresh.json["new"]) == (200, "The instance is fresh", [])
    (told,) = stale.json["stale"]
    assert (stale.status, stale.json["ready"], stale.json["headline"]) == (503, False, "1 of 1 instance stale")
    assert (told["name"], told["target_s"], told["age_s"] >= 41 * 60) == ("solo", 2400, True)
    assert told["turn"] == "yours: take the instance or node out of the configuration"
    assert "DBS.200010" in told["why"]
    assert (again.status, again.json["stale"]) == (200, [])


async def test_an_instance_that_never_had_its_cycle_is_stale_in_the_end(bed: Bed, clock: ManualClock) -> None:
    async with served(bed) as site:
        clock.forward(minutes=41)
        found = await site.ask("/readyz")

    assert (found.status, found.json["stale"][0]["why"]) == (503, "it never had a cycle: its cycle has not begun yet")


async def test_a_silent_database_is_told_from_a_failed_collector_everywhere(bed: Bed, clock: ManualClock) -> None:
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with served(bed) as site:
        await bed.collect()
        wrote = await site.instance()
        clock.forward(minutes=20)
        await bed.collect()
        silent, silent_metrics = await site.instance(), (await site.ask("/metrics")).text
        ready = (await site.ask("/readyz")).status
        clock.forward(minutes=41)
        bed.sandbox.faults.failed_rows.add(NODE)
        await bed.collect()
        failed, failed_metrics = await site.instance(), (await site.ask("/metrics")).text

    assert (wrote["state"], wrote["silent"], wrote["newest_line"]) == ("fresh", False, "2026-01-02T03:04:04.000+00:00")
    assert (silent["state"], silent["silent"], silent["why"], ready) == ("fresh", True, "", 200)
    assert (failed["state"], failed["silent"], bool(failed["why"])) == ("stale", False, True)
    assert 'ddslogd_instance_silent{dds_instance="solo"} 1' in silent_metrics
    assert 'ddslogd_instance_stale{dds_instance="solo"} 0' in silent_metrics
    assert 'ddslogd_instance_silent{dds_instance="solo"} 0' in failed_metrics
    assert 'ddslogd_instance_stale{dds_instance="solo"} 1' in failed_metrics


async def test_a_cycle_that_asked_for_nothing_leaves_the_age_of_the_export_it_rests_on(
    bed: Bed, clock: ManualClock
) -> None:
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with served(bed) as site:
        await bed.collect()
        clock.forward(minutes=5)
        report = await bed.collect()
        found = await site.instance()

    assert (report.outcome, found["last_cycle"]["outcome"]) == (CycleOutcome.CACHED, "cached")
    assert found["age_s"] >= 300
    assert found["new_bytes"] == [len(LINE) + 4]


async def test_no_instances_since_no_list_could_be_had_is_not_ready(bed: Bed) -> None:
    text = bed.text
    bed.set(text[text.index("instances:\n") :], "instances:\n  - discover: {}\n")
    bed.sandbox.revoke_tokens()
    async with served(bed) as site:
        await site.service.fleet()
        found = await site.ask("/readyz")

    assert (found.status, found.json["headline"], list(found.json["unlisted"])) == (503, "No instances", ["sandbox"])


async def test_healthz_answers_while_the_loop_turns(bed: Bed) -> None:
    async with served(bed) as site:
        found = await site.ask("/healthz")

    assert (found.status, found.text) == (200, "ok: the loop turns\n")


async def test_ledger_or_disk_that_cannot_be_read_is_503_and_the_process_stays_healthy(bed: Bed) -> None:
    async with served(bed) as site:
        await bed.collect()
        for path in bed.state.glob("ledger*"):
            path.rename(path.with_name(f"gone-{path.name}"))
        with capture_logs() as events:
            answers = [(await site.ask(path)).status for path in PATHS]

    assert dict(zip(PATHS, answers, strict=True)) == {path: 200 if path == "/healthz" else 503 for path in PATHS}
    assert {event["event"] for event in events} == {"web.failed"}


# --- what it tells ----------------------------------------------------------------------------------------------------


async def test_the_status_says_what_a_cycle_brought(bed: Bed) -> None:
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with served(bed) as site:
        await bed.collect()
        found = (await site.ask("/api/v1/status")).json
        one = (await site.ask("/api/v1/instances/solo")).json

    size = len(LINE) + 4
    (instance,), (cloud,) = found["instances"], found["clouds"]
    cycle = instance["last_cycle"]
    assert (found["fresh"], found["stale"], found["new"], found["transfers"]) == (1, 0, 0, [])
    assert (cycle["outcome"], cycle["stored"], cycle["fetched_bytes"], cycle["new_bytes"]) == ("ok", 1, size, size)
    assert (instance["new_bytes"], instance["schedule"], instance["gaps"]) == ([size], "every 20m", 0)
    assert (cloud["name"], cloud["credentials"], cloud["reachable"], cloud["waiting"]) == ("sandbox", "ok", True, 0)
    assert 0 < cloud["left"] < cloud["calls_per_minute"]
    assert (found["disk"]["directory"], found["disk"]["free"] > 0, found["disk"]["parts"]) == (
        str(bed.directory),
        True,
        0,
    )
    (node,) = one["nodes"]
    assert (node["name"], node["log"], node["stream_bytes"]) == (NODE, "error", size)
    assert (bed.directory / node["stream"]).read_bytes() == LINE + b"one\n"
    assert (bed.directory / node["snapshots"][0]["path"]).exists()


async def test_nodes_are_told_where_they_are_asked_for(bed: Bed) -> None:
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with served(bed) as site:
        await bed.collect()
        bare = (await site.ask("/api/v1/status")).json["instances"][0]
        whole = (await site.ask("/api/v1/status?nodes=1")).json["instances"][0]
        missing = await site.ask("/api/v1/instances/nobody")

    assert ("nodes" in bare, [node["name"] for node in whole["nodes"]], missing.status) == (False, [NODE], 404)


async def test_a_transfer_is_seen_while_it_runs_and_gone_when_it_is_broken_off(bed: Bed) -> None:
    bed.sandbox.write(NODE, (LINE + b"x" * 200 + b"\n") * 4000)
    bed.sandbox.faults.stall_after = [300_000]
    async with served(bed) as site:
        serving = asyncio.create_task(bed.collect())
        async with asyncio.timeout(20):
            while not (found := (await site.ask("/api/v1/status")).json)["transfers"] or not found["disk"]["parts"]:
                await asyncio.sleep(0.01)
        running = await site.instance()
        serving.cancel()
        await asyncio.wait([serving])
        after = (await site.ask("/api/v1/status")).json

    (transfer,) = found["transfers"]
    assert (transfer["instance"], transfer["node"], transfer["log"]) == ("solo", NODE, "error")
    assert (transfer["total"], transfer["resumed"]) == (len(bed.sandbox.log_of(NODE)), False)
    assert transfer["done"] <= transfer["total"]
    assert (running["running"], running["next_tick"]) == (True, None)
    assert (after["transfers"], after["instances"][0]["running"]) == ([], False)


async def test_the_next_tick_and_the_loops_lag_are_known_while_it_serves(bed: Bed) -> None:
    bed.set("every: 20m", 'cron: "0 0 1 1 *"')
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with served(bed) as site:
        serving = asyncio.create_task(site.service.serve())
        async with asyncio.timeout(20):
            while not (found := (await site.ask("/api/v1/status")).json)["next_tick"] or found["loop_lag_s"] is None:
                await asyncio.sleep(0.01)
        serving.cancel()
        await asyncio.wait([serving])

    assert found["next_tick"]["instance"] == "solo"
    assert re.match(r"20\d\d-01-01T00:00:00.000\+00:00", found["next_tick"]["at"])
    assert found["loop_lag_s"] < 5


async def test_calls_resumed_transfers_and_renewed_links_are_counted(bed: Bed) -> None:
    bed.sandbox.write(NODE, LINE * 2000)
    bed.sandbox.faults.cut_after = [30_000]
    bed.sandbox.faults.object_errors = [403]
    async with served(bed) as site:
        await bed.collect()
        text = (await site.ask("/metrics")).text

    assert 'ddslogd_api_calls_total{call="export",cloud="sandbox",outcome="ok"}' in text
    assert 'ddslogd_links_renewed_total{cloud="sandbox"} 1.0' in text
    assert "ddslogd_transfers_resumed_total 1.0" in text
    assert f"ddslogd_transfer_bytes_total {float(len(LINE * 2000))}" in text
    assert 'ddslogd_instance_snapshots_total{dds_instance="solo"} 1' in text


async def test_throttles_and_refused_credentials_are_seen(bed: Bed) -> None:
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with served(bed) as site:
        bed.sandbox.faults.api_errors = [ApiError(status=429, code="APIGW.0308", shape="gateway")]
        await bed.collect()
        throttled = (await site.ask("/metrics")).text
        bed.sandbox.revoke_tokens()
        bed.clock.forward(minutes=20)
        await bed.collect()
        refused = (await site.ask("/api/v1/status")).json["clouds"][0]
        text = (await site.ask("/metrics")).text

    assert 'ddslogd_api_throttled_total{cloud="sandbox"} 1.0' in throttled
    assert 'ddslogd_credentials_refused{cloud="sandbox"} 0.0' in throttled
    assert (refused["credentials"], refused["throttled"]) == ("refused", 1)
    assert 'ddslogd_credentials_refused{cloud="sandbox"} 1.0' in text


async def test_promtool_has_nothing_to_say_of_what_is_served(bed: Bed) -> None:
    promtool = needed("promtool", "install Debian's prometheus")
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with served(bed) as site:
        await bed.collect()
        found = await site.ask("/metrics")

    command = [promtool, "check", "metrics"]
    told = await asyncio.to_thread(
        subprocess.run, command, input=found.text, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout + told.stderr) == (0, "")
    assert found.headers["Content-Type"].startswith("text/plain; version=0.0.4")


# --- who may ask, and what is never told ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PATHS, "/static/x.css", "/nothing/here"])
@pytest.mark.parametrize("host", [None, "evil.example.com"])
async def test_every_answer_has_the_headers_that_keep_browsers_in_check(bed: Bed, path: str, host: str | None) -> None:
    """Errors too."""
    async with served(bed) as site:
        found = await site.ask(path, host=host)

    assert {name: found.headers.get(name) for name in HEADERS} == HEADERS
    assert "Server" not in found.headers
    assert "default-src 'none'" in found.headers["Content-Security-Policy"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/metrics", "/nothing/here"])
async def test_no_verb_changes_anything(bed: Bed, path: str, method: str) -> None:
    async with served(bed) as site:
        assert (await site.ask(path, method=method)).status == 405


@pytest.mark.parametrize("path", PATHS)
async def test_a_head_is_a_get_without_a_body(bed: Bed, path: str) -> None:
    async with served(bed) as site:
        await bed.collect()
        found = await site.ask(path, method="HEAD")

    assert (found.status, found.text) == (200, "")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9464", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:9464", 200),
        ("[::1]", 200),
        ("10.1.2.3:9464", 200),
        ("logs.example.com:9464", 200),
        ("Logs.Example.Com.", 200),
        ("evil.example.com", 421),
        ("evil.example.com:9464", 421),
        ("localhost.evil.example.com", 421),
        ("127.0.0.1.evil.example.com", 421),
        ("xlogs.example.com", 421),
    ],
)
async def test_only_names_of_this_host_are_answered(bed: Bed, host: str, status: int) -> None:
    """Else any web page could read it through the browser of somebody on this host (DNS rebinding)."""
    async with served(bed, hosts=("logs.example.com",)) as site:
        assert (await site.ask("/healthz", host=host)).status == status


async def test_no_answer_holds_a_secret(bed: Bed) -> None:
    """Not even one that has come into an error's text; nor a link, of which a secret is a part."""
    secret, link = "hunter2-hunter2", "https://obs.example.com/f?Signature=abcdef&Expires=1"
    bed.secrets.append(secret)
    bed.sandbox.write(NODE, LINE + b"one\n")
    token = bed.sandbox.issue_token()
    report = CycleReport(
        instance="solo",
        started_at=START,
        finished_at=START,
        outcome=CycleOutcome.FAILED,
        error=f"it broke with {secret} at {link}",
        error_kind="Unavailable",
    )
    async with served(bed) as site:
        await bed.collect()
        await site.service._archive.ledger.close_cycle(report, tick=START)
        bed.clock.forward(hours=2)
        told = [(await site.ask(path)).text for path in (*PATHS, "/api/v1/status?nodes=1")]

    assert any("it broke with [redacted]" in text for text in told)
    assert [text for text in told if secret in text or "abcdef" in text or token in text] == []
    assert [text for text in told for known in bed.secrets if known in text] == []


# --- pages ------------------------------------------------------------------------------------------------------------


class Paper:
    """Pages that say what they were given."""

    def overview(self, status: Status, query: Mapping[str, str]) -> str:
        return f"<p>{status.headline} {dict(query)}"

    def instance(self, status: Status, instance: Instance, query: Mapping[str, str]) -> str:
        return f"<p>{status.headline} {instance.name} {len(instance.nodes)} {dict(query)}"

    def missing(self, status: Status, name: str) -> str:
        return f"<p>{status.headline} without {name}"

    def static(self, name: str) -> tuple[str, bytes] | None:
        return ("text/css", b"p {}") if name == "style.css" else None


async def test_the_page_gets_what_it_shows(bed: Bed) -> None:
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with served(bed, page=Paper()) as site:
        await bed.collect()
        found = [await site.ask(path) for path in ("/?state=stale", "/instances/solo", "/static/style.css")]
        missing = [await site.ask(path) for path in ("/static/other.css", "/instances/nobody")]

    assert [one.text for one in found] == [
        "<p>The instance is fresh {'state': 'stale'}",
        "<p>The instance is fresh solo 1 {}",
        "p {}",
    ]
    assert [one.headers["Content-Type"] for one in found] == [
        "text/html; charset=utf-8",
        "text/html; charset=utf-8",
        "text/css; charset=utf-8",
    ]
    assert [one.status for one in missing] == [404, 404]
    assert missing[1].text == "<p>The instance is fresh without nobody"


async def test_names_from_the_cloud_are_found_whatever_they_are() -> None:
    """Nothing of one is taken for a path."""
    name = "a/../b c%?&ü"
    status = status_of(name)

    async def source(*, nodes_of: str | None = None, all_nodes: bool = False) -> Status:
        del all_nodes
        return replace(status, headline=f"asked for {nodes_of}")

    async def measured() -> bytes:
        return b""

    app = application(source, measured, Paper())
    runner = AppRunner(app)
    await runner.setup()
    await TCPSite(runner, "127.0.0.1", 0).start()
    url = URL(f"http://127.0.0.1:{runner.addresses[0][1]}/instances/{quote(name, safe='')}", encoded=True)
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        text = await reply.text()
    await runner.cleanup()

    assert text == f"<p>asked for {name} {name} 0 {{}}"


# --- where it listens -------------------------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_a_port_that_is_taken_is_said_with_whose_turn_it_is(bed: Bed, taken: int) -> None:
    async with bed.open() as service:
        with pytest.raises(NotListening) as told:
            async with listening(Web(listen=f"127.0.0.1:{taken}"), service.observer, clean=str):
                pass

    said = f"web.listen 127.0.0.1:{taken} cannot be had (Address already in use): end what listens there, or set"
    assert str(told.value).startswith(said)


async def test_a_start_without_its_port_ends_with_status_1_and_no_traceback(bed: Bed, taken: int) -> None:
    ended = await ddslogd("run", "-c", configured(bed, f"127.0.0.1:{taken}"))

    assert (ended.status, ended.out) == (1, "")
    assert ended.err.splitlines()[-1].startswith(f"ddslogd: web.listen 127.0.0.1:{taken} cannot be had")
    assert "Traceback" not in ended.err
    assert "service.started" not in ended.err


async def test_nothing_listens_where_it_is_switched_off(bed: Bed) -> None:
    async with (
        bed.open() as service,
        listening(Web(enabled=False), service.observer, clean=str) as address,
    ):
        assert address is None


# --- ddslogd status ---------------------------------------------------------------------------------------------------


def configured(bed: Bed, listen: str = "127.0.0.1:9", *, enabled: bool = True) -> Path:
    path = bed.directory.parent / "ddslogd.yaml"
    path.write_text(f"{bed.text}web: {{listen: '{listen}', enabled: {str(enabled).lower()}}}\n")
    return path


async def test_the_command_asks_the_daemon_that_runs(bed: Bed) -> None:
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with served(bed) as site:
        await bed.collect()
        path = configured(bed, f"127.0.0.1:{site.address[1]}")
        ended = await ddslogd("status", "-c", path, "--json")
        page = (await site.ask("/api/v1/status")).json

    found = json.loads(ended.out)
    assert (ended.status, ended.err) == (0, "")
    assert (found["started_at"], found["instances"]) == (page["started_at"], page["instances"])


async def test_the_command_reads_the_ledger_where_no_daemon_runs(bed: Bed) -> None:
    """The made-up clock is long past: so it is stale."""
    bed.sandbox.write(NODE, LINE + b"one\n")
    await bed.collect()

    ended = await ddslogd("status", "-c", configured(bed))

    lines = ended.out.splitlines()
    assert (ended.status, lines[0]) == (1, "1 of 1 instance stale; no daemon runs")
    assert lines[2].split()[:2] == ["solo", "stale"]
    assert "yours: start ddslogd" in ended.out


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"SSH-2.0-OpenSSH_9.2\r\n", b""])
async def test_what_is_no_daemon_of_this_configuration_is_not_believed(bed: Bed, said: bytes) -> None:
    await bed.collect()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        path = configured(bed, f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        ended = await ddslogd("status", "-c", path)

    assert (ended.status, ended.out.splitlines()[0]) == (1, "1 of 1 instance stale; no daemon runs")


async def test_a_daemon_of_another_directory_is_not_believed(bed: Bed) -> None:
    await bed.collect()
    async with served(bed) as site:
        settings = config.parse(configured(bed, f"127.0.0.1:{site.address[1]}").read_text(), "f").settings
        moved = settings.model_copy(
            update={"storage": settings.storage.model_copy(update={"directory": bed.directory.parent})}
        )
        own = await asyncio.to_thread(asking.status, settings, now=START)
        other = await asyncio.to_thread(asking.status, moved, now=START)

    assert (own["started_at"] is None, other["started_at"]) == (False, None)


async def test_the_command_without_a_ledger_exits_74(bed: Bed) -> None:
    ended = await ddslogd("status", "-c", configured(bed))

    assert (ended.status, "the ledger cannot be read" in ended.err) == (74, True)


async def test_the_command_of_a_daemon_that_serves_nothing_says_so(bed: Bed) -> None:
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with bed.open():
        await bed.collect()
        ended = await ddslogd("status", "-c", configured(bed, enabled=False))

    assert ended.out.splitlines()[0] == ("1 of 1 instance stale; read from the ledger, the daemon could not be asked")
