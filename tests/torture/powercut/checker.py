"""Whether a state on disk keeps what was promised. It knows what is on disk, and imports nothing of what wrote it.

A promise is what the ledger had said when its last sync ended: which snapshots are there, how many bytes are in each
stream, which gaps there are, how many cycles ended. Whoever asked has been told so.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from torture.powercut.disk import Link

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torture.powercut.disk import Tree

LOGS, STATE = PurePosixPath("logs"), PurePosixPath("state")
LEDGER = "ledger.sqlite3"
_NUMBER = re.compile(rb'"id":(\d+),')


class DamagedError(Exception):
    """The ledger cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """What a ledger says.

    Attributes:
        snapshots: Bytes of those that are there, by path.
        streams: Bytes in all files of each, by the path of the live one.
        gaps: How many there are in each, by the same.
        cycles: How many ended, by instance.
    """

    snapshots: Mapping[str, int] = field(default_factory=dict)
    streams: Mapping[str, int] = field(default_factory=dict)
    gaps: Mapping[str, int] = field(default_factory=dict)
    cycles: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What the cloud did.

    Attributes:
        served: The objects of each node, by the directory of its snapshots.
        streams: What the stream of each node is in the end, by the path of the live file.
    """

    served: Mapping[str, Collection[bytes]]
    streams: Mapping[str, bytes]


def tree_of(directory: Path) -> Tree:
    """Read what is below a directory."""
    return {
        PurePosixPath(path.relative_to(directory)): Link(os.fsencode(path.readlink()))
        if path.is_symlink()
        else None
        if path.is_dir()
        else path.read_bytes()
        for path in sorted(directory.rglob("*"))
    }


def ledger_files(tree: Tree) -> dict[str, bytes]:
    """Return the files that the ledger is made of; what processes share while they use it does not outlive them."""
    return {
        path.name: content
        for path, content in tree.items()
        if path.parent == STATE and is_ledger(path.name) and content is not None
    }


def is_ledger(name: str) -> bool:
    """Return whether a file belongs to the ledger."""
    return name.startswith(LEDGER) and not name.endswith("-shm")


def promises(files: Mapping[str, bytes]) -> Promises:
    """Read a ledger from its files, in a place where that does no harm.

    Raises:
        DamagedError: It cannot be read.
    """
    if LEDGER not in files:
        return Promises()
    with TemporaryDirectory() as directory:
        for name, content in files.items():
            (Path(directory) / name).write_bytes(content)
        try:
            with closing(sqlite3.connect(Path(directory) / LEDGER)) as db:
                return _promises(db)
        except sqlite3.Error as exc:
            raise DamagedError(str(exc)) from exc


def _promises(db: sqlite3.Connection) -> Promises:
    db.execute("PRAGMA synchronous = OFF")  # it is a copy
    (said,) = db.execute("PRAGMA integrity_check").fetchone()
    if said != "ok":
        raise DamagedError(said)
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "streams" not in tables:
        return Promises()  # it was about to be made
    streams: Counter[str] = Counter()
    for series, size in db.execute(
        "SELECT series, size FROM streams UNION ALL SELECT series, size FROM stream_parts"  # what is rotated away, too
    ):
        streams[_live(series)] += size
    snapshots = db.execute("SELECT path, size FROM snapshots WHERE published AND present AND path = key")
    gaps = Counter(_live(series) for (series,) in db.execute("SELECT series FROM gaps WHERE path != ''"))
    cycles = db.execute("SELECT instance, count(*) FROM cycles GROUP BY instance")
    return Promises(snapshots=dict(snapshots.fetchall()), streams=streams, gaps=gaps, cycles=dict(cycles.fetchall()))


def _live(series: str) -> str:
    _, instance, node, _ = PurePosixPath(series).parts
    return f"streams/{instance}/{node}.log"


# --- as it is ---------------------------------------------------------------------------------------------------------


def as_it_is(tree: Tree, *, said: Promises, truth: Truth) -> list[str]:
    """Return what is wrong with a state that no daemon has started on.

    Args:
        tree: The state.
        said: What was promised when the power was cut.
        truth: What is right.
    """
    faults = strangers(tree, truth.served)
    try:
        books = promises(ledger_files(tree))
    except DamagedError as exc:
        return [*faults, f"the ledger is damaged: {exc}"]
    for what in ("snapshots", "streams", "gaps", "cycles"):
        faults += _forgotten(what, getattr(said, what), getattr(books, what))
    for who, promised in (("promised", said), ("in the ledger", books)):
        faults += [f"{who}: {fault}" for fault in _broken(tree, promised, truth)]
    return faults


def strangers(tree: Tree, served: Mapping[str, Collection[bytes]]) -> list[str]:
    """Return the snapshots that are visible and that the cloud did not serve like that."""
    return [
        f"a visible snapshot is no whole object: {path}"
        for path, content in _snapshots(tree)
        if content not in served.get(path.parent.as_posix(), ())
    ]


def _snapshots(tree: Tree) -> Iterator[tuple[PurePosixPath, bytes]]:
    for path, content in tree.items():
        inside = path.is_relative_to(LOGS / "snapshots") and content is not None
        if inside and content is not None and not path.name.startswith("."):
            yield path.relative_to(LOGS), content


def _forgotten(what: str, said: Mapping[str, int], books: Mapping[str, int]) -> list[str]:
    return [
        f"the ledger has forgotten {what}: {name}: {number} were promised, it says {books.get(name, 0)}"
        for name, number in said.items()
        if books.get(name, 0) < number
    ]


def _broken(tree: Tree, said: Promises, truth: Truth) -> list[str]:
    faults = [
        f"a snapshot is not there: {path}"
        for path, size in said.snapshots.items()
        if len(tree.get(LOGS / path) or b"") != size
    ]
    for live, size in said.streams.items():
        if stream(tree, live)[:size] != truth.streams[live][:size]:
            faults.append(f"a stream does not hold its first {size} bytes: {live}")
    return faults


def stream(tree: Tree, live: str) -> bytes:
    """Return what is in all files of a stream, oldest first."""
    path = LOGS / live
    return b"".join(tree.get(one) or b"" for one in sorted(tree) if one.parent == path.with_suffix(""))


# --- after a daemon has run on it -------------------------------------------------------------------------------------


def after(tree: Tree, *, said: Promises, truth: Truth, logs: Mapping[str, bytes]) -> list[str]:
    """Return what is wrong once a daemon has started on a state, and has taken all that the cloud has.

    Args:
        tree: What is there then.
        said: What was promised when the power was cut.
        truth: What was right then; of what is served, what was served since, too.
        logs: All that each node wrote, by the path of the live file.
    """
    faults = strangers(tree, truth.served) + [f"promised: {fault}" for fault in _broken(tree, said, truth)]
    faults += [f"the ledger was put aside: {path}" for path in tree if "damaged" in path.name]
    try:
        books = promises(ledger_files(tree))
    except DamagedError as exc:
        return [*faults, f"the ledger is damaged: {exc}"]
    for live, log in logs.items():
        content = stream(tree, live)
        faults += [f"{fault}: {live}" for fault in once_in_order(content, log, gaps=books.gaps.get(live, 0))]
        if books.streams.get(live, 0) != len(content):
            faults.append(f"the ledger says {books.streams.get(live, 0)} bytes, there are {len(content)}: {live}")
    return faults


def once_in_order(content: bytes, log: bytes, *, gaps: int) -> list[str]:
    """Return what is wrong with a stream: each whole line of the log is in it once, in order, or a gap is where not.

    Args:
        content: Of the stream.
        log: All that the node wrote; each line has its number in it, counted from 0.
        gaps: How many are reported.
    """
    lines = log.split(b"\n")[:-1]
    whole, breaks, faults = -1, 0, list[str]()
    pieces: list[bytes] = []  # of lines, since the last whole one
    if content and not content.endswith(b"\n"):
        faults.append("it ends within a line")
    for line in content.split(b"\n")[:-1]:
        number = _number(line, lines)
        if number is None:
            pieces.append(line)
            continue
        if number <= whole:
            faults.append(f"line {number} follows line {whole}")
        if whole >= 0 and (number != whole + 1 or pieces):
            breaks += 1
        faults += _foreign(pieces, lines, whole, number)
        whole, pieces = number, []
    if pieces or whole != len(lines) - 1:
        faults.append(f"it ends with line {whole} of {len(lines) - 1}, and {len(pieces)} pieces")
    if breaks != gaps:
        faults.append(f"lines are missing in {breaks} places, and {gaps} gaps are reported")
    return faults


def _number(line: bytes, lines: Sequence[bytes]) -> int | None:
    """Return a line's number; None where it is no whole line of the log."""
    found = _NUMBER.search(line)
    number = int(found[1]) if found else len(lines)
    return number if number < len(lines) and lines[number] == line else None


def _foreign(pieces: Sequence[bytes], lines: Sequence[bytes], before: int, behind: int) -> list[str]:
    """Return the pieces between two lines that are no beginning of the next, and no end of the one before."""
    first, last = lines[before + 1], lines[behind - 1] if behind else b""
    return [f"a piece of no line: {one[:60]!r}" for one in pieces if not (first.startswith(one) or last.endswith(one))]
