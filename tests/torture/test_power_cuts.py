"""No power cut that a recorded run could have met breaks a promise; and a disk that ignores syncs is found out."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from torture.powercut import checker
from torture.powercut.disk import Kind
from torture.powercut.recording import faults_of, recorded
from torture.powercut.restart import bad, restarted
from torture.powercut.states import states

if TYPE_CHECKING:
    from pathlib import Path

    from torture.powercut.disk import Ignored
    from torture.powercut.recording import Recording
    from torture.powercut.states import State

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("POWERCUT_SEED", "1"))
AS_THEY_ARE = 150  # states of each kind of file system
RESTARTED = 50
AT_ONCE = 6  # daemons
MUTANTS: dict[str, Ignored] = {
    "files": lambda path, directory: not directory and checker.LEDGER not in path,
    "directories": lambda _, directory: directory,
    "ledger": lambda path, directory: not directory and checker.LEDGER in path,
}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    if shutil.which("strace") is None and os.environ.get("DDSLOGD_SKIP_NOTHING"):
        pytest.fail("strace is missing: apt-get install strace")
    if shutil.which("strace") is None:
        pytest.skip("needs Debian's strace")
    return asyncio.run(recorded(tmp_path_factory.mktemp("recording")))


def test_the_run_that_is_cut_rotates_resumes_and_has_a_gap(recording: Recording) -> None:
    """Else nothing would be shown by it."""
    calls = [call for run in recording.runs for call in run]
    renamed = [call.texts[1] for call in calls if call.name == "rename"]
    named = {call.name for call in calls}

    assert faults_of(recording) == []
    assert len([path for path in renamed if b"/streams/" in path]) >= 4
    assert {"copy_file_range", "fallocate", "fdatasync", "ftruncate", "mkdir", "writev"} <= named
    assert len(recording.runs) == 3


@pytest.mark.parametrize("kind", Kind)
def test_no_power_cut_breaks_a_promise(recording: Recording, kind: Kind) -> None:
    cut = states(recording, kind, count=AS_THEY_ARE, seed=SEED)

    found = [(state, checker.as_it_is(state.tree, said=state.said, truth=recording.truth)) for state in cut]

    assert (bad(found), len(found)) == ([], AS_THEY_ARE)
    assert sum(bool(state.said.streams) for state, _ in found) > AS_THEY_ARE // 2


@pytest.mark.parametrize("kind", Kind)
def test_after_a_power_cut_a_daemon_goes_on_and_nothing_is_lost_or_doubled(
    recording: Recording, kind: Kind, tmp_path: Path
) -> None:
    async def all_of_them() -> list[tuple[State, list[str]]]:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(state: State) -> tuple[State, list[str]]:
            async with places:
                directory = tmp_path / f"{state.number}-{id(state)}"
                faults = await restarted(state, recording, directory)
                shutil.rmtree(directory)
                return state, faults

        cut = states(recording, kind, count=RESTARTED, seed=SEED)
        return list(await asyncio.gather(*map(one, cut)))

    found = asyncio.run(all_of_them())

    assert (bad(found), len(found)) == ([], RESTARTED)


@pytest.mark.parametrize("ignored", MUTANTS)
def test_a_disk_that_ignores_syncs_is_found_out(recording: Recording, ignored: str) -> None:
    """Of files, of directories, of the ledger: the check is worth something."""
    cut = states(recording, Kind.WEAK, count=AS_THEY_ARE, seed=SEED, ignored=MUTANTS[ignored])

    assert any(checker.as_it_is(state.tree, said=state.said, truth=recording.truth) for state in cut)
