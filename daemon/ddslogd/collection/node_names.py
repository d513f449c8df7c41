"""What each node's files are called: for life, whatever the cloud calls the node later.

rows of a reply ─► whose file is it? ─► the name that its files have ─► ledger, owner file ─► rows with that name

What tells a node from others is its id, where the file name holds it or the list of nodes has it under the row's name;
else that name. Several rows of one node are kept apart by the names of their files, as far as those stay the same from
export to export, and by their order where nothing does.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from ddslogd.huaweicloud.error_codes import excess
from ddslogd.huaweicloud.response_limits import MOST_NODES
from ddslogd.huaweicloud.services.dds import DDS
from ddslogd.model.errors import CloudError, StorageError
from ddslogd.model.export import RowState
from ddslogd.model.instance import KnownNode, LogKind, NodeName
from ddslogd.storage import owner_file, paths
from ddslogd.storage.owner_file import DirectoryOwner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from ddslogd.collection.node_registry import NodeRegistry
    from ddslogd.model.export import Row
    from ddslogd.model.instance import Instance, ListedInstance
    from ddslogd.storage.ledger.snapshot_records import Ledger

log = structlog.get_logger()

UNNAMED = "unnamed"
"""The node of a row that has neither a name nor an id."""
MOST_REPORTED = 20  # names in one event
AT_ONCE = 50  # nodes that are named before others get their turn; each takes some 0.1 ms
LIST_LIMIT_S = 30.0  # real time: links wait meanwhile
_NODE, _NAME = "node:", "name:"
_LEGACY = re.compile(r"row-\d+")  # what rows without a name were called once, by their place in the reply
# 2026-01-02T03:04:05.678Z and its like, 20260102030405678, 1767323045678, 20260102_030405; no part of an address.
_DATE = r"\d{4}[-_.]\d\d[-_.]\d\d(?:[-_.T ]*\d\d[-_.:]?\d\d(?:[-_.:]?\d\d)?(?:[.,]\d+)?Z?)?"
_DIGITS = r"(?:19|20)\d{6}(?:[-_T ]?\d{4,12})?|1\d{9}|1\d{12}"  # other digits are numbers, which tell files apart
_STAMP = re.compile(rf"(?<!\d)(?:{_DATE}|{_DIGITS})(?!\d)")


def pattern_of(file_name: str) -> str:
    """Return what stays of a file name from export to export: all but the times in it."""
    return _STAMP.sub("#", file_name)


def names_no_node(name: str) -> bool:
    """Return whether files go by this name since the cloud named no node."""
    return name.partition("-")[0] == UNNAMED or _LEGACY.fullmatch(name) is not None


@dataclass(slots=True, kw_only=True)
class _Book:
    """The names of one instance's nodes.

    Attributes:
        meeting: Held while the list of nodes is asked for.
        loaded: Whether the ledger was asked.
        names: By what tells a node from others.
        owners: By name: who has it.
        callers: By the cloud's name: the nodes that it was last.
        several: By node and kind of log: what tells several rows apart.
        changed: What the ledger has not got yet.
        asked: Names that were not in the list of nodes when it was asked for them.
        reported: Nodes of which it was said that they have several rows, and whether those are told apart.
        kept: What the owner files said last, and where they are.
        seen: Names whose files came since the start.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    meeting: asyncio.Lock = field(default_factory=asyncio.Lock)
    loaded: bool = False
    names: dict[str, NodeName] = field(default_factory=dict)
    owners: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    callers: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    several: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    changed: dict[str, NodeName | None] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    reported: set[tuple[str, bool]] = field(default_factory=set)
    kept: tuple[DirectoryOwner, tuple[Path, ...]] | None = None
    seen: set[str] = field(default_factory=set)

    def count(self, rows: Sequence[Row]) -> None:
        """Count the nodes whose files came: each has a directory, a stream and its rows in the ledger for good.

        Raises:
            Oversized: There were more than an instance can have had.
        """
        self.seen |= {row.node for row in rows if _is_ready(row)}
        number = len(self.seen | self.owners.keys())
        if number > MOST_NODES:
            raise excess(f"the files of more than {MOST_NODES} nodes of one instance, with the replies before it")

    def learn(self, identity: str, node: NodeName) -> None:
        """Take up what is known of a node, in place of what was."""
        if identity in self.names:
            self._drop(identity)
        self.names[identity] = node
        self.owners[node.name].add(identity)
        if _root(identity) == identity and identity.startswith(_NODE):
            self.callers[node.called].add(identity)
        self.several[_beginning(identity)].add(identity)

    def enter(self, identity: str, name: str, *, called: str) -> None:
        """Change a name; what the cloud calls this node, it calls no other any more."""
        before = self.callers[called] - {identity} if called and identity.startswith(_NODE) else set()
        for other, node in [(other, replace(self.names[other], called="")) for other in before]:
            self.learn(other, node)
            self.changed[other] = node
        node = self.changed[identity] = NodeName(name=name, called=called)
        self.learn(identity, node)

    def known(self, kind: LogKind) -> dict[str, KnownNode]:
        """Return what is known of the nodes, by name; nothing of a name that several nodes have."""
        found: dict[str, KnownNode] = {}
        for name, owners in self.owners.items():
            roots = {_root(one) for one in owners}
            if len(roots) != 1:
                continue
            (root,) = roots
            called = self.names[root].called if root in self.names else next(self.names[one].called for one in owners)
            found[name] = KnownNode(
                id=root.removeprefix(_NODE) if root.startswith(_NODE) else "",
                called=called,
                several=len({self.names[one].name for one in self.several.get(f"{root}\n{kind}", ())}) > 1,
            )
        return found

    def forget(self, identity: str) -> None:
        self._drop(identity)
        del self.names[identity]
        self.changed[identity] = None

    def _drop(self, identity: str) -> None:
        node = self.names[identity]
        self.owners[node.name].discard(identity)
        self.callers[node.called].discard(identity)
        self.several[_beginning(identity)].discard(identity)


