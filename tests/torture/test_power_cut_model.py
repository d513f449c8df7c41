"""The model that ``make powercut`` stands on: what a power cut may keep and lose, and what the checker finds."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from random import Random
from typing import TYPE_CHECKING

import pytest

from torture.powercut import checker
from torture.powercut.disk import BLOCK, Disk, Kind, Link, UnmodelledError
from torture.powercut.trace import Call, parsed

if TYPE_CHECKING:
    from torture.powercut.disk import Ignored, Tree

TOP = "/top"
TRIES = 300  # by chance, of two or three outcomes


class Sheet:
    """Writes the lines that strace would, of one process."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._opened = 10

    def call(self, text: str, result: str = "0", thread: int = 1) -> None:
        self.lines.append(f"{thread}  1.5 {text} = {result}\n")

    def open(self, name: str, flags: str = "O_RDWR|O_CREAT") -> str:
        self._opened += 1
        descriptor = f"{self._opened}<{_hex(f'{TOP}/{name}')}>"
        self.call(f'openat(AT_FDCWD<{_hex("/")}>, "{_hex(f"{TOP}/{name}")}", {flags}, 0640)', descriptor)
        return descriptor

    def write(self, descriptor: str, data: bytes, at: int) -> None:
        text = "".join(f"\\x{byte:02x}" for byte in data)
        self.call(f'pwrite64({descriptor}, "{text}", {len(data)}, {at})', str(len(data)))

    def sync(self, descriptor: str) -> None:
        self.call(f"fsync({descriptor})")

    def sync_directory(self, name: str = "") -> None:
        self.sync(self.open(name, "O_RDONLY|O_DIRECTORY"))

    def symlink(self, target: str, name: str) -> None:
        self.call(f'symlink("{_hex(target)}", "{_hex(f"{TOP}/{name}")}")')

    def rename(self, old: str, new: str) -> None:
        self.call(f'rename("{_hex(f"{TOP}/{old}")}", "{_hex(f"{TOP}/{new}")}")')

    @property
    def calls(self) -> list[Call]:
        return list(parsed(self.lines, below=Path(TOP)).calls)

    def cuts(self, kind: Kind = Kind.WEAK, **named: Ignored) -> list[Tree]:
        """Return what many power cuts at the end leave."""
        disk = Disk(TOP, kind=kind, **named)
        for call in self.calls:
            disk.apply(call)
        return [disk.cut(Random(seed)) for seed in range(TRIES)]


def _hex(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(text))


@pytest.fixture
def sheet() -> Sheet:
    return Sheet()


def contents(cuts: list[Tree], name: str) -> set[bytes | None]:
    return {tree.get(PurePosixPath(name), None) for tree in cuts}


def names(cuts: list[Tree]) -> set[frozenset[str]]:
    return {frozenset(map(str, tree)) for tree in cuts}


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
def test_what_is_synced_is_never_lost(sheet: Sheet, kind: Kind) -> None:
    file = sheet.open("a")
    sheet.write(file, b"x" * 5000, 0)
    sheet.sync(file)
    sheet.sync_directory()

    assert contents(sheet.cuts(kind), "a") == {b"x" * 5000}


def test_a_block_that_is_not_synced_is_the_one_before_or_any_since(sheet: Sheet) -> None:
    file = sheet.open("a")
    sheet.write(file, b"old", 0)
    sheet.sync(file)
    sheet.sync_directory()
    sheet.write(file, b"mid", 0)
    sheet.write(file, b"new", 0)

    assert contents(sheet.cuts(), "a") == {b"old", b"mid", b"new"}


def test_a_length_may_be_kept_without_the_bytes_and_blocks_each_by_itself(sheet: Sheet) -> None:
    file = sheet.open("a")
    sheet.sync_directory()
    sheet.write(file, b"x" * 2 * BLOCK, 0)

    whole, hole = b"x" * BLOCK, bytes(BLOCK)
    assert contents(sheet.cuts(), "a") == {b"", whole + whole, whole + hole, hole + whole, hole + hole}


def test_in_order_a_file_is_no_longer_than_what_was_written_of_it(sheet: Sheet) -> None:
    file = sheet.open("a")
    sheet.sync_directory()
    sheet.write(file, b"x" * 2 * BLOCK, 0)

    assert contents(sheet.cuts(Kind.ORDERED), "a") == {b"", b"x" * BLOCK, b"x" * 2 * BLOCK}


