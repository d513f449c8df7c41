"""What a cycle works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import datetime

    from ddslogd.collection.bug_log import BugLog
    from ddslogd.collection.export_history import ExportHistory
    from ddslogd.collection.node_names import NodeNames
    from ddslogd.collection.node_registry import NodeRegistry
    from ddslogd.collection.room_check import RoomCheck
    from ddslogd.config.settings import Settings
    from ddslogd.download.downloader import Downloader
    from ddslogd.huaweicloud.api_client import Api
    from ddslogd.huaweicloud.export import LinkRule
    from ddslogd.model.cycle import Progress
    from ddslogd.model.export import Selection
    from ddslogd.model.instance import Instance
    from ddslogd.scheduling.clock import Clock, Skew
    from ddslogd.storage.ledger.snapshot_records import Ledger
    from ddslogd.storage.recovery import Recovery
    from ddslogd.storage.retention import Retention
    from ddslogd.storage.snapshots.store import Store
    from ddslogd.storage.streams.stream_writer import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a cycle needs of its instance's cloud."""

    api: Api
    downloader: Downloader
    rule: LinkRule
    skew: Skew


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Where a cycle keeps what it brings.

    Attributes:
        store: Where snapshots go.
        ledger: What is on disk.
        recovery: Brings them in line with the disk, of each instance before its first cycle.
        streams: Take the snapshots where ``stream.enabled`` says so; it may do later.
        retention: Removes what may go.
    """

    store: Store
    ledger: Ledger
    recovery: Recovery
    streams: Streams
    retention: Retention


class Lender(Protocol):
    """Lends accounts, so that none is closed while a cycle needs it."""

    def using(self, cloud: str) -> AbstractContextManager[Account]:
        """Lend a cloud's account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleContext:
    """What one cycle works with, from its start to its end.

    Attributes:
        instance: Whose logs are collected.
        selected: What is collected of it; None for all that is new, as at every run of the schedule.
        account: Lent for the cycle.
        archive: Where everything is kept.
        settings: In force at the cycle's start.
        clock: For the times in the report and the waits of exports.
        progress: Hears what becomes of each file.
        node_registry: Knows the instance's nodes.
        node_names: Knows what those nodes' files are called.
        export_history: Knows how its exports go.
        room: Knows whether there is room on disk.
        bugs: Takes what nobody foresaw.
        urgency: Of a new export, among those of the account.
    """

    instance: Instance
    selected: Selection | None
    account: Account
    archive: Archive
    settings: Settings
    clock: Clock
    progress: Progress
    node_registry: NodeRegistry
    node_names: NodeNames
    export_history: ExportHistory
    room: RoomCheck
    bugs: BugLog
    urgency: float

    def now(self) -> datetime:
        """Return the time by the cloud's clock, as the times of its files are."""
        return self.account.skew.now(self.clock)
