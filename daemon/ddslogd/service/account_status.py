"""What the status says of the accounts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ddslogd.monitoring import status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ddslogd.config.settings import Settings
    from ddslogd.scheduling.clock import Clock
    from ddslogd.service.account_pool import Accounts


def account_status(
    accounts: Accounts, settings: Settings, *, clock: Clock, unlisted: Mapping[str, str]
) -> Iterator[status.CloudStatus]:
    """Return what is to be said of each account.

    Args:
        accounts: Those in use.
        settings: In force.
        clock: For now.
        unlisted: Why the list of a cloud could not be had, by its name.
    """
    now, clocks = clock.now(), accounts.clocks(clock)
    for name, account in accounts.all().items():
        api, budget = account.api, account.api.budget
        pause_s = budget.pause_left_s
        yield status.CloudStatus(
            name=name,
            calls_per_minute=settings.clouds[name].calls_per_minute,
            left=budget.left,
            waiting=budget.waiting,
            throttled=api.call_stats.throttled,
            paused_until=now + timedelta(seconds=pause_s) if pause_s else None,
            credentials=api.call_stats.credentials.value,
            credentials_todo=api.todo,
            reachable=budget.reachable,
            unlisted=unlisted.get(name, ""),
            silence=budget.silence,
            clock_ahead_s=clocks[name].total_seconds() if name in clocks else None,
        )
