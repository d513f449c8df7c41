"""The shippers' books: what counts as read, and what is in doubt and does not."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddslogd.model.errors import StorageError
from ddslogd.storage.shippers import bounded_read, file_identity, hashes, read_positions
from ddslogd.storage.shippers import fluent_bit as shippers_fluent_bit
from ddslogd.storage.shippers import rsyslog as shippers_rsyslog
from ddslogd.storage.shippers.read_positions import Shipper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

LINE = b'{"t":{"$date":"2026-01-02T03:04:05.%03d+00:00"},"s":"W","c":"NETWORK","id":%d,"msg":"Slow query"}\n'


def lines(first: int, count: int) -> bytes:
    return b"".join(LINE % (number % 1000, number) for number in range(first, first + count))


def log_file(path: Path, *, first: int = 0, count: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lines(first, count))
    return path


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return log_file(tmp_path / "streams" / "orders" / "node_1.log")


# --- the programs' books, as they write them --------------------------------------------------------------------------


def now() -> int:
    return int(time.time())


def by_path(path: Path) -> str:
    return f"path::{path}"


def filestream(name: str, cursor: Any, *, source: str = "/x", ttl: int = -1, updated: float = 0) -> tuple[str, Any]:
    """``updated`` as Filebeat writes a time: an offset of -1 minute and nanoseconds, then seconds."""
    moment = [0xFFFF << 32 | int(updated % 1 * 10**9), int(updated)]
    meta = {"source": source, "identifier_name": name.partition("::")[0]}
    return f"filestream::{name}", {"ttl": ttl, "updated": moment, "cursor": cursor, "meta": meta}


def log_input(path: Path, offset: Any, *, ttl: int = -1) -> tuple[str, Any]:
    return filestream(f"ddslogd::{by_path(path)}", {"offset": offset}, source=str(path), ttl=ttl)


def of_input(name: str, state: tuple[str, Any]) -> tuple[str, Any]:
    return state[0].replace("filestream::", f"filestream::{name}::"), state[1]


def logged(states: Sequence[tuple[str, Any]], first: int = 1) -> str:
    return "".join(
        f"{json.dumps({'op': 'set', 'id': number})}\n{json.dumps({'k': key, 'v': state})}\n"
        for number, (key, state) in enumerate(states, first)
    )


def filebeat_registry(directory: Path, log: str, **checkpoints: Sequence[tuple[str, Any]]) -> Path:
    home = directory / "registry" / "filebeat"
    home.mkdir(parents=True, exist_ok=True)
    (home / "meta.json").write_text('{"version":"1"}\n')
    (home / "log.json").write_text(log)
    for name, states in checkpoints.items():
        array = ",\n".join(json.dumps({"_key": key, **state}) for key, state in states)
        (home / f"{name.removeprefix('n')}.json").write_text(f"[{array}\n]")
        (home / "active.dat").write_text(str(home / f"{name.removeprefix('n')}.json"))
    return directory / "registry"


def filebeat(directory: Path, positions: Mapping[Path, int], at: int) -> Path:
    states = [filestream(f"ddslogd::{by_path(path)}", {"offset": offset}) for path, offset in positions.items()]
    assert at
    return filebeat_registry(directory, logged(states))


def checkpoints(directory: Path, entries: Sequence[tuple[Any, Any]]) -> Path:
    found = [
        {"fingerprint": fingerprint, "position": position, "modified": "2026-01-02T03:04:06.168545469Z"}
        for fingerprint, position in entries
    ]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "checkpoints.json"
    path.write_text(json.dumps({"version": "1", "checkpoints": found}))
    return path


def vector(directory: Path, positions: Mapping[Path, int], at: int) -> Path:
    assert at
    return checkpoints(
        directory,
        [({"dev_inode": [path.stat().st_dev, path.stat().st_ino]}, position) for path, position in positions.items()],
    )


def tail_database(path: Path, rows: Sequence[tuple[Any, Any, Any]], journal: str = "WAL") -> sqlite3.Connection:
    """Write as Fluent Bit does, and leave the database open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(
        "CREATE TABLE IF NOT EXISTS in_tail_files (id INTEGER PRIMARY KEY, name TEXT NOT NULL, offset INTEGER,"
        " inode INTEGER, created INTEGER, rotated INTEGER DEFAULT 0)"
    )
    db.execute(f"PRAGMA journal_mode={journal}")
    db.execute("BEGIN")
    db.executemany("INSERT INTO in_tail_files (name, offset, inode, created) VALUES (?, ?, ?, 1767323045)", rows)
    db.execute("COMMIT")
    return db


def fluent_bit(directory: Path, positions: Mapping[Path, int], at: int) -> Path:
    assert at
    rows = [(str(path), offset, path.stat().st_ino) for path, offset in positions.items()]
    tail_database(directory / "tail.db", rows).close()
    return directory / "tail.db"


