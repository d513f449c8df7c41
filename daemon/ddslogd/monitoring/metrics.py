"""What Prometheus is told: a page of text, made of a status and of what has been counted. Knows no loop and no clock.

Families that have a sample for each instance are written here, not by the library: a thousand instances would take it
twice as long as a scrape may.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from ddslogd.model.cycle import NodeState
from ddslogd.monitoring.activity import Yield
from ddslogd.monitoring.status import InstanceStatus, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from prometheus_client.core import Metric

    from ddslogd.monitoring.activity import Counts
    from ddslogd.monitoring.status import CloudStatus, Status

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
LABEL: Final = "dds_instance"
"""Not ``instance``: that is what Prometheus calls the daemon."""

_NOTHING: Final = Yield()
_CYCLES: Final = ("ddslogd_instance_cycles_total", "outcome", "Cycles, by how they ended.")
_FAILURES: Final = ("ddslogd_instance_failures_total", "kind", "Failures, by kind of error.")


def rendered(status: Status, counts: Counts) -> bytes:
    """Return the page. Blocks: a thousand instances take some 20 milliseconds."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Whole(status, counts))
    ProcessCollector(registry=registry)
    return generate_latest(registry) + "".join(_of_instances(status, counts)).encode()


class _Whole(Collector):
    """What there is once, or once a cloud."""

    def __init__(self, status: Status, counts: Counts) -> None:
        self._status = status
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("ddslogd_build", "The ddslogd that runs.", value={"version": self._status.version})
        yield from self._daemon()
        yield from self._disk()
        yield from self._transfers()
        yield from self._clouds()

    def _daemon(self) -> Iterator[Metric]:
        status = self._status
        states = GaugeMetricFamily("ddslogd_instances", "Instances, by how their logs are.", labels=["state"])
        for state, number in ((State.FRESH, status.fresh), (State.STALE, status.stale), (State.NEW, status.new)):
            states.add_metric([state.value], number)
        yield states
        if status.started_at is not None:
            text = "When the daemon started, in seconds since 1970."
            yield GaugeMetricFamily("ddslogd_start_time_seconds", text, status.started_at.timestamp())
        if status.config is not None:
            text = "0 where the last reload of the configuration was refused, and the one before it counts."
            yield GaugeMetricFamily("ddslogd_config_last_reload_successful", text, not status.config.refused)
            text = "When the configuration that counts was read, in seconds since 1970."
            loaded_at = status.config.loaded_at.timestamp()
            yield GaugeMetricFamily("ddslogd_config_last_reload_success_timestamp_seconds", text, loaded_at)
        if status.loop_lag_s is not None:
            text = "How late the daemon's loop is, the worst of the last 15 seconds."
            yield GaugeMetricFamily("ddslogd_loop_lag_seconds", text, status.loop_lag_s)

    def _disk(self) -> Iterator[Metric]:
        disk = self._status.disk
        yield GaugeMetricFamily("ddslogd_disk_free_bytes", "Free room where logs are stored.", disk.free)
        yield GaugeMetricFamily("ddslogd_disk_size_bytes", "Size of the file system where logs are stored.", disk.total)
        text = "Below this much free room nothing is requested (storage.keep_free)."
        yield GaugeMetricFamily("ddslogd_disk_keep_free_bytes", text, disk.keep_free)
        yield GaugeMetricFamily("ddslogd_parts", "Files on disk that are not whole yet.", disk.parts)
        yield GaugeMetricFamily("ddslogd_parts_bytes", "Bytes of files that are not whole yet.", disk.parts_bytes)

    def _transfers(self) -> Iterator[Metric]:
        counts = self._counts
        yield GaugeMetricFamily("ddslogd_transfers_running", "Files on their way.", len(self._status.transfers))
        text = "Transfers that went on with what an earlier request had left."
        yield CounterMetricFamily("ddslogd_transfers_resumed", text, counts.resumed)
        yield CounterMetricFamily("ddslogd_transfer_bytes", "Bytes that transfers received.", counts.received)

    def _clouds(self) -> Iterator[Metric]:
        for name, text, value in _OF_CLOUDS:
            family = GaugeMetricFamily(name, text, labels=["cloud"])
            for cloud in self._status.clouds:
                family.add_metric([cloud.name], value(cloud))
            yield family
        text = "API calls, retries included, by call and by outcome: ok, or the kind of error."
        calls = CounterMetricFamily("ddslogd_api_calls", text, labels=["cloud", "call", "outcome"])
        text = "How often the cloud said that there are too many calls."
        throttled = CounterMetricFamily("ddslogd_api_throttled", text, labels=["cloud"])
        text = "Links to files that were replaced by younger ones."
        renewed = CounterMetricFamily("ddslogd_links_renewed", text, labels=["cloud"])
        for name, call_stats in self._counts.call_stats.items():
            for (call, outcome), number in list(call_stats.calls.items()):
                calls.add_metric([name, call, outcome], number)
            throttled.add_metric([name], call_stats.throttled)
            renewed.add_metric([name], call_stats.renewed)
        yield from (calls, throttled, renewed)


