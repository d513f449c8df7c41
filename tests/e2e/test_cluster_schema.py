"""The tables of a cluster, made and brought up by a role that has rights on its schema only."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from ddslogd.cluster import schema
from ddslogd.cluster.database import Database
from ddslogd.model.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.postgresql import Server

pytestmark = pytest.mark.slow

PATIENCE = timedelta(seconds=20)


@asynccontextmanager
async def opened(server: Server, role: str) -> AsyncIterator[Database]:
    database = Database(server.dsn(role), schema=role, patience=PATIENCE)
    try:
        yield database
    finally:
        await database.close()


def tables(server: Server, role: str) -> set[str]:
    rows = server.admin("SELECT relname FROM pg_class WHERE relkind = 'r' AND pg_table_is_visible(oid)", role)
    return {name for (name,) in rows if not name.startswith("pg_")}


def version(server: Server, role: str) -> list[tuple[int, ...]]:
    return server.admin("SELECT version, readable_by FROM versions", role)


async def test_the_tables_are_made_once_however_many_members_begin_at_once(server: Server, role: str) -> None:
    async with opened(server, role) as one, opened(server, role) as another, opened(server, role) as third:
        await asyncio.gather(*(schema.migrate(database) for database in (one, another, third)))
        await schema.migrate(one)

    assert tables(server, role) == {"versions", "collectors", "leases"}
    assert version(server, role) == [(len(schema.MIGRATIONS), schema.READABLE_BY)]


async def test_the_role_can_do_nothing_elsewhere(server: Server, role: str) -> None:
    """Else the tests would prove nothing of what it needs."""
    async with opened(server, role) as database:
        for statement in ("CREATE SCHEMA other", "CREATE TABLE public.other ()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await database.rows(statement)


async def test_a_migration_that_fails_leaves_nothing(
    server: Server, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", ("CREATE TABLE first ()", "CREATE TABLE second (), nonsense"))

    async with opened(server, role) as database:
        with pytest.raises(psycopg.errors.SyntaxError):
            await schema.migrate(database)

    assert tables(server, role) == set()


async def test_an_older_schema_is_brought_up(server: Server, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(server, role) as database:
        await schema.migrate(database)
        more = (*schema.MIGRATIONS, "ALTER TABLE leases ADD COLUMN more integer NOT NULL DEFAULT 0")
        monkeypatch.setattr(schema, "MIGRATIONS", more)
        await schema.migrate(database)
        await schema.migrate(database)

        assert await database.rows("SELECT more FROM leases") == []
    assert version(server, role) == [(len(more), schema.READABLE_BY)]


async def test_a_newer_schema_that_this_version_can_read_is_left_as_it_is(server: Server, role: str) -> None:
    async with opened(server, role) as database:
        await schema.migrate(database)
        newer = (len(schema.MIGRATIONS) + 1, len(schema.MIGRATIONS))
        server.admin("UPDATE versions SET version = version + 1, readable_by = version", role)

        await schema.migrate(database)

    assert version(server, role) == [newer]


async def test_a_newer_schema_that_this_version_cannot_read_is_refused(server: Server, role: str) -> None:
    async with opened(server, role) as database:
        await schema.migrate(database)
        server.admin("UPDATE versions SET version = version + 2, readable_by = version + 1", role)

        with pytest.raises(ClusterError, match="upgrade it"):
            await schema.migrate(database)


def test_the_version_before_can_read_what_this_one_makes() -> None:
    """So that a cluster is upgraded member by member."""
    assert max(1, len(schema.MIGRATIONS) - 1) >= schema.READABLE_BY
