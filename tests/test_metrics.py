"""What Prometheus is told, by promtool's judgement; its alerts, and the dashboard that is drawn of it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import START
from ddslogd.cloud.tally import Tally
from ddslogd.errors import CredentialsRefused, NotAllowed, Throttled, Unavailable
from ddslogd.models import CycleOutcome, CycleReport, Failed, FailedCall, LogFile, LogKind, Unchanged
from ddslogd.operate import metrics
from ddslogd.operate.activity import Activity, Counts, LoopLag, Yield
from ddslogd.operate.progress import Silent
from ddslogd.operate.status import Status, Transfer, Yardstick, judged
from ddslogd.storage.standing import Books
from test_status import EU, GOOD, LIVE, MINUTE, ORDERS, ROOM, failing
from test_unit import needed

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import ManualClock

SYSTEMD = Path(__file__).parents[1] / "systemd"
README = Path(__file__).parents[1] / "README.md"
ODD = 'o"d\\d\nname'
FILE = LogFile(instance="orders", log=LogKind.ERROR, node="n1", file_name="mongod.log", updated_at=START)
RUNNING = Transfer(
    instance="orders",
    node="n1",
    log="error",
    file="f",
    done=5,
    total=9,
    began_at=START,
    resumed=True,
    bytes_per_second=2.5,
)


def brought() -> Yield:
    found = Yield(snapshots=3, stored_bytes=300, fetched_bytes=120, new_bytes=90)
    found.cycles.update({"ok": 7, "failed": 1})
    found.failures.update({"Unavailable": 2})
    return found


def tally() -> Tally:
    found = Tally(throttled=2, renewed=4)
    found.calls.update({("export", "ok"): 11, ("list", "Unavailable"): 1})
    return found


def status_of(*names: str) -> Status:
    """Give a status in which the first instance is stale, and all else is fresh."""
    fleet = [replace(ORDERS, name=name) for name in names]
    stale = replace(GOOD, good_at=START - 90 * MINUTE, outcome="failed")
    books = Books(
        standings=dict.fromkeys(names, GOOD) | {names[0]: stale},
        failures={names[0]: (failing("Unavailable"),)},
        gaps={names[0]: 3},
    )
    live = replace(LIVE, transfers=(RUNNING,), clouds=(EU, replace(EU, name="otc", credentials="refused")))
    yardstick = Yardstick(factor=2, fresh_for=15 * MINUTE)
    return judged(fleet, books, live, ROOM, now=START, yardstick=yardstick, version="1.2.3")


def counts_of(*names: str) -> Counts:
    return Counts(
        yields={name: brought() for name in names},
        tallies={"eu": tally()},
        resumed=1,
        received=500,
        bytes_per_second=2.5,
    )


def page() -> bytes:
    return metrics.rendered(status_of("orders", "events", ODD), counts_of("orders", ODD))


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read the text as Prometheus' own library does."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(name: str, **labels: str) -> float:
    return samples(page())[f"ddslogd_{name}", tuple(sorted(labels.items()))]


def test_promtool_has_nothing_to_say() -> None:
    """Neither of the form nor of names, units and types."""
    promtool = needed("promtool", "install Debian's prometheus")

    told = subprocess.run([promtool, "check", "metrics"], input=page(), capture_output=True, check=False)

    assert (told.returncode, told.stdout + told.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("build_info", {"version": "1.2.3"}, 1),
        ("start_time_seconds", {}, LIVE.started_at.timestamp()),
        ("instances", {"state": "stale"}, 1),
        ("instances", {"state": "fresh"}, 2),
        ("instances", {"state": "new"}, 0),
        ("loop_lag_seconds", {}, 0.001),
        ("disk_free_bytes", {}, 9),
        ("disk_size_bytes", {}, 10),
        ("disk_keep_free_bytes", {}, 1),
        ("parts", {}, 0),
        ("parts_bytes", {}, 0),
        ("transfers_running", {}, 1),
        ("transfers_resumed_total", {}, 1),
        ("transfer_bytes_total", {}, 500),
        ("transfer_bytes_per_second", {}, 2.5),
        ("api_calls_total", {"cloud": "eu", "call": "export", "outcome": "ok"}, 11),
        ("api_calls_total", {"cloud": "eu", "call": "list", "outcome": "Unavailable"}, 1),
        ("api_throttled_total", {"cloud": "eu"}, 2),
        ("links_renewed_total", {"cloud": "eu"}, 4),
        ("api_calls_limit", {"cloud": "eu"}, 60),
        ("api_calls_left", {"cloud": "eu"}, 6),
        ("api_calls_waiting", {"cloud": "eu"}, 0),
        ("api_paused", {"cloud": "eu"}, 0),
        ("cloud_reachable", {"cloud": "eu"}, 1),
        ("credentials_refused", {"cloud": "eu"}, 0),
        ("credentials_refused", {"cloud": "otc"}, 1),
        ("discovery_failed", {"cloud": "eu"}, 0),
        ("instance_last_success_timestamp_seconds", {"dds_instance": "events"}, (START - 5 * MINUTE).timestamp()),
        ("instance_newest_line_timestamp_seconds", {"dds_instance": "events"}, (START - 6 * MINUTE).timestamp()),
        ("instance_target_seconds", {"dds_instance": "events"}, 2400),
        ("instance_stale", {"dds_instance": "orders"}, 1),
        ("instance_stale", {"dds_instance": "events"}, 0),
        ("instance_silent", {"dds_instance": "events"}, 0),
        ("instance_last_cycle_seconds", {"dds_instance": "events"}, 60),
        ("instance_last_cycle_outcome", {"dds_instance": "orders", "outcome": "failed"}, 1),
        ("instance_gaps_total", {"dds_instance": "orders"}, 3),
        ("instance_gaps_total", {"dds_instance": "events"}, 0),
        ("instance_snapshots_total", {"dds_instance": "orders"}, 3),
        ("instance_snapshots_total", {"dds_instance": "events"}, 0),
        ("instance_stored_bytes_total", {"dds_instance": "orders"}, 300),
        ("instance_fetched_bytes_total", {"dds_instance": "orders"}, 120),
        ("instance_new_stream_bytes_total", {"dds_instance": "orders"}, 90),
        ("instance_cycles_total", {"dds_instance": "orders", "outcome": "ok"}, 7),
        ("instance_failures_total", {"dds_instance": "orders", "kind": "Unavailable"}, 2),
        ("instance_stale", {"dds_instance": ODD}, 0),
    ],
)
def test_a_sample_says_what_is(name: str, labels: dict[str, str], expected: float) -> None:
    assert value(name, **labels) == expected


def test_no_sample_stands_twice_and_each_family_has_its_head_once() -> None:
    lines = page().decode().splitlines()
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]

    assert (len(names), len(series)) == (len(set(names)), len(set(series)))


def test_what_is_not_known_has_no_sample() -> None:
    """Nothing is 1970."""
    fleet = [ORDERS]
    found = judged(fleet, Books(), LIVE, ROOM, now=START, yardstick=Yardstick(factor=2, fresh_for=MINUTE), version="1")

    text = metrics.rendered(found, counts_of())
    assert [name for name, _ in samples(text) if "timestamp" in name or "last_cycle" in name] == []


def test_a_thousand_instances_are_rendered_in_a_moment() -> None:
    """The README says how long: it is a tenth of this bound. What is counted is exact: no sample too many."""
    names = [f"instance-{number}" for number in range(1000)]
    status, counts = status_of(*names), counts_of(*names)

    began = perf_counter()
    text = metrics.rendered(status, counts)
    took_s = perf_counter() - began

    of_instances = sum(b"dds_instance=" in line for line in text.splitlines())
    assert of_instances == 1000 * 15
    assert took_s < 0.5


# --- alerts and dashboard ---------------------------------------------------------------------------------------------


def test_each_alert_comes_when_it_should_and_not_before(tmp_path: Path) -> None:
    promtool = needed("promtool", "install Debian's prometheus")
    tests = tmp_path / "rules.test.yml"
    text = Path(__file__).with_name("rules.test.yml").read_text()
    tests.write_text(text.replace("[RULES]", f"[{SYSTEMD / 'ddslogd.rules.yml'}]"))

    told = subprocess.run([promtool, "test", "rules", tests], capture_output=True, text=True, check=False)

    assert told.returncode == 0, told.stdout + told.stderr
    alerts = set(re.findall(r"- alert: (\w+)", (SYSTEMD / "ddslogd.rules.yml").read_text()))
    assert alerts == set(re.findall(r"alertname: (\w+)", text))


def metric_names(text: str) -> set[str]:
    return set(re.findall(r"\bddslogd_\w+", text))


def known_names() -> set[str]:
    return {line.split()[2] for line in page().decode().splitlines() if line.startswith("# TYPE")}


def expressions(found: Any) -> list[str]:
    match found:
        case dict():
            own = [found["expr"]] if "expr" in found else []
            return own + [one for each in found.values() for one in expressions(each)]
        case list():
            return [one for each in found for one in expressions(each)]
        case _:
            return []


def test_rules_and_dashboard_speak_of_metrics_that_exist() -> None:
    dashboard = json.loads((SYSTEMD / "ddslogd-dashboard.json").read_text())
    rules = (SYSTEMD / "ddslogd.rules.yml").read_text()
    drawn = metric_names(" ".join(expressions(dashboard)))

    assert drawn
    assert (metric_names(rules) | drawn) - known_names() == set()


def test_every_panel_of_the_dashboard_has_a_place_of_its_own() -> None:
    panels = json.loads((SYSTEMD / "ddslogd-dashboard.json").read_text())["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(cells) == len(set(cells))
    assert len(panels) == len({panel["id"] for panel in panels})


def test_every_metric_and_alert_stands_in_the_readme() -> None:
    text = README.read_text()
    alerts = re.findall(r"- alert: (\w+)", (SYSTEMD / "ddslogd.rules.yml").read_text())

    assert [name for name in sorted(known_names()) + alerts if f"`{name}`" not in text] == []


# --- what is counted --------------------------------------------------------------------------------------------------


def test_a_transfer_is_seen_while_it_runs(clock: ManualClock) -> None:
    activity = Activity(clock, Silent())
    activity.began(FILE, 100, 0, resumed=False)
    activity.advanced(FILE, 40)
    clock.forward(seconds=4)
    (running,) = activity.transfers()
    activity.ended(FILE, Unchanged(file=FILE))

    assert (running.done, running.total, running.resumed, running.bytes_per_second) == (40, 100, False, 10.0)
    assert activity.transfers() == ()


def test_a_resumed_transfer_counts_what_came_and_shows_what_is_there(clock: ManualClock) -> None:
    activity = Activity(clock, Silent())
    activity.began(FILE, 100, 60, resumed=True)
    activity.advanced(FILE, 10)
    clock.forward(seconds=1)
    (running,) = activity.transfers()

    assert (running.done, running.resumed, running.bytes_per_second) == (70, True, 10.0)
    assert (activity.resumed, activity.received) == (1, 10)


def test_a_transfer_that_begins_again_from_zero_shows_zero(clock: ManualClock) -> None:
    activity = Activity(clock, Silent())
    activity.began(FILE, 100, 0, resumed=False)
    activity.advanced(FILE, 40)
    activity.began(FILE, 100, 0, resumed=False)

    assert (activity.transfers()[0].done, activity.resumed) == (0, 0)


def test_what_was_broken_off_does_not_run_for_ever(clock: ManualClock) -> None:
    activity = Activity(clock, Silent())
    activity.began(FILE, 100, 0, resumed=False)
    activity.over("events")
    others = len(activity.transfers())
    activity.over("orders")

    assert (others, activity.transfers()) == (1, ())


def test_the_rate_is_the_mean_of_the_last_ten_seconds(clock: ManualClock) -> None:
    """The one that has begun is not over, and would make a rate of what came in a part of it."""
    activity = Activity(clock, Silent())
    activity.advanced(FILE, 100)
    begun = activity.bytes_per_second()
    for _ in range(4):
        clock.forward(seconds=1)
        activity.advanced(FILE, 100)
    clock.forward(seconds=1)
    busy = activity.bytes_per_second()
    clock.forward(seconds=8)
    later = activity.bytes_per_second()
    clock.forward(seconds=10)

    assert (begun, busy, later, activity.bytes_per_second()) == (0.0, 50.0, 20.0, 0.0)


def test_failures_are_counted_by_kind_and_no_failed_call_twice(clock: ManualClock) -> None:
    activity = Activity(clock, Silent())
    failed = Failed(node="n1", file_name="f", reason="cut", kind="Interrupted")
    call = FailedCall(log=LogKind.ERROR, reason="no reply", kind="Unavailable")
    for keywords in ({"outcomes": [failed, failed]}, {"failed_calls": [call], "error": "no reply"}, {"error": "slow"}):
        report = CycleReport(
            instance="orders",
            started_at=START,
            finished_at=START,
            outcome=CycleOutcome.FAILED,
            error_kind="Timeout" if keywords.get("error") == "slow" else "",
            **keywords,
        )
        activity.cycled(report)

    assert activity.yields["orders"].failures == {"Interrupted": 2, "Unavailable": 1, "Timeout": 1}
    assert activity.yields["orders"].cycles == {"failed": 3}


@pytest.mark.parametrize(
    ("error", "credentials"),
    [
        (lambda: None, "ok"),
        (lambda: NotAllowed("no"), "ok"),
        (lambda: CredentialsRefused("no"), "refused"),
        (lambda: Unavailable("nobody"), "untried"),
        (lambda: Throttled("slow"), "untried"),
    ],
    ids=["ok", "not allowed", "refused", "unavailable", "throttled"],
)
def test_how_a_call_ends_tells_of_the_credentials(error: Callable[[], Any], credentials: str) -> None:
    found = Tally()
    found.ended(error())

    assert found.credentials == credentials


async def test_the_loops_lag_is_the_worst_of_the_last_15_probes() -> None:
    """Before the first probe nothing is known; what came early is no lag."""
    now, lags, seen = [0.0], iter([0.5, 2.0, 0.25, -0.5, *[0.0] * 11, 0.125]), []

    async def sleep(seconds: float) -> None:
        seen.append(lag.seconds)
        late = next(lags, None)
        if late is None:
            raise asyncio.CancelledError
        now[0] += seconds + late

    lag = LoopLag(sleep=sleep, steady=lambda: now[0])
    with suppress(asyncio.CancelledError):
        await lag.probe()

    assert seen == [None, 0.5, *[2.0] * 15]
    assert lag.seconds == 2.0
