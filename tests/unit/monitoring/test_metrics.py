"""What Prometheus is told, by promtool's judgement; its alerts, and the dashboard that is drawn of it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ddslogd.huaweicloud.call_stats import CallStats
from ddslogd.model.cycle import CycleOutcome, CycleReport, Failed, FailedCall, Silent
from ddslogd.model.errors import CredentialsRefused, ForeignAnswer, Misdirected, NotAllowed, Throttled, Unavailable
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.instance import LogKind
from ddslogd.model.snapshot import LogFile, Unchanged
from ddslogd.monitoring import metrics
from ddslogd.monitoring.activity import Activity, Counts, LoopLag, Yield
from ddslogd.monitoring.freshness import Yardstick, judged
from ddslogd.monitoring.status import Configuration
from ddslogd.storage.ledger.status_queries import LedgerFacts
from support.clocks import START
from support.live_status import LIVE, MINUTE, ORDERS, ROOM, status_of
from support.markdown import anchors
from support.places import ROOT
from support.programs import needed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from support.clocks import ManualClock

SYSTEMD = ROOT / "systemd"
RULES = SYSTEMD / "ddslogd.rules.yml"
DASHBOARD = json.loads((SYSTEMD / "ddslogd-dashboard.json").read_text())
VARIABLES = {"host": "instance", "cloud": "cloud", "dds_instance": "dds_instance"}
"""Of the dashboard: which label each one chooses values of. The label ``instance`` is Prometheus' own."""
OPERATIONS = ROOT / "systemd/README.md"
ODD = 'o"d\\d\nname'
FILE = LogFile(instance="orders", log=LogKind.ERROR, node="n1", file_name="mongod.log", updated_at=START)


def brought() -> Yield:
    found = Yield(snapshots=3, stored_bytes=300, fetched_bytes=120, new_bytes=90)
    found.cycles.update({"ok": 7, "failed": 1})
    found.failures.update({FailureKind.UNAVAILABLE: 2})
    return found


def call_stats() -> CallStats:
    found = CallStats(throttled=2, renewed=4)
    found.calls.update({("export", "ok"): 11, ("list", "unavailable"): 1})
    return found


