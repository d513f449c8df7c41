"""How fast the new part of an export is found, next to a plain comparison of as many bytes in the same run.

The goal is at most four times the time of memcmp in a real log: both windows are searched to their ends for the line
that proves where they continue each other, since it has to be in each of them once. Fails where it is far more than
that, or where a log that repeats itself takes more than linear time. Medians of five; the machine may be noisy, so only
ratios count.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ddslogd.storage.streams import log_window
from ddslogd.storage.streams.overlap import Continuation, HeldWindow, Window, continuation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE = 40_000_000  # bytes of an export
RUNS = 5
MOST_OF_MEMCMP = 8.0  # the goal is 4; machines differ, and what this guards against is worse than that
TRIES = 3  # a ratio that is too high in all of them is no noise
MOST_OF_LINEAR = 2.5  # time a byte at the whole size, by that at a quarter of it


def seconds(work: Callable[[], object]) -> float:
    """Return the median time that something takes."""
    took = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return median(took)


def real_log(size: int) -> bytes:
    """Return lines as mongod writes them, each with its own time."""
    line = (
        '{{"t":{{"$date":"2026-01-02T{:02d}:{:02d}:{:02d}.{:03d}+00:00"}},"s":"W","c":"NETWORK","id":{},"ctx":"c{}"}}\n'
    )
    lines, length = [], 0
    for number in range(size):
        second, ms = divmod(number, 1000)
        text = line.format(second // 3600 % 24, second // 60 % 60, second % 60, ms, number, number * 7919 % 99_999)
        lines.append(text)
        length += len(text)
        if length >= size:
            break
    return "".join(lines).encode()[:size]


def repeated(unit: bytes, size: int) -> bytes:
    return (unit * (size // len(unit) + 1))[:size]


def show(name: str, took_s: float, size: int, ratio: str) -> None:
    print(f"{name:<44} {took_s * 1000:8.1f} ms {size / took_s / 1e9:7.2f} GB/s  {ratio}")


def against_memcmp(log: bytes) -> bool:
    """Search in a log whose lines differ; tell whether it is fast enough."""
    last = log[:SIZE]
    good = True
    for new in (0, 1_000_000, 20_000_000, 39_000_000):
        export = log[new : new + SIZE]
        found = continuation(HeldWindow(last), HeldWindow(export))
        ratio = min(beside_memcmp(last, export, f"{new / 1e6:.0f} MB new, in memory"))
        good = good and isinstance(found, Continuation) and found.start == SIZE - new and ratio <= MOST_OF_MEMCMP
    export = log[SIZE : 2 * SIZE]
    min(beside_memcmp(last, export, "a gap, in memory", tries=1))
    header = b"# a header that the cloud rewrote\n" + log[1_000_000 : 1_000_000 + SIZE]
    min(beside_memcmp(last, header, "the last lines as a block, in memory", tries=1))
    show("1 MB new, from files", from_files(last, log[1_000_000 : 1_000_000 + SIZE]), SIZE, "")
    return good


def beside_memcmp(last: bytes, export: bytes, name: str, *, tries: int = TRIES) -> Iterator[float]:
    """Yield the time of a search by that of a comparison; again where it is too long, for the machine may be noisy."""
    same = bytes(bytearray(last))
    for _ in range(tries):
        memcmp_s = seconds(lambda: last == same)
        took_s = seconds(partial(continuation, HeldWindow(last), HeldWindow(export)))
        show(name, took_s, SIZE, f"{took_s / memcmp_s:.1f} x memcmp ({memcmp_s * 1000:.1f} ms)")
        yield took_s / memcmp_s
        if took_s <= MOST_OF_MEMCMP * memcmp_s:
            return


def from_files(last: bytes, export: bytes) -> float:
    with tempfile.TemporaryDirectory() as directory:
        paths = (Path(directory, "last"), Path(directory, "export"))
        paths[0].write_bytes(last)
        paths[1].write_bytes(export)
        with log_window.opened(paths[0]) as first, log_window.opened(paths[1]) as second:
            windows: tuple[Window, Window] = (first, second)
            return seconds(lambda: continuation(*windows))


def linear(log: bytes) -> bool:
    """Search in logs that repeat themselves and differ at the end; tell whether time a byte stays what it is."""
    units = {
        "two bytes": b"x\n",
        "one line": log[: log.index(b"\n") + 1],
        "100 KB": log[:100_000],
        "two lines by turns": b"a" * 5000 + b"\n" + b"a" * 5000 + b"b\n",
    }
    good = True
    for name, unit in units.items():
        a_byte = []
        for size in (SIZE // 4, SIZE // 2, SIZE):
            last, export = repeated(unit, size)[:-8] + b"the end\n", repeated(unit, size)
            took_s = seconds(partial(continuation, HeldWindow(last), HeldWindow(export)))
            a_byte.append(took_s / size)
            show(f"{name} repeated, {size / 1e6:.0f} MB", took_s, size, f"{a_byte[-1] / a_byte[0]:.1f} x linear")
        good = good and a_byte[-1] <= MOST_OF_LINEAR * a_byte[0]
    return good


def main() -> int:
    """Print the table; give the exit status."""
    today, python = f"{datetime.now(UTC):%Y-%m-%d}", platform.python_version()
    print(today, platform.machine(), platform.python_implementation(), python)
    log = real_log(2 * SIZE)
    return 0 if all([against_memcmp(log), linear(log)]) else 1


if __name__ == "__main__":
    sys.exit(main())
