"""Which member is to own which instance. Pure.

Each member draws a number for each instance, from a hash of both names, and the highest owns it (rendezvous hashing):
all members come to the same result without asking each other, and where one comes or goes only its own share moves.
With a weight w the draw h, even between 0 and 1, counts as -w / ln h, so that shares are by weight.
D. Thaler, C. Ravishankar: Using name-based mappings to increase hit rates, 1998. Weights: C. Schindelhauer,
G. Schomaker: Weighted distributed hash tables, 2005.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from math import log
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta

    from ddslogd.cluster.leases import Lease
    from ddslogd.model.cluster import Member

MOST_MOVES: Final = 1
"""So many instances a member asks others for between two renewals: three a minute by the default TTL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a member does next.

    Attributes:
        claims: Nobody owns these.
        asks: Others own these, and are to hand them over.
        leaving: It owns these itself, and is to hand them over.
    """

    claims: frozenset[str] = frozenset()
    asks: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()


def ranking(instance: str, members: Iterable[Member]) -> list[str]:
    """Return the names of those that may own an instance, who is to own it first."""
    eligible = [member for member in members if not member.draining]
    return [one.name for one in sorted(eligible, key=lambda one: (-_draw(instance, one), one.name))]


def placed(
    me: str, *, fleet: Iterable[str], members: Sequence[Member], leases: Mapping[str, Lease], wait: timedelta
) -> Placement:
    """Return what a member does next.

    An instance stays where it is until its owner is gone, is drained, or is asked for it.

    Args:
        me: Its name.
        fleet: The instances that it knows.
        members: Those that live.
        leases: All of them, by instance.
        wait: How long each member in the ranking waits for the one before to claim what is free. The first may not know
            the instance.
    """
    claims, asks, leaving = set(), [], set()
    known = set(fleet)
    others = {member.name for member in members if not member.draining} - {me}
    is_drained = bool(others) and any(member.name == me and member.draining for member in members)
    living = {member.name for member in members}
    for instance, lease in leases.items():
        if lease.collector == me:
            if is_drained or instance not in known or _is_to_move(lease, members, others):
                leaving.add(instance)
        elif instance in known and (ranked := ranking(instance, members)) and me in ranked:
            if lease.collector is None and ranked.index(me) * wait <= lease.free_for:
                claims.add(instance)
            elif lease.collector in living and ranked[0] == me and lease.asked_by != me:
                asks.append(instance)
    return Placement(claims=frozenset(claims), asks=frozenset(sorted(asks)[:MOST_MOVES]), leaving=frozenset(leaving))


def _is_to_move(lease: Lease, members: Sequence[Member], others: set[str]) -> bool:
    """Return whether another member asks for it that is to own it."""
    return lease.asked_by in others and ranking(lease.instance, members)[0] == lease.asked_by


def _draw(instance: str, member: Member) -> float:
    return -member.weight / log(_even(instance, member.name))


@lru_cache(maxsize=1 << 17)
def _even(instance: str, name: str) -> float:
    """Return a number above 0 and below 1, the same on every host."""
    digest = blake2b(f"{name}\0{instance}".encode(), digest_size=8).digest()
    return ((int.from_bytes(digest) >> 12) + 0.5) / 2**52  # 53 bits of a float: neither end is reached by rounding
