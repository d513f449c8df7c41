"""States that a power cut could have left, by chance that a seed repeats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from random import Random
from typing import TYPE_CHECKING

from torture.powercut import checker
from torture.powercut.disk import Disk, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torture.powercut.checker import Promises
    from torture.powercut.disk import Ignored, Tree
    from torture.powercut.recording import Recording
    from torture.powercut.trace import Call

_NAMING = frozenset({"openat", "mkdir", "rename", "unlink", "copy_file_range", "fsync"})
_NEAR = 3  # calls behind one of these


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a power cut could have left.

    Attributes:
        number: Calls before it.
        kind: Of the file system.
        at: When it was, epoch seconds.
        tree: What is on disk.
        said: What was promised.
    """

    number: int
    kind: Kind
    at: float
    tree: Tree
    said: Promises


def states(
    recording: Recording, kind: Kind, *, count: int, seed: int, ignored: Ignored | None = None
) -> Iterator[State]:
    """Return so many states of a recording, in order of time.

    Args:
        recording: The run.
        kind: Of the file system.
        count: How many.
        seed: Decides when the power is cut, and what is lost.
        ignored: As of ``Disk``.
    """
    chance = Random(f"{seed} {kind} {count}")
    disk = Disk(recording.top, kind=kind) if ignored is None else Disk(recording.top, kind=kind, ignored=ignored)
    cuts = _cuts([call for run in recording.runs for call in run], chance, count)
    acknowledged: dict[str, bytes] = {}
    for run in recording.runs:
        disk.restart()
        for call in run:
            disk.apply(call)
            if call.name in {"fsync", "fdatasync"} and checker.is_ledger(PurePosixPath(call.descriptors[0][1]).name):
                acknowledged = checker.ledger_files(disk.tree())
            for _ in range(cuts.pop(disk.number, 0)):
                tree = disk.cut(chance)
                said = checker.promises(acknowledged)
                yield State(number=disk.number, kind=kind, at=call.at, tree=tree, said=said)


def _cuts(calls: list[Call], chance: Random, count: int) -> dict[int, int]:
    """Choose when the power is cut, half of the times soon after names change: how often behind each call."""
    near = [number for number, call in enumerate(calls, 1) if call.name in _NAMING]
    cuts: dict[int, int] = {}
    for one in range(count):
        if one % 2 and near:
            number = min(len(calls), chance.choice(near) + chance.randrange(_NEAR))
        else:
            number = chance.randint(1, len(calls))
        cuts[number] = cuts.get(number, 0) + 1
    return cuts
