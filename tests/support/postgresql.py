"""A PostgreSQL of the suite's own, in a temporary directory, on loopback and a socket."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

START_LIMIT_S = "60"
SETTINGS = {"fsync": "off", "listen_addresses": "127.0.0.1", "max_connections": "100"}


def programs() -> Path:
    """Return the directory of Debian's newest server; without any the test is skipped, or fails."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        (pytest.fail if os.environ.get("DDSLOGD_SKIP_NOTHING") else pytest.skip)("install Debian's postgresql")
    return found[-1].parent


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@dataclass
class Server:
    """A server that can be stopped, killed and started again on the same port.

    Attributes:
        user: Who runs it: PostgreSQL refuses root.
    """

    directory: Path
    port: int
    user: dict[str, Any]

    def run(self, program: str, *arguments: str) -> None:
        command = [str(programs() / program), *arguments]
        log = self.directory / "log"
        with log.open("a") as output:
            done = subprocess.run(command, check=False, cwd="/", stdout=output, stderr=output, **self.user)
        assert done.returncode == 0, log.read_text()

    def start(self) -> None:
        options = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
        options += f" -c port={self.port} -c unix_socket_directories={self.directory}"
        self.control("start", "-o", options)

    def stop(self) -> None:
        """Stop it as an operator does who is in a hurry: sessions are cut."""
        self.control("stop", "-m", "fast")

    def kill(self) -> None:
        """End it as a crash does: the next start recovers."""
        self.control("stop", "-m", "immediate")

    def control(self, action: str, *arguments: str) -> None:
        self.run("pg_ctl", action, "-w", "-t", START_LIMIT_S, "-D", str(self.directory / "data"), *arguments)

    def admin(
        self, statement: LiteralString | sql.Composed, schema: str = "public", **values: object
    ) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, by the socket."""
        dsn = f"host={self.directory} port={self.port} user=admin dbname=postgres"
        with psycopg.connect(dsn, options=f"-c search_path={schema}", autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def role(self) -> str:
        """Make a role that has rights on a schema of its own only, and that schema, of the same name; return it."""
        name = f"member_{uuid4().hex[:12]}"
        self.admin(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        self.admin(sql.SQL("CREATE SCHEMA {0} AUTHORIZATION {0}").format(sql.Identifier(name)))
        return name

    def dsn(self, role: str, port: int | None = None) -> str:
        return f"host=127.0.0.1 port={port or self.port} user={role} dbname=postgres"


@contextmanager
def postgresql() -> Iterator[Server]:
    """Start a server, and leave nothing of it."""
    programs()
    is_root = os.getuid() == 0
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if is_root else {}
    directory = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path is short
    try:
        if is_root:
            shutil.chown(directory, "postgres", "postgres")
        one = Server(directory=directory, port=free_port(), user=user)
        one.run("initdb", "-D", str(directory / "data"), "-U", "admin", "-A", "trust", "--no-sync", "-E", "UTF8")
        one.start()
        try:
            yield one
        finally:
            if (directory / "data/postmaster.pid").exists():
                one.control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