@dataclass(frozen=True, slots=True)
class _Memory:
    """What is remembered of one export from reply to reply.

    Attributes:
        pins: By file name and object: the name that a file was handed on under.
        lasting: By node: whether the names of its files tell them apart as they did in the export before.
    """

    pins: dict[tuple[str, str], str] = field(default_factory=dict)
    lasting: dict[str, bool] = field(default_factory=dict)


class NodeNames:
    """The names of all instances' nodes."""

    def __init__(self, *, ledger: Ledger, node_registry: NodeRegistry, directory: Path) -> None:
        """Prepare.

        Args:
            ledger: Keeps the names.
            node_registry: Knows the nodes that the clouds list.
            directory: The storage directory, whose owner files keep the names, too.
        """
        self._ledger = ledger
        self._node_registry = node_registry
        self._directory = directory
        self._books: defaultdict[str, _Book] = defaultdict(_Book)

    def identifier(
        self, instance: Instance, kind: LogKind, *, relist: Callable[[str], Awaitable[ListedInstance | None]]
    ) -> Callable[[Sequence[Row]], Awaitable[Sequence[Row]]]:
        """Return what names the rows of one export's replies, see ``Export``.

        Args:
            instance: Whose logs.
            kind: Which of its logs.
            relist: Returns an instance as the cloud lists it now, by its id.
        """
        memory = _Memory()

        async def identify(rows: Sequence[Row]) -> Sequence[Row]:
            book = self._books[instance.name]
            async with book.meeting:
                await self._meet(instance, rows, relist)
            async with book.lock:
                await self._load(instance, book)
                naming = _Naming(
                    instance, kind, book=book, node_registry=self._node_registry, ledger=self._ledger, memory=memory
                )
                named = await naming.of(rows)
                book.count(named)
                if book.changed:
                    await self._ledger.enter_node_names(instance.name, book.changed)
                    book.changed = {}
                return named

        return identify

    async def known(self, instance: Instance, kind: LogKind) -> Mapping[str, KnownNode]:
        """Return what is known of the nodes of an instance, by the names that their files have for life.

        Args:
            instance: Which one.
            kind: Which of its logs.

        Raises:
            StorageError: The names cannot be read.
        """
        book = self._books[instance.name]
        async with book.lock:
            await self._load(instance, book)
            return book.known(kind)

    async def has_several(self, instance: Instance, kind: LogKind) -> bool:
        """Return whether some node, or several of one name, had several files of a kind of log in one export.

        Raises:
            StorageError: The names cannot be read.
        """
        return any(node.several for node in (await self.known(instance, kind)).values())

    async def keep(self, instance: Instance) -> None:
        """Bring the owner files of an instance's directories in line; at the end of each cycle."""
        book = self._books[instance.name]
        async with book.lock:
            if not book.loaded:
                return
            owner = DirectoryOwner(cloud=instance.cloud, id=instance.id, name=instance.name, nodes=dict(book.names))
            try:
                places = await asyncio.to_thread(owner_file.places, self._directory, instance.name)
                if (owner, places) != book.kept:
                    await asyncio.to_thread(owner_file.write, self._directory, owner)
                    book.kept = owner, places
            except StorageError as exc:
                log.warning("owner.unwritten", instance=instance.name, reason=str(exc), todo="see the disk")

    async def _load(self, instance: Instance, book: _Book) -> None:
        if book.loaded:
            return
        known = await self._ledger.node_names(instance.name)
        owner = await asyncio.to_thread(owner_file.owner_of, self._directory, paths.segment(instance.name))
        if owner is not None and owner.id == instance.id:
            lost = {identity: node for identity, node in owner.nodes.items() if identity not in known}
            taken = {node.name for node in known.values()}
            lost = {identity: node for identity, node in lost.items() if node.name not in taken}
            book.changed |= lost
            known |= lost
        elif owner is not None:
            todo = "its files lie where those of this instance go; give one of them another name"
            log.warning("owner.another", instance=instance.name, id=instance.id, was=owner.id, todo=todo)
        for identity, node in known.items():
            book.learn(identity, node)
        book.loaded = True

    async def _meet(
        self, instance: Instance, rows: Iterable[Row], relist: Callable[[str], Awaitable[ListedInstance | None]]
    ) -> None:
        """Ask for the list of nodes where a row has a name that is not in it: a node may have got another name."""
        listed = self._node_registry.nodes(instance.name)
        known, book = {node.name for node in listed}, self._books[instance.name]
        strangers = {row.called for row in rows if row.called and not row.node_id} - known - book.asked
        if not listed or not strangers:
            return
        book.asked |= strangers
        try:
            async with asyncio.timeout(LIST_LIMIT_S):
                found = await relist(instance.id)
        except (CloudError, TimeoutError) as exc:
            log.info("nodes.unlisted", instance=instance.name, nodes=sorted(strangers)[:MOST_REPORTED], reason=str(exc))
            return
        if found is not None and found.nodes:
            self._node_registry.enter(instance.name, found.nodes)
            await self._ledger.enter_nodes({instance.name: found.nodes})


