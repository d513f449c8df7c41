"""One export, followed from its request to its last row; its links handed on as they come, and renewed.

follow ─► ask ─► rows ─┬─ ready, not seen before ─► hand_on(Link)
           ▲           └─ pending ─► wait, ask again … until settled or given up
renew ─────┘  (the same question: whoever asks while one is on its way shares its answer)
renew, once it is settled ─► ask for the files that wait, by name ─► younger links; or, where one is not known, ask
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from ddslogd.huaweicloud import link as huaweicloud_link
from ddslogd.huaweicloud.error_codes import excess
from ddslogd.huaweicloud.poll_schedule import SLACK, remembered, waits, watch
from ddslogd.huaweicloud.rate_limiter import IN_PROGRESS
from ddslogd.huaweicloud.renewal_queue import RenewalQueue
from ddslogd.huaweicloud.response_limits import MOST_FILES, MOST_HELD
from ddslogd.huaweicloud.single_flight import Shared
from ddslogd.model.cycle import Failed
from ddslogd.model.errors import LinkRefused, Rejected, UnknownFile
from ddslogd.model.export import Arrival, Link, Row, RowState, Selection
from ddslogd.model.failure_kind import FailureKind
from ddslogd.model.snapshot import LogFile
from ddslogd.model.units import span
from ddslogd.scheduling.clock import believed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    from ddslogd.config.settings import Export as ExportSettings
    from ddslogd.huaweicloud.api_client import Api
    from ddslogd.huaweicloud.poll_schedule import Watch
    from ddslogd.model.export import ExportReply
    from ddslogd.model.instance import Instance, LogKind
    from ddslogd.scheduling.clock import Clock

log = structlog.get_logger()

AT_ONCE = 50  # rows until others get their turn; each takes some 0.1 ms
INSTANT_S = 0.001  # less than this is no time left: sums of seconds are not exact


async def _pause(number: int) -> None:
    if number % AT_ONCE == 0:
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRule:
    """Which links may be followed: see ``links.objection``."""

    hosts: Sequence[str]
    plain_http: bool


class RunningExport:
    """What one cycle of one instance asks the cloud for."""

    def __init__(  # noqa: PLR0913  # what it goes by, each by its name
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
        arrivals: Sequence[Arrival] = (),
        identify: Callable[[Sequence[Row]], Awaitable[Sequence[Row]]] | None = None,
        wanted: Selection | None = None,
        by_name: bool = True,
    ) -> None:
        """Prepare to follow an export.

        Args:
            instance: Whose logs, with the nodes that are asked for.
            kind: Which of its logs.
            api: The account's API.
            rule: Which links may be followed.
            settings: How often to ask, and how long.
            clock: For the waits.
            hand_on: Gets each link once, the moment its row is ready.
            takes: How long the last exports of the instance took, in seconds; oldest first.
            arrivals: Of rows that told no update time before, or none that was believed.
            identify: Returns the rows of a reply with their nodes' names for life, no two of one node.
            wanted: What of the replies counts; None for all.
            by_name: Whether what is wanted may be asked for by the names of files; renewals may in any case.
        """
        self._wanted = wanted or Selection()
        names = self._wanted.file_names if by_name else ()
        self._question = Selection(node_ids=instance.node_ids, file_names=names)  # the whole one
        self._instance = instance
        self._kind = kind
        self._api = api
        self._rule = rule
        self._settings = settings
        self._clock = clock
        self._hand_on = hand_on
        self._identify = identify
        self.takes = tuple(takes)
        self._urgency = IN_PROGRESS
        self._reply: ExportReply | None = None
        self._called = Counter[str]()  # rows of it, by the name that it calls their node
        self._most = Counter[str]()  # the same, the most of any reply
        self._answered = 0.0  # when the newest reply came, by the steady clock
        self._watch: Watch | None = None  # of the export under way
        self._links: dict[LogFile, Link] = {}  # the youngest of the newest reply's files
        self._handed_on: set[LogFile] = set()
        self._queue = RenewalQueue()
        self._renews_by_name = True
        self._prepared: dict[str, Row] = {}  # by node: what the cloud said that it prepares
        self._objections: dict[LogFile, Failed] = {}
        self._first_seen: dict[tuple[str, str], datetime] = {}
        self._words: set[str] = set()
        self._spoken: set[tuple[str, str]] = set()  # the files that any reply spoke of
        self._kept = 0  # bytes of replies
        self._arrivals = {(one.node, one.file_name, one.claimed_at): one for one in arrivals}
        self._ask = Shared(self._request, name=f"export of {instance.name}")
        self._renew = Shared(self._renewal, name=f"renewal of links of {instance.name}")
        self._settle = Shared(self._poll, name=f"polls of {instance.name}")

    async def follow(self, *, urgency: float) -> tuple[Failed, ...]:
        """Ask until every row is settled or ``give_up_after`` has passed; give the files that will not come.

        Raises:
            UnknownFile: The cloud does not know the only file that is wanted.
            CloudError: A call failed for good. Links handed on before it stay good.
            StorageError: The names of nodes cannot be read or written.
        """
        self._urgency = urgency
        await self._ask()
        self._urgency = IN_PROGRESS
        await self._settle()
        return self.missing()

    async def renew(self, stale: Link) -> Link | None:
        """Return a younger link to the same file; None where a newer file of the node has been handed on instead.

        Raises:
            CloudError: The call failed for good.
            StorageError: As ``follow``.
            LinkRefused: The cloud has no file of this node any more.
        """
        link = self._links.get(stale.file)
        if link is not None and link is not stale:
            return link
        if link is not None and self._settled:
            await self._renewed(link)
        elif link is not None or self._settled:  # else a new export is under way, and polls will find its end
            await self._ask()
        if stale.file not in self._links:  # the export has expired, and asking began a new one
            await self._settle()
        if stale.file in self._links:
            self._api.call_stats.renewed += 1
            log.debug("link.renewed", instance=self._instance.name, file=stale.file.file_name)
            return self._links[stale.file]
        if any(file.node == stale.file.node for file in self._links):
            return None
        raise LinkRefused(f"the cloud offers no file of node {stale.file.node} any more; the next cycle asks again")

    def ended(self, file: LogFile) -> None:
        """Record that nothing more is fetched of a file: its link need not be renewed."""
        self._queue.remove(file)

    @property
    def rows(self) -> Sequence[Row]:
        """Return the rows of the newest reply."""
        return self._reply.rows if self._reply else ()

    @property
    def reply(self) -> ExportReply | None:
        """Return the newest reply; None where none came."""
        return self._reply

    @property
    def vanished(self) -> tuple[Row, ...]:
        """Return the rows that the cloud was preparing in this export and speaks of no more; they never came."""
        served = {file.node for file in self._handed_on} | {row.node for row in self.rows}
        # Two rows that turn out to be of one object are of one node: of these none is missing.
        return tuple(
            row
            for node, row in self._prepared.items()
            if node not in served and (not row.called or self._called[row.called] < self._most[row.called])
        )

    @property
    def fresh_until(self) -> datetime | None:
        """Return until when the cloud serves these files once more, by its own clock; None where that is not known.

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
        """Return the files of the newest reply that will not come, of nodes that had none before."""
        if not self.rows and self._reply is not None and (self._reply.failed or not self._reply.settled):
            return (self._nothing(self._reply),)
        served = {file.node for file in self._handed_on}
        unready = [self._failed(row) for row in self.rows if row.state is not RowState.READY and row.node not in served]
        return (*self._objections.values(), *unready)

    async def _request(self) -> None:
        asked = self._clock.monotonic()
        reply = await self._answer()
        self._count(reply)
        self._called = Counter(row.called for row in reply.rows)
        self._most |= self._called
        if self._identify is not None:
            reply = replace(reply, rows=tuple(await self._identify(reply.rows)))
        reply = self._reduced(reply)
        now = self._api.now()
        self._answered = self._clock.monotonic()
        self._observe(reply, asked=asked, now=now)
        for word in set(reply.unknown_words) - self._words:
            self._words.add(word)
            log.warning("export.unknown_status", instance=self._instance.name, status=word, request_id=reply.request_id)
        ready = await self._ready(reply, now)
        self._reply, self._links = reply, ready
        self._renews_by_name |= not reply.settled
        self._prepared.update({row.node: row for row in reply.rows if row.state is RowState.PENDING})
        for number, link in enumerate(ready.values(), 1):
            if link.file not in self._handed_on:
                self._handed_on.add(link.file)
                self._queue.add(link.file)
                self._hand_on(link)
            await _pause(number)

    async def _ready(self, reply: ExportReply, now: datetime) -> dict[LogFile, Link]:
        """Return the links of a reply that may be followed."""
        found: dict[LogFile, Link] = {}
        for number, row in enumerate(reply.rows, 1):
            if row.state is RowState.READY:
                link = self._link(row, now, reply.request_id)
                if self._allowed(link):
                    found[link.file] = link
                await _pause(number)
        return found

    def _count(self, reply: ExportReply) -> None:
        """Count what is kept of the replies.

        Raises:
            Oversized: They speak of more files than an instance can have, or the cloud's cycles keep too much.
        """
        before = len(self._spoken)
        self._spoken |= {(row.called, row.file_name) for row in reply.rows}
        if len(self._spoken) > MOST_FILES:
            raise excess(f"more than {MOST_FILES} files, with the replies before it", request_id=reply.request_id)
        kept = self._kept + reply.size if len(self._spoken) > before else max(self._kept, reply.size)
        if self._api.held + kept - self._kept > MOST_HELD:
            raise excess(f"more than {MOST_HELD} bytes, with those of other instances", request_id=reply.request_id)
        self._api.held += kept - self._kept
        self._kept = kept

    def close(self) -> None:
        """Release what counts as kept, at the end of the cycle."""
        self._api.held -= self._kept
        self._kept = 0

    async def _answer(self) -> ExportReply:
        """Ask the whole question; without names from now on where the cloud does not know one of several."""
        try:
            return await self._api.export(self._instance, self._kind, self._question, urgency=self._urgency)
        except UnknownFile as exc:
            if len(self._question.file_names) < 2:  # noqa: PLR2004  # of one it is known which one it is
                raise
            self._log_refused(self._question.file_names, exc)
        self._question = replace(self._question, file_names=())
        return await self._api.export(self._instance, self._kind, self._question, urgency=self._urgency)

    def _reduced(self, reply: ExportReply) -> ExportReply:
        """Return of a reply what is wanted; once that is settled, what else the cloud prepares does not delay it."""
        names = set(self._wanted.file_names)
        rows = tuple(row for row in reply.rows if self._wanted.includes(row))
        came = names and names <= {row.file_name for row in rows if row.state is not RowState.PENDING}
        return replace(reply, rows=rows, creating=reply.creating and not came)

    async def _renewed(self, link: Link) -> None:
        """Return once another link, or none, has taken the place of one; in one call with all that wait."""
        with self._queue.asking(link.file):
            while self._links.get(link.file) is link:  # one call may have room for others only
                await self._renew()

    async def _renewal(self) -> None:
        """Renew the links of files that wait, asked for by name; where that fails, ask the whole question."""
        files, whole = self._queue.batch(self._links), self._reply
        if self._renews_by_name and not self._is_over(files):
            younger = await self._renewed_by_name(files)
            if self._reply is not whole:
                return  # the whole question was asked meanwhile, and has renewed all
            if younger.keys() >= set(files):
                self._links |= younger
                return
            self._renews_by_name = False  # until there is a new export
        await self._ask()

    def _is_over(self, files: Iterable[LogFile]) -> bool:
        """Return whether asking begins a new export, which is all nodes' and has other names."""
        now, ends = self._api.now(), (self._links[file].served_until for file in files)
        return any(end is not None and end <= now for end in ends)

    async def _renewed_by_name(self, files: Sequence[LogFile]) -> dict[LogFile, Link]:
        """Return younger links to files; not to those that the cloud does not know any more, or not as they were."""
        names = tuple(dict.fromkeys(file.file_name for file in files))
        selection = Selection(node_ids=self._question.node_ids, file_names=names)
        try:
            reply = await self._api.export(self._instance, self._kind, selection, urgency=self._urgency)
        except Rejected as exc:
            self._log_refused(names, exc)
            return {}
        return self._younger(reply)

    def _younger(self, reply: ExportReply) -> dict[LogFile, Link]:
        """Return the links of a reply to files that are known by the same name, node and time."""
        known = {(row.called, row.file_name, row.updated_at): row for row in self.rows}
        now = self._api.now()
        younger: dict[LogFile, Link] = {}
        for row in reply.rows:
            same = known.get((row.called, row.file_name, row.updated_at))
            if row.state is RowState.READY and same is not None:
                link = self._link(replace(row, node=same.node, node_id=same.node_id), now, reply.request_id)
                younger |= {link.file: link} if self._allowed(link) else {}
        return younger

    def _log_refused(self, names: Sequence[str], exc: Rejected) -> None:
        log.info(
            "export.names_refused",
            instance=self._instance.name,
            log=self._kind.value,
            files=list(names),
            code=exc.code,
            request_id=exc.request_id,
        )

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
        # A row that does not say when it was finished, or says what cannot be, was finished when we first saw it: good
        # for freshness, and no later export can pass for it.
        seen = self._first_seen.setdefault((row.node, row.file_name), _whole_ms(now))
        updated_at = believed(row.updated_at, now=now) or self._arrived_at(row, seen=seen, now=now)
        url, served_until = row.url or "", self._served_until(updated_at, now)
        signed_until = huaweicloud_link.expiry(url)
        return Link(
            file=LogFile(
                instance=self._instance.name,
                log=self._kind,
                node=row.node,
                file_name=row.file_name,
                updated_at=updated_at,
            ),
            url=url,
            # A signature that is over as it comes was made by another clock than the API's: the store's own tells.
            expires_at=min(signed_until, served_until) if signed_until and signed_until > now else served_until,
            signed_until=signed_until,
            served_until=served_until,
            request_id=request_id,
            stated=row.stated,
        )

    def _arrived_at(self, row: Row, *, seen: datetime, now: datetime) -> datetime:
        """Return when a row arrived that tells no update time, or one that lies ahead of the API's own clock.

        The order of exports would be lost for as long as it lies ahead: every later one would count as older.
        """
        claimed_at = row.updated_at
        key = (row.node, row.file_name, claimed_at)
        if key in self._arrivals:
            return self._arrivals[key].seen_at
        self._arrivals[key] = Arrival(node=row.node, file_name=row.file_name, claimed_at=claimed_at, seen_at=seen)
        if claimed_at is not None:
            log.warning(
                "export.time_ahead",
                instance=self._instance.name,
                node=row.node,
                updated_at=claimed_at.isoformat(timespec="seconds"),
                ahead_s=round((claimed_at - now).total_seconds()),
                todo="nothing: the time of its arrival counts in its place; if it stays, report it to the cloud",
            )
        return seen

    @property
    def arrivals(self) -> tuple[Arrival, ...]:
        """Return when rows of the newest reply arrived that tell no update time, or none that is believed."""
        now = {(row.node, row.file_name, row.updated_at) for row in self.rows}
        return tuple(one for key, one in self._arrivals.items() if key in now)

    def _served_until(self, updated_at: datetime, now: datetime) -> datetime:
        """Return when asking for the export would begin a new one."""
        fresh_until = updated_at + self._settings.fresh_for
        # Where the cloud serves it beyond that all the same, this end says nothing.
        return fresh_until if fresh_until > now else now + self._settings.fresh_for

    def _allowed(self, link: Link) -> bool:
        reason = huaweicloud_link.objection(link.url, hosts=self._rule.hosts, plain_http=self._rule.plain_http)
        if reason is None:
            self._objections.pop(link.file, None)
            return True
        self._objections[link.file] = Failed(
            log=self._kind,
            node=link.file.node,
            file_name=link.file.file_name,
            reason=f"{reason}: not followed",
            kind=FailureKind.LINK_REFUSED,
        )
        return False

    def _nothing(self, reply: ExportReply) -> Failed:
        """Return the failure of an export that never spoke of any file."""
        state = RowState.FAILED if reply.failed else RowState.PENDING
        return self._failed(Row(node="", file_name="", state=state))

    def _failed(self, row: Row) -> Failed:
        request = f" (request id {self._reply.request_id})" if self._reply and self._reply.request_id else ""
        if row.state is RowState.FAILED:
            reason = (
                f"the cloud could not prepare this file: wait for the next cycle; if it stays, open a ticket{request}"
            )
            kind = FailureKind.EXPORT_FAILED
            return Failed(log=self._kind, node=row.node, file_name=row.file_name, reason=reason, kind=kind)
        waited = span(self._settings.give_up_after.total_seconds())
        reason = f"the cloud was still preparing this file after {waited}: wait, the next cycle asks again{request}"
        kind = FailureKind.EXPORT_PENDING
        return Failed(log=self._kind, node=row.node, file_name=row.file_name, reason=reason, kind=kind)


def _whole_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
