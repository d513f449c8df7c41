"""How long a lease lasts, and what follows from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """The terms of all leases; the same for all members.

    Attributes:
        ttl: From a renewal to the end, by PostgreSQL's clock.
    """

    ttl: timedelta

    @property
    def renew_every(self) -> timedelta:
        """Return the time between two renewals, of which some may fail."""
        return self.ttl / 6

    @property
    def margin(self) -> timedelta:
        """Return how long before its end a lease is no longer used: clocks do not run at one pace."""
        return self.ttl / 12

    @property
    def patience(self) -> timedelta:
        """Return how long one statement may take before the connection is given up."""
        return self.ttl / 6

    @property
    def floor(self) -> timedelta:
        """Return the least time between two looks at the cluster, however often there is news."""
        return min(_SECOND, self.ttl / 120)
