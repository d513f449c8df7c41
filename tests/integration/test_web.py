"""Metrics, health and status over real sockets, of a real service against the sandbox."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp.web import AppRunner, TCPSite
from structlog.testing import capture_logs
from yarl import URL

from ddslogd.config.settings import Web
from ddslogd.model.cycle import CycleOutcome, CycleReport
from ddslogd.model.failure_kind import FailureKind
from ddslogd.monitoring import status_client
from ddslogd.monitoring.freshness import one_line
from ddslogd.sandbox import replica_set
from ddslogd.sandbox.faults import ApiError
from ddslogd.web import page
from ddslogd.web.connections import HEADERS
from ddslogd.web.server import Sources, application, listening
from support.clocks import START
from support.commands import ddslogd
from support.http_client import Answer, served
from support.live_status import status_of
from support.programs import needed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ddslogd.monitoring.status import InstanceStatus, Status
    from support.clocks import ManualClock
    from support.testbed import Bed

LINE = b"2026-01-02T03:04:04.000+0000 E STORAGE  [conn1] "
NODE = "solo_single_node_1"
PATHS = ("/", "/instances/solo", "/metrics", "/healthz", "/readyz", "/api/v1/status", "/api/v1/instances/solo")


# --- health -----------------------------------------------------------------------------------------------------------


async def test_an_instance_goes_stale_and_comes_back(bed: Bed, clock: ManualClock) -> None:
    """With its age, its target, and who has to act."""
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
    headline = f"1 of 1 instance stale; 1 gap in 24 h: solo, {NODE}: instance gone"
    assert (stale.status, stale.json["ready"], stale.json["headline"]) == (503, False, headline)
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
    assert 'ddslogd_instance_silent{dds_instance="solo",cloud="sandbox"} 1' in silent_metrics
    assert 'ddslogd_instance_stale{dds_instance="solo",cloud="sandbox"} 0' in silent_metrics
    assert 'ddslogd_instance_silent{dds_instance="solo",cloud="sandbox"} 0' in failed_metrics
    assert 'ddslogd_instance_stale{dds_instance="solo",cloud="sandbox"} 1' in failed_metrics


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


async def ready(status: Status) -> Answer:
    """Ask whether a daemon with this status is ready."""

    async def source(*, nodes_of: str | None = None, all_nodes: bool = False) -> Status:
        del nodes_of, all_nodes
        return status

    async def measured() -> bytes:
        return b""

    runner = AppRunner(application(Sources(status=source, metrics=measured), None))
    await runner.setup()
    await TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/readyz"
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        answer = Answer(status=reply.status, headers=reply.headers, text=await reply.text())
    await runner.cleanup()
    return answer


@pytest.mark.parametrize(("cloud", "code"), [("eu", 200), ("otc", 503)])
async def test_a_cloud_without_a_list_and_without_instances_is_not_ready_whatever_others_have(
    cloud: str, code: int
) -> None:
    """The only instance is one of ``eu``."""
    status = status_of("stale", "orders")
    clouds = tuple(replace(one, unlisted="no right" if one.name == cloud else "") for one in status.clouds)

    answer = await ready(replace(status, instances=status.instances[1:], stale=0, clouds=clouds))

    assert (answer.status, answer.json["unlisted"]) == (code, {cloud: "no right"})


async def test_a_list_that_is_missing_is_named_from_the_first_moment_until_it_comes(bed: Bed) -> None:
    """Also where the instances are known from before: in what tells readiness, in metrics, for systemd."""
    text = bed.text
    bed.set(text[text.index("instances:\n") :], "instances:\n  - discover: {}\n")
    async with bed.open() as service:
        await service.once(await service.fleet())
    async with served(bed) as site:
        ready, metrics = [await site.ask(path) for path in ("/readyz", "/metrics")]
        line = one_line(await site.service.observer.status())
        await site.service.fleet()
        bed.clock.forward(minutes=1)
        after = await site.ask("/readyz")

    assert (ready.status, ready.json["unlisted"]) == (200, {"sandbox": "its first list has not come yet"})
    assert 'ddslogd_discovery_failed{cloud="sandbox"} 1.0' in metrics.text
    assert line == "1/1 instances fresh, no list of instances from sandbox"
    assert after.json["unlisted"] == {}


async def test_nodes_whose_exports_are_not_as_they_should_be_are_named(bed: Bed, clock: ManualClock) -> None:
    """At once, in readiness, status and page; 503 follows once the instance is stale."""
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with served(bed, page=page) as site:
        await bed.collect()
        clock.forward(minutes=20)
        bed.sandbox.faults.mangle = lambda _: {"list": [], "status": "FINISH"}
        await bed.collect()
        ready, one = await site.ask("/readyz"), await site.instance()
        overview, detail = await site.ask("/"), await site.ask("/instances/solo")
        clock.forward(minutes=25)
        stale = await site.ask("/readyz")

    (named,) = ready.json["nodes"]
    assert (ready.status, named["instance"], named["node"], named["log"], named["state"]) == (
        200,
        "solo",
        NODE,
        "error",
        "left out",
    )
    assert (one["node_states"][0]["node"], one["source_stalled"]) == (NODE, False)
    assert ("1 node left out" in overview.text, "Left out" in detail.text) == (True, True)
    assert (stale.status, stale.json["stale"][0]["turn"][:16]) == (503, "the cloud's: see")


async def test_one_failing_node_of_three_is_the_state_of_that_node(bed: Bed, clock: ManualClock) -> None:
    """Wherever nodes are shown; why the instance is stale names it, and that nothing else fails."""
    async with bed.cloud(fleet=(replica_set("solo"),)) as sandbox, served(bed, page=page) as site:
        bad, *good = (node.name for node in sandbox.fleet[0].nodes)
        for name in (bad, *good):
            sandbox.write(name, LINE + b"one\n")
        await bed.collect()
        clock.forward(minutes=41)
        sandbox.faults.failed_rows.add(bad)
        await bed.collect()
        one = (await site.ask("/api/v1/instances/solo")).json
        ready = (await site.ask("/readyz")).json
        overview, detail = await site.ask("/"), await site.ask("/instances/solo")
        line = one_line(await site.service.observer.status())

    nodes = {node["name"]: (node["state"], node["failure"] and node["failure"]["kind"]) for node in one["nodes"]}
    assert nodes == {bad: ("failing", "export_failed"), **dict.fromkeys(good, ("", None))}
    assert f"(target 40m): only node {bad} fails: " in one["why"]
    assert f"only node {bad} fails: " in line
    assert [(each["node"], each["state"]) for each in ready["nodes"]] == [(bad, "failing")]
    assert ("1 node failing" in overview.text, "1 node failing" in detail.text) == (True, True)
    assert re.findall(r"<dt>Export</dt><dd>(?:<strong class=.bad.>)?(\w+)", detail.text) == ["Failing", "Fine", "Fine"]


async def test_an_export_that_fails_as_a_whole_is_no_single_nodes_state(bed: Bed, clock: ManualClock) -> None:
    async with bed.cloud(fleet=(replica_set("solo"),)) as sandbox, served(bed, page=page) as site:
        for node in sandbox.fleet[0].nodes:
            sandbox.write(node.name, LINE + b"one\n")
        await bed.collect()
        clock.forward(minutes=20)
        sandbox.faults.api_errors = [ApiError(status=403, code="DBS.200047")] * 9
        await bed.collect()
        one, detail = (await site.ask("/api/v1/instances/solo")).json, await site.ask("/instances/solo")

    assert [(node["state"], node["failure"]) for node in one["nodes"]] == [("", None)] * 3
    assert (detail.text.count("Fails for all nodes"), "<dd>Fine" in detail.text) == (3, False)


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


async def test_status_and_page_name_the_host_as_it_is_called_now(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host gets its name by DHCP, which may be later than the daemon's start; none of it is markup."""
    async with served(bed, page=page) as site:
        monkeypatch.setattr("socket.gethostname", lambda: "collector-<7>")
        found, shown = (await site.ask("/api/v1/status")).json, await site.ask("/")

    assert (found["host"], "<bdi>collector-&lt;7&gt;</bdi>" in shown.text) == ("collector-<7>", True)


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
    assert 'ddslogd_instance_snapshots_total{dds_instance="solo",cloud="sandbox"} 1' in text


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


NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
IMAGE = {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
FRAME = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}


@pytest.mark.parametrize(
    ("site", "how", "path", "status"),
    [
        ("none", NAVIGATION, "/", 200),  # a bookmark, or an address that was typed
        ("same-origin", IMAGE, "/api/v1/status", 200),
        ("cross-site", NAVIGATION, "/", 200),  # a link in a chat, or in an alert
        ("cross-site", NAVIGATION, "/instances/solo", 200),
        ("same-site", NAVIGATION, "/instances/solo", 200),
        ("cross-site", FRAME, "/", 403),
        ("cross-site", IMAGE, "/", 403),
        ("cross-site", {}, "/", 403),
        ("cross-site", NAVIGATION, "/api/v1/status", 403),
        ("cross-site", IMAGE, "/metrics", 403),
        ("cross-site", {}, "/healthz", 403),
        ("same-site", IMAGE, "/static/ddslogd.svg", 403),  # another port of this host, which may be anybody's
    ],
)
async def test_other_sites_get_nothing_but_a_visitor(
    bed: Bed, site: str, how: dict[str, str], path: str, status: int
) -> None:
    await bed.collect()
    async with served(bed) as serving, aiohttp.ClientSession() as session:
        url = f"http://{serving.address[0]}:{serving.address[1]}{path}"
        async with session.get(url, headers={"Sec-Fetch-Site": site, **how}) as reply:
            found = reply.status, {name: reply.headers.get(name) for name in HEADERS}

    assert found == (status, HEADERS)
    assert HEADERS["Cross-Origin-Resource-Policy"] == "same-origin"