def test_a_sync_makes_durable_what_was_written_before_it_began(sheet: Sheet) -> None:
    file = sheet.open("a")
    sheet.sync_directory()
    sheet.write(file, b"one", 0)
    sheet.lines.append(f"2  1.5 fsync({file} <unfinished ...>\n")
    sheet.write(file, b"two", 0)
    sheet.lines.append("2  1.6 <... fsync resumed>) = 0\n")

    assert contents(sheet.cuts(), "a") == {b"one", b"two"}


def test_a_file_that_was_cut_has_zeroes_where_it_grows_again(sheet: Sheet) -> None:
    file = sheet.open("a")
    sheet.write(file, b"abcdef", 0)
    sheet.call(f"ftruncate({file}, 3)")
    sheet.write(file, b"z", 5)
    sheet.sync(file)
    sheet.sync_directory()

    assert contents(sheet.cuts(), "a") == {b"abc\0\0z"}


def test_what_the_kernel_copies_is_what_the_other_file_held(sheet: Sheet) -> None:
    source, target = sheet.open("a"), sheet.open("b")
    sheet.write(source, b"0123456789", 0)
    sheet.call(f"copy_file_range({source}, [2], {target}, [0], 4, 0)", "4")
    sheet.sync(target)
    sheet.sync_directory()

    assert contents(sheet.cuts(), "b") == {b"2345"}


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "kept"), [(Kind.WEAK, {True, False}), (Kind.ORDERED, {True})])
def test_a_sync_of_a_file_keeps_its_name_only_where_names_are_in_order(
    sheet: Sheet, kind: Kind, kept: set[bool]
) -> None:
    file = sheet.open("a")
    sheet.sync(file)

    assert {bool(tree) for tree in sheet.cuts(kind)} == kept


def test_a_file_is_lost_with_the_name_of_its_directory(sheet: Sheet) -> None:
    sheet.call(f'mkdir("{_hex(f"{TOP}/d")}", 0777)')
    file = sheet.open("d/a")
    sheet.sync(file)
    sheet.sync_directory("d")

    assert names(sheet.cuts()) == {frozenset(), frozenset({"d", "d/a"})}


@pytest.mark.parametrize("kind", Kind)
def test_a_rename_is_kept_or_lost_as_a_whole(sheet: Sheet, kind: Kind) -> None:
    sheet.open("a")
    sheet.sync_directory()
    sheet.rename("a", "b")

    assert names(sheet.cuts(kind)) == {frozenset({"a"}), frozenset({"b"})}


@pytest.mark.parametrize("kind", Kind)
def test_a_link_leads_to_the_old_file_or_to_the_new_one(sheet: Sheet, kind: Kind) -> None:
    sheet.symlink("1", "link")
    sheet.sync_directory()
    sheet.symlink("2", "new")
    sheet.rename("new", "link")

    found = {tree.get(PurePosixPath("link")) for tree in sheet.cuts(kind)}
    assert (found, {type(one) for one in found}) == ({b"1", b"2"}, {Link})


def test_names_are_kept_each_by_itself_or_in_order(sheet: Sheet) -> None:
    for name in "abc":
        sheet.open(name)

    assert len(names(sheet.cuts())) == 8
    assert names(sheet.cuts(Kind.ORDERED)) == {frozenset("abc"[:count]) for count in range(4)}


def test_a_name_goes_from_one_file_to_the_next_in_order(sheet: Sheet) -> None:
    """A log that is rotated away, and the one that takes its place: the old one is not lost."""
    old = sheet.open("live")
    sheet.write(old, b"old", 0)
    sheet.sync(old)
    sheet.sync_directory()
    sheet.rename("live", "rotated")
    new = sheet.open("live")
    sheet.write(new, b"new", 0)
    sheet.sync(new)

    found = {tuple(content for _, content in sorted(tree.items())) for tree in sheet.cuts()}
    assert found == {(b"old",), (b"new", b"old")}


# --- disks that lie, and calls that are not known ---------------------------------------------------------------------


def test_a_sync_that_is_ignored_makes_nothing_durable(sheet: Sheet) -> None:
    file = sheet.open("a")
    sheet.write(file, b"x", 0)
    sheet.sync(file)
    sheet.sync_directory()

    assert contents(sheet.cuts(ignored=lambda _, directory: not directory), "a") == {b"", b"\0", b"x"}
    assert {bool(tree) for tree in sheet.cuts(ignored=lambda _, directory: directory)} == {True, False}