def positions_file(directory: Path, text: str, at: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "positions.yml"
    path.write_text(text)
    os.utime(path, (at, at))
    return path


def entry(path: Path, value: str, labels: str = '{job="ddslogd"}') -> str:
    """As yaml.v2 writes a key of two fields."""
    return f"  ? path: {path}\n    labels: '{labels}'\n  : {value}\n"


def alloy(directory: Path, positions: Mapping[Path, int], at: int) -> Path:
    entries = "".join(entry(path, f'"{position}"') for path, position in positions.items())
    return positions_file(directory, f"positions:\n{entries}", at)


def imfile_state(directory: Path, name: str, **state: Any) -> Path:
    """As rsyslog 8.2302 wrote it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"imfile-state:{name}").write_text(json.dumps(state).replace("/", "\\/"))
    return directory


def rsyslog(directory: Path, positions: Mapping[Path, int], at: int) -> Path:
    assert at
    for path, offset in positions.items():
        name = f"{path.stat().st_ino}:{hashes.siphash(path.read_bytes()[:512])}"
        imfile_state(directory, name, filename=str(path), prev_was_nl=0, curr_offs=offset, strt_offs=offset)
    return directory


@dataclass(frozen=True, slots=True)
class Kind:
    """One way of one program to keep books.

    Attributes:
        write: Writes positions by file into a directory as of a moment; gives the registry.
    """

    shipper: Shipper
    write: Callable[[Path, Mapping[Path, int], int], Path]

    def books(
        self, directory: Path, positions: Mapping[Path, int], *, at: int | None = None
    ) -> read_positions.ReadPositions:
        return read_positions.read(self.shipper, self.write(directory, positions, now() + 5 if at is None else at))


BY_INODE = {
    "vector": Kind(Shipper.VECTOR, vector),
    "fluent-bit": Kind(Shipper.FLUENT_BIT, fluent_bit),
    "rsyslog": Kind(Shipper.RSYSLOG, rsyslog),
}
BY_PATH = {"filebeat": Kind(Shipper.FILEBEAT, filebeat), "alloy": Kind(Shipper.ALLOY, alloy)}
ALL = BY_INODE | BY_PATH

any_kind = pytest.mark.parametrize("kind", ALL.values(), ids=ALL)
kind_by_inode = pytest.mark.parametrize("kind", BY_INODE.values(), ids=BY_INODE)
kind_by_path = pytest.mark.parametrize("kind", BY_PATH.values(), ids=BY_PATH)


# --- all of them ------------------------------------------------------------------------------------------------------


@any_kind
def test_a_file_that_was_read_to_its_end_is_read_to_its_end(kind: Kind, live: Path, tmp_path: Path) -> None:
    size = live.stat().st_size

    assert size == kind.books(tmp_path / "books", {live: size}).position(live)


@any_kind
@pytest.mark.parametrize("position", [0, 400])
def test_a_file_that_was_read_in_part_says_how_far(kind: Kind, position: int, live: Path, tmp_path: Path) -> None:
    assert kind.books(tmp_path / "books", {live: position}).position(live) == position


@any_kind
def test_each_file_has_its_own_position(kind: Kind, live: Path, tmp_path: Path) -> None:
    other = log_file(live.with_name("node_2.log"), first=500)

    books = kind.books(tmp_path / "books", {live: 700, other: 800})

    assert (books.position(live), books.position(other)) == (700, 800)


@any_kind
def test_the_books_do_not_speak_of_a_file_they_do_not_know(kind: Kind, live: Path, tmp_path: Path) -> None:
    unknown = log_file(live.with_name("node_2.log"), first=500)

    assert kind.books(tmp_path / "books", {live: 700}).position(unknown) is None


@kind_by_inode
def test_a_new_file_under_an_old_path_is_not_taken_for_the_old_one(kind: Kind, live: Path, tmp_path: Path) -> None:
    """It is as long, and the shipper has not noticed it yet."""
    books = kind.books(tmp_path / "books", {live: live.stat().st_size}, at=now() - 5)
    live.rename(live.with_name("moved"))

    log_file(live, first=500)

    assert books.position(live) is None


@kind_by_path
def test_what_is_known_by_its_path_has_its_position_whenever_it_changed(kind: Kind, live: Path, tmp_path: Path) -> None:
    """No name is used twice, so that no other file had this one."""
    assert kind.books(tmp_path / "books", {live: 700}, at=now() - 5).position(live) == 700


@kind_by_path
def test_a_path_means_the_same_however_it_is_spelled(
    kind: Kind, live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(live.parent)

    books = kind.books(tmp_path / "books", {live.parent / ".." / "orders" / live.name: 700})

    assert books.position(Path("..", "orders", live.name)) == 700


@any_kind
def test_a_position_behind_the_end_is_of_another_file(kind: Kind, live: Path, tmp_path: Path) -> None:
    """Or this one was cut."""
    assert kind.books(tmp_path / "books", {live: live.stat().st_size + 1}).position(live) is None


@any_kind
def test_a_file_that_is_gone_has_no_position(kind: Kind, live: Path, tmp_path: Path) -> None:
    books = kind.books(tmp_path / "books", {live: 700})

    live.unlink()

    assert books.position(live) is None


@any_kind
def test_what_is_no_regular_file_has_no_position(kind: Kind, live: Path, tmp_path: Path) -> None:
    """Neither a link to one, nor a directory, nor a pipe, which is not waited for."""
    books = kind.books(tmp_path / "books", {live: 700})
    target = live.rename(live.with_name("target.log"))
    live.symlink_to(target)
    os.mkfifo(live.with_name("pipe.log"))

    assert [books.position(path) for path in (live, live.parent, live.with_name("pipe.log"))] == [None] * 3


def test_a_directory_is_no_file_even_if_the_books_speak_of_it(live: Path, tmp_path: Path) -> None:
    assert BY_INODE["vector"].books(tmp_path / "books", {live.parent: 1}).position(live.parent) is None


# --- what is no registry ----------------------------------------------------------------------------------------------

any_shipper = pytest.mark.parametrize("shipper", Shipper, ids=list(Shipper))


@any_shipper
def test_a_registry_that_is_not_there_is_told(shipper: Shipper, tmp_path: Path) -> None:
    path = tmp_path / "none" / "registry"

    with pytest.raises(StorageError, match=f"{shipper} keeps no registry here: {path}.*storage.shipper.registry.*wait"):
        read_positions.read(shipper, path)


@any_shipper
def test_a_directory_that_is_no_registry_is_told(shipper: Shipper, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"{tmp_path}.*set storage.shipper"):
        read_positions.read(shipper, tmp_path)


@any_shipper
@pytest.mark.parametrize(
    "text",
    [b"", b"no books at all", b"\0\xff" * 5000, b"[" * 1_000_000, b"[]", b"null", b"{}"],
    ids=["empty", "text", "bytes", "deep", "array", "null", "object"],
)
def test_a_file_that_is_no_registry_is_told(shipper: Shipper, text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "registry"
    path.write_bytes(text)

    with pytest.raises(StorageError, match=f"{path}.*set storage.shipper"):
        read_positions.read(shipper, path)


@pytest.mark.parametrize(
    ("shipper", "kind"),
    [(shipper, kind) for shipper in Shipper for kind in ALL.values() if kind.shipper != shipper],
    ids=lambda value: str(value) if isinstance(value, Shipper) else value.write.__name__,
)
def test_the_books_of_another_program_are_told_apart(shipper: Shipper, kind: Kind, live: Path, tmp_path: Path) -> None:
    registry = kind.write(tmp_path / "books", {live: 700}, now() + 5)

    with pytest.raises(StorageError, match=r"set storage\.shipper"):
        read_positions.read(shipper, registry)


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user that owns nothing: root may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@any_kind
def test_books_that_may_not_be_read_are_told_with_what_to_do(kind: Kind, live: Path, tmp_path: Path) -> None:
    registry = kind.write(tmp_path / "books", {live: 700}, now() + 5)
    (tmp_path / "books").chmod(0)

    with nobody(), pytest.raises(StorageError, match=r"may not read the registry of .*group"):
        read_positions.read(kind.shipper, registry)

    (tmp_path / "books").chmod(0o700)


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        (ALL["filebeat"], bounded_read.MAX_TEXT),
        (ALL["vector"], bounded_read.MAX_TEXT),
        (ALL["alloy"], bounded_read.MAX_TEXT),
        (ALL["fluent-bit"], shippers_fluent_bit.MAX_DATABASE),
        (ALL["rsyslog"], shippers_rsyslog.MAX_STATE),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else value.shipper,
)
def test_books_that_are_too_large_are_not_read(kind: Kind, limit: int, live: Path, tmp_path: Path) -> None:
    """The file has a hole: it takes no room."""
    registry = kind.write(tmp_path / "books", {live: 700}, now() + 5)
    name = {Shipper.FILEBEAT: "filebeat/log.json", Shipper.RSYSLOG: next(registry.glob("imfile*"), None)}
    os.truncate(registry / (name.get(kind.shipper) or ""), limit + 1)

    with pytest.raises(StorageError, match=r"larger than [0-9]+ MiB"):
        read_positions.read(kind.shipper, registry)


def test_a_pipe_in_the_place_of_books_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(StorageError, match="no file"):
        read_positions.read(Shipper.ALLOY, tmp_path / "pipe")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(odd=values, garbage=st.binary(max_size=40))
def test_whatever_stands_in_the_books_is_books_or_told(odd: Any, garbage: bytes) -> None:
    """And never gives a position that a file does not have. Odd entries stand before good ones, garbage behind."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        live = log_file(directory / "node_1.log")
        registries = {
            Shipper.FILEBEAT: filebeat_registry(
                directory / "f",
                logged([("filestream::a::native::1-1", odd), (str(odd), odd), log_input(live, 700)]),
                n0=[("filestream::b::native::1-1", {"cursor": odd, "updated": odd, "ttl": odd})],
            ),
            Shipper.VECTOR: checkpoints(
                directory / "v", [(odd, 1), ({"dev_inode": odd}, 1), ({"first_lines_checksum": odd}, odd)]
            ),
            Shipper.RSYSLOG: rsyslog(directory / "r", {live: 700}, 1),
        }
        imfile_state(directory / "r", "1", filename=odd, curr_offs=odd, prev_msg_segment=odd)
        for shipper, registry in registries.items():
            known = read_positions.read(shipper, registry).position(live)
            assert known == (None if shipper is Shipper.VECTOR else 700)
        for shipper in Shipper:
            (directory / "garbage").write_bytes(garbage)
            with pytest.raises(StorageError):
                read_positions.read(shipper, directory / "garbage")


# --- Filebeat ---------------------------------------------------------------------------------------------------------


def filebeat_position(path: Path, directory: Path, *states: tuple[str, Any]) -> int | None:
    return read_positions.read(Shipper.FILEBEAT, filebeat_registry(directory, logged(states))).position(path)


def test_the_registry_is_filebeats_directory_or_the_one_in_it(live: Path, tmp_path: Path) -> None:
    registry = filebeat(tmp_path, {live: 700}, 1)

    given_either = [
        read_positions.read(Shipper.FILEBEAT, path).position(live) for path in (registry, registry / "filebeat")
    ]

    assert given_either == [700, 700]


def test_a_registry_without_a_file_in_it_is_one(live: Path, tmp_path: Path) -> None:
    """Filebeat has just begun."""
    registry = filebeat_registry(tmp_path, "")
    (registry / "filebeat" / "log.json").unlink()

    assert read_positions.read(Shipper.FILEBEAT, registry).position(live) is None


def test_what_was_logged_after_the_checkpoint_counts(live: Path, tmp_path: Path) -> None:
    """What is in the log from before it does not: Filebeat died before it could empty the log."""
    key = f"filestream::ddslogd::{by_path(live)}"
    later = log_file(live.with_name("node_2.log"), first=500)
    states = [(key, {"cursor": {"offset": offset}}) for offset in (100, 200, 300, 400)]
    old = [(f"filestream::ddslogd::{by_path(later)}", {"cursor": {"offset": 50}})]

    log = logged(old + states, 5).replace("\n", "\n\n")  # Filebeat minds blank lines as little
    registry = filebeat_registry(tmp_path, log, n6=[states[1], *old], n3=[states[0]])

    books = read_positions.read(Shipper.FILEBEAT, registry)
    assert (books.position(live), books.position(later)) == (400, 50)


def test_a_checkpoint_alone_is_enough(live: Path, tmp_path: Path) -> None:
    registry = filebeat_registry(tmp_path, "", n237302=[log_input(live, 700)])

    assert read_positions.read(Shipper.FILEBEAT, registry).position(live) == 700


def test_what_filebeat_removed_is_gone(live: Path, tmp_path: Path) -> None:
    key, state = log_input(live, 700)
    removed = f'{{"op":"remove","id":2}}\n{json.dumps({"k": key})}\n'

    registry = filebeat_registry(tmp_path, logged([(key, state)]) + removed)

    assert read_positions.read(Shipper.FILEBEAT, registry).position(live) is None


@pytest.mark.parametrize("kept", [1, 30, 60, -2, -1])
def test_a_line_that_is_being_written_is_left_for_the_next_time(kept: int, live: Path, tmp_path: Path) -> None:
    log = logged([log_input(live, 300)])
    cut = logged([log_input(live, 700)], 2)[:kept]

    registry = filebeat_registry(tmp_path, log + cut)

    assert read_positions.read(Shipper.FILEBEAT, registry).position(live) == 300


def test_the_log_ends_where_a_number_is_missing(live: Path, tmp_path: Path) -> None:
    """Filebeat itself would go on from there."""
    registry = filebeat_registry(tmp_path, logged([log_input(live, 300)]) + logged([log_input(live, 700)], 3))

    assert read_positions.read(Shipper.FILEBEAT, registry).position(live) == 300


@pytest.mark.parametrize("line", ["[]", "null", "x", '{"op":', "[" * 100_000], ids=range(5))
@pytest.mark.parametrize("place", [2, 3])
def test_the_log_ends_where_it_makes_no_sense(place: int, line: str, live: Path, tmp_path: Path) -> None:
    found = logged([log_input(live, 300), log_input(live, 500), log_input(live, 700)]).split("\n")
    found[place] = line

    registry = filebeat_registry(tmp_path, "\n".join(found))

    assert read_positions.read(Shipper.FILEBEAT, registry).position(live) == 300


@pytest.mark.parametrize(
    "operation",
    ['{"op":"unknown","id":1}\n{"k":"%s","v":{"offset":100}}', '{"op":"set","id":1}\n{"k":["%s"],"v":{"offset":100}}'],
)
def test_an_operation_that_is_not_known_sets_nothing(operation: str, live: Path, tmp_path: Path) -> None:
    """And the log goes on."""
    other = log_file(live.with_name("node_2.log"), first=500)
    log = operation % log_input(other, 0)[0] + "\n" + logged([log_input(live, 700)], 2)

    books = read_positions.read(Shipper.FILEBEAT, filebeat_registry(tmp_path, log))

    assert (books.position(live), books.position(other)) == (700, None)


def test_a_log_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no log of operations: .*log\.json"):
        read_positions.read(Shipper.FILEBEAT, filebeat_registry(tmp_path, "something else\n"))


def test_a_checkpoint_that_is_none_is_told(tmp_path: Path) -> None:
    registry = filebeat_registry(tmp_path, "")
    (registry / "filebeat" / "7.json").write_text('{"_key":"x"}')

    with pytest.raises(StorageError, match=r"no array: .*7\.json"):
        read_positions.read(Shipper.FILEBEAT, registry)


def test_a_registry_of_another_version_is_told(tmp_path: Path) -> None:
    registry = filebeat_registry(tmp_path, "")
    (registry / "filebeat" / "meta.json").write_text('{"version":"2"}')

    with pytest.raises(StorageError, match=r"no registry of version 1: .*meta\.json"):
        read_positions.read(Shipper.FILEBEAT, registry)


def test_a_checkpoint_that_goes_away_again_and_again_is_told(tmp_path: Path) -> None:
    registry = filebeat_registry(tmp_path, "")
    (registry / "filebeat" / "9.json").symlink_to("/nonexistent")

    with pytest.raises(StorageError, match="being rewritten again and again"):
        read_positions.read(Shipper.FILEBEAT, registry)


def test_books_are_read_whole_while_filebeat_rewrites_them(live: Path, tmp_path: Path) -> None:
    """It renames a new checkpoint into place, empties the log, and removes the old checkpoint: in this order.

    What was there before the books are read is in them.
    """
    registry = filebeat_registry(tmp_path, logged([log_input(live, 1)], 2), n1=[log_input(live, 0)])
    home, stop, written = registry / "filebeat", threading.Event(), [1]

    def rewrite() -> None:
        for number in itertools.count(3, 2):
            key, state = log_input(live, number - 2)
            (home / "checkpoint.new").write_text(json.dumps([{"_key": key, **state}]))
            (home / "checkpoint.new").rename(home / f"{number}.json")
            (home / "log.json").write_text("")
            if stop.wait(0.001):
                return
            (home / f"{number - 2}.json").unlink()
            (home / "log.json").write_text(logged([log_input(live, number)], number + 1))
            written[0] = number
            if stop.wait(0.002):
                return

    thread = threading.Thread(target=rewrite)
    thread.start()
    behind = []
    try:
        while (before := written[0]) < 400:
            known = read_positions.read(Shipper.FILEBEAT, registry).position(live)
            if known is None or known < before:
                behind.append((before, known))
    finally:
        stop.set()
        thread.join()

    assert behind == []


def test_of_several_inputs_the_one_that_has_read_the_least_counts(live: Path, tmp_path: Path) -> None:
    state = filestream(by_path(live), {"offset": 700})
    behind = filestream(by_path(live), {"offset": 400})

    known = filebeat_position(live, tmp_path, of_input("a", state), of_input("b", behind), log_input(live, 500))

    assert known == 400


@pytest.mark.parametrize("cursor", [None, {}, {"offset": "700"}, {"offset": -1}, {"offset": 2**63}, {"offset": 7e2}, 7])
def test_an_input_whose_position_is_not_known_leaves_it_in_doubt(cursor: Any, live: Path, tmp_path: Path) -> None:
    """Null stands there while an input has found the file and not read of it."""
    state = filestream(by_path(live), {"offset": 700})
    unknown = filestream(by_path(live), cursor)

    assert filebeat_position(live, tmp_path, of_input("a", state), of_input("b", unknown)) is None


def test_an_entry_that_is_to_be_removed_does_not_count(live: Path, tmp_path: Path) -> None:
    removed = of_input("a", filestream(by_path(live), {"offset": 100}, ttl=0))

    assert filebeat_position(live, tmp_path / "alone", removed) is None
    assert filebeat_position(live, tmp_path / "not", removed, log_input(live, 700)) == 700


@pytest.mark.parametrize("identity", ["native::{inode}", "fingerprint::{sha}", "inode_marker::1-marker"])
def test_files_that_filebeat_knows_otherwise_than_by_our_snippet_are_not_read(
    identity: str, live: Path, tmp_path: Path
) -> None:
    status = live.stat()
    sha = hashlib.sha256(live.read_bytes()[:1024]).hexdigest()
    key = identity.format(inode=f"{status.st_ino}-{status.st_dev}", sha=sha)

    assert filebeat_position(live, tmp_path, filestream(f"ddslogd::{key}", {"offset": 700})) is None


def test_files_that_vector_knows_by_how_they_begin_are_not_read(live: Path, tmp_path: Path) -> None:
    path = checkpoints(tmp_path / "books", [({"first_lines_checksum": 11081174131906673079}, 700)])

    assert read_positions.read(Shipper.VECTOR, path).position(live) is None


def test_odd_entries_of_filebeat_stop_nothing(live: Path, tmp_path: Path) -> None:
    odd: list[tuple[str, Any]] = [
        ("", {}),
        ("filestream::a::native::", {"cursor": {"offset": 1}}),
        ("filestream::a::native::x-1", {"cursor": {"offset": 1}}),
        ("filestream::a::native::99999999999999999999-1", {"cursor": {"offset": 1}}),
        ("filestream::a::inode_marker::1-marker", {"cursor": {"offset": 1}}),
        ("filestream::a::path::relative", {"cursor": {"offset": 1}}),
        ("httpjson::a", {"cursor": {"offset": 1}}),
    ]
    odder = [*odd, ("filestream::a::fingerprint::abc", None), ("filestream::a::native::1-1", "text")]
    registry = filebeat_registry(tmp_path, logged(odder, 3), n2=[*odd, log_input(live, 700)])
    path = registry / "filebeat" / "2.json"
    path.write_text(path.read_text().replace("[", '[3, null, {"_key": 4}, {"no": "key"},', 1))

    assert read_positions.read(Shipper.FILEBEAT, registry).position(live) == 700


def test_a_key_that_is_set_to_nonsense_is_not_known_any_more(live: Path, tmp_path: Path) -> None:
    key, state = log_input(live, 700)

    assert filebeat_position(live, tmp_path, (key, state), (key, [])) is None


# --- Vector -----------------------------------------------------------------------------------------------------------


def test_the_registry_is_vectors_file_or_its_directory(live: Path, tmp_path: Path) -> None:
    path = vector(tmp_path / "books", {live: 700}, 1)

    assert [read_positions.read(Shipper.VECTOR, given).position(live) for given in (path, path.parent)] == [700, 700]


def test_a_file_on_another_disk_is_another_file(live: Path, tmp_path: Path) -> None:
    status = live.stat()
    path = checkpoints(tmp_path / "books", [({"dev_inode": [status.st_dev + 1, status.st_ino]}, 700)])

    assert read_positions.read(Shipper.VECTOR, path).position(live) is None


def test_odd_entries_of_vector_stop_nothing(live: Path, tmp_path: Path) -> None:
    status = live.stat()
    entries: list[tuple[Any, Any]] = [
        (None, 1),
        ("checksum", 1),
        ({"checksum": 3456}, 1),
        ({"unknown": 1337}, 1),
        ({"dev_inode": [status.st_dev]}, 1),
        ({"dev_inode": [str(status.st_dev), status.st_ino]}, 1),
        ({"first_lines_checksum": "x"}, 1),
        ({}, 1),
        ({"dev_inode": [status.st_dev, status.st_ino]}, 700),
    ]
    path = checkpoints(tmp_path / "books", entries)
    path.write_text(path.read_text().replace('"checkpoints": [', '"checkpoints": [7, [], null, '))

    assert read_positions.read(Shipper.VECTOR, path).position(live) == 700


@pytest.mark.parametrize("position", [None, "700", -1, True, 2**63, 7.0])
def test_what_is_no_position_is_none(position: Any, live: Path, tmp_path: Path) -> None:
    status = live.stat()
    path = checkpoints(tmp_path / "books", [({"dev_inode": [status.st_dev, status.st_ino]}, position)])

    assert read_positions.read(Shipper.VECTOR, path).position(live) is None


def test_a_number_of_any_length_stops_nothing(live: Path, tmp_path: Path) -> None:
    """Python refuses to read the longest ones."""
    status = live.stat()
    path = checkpoints(tmp_path / "books", [({"dev_inode": [1, 1]}, 0), ({"dev_inode": [1, 2]}, 1)])
    path.write_text(
        path.read_text().replace("[1, 1]", "9" * 5000).replace("[1, 2]", f"[{status.st_dev}, {status.st_ino}]")
    )

    assert read_positions.read(Shipper.VECTOR, path).position(live) == 1


@pytest.mark.parametrize(
    "text", ['{"version": "2", "checkpoints": []}', '{"version": "1"}', '{"version": "1", "checkpoints": {}}']
)
def test_checkpoints_of_another_version_are_told(text: str, tmp_path: Path) -> None:
    path = checkpoints(tmp_path, [])
    path.write_text(text)

    with pytest.raises(StorageError, match=r"no checkpoints of version 1: .*checkpoints\.json"):
        read_positions.read(Shipper.VECTOR, path)


# --- Fluent Bit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", ["WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"])
def test_the_database_is_read_while_fluent_bit_has_it_open(journal: str, live: Path, tmp_path: Path) -> None:
    rows = [(str(live), 700, live.stat().st_ino)]
    with closing(tail_database(tmp_path / "books" / "tail.db", rows, journal)):
        names = sorted(path.name for path in (tmp_path / "books").iterdir())

        known = read_positions.read(Shipper.FLUENT_BIT, tmp_path / "books" / "tail.db").position(live)

        assert (known, sorted(path.name for path in (tmp_path / "books").iterdir())) == (700, names)


def test_no_file_is_made_beside_a_database_that_nobody_has_open(live: Path, tmp_path: Path) -> None:
    """SQLite would make a write-ahead log, and Fluent Bit could not write to it."""
    registry = fluent_bit(tmp_path / "books", {live: 700}, 1)

    read_positions.read(Shipper.FLUENT_BIT, registry)

    assert [path.name for path in registry.parent.iterdir()] == ["tail.db"]


def test_a_database_that_fluent_bit_holds_alone_is_told_with_what_to_do(live: Path, tmp_path: Path) -> None:
    """DB.locking true."""
    with closing(sqlite3.connect(tmp_path / "tail.db", isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        with closing(tail_database(tmp_path / "other.db", [])) as other:
            other.backup(db)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("INSERT INTO in_tail_files (name, offset, inode) VALUES ('/x', 1, 1)")

        with pytest.raises(StorageError, match=r"DB\.locking to false.*tail\.db"):
            read_positions.read(Shipper.FLUENT_BIT, tmp_path / "tail.db")

    assert live.exists()


def test_a_write_ahead_log_that_cannot_be_read_without_its_index_is_told(live: Path, tmp_path: Path) -> None:
    """Fluent Bit died; it is left as it is."""
    rows = [(str(live), 700, live.stat().st_ino)]
    left = tmp_path / "left"
    with closing(tail_database(tmp_path / "books" / "tail.db", rows)):
        shutil.copytree(tmp_path / "books", left)
    (left / "tail.db-shm").unlink()

    with pytest.raises(StorageError, match="left by one that died"):
        read_positions.read(Shipper.FLUENT_BIT, left / "tail.db")

    assert sorted(path.name for path in left.iterdir()) == ["tail.db", "tail.db-wal"]


def test_a_transaction_that_is_being_written_is_waited_for_and_told(live: Path, tmp_path: Path) -> None:
    registry = tmp_path / "tail.db"
    with closing(tail_database(registry, [(str(live), 1, 1)], "DELETE")) as db:
        db.execute("PRAGMA cache_size = 1")  # pages: the rest goes to the file at once
        db.execute("BEGIN")
        db.executemany("INSERT INTO in_tail_files (name) VALUES (?)", [("x" * 1000,)] * 1000)

        with pytest.raises(StorageError, match=r"being written again and again.*tail\.db"):
            read_positions.read(Shipper.FLUENT_BIT, registry)


def test_a_journal_that_is_over_is_not_waited_for(live: Path, tmp_path: Path) -> None:
    registry = fluent_bit(tmp_path, {live: 700}, 1)
    (tmp_path / "tail.db-journal").write_bytes(bytes(512))

    assert read_positions.read(Shipper.FLUENT_BIT, registry).position(live) == 700


def test_rows_are_never_torn_while_fluent_bit_writes_them(tmp_path: Path) -> None:
    """Each of its transactions gives all rows one offset. Being told to ask again is no mistake."""
    registry, stop, written = tmp_path / "tail.db", threading.Event(), [0]
    tail_database(registry, [(f"/{number:0200}", 0, number) for number in range(1000)], "DELETE").close()

    def write() -> None:
        with closing(sqlite3.connect(registry, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=DELETE")
            db.execute("PRAGMA synchronous=OFF")
            while not stop.wait(0.003):
                written[0] += 1
                db.execute("UPDATE in_tail_files SET offset = ?", (written[0],))

    thread = threading.Thread(target=write)
    thread.start()
    found = []
    try:
        while written[0] < 150:
            with suppress(OSError):
                found.append({offset for _, offset, _ in shippers_fluent_bit._rows(registry)})
    finally:
        stop.set()
        thread.join()

    assert {len(offsets) for offsets in found} <= {1}


@pytest.mark.parametrize("name", ["/logs/node_1.log", "node_1.log", "/\0/node_1.log"])
def test_the_directory_may_have_another_name_in_a_container(name: str, live: Path, tmp_path: Path) -> None:
    tail_database(tmp_path / "tail.db", [(name, 700, live.stat().st_ino)]).close()

    assert read_positions.read(Shipper.FLUENT_BIT, tmp_path / "tail.db").position(live) == 700


@pytest.mark.parametrize("name", ["/logs/node_2.log", "/logs/node_1.lo", "/logs/node_1.log.x", "/logs/", "/", "\0"])
def test_an_inode_with_the_name_of_another_file_is_on_another_disk(name: str, live: Path, tmp_path: Path) -> None:
    tail_database(tmp_path / "tail.db", [(name, 700, live.stat().st_ino)]).close()

    assert read_positions.read(Shipper.FLUENT_BIT, tmp_path / "tail.db").position(live) is None


def test_an_inode_whose_name_exists_on_another_disk_is_that_file(live: Path) -> None:
    """The same number and the same name on two disks: as if the file asked for lay on another one."""
    with file_identity.opened_log(live) as file:
        fields = list(file.status)
        fields[2] += 1  # st_dev
        elsewhere = file_identity.OpenedLog(path=file.path, fd=file.fd, status=os.stat_result(fields))

        assert (
            file_identity._may_be_called(str(live), file),
            file_identity._may_be_called(str(live), elsewhere),
        ) == (
            True,
            False,
        )


def test_of_several_rows_the_least_counts(live: Path, tmp_path: Path) -> None:
    inode = live.stat().st_ino
    tail_database(tmp_path / "tail.db", [(str(live), 700, inode), (str(live), 400, inode)]).close()

    assert read_positions.read(Shipper.FLUENT_BIT, tmp_path / "tail.db").position(live) == 400


def test_odd_rows_of_fluent_bit_stop_nothing(live: Path, tmp_path: Path) -> None:
    inode = live.stat().st_ino
    rows: list[tuple[Any, Any, Any]] = [
        (b"\xff\0", 1, inode),
        ("", 1, inode),
        (str(live), 1, None),
        (str(live), 1, "x"),
        (str(live), 700, inode),
    ]
    with closing(tail_database(tmp_path / "tail.db", rows)) as db:
        db.execute("INSERT INTO in_tail_files (name, offset, inode) VALUES (CAST(x'ff' AS TEXT), 1, 2)")
        db.execute("ALTER TABLE in_tail_files ADD COLUMN offset_marker INTEGER DEFAULT 0")  # since 5.0

        assert read_positions.read(Shipper.FLUENT_BIT, tmp_path / "tail.db").position(live) == 700


@pytest.mark.parametrize("offset", [None, -1, "x", 7.5, b"7"])
def test_what_is_no_offset_is_none(offset: Any, live: Path, tmp_path: Path) -> None:
    tail_database(tmp_path / "tail.db", [(str(live), offset, live.stat().st_ino)]).close()

    assert read_positions.read(Shipper.FLUENT_BIT, tmp_path / "tail.db").position(live) is None


def test_a_database_of_something_else_is_told(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as db, db:
        db.execute("CREATE TABLE snapshots (key TEXT)")

    with pytest.raises(StorageError, match=r"no such table: in_tail_files: .*ledger\.sqlite3"):
        read_positions.read(Shipper.FLUENT_BIT, tmp_path / "ledger.sqlite3")


def test_a_database_may_have_any_name(live: Path, tmp_path: Path) -> None:
    path = fluent_bit(tmp_path, {live: 700}, 1).rename(tmp_path / "tail?mode=rw#%41.db")

    assert read_positions.read(Shipper.FLUENT_BIT, path).position(live) == 700


@pytest.mark.parametrize("end", ["wal", "journal"])
def test_a_pipe_beside_a_database_is_not_waited_for(end: str, live: Path, tmp_path: Path) -> None:
    """Whoever may write where Fluent Bit does would stop retention, and the daemon's end."""
    registry = fluent_bit(tmp_path / "books", {live: 700}, 1)
    os.mkfifo(registry.with_name(f"{registry.name}-{end}"))

    with pytest.raises(StorageError, match=f"no file: .*-{end}"):
        read_positions.read(Shipper.FLUENT_BIT, registry)


ENDLESS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
    " SELECT '/x' AS name, i AS offset, i AS inode FROM n"
)


@pytest.mark.parametrize(
    "script",
    [
        f"CREATE VIEW in_tail_files AS {ENDLESS}",
        "CREATE VIRTUAL TABLE in_tail_files USING fts5(name, offset, inode)",
        "CREATE TABLE in_tail_files (name TEXT, offset INTEGER, inode INTEGER GENERATED ALWAYS AS (offset + 1))",
        "CREATE TABLE in_tail_files (name TEXT, offset INTEGER, inode INTEGER AS (offset + 1))",
    ],
    ids=["a view without end", "a virtual table", "a generated column", "the same in short"],
)
def test_only_a_plain_table_is_read(script: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "tail.db")) as db:
        db.execute(script)
        db.commit()

    with pytest.raises(StorageError, match="in_tail_files is no plain table"):
        read_positions.read(Shipper.FLUENT_BIT, tmp_path / "tail.db")


def test_a_query_that_takes_too_long_is_ended(live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = fluent_bit(tmp_path / "books", {live: 700}, 1)
    monkeypatch.setattr("ddslogd.storage.shippers.fluent_bit._QUERY_S", -1.0)
    monkeypatch.setattr("ddslogd.storage.shippers.fluent_bit._STEPS", 1)

    with pytest.raises(StorageError, match="interrupted"):
        read_positions.read(Shipper.FLUENT_BIT, registry)


def test_a_database_with_more_rows_than_there_are_files_is_told(
    live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = fluent_bit(tmp_path / "books", {live: 700, log_file(live.with_name("node_2.log"), first=90): 1}, 1)
    monkeypatch.setattr("ddslogd.storage.shippers.fluent_bit.MAX_ROWS", 1)

    with pytest.raises(StorageError, match="more than 1 rows"):
        read_positions.read(Shipper.FLUENT_BIT, registry)


# --- Alloy ------------------------------------------------------------------------------------------------------------


def alloy_position(path: Path, directory: Path, text: str) -> int | None:
    return read_positions.read(Shipper.ALLOY, positions_file(directory, text, now() + 5)).position(path)


def test_the_registry_is_alloys_file_or_its_directory(live: Path, tmp_path: Path) -> None:
    path = alloy(tmp_path / "loki.source.file.ddslogd", {live: 700}, now() + 5)

    assert [read_positions.read(Shipper.ALLOY, given).position(live) for given in (path, path.parent)] == [700, 700]


@pytest.mark.parametrize("value", ["700", '"700"', "'700'"])
def test_a_position_may_stand_in_quotes(value: str, live: Path, tmp_path: Path) -> None:
    assert alloy_position(live, tmp_path / "books", "positions:\n" + entry(live, value)) == 700


def test_no_position_at_all_is_no_mistake(live: Path, tmp_path: Path) -> None:
    assert alloy_position(live, tmp_path / "books", "positions: {}\n") is None


def test_odd_entries_of_alloy_stop_nothing(live: Path, tmp_path: Path) -> None:
    """A journal's cursor, keys that are a path alone as Promtail had them, and what nobody writes."""
    text = f"""
other: [1, {{a: b}}]
? [complex, key]
: value
positions:
  ? path: cursor-job
    labels: ''
  : "s=0123456789abcdef;i=42"
  {live}: "100"
  ? labels: only
  : "100"
  ? path: [{live}]
    labels: x
  : "100"
  ? path: /nested
  : {{deep: [&anchor {{}}]}}
  /alias: *anchor
  ? path: /empty
  :
{entry(live, '"700"')}"""

    assert alloy_position(live, tmp_path / "books", text) == 700


def test_of_several_labels_the_one_that_was_read_the_least_counts(live: Path, tmp_path: Path) -> None:
    text = "positions:\n" + entry(live, '"700"') + entry(live, '"400"', '{job="other"}')

    assert alloy_position(live, tmp_path / "books", text) == 400


@pytest.mark.parametrize("value", ["x", "-1", "7.0", "0x10", "''", "~", "9" * 19, "9" * 20, "\u0667"])
def test_what_is_no_position_of_alloy_is_none(value: str, live: Path, tmp_path: Path) -> None:
    assert alloy_position(live, tmp_path / "books", "positions:\n" + entry(live, value)) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('positions:\n  /x: "1', "no YAML"),
        ("positions:\n  /x: !!binary \0", "no YAML"),
        ("positions: [", "no YAML"),
        pytest.param(f"positions:\n  /x: {'[' * 1_000_000}", "no YAML", id="deep"),
        pytest.param(f"positions:\n  ? {{path: {'[' * 1_000_000}", "no YAML", id="deep in a key"),
        ("positions:\n", "no positions"),
        ("positions: 7\n", "no positions"),
        ("- positions: {}\n", "no positions"),
        ("other: {positions: {}}\n", "no positions"),
        ("text", "no positions"),
    ],
)
def test_what_are_no_positions_is_told(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=rf"{told}: .*positions\.yml"):
        alloy_position(tmp_path, tmp_path, text)


# --- rsyslog ----------------------------------------------------------------------------------------------------------


def test_the_hash_of_a_beginning_is_rsyslogs(tmp_path: Path) -> None:
    """As rsyslogd 8.2302 named the state file of this log."""
    log = tmp_path / "node.log"
    log.write_bytes(b"".join(b"line %06d %s\n" % (number, b"x" * (100 * (number > 4))) for number in range(10)))

    imfile_state(tmp_path, f"{log.stat().st_ino}:18d5277af83db972", filename=str(log), curr_offs=630, strt_offs=630)

    assert read_positions.read(Shipper.RSYSLOG, tmp_path).position(log) == 630


def test_beside_the_hash_of_its_beginning_a_files_name_does_not_matter(live: Path, tmp_path: Path) -> None:
    (path,) = rsyslog(tmp_path / "books", {live: 700}, 1).iterdir()
    state = json.loads(path.read_text())

    path.write_text(json.dumps(state | {"filename": "/logs/another.log"}))

    assert read_positions.read(Shipper.RSYSLOG, tmp_path / "books").position(live) == 700


def test_a_short_file_is_known_by_its_inode_and_name(tmp_path: Path) -> None:
    log = log_file(tmp_path / "node.log", count=2)
    imfile_state(tmp_path, str(log.stat().st_ino), filename="/elsewhere/node.log", curr_offs=100, strt_offs=100)

    assert read_positions.read(Shipper.RSYSLOG, tmp_path).position(log) == 100


def test_a_short_file_with_another_name_is_not_known(tmp_path: Path) -> None:
    log = log_file(tmp_path / "node.log", count=2)
    imfile_state(tmp_path, str(log.stat().st_ino), filename=str(tmp_path / "other.log"), curr_offs=100)

    assert read_positions.read(Shipper.RSYSLOG, tmp_path).position(log) is None


@pytest.mark.parametrize("hash_", ["", ":0123456789abcdef"])
def test_a_state_that_another_file_of_this_inode_left_does_not_count(hash_: str, live: Path, tmp_path: Path) -> None:
    """rsyslog leaves the states of files that are deleted, and an inode number is used again."""
    imfile_state(tmp_path, f"{live.stat().st_ino}{hash_}", filename=str(live), curr_offs=700, strt_offs=700)

    assert read_positions.read(Shipper.RSYSLOG, tmp_path).position(live) is None


@pytest.mark.parametrize("held", ["prev_line_segment", "prev_msg_segment"])
def test_what_imfile_holds_back_is_not_read(held: str, live: Path, tmp_path: Path) -> None:
    """A line without an end, or with startmsg.regex a message that may go on."""
    size = live.stat().st_size
    (path,) = rsyslog(tmp_path / "books", {live: size}, 1).iterdir()
    state = json.loads(path.read_text())

    path.write_text(json.dumps(state | {held: "a line"}))

    assert read_positions.read(Shipper.RSYSLOG, tmp_path / "books").position(live) is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"filename": "/x"}', '{"curr_offs": "x"}', '{"curr_offs": -1}', "[" * 100_000],
    ids=range(7),
)
def test_a_state_that_makes_no_sense_stops_nothing(text: str, live: Path, tmp_path: Path) -> None:
    """rsyslog writes it over in place."""
    other = log_file(live.with_name("node_2.log"), first=500)
    books = rsyslog(tmp_path / "books", {live: 700, other: 800}, 1)
    (path,) = books.glob(f"imfile-state:{live.stat().st_ino}:*")

    path.write_text(text)

    read = read_positions.read(Shipper.RSYSLOG, books)
    assert (read.position(live), read.position(other)) == (None, 800)


def test_other_files_in_the_work_directory_are_passed_over(live: Path, tmp_path: Path) -> None:
    books = rsyslog(tmp_path / "books", {live: 700}, 1)
    for name in (
        "queue.00000001",
        "imfile-state:-var-log-x",
        "imfile-state:1:xyz",
        "imfile-state:1:0123456789abcdef.tmp",
    ):
        (books / name).write_text("x")
    (books / "imfile-state:7").symlink_to("/nonexistent")

    assert read_positions.read(Shipper.RSYSLOG, books).position(live) == 700


@pytest.mark.parametrize("text", ["<Obj:1:strm:1:", "{}", '{"filename": "/x"}'])
def test_states_none_of_which_makes_sense_are_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "imfile-state:7").write_text(text)

    with pytest.raises(StorageError, match=f"no state files of imfile: {tmp_path}"):
        read_positions.read(Shipper.RSYSLOG, tmp_path)
