"""How long the status page and the metrics of a thousand instances take, by those of a hundred in the same run.

Fails where time grows faster than the number of instances. The goals in milliseconds are shown, not held: machines
differ.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from ddslogd.monitoring import metrics
from ddslogd.monitoring.activity import Counts, Yield
from ddslogd.web import page
from support.sample_status import fleet

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 7
FEW, MANY = 100, 1000  # instances
MOST_OF_LINEAR = 2.5  # time an instance of the many, by that of the few
TRIES = 3  # a ratio that is too high in all of them is no noise
GOALS_MS = {"overview, a page": 100, "overview, all": 100, "metrics": 50}


def works(instances: int) -> dict[str, Callable[[], object]]:
    """Return what is measured for a fleet of that size, by name."""
    status = fleet(instances)
    yields = {one.name: Yield(snapshots=3, stored_bytes=300) for one in status.instances}
    counts = Counts(yields=yields, call_stats={}, resumed=1, received=500)
    return {
        "overview, a page": partial(page.overview, status, {}),
        "overview, all": partial(page.overview, status, {"show": "all", "sort": "age", "q": "shop"}),
        "metrics": partial(metrics.rendered, status, counts),
    }


def seconds(work: Callable[[], object]) -> float:
    """Return the median time that something takes, of the processor."""
    took = []
    for _ in range(RUNS):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return median(took)


def linear(name: str, few: Callable[[], object], many: Callable[[], object]) -> bool:
    """Measure both, print them, and return whether the time grows no faster than the number of instances."""
    for _ in range(TRIES):
        few_s, many_s = seconds(few), seconds(many)
        ratio = many_s / few_s * FEW / MANY
        print(f"{name:<20} {many_s * 1000:8.1f} ms  (goal {GOALS_MS[name]} ms)  {ratio:.2f} x linear")
        if ratio <= MOST_OF_LINEAR:
            return True
    return False


def main() -> int:
    """Print a line for each page; return the exit status."""
    few, many = works(FEW), works(MANY)
    held = [linear(name, few[name], many[name]) for name in GOALS_MS]  # all are shown, also behind one that fails
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
