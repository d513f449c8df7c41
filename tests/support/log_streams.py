"""Streams as they are on disk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import chain, count
from typing import TYPE_CHECKING

from support.clocks import START

if TYPE_CHECKING:
    from pathlib import Path

    from ddslogd.model.cycle import CycleReport
    from support.clocks import ManualClock
    from support.testbed import Bed


NODE = "solo_single_node_1"
T0 = datetime(2026, 1, 2, 3, 0, 0, tzinfo=UTC)
NUMBERS = count()


def line(number: int) -> bytes:
    moment = (T0 + timedelta(seconds=number)).isoformat(timespec="milliseconds")
    return f'{{"t":{{"$date":"{moment}"}},"s":"W","id":{number},"msg":"{"x" * (number % 50)}"}}\n'.encode()


def lines(first: int, end: int) -> bytes:
    """Return lines of a log, one a second, numbered."""
    return b"".join(map(line, range(first, end)))


def files_in(home: Path, node: str, ending: str = ".log") -> list[Path]:
    """Return the files of a node's stream in an instance's directory, oldest first; those of the old layout, too."""
    link = home / f"{node}{ending}"
    new = sorted((home / node).glob(f"2*Z{ending}"))
    return [*sorted(home.glob(f"{link.name}.2*Z")), *([link] if link.is_file() and not link.is_symlink() else []), *new]


def mongod_lines(first: int, number: int) -> bytes:
    """Return lines of a log as mongod before 4.4 writes it, one a second, numbered."""
    return b"".join(
        f"{START + timedelta(seconds=line):%Y-%m-%dT%H:%M:%S.000+0000} W NETWORK  [conn] {line:060d}\n".encode()
        for line in range(first, first + number)
    )


def new_lines(size: int) -> bytes:
    """Return so many bytes of lines that were never there before."""
    return b"".join(f"2026-01-02T00:00:00.000+0000 E {next(NUMBERS):068d}\n".encode() for _ in range(size // 100))


# --- cycles against the sandbox ---------------------------------------------------------------------------------------


def stream_files(bed: Bed, node: str = NODE, ending: str = ".log") -> list[Path]:
    """Return the files of a node's stream, oldest first."""
    homes = sorted((bed.directory / "streams").iterdir()) if (bed.directory / "streams").exists() else []
    return list(chain.from_iterable(files_in(home, node, ending) for home in homes))


def stream(bed: Bed, node: str = NODE, ending: str = ".log") -> bytes:
    return b"".join(path.read_bytes() for path in stream_files(bed, node, ending))


async def cycle(bed: Bed, clock: ManualClock) -> CycleReport:
    """Let the cloud forget its last export, and run a cycle."""
    clock.forward(minutes=20)
    return await bed.collect()