class _Naming:
    """Names the rows of one reply."""

    def __init__(
        self,
        instance: Instance,
        kind: LogKind,
        *,
        book: _Book,
        node_registry: NodeRegistry,
        ledger: Ledger,
        memory: _Memory,
    ) -> None:
        self._instance = instance
        self._kind = kind
        self._book = book
        self._nodes = node_registry.nodes(instance.name)
        self._listed: defaultdict[str, list[str]] = defaultdict(list)  # ids by name
        for node in self._nodes:
            self._listed[node.name].append(node.id)
        self._called_now = {_by_id(node.id): node.name for node in self._nodes}
        self._ledger = ledger
        self._memory = memory
        self._files: dict[tuple[str, LogKind], str] | None = None
        self._stored_names: set[str] = set()
        self._stored_ids: dict[str, str] = {}  # names by the id in the newest file's name
        self._called: set[str] = set()
        self._used: dict[str, str] = {}  # by name: the node that has it in this reply
        self._numbers: Counter[str] = Counter()  # by name: how many others were derived from it

    async def of(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        """Return the rows with their nodes' names for life: no two have the same, but exports of one log."""
        self._called = {row.called for row in rows if row.called}
        only = self._only_node(rows)
        rows = _each_once([replace(row, node_id=row.node_id or only or self._listed_id(row.called)) for row in rows])
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            groups[_by_id(row.node_id) if row.node_id else _by_name(row.called)].append(place)
        names: dict[int, str] = {}
        # Ids first: who is known by an id has a name before who is not.
        for number, base in enumerate(sorted(groups, reverse=True), 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            found = await self._names_of(base, {place: rows[place] for place in groups[base]})
            self._used.update(dict.fromkeys(found.values(), base))
            names |= found
        return tuple(replace(row, node=names[place]) for place, row in enumerate(rows))

    def _only_node(self, rows: Sequence[Row]) -> str:
        """Return the id of the only node that there can be a row of; empty where there can be several."""
        if len(rows) != 1:
            return ""
        if len(self._instance.node_ids) == 1:
            return self._instance.node_ids[0]
        return self._nodes[0].id if len(self._nodes) == 1 and not rows[0].called else ""

    def _listed_id(self, called: str) -> str:
        """Return the id of the only node that has this name now; empty where none has, or several have."""
        if not called:
            return ""
        if called in self._listed:
            return self._listed[called][0] if len(self._listed[called]) == 1 else ""
        last = [one for one in self._book.callers.get(called, ()) if one not in self._called_now]
        return last[0].removeprefix(_NODE) if len(last) == 1 else ""

    async def _names_of(self, base: str, rows: dict[int, Row]) -> dict[int, str]:
        """Return the names of one node's rows, by their places in the reply."""
        units, known = _units(f"{base}\n{self._kind}", rows), self._several(base)
        if len(units) == 1 and not known:
            ((identity, places),) = units.items()
            names = {identity: await self._name(base, rows[places[0]].called)}
        else:
            chosen = {one: [rows[place] for place in places] for one, places in units.items()}
            names = await self._names_of_several(base, chosen, known or await self._begun(base, chosen))
        found = {place: names[one] for one, places in units.items() for place in places}
        self._memory.pins.update({_file(rows[place]): name for place, name in found.items() if _is_ready(rows[place])})
        return found

    def _several(self, base: str) -> dict[str, str]:
        """Return the names that several rows of a node have, by what told them apart, in the order of that."""
        known = sorted(self._book.several.get(f"{base}\n{self._kind}", ()), key=lambda one: one.split("\n", 3)[:1:-1])
        return {identity: self._book.names[identity].name for identity in known}  # by pattern, then by number

    async def _names_of_several(self, base: str, units: dict[str, list[Row]], known: dict[str, str]) -> dict[str, str]:
        ready = {identity for identity, unit in units.items() if any(map(_is_ready, unit))}
        names = _Given()
        for identity, unit in units.items():  # a file that was handed on keeps its name while the export lasts
            pins = (self._memory.pins.get(_file(row)) for row in unit if _is_ready(row))
            names.give(identity, next(filter(None, pins), None))
        new = ready - names.of.keys()
        for identity in units:
            names.give(identity, known.get(identity))
        if new:
            self._memory.lasting.setdefault(base, not known or not new.isdisjoint(names.of))
        lasting, called = self._memory.lasting.get(base, True), next(iter(units.values()))[0].called
        free = [name for name in known.values() if name not in names.used]
        kept = set(known.values())
        for identity in [identity for identity in units if identity not in names.of]:
            if free and not (lasting and identity in ready):
                names.give(identity, free.pop(0))  # nothing tells which it is: no stream begins again
            else:
                names.give(identity, await self._further(base, called, names.used, kept))
        self._enter(base, {identity: names.of[identity] for identity in units if identity in ready}, called=called)
        if len(units) > 1:
            patterns = {identity.split("\n", 3)[3] for identity in units}
            self._report(base, list(names.of.values()), told_apart=lasting and len(patterns) == len(units))
        return names.of

    def _enter(self, base: str, names: dict[str, str], *, called: str) -> None:
        """Keep what tells several rows of a node apart now, in place of what did."""
        used = set(names.values())
        for identity, name in self._several(base).items():
            if name in used and names.get(identity) != name:
                self._book.forget(identity)
        for identity, name in names.items():
            known = self._book.names.get(identity)
            if known is None or known.name != name:
                self._book.enter(identity, name, called=called)

    def _report(self, base: str, names: Sequence[str], *, told_apart: bool) -> None:
        """Report once that the cloud has several files of one node, and what that means for the streams."""
        if (base, told_apart) in self._book.reported:
            return
        self._book.reported.add((base, told_apart))
        means = "each is a stream of its own, told by the names of the files"
        if not told_apart:
            means = (
                "nothing that lasts tells them apart: they are taken in the order of the files' names, so that lines"
                " may come in another's stream, or twice with a gap reported; open a ticket with the cloud"
            )
        log.warning(
            "node.several_files",
            instance=self._instance.name,
            log=self._kind.value,
            nodes=names[:MOST_REPORTED],
            means=means,
        )

    async def _begun(self, base: str, units: dict[str, list[Row]]) -> dict[str, str]:
        """Return the names that a node had files under before there were several rows of it, as ``_several`` does."""
        stored = {name: file for (name, kind), file in (await self._stored()).items() if kind is self._kind and file}
        if base == _NAME:
            names = sorted(name for name in stored if _LEGACY.fullmatch(name) or name == UNNAMED)
        else:
            names = [await self._name(base, next(iter(units.values()))[0].called)]
        begun: dict[str, str] = {}
        numbers: Counter[str] = Counter()
        for name in filter(stored.__contains__, names):
            pattern = pattern_of(stored[name])
            numbers[pattern] += 1
            begun[_identity(f"{base}\n{self._kind}", numbers[pattern], pattern)] = name
        return begun

    async def _name(self, base: str, called: str) -> str:
        """Return the name of a node that has one row."""
        known = self._book.names.get(base)
        if known is None:
            return (
                await self._id_name(base, called) if base.startswith(_NODE) else await self._called_name(base, called)
            )
        if called and called != known.called:
            if known.called:
                log.info("node.renamed", instance=self._instance.name, node=known.name, called=called)
            self._book.enter(base, known.name, called=called)
        return known.name

    async def _id_name(self, base: str, called: str) -> str:
        """Return the name of a node whose id was not known before: that under which its stream was begun, if any."""
        id_ = base.removeprefix(_NODE)
        begun = self._book.names.get(_by_name(called)) if called else None
        if begun is not None:
            self._book.forget(_by_name(called))
            self._book.enter(base, begun.name, called=called)
            return begun.name
        await self._stored()
        stored = self._stored_ids.get(id_, "")
        name = stored if stored and not self._is_owned(base, stored) else called or id_
        if self._is_owned(base, name):
            name = await self._distinct(base, name, first=f"{name}-{id_}")
        self._book.enter(base, name, called=called)
        return name

    async def _called_name(self, base: str, called: str) -> str:
        """Return the name of a node whose id is not known: what the cloud calls it, unless another has that."""
        if called and not self._is_owned(base, called):
            return called  # and so it is at any time: nothing has to be kept
        name = called or UNNAMED
        if not called:
            before = {name for name, _ in await self._stored() if _LEGACY.fullmatch(name)}
            name = before.pop() if len(before) == 1 else UNNAMED
        if self._is_owned(base, name) or (name == UNNAMED and name in self._called):
            name = await self._distinct(base, name)
        self._book.enter(base, name, called=called)
        return name

    async def _further(self, base: str, called: str, used: Collection[str], kept: Collection[str]) -> str:
        """Return a name for one more of several rows."""
        name = await self._name(base, called)
        return name if name not in used and name not in kept else await self._distinct(base, name, used=used, kept=kept)

    def _is_owned(self, base: str, name: str) -> bool:
        """Return whether another node has a name. A row without an id may be of any node that is called like it."""
        if self._used.get(name, base) != base:
            return True
        for one in self._book.owners.get(name, ()):
            root = _root(one)
            now = self._called_now.get(root, self._book.names[one].called)
            if root != base and not (root.startswith(_NODE) and base == _by_name(now)):
                return True
        return False

    async def _distinct(
        self, base: str, name: str, *, first: str = "", used: Collection[str] = (), kept: Collection[str] = ()
    ) -> str:
        """Return a name that is like another, and that nobody has."""
        await self._stored()
        if first and first not in self._called and first not in self._listed and not self._is_owned(base, first):
            return first
        while True:
            self._numbers[name] += 1
            one = f"{name}-{self._numbers[name] + 1}"
            own = any(_root(owner) == base for owner in self._book.owners.get(one, ()))  # of the other kind of log
            if one in used or one in kept or one in self._called or one in self._listed:
                continue
            if own or not (one in self._stored_names or self._is_owned(base, one)):
                return one

    async def _stored(self) -> dict[tuple[str, LogKind], str]:
        """Return the newest file of each node and kind that is in the ledger."""
        if self._files is None:
            self._files = await self._ledger.newest_file_names(self._instance.name)
            self._stored_names = {name for name, _ in self._files}
            self._stored_ids = {DDS.node_id_in(file): name for (name, _), file in self._files.items()}
        return self._files


@dataclass(slots=True)
class _Given:
    """Names of several rows: no two have the same."""

    of: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def give(self, identity: str, name: str | None) -> None:
        """Set the name of a row, unless it has one, or another has this one."""
        if name is not None and identity not in self.of and name not in self.used:
            self.of[identity] = name
            self.used.add(name)


def _by_id(node_id: str) -> str:
    return f"{_NODE}{_escaped(node_id)}"


def _by_name(called: str) -> str:
    return f"{_NAME}{_escaped(called)}"


def _escaped(text: str) -> str:
    """Return a text without line ends, which divide what tells rows apart."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _root(identity: str) -> str:
    """Return the node that one of several rows is of."""
    return identity.partition("\n")[0]


def _beginning(identity: str) -> str:
    """Return node and kind of log of one of several rows; the node itself of what is no such row."""
    return "\n".join(identity.split("\n", 2)[:2])


def _units(beginning: str, rows: dict[int, Row]) -> dict[str, list[int]]:
    """Return the places of a node's rows in order, by what tells them apart: the file's pattern, and the place in it.

    Where the names hold the node's id and differ in their times only, they are exports of one log, one after the other.
    """
    units: dict[str, list[int]] = {}
    numbers: Counter[tuple[str, str]] = Counter()
    for place in sorted(rows, key=lambda place: (*_order(rows[place]), place)):
        row = rows[place]
        pattern = pattern_of(row.file_name)
        like = (pattern, row.file_name if row.node_id and row.node_id in row.file_name else "")
        numbers[like] += 1
        units.setdefault(_identity(beginning, numbers[like], pattern), []).append(place)
    return units


def _identity(beginning: str, number: int, pattern: str) -> str:
    return f"{beginning}\n{number}\n{pattern}"


def _is_ready(row: Row) -> bool:
    return row.state is RowState.READY


def _each_once(rows: Iterable[Row]) -> list[Row]:
    """Return the rows without those that speak of the same object, or are equal, of the same node."""
    found: dict[tuple[object, ...], Row] = {}
    for row in rows:
        rest = _object(row) or (row.file_name, row.state, row.updated_at)
        found.setdefault((row.node_id or row.called, rest), row)
    return list(found.values())


def _order(row: Row) -> tuple[bool, str, str]:
    """Return the place of a row among several; one that has no file yet, and so no name of it, is behind."""
    return row.state is not RowState.READY and row.file_name == DDS.no_file_name, row.file_name, _object(row)


def _file(row: Row) -> tuple[str, str]:
    return row.file_name, _object(row)


def _object(row: Row) -> str:
    """Return where a row's file is, without what signs the link; empty where it is not ready."""
    try:
        link = urlsplit(row.url or "")
    except ValueError:
        return row.url or ""
    return f"{link.netloc}{link.path}"