def counts_of(*names: str) -> Counts:
    return Counts(
        yields={name: brought() for name in names},
        call_stats={"eu": call_stats()},
        resumed=1,
        received=500,
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


def test_a_refused_reload_shows_beside_the_time_of_the_last_good_one() -> None:
    loaded_at = LIVE.started_at
    refused = replace(status_of("orders"), config=Configuration(loaded_at=loaded_at, refused="f.yaml:1:1: what"))
    found = samples(metrics.rendered(refused, counts_of("orders")))

    names = ("successful", "success_timestamp_seconds")
    assert [found[f"ddslogd_config_last_reload_{name}", ()] for name in names] == [0, loaded_at.timestamp()]


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
        ("config_last_reload_successful", {}, 1),
        ("config_last_reload_success_timestamp_seconds", {}, LIVE.started_at.timestamp()),
        ("disk_free_bytes", {}, 9),
        ("disk_size_bytes", {}, 10),
        ("disk_keep_free_bytes", {}, 1),
        ("parts", {}, 0),
        ("parts_bytes", {}, 0),
        ("transfers_running", {}, 1),
        ("transfers_resumed_total", {}, 1),
        ("transfer_bytes_total", {}, 500),
        ("api_calls_total", {"cloud": "eu", "call": "export", "outcome": "ok"}, 11),
        ("api_calls_total", {"cloud": "eu", "call": "list", "outcome": "unavailable"}, 1),
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
        (
            "instance_last_success_timestamp_seconds",
            {"dds_instance": "events", "cloud": "eu"},
            (START - 5 * MINUTE).timestamp(),
        ),
        (
            "instance_newest_line_timestamp_seconds",
            {"dds_instance": "events", "cloud": "eu"},
            (START - 6 * MINUTE).timestamp(),
        ),
        ("instance_target_seconds", {"dds_instance": "events", "cloud": "eu"}, 2400),
        ("instance_stale", {"dds_instance": "orders", "cloud": "eu"}, 1),
        ("instance_stale", {"dds_instance": "events", "cloud": "eu"}, 0),
        ("instance_silent", {"dds_instance": "events", "cloud": "eu"}, 0),
        ("instance_last_cycle_seconds", {"dds_instance": "events", "cloud": "eu"}, 60),
        ("instance_last_cycle_outcome", {"dds_instance": "orders", "cloud": "eu", "outcome": "failed"}, 1),
        ("instance_gaps_total", {"dds_instance": "orders", "cloud": "eu"}, 5),
        ("instance_gaps_24h", {"dds_instance": "orders", "cloud": "eu"}, 1),
        ("instance_gaps_total", {"dds_instance": "events", "cloud": "eu"}, 0),
        ("instance_snapshots_total", {"dds_instance": "orders", "cloud": "eu"}, 3),
        ("instance_snapshots_total", {"dds_instance": "events", "cloud": "eu"}, 0),
        ("instance_stored_bytes_total", {"dds_instance": "orders", "cloud": "eu"}, 300),
        ("instance_fetched_bytes_total", {"dds_instance": "orders", "cloud": "eu"}, 120),
        ("instance_new_stream_bytes_total", {"dds_instance": "orders", "cloud": "eu"}, 90),
        ("instance_cycles_total", {"dds_instance": "orders", "cloud": "eu", "outcome": "ok"}, 7),
        ("instance_failures_total", {"dds_instance": "orders", "cloud": "eu", "kind": "unavailable"}, 2),
        ("instance_stale", {"dds_instance": ODD, "cloud": "eu"}, 0),
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
    found = judged(
        fleet, LedgerFacts(), LIVE, ROOM, now=START, yardstick=Yardstick(factor=2, fresh_for=MINUTE), version="1"
    )

    text = metrics.rendered(found, counts_of())
    assert [
        name for name, _ in samples(text) if "instance_" in name and ("timestamp" in name or "last_cycle" in name)
    ] == []


def test_the_process_is_measured_as_every_client_of_prometheus_does() -> None:
    names = {name for name, _ in samples(page())}

    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"} <= names


def test_a_thousand_instances_have_no_sample_too_many() -> None:
    names = [f"instance-{number}" for number in range(1000)]

    text = metrics.rendered(status_of(*names), counts_of(*names))

    assert sum(b"dds_instance=" in line for line in text.splitlines()) == 1000 * 19


# --- alerts and dashboard ---------------------------------------------------------------------------------------------


def test_each_alert_comes_when_it_should_and_not_before(tmp_path: Path) -> None:
    promtool = needed("promtool", "install Debian's prometheus")
    tests = tmp_path / "rules.test.yml"
    text = (ROOT / "tests" / "rules.test.yml").read_text()
    tests.write_text(text.replace("[RULES]", f"[{RULES}]"))

    told = subprocess.run([promtool, "test", "rules", tests], capture_output=True, text=True, check=False)

    assert told.returncode == 0, told.stdout + told.stderr
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert alerts == set(re.findall(r"alertname: (\w+)", text))


def test_each_alert_leads_to_a_section_of_a_text_that_the_package_installs() -> None:
    contents = yaml.safe_load((SYSTEMD / "deb/nfpm.yaml").read_text())["contents"]
    sources = {f"file://{entry['dst']}": entry.get("src") for entry in contents}
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]

    assert rules
    for rule in rules:
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert anchor in anchors((SYSTEMD.parent / sources[page]).read_text()), rule["alert"]


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


