"""Rules between settings that no single one can hold. Pure.

They read the values as they came, so that one bad value hides no other complaint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import PydanticCustomError

from ddslogd.config.section import Section, default_of, guess, raw_value
from ddslogd.config.settings import SECOND, Cloud, Collected, Export, Schedule
from ddslogd.config.types import cron_that_fires, known_timezone
from ddslogd.model.addresses import is_loopback
from ddslogd.model.instance import Cron
from ddslogd.model.units import UnitError, read_duration, spell_duration
from ddslogd.scheduling.backoff import bucket
from ddslogd.scheduling.call_rate import CALLS_PER_CYCLE, calls_needed, tenths
from ddslogd.scheduling.triggers import shortest_interval

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from ddslogd.config.yaml_positions import Location

_SAME_FILES: Final = "the cloud would serve the same files"


def broken(raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Find what sections say against each other: where, and what."""
    entries = _entries(raw)
    yield from _unknown_clouds(entries, raw.get("clouds"))
    yield from _taken(entries)
    yield from _cut_short(raw)
    snapshots = raw_value(raw.get("storage"), "snapshots")
    if snapshots in {"latest", "none"} and raw_value(raw.get("stream"), "enabled") is False:
        yield ("storage", "snapshots"), f"{snapshots} needs stream.enabled: else the lines of older ones would be lost"


def _timing(section: type[Section], raw: object, name: str) -> timedelta:
    """Read a duration of a raw section; its default where there is none that can be read."""
    try:
        return read_duration(raw_value(raw_value(raw, section.__name__.lower()), name))
    except UnitError:
        duration: timedelta = default_of(section, name)
        return duration


