"""A reload: the whole configuration is tried first, and a bad one changes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from ddslogd import config
from ddslogd.cloud.http import trust
from ddslogd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from ddslogd.config import Loaded, Settings
    from ddslogd.operate.notify import Notifier

log = structlog.get_logger()

KEPT = "mend the file and reload again; until then the configuration before it counts"


class Reloads:
    """Reloads the configuration whenever it is asked to."""

    def __init__(self, path: Path, *, take_over: Callable[[Settings], Awaitable[None]], notifier: Notifier) -> None:
        """Prepare.

        Args:
            path: Of the configuration.
            take_over: Goes by other settings, or raises ``ConfigError`` and changes nothing.
            notifier: Hears when a reload begins and ends.
        """
        self._path = path
        self._take_over = take_over
        self._notifier = notifier
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Ask for a reload; those that are asked for while one runs are one more."""
        self._asked.set()

    async def run(self) -> None:
        """Wait until a reload is asked for, and do it."""
        await self._asked.wait()
        self._asked.clear()
        self._notifier.reloading()
        try:
            loaded = await asyncio.to_thread(tried, self._path)
            await self._take_over(loaded.settings)
            tell_warnings(loaded)
        except ConfigError as exc:
            _tell_refused(exc)
        finally:
            self._notifier.ready()


def tried(path: Path) -> Loaded:
    """Load a configuration and what it names. Blocks.

    Raises:
        ConfigError: With all that is wrong.
    """
    loaded = config.load(path)
    for cloud in loaded.settings.clouds.values():
        trust(cloud.ca_file)
    return loaded


def tell_warnings(loaded: Loaded) -> None:
    """Tell of what runs, but not as the operator may think."""
    for warning in loaded.warnings:
        log.warning("config.warning", path=warning.path, line=warning.line, text=warning.text)


def _tell_refused(exc: ConfigError) -> None:
    for one in exc.complaints:
        log.error("config.refused", file=str(exc.file), path=one.path, line=one.line, text=one.text, todo=KEPT)


def difference(before: Settings, after: Settings) -> dict[str, object]:
    """Say what differs, by counts, and which other sections do."""
    clouds = _counts("clouds", dict(before.clouds), dict(after.clouds))
    fleets = ({one.id: one for one in settings.fleet()} for settings in (before, after))
    instances = _counts("instances", *fleets)
    sections = [
        name
        for name in type(after).model_fields
        if name not in {"clouds", "instances"} and getattr(before, name) != getattr(after, name)
    ]
    return {**clouds, **instances, "sections": sections}


def _counts(what: str, before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
    return {
        f"{what}_added": len(after.keys() - before.keys()),
        f"{what}_removed": len(before.keys() - after.keys()),
        f"{what}_changed": sum(before[key] != after[key] for key in before.keys() & after.keys()),
    }