def variables() -> dict[str, Any]:
    """Return those of the dashboard's variables that ask Prometheus for their values."""
    return {one["name"]: one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"}


def queries() -> list[str]:
    """Return all that the dashboard asks: for panels, annotations and variables."""
    return [*expressions(DASHBOARD), *(one["query"]["query"] for one in variables().values())]


def selectors(query: str) -> list[tuple[str, dict[str, str]]]:
    """Return each metric that a query names, with the operator and value that it demands of each label."""
    found = re.findall(r"(ddslogd_\w+)(?:\{(.*?)\})?", query)
    return [(name, dict(re.findall(r'(\w+)([=!~]+"[^"]*")', matchers))) for name, matchers in found]


@cache
def known_samples() -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    return tuple(samples(page()))


def known_labels(name: str) -> set[str]:
    """Return the labels that a metric has once it is scraped."""
    own = [labels for sample, labels in known_samples() if sample == name]
    return {key for labels in own for key, _ in labels} | {"instance", "job"}


def chosen(query: str, **values: str) -> str:
    """Return a query as Grafana sends it: of the variables that are not given, all values are chosen."""
    asked = query.replace("$__interval", "1m")
    for name, one in variables().items():
        asked = asked.replace(f'"${name}"', f'"{values.get(name, one["allValue"])}"')
    return asked


def test_rules_and_dashboard_speak_of_metrics_that_exist() -> None:
    drawn = metric_names(" ".join(queries()))

    assert drawn
    assert (metric_names(RULES.read_text()) | drawn) - known_names() == set()


def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    promtool = needed("promtool", "install Debian's prometheus")
    rules = [{"record": f"query:{at}", "expr": chosen(query)} for at, query in enumerate(expressions(DASHBOARD))]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    told = subprocess.run(
        [promtool, "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True, check=False
    )

    assert (told.returncode, f"{len(rules)} rules found" in told.stdout) == (0, True), told.stdout + told.stderr


@pytest.mark.parametrize("query", queries())
def test_the_dashboard_asks_for_labels_that_its_metrics_have(query: str) -> None:
    asked = selectors(query)
    named = {label for group in re.findall(r"by \((.*?)\)", query) for label in group.split(", ")}
    named |= set(re.findall(r", (\w+)\)$", query) if query.startswith("label_values(") else ())

    assert asked
    for name, matchers in asked:
        assert named | set(matchers) <= known_labels(name), name


def test_what_the_dashboard_writes_beside_its_lines_are_labels_that_these_have() -> None:
    """A legend, or the words of an annotation. What is summed up has the labels that it is summed by."""
    drawn = [one for panel in DASHBOARD["panels"] for one in panel["targets"]] + DASHBOARD["annotations"]["list"]

    for one in drawn:
        texts = " ".join(one.get(key, "") for key in ("legendFormat", "titleFormat", "textFormat"))
        tags = re.findall(r"\w+", one.get("tagKeys", ""))
        grouped = re.search(r"by \((.*?)\)", one["expr"])
        has = set(grouped[1].split(", ")) if grouped else known_labels(selectors(one["expr"])[0][0])
        assert {*re.findall(r"\{\{(\w+)\}\}", texts), *tags} <= has, one["expr"]


@pytest.mark.parametrize("query", expressions(DASHBOARD))
def test_every_query_of_the_dashboard_heeds_each_variable_whose_label_its_metrics_have(query: str) -> None:
    for name, matchers in selectors(query):
        expected = {label: f'=~"${one}"' for one, label in VARIABLES.items() if label in known_labels(name)}
        assert expected.items() <= matchers.items(), name
        assert "$" not in chosen(query), query


def test_hosts_clouds_and_instances_can_be_chosen_each_among_those_of_the_ones_before() -> None:
    found = variables()

    assert list(found) == list(VARIABLES)
    for at, (name, label) in enumerate(VARIABLES.items()):
        one = found[name]
        asked = one["query"]["query"]
        before = {VARIABLES[other]: f'=~"${other}"' for other in list(VARIABLES)[:at]}
        assert (one["multi"], one["includeAll"], one["allValue"], one["definition"]) == (True, True, ".*", asked)
        assert re.fullmatch(rf"label_values\(.*, {label}\)", asked), asked
        assert [matchers for _, matchers in selectors(asked)] == [before]


def evaluated(directory: Path, series: dict[str, str], expected: Iterable[tuple[int, str, dict[str, int]]]) -> str:
    """Return what promtool finds wrong with what queries are expected to find, each after so many minutes."""
    promtool = needed("promtool", "install Debian's prometheus")
    asked = [
        {
            "expr": query,
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": name, "value": number} for name, number in found.items()],
        }
        for minute, query, found in expected
    ]
    given = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": given, "promql_expr_test": asked}
    path = directory / "test.yml"
    path.write_text(json.dumps({"evaluation_interval": "1m", "tests": [test]}))
    told = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
    return "" if told.returncode == 0 else told.stdout + told.stderr


def test_a_gap_is_annotated_once_when_it_is_noticed_also_by_a_daemon_that_was_down(tmp_path: Path) -> None:
    """Neither what an instance brings along when it comes, nor what a ledger that was put back no longer knows."""
    (annotation,) = DASHBOARD["annotations"]["list"]
    query = chosen(annotation["expr"], host="a:9464")

    def gaps(name: str, host: str = "a:9464") -> str:
        return f'ddslogd_instance_gaps_total{{instance="{host}", cloud="eu", dds_instance="{name}"}}'

    series = {
        gaps("orders"): "2x10 3x150",
        gaps("events"): "0x10 _x120 1x30",
        gaps("moved here"): "_x10 5x150",
        gaps("put back"): "3x10 2x150",
        gaps("quiet"): "7x160",
        gaps("orders", "b:9464"): "2x10 3x150",
    }
    found = {10: {}, 11: {gaps("orders"): 3}, 12: {}, 130: {}, 131: {gaps("events"): 1}, 132: {}}
    assert evaluated(tmp_path, series, [(minute, query, rose) for minute, rose in found.items()]) == ""


def test_annotations_are_shown_by_each_version_of_grafana() -> None:
    """Later ones read the target, older ones what stands next to it."""
    (annotation,) = DASHBOARD["annotations"]["list"]
    target = annotation["target"]

    assert annotation["enable"]
    assert (target["expr"], target["interval"]) == (annotation["expr"], annotation["step"])


def test_the_instances_of_the_chosen_cloud_are_either_stale_or_not(tmp_path: Path) -> None:
    panels = {panel["title"]: panel["targets"][0]["expr"] for panel in DASHBOARD["panels"]}
    series = {
        f'ddslogd_instance_stale{{instance="a:9464", cloud="{cloud}", dds_instance="{name}"}}': stale
        for name, cloud, stale in (("1", "eu", "1"), ("2", "eu", "0"), ("3", "eu", "0"), ("4", "otc", "1"))
    }
    expected = [(0, chosen(panels[title], cloud="eu"), {"{}": n}) for title, n in (("Stale", 1), ("Fresh or new", 2))]

    assert evaluated(tmp_path, series, expected) == ""


def test_every_panel_of_the_dashboard_has_a_place_of_its_own() -> None:
    panels = DASHBOARD["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(cells) == len(set(cells))
    assert len(panels) == len({panel["id"] for panel in panels})


def test_every_metric_and_alert_is_in_the_operations_manual() -> None:
    text = OPERATIONS.read_text()
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())

    names = [name for name in sorted(known_names()) if not name.startswith("process_")]  # one line for all of them
    assert [name for name in [*names, *alerts] if f"`{name}`" not in text] == []


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


def test_failures_are_counted_by_kind_and_no_failed_call_twice(clock: ManualClock) -> None:
    activity = Activity(clock, Silent())
    failed = Failed(node="n1", file_name="f", reason="cut", kind=FailureKind.INTERRUPTED)
    call = FailedCall(log=LogKind.ERROR, reason="no reply", kind=FailureKind.UNAVAILABLE)
    for keywords in ({"outcomes": [failed, failed]}, {"failed_calls": [call], "error": "no reply"}, {"error": "slow"}):
        report = CycleReport(
            instance="orders",
            started_at=START,
            finished_at=START,
            outcome=CycleOutcome.FAILED,
            error_kind=FailureKind.TIMEOUT if keywords.get("error") == "slow" else None,
            **keywords,
        )
        activity.cycled(report)

    assert activity.yields["orders"].failures == {"interrupted": 2, "unavailable": 1, "timeout": 1}
    assert activity.yields["orders"].cycles == {"failed": 3}


@pytest.mark.parametrize(
    ("error", "credentials"),
    [
        (lambda: None, "ok"),
        (lambda: NotAllowed("no"), "ok"),
        (lambda: CredentialsRefused("no"), "refused"),
        (lambda: Unavailable("nobody"), "untried"),
        (lambda: Throttled("slow"), "untried"),
        (lambda: ForeignAnswer("a proxy"), "untried"),
        (lambda: Misdirected("elsewhere"), "untried"),
    ],
    ids=["ok", "not allowed", "refused", "unavailable", "throttled", "foreign", "misdirected"],
)
def test_how_a_call_ends_tells_of_the_credentials(error: Callable[[], Any], credentials: str) -> None:
    found = CallStats()
    found.ended(error())

    assert found.credentials == credentials


def test_a_call_is_counted_as_ok_or_under_the_kind_of_its_error() -> None:
    found = CallStats()
    for error in (None, NotAllowed("no"), Throttled("slow"), Throttled("slow")):
        found.answered("export", error)

    assert found.calls == {("export", "ok"): 1, ("export", "not_allowed"): 1, ("export", "throttled"): 2}


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
