"""Which instances there are to collect from: those of the configuration, and those that the clouds list and it matches.

each cloud ─► list of instances ─► matched against the entries ─► fleet ─► scheduler
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import structlog

from ddslogd.errors import CloudError, NotAllowed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ddslogd.cloud.api import Api
    from ddslogd.config import Discover, DiscoverEntry, Settings
    from ddslogd.models import Instance, ListedInstance
    from ddslogd.roster import Roster
    from ddslogd.storage.ledger import Ledger

log = structlog.get_logger()

PATIENCE = 2  # refreshes in a row without an instance until it counts as gone


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


def judge(settings: Settings, listings: Mapping[str, Sequence[ListedInstance]]) -> tuple[Verdict, ...]:
    """Match each listed instance against the entries of its cloud; the first that fits takes it.

    Entries that name an instance win over those that discover. A name that several have is made different by the id.
    """
    explicit = {(instance.cloud, instance.id): instance for instance in settings.fleet()}
    taken = Counter(instance.name for instance in settings.fleet())
    chosen = [
        (cloud, listed, *_first_match(settings, cloud, listed))
        for cloud, instances in listings.items()
        for listed in instances
    ]
    taken.update(
        listed.name for cloud, listed, entry, *_ in chosen if entry is not None and (cloud, listed.id) not in explicit
    )
    verdicts = []
    for cloud, listed, entry, place, reasons in chosen:
        instance = explicit.get((cloud, listed.id))
        if instance is not None:
            place = settings.place_of(instance.id)  # noqa: PLW2901  # it wins over what was discovered
        elif entry is not None:
            unique = bool(listed.name) and taken[listed.name] == 1
            name = listed.name if unique else f"{listed.name}-{listed.id[:8]}".lstrip("-")
            instance = settings.discovered(entry, id_=listed.id, name=name, cloud=cloud)
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

    def __init__(self, *, apis: Mapping[str, Api], settings: Settings, roster: Roster, ledger: Ledger) -> None:
        """Prepare.

        Args:
            apis: By the name of the cloud.
            settings: Of the whole daemon.
            roster: Is told of the nodes of instances that are collected from.
            ledger: Is told of them too.
        """
        self._apis = apis
        self._settings = settings
        self._roster = roster
        self._ledger = ledger
        self._discovered: dict[str, Instance] = {}  # by id
        self._unseen: Counter[str] = Counter()  # refreshes in a row
        self._quiet: set[str] = set()  # clouds whose list we may not see, and were told so

    def fleet(self) -> tuple[Instance, ...]:
        """Give all instances that are collected from, as of the last refresh."""
        return (*self._settings.fleet(), *self._discovered.values())

    async def refresh(self) -> tuple[Verdict, ...]:
        """Ask each cloud for its list and bring the fleet in line; a cloud that does not answer changes nothing."""
        listings = {name: listing for name in self._apis if (listing := await self._list(name)) is not None}
        verdicts = judge(self._settings, listings)
        for verdict in verdicts:
            if verdict.instance is not None:
                self._roster.enter(verdict.instance.name, verdict.listed.nodes)
                await self._ledger.enter_nodes(verdict.instance.name, verdict.listed.nodes)
        self._bring_in_line(verdicts, asked=set(listings))
        return verdicts

    async def _list(self, cloud: str) -> tuple[ListedInstance, ...] | None:
        try:
            listing = await self._apis[cloud].instances()
        except CloudError as exc:
            needed = bool(self._settings.discover_entries(cloud))
            if needed or cloud not in self._quiet:
                tell = log.warning if needed else log.info
                tell("discovery.failed", cloud=cloud, reason=str(exc), todo=_todo(exc, needed=needed))
            self._quiet.add(cloud)
            return None
        self._quiet.discard(cloud)
        return listing

    def _bring_in_line(self, verdicts: Sequence[Verdict], *, asked: set[str]) -> None:
        explicit = {instance.id for instance in self._settings.fleet()}
        now = {
            verdict.instance.id: verdict.instance
            for verdict in verdicts
            if verdict.instance is not None and verdict.instance.id not in explicit
        }
        for instance in now.values():
            self._unseen.pop(instance.id, None)
            if instance.id not in self._discovered:
                log.info("instance.appeared", instance=instance.name, id=instance.id, cloud=instance.cloud)
            self._discovered[instance.id] = instance
        for instance in [one for one in self._discovered.values() if one.cloud in asked and one.id not in now]:
            self._unseen[instance.id] += 1
            if self._unseen[instance.id] >= PATIENCE:
                del self._discovered[instance.id], self._unseen[instance.id]
                log.warning("instance.disappeared", instance=instance.name, id=instance.id, cloud=instance.cloud)


def _todo(exc: CloudError, *, needed: bool) -> str:
    if not needed:
        return "nothing has to be done; with the right dds:instance:list, nodes that are left out would be noticed"
    if isinstance(exc, NotAllowed):
        return "grant dds:instance:list"
    return "wait: the list is asked for again; until then the instances stay as they are"
