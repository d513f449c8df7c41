"""The exports of each node: begun by a call, ready after a while, the same files until they are stale."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING

from ddslogd.sandbox.dds import error_log, slow_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddslogd.sandbox.clock import CloudClock
    from ddslogd.sandbox.dds.log_kinds import Kind, LogKind
    from ddslogd.sandbox.dds.topology import SandboxNode
    from ddslogd.sandbox.obs.object_store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """What the last export of a node that came to an end left.

    Attributes:
        updated: By the true clock, whole milliseconds.
        stamp: The same by the cloud's clock, as it stood then.
        failed: There is no object.
    """

    name: str
    updated: datetime
    stamp: datetime
    size: int
    failed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An export of a node under way.

    Attributes:
        stamp: When it began by the cloud's clock, as it stood then.
        takes: As planned; a fault may add to it.
    """

    name: str
    began: datetime
    stamp: datetime
    takes: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudRules:
    """How this cloud behaves, by what it was started with; durations are not divided by the speed yet.

    Attributes:
        project_id: Begins every file's name.
        window: Bytes of the newest log that a file holds.
        lines_per_second: Of each node, by the clock; a kind of log has its share of it.
        backlog: How much log there is before the start.
        takes: Seconds an export needs, from and to.
        jitter: Where each instance's exports take about the same time: by how many seconds they differ from that, at
            the most; None where each export of each node takes a time of its own.
        fresh_for: How long files are served before a call makes new ones.
        link_life: Of a link, from the reply on.
        keep: Exports of a node and kind whose objects are kept.
        seed: Decides the lines and how long each export takes.
    """

    project_id: str
    window: int
    lines_per_second: float
    backlog: timedelta
    takes: tuple[float, float]
    jitter: float | None
    fresh_for: timedelta
    link_life: timedelta
    keep: int
    seed: int


class NodeExports:
    """One kind of log of one node: the log, the export under way and the file there is."""

    def __init__(
        self,
        node: SandboxNode,
        kind: Kind,
        *,
        instance_id: str,
        json: bool,
        rules: CloudRules,
        store: ObjectStore,
        clock: CloudClock,
    ) -> None:
        self.node = node
        self.kind = kind
        self._json = json
        self._begins = clock.now() - rules.backlog
        self.run: Run | None = None
        self.file: ExportedFile | None = None
        self.names: set[str] = set()
        self.contents: deque[bytes] = deque(maxlen=rules.keep)
        self._keys: deque[str] = deque()
        self._rules = rules
        self._store = store
        self._clock = clock
        self._instance_id = instance_id

    @cached_property
    def log(self) -> error_log.NodeLog:
        """Return the log, made when it is first asked for: its backlog is due at once."""
        random = _random(self._rules, self.kind.name, "log", self.node)
        rate = self._rules.lines_per_second * self.kind.share
        return error_log.NodeLog(random, line=_line(self.kind.name, json=self._json), begins=self._begins, rate=rate)

    @cached_property
    def _random(self) -> Random:
        return _random(self._rules, self.kind.name, "exports", self.node)

    @cached_property
    def _usual(self) -> float:
        seed = f"{self._rules.seed} {self.kind.name} usual {self._instance_id}"
        return Random(seed).uniform(*self._rules.takes)  # noqa: S311 - repeatable on purpose

    @property
    def touched(self) -> datetime | None:
        """Return when something last happened to its exports; None where nothing ever did."""
        times = [self.run.began] if self.run else []
        times += [self.file.updated] if self.file else []
        return max(times, default=None)

    def advance(self) -> None:
        """Let time pass: what is due is ready, and the log goes on."""
        now = self._clock.now()
        due = self._due()
        if due is not None and due <= now:
            # A fault may have held the row for longer than it was planned, and the log has gone on meanwhile.
            self.settle(max(due, self.log.until))
        self.log.advance(now)

    def begin(self) -> None:
        """Begin an export, in place of one that may be under way."""
        began = _whole_ms(self._clock.now())
        stamp = self._clock.shown(began)
        digits = f"{stamp:%Y%m%d%H%M%S%f}"[:17]
        name = f"{self._rules.project_id}_{self.node.id}_{self.kind.word}_{digits}"
        takes = self._clock.scaled(timedelta(seconds=self._seconds()))
        self.run = Run(name=name, began=began, stamp=stamp, takes=takes)
        self.names.add(name)

    def settle(self, moment: datetime) -> None:
        """Bring the export under way, if there is one, to its end."""
        if self.run is None:
            return
        self.log.advance(moment)
        failed = bool(self._clock.faults.failed_rows & {self.node.name, self.node.id})
        data = b"" if failed else self.log.tail(self._rules.window)
        updated = _whole_ms(moment)
        stamp = self._clock.shown(updated)
        self.file = ExportedFile(name=self.run.name, updated=updated, stamp=stamp, size=len(data), failed=failed)
        if not failed:
            self._keep(self.run.name, data)
        self.run = None

    def replace(self, data: bytes) -> None:
        """Replace the bytes of the newest object, under the same key."""
        key = self._keys[-1]
        self.contents.append(data)
        self._store.put(key, data)

    def _keep(self, key: str, data: bytes) -> None:
        self.contents.append(data)
        self._store.put(key, data)
        self._keys.append(key)
        if len(self._keys) > self._rules.keep:
            self._store.drop(self._keys.popleft())

    def _seconds(self) -> float:
        """Choose how long the next export takes."""
        jitter = self._rules.jitter
        if jitter is None:
            return self._random.uniform(*self._rules.takes)
        return max(0.0, self._usual + self._random.uniform(-jitter, jitter))

    def _due(self) -> datetime | None:
        """Return when the export under way is ready; None for never."""
        if self.run is None:
            return None
        slow = self._clock.faults.slow_rows
        extra = slow.get(self.node.name, slow.get(self.node.id, 0.0))
        if math.isinf(extra):
            return None
        return self.run.began + self.run.takes + self._clock.scaled(timedelta(seconds=extra))


def request_exports(nodes: Sequence[NodeExports], *, now: datetime, fresh_for: timedelta) -> None:
    """Do what a call does: begin what never was, and everything again when the last of it is stale.

    A row that never gets ready is begun again with the others.
    """
    for node in nodes:
        node.advance()
    touched = [node.touched for node in nodes]
    last = max((moment for moment in touched if moment is not None), default=None)
    stale = last is not None and now - last >= fresh_for
    for node, moment in zip(nodes, touched, strict=True):
        if stale or moment is None:
            node.begin()


def _line(kind: LogKind, *, json: bool) -> error_log.Line:
    match kind:
        case "error":
            return error_log.json_line if json else error_log.text_line
        case "slow":
            return slow_log.json_line if json else slow_log.text_line


def _random(rules: CloudRules, kind: LogKind, use: str, node: SandboxNode) -> Random:
    return Random(f"{rules.seed} {kind} {use} {node.id}")  # noqa: S311 - repeatable on purpose


def _whole_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
