"""The members of a cluster: the table ``collectors``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddslogd.model.cluster import Member
from ddslogd.model.errors import ClusterError

if TYPE_CHECKING:
    from uuid import UUID

    from ddslogd.cluster.database import Database
    from ddslogd.cluster.lease_terms import LeaseTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a collector says of itself.

    Attributes:
        name: Unique among those that live.
        incarnation: Random, another one at each start: what an earlier process of the name held is not this one's.
        version: Of ddslogd.
        address: Of its page.
        weight: As of ``Member``.
    """

    name: str
    incarnation: UUID
    version: str
    address: str
    weight: int = 1


async def heartbeat(database: Database, me: Registration, terms: LeaseTerms) -> bool:
    """Record that this collector lives; return whether it is to be drained.

    Raises:
        ClusterError: Another living collector has the name, or one that died less than a TTL ago.
        AWAY: It is not known whether it was heard.
    """
    rows = await database.rows(
        """
        INSERT INTO collectors AS known (name, incarnation, version, address, weight, heartbeat_at, until)
        VALUES (%(name)s, %(incarnation)s, %(version)s, %(address)s, %(weight)s,
                cluster_time(), cluster_time() + %(ttl)s)
        ON CONFLICT (name) DO UPDATE SET
            incarnation = excluded.incarnation, version = excluded.version, address = excluded.address,
            weight = excluded.weight, heartbeat_at = excluded.heartbeat_at, until = excluded.until,
            draining = known.draining AND known.incarnation = excluded.incarnation
        WHERE known.incarnation = excluded.incarnation OR known.until <= cluster_time()
        RETURNING draining
        """,
        name=me.name,
        incarnation=me.incarnation,
        version=me.version,
        address=me.address,
        weight=me.weight,
        ttl=terms.ttl,
    )
    if not rows:
        raise ClusterError(
            f"another collector of the name {me.name} lives, or died less than {terms.ttl.total_seconds():.0f} s ago: "
            f"give one of them another name, or wait"
        )
    return bool(rows[0]["draining"])


async def living(database: Database) -> tuple[Member, ...]:
    """Return who lives, by name.

    Raises:
        AWAY: PostgreSQL does not say.
    """
    rows = await database.rows(
        """
        SELECT name, version, address, weight, draining, cluster_time() - heartbeat_at AS age,
               (SELECT count(*) FROM leases WHERE leases.incarnation = collectors.incarnation) AS instances
        FROM collectors WHERE until > cluster_time() ORDER BY name
        """
    )
    return tuple(Member(**row) for row in rows)


async def drain(database: Database, name: str) -> bool:
    """Let a member hand over what it owns, until it is started again; return whether it lives.

    Raises:
        AWAY: It is not known whether it will.
    """
    rows = await database.rows(
        "UPDATE collectors SET draining = true WHERE name = %(name)s AND until > cluster_time() RETURNING name",
        name=name,
    )
    return bool(rows)


async def leave(database: Database, me: Registration) -> None:
    """End the membership.

    Raises:
        AWAY: It ends by itself, a TTL after the last heartbeat.
    """
    await database.rows("DELETE FROM collectors WHERE incarnation = %(incarnation)s", incarnation=me.incarnation)
