"""Whether memory stays what it is: days of a small fleet in minutes, with retention at work. Fails where it grows.

`bench_soak.py [MINUTES]`: how long it takes, 10 by default. Each minute is half a day: the clocks of daemon and sandbox
run 720 times as fast.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from bench import books
from bench.bench_fleet import rss_mib
from ddslogd.config import loader
from ddslogd.model.cycle import Silent
from ddslogd.model.redactor import Redactor
from ddslogd.monitoring import logs
from ddslogd.sandbox import Sandbox, configuration, replica_set
from ddslogd.service.factory import opened

if TYPE_CHECKING:
    from collections.abc import Sequence

INSTANCES = 15
FASTER = 720.0
MINUTES = 10.0
WARM_UP = 0.25  # of the time: snapshots of a day come together, and what is made once is made
MOST_GROWTH_MIB = 6.0
HOUR = timedelta(hours=1)
# Of the line's text: less is kept than is collected, so that retention removes at every run.
KEEP = """\
  keep_free: 0
  snapshots: all
  keep:
    age: 1d
    size: 30MiB
stream:
  rotate:
    size: 200KiB
    every: 6h"""


class FastClock:
    """Time that runs faster, from a moment on that several processes share."""

    def __init__(self, since: float) -> None:
        self._since = since

    def now(self) -> datetime:
        """Return the time: aware, UTC."""
        return datetime.fromtimestamp(self._since + (time.time() - self._since) * FASTER, UTC)

    def monotonic(self) -> float:
        """Return steady seconds, fast ones."""
        return time.monotonic() * FASTER

    async def sleep(self, seconds: float) -> None:
        """Return after so many fast seconds."""
        await asyncio.sleep(max(0.0, seconds) / FASTER)


async def cloud(since: float) -> None:
    """Be the cloud until nobody listens; say where, and how to log in."""
    sandbox = Sandbox(
        fleet=[replica_set(name) for name in books.names(INSTANCES)],
        now=FastClock(since).now,
        window=200_000,
        lines_per_second=0.05,
        backlog=HOUR,
        token_life=timedelta(days=3650),
        keep_exports=2,
    )
    async with sandbox:
        text = configuration(sandbox, directory=Path("DIRECTORY"), state=Path("STATE"))
        print(json.dumps({"configuration": text, "token": sandbox.issue_token()}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def collect(root: Path, text: str, since: float, minutes: float) -> list[float]:
    """Collect, and print a line each twelve hours; give the memory of each hour."""
    text = text.replace('"DIRECTORY"', str(root / "logs")).replace('"STATE"', str(root / "state"))
    text = text.replace("  keep_free: 0", KEEP).replace("calls_per_minute: 60", "calls_per_minute: 12000")
    clock, memory = FastClock(since), []
    settings = loader.parse(text, "soak").settings
    async with opened(settings, clock=clock, progress=Silent(), redactor=Redactor()) as service:
        serving = asyncio.create_task(service.serve())
        for hour in range(int(minutes * 60 * FASTER / HOUR.total_seconds())):
            await clock.sleep(HOUR.total_seconds())
            memory.append(rss_mib())
            if hour % 12 == 11:
                print(f"{hour + 1:>4} h  RSS {memory[-1]:6.1f} MiB  {await asyncio.to_thread(held, root)}", flush=True)
        serving.cancel()
        await asyncio.wait([serving])
    return memory


def held(root: Path) -> str:
    """Return what is on disk."""
    snapshots = [path.stat().st_size for path in (root / "logs/snapshots").rglob("*.log")]
    streams = [path.stat().st_size for path in (root / "logs/streams").rglob("*") if path.is_file()]
    ledger = (root / "state/ledger.sqlite3").stat().st_size
    return (
        f"{len(snapshots)} snapshots {sum(snapshots) / 1e6:.1f} MB, {len(streams)} files of streams"
        f" {sum(streams) / 1e6:.1f} MB, ledger {ledger / 1e6:.1f} MB"
    )


def growth(memory: Sequence[float]) -> float:
    """Return how much the line through the values rises from end to end, after the warm-up."""
    values = memory[int(len(memory) * WARM_UP) :]
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    square = sum((at - middle) ** 2 for at in range(len(values)))
    return sum((at - middle) * (value - mean) for at, value in enumerate(values)) / square * (len(values) - 1)


def main() -> int:
    """Print what is held as time goes by; give the exit status."""
    logs.configure(Redactor(), level="error", form="console")
    if sys.argv[1:2] == ["cloud"]:
        asyncio.run(cloud(float(sys.argv[2])))
        return 0
    minutes, since = float(sys.argv[1]) if sys.argv[1:] else MINUTES, time.time()
    print(f"{books.today():%Y-%m-%d} {platform.machine()} {os.cpu_count()} cores, Python {platform.python_version()}")
    if os.environ.get("TRACE"):
        tracemalloc.start(10)
    command = [sys.executable, __file__, "cloud", str(since)]
    with (
        tempfile.TemporaryDirectory(prefix="ddslogd-soak-") as directory,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sandbox,
    ):
        told = json.loads(sandbox.stdout.readline()) if sandbox.stdout else {}
        os.environ["DDSLOGD_TOKEN"] = told["token"]
        memory = asyncio.run(collect(Path(directory), told["configuration"], since, minutes))
        sandbox.terminate()
    rise = growth(memory)
    goal = f"goal: under {MOST_GROWTH_MIB:g}{'' if rise < MOST_GROWTH_MIB else '  MISSED'}"
    print(f"{len(memory)} hours: RSS grew by {rise:.2f} MiB after the warm-up  {goal}")
    return 0 if rise < MOST_GROWTH_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
