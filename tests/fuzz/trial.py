"""One seed: a cloud, a daemon, trouble for a while, then calm; and what was wrong."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

from fuzz import disk
from fuzz.checker import Gap, History, Kind, Violation, judge
from fuzz.cloud import Cloud, Instance, Node
from fuzz.daemon import FAKETIME, TARGET, Daemon, HostClock, configuration
from fuzz.ledger_faults import LedgerFaults

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fuzz.scenario import Scenario, Trouble

BOUND = TARGET + 7.0  # seconds: what was written longer ago is on disk, or its instance is not fresh
CALM_S = 90.0  # a busy machine needs them
CALM_EXPORTS = 2
LIFE_S = (0.2, 6.0)
START_S = 25.0
_CLOCKS = {"api ahead 2 h": 7200, "api behind 2 h": -7200, "store ahead 30 min": 1800, "store behind 30 min": -1800}
_HOST = {
    "host ahead 8 h": 8 * 3600,
    "host ahead 8 h, then api down": 8 * 3600,
    "host ahead 365 d": 365 * 86400,
    "host behind 2 h": -7200,
}
_AHEAD_S = 2.5  # of "then": how long the clock is ahead, with what follows
_GONE = "instance gone"


@dataclass(slots=True)
class Result:
    """What came of a seed."""

    violations: list[Violation] = field(default_factory=list)
    exports: int = 0
    starts: int = 0
    gaps: int = 0
    lines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A gap as it was listed, or told by an event, which does not name the file."""

    instance: str
    node: str
    after: str | None
    until: str | None
    cause: str
    file: str = ""

    @property
    def gap(self) -> Gap:
        """Return it as the checker reads it."""
        after, until = (text and datetime.fromisoformat(text) for text in (self.after, self.until))
        return Gap(after=after or None, until=until or None, cause=self.cause)

    def is_of(self, node: Node, others: Sequence[Node]) -> bool:
        """Return whether it is this node's: by the id in the file's name if there is one, else by the node's name."""
        known = [one for one in others if one.id in self.file or one.id in self.node]
        return node in known if known else any(name in self.node for name in node.names)