async def test_no_answer_holds_a_secret(bed: Bed) -> None:
    """Not even one that has come into an error's text; nor a link, of which a secret is a part."""
    secret, link = "hunter2-hunter2", "https://obs.example.com/f?Signature=abcdef&Expires=1"
    bed.redactor.add(secret)
    bed.sandbox.write(NODE, LINE + b"one\n")
    token = bed.sandbox.issue_token()
    report = CycleReport(
        instance="solo",
        started_at=START,
        finished_at=START,
        outcome=CycleOutcome.FAILED,
        error=f"it broke with {secret} at {link}",
        error_kind=FailureKind.UNAVAILABLE,
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

    def instance(self, status: Status, instance: InstanceStatus, query: Mapping[str, str]) -> str:
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

    app = application(Sources(status=source, metrics=measured), Paper())
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


async def test_nothing_listens_where_it_is_switched_off(bed: Bed) -> None:
    async with (
        bed.open() as service,
        listening(Web(enabled=False), service.observer, clean=str) as listener,
    ):
        assert (listener.address, listener.trouble) == (None, "")


# --- ddslogd status ---------------------------------------------------------------------------------------------------


def configured(bed: Bed, listen: str = "127.0.0.1:9", *, enabled: bool = True) -> Path:
    path = bed.directory.parent / "ddslogd.yaml"
    path.write_text(f"{bed.text}web: {{listen: '{listen}', enabled: {str(enabled).lower()}}}\n")
    return path


async def test_the_command_asks_the_daemon_that_runs(bed: Bed) -> None:
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with served(bed) as site:
        await bed.collect()
        ended = await ddslogd("status", "-c", configured(bed), "--json")
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


async def test_a_daemon_of_another_directory_is_not_believed(bed: Bed) -> None:
    await bed.collect()
    async with served(bed):
        settings = bed.settings
        moved = settings.model_copy(
            update={"storage": settings.storage.model_copy(update={"directory": bed.directory.parent})}
        )
        own = await asyncio.to_thread(status_client.status, settings, now=START)
        other = await asyncio.to_thread(status_client.status, moved, now=START)

    assert (own["started_at"] is None, other["started_at"]) == (False, None)


async def test_the_command_without_a_ledger_exits_74(bed: Bed) -> None:
    ended = await ddslogd("status", "-c", configured(bed))

    assert (ended.status, "the ledger cannot be read" in ended.err) == (74, True)


async def test_a_daemon_without_its_socket_is_not_taken_for_dead(bed: Bed) -> None:
    bed.sandbox.write(NODE, LINE + b"one\n")
    async with bed.open():
        await bed.collect()
        ended = await ddslogd("status", "-c", configured(bed))

    assert ended.out.splitlines()[0] == ("1 of 1 instance stale; read from the ledger, the daemon could not be asked")
