"""A cloud of the fuzz's own: the list of instances, the one call that exports, and the nodes' exports behind it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from fuzz.node_log import Habits, NodeLog
from fuzz.object_store import ObjectStore
from fuzz.objects import CHANGED, MOST_CUT, Ending, exported

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fuzz.objects import Exported
    from fuzz.scenario import InstancePlan, NodePlan, Scenario

TOKEN = "token-of-the-fuzz"
PROJECT = "0483b6b16e954cb88930a360d2c4e663"
FRESH_FOR = 0.4  # seconds for which an export is served
TAKES = (0.0, 0.4)  # seconds of an export, from and to
LATE = 2.5  # seconds more of a row that is late
QUIET = 3.0  # seconds without an export, after which a node writes all the same
DAY_MS = 86_400_000


@dataclass
class Clocks:
    """The cloud's two: how far they are ahead of the host's."""

    api: timedelta = timedelta(0)
    store: timedelta = timedelta(0)

    def api_now(self) -> datetime:
        """Return the time by the API's clock."""
        return datetime.now(UTC) + self.api

    def store_now(self) -> datetime:
        """Return the time by the object store's clock."""
        return datetime.now(UTC) + self.store


@dataclass(frozen=True)
class Offer:
    """An export of a node, as its row shows it."""

    name: str
    updated_ms: int
    object: Exported
    ready: float  # by the steady clock


