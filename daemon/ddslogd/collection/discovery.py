"""Which instances there are to collect from: those of the configuration, and those that the clouds list and it matches.

each cloud ─► list of instances ─► matched against the entries ─► fleet ─► scheduler
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import structlog

from ddslogd.huaweicloud.error_codes import excess
from ddslogd.huaweicloud.response_limits import MOST_KNOWN
from ddslogd.model.errors import CloudError, ForeignAnswer, Misdirected, NotAllowed, Oversized, Unavailable
from ddslogd.model.line_quota import limited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ddslogd.collection.node_registry import NodeRegistry
    from ddslogd.config.live_settings import LiveSettings
    from ddslogd.config.settings import Discover, DiscoverEntry, Settings
    from ddslogd.huaweicloud.api_client import Api
    from ddslogd.model.instance import Instance, ListedInstance
    from ddslogd.storage.ledger.snapshot_records import Ledger

log = structlog.get_logger()

Key = tuple[str, str]
"""An instance's cloud and id."""

BATCH = 500  # instances whose nodes are entered together
PATIENCE = 2  # refreshes in a row without an instance until it counts as gone
# Real time. A list may wait for the account's budget and be retried, but not for longer than from refresh to refresh.
LIST_LIMIT = timedelta(minutes=10)
NOT_YET = "its first list has not come yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryVerdict:
    """What became of one listed instance.

    Attributes:
        instance: What is collected from; None where nothing matched.
        entry: The place of the entry that matched, as ``instances[2]``; empty where none did.
        reasons: Why the entries of its cloud did not match, in their order.
    """

    listed: ListedInstance
    cloud: str
    instance: Instance | None
    entry: str
    reasons: tuple[str, ...] = ()


def objection(listed: ListedInstance, rule: Discover) -> str | None:
    """Return why an instance does not match a rule; None where it does."""
    if rule.include and not any(fnmatchcase(listed.name, pattern) for pattern in rule.include):
        return f"the name {listed.name!r} is not included"
    excluded = next((pattern for pattern in rule.exclude if fnmatchcase(listed.name, pattern)), None)
    if excluded is not None:
        return f"the name {listed.name!r} is excluded by {excluded!r}"
    tags = dict(listed.tags)
    wrong = next((key for key, value in rule.tags.items() if tags.get(key) != value), None)
    if wrong is not None:
        return f"the tag {wrong!r} is {tags.get(wrong, 'not there')!r}, not {rule.tags[wrong]!r}"
    if rule.modes and listed.mode not in rule.modes:
        return f"the mode is {listed.mode}"
    if rule.statuses and listed.status not in rule.statuses:
        return f"the status is {listed.status}"
    return None


def judge(
    settings: Settings, listings: Mapping[str, Sequence[ListedInstance]], *, names: Mapping[Key, str]
) -> tuple[DiscoveryVerdict, ...]:
    """Match each listed instance against the entries of its cloud; the first that fits takes it.

    Entries that name an instance win over those that discover. What has a name among ``names`` keeps it, whatever it
    is called now. What has none takes its own, with the id behind it where another has that name.
    """
    explicit = {(instance.cloud, instance.id): instance for instance in settings.fleet()}
    chosen = [
        (cloud, listed, *_first_match(entries, listed))
        for cloud, instances in listings.items()
        for entries in (settings.discover_entries(cloud),)  # it reads the whole configuration: once for each cloud
        for listed in instances
    ]
    discovered = [
        (cloud, listed)
        for cloud, listed, entry, *_ in chosen
        if entry is not None and (cloud, listed.id) not in explicit
    ]
    called = _names(discovered, configured={instance.name for instance in explicit.values()}, names=names)
    verdicts, places = [], settings.places()
    for cloud, listed, entry, place, reasons in chosen:
        instance = explicit.get((cloud, listed.id))
        if instance is not None:
            place = places[instance.id]  # noqa: PLW2901  # it wins over what was discovered
        elif entry is not None:
            instance = settings.discovered(entry, id_=listed.id, name=called[cloud, listed.id], cloud=cloud)
        verdicts.append(
            DiscoveryVerdict(
                listed=listed,
                cloud=cloud,
                instance=instance,
                entry=place if instance else "",
                reasons=() if instance else reasons,
            )
        )
    return tuple(verdicts)


