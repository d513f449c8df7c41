"""Collectors that share a fleet: who they are, and which instances one of them owns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Epoch:
    """Names one ownership of an instance: a commit that names an earlier one is refused.

    Attributes:
        number: Grows with each ownership of the instance; 0 where there is one for ever.
    """

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnershipChange:
    """Which instances a collector owns from now on, and which no more, by their ids.

    Attributes:
        gained: With the last run that was committed by whoever owned it; None where none is known.
    """

    gained: Mapping[str, datetime | None] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A collector that shares the fleet.

    Attributes:
        name: Unique among those that live.
        version: Of ddslogd.
        address: Of its page.
        weight: Its share of the instances, by those of the others.
        draining: Whether it hands over what it owns.
        age: Since it last said that it lives, by PostgreSQL's clock.
        instances: So many it owns.
    """

    name: str
    version: str
    address: str
    weight: int = 1
    draining: bool = False
    age: timedelta
    instances: int = 0
