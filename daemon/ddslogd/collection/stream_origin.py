"""Where the lines of an instance's streams come from, also once it is not collected from any more."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ddslogd.storage.streams.stream_writer import Origin

if TYPE_CHECKING:
    from ddslogd.config.settings import Settings
    from ddslogd.model.instance import Instance


def stream_origin(
    instance: Instance | None, name: str, settings: Settings, *, ahead: timedelta = timedelta(0)
) -> Origin:
    """Return the origin of an instance's streams.

    Args:
        instance: None where it is not collected from any more.
        name: Its name.
        settings: Whose schedule counts then.
        ahead: By how much its cloud's clock is ahead of ours, as far as is known.
    """
    if instance is None:
        return Origin(schedule=settings.schedule.when, key=name, ahead=ahead)
    return Origin(schedule=instance.schedule, key=instance.id, ahead=ahead)
