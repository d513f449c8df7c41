"""A daemon that starts on a state, and takes what the cloud has then and a little later."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING

from torture.powercut import checker
from torture.powercut.checker import Truth
from torture.powercut.disk import Link
from torture.powercut.recording import ENDS, FLEET, NODES, configured, live, log_of, sandbox, snapshots

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torture.powercut.disk import Tree
    from torture.powercut.recording import Recording
    from torture.powercut.states import State

CYCLES = 2  # after each generation, of each instance: the first of them may have begun before
MORE = (20_000, 40_000)  # bytes that each node writes further on, generation by generation
_PATIENCE_S = 240


async def restarted(state: State, recording: Recording, directory: Path) -> list[str]:
    """Return what is wrong with a state once a daemon has run on it."""
    _write(state.tree, directory)
    end = ENDS[recording.generation(state.at)]
    async with sandbox() as cloud:
        for node in NODES:
            cloud.write(node, log_of(node, end))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", "run", "--log-format", "json", "-c", configured(cloud, directory)),
            env={**os.environ, "DDSLOGD_TOKEN": cloud.issue_token()},
            stderr=asyncio.subprocess.PIPE,
        )
        said: list[str] = []
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await _cycles(process, said)
                for more in MORE:
                    for node in NODES:
                        cloud.write(node, log_of(node, end + more)[len(cloud.log_of(node)) :])
                    await _cycles(process, said)
                process.send_signal(signal.SIGTERM)
                await process.communicate()
        except TimeoutError:
            return [f"it brings no cycle to its end: {said[-3:]}"]
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        served = {
            snapshots(node): {*cloud.exports_of(node), *recording.truth.served[snapshots(node)]} for node in NODES
        }
    faults = [f"it ends with {process.returncode}"] if process.returncode else []
    truth = Truth(served=served, streams=recording.truth.streams)
    logs = {live(node): log_of(node, end + MORE[-1]) for node in NODES}
    return faults + checker.after(checker.tree_of(directory), said=state.said, truth=truth, logs=logs)


async def _cycles(process: asyncio.subprocess.Process, said: list[str]) -> None:
    """Wait until each instance has had so many cycles that asked the cloud.

    Raises:
        TimeoutError: The daemon has ended.
    """
    over: Counter[str] = Counter()
    while any(over[instance.name] < CYCLES for instance in FLEET):
        line = (await process.stderr.readline()).decode() if process.stderr else ""
        if not line:
            raise TimeoutError
        said.append(line)
        for instance in FLEET:
            over[instance.name] += '"cycle.done"' in line and f'"{instance.name}"' in line and "cached" not in line


def _write(tree: Tree, directory: Path) -> None:
    directory.mkdir(parents=True)
    for path, content in tree.items():
        if content is None:
            (directory / path).mkdir(exist_ok=True)
        elif isinstance(content, Link):
            (directory / path).symlink_to(os.fsdecode(content))
        else:
            (directory / path).write_bytes(content)


def bad(found: Sequence[tuple[State, list[str]]]) -> list[str]:
    """Return what is wrong with states, one line for each of the first."""
    return [f"{state.kind} after call {state.number}: {'; '.join(faults[:4])}" for state, faults in found if faults][
        :10
    ]