class Trial:
    """Runs a scenario in a directory."""

    def __init__(self, scenario: Scenario, directory: Path) -> None:
        self.scenario = scenario
        self.logs = directory / "logs"
        self.cloud = Cloud(scenario)
        self.clock = HostClock(directory) if "clock" in scenario.kinds and FAKETIME else None
        self.daemon = Daemon(directory, clock=self.clock)
        self.ledger = LedgerFaults(directory / "state", directory / "copies", Random(f"{scenario.seed} ledger"))
        self.tail = disk.Tail(self.logs)
        self.result = Result()
        self._random = Random(f"{scenario.seed} kills")
        self._known: set[Reported] = set()  # all gaps that were ever listed
        self._listed: set[Reported] = set()  # of these, since the ledger was last harmed
        self._harmed = False
        self._reported: set[tuple[Kind, str]] = set()
        self._well: set[str] = set()  # instances that were called fresh in the calm

    async def run(self) -> Result:
        """Run it; return what came of it."""
        async with self.cloud:
            self.daemon.config.write_text(configuration(self.scenario, self.cloud, self.daemon.config.parent))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work) for work in (self.cloud.write_in_quiet(), self._watch())]
                await self._trouble()
                await self._calm()
                for task in tasks:
                    task.cancel()
            await self._end()
        self._judge()
        return self.result

    # --- trouble ------------------------------------------------------------------------------------------------------

    async def _trouble(self) -> None:
        async with asyncio.TaskGroup() as group:
            lives = group.create_task(self._lives())
            if self._random.random() < 0.8:  # else there may be trouble from the first call on
                await self._called()
            tasks = [group.create_task(self._happen(trouble)) for trouble in self.scenario.troubles]
            await asyncio.sleep(self.scenario.seconds)
            for task in (*tasks, lives):
                task.cancel()

    async def _happen(self, trouble: Trouble) -> None:
        """Let one thing happen at its time, and end."""
        await asyncio.sleep(trouble.at)
        self.daemon.note(f"{trouble.name} for {trouble.until - trouble.at:.1f} s ({trouble.whom:.2f})")
        if trouble.name == "rename":
            node = self._node(trouble)
            node.names.append(f"{node.names[0]}_renamed_{len(node.names)}")
            return
        length = trouble.until - trouble.at
        if trouble.name in _HOST and self.clock is not None:
            then = trouble.name.endswith("api down")
            self.clock.set_by(_HOST[trouble.name])
            await asyncio.sleep(min(_AHEAD_S, length) if then else length)
            self.clock.set_by(0)
            if then:
                await self._fault("api down", "all", length - _AHEAD_S)
        elif trouble.name in _CLOCKS:
            await self._shift(trouble.name, length)
        else:
            await self._fault(trouble.name, self._target(trouble), length)

    async def _shift(self, name: str, length: float) -> None:
        clocks, by = self.cloud.clocks, timedelta(seconds=_CLOCKS[name])
        which = name.partition(" ")[0]
        setattr(clocks, which, by)
        await asyncio.sleep(length)
        setattr(clocks, which, timedelta(0))

    async def _fault(self, name: str, target: str, length: float) -> None:
        now = self.cloud.faults.now
        now.setdefault(name, set()).add(target)
        await asyncio.sleep(max(0.0, length))
        now[name].discard(target)

    def _target(self, trouble: Trouble) -> str:
        if trouble.name.startswith("row "):
            return self._node(trouble).id
        if trouble.name.split()[0] in {"api", "store", "list"}:
            return "all"
        return self.cloud.instances[int(trouble.whom * len(self.cloud.instances))].id

    def _node(self, trouble: Trouble) -> Node:
        return self.cloud.nodes[int(trouble.whom * len(self.cloud.nodes))]

    async def _lives(self) -> None:
        """Start the daemon again and again."""
        while True:
            await self._start()
            if not self.scenario.kinds & {"kill", "ledger", "files"}:
                await asyncio.sleep(self.scenario.seconds)
            early = self._random.random() < 0.15  # within the start
            life = self._random.uniform(0.0, 1.5) if early else self._random.uniform(*LIFE_S)
            how = signal.SIGKILL if "kill" in self.scenario.kinds and self._random.random() < 0.7 else signal.SIGTERM
            down, harm = self._random.uniform(0.0, 0.8), self._random.random() < 0.5
            delete = self._random.random() < 0.5
            if not early:
                await self._called()
            await asyncio.sleep(life)
            await self._stop(how)
            await self._list_gaps()
            if harm and "ledger" in self.scenario.kinds:
                self._harm()
            if delete and "files" in self.scenario.kinds:
                self._delete()
            await asyncio.sleep(down)

    async def _start(self) -> None:
        if not self.daemon.running:
            self.result.starts += 1
            await self.daemon.start()

    async def _called(self) -> None:
        """Wait until the daemon has made a call."""
        calls = self.cloud.calls
        with suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                while self.cloud.calls == calls and (self.daemon.running or not self.result.starts):
                    await asyncio.sleep(0.05)

    async def _stop(self, how: signal.Signals) -> None:
        ended = not self.daemon.running
        status = await self.daemon.stop(how)
        if ended or (how is signal.SIGTERM and status not in {0, -signal.SIGTERM}):
            self._violate(Kind.CRASH, "", f"ended with {status}{' by itself' if ended else f' after {how.name}'}")

    def _harm(self) -> None:
        what = self.ledger.strike()
        self.daemon.note(f"ledger: {what or 'no harm'}")
        if what:
            self._listed.clear()
            self._harmed = True

    def _delete(self) -> None:
        """Delete some snapshots, as an operator may: the newest of each node stays."""
        nodes = [sorted(node.glob("[!.]*"), key=disk.age) for node in sorted((self.logs / "snapshots").glob("*/*"))]
        paths = [path for node in nodes for path in node[:-1]]
        chosen = [path for path in paths if self._random.random() < 0.5]
        self.daemon.note(f"files: {len(chosen)} of {len(paths)} snapshots deleted")
        for path in chosen:
            path.unlink()

    # --- what is said meanwhile ---------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Ask again and again who is fresh, and compare with the disk."""
        while True:
            await asyncio.sleep(0.7)
            asked_at = time.monotonic()
            status, ready = await self.daemon.ask("/api/v1/status"), await self.daemon.ask("/readyz")
            self.tail.look()
            for instance in self.cloud.instances:
                for said in _called_fresh(instance.plan.name, status, ready):
                    self._check_fresh(instance, said, asked_at)

    def _check_fresh(self, instance: Instance, said: str, asked_at: float) -> None:
        for node in instance.nodes:
            due = max((lines for at, lines in node.truth if at <= asked_at - BOUND), default=0)
            event = node.log.lines[due - 1].event if due else -1
            newest = self.tail.newest.get(node.tag, -1)
            if newest < 0 and not node.shown:  # it may have no log: nobody can know
                continue
            if newest < event:
                detail = f"{said}: event {newest} is the newest on disk, {event} was written over {BOUND:g} s ago"
                self._violate(Kind.FRESH, self._where(instance, node), detail)

    async def _list_gaps(self) -> set[Reported] | None:
        listed = await self.daemon.gaps()
        if listed is None:
            return None
        found = {
            Reported(
                instance=one["instance"],
                node=one["node"],
                after=one["from"],
                until=one["to"],
                cause=one["cause"],
                file=one["file"] or "",
            )
            for one in listed
        }
        self._known |= found
        lost = {key for key in self._listed - found if key.cause != _GONE}
        for key in lost:
            self._violate(Kind.FORGOTTEN, key.instance, f"{key} is no longer listed")
        self._listed = (self._listed | found) - lost
        return found

    # --- calm ---------------------------------------------------------------------------------------------------------

    async def _calm(self) -> None:
        """End all trouble, and wait until all is on disk and said to be well."""
        self.daemon.note("calm")
        self.cloud.faults.now.clear()
        self.cloud.clocks.api = self.cloud.clocks.store = timedelta(0)
        if self.clock is not None:
            self.clock.set_by(0)
        self.cloud.calm = True
        if self.daemon.running and self._random.random() < 0.7:  # else it goes on as it is
            await self._stop(signal.SIGTERM)
        await self._start()
        goal = [instance.exports + CALM_EXPORTS for instance in self.cloud.instances]
        end = time.monotonic() + CALM_S
        why = ["no export in the calm"]
        while why and time.monotonic() < end:
            await asyncio.sleep(0.3)
            if self.cloud.still or all(
                instance.exports >= least for instance, least in zip(self.cloud.instances, goal, strict=True)
            ):
                self.cloud.still = True
                why = await self._left()
        for one in why:
            self._violate(Kind.STUCK, one, f"not well {CALM_S:g} s after all trouble ended")

    async def _left(self) -> list[str]:
        """Return what is not as it should be in the end."""
        self.tail.look()
        left = [
            f"{self._where(instance, node)}: event {self.tail.newest.get(node.tag, -1)} of {node.log.lines[-1].event}"
            for instance in self.cloud.instances
            for node in instance.nodes
            if node.log.lines and self.tail.newest.get(node.tag, -1) < node.log.lines[-1].event
        ]
        status, ready = await self.daemon.ask("/api/v1/status"), await self.daemon.ask("/readyz")
        names = [instance.plan.name for instance in self.cloud.instances]
        self._well |= {name for name in names if len(_called_fresh(name, status, ready)) == 2}  # by both
        return left + [f"{name}: not called fresh: {_state(name, status)}" for name in names if name not in self._well]

    async def _end(self) -> None:
        status = await self.daemon.ask("/api/v1/status")
        found = await self._list_gaps()
        await self._stop(signal.SIGTERM)
        if found is None:
            self._violate(Kind.CRASH, "", "ddslogd gaps does not answer")
        if found and status and "clock" not in self.scenario.kinds and "gap" not in status["headline"]:
            self._violate(Kind.UNSAID, "", f"{len(found)} gaps, and the headline is {status['headline']!r}")
        for text in self.daemon.errors:
            self._violate(Kind.CRASH, text[:60], text[:2000])

    # --- judgement ----------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        listed = {replace(key, file="") for key in self._known}
        self._known |= self._told() - listed
        streams = disk.streams(self.logs)
        held = {name: disk.tags(stream) for name, stream in streams.items()}
        stored = disk.snapshots(self.logs)
        known = {md5 for node in self.cloud.nodes for offer in node.offers for md5 in offer.object.md5s}
        for path, md5 in stored.items():
            if md5 not in known:
                self._violate(Kind.SNAPSHOT, path.rpartition("/")[0], f"{path} is no whole export")
        for name, tags in held.items():
            if len(tags) > 1:
                self._violate(Kind.SPLIT, name, f"holds lines of several nodes: {dict(tags)}")
        for instance in self.cloud.instances:
            self.result.exports += instance.exports
            for node in instance.nodes:
                mine = [name for name, tags in held.items() if tags[node.tag]]
                if all(len(held[name]) == 1 for name in mine):  # else nobody can say more of it
                    self._judge_node(instance, node, [streams[name] for name in mine], set(stored.values()))
        self.result.gaps = len(self._known)
        for key in self._known:
            if key.cause == _GONE:
                self._violate(Kind.FALSE_GAP, key.instance, f"{key}: it was never gone")

    def _judge_node(self, instance: Instance, node: Node, streams: list[bytes], kept: set[str]) -> None:
        self.result.lines += len(node.log.lines)
        where = self._where(instance, node)
        if len(streams) > 1 and self._harmed and len(node.names) > 1:
            return  # with the ledger it is lost that the two names are one node's
        if len(streams) > 1:
            self._violate(Kind.SPLIT, where, f"has {len(streams)} streams: {', '.join(node.names)}")
        history = History(
            lines=node.log.lines,
            changed=dict(offer.object.changed for offer in node.offers if offer.object.changed),
            heads=frozenset(offer.object.head for offer in node.offers) - {b"", b"\n"},
            tails=frozenset(offer.object.tail + b"\n" for offer in node.offers if offer.object.tail),
            begins=frozenset(offer.object.first for offer in node.offers),
            first=self._first(node, kept),
        )
        known = [one for one in self._known if one.instance == instance.plan.name]
        gaps = [one.gap for one in known if one.is_of(node, instance.nodes)]
        for violation in judge(history, disk.joined(streams), gaps, where=where):
            if len(streams) == 1 or violation.kind in {Kind.LOST, Kind.FOREIGN}:  # the rest follows from the split
                self._violate(violation.kind, where, violation.detail)

    def _first(self, node: Node, kept: set[str]) -> int | None:
        """Return the number of the line that a stream begins with, by the first snapshot; None if that may be gone."""
        if self.scenario.snapshots != "all" or "files" in self.scenario.kinds:
            return None
        return next((offer.object.first for offer in node.offers if kept & offer.object.md5s), None)

    def _told(self) -> set[Reported]:
        """Return the gaps that events told of: the ledger may have been lost before it was asked."""
        return {
            Reported(
                instance=event["instance"],
                node=event["node"],
                after=event.get("after"),  # the log leaves out what is null
                until=event.get("until"),
                cause=event["cause"],
            )
            for event in self.daemon.events
            if event.get("event") == "stream.gap"
        }

    def _where(self, instance: Instance, node: Node) -> str:
        return f"{instance.plan.name}/{node.names[0]} ({node.tag})"

    def _violate(self, kind: Kind, where: str, detail: str) -> None:
        """Record a violation; the first of its kind at its place."""
        if (kind, where) not in self._reported:
            self._reported.add((kind, where))
            self.daemon.note(f"VIOLATION {kind} {where}: {detail}")
            self.result.violations.append(Violation(kind=kind, where=where, detail=detail))


def _called_fresh(name: str, status: dict[str, Any] | None, ready: dict[str, Any] | None) -> list[str]:
    """Return who calls an instance fresh."""
    found = []
    if _state(name, status) == "fresh":
        found.append("/api/v1/status calls it fresh")
    if ready is not None and ready.get("ready") and not _is_named(name, ready):
        found.append("/readyz has nothing against it")
    return found


def _state(name: str, status: dict[str, Any] | None) -> str:
    instances = status.get("instances", []) if status else []
    return next((f"{one['state']}" for one in instances if one["name"] == name), "not there")


def _is_named(name: str, ready: dict[str, Any]) -> bool:
    """Return whether the answer speaks of an instance other than of its gaps, or of a cloud that does not list it."""
    lists = [value for key, value in ready.items() if isinstance(value, list) and "gap" not in key]
    if any(one == name or (isinstance(one, dict) and one.get("name") == name) for found in lists for one in found):
        return True
    return any(isinstance(value, dict) and value for key, value in ready.items() if "gap" not in key)
