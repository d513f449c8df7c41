"""What the page's address asks for: which instances, in which order. Pure; what it does not know is ignored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ddslogd.monitoring.status import InstanceStatus

ROWS = 200  # of one page; a browser lays them out in a blink
ALL = "all"
NEW_GAPS = "24h"
STATES = ("stale", "new", "fresh")  # worst first
_LONGEST = 200  # characters of a filter
_NEVER = datetime.min.replace(tzinfo=UTC)

# By what a list can be sorted; True where the greatest comes first at the first click.
_KEYS: dict[str, tuple[Callable[[InstanceStatus], Any], bool]] = {
    "state": (lambda instance: STATES.index(instance.state), False),
    "name": (lambda instance: instance.name.casefold(), False),
    "newest": (lambda instance: instance.newest_line or _NEVER, False),
    "age": (lambda instance: float("inf") if instance.age_s is None else instance.age_s, True),
    "cycle": (lambda instance: instance.last_cycle.finished_at if instance.last_cycle else _NEVER, True),
    "bytes": (lambda instance: sum(instance.new_bytes), True),
    "next": (lambda instance: instance.next_tick or datetime.max.replace(tzinfo=UTC), False),
}
SORTS = tuple(_KEYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A part of the address.

    Attributes:
        q: Words, each of which an instance's name, id, cloud or trouble has; in any case.
        state: Only instances in it; empty for all.
        gaps: Only instances of which a gap was noticed within the last 24 hours.
        sort: One of ``SORTS``.
        reverse: The other way round than the first click gives.
        page: From 1.
        whole: All of them at once, in place of a page.
    """

    q: str = ""
    state: str = ""
    gaps: bool = False
    sort: str = "state"
    reverse: bool = False
    page: int = 1
    whole: bool = False

    def href(self, **changes: Any) -> str:
        """Return the address of the same list with something else; it begins again at its first page."""
        other = replace(self, **{"page": 1, **changes})
        said = {
            "q": other.q,
            "state": other.state,
            "gaps": NEW_GAPS if other.gaps else "",
            "sort": other.sort if other.sort != "state" else "",
            "order": "reverse" if other.reverse else "",
            "page": str(other.page) if other.page > 1 else "",
            "show": ALL if other.whole else "",
        }
        return "?" + urlencode({name: value for name, value in said.items() if value})

    def sorted_by(self, sort: str) -> str:
        """Return the address of the list sorted by a column; once more turns it round."""
        return self.href(sort=sort, reverse=sort == self.sort and not self.reverse)

    @property
    def descending(self) -> bool:
        """Return whether the greatest comes first."""
        return _KEYS[self.sort][1] != self.reverse


def read(asked: Mapping[str, str]) -> Query:
    """Read the query of an address."""
    page = asked.get("page", "")
    typed = asked.get("q", "")[:_LONGEST].encode(errors="replace").decode()  # a surrogate is in no address
    return Query(
        q=" ".join(typed.split()),
        state=state if (state := asked.get("state", "")) in STATES else "",
        gaps=asked.get("gaps", "") == NEW_GAPS,
        sort=sort if (sort := asked.get("sort", "")) in _KEYS else "state",
        reverse=asked.get("order", "") == "reverse",
        page=max(1, int(page)) if page.isascii() and page.isdecimal() and len(page) < len("1000000") else 1,
        whole=asked.get("show", "") == ALL,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSelection:
    """What is shown of a list.

    Attributes:
        shown: The rows.
        found: How many fit.
        first: The place of the first that is shown, from 1; 0 where none is.
        page: Which page that is: the last where the address asks beyond it.
        pages: How many there are, at least one.
    """

    shown: tuple[InstanceStatus, ...]
    found: int
    first: int
    page: int
    pages: int

    @property
    def last(self) -> int:
        """Return the place of the last that is shown."""
        return self.first + len(self.shown) - 1 if self.shown else 0


def select(instances: Iterable[InstanceStatus], query: Query) -> TableSelection:
    """Return what the query asks for."""
    found = _sorted([instance for instance in instances if _fits(instance, query)], query)
    if query.whole:
        return TableSelection(shown=tuple(found), found=len(found), first=min(1, len(found)), page=1, pages=1)
    pages = max(1, -(-len(found) // ROWS))
    page = min(query.page, pages)
    shown = tuple(found[(page - 1) * ROWS : page * ROWS])
    return TableSelection(
        shown=shown, found=len(found), first=(page - 1) * ROWS + min(1, len(shown)), page=page, pages=pages
    )


def _fits(instance: InstanceStatus, query: Query) -> bool:
    if query.state and instance.state != query.state:
        return False
    if query.gaps and not instance.gaps_24h:
        return False
    if not query.q:
        return True
    error = instance.last_cycle.error if instance.last_cycle else ""
    text = f"{instance.name}\n{instance.id}\n{instance.cloud}\n{instance.why}\n{error}".casefold()
    return all(word in text for word in query.q.casefold().split())


def _sorted(instances: Sequence[InstanceStatus], query: Query) -> list[InstanceStatus]:
    """Sort; what is equal stays in the order of names, whichever way round."""
    by_name = sorted(instances, key=lambda instance: instance.name.casefold())
    return sorted(by_name, key=_KEYS[query.sort][0], reverse=query.descending)
