"""The tables in PostgreSQL, by version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, LiteralString

from ddslogd.model.errors import ClusterError

if TYPE_CHECKING:
    from ddslogd.cluster.database import Database

MIGRATIONS: Final[tuple[LiteralString, ...]] = (
    """
    CREATE FUNCTION cluster_time() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT clock_timestamp()';              -- the one clock that all members go by
    CREATE TABLE collectors (
        name         text PRIMARY KEY,
        incarnation  uuid NOT NULL,                 -- another one at each start
        version      text NOT NULL,                 -- of ddslogd
        address      text NOT NULL,                 -- of its page
        weight       integer NOT NULL CHECK (weight > 0),
        draining     boolean NOT NULL DEFAULT false,
        heartbeat_at timestamptz NOT NULL,
        until        timestamptz NOT NULL           -- it lives until then at least
    );
    CREATE TABLE leases (
        instance     text PRIMARY KEY,
        epoch        bigint NOT NULL,               -- raised by each claim
        collector    text,                          -- who owns it; null: released
        incarnation  uuid,                          -- of that
        until        timestamptz NOT NULL,          -- its end; of what was released: when that was
        last_run     timestamptz,                   -- that was committed
        asked_by     text                           -- the collector that it is to be handed to
    ) WITH (fillfactor = 50);                       -- room for the next renewal's rows next to those of the last
    CREATE INDEX leases_of_incarnation ON leases (incarnation);
    """,
)
"""One a version. A member of version n can read what version n + 1 left: columns come with a default, and none goes
before no member of the version before needs it."""
READABLE_BY: Final = 1
"""The oldest version whose members may go on next to those of this one."""


async def migrate(database: Database) -> None:
    """Bring the tables up to this version; a newer one's are left as they are.

    Raises:
        ClusterError: They are a newer ddslogd's, which this one cannot read.
        AWAY: PostgreSQL does not do it. Nothing is changed.
    """
    async with database.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('ddslogd'), hashtext(current_schema()))")
        found = await (await connection.execute("SELECT to_regclass('versions') IS NOT NULL AS there")).fetchone()
        if found is None or not found["there"]:
            await connection.execute("CREATE TABLE versions (version integer NOT NULL, readable_by integer NOT NULL)")
            await connection.execute("INSERT INTO versions VALUES (0, 0)")
        row = await (await connection.execute("SELECT version, readable_by FROM versions")).fetchone()
        version, readable_by = (row["version"], row["readable_by"]) if row else (0, 0)
        if readable_by > len(MIGRATIONS):
            raise ClusterError(
                f"the tables in schema {database.schema} are of version {version}, which this ddslogd cannot read: "
                f"upgrade it, as the other members were"
            )
        for migration in MIGRATIONS[version:]:
            await connection.execute(migration)
        if version < len(MIGRATIONS):
            await connection.execute(
                "UPDATE versions SET version = %s, readable_by = %s", (len(MIGRATIONS), READABLE_BY)
            )
