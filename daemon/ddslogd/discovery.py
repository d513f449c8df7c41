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

from ddslogd.errors import CloudError, NotAllowed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ddslogd.cloud.api import Api
    from ddslogd.config import Discover, DiscoverEntry, Settings
    from ddslogd.models import Instance, ListedInstance
    from ddslogd.roster import Roster
    from ddslogd.storage.ledger import Ledger

log = structlog.get_logger()

Key = tuple[str, str]
"""An instance's cloud and id."""

BATCH = 500  # instances whose nodes are entered together
PATIENCE = 2  # refreshes in a row without an instance until it counts as gone
# Real time. A list may wait for the account's budget and be retried, but not for longer than from refresh to refresh.
LIST_LIMIT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
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
    """Say why an instance does not match a rule; None where it does."""
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
) -> tuple[Verdict, ...]:
    """Match each listed instance against the entries of its cloud; the first that fits takes it.

    Entries that name an instance win over those that discover. What has a name among ``names`` keeps it, whatever it
    is called now. What has none takes its own, with the id behind it where another has that name.
    """
    explicit = {(instance.cloud, instance.id): instance for instance in settings.fleet()}
    chosen = [
        (cloud, listed, *_first_match(settings, cloud, listed))
        for cloud, instances in listings.items()
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
            Verdict(
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
    """Give each discovered instance a name that no other has: two with one name would share a directory."""
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
    settings: Settings, cloud: str, listed: ListedInstance
) -> tuple[DiscoverEntry | None, str, tuple[str, ...]]:
    reasons: list[str] = []
    for place, entry in settings.discover_entries(cloud):
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
        settings: Settings,
        roster: Roster,
        ledger: Ledger,
        gone: Callable[[Instance], Awaitable[None]],
    ) -> None:
        """Prepare.

        Args:
            apis: By the name of the cloud.
            settings: Of the whole daemon.
            roster: Is told of the nodes of instances that are collected from.
            ledger: Is told of them too.
            gone: Is told of each instance that the cloud has no more.
        """
        self._apis = apis
        self._settings = settings
        self._roster = roster
        self._ledger = ledger
        self._gone = gone
        self._discovered: dict[Key, Instance] = {}
        self._unseen: Counter[Key] = Counter()  # refreshes in a row
        self._quiet: set[str] = set()  # clouds whose list we may not see, and were told so
        self._unlisted: dict[str, str] = {}  # why, by cloud
        self._anew: set[str] = set()  # clouds that have not been listed since the settings changed

    def take_over(self, settings: Settings, *, apis: Mapping[str, Api]) -> None:
        """Go by other settings and clouds; ``refresh`` is to follow.

        Until it has heard from a cloud, what was discovered there stays as it is, where something is still to be
        discovered there.
        """
        self._settings, self._apis = settings, apis
        self._anew = {name for name in apis if settings.discover_entries(name)}
        named = {(one.cloud, one.id) for one in settings.fleet()}
        names = {one.name for one in settings.fleet()}
        self._discovered = {
            key: one
            for key, one in self._discovered.items()
            if key[0] in self._anew and key not in named and one.name not in names
        }
        self._unseen.clear()
        self._unlisted = {name: why for name, why in self._unlisted.items() if name in self._anew}

    def fleet(self) -> tuple[Instance, ...]:
        """Give all instances that are collected from, as of the last refresh."""
        return (*self._settings.fleet(), *self._discovered.values())

    def unlisted(self) -> dict[str, str]:
        """Give the clouds whose lists are needed and could not be had by the last refresh, and why."""
        return dict(self._unlisted)

    async def refresh(self) -> tuple[Verdict, ...]:
        """Ask each cloud for its list and bring the fleet in line; a cloud that does not answer changes nothing.

        Raises:
            StorageError: The ledger cannot be used. The fleet stays as it is.
        """
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(self._list(name), name=f"list of {name}") for name in self._apis}
        listings = {name: listing for name, task in tasks.items() if (listing := task.result()) is not None}
        verdicts = await self._judged(listings)
        nodes = {one.instance.name: one.listed.nodes for one in verdicts if one.instance is not None}
        for name, listed_nodes in nodes.items():
            self._roster.enter(name, listed_nodes)
        names = list(nodes)
        for start in range(0, len(names), BATCH):
            await self._ledger.enter_nodes({name: nodes[name] for name in names[start : start + BATCH]})
        listed = {(verdict.cloud, verdict.listed.id) for verdict in verdicts}
        unwanted = {key for key in listed if key[0] in self._anew}  # where no entry takes it: the operator said so
        disappeared = self._bring_in_line(self._taken(verdicts), asked=set(listings), unwanted=unwanted)
        self._anew -= set(listings)
        for instance in disappeared:
            if (instance.cloud, instance.id) not in listed:  # else it is there, and no entry wants it
                await self._gone(instance)
        return verdicts

    async def _judged(self, listings: Mapping[str, Sequence[ListedInstance]]) -> tuple[Verdict, ...]:
        """Judge, and note the names that are given before anything is stored under them."""
        entered = await self._ledger.names()
        known = entered | {key: instance.name for key, instance in self._discovered.items()}  # it may be a new ledger
        # Ten thousand take a second: not in the loop.
        verdicts = await asyncio.to_thread(judge, self._settings, listings, names=known)
        given = {key: instance.name for key, instance in self._taken(verdicts).items()}
        new = {key: name for key, name in given.items() if entered.get(key) != name}
        if new:
            await self._ledger.enter_names(new)
        return verdicts

    def _taken(self, verdicts: Sequence[Verdict]) -> dict[Key, Instance]:
        """Give the instances that entries discovered, not those that entries name."""
        explicit = {(instance.cloud, instance.id) for instance in self._settings.fleet()}
        return {
            (verdict.cloud, verdict.listed.id): verdict.instance
            for verdict in verdicts
            if verdict.instance is not None and (verdict.cloud, verdict.listed.id) not in explicit
        }

    async def _list(self, cloud: str) -> tuple[ListedInstance, ...] | None:
        needed = bool(self._settings.discover_entries(cloud))
        try:
            listing = await self._in_time(cloud)
        except CloudError as exc:
            if needed or cloud not in self._quiet:
                tell = log.warning if needed else log.info
                tell("discovery.failed", cloud=cloud, reason=str(exc), todo=_todo(exc, needed=needed))
            self._quiet.add(cloud)
            if needed:
                self._unlisted[cloud] = str(exc)
            return None
        self._quiet.discard(cloud)
        self._unlisted.pop(cloud, None)
        return listing

    async def _in_time(self, cloud: str) -> tuple[ListedInstance, ...]:
        """Give a cloud's list, or end it after the limit: one that hangs must not keep the others' fleet as it is."""
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
    return "wait: the list is asked for again; until then the instances stay as they are"
