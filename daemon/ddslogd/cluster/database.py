"""A member's connections to PostgreSQL: opened when they are needed, given up when they do not answer in time."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final, LiteralString

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow, dict_row

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

AWAY: Final = (psycopg.Error, OSError, TimeoutError)
"""What is raised where PostgreSQL does not do what it is asked for: refuses, is out of reach, or does not answer."""

# The settings of a session. A member that is stopped within a transaction may hold no lock for longer than it takes
# others to notice; PostgreSQL ends it.
_SESSION: Final = """
    SELECT set_config('search_path', %(schema)s, false),
           set_config('statement_timeout', %(limit)s, false),
           set_config('lock_timeout', %(limit)s, false),
           set_config('idle_in_transaction_session_timeout', %(limit)s, false)
"""


class Database:
    """One connection for all statements, and the means to open another.

    Each statement is a transaction of its own but within ``transaction``.
    """

    def __init__(self, dsn: str, *, schema: str, patience: timedelta) -> None:
        """Prepare; nothing is opened.

        Args:
            dsn: As libpq reads it; may hold a password.
            schema: Where the tables are. The role needs no right on anything else.
            patience: How long a statement, or a connection, may take.
        """
        self.schema = schema
        self._dsn = dsn
        self._patience_s = patience.total_seconds()
        self._connection: AsyncConnection[DictRow] | None = None
        self._turn = asyncio.Lock()
        self._losses = 0  # who waits for a connection that is lost does not wait for another: that may take as long

    def another(self) -> Database:
        """Return one more for the same tables, whose statements wait for none of this one's."""
        return type(self)(self._dsn, schema=self.schema, patience=timedelta(seconds=self._patience_s))

    async def rows(self, statement: LiteralString, **values: object) -> list[DictRow]:
        """Run a statement; return its rows, each by the names of its columns.

        Raises:
            AWAY: It was not run, or it is not known whether it was. The next one has another connection where this one
                is broken.
        """
        async with self.transaction(single=True) as connection:
            return await _rows(connection, statement, values)

    @asynccontextmanager
    async def transaction(self, *, single: bool = False) -> AsyncIterator[AsyncConnection[DictRow]]:
        """Lend the connection; what is done with it takes effect as a whole or not at all.

        Args:
            single: It is for one statement, which is a transaction anyway.

        Raises:
            AWAY: As ``rows``.
        """
        losses = self._losses
        async with self._turn:
            if losses != self._losses:
                raise ConnectionError("the connection was lost to who had it before")
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await self.connect()
                with self._limited(self._connection):
                    if single:
                        yield self._connection
                    else:
                        async with self._connection.transaction():
                            yield self._connection
            finally:
                if self._connection is None or self._connection.closed:
                    self._losses += 1

    async def connect(self) -> AsyncConnection[DictRow]:
        """Open a connection, which is the caller's.

        Raises:
            AWAY: There is none.
        """
        async with asyncio.timeout(self._patience_s):
            connection = await AsyncConnection.connect(self._dsn, autocommit=True, row_factory=dict_row)
        limit = f"{self._patience_s * 1000:.0f}ms"
        try:
            with self._limited(connection):
                await connection.execute(_SESSION, {"schema": self.schema, "limit": limit})
        except BaseException:
            await connection.close()
            raise
        return connection

    async def notify(self) -> None:
        """Let the other members know that there is news.

        Raises:
            AWAY: They find out by themselves.
        """
        await self.rows("SELECT pg_notify(%(channel)s, '')", channel=self.schema)

    async def notifications(self, *, quiet: timedelta) -> AsyncGenerator[None]:
        """Open a connection, and yield now and whenever a member has news.

        Args:
            quiet: After so long without any the connection is tried.

        Raises:
            AWAY: There is no connection any more.
        """
        connection = await self.connect()
        try:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self.schema)))
            yield
            while True:
                async for _ in connection.notifies(timeout=quiet.total_seconds()):
                    yield
                with self._limited(connection):
                    await connection.execute("SELECT 1")
        finally:
            await connection.close()

    async def close(self) -> None:
        """Close the connection; the next statement opens one."""
        if self._connection is not None:
            await self._connection.close()

    def _limited(self, connection: AsyncConnection[DictRow]) -> _Limit:
        return _Limit(connection, self._patience_s)


class _Limit:
    """Ends what takes too long.

    To cancel a statement psycopg asks the server, which may be the one that does not answer: so the connection is cut.
    """

    def __init__(self, connection: AsyncConnection[DictRow], limit_s: float) -> None:
        self._connection = connection
        self._limit_s = limit_s
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._cut)

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _cut(self) -> None:
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self._connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


async def _rows(
    connection: AsyncConnection[DictRow], statement: LiteralString, values: Mapping[str, object]
) -> list[DictRow]:
    cursor = await connection.execute(statement, values)
    return await cursor.fetchall() if cursor.description else []
