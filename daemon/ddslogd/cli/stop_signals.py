"""Runs what a command does until it is done, or until SIGTERM or SIGINT stops it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, TypeVar

from ddslogd.cli.exit_status import EXIT_FAILED, EXIT_INTERRUPTED, end

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

STOPS = (signal.SIGTERM, signal.SIGINT)


def until_signal(
    work: Callable[[], Coroutine[Any, Any, T]], *, stopping: Callable[[], None] = lambda: None, left: str = ""
) -> T | None:
    """Run to the end, or until SIGTERM or SIGINT cancels it; then return None. A second signal changes nothing.

    Args:
        work: What to run; not begun where a signal comes before the loop's first step.
        stopping: Called first when such a signal comes.
        left: What is to be said of work that was stopped. Then the command ends here: with 130 after a SIGINT, else
            with 1. Empty where to be stopped is how the command ends.
    """
    told: signal.Signals | None = None

    async def stoppable() -> T | None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def stop(number: signal.Signals) -> None:
            nonlocal told
            if task is not None and told is None:  # else it is closing what is open: that is to end
                told = number
                stopping()
                task.cancel()

        for number in STOPS:
            loop.add_signal_handler(number, stop, number)
        try:
            return await work()
        except asyncio.CancelledError:
            return None

    try:
        with asyncio.Runner() as runner:
            ended = runner.run(stoppable())
    finally:
        for number in (*STOPS, signal.SIGHUP) if told is not None else ():  # the loop is gone, and its handlers with it
            signal.signal(number, signal.SIG_IGN)
    if told is not None and left:
        end(f"ddslogd: stopped before the end; {left}", EXIT_INTERRUPTED if told is signal.SIGINT else EXIT_FAILED)
    return ended