def _names(
    discovered: Sequence[tuple[str, ListedInstance]], *, configured: set[str], names: Mapping[Key, str]
) -> dict[Key, str]:
    """Name each discovered instance as no other is: two with one name would share a directory."""
    kept = {key: name for key, name in names.items() if name not in configured}
    new = [(cloud, listed) for cloud, listed in discovered if (cloud, listed.id) not in kept]
    alike = Counter(listed.name for _, listed in new)
    taken = {"", *configured, *names.values(), *(name for name, times in alike.items() if times > 1)}
    for cloud, listed in new:
        name = listed.name
        while name in taken:
            name = f"{name}-{listed.id}".lstrip("-")
        taken.add(name)
        kept[cloud, listed.id] = name
    return kept


def _first_match(
    entries: Sequence[tuple[str, DiscoverEntry]], listed: ListedInstance
) -> tuple[DiscoverEntry | None, str, tuple[str, ...]]:
    reasons: list[str] = []
    for place, entry in entries:
        reason = objection(listed, entry.discover)
        if reason is None:
            return entry, place, ()
        reasons.append(f"{place}: {reason}")
    return None, "", tuple(reasons)


class Discovery:
    """Keeps the fleet in line with what the clouds list."""

    def __init__(
        self,
        *,
        apis: Mapping[str, Api],
        settings: LiveSettings,
        node_registry: NodeRegistry,
        ledger: Ledger,
        gone: Callable[[Instance], Awaitable[None]],
        names_on_disk: Callable[[], Mapping[Key, str]] = dict,
    ) -> None:
        """Prepare.

        Args:
            apis: By the name of the cloud.
            settings: Of the whole daemon.
            node_registry: Is told of the nodes of instances that are collected from.
            ledger: Is told of them too.
            gone: Is told of each instance that the cloud has no more.
            names_on_disk: Returns the names that directories say are their instances'; the ledger may be lost. Blocks.
        """
        self._apis = apis
        self._settings = settings
        self._node_registry = node_registry
        self._ledger = ledger
        self._gone = gone
        self._names_on_disk = names_on_disk
        self._listed: dict[Key, ListedInstance] = {}  # those that are discovered, as they were listed last
        self._discovered: dict[Key, Instance] = {}
        self._unseen: Counter[Key] = Counter()  # refreshes in a row
        self._quiet: set[str] = set()  # clouds whose list we may not see, and were told so
        self._needed = self._needed_of(apis)  # clouds where something is to be discovered
        self._anew = set(self._needed)  # those that were not listed since the settings changed
        self._unlisted = dict.fromkeys(self._anew, NOT_YET)  # why, by cloud

    def _needed_of(self, apis: Mapping[str, Api]) -> set[str]:
        return {name for name in apis if self._settings.current.discover_entries(name)}

    def reloaded(self, apis: Mapping[str, Api]) -> None:
        """Follow the settings, which have changed, to these clouds; ``refresh`` is to come after it.

        Until it has heard from a cloud, what was discovered there stays as it is, where something is still to be
        discovered there.
        """
        known = self._needed - self._unlisted.keys()
        self._apis, self._needed = apis, self._needed_of(apis)
        self._anew = set(self._needed)
        configured = self._settings.current.fleet()
        named, names = {(one.cloud, one.id) for one in configured}, {one.name for one in configured}
        self._discovered = {
            key: one
            for key, one in self._discovered.items()
            if key[0] in self._anew and key not in named and one.name not in names
        }
        self._unseen.clear()
        self._unlisted = {name: self._unlisted.get(name, NOT_YET) for name in self._anew - known}

    def fleet(self) -> tuple[Instance, ...]:
        """Return all instances that are collected from, as of the last refresh."""
        return (*self._settings.current.fleet(), *self._discovered.values())

    def unlisted(self) -> dict[str, str]:
        """Return the clouds whose lists are needed and could not be had by the last refresh, and why."""
        return dict(self._unlisted)

    async def recall(self) -> None:
        """Take up the instances that an earlier process discovered, until their clouds' lists come.

        They are judged by the entries of now, and by what was listed of them last.

        Raises:
            StorageError: The ledger cannot be used.
        """
        for name, nodes in (await self._ledger.nodes()).items():
            self._node_registry.recall(name, nodes)
        if not self._anew:
            return
        names = await self._ledger.names()
        listings: dict[str, list[ListedInstance]] = {}
        for (cloud, id_), listed in (await self._ledger.discovered()).items():
            if listed is not None and cloud in self._anew:
                listings.setdefault(cloud, []).append(listed)
                self._listed[cloud, id_] = listed
            elif cloud in self._anew and (cloud, id_) in names:  # found by an older version: how it was listed is lost
                _, entry = self._settings.current.discover_entries(cloud)[0]
                one = self._settings.current.discovered(entry, id_=id_, name=names[cloud, id_], cloud=cloud)
                self._discovered[cloud, id_] = one
        verdicts = await asyncio.to_thread(judge, self._settings.current, listings, names=names)
        self._discovered |= self._taken(verdicts)
        configured = self._settings.current.fleet()
        named = {(one.cloud, one.id) for one in configured} | {one.name for one in configured}
        for key in [key for key, one in self._discovered.items() if key in named or one.name in named]:
            del self._discovered[key]
        if self._discovered:
            log.info("discovery.recalled", instances=len(self._discovered))

    async def refresh(self) -> tuple[DiscoveryVerdict, ...]:
        """Ask each cloud for its list and bring the fleet in line; a cloud that does not answer changes nothing.

        Raises:
            StorageError: The ledger cannot be used. The fleet stays as it is.
        """
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(self._list(name), name=f"list of {name}") for name in self._apis}
        listings = {name: listing for name, task in tasks.items() if (listing := task.result()) is not None}
        with limited() as lines:
            verdicts = await self._brought_in_line(listings)
        if lines.rest:
            log.warning("lines.left_out", events=dict(lines.rest))
        return verdicts

    async def _brought_in_line(self, listings: dict[str, tuple[ListedInstance, ...]]) -> tuple[DiscoveryVerdict, ...]:
        entered = await self._ledger.names()
        for cloud in [cloud for cloud in listings if self._invents(cloud, listings[cloud], entered)]:
            del listings[cloud]
            what = f"new instances, so that there were more than {MOST_KNOWN} in all"
            self._tell_unlisted(cloud, excess(what))
        verdicts = await self._judged(listings, entered)
        nodes = {one.instance.name: one.listed.nodes for one in verdicts if one.instance is not None}
        for name, listed_nodes in nodes.items():
            self._node_registry.enter(name, listed_nodes)
        names = list(nodes)
        for start in range(0, len(names), BATCH):
            await self._ledger.enter_nodes({name: nodes[name] for name in names[start : start + BATCH]})
        listed = {(verdict.cloud, verdict.listed.id) for verdict in verdicts}
        missed = (one for one in self.fleet() if one.cloud in listings and (one.cloud, one.id) not in listed)
        self._node_registry.outdate(one.name for one in missed)
        unwanted = {key for key in listed if key[0] in self._anew}  # where no entry takes it: the operator said so
        disappeared = self._bring_in_line(self._taken(verdicts), asked=set(listings), unwanted=unwanted)
        self._anew -= set(listings)
        self._listed |= {(one.cloud, one.listed.id): one.listed for one in verdicts}
        self._listed = {key: self._listed[key] for key in self._discovered if key in self._listed}
        for cloud in listings:
            here = [listed for key, listed in self._listed.items() if key[0] == cloud]
            await self._ledger.enter_discovered(cloud, here)
        for instance in disappeared:
            if (instance.cloud, instance.id) not in listed:  # else it is there, and no entry wants it
                await self._gone(instance)
        return verdicts

    def _invents(self, cloud: str, listing: Sequence[ListedInstance], entered: Mapping[Key, str]) -> bool:
        """Return whether a list is of ever new instances: each that is taken has a name in the ledger for life."""
        known = {id_ for name, id_ in entered if name == cloud}
        new = {listed.id for listed in listing} - known
        needed = bool(self._settings.current.discover_entries(cloud))
        return needed and bool(new) and len(known) + len(new) > MOST_KNOWN

    async def _judged(
        self, listings: Mapping[str, Sequence[ListedInstance]], entered: Mapping[Key, str]
    ) -> tuple[DiscoveryVerdict, ...]:
        """Judge, and note the names that are given before anything is stored under them."""
        known = {**entered} | {
            key: instance.name for key, instance in self._discovered.items()
        }  # it may be a new ledger
        verdicts = await self._judged_by(known, listings)
        if not self._taken(verdicts).keys() <= known.keys():  # what has no name yet may have a directory all the same
            used, on_disk = set(known.values()), await asyncio.to_thread(self._names_on_disk)
            more = {key: name for key, name in on_disk.items() if key not in known and name not in used}
            if more:
                verdicts = await self._judged_by(known | more, listings)
        given = {key: instance.name for key, instance in self._taken(verdicts).items()}
        new = {key: name for key, name in given.items() if entered.get(key) != name}
        if new:
            await self._ledger.enter_names(new)
        return verdicts

    async def _judged_by(
        self, names: Mapping[Key, str], listings: Mapping[str, Sequence[ListedInstance]]
    ) -> tuple[DiscoveryVerdict, ...]:
        # Ten thousand take a second: not in the loop.
        return await asyncio.to_thread(judge, self._settings.current, listings, names=names)

    def _taken(self, verdicts: Sequence[DiscoveryVerdict]) -> dict[Key, Instance]:
        """Return the instances that entries discovered, not those that entries name."""
        explicit = {(instance.cloud, instance.id) for instance in self._settings.current.fleet()}
        return {
            (verdict.cloud, verdict.listed.id): verdict.instance
            for verdict in verdicts
            if verdict.instance is not None and (verdict.cloud, verdict.listed.id) not in explicit
        }

    async def _list(self, cloud: str) -> tuple[ListedInstance, ...] | None:
        try:
            listing = await self._in_time(cloud)
        except CloudError as exc:
            self._tell_unlisted(cloud, exc)
            return None
        self._quiet.discard(cloud)
        self._unlisted.pop(cloud, None)
        return listing

    def _tell_unlisted(self, cloud: str, exc: CloudError) -> None:
        """Report that a cloud's list could not be had; its instances stay as they are."""
        needed = bool(self._settings.current.discover_entries(cloud))
        if needed or cloud not in self._quiet:
            tell = log.warning if needed else log.info
            tell("discovery.failed", cloud=cloud, reason=str(exc), todo=_todo(exc, needed=needed))
        self._quiet.add(cloud)
        self._node_registry.outdate(one.name for one in self.fleet() if one.cloud == cloud)
        if needed:
            self._unlisted[cloud] = str(exc)

    async def _in_time(self, cloud: str) -> tuple[ListedInstance, ...]:
        """Return a cloud's list, or end it after the limit: one that hangs must not keep the others' fleet as it is."""
        limit = asyncio.timeout(LIST_LIMIT.total_seconds())
        try:
            async with limit:
                return await self._apis[cloud].instances()
        except TimeoutError as exc:
            if not limit.expired():
                raise
            minutes = LIST_LIMIT // timedelta(minutes=1)
            msg = f"the list of instances did not come within {minutes} minutes"
            raise Unavailable(msg) from exc

    def _bring_in_line(
        self, now: Mapping[Key, Instance], *, asked: set[str], unwanted: set[Key]
    ) -> tuple[Instance, ...]:
        """Take over what there is now; give the instances that are there no more.

        Those that are unwanted go at once.
        """
        disappeared = []
        for key, instance in now.items():
            self._unseen.pop(key, None)
            if key not in self._discovered:
                log.info("instance.appeared", instance=instance.name, id=instance.id, cloud=instance.cloud)
            self._discovered[key] = instance
        for key in [key for key in self._discovered if key[0] in asked and key not in now]:
            self._unseen[key] += 1
            if self._unseen[key] >= PATIENCE or key in unwanted:
                del self._unseen[key]
                instance = self._discovered.pop(key)
                disappeared.append(instance)
                log.warning("instance.disappeared", instance=instance.name, id=instance.id, cloud=instance.cloud)
        return tuple(disappeared)


def _todo(exc: CloudError, *, needed: bool) -> str:
    if not needed:
        return "nothing has to be done; with the right dds:instance:list, nodes that are left out would be noticed"
    if isinstance(exc, NotAllowed):
        return "grant dds:instance:list"
    if isinstance(exc, Misdirected):
        return "correct endpoint or region; until then the instances stay as they are"
    if isinstance(exc, ForeignAnswer):
        return "see the proxy and the firewall on the way to the cloud; until then the instances stay as they are"
    if isinstance(exc, Oversized):
        return "see endpoint, else open a ticket with the cloud; until then the instances stay as they are"
    return "wait: the list is asked for again; until then the instances stay as they are"
