"""A reload: the whole configuration is tried first, and a bad one changes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from ddslogd.config import loader
from ddslogd.huaweicloud.http import trust
from ddslogd.model.errors import Complaint, ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from ddslogd.collection.discovery import Discovery
    from ddslogd.config.live_settings import LiveSettings
    from ddslogd.config.loader import Loaded
    from ddslogd.config.settings import Settings
    from ddslogd.scheduling.scheduler import Scheduler
    from ddslogd.service.account_pool import Accounts
    from ddslogd.service.systemd import Notifier

log = structlog.get_logger()

KEPT = "fix the file and reload again; until then the configuration before it counts"
BUG = "a bug in ddslogd: report it with the traceback in the journal (reload.bug)"


class Reloads:
    """Reloads the configuration whenever it is asked to."""

    def __init__(
        self,
        path: Path,
        *,
        apply: Callable[[Settings], Awaitable[None]],
        refused: Callable[[str], None],
        notifier: Notifier,
    ) -> None:
        """Prepare.

        Args:
            path: Of the configuration.
            apply: Puts other settings in force, or raises ``ConfigError`` and changes nothing.
            refused: Hears why a reload changed nothing.
            notifier: Hears when a reload begins and ends.
        """
        self._path = path
        self._apply = apply
        self._refused = refused
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
            await self._apply(loaded.settings)
            tell_warnings(loaded)
        except ConfigError as exc:
            self._refused(exc.complaints[0].render(exc.file))
            _tell_refused(exc)
        except Exception:
            self._refused(BUG)
            raise
        finally:
            self._notifier.ready()


def tried(path: Path) -> Loaded:
    """Load a configuration and what it names. Blocks.

    Raises:
        ConfigError: With all that is wrong.
    """
    loaded = loader.load(path)
    for cloud in loaded.settings.clouds.values():
        trust(cloud.ca_file)
    return loaded


async def put_in_force(
    settings: Settings,
    *,
    live: LiveSettings,
    accounts: Accounts,
    discovery: Discovery,
    scheduler: Scheduler | None,
) -> dict[str, object]:
    """Replace the settings in force, and notify the parts that have to act on it.

    All other parts read ``live.current`` the next time that they need a setting.

    Args:
        settings: The new ones.
        live: Those in force.
        accounts: Connections, logins and slots: what the new settings leave as it is stays open.
        discovery: Follows them to the clouds that there are now.
        scheduler: Runs the fleet that there is now; None where nothing is scheduled.

    Returns:
        What changed, see ``difference``.

    Raises:
        ConfigError: They cannot be used, or not without a restart. Then all stays as it is.
    """
    refuse_what_needs_a_restart(live.current, settings)
    line = await accounts.prepared(settings)
    changes = difference(live.current, settings)
    live.current = settings  # from here on nothing refuses
    accounts.adopt(line)
    discovery.reloaded({name: account.api for name, account in accounts.all().items()})
    if scheduler is not None:
        scheduler.again("discovery", every=settings.schedule.refresh)
        scheduler.update(discovery.fleet())
    return changes


def tell_warnings(loaded: Loaded) -> None:
    """Report what runs, but not as the operator may think."""
    for warning in loaded.warnings:
        log.warning("config.warning", path=warning.path, line=warning.line, text=warning.text)


def _tell_refused(exc: ConfigError) -> None:
    for one in exc.complaints:
        log.error("config.refused", file=str(exc.file), path=one.path, line=one.line, text=one.text, todo=KEPT)


def difference(before: Settings, after: Settings) -> dict[str, object]:
    """Return what differs, by counts, and which other sections do."""
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


def refuse_what_needs_a_restart(before: Settings, after: Settings) -> None:
    """Raise ConfigError if a setting changed that only a restart can change."""
    fixed = {
        "storage.directory": (before.storage.directory, after.storage.directory),
        "storage.state": (before.storage.state, after.storage.state),
        "web": (before.web, after.web),
    }
    text = "cannot change while ddslogd runs: restart for it"
    complaints = [Complaint(line=0, column=0, path=path, text=text) for path, (old, new) in fixed.items() if old != new]
    if complaints:
        raise ConfigError("the configuration", complaints)