_OF_CLOUDS: Final[tuple[tuple[str, str, Callable[[CloudStatus], float]], ...]] = (
    ("ddslogd_api_calls_limit", "Calls a minute that the account has.", lambda cloud: cloud.calls_per_minute),
    ("ddslogd_api_calls_left", "Calls that may be made now.", lambda cloud: cloud.left),
    ("ddslogd_api_calls_waiting", "Calls that wait for their turn.", lambda cloud: cloud.waiting),
    (
        "ddslogd_api_paused",
        "1 while nothing is called since the cloud asked for it.",
        lambda cloud: cloud.paused_until is not None,
    ),
    ("ddslogd_cloud_reachable", "0 while the cloud gives no answer.", lambda cloud: cloud.reachable),
    (
        "ddslogd_credentials_refused",
        "1 while the cloud does not accept the credentials.",
        lambda cloud: cloud.credentials == "refused",
    ),
    (
        "ddslogd_discovery_failed",
        "1 while the list of instances is needed and has not come, or could not be had.",
        lambda cloud: bool(cloud.unlisted),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """A family that has a sample for each instance, or none of it where the value is None."""

    name: str
    type: str
    text: str
    value: Callable[[InstanceStatus, Yield], float | None]

    def lines(self, instances: Iterable[tuple[str, InstanceStatus, Yield]]) -> Iterator[str]:
        yield _head(self.name, self.type, self.text)
        name, value_of = self.name, self.value
        for label, instance, brought in instances:
            value = value_of(instance, brought)
            if value is not None:
                yield f"{name}{{{label}}} {value}\n"


_OF_INSTANCES: Final = (
    _Family(
        name="ddslogd_instance_last_success_timestamp_seconds",
        type="gauge",
        text="When the last good cycle ended, in seconds since 1970.",
        value=lambda one, _: _seconds(one.last_success),
    ),
    _Family(
        name="ddslogd_instance_newest_line_timestamp_seconds",
        type="gauge",
        text="The newest time in the logs on disk, in seconds since 1970.",
        value=lambda one, _: _seconds(one.newest_line),
    ),
    _Family(
        name="ddslogd_instance_target_seconds",
        type="gauge",
        text="It is stale once its last good cycle ended longer ago.",
        value=lambda one, _: one.target_s,
    ),
    _Family(
        name="ddslogd_instance_stale",
        type="gauge",
        text="1 while it is stale.",
        value=lambda one, _: int(one.state is State.STALE),
    ),
    _Family(
        name="ddslogd_instance_silent",
        type="gauge",
        text="1 while its exports are fine and bring no new line.",
        value=lambda one, _: int(one.silent),
    ),
    _Family(
        name="ddslogd_instance_source_stalled",
        type="gauge",
        text="Logs of nodes of which the cloud makes no new export.",
        value=lambda one, _: one.counted(NodeState.STALLED) if one.node_states else 0,
    ),
    _Family(
        name="ddslogd_instance_nodes_left_out",
        type="gauge",
        text="Logs of nodes that had a file before and that the last export leaves out.",
        value=lambda one, _: one.counted(NodeState.LEFT_OUT) if one.node_states else 0,
    ),
    _Family(
        name="ddslogd_instance_nodes_no_longer_exported",
        type="gauge",
        text="Logs of nodes that exports have left out for a day, and of which no list tells.",
        value=lambda one, _: one.counted(NodeState.NO_LONGER_EXPORTED) if one.node_states else 0,
    ),
    _Family(
        name="ddslogd_instance_last_cycle_seconds",
        type="gauge",
        text="How long the last cycle took.",
        value=lambda one, _: one.last_cycle.took_s if one.last_cycle else None,
    ),
    _Family(
        name="ddslogd_instance_gaps_total",
        type="counter",
        text="Places where lines are missing from streams, that were ever noticed.",
        value=lambda one, _: one.gaps_total,
    ),
    _Family(
        name="ddslogd_instance_gaps_24h",
        type="gauge",
        text="Of these, those that were noticed within the last 24 hours.",
        value=lambda one, _: one.gaps_24h,
    ),
    _Family(
        name="ddslogd_instance_snapshots_total",
        type="counter",
        text="Files that were stored.",
        value=lambda _, brought: brought.snapshots,
    ),
    _Family(
        name="ddslogd_instance_stored_bytes_total",
        type="counter",
        text="Sizes of the files that were stored.",
        value=lambda _, brought: brought.stored_bytes,
    ),
    _Family(
        name="ddslogd_instance_fetched_bytes_total",
        type="counter",
        text="Bytes of files that crossed the wire.",
        value=lambda _, brought: brought.fetched_bytes,
    ),
    _Family(
        name="ddslogd_instance_new_stream_bytes_total",
        type="counter",
        text="Bytes that were new in streams.",
        value=lambda _, brought: brought.new_bytes,
    ),
)


def _of_instances(status: Status, counts: Counts) -> Iterator[str]:
    rows = [(_labels(one), one, counts.yields.get(one.name, _NOTHING)) for one in status.instances]
    for family in _OF_INSTANCES:
        yield from family.lines(rows)
    name = "ddslogd_instance_last_cycle_outcome"
    yield _head(name, "gauge", "1 for how the last cycle ended.")
    for label, one, _ in rows:
        if one.last_cycle is not None:
            yield f'{name}{{{label},outcome="{one.last_cycle.outcome}"}} 1\n'
    yield from _by_word(_CYCLES, rows, [tuple(brought.cycles.items()) for *_, brought in rows])
    yield from _by_word(_FAILURES, rows, [tuple(brought.failures.items()) for *_, brought in rows])


def _labels(one: InstanceStatus) -> str:
    return f'{LABEL}="{_escaped(one.name)}",cloud="{_escaped(one.cloud)}"'


def _by_word(
    family: tuple[str, str, str],
    rows: Iterable[tuple[str, InstanceStatus, Yield]],
    counts: Iterable[tuple[tuple[str, int], ...]],
) -> Iterator[str]:
    name, key, text = family
    yield _head(name, "counter", text)
    for (label, *_), counted in zip(rows, counts, strict=True):
        for word, number in counted:
            yield f'{name}{{{label},{key}="{_escaped(word)}"}} {number}\n'


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
