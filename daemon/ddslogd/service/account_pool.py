"""The clouds' accounts, which can be replaced while cycles run: each cycle ends with the one that it began with."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from datetime import timedelta

    from ddslogd.collection.context import Account
    from ddslogd.config.settings import Download, Settings
    from ddslogd.download.slots import Slots
    from ddslogd.scheduling.clock import Clock


class Connections(AsyncExitStack):
    """What is open for one purpose, to be closed when nobody uses it any more.

    Attributes:
        users: Cycles that do.
        retired: Whether another is used from now on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.users = 0
        self.retired = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountEntry:
    """A cloud's account and what it holds open.

    Attributes:
        built_of: What the part for calls was built from; where that is the same, it stays.
        calls: Open for calls.
        files: Open for transfers.
    """

    account: Account
    built_of: tuple[object, ...]
    calls: Connections
    files: Connections


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSet:
    """The accounts by the name of the cloud, and what their transfers share."""

    entries: Mapping[str, AccountEntry]
    download: Download | None = None
    slots: Slots | None = None

    def connections(self) -> set[Connections]:
        """Return all that is open."""
        return {one for entry in self.entries.values() for one in (entry.calls, entry.files)}


class Accounts:
    """The accounts in use."""

    def __init__(self, build: Callable[[Settings, AccountSet], Awaitable[AccountSet]]) -> None:
        """Prepare.

        Args:
            build: Makes the accounts for other settings, with what can stay of those that there are. Where it fails, it
                leaves nothing open.
        """
        self._build = build
        self._line = AccountSet(entries={})
        self._open: set[Connections] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def all(self) -> dict[str, Account]:
        """Return the accounts by the names of their clouds."""
        return {name: entry.account for name, entry in self._line.entries.items()}

    def clocks(self, clock: Clock) -> dict[str, timedelta]:
        """Return how far each cloud's clock is ahead of the host's, of those that have replied."""
        skews = {name: account.skew for name, account in self.all().items()}
        return {name: skew.ahead(clock) for name, skew in skews.items() if skew.known}

    async def prepared(self, settings: Settings) -> AccountSet:
        """Build what the settings need next to what there is; ``adopt`` puts it to use.

        Raises:
            ConfigError: An account cannot be built. Nothing has changed.
        """
        return await self._build(settings, self._line)

    def adopt(self, line: AccountSet) -> None:
        """Use these from now on; what is not needed any more is closed when its last cycle is over."""
        before, now = self._line.connections(), line.connections()
        self._line = line
        self._open |= now
        for one in before - now:
            one.retired = True
            self._close_if_idle(one)

    @contextmanager
    def using(self, cloud: str) -> Iterator[Account]:
        """Lend a cloud's account: it stays open until it is given back."""
        entry = self._line.entries[cloud]
        held = (entry.calls, entry.files)
        for one in held:
            one.users += 1
        try:
            yield entry.account
        finally:
            for one in held:
                one.users -= 1
                self._close_if_idle(one)

    async def close(self) -> None:
        """Close all, used or not."""
        for one in list(self._open):
            await self._close(one)

    def _close_if_idle(self, one: Connections) -> None:
        if one.retired and not one.users:
            task = asyncio.create_task(self._close(one), name="close of an account")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, one: Connections) -> None:
        self._open.discard(one)
        await one.aclose()
