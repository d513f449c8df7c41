"""How many calls cycles take, by the sandbox's count: what bench_calls measures at length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.bench_calls import MODELS, MOST_CALLS, MOST_LATE_S, bound_s, run
from ddslogd.model.cycle import CycleOutcome

if TYPE_CHECKING:
    from pathlib import Path

    from bench.bench_calls import Model
    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

REPEAT, EACH, EACH_NODE = MODELS


@pytest.mark.parametrize("model", MODELS, ids=["repeat", "each", "each node"])
async def test_a_cycle_takes_few_calls(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first cycle of an instance, which knows nothing, is left out, and takes three at the most on average."""
    monkeypatch.setenv("DDSLOGD_TOKEN", "")
    found = await run(model, seed=7, directory=tmp_path, instances=6, cycles=16)

    assert (found.calls <= MOST_CALLS, found.first_calls <= 3.0) == (True, True), str(found)


async def test_where_exports_repeat_themselves_a_ready_file_waits_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDSLOGD_TOKEN", "")
    found = await run(REPEAT, seed=8, directory=tmp_path, instances=4, cycles=8)

    assert (found.median_s < MOST_LATE_S, found.calls <= MOST_CALLS) == (True, True), str(found)


def test_what_no_schedule_of_polls_can_do_is_known() -> None:
    """Both goals at once are out of reach where nothing foretells how long an export takes."""
    assert (round(bound_s(1), 1), round(bound_s(3), 1)) == (5.1, 7.3)


async def test_what_was_learned_is_known_after_a_restart(bed: Bed, clock: ManualClock) -> None:
    """Each collect is a daemon of its own here."""
    async with bed.cloud(export_takes=(20.0, 20.0)) as sandbox:
        calls = []
        for _ in range(3):
            before = sandbox.calls["errorlog-download"]
            await bed.collect()
            calls.append(sandbox.calls["errorlog-download"] - before)
            clock.forward(minutes=20)

    assert calls == [3, 2, 2]
    assert clock.slept[:3] == [pytest.approx(10.0), pytest.approx(15.0), pytest.approx(22.0, abs=0.1)]


async def asked_each_time(bed: Bed, sandbox: Sandbox, *, cycles: int) -> list[int]:
    calls = []
    async with bed.open():
        for _ in range(cycles):
            before = sandbox.calls["errorlog-download"]
            report = await bed.collect()
            assert report.outcome is CycleOutcome.OK
            calls.append(sandbox.calls["errorlog-download"] - before)
            bed.clock.forward(minutes=20)
    return calls


@pytest.mark.parametrize("off_ms", [-900, 900, 8 * 3_600_000, None])
async def test_times_of_the_cloud_that_are_off_missing_or_nonsense_do_no_harm(bed: Bed, off_ms: int | None) -> None:
    """A second is more than headers show; the waits neither miss again and again nor grow from cycle to cycle."""
    async with bed.cloud(export_takes=(20.0, 20.0)) as sandbox:

        def odd(reply: dict[str, object]) -> dict[str, object]:
            rows = reply["list"]
            assert isinstance(rows, list)
            for row in rows:
                at = row.pop("updated_at")
                if off_ms is not None:
                    row["updated_at"] = at + off_ms
            return reply

        sandbox.faults.mangle = odd
        calls = await asked_each_time(bed, sandbox, cycles=20)

    assert sum(calls[1:]) <= MOST_CALLS * len(calls[1:])
    assert 20.0 <= bed.clock.slept[-1] <= 25.0


async def test_an_export_that_was_under_way_before_teaches_nothing(bed: Bed, clock: ManualClock) -> None:
    """Another host has asked for it: all that is known is that it took longer than this."""
    async with bed.cloud(export_takes=(20.0, 20.0)) as sandbox:
        await bed.collect()
        bed.forget_exports()
        clock.forward(minutes=5)

        await bed.collect()  # the export is served once more
        clock.forward(minutes=20)
        before = len(clock.slept)
        await bed.collect()

        assert (clock.slept[before], sandbox.calls["errorlog-download"]) == (10.0, 3 + 1 + 3)
