"""One export, followed from its request to its last row; its links handed on as they come, and renewed.

follow ─► ask ─► rows ─┬─ ready, not seen before ─► hand_on(Link)
           ▲           └─ pending ─► wait, ask again … until settled or given up
renew ─────┘  (the same question: whoever asks while one is on its way shares its answer)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from ddslogd.cloud import links
from ddslogd.cloud.budget import IN_PROGRESS
from ddslogd.errors import LinkRefused
from ddslogd.models import Failed, Link, LogFile, Row, RowState
from ddslogd.patience import SLACK, remembered, waits, watch
from ddslogd.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from ddslogd.cloud.api import Api
    from ddslogd.config import Export as ExportSettings
    from ddslogd.models import ExportReply, Instance, LogKind
    from ddslogd.pacing import Clock
    from ddslogd.patience import Watch

log = structlog.get_logger()

INSTANT_S = 0.001  # less than this is no time left: sums of seconds are not exact


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRule:
    """Which links may be followed: see ``links.objection``."""

    hosts: Sequence[str]
    plain_http: bool


class Export:
    """What one cycle of one instance asks the cloud for."""

    def __init__(
        self,
        instance: Instance,
        *,
        kind: LogKind,
        api: Api,
        rule: LinkRule,
        settings: ExportSettings,
        clock: Clock,
        hand_on: Callable[[Link], None],
        takes: Sequence[float] = (),
    ) -> None:
        """Prepare to follow an export.

        Args:
            instance: Whose logs.
            kind: Which of its logs.
            api: The account's API.
            rule: Which links may be followed.
            settings: How often to ask, and how long.
            clock: For the waits.
            hand_on: Gets each link once, the moment its row is ready.
            takes: How long the last exports of the instance took, in seconds; oldest first.
        """
        self._instance = instance
        self._kind = kind
        self._api = api
        self._rule = rule
        self._settings = settings
        self._clock = clock
        self._hand_on = hand_on
        self.takes = tuple(takes)
        self._urgency = IN_PROGRESS
        self._reply: ExportReply | None = None
        self._answered = 0.0  # when the newest reply came, by the steady clock
        self._watch: Watch | None = None  # of the export under way
        self._links: dict[LogFile, Link] = {}  # of the newest reply
        self._handed_on: set[LogFile] = set()
        self._objections: dict[LogFile, Failed] = {}
        self._first_seen: dict[tuple[str, str], datetime] = {}
        self._words: set[str] = set()
        self._ask = Shared(self._request, name=f"export of {instance.name}")
        self._settle = Shared(self._poll, name=f"polls of {instance.name}")

    async def follow(self, *, urgency: float) -> tuple[Failed, ...]:
        """Ask until every row is settled or ``give_up_after`` has passed; give the files that will not come.

        Raises:
            CloudError: A call failed for good. Links handed on before it stay good.
        """
        self._urgency = urgency
        await self._ask()
        self._urgency = IN_PROGRESS
        await self._settle()
        return self.missing()

    async def renew(self, stale: Link) -> Link | None:
        """Give a younger link to the same file; None where a newer file of the node has been handed on instead.

        Raises:
            CloudError: The call failed for good.
            LinkRefused: The cloud has no file of this node any more.
        """
        link = self._links.get(stale.file)
        if link is not None and link is not stale:
            return link
        if link is not None or self._settled:  # else a new export is under way, and polls will find its end
            await self._ask()
        if stale.file not in self._links:  # the export has expired, and asking began a new one
            await self._settle()
        if stale.file in self._links:
            self._api.tally.renewed += 1
            log.debug("link.renewed", instance=self._instance.name, file=stale.file.file_name)
            return self._links[stale.file]
        if any(file.node == stale.file.node for file in self._links):
            return None
        raise LinkRefused(f"the cloud offers no file of node {stale.file.node} any more; the next cycle asks again")

    @property
    def rows(self) -> Sequence[Row]:
        """Give the rows of the newest reply."""
        return self._reply.rows if self._reply else ()

    @property
    def fresh_until(self) -> datetime | None:
        """Give until when the cloud serves these files once more, by its own clock; None where that is not known.

        It is not where a file is not ready, or may not be followed; so no failure is taken for an end.
        """
        times = [row.updated_at for row in self.rows if row.state is RowState.READY]
        known = [moment for moment in times if moment is not None]
        if self._reply is None or not self._settled or self._reply.failed or self._objections:
            return None
        if not known or len(known) < len(self.rows) or max(known) > self._api.now() + timedelta(seconds=SLACK):
            return None
        return max(known) + self._settings.fresh_for

    @property
    def _settled(self) -> bool:
        return self._reply is not None and self._reply.settled

    def missing(self) -> tuple[Failed, ...]:
        """Give the files of the newest reply that will not come, of nodes that had none before."""
        if not self.rows and self._reply is not None and (self._reply.failed or not self._reply.settled):
            return (self._nothing(self._reply),)
        served = {file.node for file in self._handed_on}
        unready = [self._failed(row) for row in self.rows if row.state is not RowState.READY and row.node not in served]
        return (*self._objections.values(), *unready)

    async def _request(self) -> None:
        asked = self._clock.monotonic()
        reply = await self._api.export(self._instance, self._kind, urgency=self._urgency)
        now = self._api.now()
        self._answered = self._clock.monotonic()
        self._observe(reply, asked=asked, now=now)
        for word in set(reply.unknown_words) - self._words:
            self._words.add(word)
            log.warning("export.unknown_status", instance=self._instance.name, status=word, request_id=reply.request_id)
        self._reply = reply
        ready = [self._link(row, now, reply.request_id) for row in reply.rows if row.state is RowState.READY]
        self._links = {link.file: link for link in ready if self._allowed(link)}
        for link in self._links.values():
            if link.file not in self._handed_on:
                self._handed_on.add(link.file)
                self._hand_on(link)

    def _observe(self, reply: ExportReply, *, asked: float, now: datetime) -> None:
        """Learn how long the export takes; all counts from the reply to the call that began it."""
        if not reply.settled:
            if self._watch is None:
                self._watch = watch(reply, at=self._answered, now=now)
            else:
                self._watch.pending = asked
            return
        took = self._watch.took(reply, at=self._answered) if self._watch is not None else None
        self._watch = None
        if took is not None:
            self.takes = remembered(self.takes, took)

    async def _poll(self) -> None:
        settings = self._settings
        give_up_at = self._clock.monotonic() + settings.give_up_after.total_seconds()
        for delay in waits(self.takes, first=settings.first_poll, longest=settings.max_poll):
            if self._settled or give_up_at - self._clock.monotonic() < INSTANT_S:
                return
            await self._rest(delay, until=give_up_at)
            if self._settled:  # a renewal has found that out meanwhile
                return
            await self._ask()

    async def _rest(self, delay: float, *, until: float) -> None:
        """Wait until no reply has come for so long: a renewal's reply is as good as a poll's."""
        while True:
            answered = self._answered
            await self._clock.sleep(min(answered + delay, until) - self._clock.monotonic())
            if self._answered == answered or until - self._clock.monotonic() < INSTANT_S:
                return

    def _link(self, row: Row, now: datetime, request_id: str) -> Link:
        # A row that does not say when it was finished was finished when we first saw it: good for freshness, and no
        # later export can pass for it.
        seen = self._first_seen.setdefault((row.node, row.file_name), _whole_ms(now))
        updated_at = row.updated_at or seen
        url = row.url or ""
        return Link(
            file=LogFile(
                instance=self._instance.name,
                log=self._kind,
                node=row.node,
                file_name=row.file_name,
                updated_at=updated_at,
            ),
            url=url,
            expires_at=self._end_of_life(url, updated_at, now),
            request_id=request_id,
        )

    def _end_of_life(self, url: str, updated_at: datetime, now: datetime) -> datetime:
        """Give the earlier end: the signature's, or the export's, which asking after it would begin anew."""
        fresh_until = updated_at + self._settings.fresh_for
        if fresh_until <= now:  # the cloud serves it beyond that all the same, so this end says nothing
            fresh_until = now + self._settings.fresh_for
        return min(links.expiry(url) or fresh_until, fresh_until)

    def _allowed(self, link: Link) -> bool:
        reason = links.objection(link.url, hosts=self._rule.hosts, plain_http=self._rule.plain_http)
        if reason is None:
            self._objections.pop(link.file, None)
            return True
        self._objections[link.file] = Failed(
            log=self._kind,
            node=link.file.node,
            file_name=link.file.file_name,
            reason=f"{reason}: not followed",
            kind="LinkRefused",
        )
        return False

    def _nothing(self, reply: ExportReply) -> Failed:
        """Give the failure of an export that never spoke of any file."""
        state = RowState.FAILED if reply.failed else RowState.PENDING
        return self._failed(Row(node="", file_name="", state=state))

    def _failed(self, row: Row) -> Failed:
        request = f" (request id {self._reply.request_id})" if self._reply and self._reply.request_id else ""
        if row.state is RowState.FAILED:
            reason = (
                f"the cloud could not prepare this file: wait for the next cycle; if it stays, open a ticket{request}"
            )
            return Failed(log=self._kind, node=row.node, file_name=row.file_name, reason=reason, kind="ExportFailed")
        waited = _in_words(self._settings.give_up_after)
        reason = f"the cloud was still preparing this file after {waited}: wait, the next cycle asks again{request}"
        return Failed(log=self._kind, node=row.node, file_name=row.file_name, reason=reason, kind="ExportPending")


def _whole_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _in_words(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"  # noqa: PLR2004  # a minute
