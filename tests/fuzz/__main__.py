"""Runs seeds: one here, or many in processes of their own."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import time
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from fuzz.daemon import FAKETIME
from fuzz.scenario import KINDS, Options, scenario
from fuzz.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILD = Path("build/fuzz")
LONGEST_S = 240.0  # of one seed


def run_one(seed: int, options: Options, directory: Path) -> bool:
    """Run a seed and print what came of it; return whether all was well."""
    plan = scenario(seed, options)
    began = time.monotonic()
    result = asyncio.run(Trial(plan, directory).run())
    counts = f"{result.starts} starts, {result.exports} exports, {result.lines} lines, {result.gaps} gaps"
    word = f"{len(result.violations)} violations" if result.violations else "ok"
    print(f"seed {seed}: {word} in {time.monotonic() - began:.0f} s: {counts}; {' '.join(sorted(plan.kinds))}")
    for violation in result.violations:
        print(f"  {violation.kind}: {violation.where}: {violation.detail}")
    if result.violations:
        print(f"  files: {directory}; again: {_command(seed, options)}")
    else:
        shutil.rmtree(directory)
    return not result.violations


async def run_many(seeds: Iterator[int], words: list[str], *, at_once: int, until: float) -> list[int]:
    """Run seeds in processes of their own until there is none, or the time is over; return those that went wrong."""
    wrong: list[int] = []

    async def work() -> None:
        for seed in seeds:
            if time.monotonic() > until:
                return
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "fuzz", "--seed", str(seed), *words),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                async with asyncio.timeout(LONGEST_S):
                    out, _ = await process.communicate()
            except TimeoutError:
                process.kill()
                out = f"seed {seed}: did not end within {LONGEST_S:g} s\n".encode()
            print(out.decode(errors="replace"), end="", flush=True)
            if process.returncode:
                wrong.append(seed)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return sorted(wrong)


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone, here")
    parser.add_argument("--seeds", help="run these, as 1-20 or 7")
    parser.add_argument(
        "--minutes", type=float, default=3.0, help="where no seeds are named: for how long to begin seeds"
    )
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--only", help=f"these kinds of trouble, of {','.join(KINDS)}")
    parser.add_argument("--without", default="", help="none of these")
    parser.add_argument("--seconds", type=float, default=22.0, help="how long there is trouble")
    parser.add_argument("--small", action="store_true", help="one instance of one node")
    asked = parser.parse_args()
    options = Options(
        only=None if asked.only is None else _kinds(asked.only),
        without=_kinds(asked.without),
        seconds=asked.seconds,
        small=asked.small,
    )
    if asked.seed is not None:
        BUILD.mkdir(parents=True, exist_ok=True)
        return not run_one(asked.seed, options, Path(mkdtemp(prefix=f"seed-{asked.seed}-", dir=BUILD)).absolute())
    if FAKETIME is None:
        print("the host's clock cannot jump: libfaketime is missing (Debian: libfaketime)")
        if os.environ.get("DDSLOGD_SKIP_NOTHING"):
            return 1
    seeds: Iterator[int] = count(1)
    until = time.monotonic() + asked.minutes * 60
    if asked.seeds:
        first, _, last = asked.seeds.partition("-")
        seeds, until = iter(range(int(first), int(last or first) + 1)), float("inf")
    wrong = asyncio.run(run_many(seeds, _words(options), at_once=asked.at_once, until=until))
    if wrong:
        print(f"seeds with violations: {', '.join(map(str, wrong))}")
    return bool(wrong)


def _kinds(text: str) -> frozenset[str]:
    found = frozenset(text.split(",")) - {""}
    if not found <= KINDS.keys():
        sys.exit(f"no kind of trouble: {', '.join(found - KINDS.keys())}")
    return found


def _words(options: Options) -> list[str]:
    words = ["--seconds", f"{options.seconds:g}"]
    if options.only is not None:
        words += ["--only", ",".join(sorted(options.only))]
    if options.without:
        words += ["--without", ",".join(sorted(options.without))]
    return words + ["--small"] * options.small


def _command(seed: int, options: Options) -> str:
    return " ".join(["PYTHONPATH=tests", ".venv/bin/python", "-m", "fuzz", "--seed", str(seed), *_words(options)])


if __name__ == "__main__":
    sys.exit(main())