@pytest.mark.parametrize(
    "text",
    [
        f'linkat(AT_FDCWD<{_hex("/")}>, "{_hex(f"{TOP}/a")}", AT_FDCWD<{_hex("/")}>, "{_hex(f"{TOP}/b")}", 0)',
        f"mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 11<{_hex(f'{TOP}/a')}>, 0)",
        f'unlinkat(11<{_hex(TOP)}>, "{_hex("a")}", 0)',
        f'rename("{_hex("/elsewhere")}", "{_hex(f"{TOP}/a")}")',
    ],
)
def test_what_the_model_does_not_know_is_refused(sheet: Sheet, text: str) -> None:
    sheet.open("a")
    sheet.call(text)

    with pytest.raises(UnmodelledError):
        sheet.cuts()


def test_of_a_process_that_was_killed_it_is_known_what_was_under_way(sheet: Sheet) -> None:
    sheet.open("a")
    sheet.lines += [
        f'1  1.5 mkdir("{_hex(f"{TOP}/d")}", 0777 <unfinished ...>\n',
        f'2  1.5 rename("{_hex(f"{TOP}/a")}", "{_hex(f"{TOP}/b")}" <unfinished ...>\n',
        "2  1.5 <... rename resumed>) = ?\n",
        f'3  1.5 unlink("{_hex(f"{TOP}/c")}") = -1 ENOENT (No such file or directory)\n',
        "1  1.6 +++ killed by SIGKILL +++\n",
    ]
    trace = parsed(sheet.lines, below=Path(TOP))

    assert [call.name for call in trace.calls] == ["openat"]
    assert sorted(call.name for call in trace.unfinished) == ["mkdir", "rename"]


# --- the checker ------------------------------------------------------------------------------------------------------

LOG = b"".join(b'{"id":%d,"msg":"line"}\n' % number for number in range(10))
LINES = LOG.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("content", "gaps", "fault"),
    [
        (LOG, 0, ""),
        (b"".join(LINES[2:]), 0, ""),  # an export that was cut is where it began
        (LINES[0][9:] + b"".join(LINES[1:]), 0, ""),
        (b"".join(LINES[:3] + LINES[5:]), 1, ""),
        (b"".join(LINES[:3]) + LINES[3][:8] + b"\n" + LINES[4][9:] + b"".join(LINES[5:]), 1, ""),
        (b"".join(LINES[:3] + LINES[5:]), 0, "lines are missing in 1 places, and 0 gaps are reported"),
        (LOG, 1, "lines are missing in 0 places, and 1 gaps are reported"),
        (b"".join(LINES[:3] + LINES[2:]), 0, "line 2 follows line 2"),
        (b"".join(LINES[:9]), 0, "it ends with line 8 of 9, and 0 pieces"),
        (LOG[:-1], 0, "it ends within a line"),
        (b"".join(LINES[:3]) + bytes(20) + b"\n" + b"".join(LINES[5:]), 1, "a piece of no line"),
        (b"", 0, "it ends with line -1 of 9, and 0 pieces"),
    ],
)
def test_each_line_once_in_order_or_a_gap(content: bytes, gaps: int, fault: str) -> None:
    faults = checker.once_in_order(content, LOG, gaps=gaps)

    assert (not faults) if not fault else any(one.startswith(fault) for one in faults)


def test_a_state_that_lacks_what_was_promised_is_found() -> None:
    """A whole snapshot, one that is cut, a hidden one that may be; a stream that is shorter; a ledger that is gone."""
    tree: Tree = {
        PurePosixPath("logs/snapshots/i/n/a.log"): b"whole",
        PurePosixPath("logs/snapshots/i/n/b.log"): b"who",
        PurePosixPath("logs/snapshots/i/n/.c.log.part"): b"w",
        PurePosixPath("logs/streams/i/n/20260102T030000.000Z.log"): b"one\n",
        PurePosixPath("logs/streams/i/n/20260102T040000.000Z.log"): b"two\n",
    }
    truth = checker.Truth(served={"snapshots/i/n": {b"whole"}}, streams={"streams/i/n.log": b"one\ntwo\nthree\n"})
    kept = checker.Promises(snapshots={"snapshots/i/n/a.log": 5}, streams={"streams/i/n.log": 8})
    broken = checker.Promises(snapshots={"snapshots/i/n/d.log": 5}, streams={"streams/i/n.log": 9}, cycles={"i": 1})

    forgotten = [fault for fault in checker.as_it_is(tree, said=kept, truth=truth) if "forgotten" in fault]
    assert checker.strangers(tree, truth.served) == [
        "a visible snapshot is no whole object: snapshots/i/n/b.log",
    ]
    assert (len(forgotten), len(checker.as_it_is(tree, said=kept, truth=truth))) == (2, 3)
    assert len(checker.as_it_is(tree, said=broken, truth=truth)) == 1 + 3 + 2
