"""The calls that change a directory tree, as ``strace -f -y -xx`` writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

# Whatever changes files or names, those too that the model does not know: a run that uses one is refused, not misread.
# "?": not every processor has it.
CALLS = (
    "?open,openat,?creat,?mkdir,mkdirat,?rename,?renameat,renameat2,?unlink,unlinkat,?rmdir,?link,linkat,?symlink,symlinkat,"
    "write,pwrite64,writev,pwritev,pwritev2,copy_file_range,sendfile,splice,lseek,truncate,ftruncate,fallocate,"
    "fsync,fdatasync,sync,syncfs,mmap"
)
STRACE = ("strace", "-f", "-y", "-xx", "-ttt", "-s", "10000000", "--seccomp-bpf", "-e", "signal=none", "-e", CALLS)

_LINE = re.compile(r"(\d+) +(\d+\.\d+) (.*)", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)", re.DOTALL)
_KILLED = re.compile(r"(?: <unfinished \.\.\.>|\) += \?)$")  # or not over yet
_HARMLESS = frozenset({"fsync", "fdatasync", "lseek", "mmap"})  # where a process is killed in one, and nothing else
_ENDED = re.compile(r"(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?", re.DOTALL)
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"(-?\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")
_NUMBER = re.compile(r"\[?(-?\d+)\]?(?: => \[?-?\d+\]?)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call that succeeded.

    Attributes:
        began: How many calls had ended when it began: a sync makes durable what these did, and perhaps no more.
        at: Epoch seconds at which it began.
        texts: Its strings: paths and what is written.
        descriptors: Its open files, as number and path.
        numbers: Its other arguments that are numbers.
        words: All arguments as they stand, for flags.
    """

    name: str
    began: int
    at: float
    texts: tuple[bytes, ...]
    descriptors: tuple[tuple[str, str], ...]
    numbers: tuple[int, ...]
    words: tuple[str, ...]
    result: int

    def has(self, flag: str) -> bool:
        """Return whether a flag is among the arguments."""
        return any(flag in word.split("|") for word in self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What one process did.

    Attributes:
        calls: In the order in which they ended.
        unfinished: Those that were under way when it was killed: they may have happened, as if they had succeeded.
    """

    calls: Sequence[Call]
    unfinished: Sequence[Call]


def read(path: Path, *, below: Path, began: int = 0) -> Trace:
    """Read a trace; only what names a path below a directory, or the directory itself.

    Args:
        path: Of the trace.
        below: The directory.
        began: How many calls have ended before the trace begins.
    """
    with path.open(encoding="ascii", errors="replace") as lines:
        return parsed(lines, below=below, began=began)


def parsed(lines: Iterable[str], *, below: Path, began: int = 0) -> Trace:
    """Read the lines of a trace, see ``read``."""
    top, ended = _hex(str(below)), list[Call]()
    pending: dict[str, tuple[str, float, int]] = {}  # by thread
    for line in lines:
        found = _LINE.match(line.rstrip("\n"))
        if found is None:
            continue
        thread, at, text, since = found[1], float(found[2]), found[3], began + len(ended)
        if resumed := _RESUMED.match(text):
            start, at, since = pending.pop(thread, ("", at, since))
            text = start + resumed[1]
        if _KILLED.search(text):
            pending[thread] = (_KILLED.sub("", text), at, since)
        elif top in text and (call := _call(text, at=at, began=since)) is not None:
            ended.append(call)
    left = [_call(f"{text}) = 0", at=at, began=since) for text, at, since in pending.values() if top in text]
    return Trace(calls=ended, unfinished=[_as_if_done(call) for call in left if call and call.name not in _HARMLESS])


def _as_if_done(call: Call) -> Call:
    match call.name:
        case "write" | "writev" | "pwrite64":
            return replace(call, result=sum(map(len, call.texts)))
        case "copy_file_range":
            return replace(call, result=call.numbers[2])
        case _:
            return call


def _call(text: str, *, at: float, began: int) -> Call | None:
    found = _ENDED.match(text)
    if found is None or int(found[3]) < 0:
        return None
    words = tuple(found[2].split(", "))
    descriptors = [(number, _text(path)) for number, path in _DESCRIPTOR.findall(found[2])]
    if found[4] is not None:  # what an open gives
        descriptors.append((found[3], _text(found[4])))
    return Call(
        name=found[1],
        began=began,
        at=at,
        texts=tuple(_bytes(one) for one in _TEXT.findall(found[2])),
        descriptors=tuple(descriptors),
        numbers=tuple(int(number[1]) for word in words if (number := _NUMBER.match(word))),
        words=words,
        result=int(found[3]),
    )


def _hex(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _text(escaped: str) -> str:
    return _bytes(escaped).decode(errors="surrogateescape")
