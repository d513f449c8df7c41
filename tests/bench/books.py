"""Books of a fleet that has run for a while, written at once: what benchmarks of a start need."""

from __future__ import annotations

import hashlib
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ddslogd.model.instance import LogKind
from ddslogd.model.snapshot import LogFile
from ddslogd.storage import paths
from ddslogd.storage.ledger import database
from ddslogd.storage.ledger.cycle_records import KEPT_CYCLES
from ddslogd.storage.ledger.database import ms_of
from ddslogd.storage.ledger.snapshot_records import FILE_NAME

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

PROJECT = "0483b6b16e954cb88930a360d2c4e663"
EVERY = timedelta(minutes=20)
Row = tuple[object, ...]

SNAPSHOT = (
    "INSERT INTO snapshots (key, path, series, instance, log, node, file_name, updated_ms, published, size, md5,"
    " sha256, etag, verified, request_ids, attempts, began_ms, stored_ms, present, taken)"
    " VALUES (?, ?, ?, ?, 'error', ?, ?, ?, 1, 4096, ?, '', ?, 1, ?, 1, ?, ?, 1, 1)"
)
STREAM = "INSERT INTO streams VALUES (?, ?, 'error', ?, 4096, ?, ?, ?, ?, ?, 4096, ?, '', 0, ?, 0, x'')"
CYCLE = (
    "INSERT INTO cycles (instance, tick_ms, started_ms, finished_ms, outcome, stored, unchanged, failed, stored_bytes,"
    " fetched_bytes, error) VALUES (?, ?, ?, ?, 'ok', 0, 3, 0, 0, 0, '')"
)
NODE = "INSERT INTO nodes VALUES (?, ?, ?, 'replica', 'Secondary')"


def names(instances: int) -> list[str]:
    """Return the names of so many instances."""
    return [f"db-{number:05d}" for number in range(instances)]


def identity(name: str, suffix: str) -> str:
    """Make an id as DDS does, the same for the same name."""
    return hashlib.sha256(f"{suffix} {name}".encode()).hexdigest()[:32] + suffix


def nodes_of(instance: str) -> list[str]:
    """Return the names of an instance's three nodes, as the sandbox has them."""
    return [f"{instance}_replica_node_{number}" for number in (1, 2, 3)]


def snapshot_file(instance: str, node: str, moment: datetime) -> LogFile:
    """Return the file that an export of a node left at a moment."""
    name = f"{PROJECT}_{identity(node, 'no02')}_errorlog_{moment:%Y%m%d%H%M%S}000"
    return LogFile(instance=instance, log=LogKind.ERROR, node=node, file_name=name, updated_at=moment)


def write_books(
    state: Path, directory: Path, *, instances: int, snapshots: int, now: datetime, cycles: int = KEPT_CYCLES
) -> None:
    """Write a ledger: so many snapshots over three nodes of each instance, all of them taken, the newest now.

    Args:
        state: Where the ledger goes.
        directory: The storage directory that it speaks of.
        instances: Each has three nodes.
        snapshots: In all; what does not divide by the nodes is left out.
        now: Of the newest.
        cycles: Of each instance.
    """
    db, _ = database.connect(state / FILE_NAME)
    with closing(db):
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        db.execute("INSERT OR REPLACE INTO meta VALUES ('directory', ?)", (str(directory),))
        _write_instances(db, names(instances), each=snapshots // (3 * instances), now=now, cycles=cycles)
        db.execute("COMMIT")


def _write_instances(db: sqlite3.Connection, instances: list[str], *, each: int, now: datetime, cycles: int) -> None:
    for instance in instances:
        nodes = nodes_of(instance)
        db.executemany(NODE, [(instance, identity(node, "no02"), node) for node in nodes])
        for node in nodes:
            files = [snapshot_file(instance, node, now - EVERY * age) for age in reversed(range(each))]
            db.executemany(SNAPSHOT, map(_snapshot, files))
            db.executemany(STREAM, _stream(files))
    moments = [ms_of(now - EVERY * age) for age in reversed(range(cycles))]
    for moment in moments:
        db.executemany(CYCLE, [(instance, moment, moment, moment + 30_000) for instance in instances])


def _snapshot(file: LogFile) -> Row:
    key, at = paths.key(file), ms_of(file.updated_at)
    md5 = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
    requests = f"{md5} {md5[::-1]}"
    own = (key, key, paths.series(key), file.instance, file.node, file.file_name)
    return (*own, at, md5, f'"{md5}"', requests, at, at + 5_000)


def _stream(files: list[LogFile]) -> Iterator[Row]:
    if files:
        file, key = files[-1], paths.key(files[-1])
        first, last = ms_of(files[0].updated_at), ms_of(file.updated_at)
        newest = paths.stream_file(key, files[0].updated_at).as_posix()
        yield (paths.series(key), file.instance, file.node, first, first, last, key, last, last, newest)


def write_files(directory: Path, *, instances: int, snapshots: int, now: datetime) -> None:
    """Put the snapshots of ``write_books`` on disk, each a few bytes: the number is what counts."""
    each = snapshots // (3 * instances)
    for instance in names(instances):
        for node in nodes_of(instance):
            keys = [paths.key(snapshot_file(instance, node, now - EVERY * age)) for age in range(each)]
            (directory / keys[0]).parent.mkdir(parents=True)
            for key in keys:
                (directory / key).write_bytes(b"x\n")


def configuration(instances: int, *, directory: Path, state: Path) -> str:
    """Return a configuration that names so many instances, of a cloud that does not answer."""
    entries = "".join(f'  - id: {identity(name, "in02")}\n    name: "{name}"\n' for name in names(instances))
    return f"""\
clouds:
  nowhere:
    endpoint: http://127.0.0.1:9
    iam_endpoint: http://127.0.0.1:9
    project_id: {PROJECT}
    auth:
      method: token
      token: {{env: DDSLOGD_TOKEN}}
    calls_per_minute: 12000
    link_hosts: ["127.0.0.1"]
storage:
  directory: {directory}
  state: {state}
  keep_free: 0
instances:
{entries}"""


def today() -> datetime:
    """Return the time, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)