class Node:
    """A node, its log, and the export that there is of it."""

    def __init__(self, tag: str, plan: NodePlan, *, name: str, id: str, seed: int) -> None:  # noqa: A002  # its name in the API
        habits = Habits(json=plan.json, storm=plan.storm, odd_dates=plan.odd_dates)
        self.tag = tag
        self.plan = plan
        self.id = id
        self.names = [name]  # the last is the present one
        self.log = NodeLog(tag, habits, Random(f"{seed} log {tag}"))
        self.offers: list[Offer] = []
        self.shown = False  # whether it had a row in the last reply
        self.truth: list[tuple[float, int]] = []  # when how many lines had been written that an export can hold
        self._random = Random(f"{seed} exports {tag}")
        self._end = 0  # of the last export, in bytes of the log; 0 where that was an early one
        self._written_at = datetime.now(UTC)
        self._written = time.monotonic()

    def write(self, share: float, now: datetime) -> None:
        """Write a share of a window."""
        self.log.write(round(self.plan.window * share), since=min(self._written_at, now), now=now)
        self._written_at, self._written = now, time.monotonic()
        self.truth.append((self._written, self.log.line_at(max(0, self.log.size - MOST_CUT))))

    def write_if_quiet(self, now: datetime) -> None:
        """Write a little where nobody asked for so long."""
        if time.monotonic() - self._written > QUIET:
            self.write(0.05, now)

    def export(self, now: datetime, *, calm: bool, still: bool, project: str) -> Offer:
        """Make an export. Always the same decisions in the same order, whatever becomes of them."""
        random = self._random
        growth, cut, back = random.random() * self.plan.growth, random.randrange(MOST_CUT), random.randint(500, 6000)
        earlier, changed = random.random() < self.plan.earlier, random.random() < self.plan.changed_endings
        ending, takes = random.choice(CHANGED) if changed else Ending.CUT, random.uniform(*TAKES)
        ahead, close = random.random() < self.plan.ahead, random.random() < self.plan.earlier / 2
        if not still:
            self.write(0.1 if calm else growth, now)
        end, window = self.log.size - min(cut, self.log.size // 2), self.plan.window
        if calm:
            end, ending, ahead = self.log.size, Ending.WHOLE, False
        elif earlier and self._end - back > window // 2:
            end = self._end - back
        elif close and self.offers:
            window = max(1000, min(window, end - self._within(self.offers[-1].object.reaches - 1)))
        self._end = 0 if end < self._end else end  # no two in a row end earlier than the one before
        made = exported(self.log, window=window, end=end, ending=ending, random=random)
        updated = _epoch_ms(now) + round(takes * 1000)
        name = f"{project}_{self.id}_errorlog_{now:%Y%m%d%H%M%S}{now.microsecond // 1000:03d}"
        ready = time.monotonic() + takes
        return Offer(name=name, updated_ms=updated + DAY_MS * ahead, object=made, ready=ready)

    def _within(self, line: int) -> int:
        """Return where a line has its middle."""
        return (self.log.end_of(line - 1) + self.log.end_of(line)) // 2 if line >= 0 else 0


class Instance:
    """An instance and the export that it serves."""

    def __init__(self, plan: InstancePlan, *, id: str, number: int, seed: int) -> None:  # noqa: A002  # its name in the API
        self.plan = plan
        self.id = id
        self.nodes = [
            Node(
                f"{plan.name[0]}{place}",
                one,
                name=f"{plan.name}_replica_node_{1 if plan.twins and place < 2 else place + 1}",
                id=f"{number:x}{place:x}".ljust(32, "0") + "no02",
                seed=seed,
            )
            for place, one in enumerate(plan.nodes)
        ]
        self.exports = 0
        self.done: float | None = None  # when the newest row is ready, by the steady clock


@dataclass
class Faults:
    """What is wrong now: names of troubles, with whom they are about (instances or nodes; None: all)."""

    now: dict[str, set[str]] = field(default_factory=dict)

    def hits(self, name: str, *whom: str) -> bool:
        """Return whether a trouble is there for one of these."""
        return bool(self.now.get(name, set()) & {*whom})


class Cloud:
    """Serves what a scenario says; see ``faults`` and ``clocks`` for what can be changed meanwhile."""

    def __init__(self, scenario: Scenario) -> None:
        self.clocks = Clocks()
        self.faults = Faults()
        self.calm = False
        self.still = False
        self.calls = 0
        self.store = ObjectStore(self.clocks, self.faults)
        self.instances = [
            Instance(plan, id=f"{number:x}".ljust(32, "f") + "in02", number=number, seed=scenario.seed)
            for number, plan in enumerate(scenario.instances, 1)
        ]
        self.endpoint = ""
        self._runner: web.AppRunner | None = None

    @property
    def nodes(self) -> list[Node]:
        """Return all nodes."""
        return [node for instance in self.instances for node in instance.nodes]

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v3/{project}/instances", self._list)
        app.router.add_post("/v3/{project}/instances/{instance}/errorlog-download", self._download)
        app.router.add_get("/bucket/{key}", self.store.get)
        app.on_response_prepare.append(self._date)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def write_in_quiet(self) -> None:
        """Let nodes go on writing where nobody asks; ends by being cancelled."""
        while True:
            await asyncio.sleep(0.5)
            if not self.still:
                for node in self.nodes:
                    node.write_if_quiet(self.clocks.api_now())

    async def _date(self, request: web.Request, response: web.StreamResponse) -> None:
        now = self.clocks.store_now() if request.path.startswith("/bucket/") else self.clocks.api_now()
        response.headers["Date"] = format_datetime(now, usegmt=True)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if broken := self._broken(request):
            return broken
        if self.faults.hits("list refused", "all"):
            return _error(403, "DBS.280032", "You do not have permission to perform the operation.")
        offset = int(request.query.get("offset", "0"))
        found = [_listed(instance) for instance in self.instances]
        return web.json_response({"instances": found[offset:], "total_count": len(found)})

    async def _download(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        if broken := self._broken(request):
            return broken
        instance = next((one for one in self.instances if one.id == request.match_info["instance"]), None)
        if instance is None:
            return _error(404, "DBS.200002", "The DB instance does not exist.")
        asked = json.loads(await request.read()).get("node_id_list") or [node.id for node in instance.nodes]
        if self.faults.hits("error body", instance.id):
            return web.json_response({"error_code": "DBS.280005", "error_msg": "Server error."})
        self._export(instance)
        return web.json_response(self._reply(instance, [node for node in instance.nodes if node.id in asked]))

    def _broken(self, request: web.Request) -> web.StreamResponse | None:
        """Return the answer to a call that fails; None for one that does not."""
        if self.faults.hits("api reset", "all"):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        for name, status in (("api 500", 500), ("api 503", 503), ("api down", 503)):
            if self.faults.hits(name, "all"):
                return web.Response(status=status, text="<html>later</html>", content_type="text/html")
        if self.faults.hits("api 404", "all"):
            return web.Response(status=404, text="<html>no such page</html>", content_type="text/html")
        if self.faults.hits("api 429", "all"):
            again = {"Retry-After": "1"}
            return _error(429, "APIGW.0308", "The throttling threshold has been reached.", headers=again)
        if request.headers.get("X-Auth-Token") != TOKEN or request.match_info["project"] != PROJECT:
            return _error(401, "APIGW.0301", "Incorrect IAM authentication information.")
        return None

    def _export(self, instance: Instance) -> None:
        """Begin an export where there is none, or where the last one is stale."""
        now = time.monotonic()
        if instance.done is not None and now < instance.done + FRESH_FOR:
            return
        instance.exports += 1
        for node in instance.nodes:
            offer = node.export(self.clocks.api_now(), calm=self.calm, still=self.still, project=PROJECT)
            if node.offers and self.faults.hits("same row", instance.id):
                continue
            if node.offers and self.faults.hits("same row, other bytes", instance.id):
                last = node.offers[-1]
                offer = Offer(name=last.name, updated_ms=last.updated_ms, object=offer.object, ready=last.ready)
            if self.faults.hits("row late", node.id):
                offer = Offer(
                    name=offer.name, updated_ms=offer.updated_ms, object=offer.object, ready=offer.ready + LATE
                )
            node.offers.append(offer)
            self.store.put(offer.name, offer.object)
        instance.done = max(now, *(node.offers[-1].ready for node in instance.nodes))

    def _reply(self, instance: Instance, nodes: Iterable[Node]) -> dict[str, Any]:
        for node in instance.nodes:
            node.shown = False
        if self.faults.hits("empty list", instance.id):
            return {"list": [], "status": "FINISH", "count": 0}
        if self.faults.hits("no list", instance.id):
            return {"status": "FINISH"}
        shown = [node for node in nodes if not self.faults.hits("row missing", node.id)]
        for node in shown:
            node.shown = True
        rows = [self._row(node) for node in shown]
        states = {row["status"] for row in rows}
        top = "CREATING" if "EXPORTING" in states else "FAILED" if "FAILED" in states else "FINISH"
        if self.faults.hits("failed on top", instance.id) and top == "FINISH":
            top = "FAILED"
        return {"list": rows, "status": top, "count": sum(row["file_link"] is not None for row in rows)}

    def _row(self, node: Node) -> dict[str, Any]:
        offer = node.offers[-1]
        row = {
            "node_name": None if self.faults.hits("row nameless", node.id) else node.names[-1],
            "file_name": offer.name,
            "status": "SUCCESS",
            "file_size": f"{len(offer.object.data) / 1024:.2f}",
            "file_link": self.store.link(self.endpoint, offer.name),
            "updated_at": offer.updated_ms,
        }
        if time.monotonic() < offer.ready:
            return row | {"status": "EXPORTING", "file_size": None, "file_link": None}
        if self.faults.hits("row failed", node.id):
            return row | {"status": "FAILED", "file_size": None, "file_link": None}
        return row


def _listed(instance: Instance) -> dict[str, Any]:
    nodes = [
        {"id": node.id, "name": node.names[-1], "status": "normal", "role": "Primary", "private_ip": "10.0.0.1"}
        for node in instance.nodes
    ]
    return {
        "id": instance.id,
        "name": instance.plan.name,
        "status": "normal",
        "mode": "ReplicaSet",
        "region": "loopback-1",
        "datastore": {"type": "DDS-Community", "version": "4.2"},
        "actions": [],
        "tags": [],
        "groups": [{"type": "replica", "volume": {"size": "20", "used": "0.5"}, "nodes": nodes}],
    }


def _error(status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error_code": code, "error_msg": message}, status=status, headers=headers)


def _epoch_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
