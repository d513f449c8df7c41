"""What is known of each instance's exports: how long they take, and until when the last one is served once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddslogd.model.export import Habit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from ddslogd.config.live_settings import LiveSettings
    from ddslogd.model.instance import Instance, LogKind


def asked(instance: Instance) -> str:
    """Return what a call asks for: of other nodes, or of another instance of the same name, it says nothing."""
    return " ".join((instance.id, *sorted(instance.node_ids)))


class ExportHistory:
    """The habits of all instances, as the ledger had them at the start and as cycles found them since."""

    def __init__(self, known: Mapping[tuple[str, LogKind], Habit], *, settings: LiveSettings) -> None:
        """Prepare.

        Args:
            known: By instance name and kind of log.
            settings: Say how long the cloud serves an export.
        """
        self._known = dict(known)
        self._settings = settings

    def of(self, instance: Instance, kind: LogKind) -> Habit:
        """Return what is known of the next export; an empty habit where that is nothing."""
        habit = self._known.get((instance.name, kind))
        if habit is None or habit.asked != asked(instance):
            return Habit(log=kind, asked=asked(instance))
        return habit

    def served_until(self, instance: Instance, kind: LogKind, *, now: datetime) -> datetime | None:
        """Return until when the cloud would serve the last export once more; None where it is to be asked.

        Args:
            instance: With the nodes that would be asked for.
            kind: Which of its logs.
            now: By the cloud's clock, as what is given.
        """
        until, fresh_for = self.of(instance, kind).fresh_until, self._settings.current.export.fresh_for
        # What lies further off than the cloud serves anything is of a clock that was set back since.
        return until if until is not None and now < until <= now + fresh_for else None

    def note(self, instance: str, habits: Iterable[Habit]) -> None:
        """Learn what a cycle found."""
        for habit in habits:
            self._known[instance, habit.log] = habit
