"""A file system of which it is known what is durable, and what a power cut may keep or lose.

Two kinds:

weak     Nothing but what POSIX promises: each block of 4 KiB and each length that was not synced is what it was at the
         last sync or at any time since; each entry of a directory is kept or lost by itself until the directory is
         synced, whatever happened to the file. A rename is one change, and a name is given to one file after the other.
ordered  As ext4 does with data=ordered: what happens to names happens in order, and any sync makes it all durable; no
         file is longer than what was written of it. What is overwritten is as above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from torture.powercut.trace import Call

BLOCK = 4096
ROOT = 0
Name = tuple[int, str]
"""A directory's number, and a name in it."""
Tree = dict[PurePosixPath, bytes | None]
"""Files with their bytes, links, and directories (None), by their path below the root."""
Ignored = Callable[[str, bool], bool]
"""Tells of a path that is synced, and of whether it is a directory, whether the disk ignores that."""


class Link(bytes):
    """Where a symbolic link leads to. It is there as a whole with its name, or is not there."""


class Kind(StrEnum):
    """Of a file system, see above."""

    WEAK = "weak"
    ORDERED = "ordered"


class UnmodelledError(Exception):
    """A call whose effect is not known here."""


class MissingError(UnmodelledError):
    """A call whose file or directory no call before it has made."""