def _cut_short(raw: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Find a cycle that ends before its export is given up: at its limit, or at the export's if that alone is given."""
    limit, give_up = _timing(Schedule, raw, "cycle_timeout"), _timing(Export, raw, "give_up_after")
    if limit >= give_up:
        return
    if raw_value(raw.get("schedule"), "cycle_timeout") is None:
        text = f"is {spell_duration(give_up)}, above schedule.cycle_timeout ({spell_duration(limit)})"
        yield ("export", "give_up_after"), text
    else:
        text = f"is {spell_duration(limit)}, below export.give_up_after ({spell_duration(give_up)})"
        yield ("schedule", "cycle_timeout"), text


def _entries(raw: object) -> list[object]:
    """Return the raw entries under instances; nothing where that is no list."""
    entries = raw_value(raw, "instances")
    return list(entries) if isinstance(entries, list | tuple) else []


def _unknown_clouds(entries: list[object], clouds: object) -> Iterator[tuple[Location, str]]:
    """Find entries that name no known cloud, or none where there are several."""
    if not isinstance(clouds, Mapping) or not clouds:
        return
    for index, entry in enumerate(entries):
        match raw_value(entry, "cloud"):
            case str(cloud) if cloud not in clouds:
                yield ("instances", index, "cloud"), f"there is no {cloud!r} under clouds{guess(cloud, clouds)}"
            case None if len(clouds) > 1 and isinstance(entry, Mapping | Collected):
                yield ("instances", index, "cloud"), f"is missing: there are {len(clouds)} clouds to choose from"


def _taken(entries: list[object]) -> Iterator[tuple[Location, str]]:
    """Find entries whose id or name is another's, or whose name is another's id."""
    ids, names = _firsts(entries, "id"), _firsts(entries, "name")
    for index, entry in enumerate(entries):
        own_id, name = raw_value(entry, "id"), raw_value(entry, "name")
        if isinstance(own_id, str) and ids[own_id] != index:
            yield ("instances", index, "id"), f"is the id of instances[{ids[own_id]}] too"
        if isinstance(name, str) and names[name] != index:
            yield ("instances", index, "name"), f"is the name of instances[{names[name]}] too"
        elif isinstance(name, str) and ids.get(name, index) != index:
            yield ("instances", index, "name"), f"is the id of instances[{ids[name]}]"


def _firsts(entries: list[object], key: str) -> dict[str, int]:
    """Map each text under a key to the first entry that has it."""
    firsts: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if isinstance(text := raw_value(entry, key), str):
            firsts.setdefault(text, index)
    return firsts


def shortest_time_between(section: object, usual: timedelta | None, timezone: str) -> timedelta | None:
    """Return the shortest time between runs of a raw section; ``usual`` where it has no schedule, None if a bad one."""
    every, cron = raw_value(section, "every"), raw_value(section, "cron")
    if every is None and cron is None:
        return usual
    try:
        if isinstance(cron, str):
            zone = known_timezone(raw_value(section, "timezone") or timezone)
            return shortest_interval(Cron(expression=cron_that_fires(cron), timezone=zone))
        every = read_duration(every)
    except (PydanticCustomError, UnitError, TypeError):
        return None
    return every if every >= SECOND else None


def warnings(raw: object) -> Iterator[tuple[Location, str]]:
    """Find what runs, but not as the operator may think."""
    schedule, entries, clouds = raw_value(raw, "schedule"), _entries(raw), raw_value(raw, "clouds")
    timezone = raw_value(schedule, "timezone") or default_of(Schedule, "timezone")
    usual = shortest_time_between(schedule, default_of(Schedule, "every"), timezone)
    gaps = [shortest_time_between(entry, usual, timezone) for entry in entries]
    fresh_for = _timing(Export, raw, "fresh_for")
    yield from _served_again(("schedule",), schedule, usual, fresh_for)
    for index, (entry, gap) in enumerate(zip(entries, gaps, strict=True)):
        yield from _served_again(("instances", index), entry, gap, fresh_for)
    if isinstance(clouds, Mapping):
        yield from _over_budget(clouds, entries, gaps)
    yield from _beyond_loopback(raw_value(raw, "web"))


def _beyond_loopback(web: object) -> Iterator[tuple[Location, str]]:
    """Warn of a page that other hosts can read."""
    listen = raw_value(web, "listen")
    if raw_value(web, "enabled") is False or not isinstance(listen, str):
        return
    host = listen.rpartition(":")[0].strip("[]")
    if not is_loopback(host):
        text = f"{listen} is not loopback: there is no login, so let a firewall say who may reach it"
        yield ("web", "listen"), text


def _served_again(
    where: Location, section: object, gap: timedelta | None, fresh_for: timedelta
) -> Iterator[tuple[Location, str]]:
    """Warn of runs before the cloud exports again: at the schedule, or at the limit if that alone is given."""
    if gap is None or gap >= fresh_for:
        return
    spelled, limit = spell_duration(gap), spell_duration(fresh_for)
    if raw_value(section, "cron") is not None:
        yield (*where, "cron"), f"has ticks {spelled} apart, below export.fresh_for ({limit}): {_SAME_FILES}"
    elif raw_value(section, "every") is not None:
        yield (*where, "every"), f"is {spelled}, below export.fresh_for ({limit}): {_SAME_FILES}"
    elif where == ("schedule",):
        yield ("export", "fresh_for"), f"is {limit}, above schedule.every ({spelled}): {_SAME_FILES}"


def _over_budget(
    clouds: Mapping[str, object], entries: list[object], gaps: list[timedelta | None]
) -> Iterator[tuple[Location, str]]:
    """Warn of accounts whose instances need more calls than they have."""
    only = next(iter(clouds)) if len(clouds) == 1 else None
    cycles: dict[object, list[tuple[timedelta, int]]] = {name: [] for name in clouds}
    for entry, gap in zip(entries, gaps, strict=True):
        cloud = raw_value(entry, "cloud") or only
        if gap is not None and isinstance(cloud, str) and cloud in cycles:
            cycles[cloud].append((gap, _kinds(entry)))
    for name, account in clouds.items():
        own = cycles[name]
        need = calls_needed(own)
        budget = raw_value(account, "calls_per_minute")
        budget = budget if isinstance(budget, int) else default_of(Cloud, "calls_per_minute")
        steady = bucket(budget)[1]
        if need > steady:
            calls = f"{tenths(need)} (instances: {len(own)}, {float(CALLS_PER_CYCLE):g} calls a cycle)"
            text = f"{budget} is too few (in the long run it is {steady:g}): the schedules need {calls}"
            yield ("clouds", name, "calls_per_minute"), text


def _kinds(entry: object) -> int:
    """Count the kinds of log of a raw entry; one where it does not say, or not rightly."""
    logs = raw_value(entry, "logs")
    return max(1, len(set(map(str, logs)))) if isinstance(logs, list | tuple) else 1
