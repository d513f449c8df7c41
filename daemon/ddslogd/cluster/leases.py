"""Who owns an instance until when: the table ``leases``.

A lease is claimed where it has ended or was released, by PostgreSQL's clock, and that raises its epoch. What names an
epoch that is not the lease's any more changes nothing. A released lease has no collector; its epoch stays.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ddslogd.model.cluster import Epoch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from psycopg.rows import DictRow

    from ddslogd.cluster.database import Database
    from ddslogd.cluster.lease_terms import LeaseTerms
    from ddslogd.cluster.members import Registration

KEPT: Final = timedelta(days=30)
"""How long what nobody has owned is remembered: its instance is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The lease of one instance.

    Attributes:
        instance: Its id.
        collector: The name of its owner; None where it can be claimed.
        free_for: Since when it can be; less than zero where it cannot.
        last_run: The last run that was committed; aware, UTC.
        asked_by: The collector that it is to be handed to; None for none.
    """

    instance: str
    epoch: Epoch
    collector: str | None
    free_for: timedelta
    last_run: datetime | None = None
    asked_by: str | None = None


def _read(row: DictRow) -> Lease:
    return Lease(**{**row, "epoch": Epoch(number=row["epoch"])})


async def enter(database: Database, instances: Collection[str]) -> None:
    """Enter instances that have no lease yet: they can be claimed.

    Raises:
        AWAY: Some may have been entered.
    """
    await database.rows(
        """
        INSERT INTO leases (instance, epoch, until)
        SELECT instance, 0, cluster_time() FROM unnest(%(instances)s::text[]) AS instance ORDER BY instance
        ON CONFLICT DO NOTHING
        """,
        instances=list(instances),
    )


async def table(database: Database) -> tuple[Lease, ...]:
    """Return all leases.

    Raises:
        AWAY: PostgreSQL does not say.
    """
    rows = await database.rows(
        """
        SELECT instance, epoch, cluster_time() - until AS free_for, last_run, asked_by,
               CASE WHEN until > cluster_time() THEN collector END AS collector
        FROM leases
        """
    )
    return await asyncio.to_thread(lambda: tuple(map(_read, rows)))  # ten thousand take 50 ms: not in the loop


async def renew(database: Database, me: Registration, terms: LeaseTerms) -> dict[str, Lease]:
    """Renew all leases that the collector has, in one statement; return them by instance.

    One that has ended is its own as long as nobody claimed it.

    Raises:
        AWAY: It is not known whether they are renewed.
    """
    rows = await database.rows(
        """
        UPDATE leases SET until = cluster_time() + %(ttl)s WHERE incarnation = %(incarnation)s
        RETURNING instance, epoch, collector, cluster_time() - until AS free_for, last_run, asked_by
        """,
        incarnation=me.incarnation,
        ttl=terms.ttl,
    )
    return {row["instance"]: _read(row) for row in rows}


async def claim(
    database: Database, me: Registration, instances: Collection[str], terms: LeaseTerms
) -> dict[str, Lease]:
    """Claim what can be claimed of some instances; return that, by instance.

    A row that somebody else is about to change is passed over: so nobody waits for anybody, and no two members for each
    other.

    Raises:
        AWAY: It is not known what was claimed; the next renewal says.
    """
    rows = await database.rows(
        """
        WITH free AS (
            SELECT instance FROM leases
            WHERE instance = ANY(%(instances)s) AND (incarnation IS NULL OR until <= cluster_time())
            FOR UPDATE SKIP LOCKED
        )
        UPDATE leases SET epoch = epoch + 1, collector = %(name)s, incarnation = %(incarnation)s,
                          until = cluster_time() + %(ttl)s, asked_by = NULL
        FROM free WHERE leases.instance = free.instance
        RETURNING leases.instance, epoch, collector, cluster_time() - until AS free_for, last_run, asked_by
        """,
        instances=list(instances),
        name=me.name,
        incarnation=me.incarnation,
        ttl=terms.ttl,
    )
    return {row["instance"]: _read(row) for row in rows}


async def release(database: Database, me: Registration, epochs: Mapping[str, Epoch]) -> None:
    """Let others claim instances that the collector has in these epochs.

    Raises:
        AWAY: Others may have to wait until the leases end.
    """
    await database.rows(
        """
        UPDATE leases SET collector = NULL, incarnation = NULL, until = cluster_time()
        FROM unnest(%(instances)s::text[], %(epochs)s::bigint[]) AS released (instance, epoch)
        WHERE leases.instance = released.instance AND leases.epoch = released.epoch AND incarnation = %(incarnation)s
        """,
        instances=list(epochs),
        epochs=[epoch.number for epoch in epochs.values()],
        incarnation=me.incarnation,
    )


async def ask(database: Database, me: Registration, instances: Collection[str]) -> None:
    """Ask the owners of some instances to hand them to this collector.

    Raises:
        AWAY: They may have been asked.
    """
    await database.rows(
        "UPDATE leases SET asked_by = %(name)s WHERE instance = ANY(%(instances)s) AND collector IS NOT NULL",
        instances=list(instances),
        name=me.name,
    )


async def commit(database: Database, me: Registration, instance: str, epoch: Epoch, *, run: datetime) -> bool:
    """Record a run; return False where the lease is of another epoch by now, and nothing is recorded.

    A lease that has ended will do as long as nobody claimed it.

    Raises:
        AWAY: It is not known whether it is recorded.
    """
    rows = await database.rows(
        """
        UPDATE leases SET last_run = %(run)s
        WHERE instance = %(instance)s AND epoch = %(epoch)s AND incarnation = %(incarnation)s
        RETURNING instance
        """,
        instance=instance,
        epoch=epoch.number,
        incarnation=me.incarnation,
        run=run,
    )
    return bool(rows)


async def prune(database: Database) -> None:
    """Forget instances and members that have been gone for long.

    Raises:
        AWAY: They may have been forgotten.
    """
    await database.rows("DELETE FROM leases WHERE until < cluster_time() - %(kept)s", kept=KEPT)
    await database.rows("DELETE FROM collectors WHERE until < cluster_time() - %(kept)s", kept=KEPT)