@dataclass(slots=True)
class Node:
    """A file. All is counted in calls: a sync takes what was done before it began."""

    blocks: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    durable: dict[int, bytes] = field(default_factory=dict)
    durable_size: int = 0
    written: list[tuple[int, int, bytes]] = field(default_factory=list)  # since the last sync: call, block, content
    sizes: list[tuple[int, int]] = field(default_factory=list)  # since the last sync: call, bytes

    def write(self, number: int, at: int, data: bytes) -> None:
        """Overwrite, or append."""
        end = at + len(data)
        for block in range(at // BLOCK, (end + BLOCK - 1) // BLOCK):
            first = block * BLOCK
            content = bytearray(self.blocks.get(block, bytes(BLOCK)))
            start, stop = max(at, first), min(end, first + BLOCK)
            content[start - first : stop - first] = data[start - at : stop - at]
            self._put(number, block, bytes(content))
        if end > self.size:
            self._resize(number, end)

    def truncate(self, number: int, size: int) -> None:
        """Cut, or let grow by zeroes."""
        for block in [block for block in self.blocks if block * BLOCK >= size]:
            del self.blocks[block]
        if size < self.size and size % BLOCK and size // BLOCK in self.blocks:
            kept = self.blocks[size // BLOCK][: size % BLOCK]
            self._put(number, size // BLOCK, kept.ljust(BLOCK, b"\0"))
        if size != self.size:
            self._resize(number, size)

    def sync(self, began: int) -> None:
        """Make durable what was done before a call that began then."""
        for number, block, content in self.written:
            if number < began:
                self.durable[block] = content
        for number, size in self.sizes:
            if number < began:
                self.durable_size = size
        self.written = [one for one in self.written if one[0] >= began]
        self.sizes = [one for one in self.sizes if one[0] >= began]
        self.durable = {block: data for block, data in self.durable.items() if block * BLOCK < self.durable_size}

    def content(self) -> bytes:
        """Return what a reader sees."""
        return _joined(self.blocks, self.size)

    def left(self, chance: Random, kind: Kind) -> bytes:
        """Return what a power cut may leave."""
        lot = chance.choice(("nothing", "all", "some", "most", "few"))
        share = {"nothing": 0.0, "all": 1.0, "some": 0.5, "most": 0.95, "few": 0.05}[lot]
        sizes = [(0, self.durable_size), *self.sizes]
        last, size = sizes[-1] if chance.random() < share else chance.choice(sizes) if share else sizes[0]
        if kind is Kind.ORDERED and size > self.durable_size and chance.random() < share:  # written back so far
            size = max(self.durable_size, chance.randrange(size) // BLOCK * BLOCK)
        blocks = dict(self.durable)
        for number, block, content in self.written:
            appended = block * BLOCK >= self.durable_size // BLOCK * BLOCK
            if kind is Kind.ORDERED and appended:
                if number <= last or block not in blocks:
                    blocks[block] = content
            elif chance.random() < share:
                blocks[block] = content
        return _joined(blocks, size)

    def _put(self, number: int, block: int, content: bytes) -> None:
        self.blocks[block] = content
        self.written.append((number, block, content))

    def _resize(self, number: int, size: int) -> None:
        self.size = size
        self.sizes.append((number, size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Of names: one is given to a file or directory, one is taken from it, or both at once."""

    number: int
    node: int
    added: Name | None = None
    removed: Name | None = None

    @property
    def names(self) -> frozenset[Name]:
        """All names that it touches."""
        return frozenset(name for name in (self.added, self.removed) if name)

    def apply(self, names: dict[Name, int]) -> None:
        """Carry it out; a name that belongs to another file by now is not taken from that."""
        if self.removed is not None and names.get(self.removed) == self.node:
            del names[self.removed]
        if self.added is not None:
            names[self.added] = self.node


def _never(_: str, __: bool) -> bool:  # noqa: FBT001  # as ``Ignored`` has it
    return False


class Disk:
    """What the calls of a trace leave, below one directory.

    Args:
        top: The directory; it is there, and durable.
        kind: Of the file system.
        ignored: Which syncs are as if they had not been made: of a disk that lies. Called with the path that is synced,
            and whether it is a directory.
    """

    def __init__(self, top: str, *, kind: Kind = Kind.WEAK, ignored: Ignored = _never) -> None:
        self._top = PurePosixPath(top)
        self._kind = kind
        self._ignored = ignored
        self._nodes: dict[int, Node] = {}
        self._links: dict[int, Link] = {}
        self._directories = {ROOT}
        self._names: dict[Name, int] = {}
        self._durable: dict[Name, int] = {}
        self._changes: list[Change] = []  # not durable
        self._open: dict[str, tuple[int, int]] = {}  # by descriptor: number, and place
        self._next = ROOT + 1
        self.number = 0
        """Calls that were applied."""

    def apply(self, call: Call) -> None:
        """Apply the next call.

        Raises:
            UnmodelledError: Its effect is not known.
        """
        step = getattr(self, f"_do_{call.name}", None)
        if step is None:
            raise UnmodelledError(call.name)
        step(call)
        self.number += 1

    def restart(self) -> None:
        """Close what a process had open."""
        self._open.clear()

    def content(self, path: PurePosixPath) -> bytes | None:
        """Return what a reader sees of a file below the top; None where there is none."""
        node = self._nodes.get(self._find(path) or ROOT)
        return None if node is None else node.content()

    def tree(self) -> Tree:
        """Return what a reader sees below the top."""
        return {
            path: self._nodes[node].content() if node in self._nodes else self._links.get(node)
            for path, node in self._walk(self._names)
        }

    def cut(self, chance: Random) -> Tree:
        """Return what a power cut may leave now."""
        names = dict(self._durable)
        for change in self._kept(chance):
            change.apply(names)
        return {
            path: self._nodes[node].left(chance, self._kind) if node in self._nodes else self._links.get(node)
            for path, node in self._walk(names)
        }

    def _kept(self, chance: Random) -> Sequence[Change]:
        """Choose which changes of names are kept; each needs those before it of the same name."""
        if self._kind is Kind.ORDERED:
            return self._changes[: chance.randint(0, len(self._changes))]
        share = chance.choice((0.0, 1.0, 0.5, 0.9, 0.1))
        return _closed(self._changes, {one.number for one in self._changes if chance.random() < share})

    def _walk(self, names: dict[Name, int]) -> Iterator[tuple[PurePosixPath, int]]:
        below: dict[int, list[tuple[str, int]]] = {}
        for (directory, name), node in sorted(names.items()):
            below.setdefault(directory, []).append((name, node))
        waiting = [(PurePosixPath(), ROOT)]
        while waiting:
            path, directory = waiting.pop()
            for name, node in below.get(directory, ()):
                yield path / name, node
                if node in self._directories:
                    waiting.append((path / name, node))

    # --- calls --------------------------------------------------------------------------------------------------------

    def _do_openat(self, call: Call) -> None:
        path, (descriptor, _) = self._named(call.texts[0]), call.descriptors[-1]
        if path is None:
            return
        number = self._find(path)
        if number is None:
            if not call.has("O_CREAT"):
                raise MissingError(f"{path} is opened, and nothing has made it")
            number = self._made(path)
            self._nodes[number] = Node()
        elif call.has("O_TRUNC"):
            self._nodes[number].truncate(self.number, 0)
        if call.has("O_APPEND"):
            raise UnmodelledError("O_APPEND")
        self._open[descriptor] = (number, 0)

    _do_open = _do_openat

    def _do_mkdir(self, call: Call) -> None:
        path = self._named(call.texts[0])
        if path is not None:
            self._directories.add(self._made(path))

    _do_mkdirat = _do_mkdir

    def _do_symlink(self, call: Call) -> None:
        target, path = call.texts[0], self._named(call.texts[1])
        if path is not None:
            self._links[self._made(path)] = Link(target)

    _do_symlinkat = _do_symlink

    def _do_rename(self, call: Call) -> None:
        old, new = (self._named(text) for text in call.texts)
        if old is None or new is None:
            raise UnmodelledError(f"a rename out of, or into, {self._top}")
        node = self._find(old)
        if node is None:
            raise MissingError(f"{old} is renamed, and nothing has made it")
        self._change(Change(number=self.number, node=node, added=self._name(new), removed=self._name(old)))

    _do_renameat = _do_rename

    def _do_unlink(self, call: Call) -> None:
        path = self._named(call.texts[0])
        node = None if path is None else self._find(path)
        if path is not None and node is not None:
            self._change(Change(number=self.number, node=node, removed=self._name(path)))

    _do_unlinkat = _do_rmdir = _do_unlink

    def _do_write(self, call: Call) -> None:
        self._write_on(call, call.texts[0][: call.result])

    def _do_writev(self, call: Call) -> None:
        self._write_on(call, b"".join(call.texts)[: call.result])

    def _write_on(self, call: Call, data: bytes) -> None:
        descriptor, opened = self._opened(call)
        if opened is not None:
            number, at = opened
            self._nodes[number].write(self.number, at, data)
            self._open[descriptor] = (number, at + len(data))

    def _do_pwrite64(self, call: Call) -> None:
        _, opened = self._opened(call)
        if opened is not None:
            self._nodes[opened[0]].write(self.number, call.numbers[-1], call.texts[0][: call.result])

    def _do_copy_file_range(self, call: Call) -> None:
        (_, source), (_, target) = self._opened(call, 0), self._opened(call, 1)
        if source is None or target is None:
            raise UnmodelledError("a copy out of, or into, the directory")
        start, at, *_ = call.numbers
        data = self._nodes[source[0]].content()[start : start + call.result]
        self._nodes[target[0]].write(self.number, at, data)

    def _do_lseek(self, call: Call) -> None:
        descriptor, opened = self._opened(call)
        if opened is not None:
            self._open[descriptor] = (opened[0], call.result)

    def _do_ftruncate(self, call: Call) -> None:
        _, opened = self._opened(call)
        if opened is not None:
            self._nodes[opened[0]].truncate(self.number, call.numbers[-1])

    def _do_fallocate(self, call: Call) -> None:
        _, opened = self._opened(call)
        if opened is not None and not call.has("FALLOC_FL_KEEP_SIZE"):
            node, end = self._nodes[opened[0]], call.numbers[-1] + call.numbers[-2]
            node.truncate(self.number, max(node.size, end))

    def _do_mmap(self, call: Call) -> None:
        path = call.descriptors[0][1] if call.descriptors else ""
        if call.has("MAP_SHARED") and call.has("PROT_WRITE") and not path.endswith("-shm"):
            raise UnmodelledError(f"{path} is written through memory")

    def _do_fsync(self, call: Call) -> None:
        _, opened = self._opened(call)
        if opened is None or self._ignored(call.descriptors[0][1], opened[0] in self._directories):
            return
        number = opened[0]
        if number in self._nodes:
            self._nodes[number].sync(call.began)
        if self._kind is Kind.ORDERED:
            self._settle(lambda _: True, call.began)
        elif number in self._directories:
            self._settle(lambda change: number in {directory for directory, _ in change.names}, call.began)

    _do_fdatasync = _do_fsync

    # --- names --------------------------------------------------------------------------------------------------------

    def _settle(self, concerned: Callable[[Change], bool], began: int) -> None:
        """Make changes of names durable that were made before a call that began then."""
        wanted = {change.number for change in self._changes if change.number < began and concerned(change)}
        for change in (kept := _closed(self._changes, wanted)):
            change.apply(self._durable)
        done = {change.number for change in kept}
        self._changes = [change for change in self._changes if change.number not in done]

    def _change(self, change: Change) -> None:
        change.apply(self._names)
        self._changes.append(change)

    def _made(self, path: PurePosixPath) -> int:
        number, self._next = self._next, self._next + 1
        self._change(Change(number=self.number, node=number, added=self._name(path)))
        return number

    def _opened(self, call: Call, which: int = 0) -> tuple[str, tuple[int, int] | None]:
        """Return a descriptor, and what it is open for; None where that is no file below the top."""
        descriptor, path = call.descriptors[which]
        if self._path(path.encode(errors="surrogateescape")) is None:
            return descriptor, None
        if descriptor not in self._open:
            raise MissingError(f"{path} is used, and nothing has opened it")
        return descriptor, self._open[descriptor]

    def _named(self, text: bytes) -> PurePosixPath | None:
        """Return the path that a call names; None where it is not below the top."""
        if not text.startswith(b"/"):
            raise UnmodelledError(f"a path from another directory: {text!r}")
        return self._path(text)

    def _path(self, text: bytes) -> PurePosixPath | None:
        path = PurePosixPath(text.decode(errors="surrogateescape"))
        return path.relative_to(self._top) if path.is_relative_to(self._top) else None

    def _name(self, path: PurePosixPath) -> Name:
        directory = self._find(path.parent)
        if directory is None:
            raise MissingError(f"{path.parent} is used, and nothing has made it")
        return directory, path.name

    def _find(self, path: PurePosixPath) -> int | None:
        number = ROOT
        for part in path.parts:
            found = self._names.get((number, part))
            if found is None:
                return None
            number = found
        return number


def _closed(changes: Sequence[Change], wanted: set[int]) -> list[Change]:
    """Return the changes that are wanted, and those before them that these need: of the same names."""
    kept, names = list[Change](), set[Name]()
    for change in reversed(changes):
        if change.number in wanted or names & change.names:
            kept.append(change)
            names |= change.names
    return kept[::-1]


def _joined(blocks: dict[int, bytes], size: int) -> bytes:
    zeroes = bytes(BLOCK)
    return b"".join(blocks.get(block, zeroes) for block in range((size + BLOCK - 1) // BLOCK))[:size]
