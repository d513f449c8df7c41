"""The composition root: builds every part from the settings, and runs them."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from ddslogd import __version__
from ddslogd.accounts import Accounts, Connections, Entry, Line
from ddslogd.cloud import links, metadata
from ddslogd.cloud.api import Api
from ddslogd.cloud.budget import Budget
from ddslogd.cloud.exports import LinkRule
from ddslogd.cloud.http import MOST_CALLS, REQUEST_TIMEOUT_S, Http, new_session
from ddslogd.cloud.identity import IdentityService
from ddslogd.cloud.keys import AccessKey, MetadataKeys, Signer
from ddslogd.cloud.metadata import MetadataService
from ddslogd.cloud.rights import PATIENCE_S, Caller
from ddslogd.cloud.tally import Tally
from ddslogd.cloud.tokens import GivenToken, PasswordLogin
from ddslogd.cloud.wire import ProjectName
from ddslogd.collector import Account, Archive, Collector
from ddslogd.config import AccessKeyAuth, MetadataAuth, PasswordAuth, TokenAuth
from ddslogd.discovery import Discovery, judge
from ddslogd.errors import Complaint, ConfigError, StorageError
from ddslogd.habits import Habits
from ddslogd.operate import status
from ddslogd.operate.activity import Activity, LoopLag
from ddslogd.operate.notify import Notifier
from ddslogd.operate.observer import KEPT_S, Daemon, Observer
from ddslogd.operate.progress import Silent
from ddslogd.operate.status import Live
from ddslogd.pacing import Skew
from ddslogd.reload import difference
from ddslogd.roster import Roster
from ddslogd.scheduler import Chore, Scheduler
from ddslogd.storage.digests import Checks
from ddslogd.storage.ledger import Ledger
from ddslogd.storage.recovery import Recovery
from ddslogd.storage.retention import Retention
from ddslogd.storage.store import Store, claim
from ddslogd.storage.stream import Origin, Streams
from ddslogd.tempo import Tempo
from ddslogd.transfer.downloader import Downloader
from ddslogd.transfer.slots import Slots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    import aiohttp

    from ddslogd.cloud.credentials import Credentials
    from ddslogd.config import Cloud, Settings
    from ddslogd.discovery import Verdict
    from ddslogd.models import Advance, CycleReport, Instance, Progress
    from ddslogd.pacing import Clock

log = structlog.get_logger()

HOUR = timedelta(hours=1)
REBUILT = "nothing: it is rebuilt from what is on disk"
STATUS_WITHOUT_NEWS_S = 30.0
STATUS_MOST = 0.01  # of the time goes into looking how it goes: with thousands of instances it takes a while
STATUS_PAUSE_S = 300.0  # but no longer
# Garbage in cycles is rare here, and looking for it at Python's pace takes a tenth of the time of small files.
GARBAGE_EVERY = (10_000, 20, 20)  # see gc.set_threshold
LOGINS_PER_MINUTE = 60  # one account needs one login a day


class Service:
    """All parts, built and open; ``opened`` makes one.

    Attributes:
        observer: Looks at it; one for all, so that what is read for one will do for the others.
    """

    def __init__(  # noqa: PLR0913  # the parts that it runs, each by its name
        self,
        *,
        settings: Settings,
        archive: Archive,
        streams: Streams,
        accounts: Accounts,
        collector: Collector,
        discovery: Discovery,
        clock: Clock,
        last_ticks: Mapping[str, datetime],
        activity: Activity,
    ) -> None:
        self._activity = activity
        self._lag = LoopLag()
        self._scheduler: Scheduler | None = None
        self._started_at = clock.now()
        self._settings = settings
        self._archive = archive
        self._streams = streams
        self._accounts = accounts
        self._collector = collector
        self._discovery = discovery
        self._clock = clock
        self._last_ticks = last_ticks
        self._tempo = Tempo(settings=settings, fleet=discovery.fleet)
        self._news = asyncio.Event()
        self.observer = Observer(self.daemon(), clock=clock)

    async def serve(self, *, notifier: Notifier | None = None, chores: Iterable[Chore] = ()) -> None:
        """Run every instance's cycles at their ticks, until cancelled.

        Args:
            notifier: Is told how it goes, and that the scheduler's loop turns.
            chores: What else is done beside the cycles.
        """
        notifier = notifier or Notifier()
        if notifier.listens:
            chores = [*chores, Chore(name="status", every=timedelta(0), run=partial(self._tell, notifier))]
        self._scheduler = scheduler = Scheduler(
            cycle=self._cycle,
            clock=self._clock,
            last_ticks=self._last_ticks,
            fleet=self._refreshed,
            refresh=self._settings.schedule.refresh,
            instead=self._tempo.next,
            chores=[
                Chore(name="retention", every=HOUR, run=self._prune),
                Chore(name="stream", every=HOUR, run=self._catch_up),
                *chores,
            ],
            beat=notifier.beat,
            beat_every=notifier.beat_every,
        )
        named = self._settings.fleet()
        log.info("service.started", version=__version__, instances=len(named), clouds=len(self._settings.clouds))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lag.probe(), name="loop lag")
                await scheduler.serve(named)
        finally:
            log.info("service.stopped")

    async def reload(self, settings: Settings) -> None:
        """Go by other settings, without a break: what they leave as it is goes on undisturbed.

        Each running cycle ends by the settings and the account that it began with. The cycles of instances that change
        or go are cancelled.

        Raises:
            ConfigError: They cannot be used, or not without a restart. Then all stays as it is.
        """
        _refuse_what_needs_a_restart(self._settings, settings)
        line = await self._accounts.prepared(settings)
        changes = difference(self._settings, settings)
        self._settings = settings
        self._take_over(settings)
        self._accounts.adopt(line)
        self._discovery.take_over(settings, apis={name: one.api for name, one in self._accounts.all().items()})
        if self._scheduler is not None:
            self._scheduler.again("discovery", every=settings.schedule.refresh)
            self._scheduler.update(self._discovery.fleet())
        self._news.set()
        log.info("config.reloaded", **changes)

    def _take_over(self, settings: Settings) -> None:
        storage, stream = settings.storage, settings.stream
        self._archive.store.take_over(
            keep_free=storage.keep_free, fresh_for=settings.export.fresh_for, checks=_checks(settings)
        )
        self._streams.take_over(stream.rotate)
        self._archive.retention.take_over(storage, streamed=stream.enabled)
        self._archive = replace(self._archive, streams=self._streams if stream.enabled else None)
        self._collector.take_over(settings, archive=self._archive)
        self._collector.habits.take_over(fresh_for=settings.export.fresh_for)
        self._tempo.take_over(settings)

    async def _tell(self, notifier: Notifier) -> None:
        """Tell how it goes, a second after there is news; without any too, since logs grow old by themselves.

        What takes long to look at is looked at seldom.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(STATUS_WITHOUT_NEWS_S):
                await self._news.wait()
        await self._clock.sleep(KEPT_S)  # what was read before the news will not do then
        self._news.clear()
        began = self._clock.monotonic()
        try:
            line = status.one_line(await self.observer.status())
        except (StorageError, ConfigError) as exc:
            line = f"how it goes cannot be told: {exc}"
        notifier.status(line)
        looked_s = self._clock.monotonic() - began
        await self._clock.sleep(min(looked_s / STATUS_MOST, STATUS_PAUSE_S))

    def daemon(self) -> Daemon:
        """Give what an observer asks of this service."""
        return Daemon(
            settings=lambda: self._settings,
            fleet=self._discovery.fleet,
            live=self._live,
            parts=self._archive.store.parts,
            tallies=lambda: {name: account.api.tally for name, account in self._accounts.all().items()},
            activity=self._activity,
        )

    def _live(self) -> Live:
        scheduler, unlisted = self._scheduler, self._discovery.unlisted()
        return Live(
            started_at=self._started_at,
            known_since=scheduler.known_since() if scheduler else {},
            next_ticks=scheduler.next_ticks() if scheduler else {},
            running=frozenset(self._collector.busy),
            clouds=tuple(
                _seen_of(name, account.api, self._settings.clouds[name], now=self._clock.now(), unlisted=unlisted)
                for name, account in self._accounts.all().items()
            ),
            transfers=self._activity.transfers(),
            loop_lag_s=self._lag.seconds,
        )

    async def fleet(self) -> tuple[Instance, ...]:
        """Give all instances there are now, those that have to be discovered too; see ``unlisted``."""
        if any(self._settings.discover_entries(cloud) for cloud in self._settings.clouds):
            await self._discovery.refresh()
        return self._discovery.fleet()

    def unlisted(self) -> dict[str, str]:
        """Give the clouds whose lists are needed and could not be had, and why; ``fleet`` has nothing new of them."""
        return self._discovery.unlisted()

    async def once(self, instances: Iterable[Instance]) -> list[CycleReport]:
        """Run one cycle of each instance, all at once; give their reports in the same order."""
        now = self._clock.now()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._collect(instance, tick=now), name=f"cycle of {instance.name}")
                for instance in instances
            ]
        return [task.result() for task in tasks]

    async def _cycle(self, instance: Instance, tick: datetime) -> None:
        report = await self._collect(instance, tick=tick)
        self._tempo.heard(instance, report, tick=tick)
        self._news.set()

    async def _collect(self, instance: Instance, *, tick: datetime) -> CycleReport:
        try:
            return await self._collector.collect(instance, tick=tick)
        finally:
            self._activity.over(instance.name)

    async def _prune(self) -> None:
        try:
            await self._archive.recovery.whole()  # it counts what is there
            await self._archive.retention.run()
        except StorageError as exc:
            log.error("retention.failed", reason=str(exc))

    async def _catch_up(self) -> None:
        """Let streams take what no cycle will bring them: what a crash left, or what failed."""
        streams, known = self._archive.streams, {instance.name: instance for instance in self._discovery.fleet()}
        if streams is None:
            return
        try:
            await self._archive.recovery.whole()
            behind = await streams.book.behind()
        except StorageError as exc:
            log.error("ledger.failed", reason=str(exc))
            return
        for series, name in behind:
            if name in self._collector.busy:  # an older file may be on its way: its cycle sees to the order
                continue
            origin = _origin(known.get(name), name, self._settings)
            try:
                await streams.catch_up(series, origin=origin, note=_unheard)
            except StorageError as exc:
                log.error("stream.failed", instance=name, reason=str(exc))

    async def _refreshed(self) -> tuple[Instance, ...]:
        try:
            await self._discovery.refresh()
        except StorageError as exc:
            log.error("ledger.failed", reason=str(exc))
        return self._discovery.fleet()


@asynccontextmanager
async def opened(
    settings: Settings, *, clock: Clock, progress: Progress, redact: Callable[[str], None]
) -> AsyncIterator[Service]:
    """Build every part and open what has to be: directory, ledger, connections. In the end all is closed.

    Args:
        settings: As loaded.
        clock: Policy time.
        progress: Hears how transfers go.
        redact: Hears every secret, so that none is printed.

    Raises:
        Locked: Another ddslogd works on the storage directory, or on the ledger's.
        ConfigError: The ledger is a newer ddslogd's, or belongs to another storage directory.
        StorageError: The disk refuses.
    """
    gc.set_threshold(*GARBAGE_EVERY)
    async with AsyncExitStack() as stack:
        archive, streams = await _archive(settings, clock=clock, stack=stack)
        progress = activity = Activity(clock, progress)
        accounts = await _accounts(settings, clock=clock, progress=progress, redact=redact, stack=stack)
        roster, last_ticks = Roster(), await archive.ledger.last_ticks()
        collector = Collector(
            accounts=accounts,
            archive=archive,
            settings=settings,
            clock=clock,
            progress=progress,
            roster=roster,
            habits=Habits(await archive.ledger.habits(), fresh_for=settings.export.fresh_for),
            last_ticks=last_ticks,
        )
        apis = {name: account.api for name, account in accounts.all().items()}
        discovery = Discovery(
            apis=apis, settings=settings, roster=roster, ledger=archive.ledger, gone=collector.note_gone
        )
        yield Service(
            settings=settings,
            archive=archive,
            streams=streams,
            accounts=accounts,
            collector=collector,
            discovery=discovery,
            clock=clock,
            last_ticks=last_ticks,
            activity=activity,
        )


@asynccontextmanager
async def archive_of(settings: Settings, *, clock: Clock) -> AsyncIterator[Archive]:
    """Open what is on disk, and nothing else, with the ledger in line. In the end all is closed.

    Raises:
        Locked: Another ddslogd works on the storage directory, or on the ledger's.
        ConfigError: The ledger is a newer ddslogd's, or belongs to another storage directory.
        StorageError: The disk refuses.
    """
    async with AsyncExitStack() as stack:
        archive, _ = await _archive(settings, clock=clock, stack=stack)
        await archive.recovery.whole()
        yield archive


async def rebuilt(
    settings: Settings, name: str, *, clock: Clock, note: Callable[[Advance], None]
) -> tuple[Path, ...] | None:
    """Make the streams of an instance anew, from the snapshots on disk.

    Args:
        settings: With streams enabled.
        name: Of an instance of the configuration, or of one that was collected from before.
        clock: For names and notes.
        note: Hears what each snapshot brought.

    Returns:
        Where the files of the old streams are now; None where there are no snapshots of such an instance.

    Raises:
        Locked: Another ddslogd works on the directory.
        ConfigError: As of ``archive_of``.
        StorageError: The disk refuses.
    """
    instance = next((one for one in settings.fleet() if name in {one.name, one.id}), None)
    origin = _origin(instance, name, settings)
    async with archive_of(settings, clock=clock) as archive:
        streams = archive.streams
        series = await streams.book.series_of(instance.name if instance else name) if streams else ()
        if streams is None or not series:
            return None
        aside = [await streams.rebuild(one, origin=origin, note=note) for one in series]
    return tuple(dict.fromkeys(path for path in aside if path is not None))


async def seen(settings: Settings, *, clock: Clock, redact: Callable[[str], None]) -> tuple[Verdict, ...]:
    """Ask every cloud for its instances, and say what becomes of each. Touches no disk.

    So it knows no names that were given before: it says those that would be given now.

    Raises:
        CloudError: A cloud does not answer, or does not let us see its list.
    """
    async with AsyncExitStack() as stack:
        accounts = await _accounts(settings, clock=clock, progress=Silent(), redact=redact, stack=stack)
        listings = {name: await account.api.instances() for name, account in accounts.all().items()}
        return judge(settings, listings, names={})


async def caller(
    settings: Settings, name: str, *, clock: Clock, redact: Callable[[str], None], stack: AsyncExitStack
) -> Caller:
    """Build what makes single calls to a cloud: once, with little patience.

    Raises:
        ConfigError: The file of trusted certificates cannot be used.
    """
    return await _Builder(name, settings.clouds[name], settings=settings, clock=clock, stack=stack).caller(redact)


async def _accounts(
    settings: Settings,
    *,
    clock: Clock,
    progress: Progress,
    redact: Callable[[str], None],
    stack: AsyncExitStack,
) -> Accounts:
    accounts = Accounts(partial(_line, clock=clock, progress=progress, redact=redact))
    stack.push_async_callback(accounts.close)
    accounts.adopt(await accounts.prepared(settings))
    return accounts


async def _line(
    settings: Settings, before: Line, *, clock: Clock, progress: Progress, redact: Callable[[str], None]
) -> Line:
    """Build the accounts of all clouds; what was built from the same before is taken over."""
    entries: dict[str, Entry] = {}
    same = before.slots is not None and before.download == settings.download
    slots = before.slots if same and before.slots else Slots(settings.download.concurrent)
    async with AsyncExitStack() as undo:
        for name, cloud in settings.clouds.items():
            known, built_of = before.entries.get(name), _built_of(cloud, settings)
            stays = known if known and known.built_of == built_of else None
            if stays and same:
                entries[name] = stays
                continue
            calls, files = stays.calls if stays else Connections(), Connections()
            undo.push_async_callback(files.aclose)
            if stays is None:
                undo.push_async_callback(calls.aclose)
            build = _Builder(name, cloud, settings=settings, clock=clock, stack=calls)
            account = stays.account if stays else await build.account(redact)
            account = await build.with_downloader(account, files, slots=slots, progress=progress)
            entries[name] = Entry(account=account, built_of=built_of, calls=calls, files=files)
        undo.pop_all()
    return Line(entries=entries, download=settings.download, slots=slots)


def _built_of(cloud: Cloud, settings: Settings) -> tuple[object, ...]:
    """Give all that an account's calls are built from: another certificate in the same file counts too."""
    try:
        certificates = cloud.ca_file.read_bytes() if cloud.ca_file else b""
    except OSError:  # whoever builds it says so
        certificates = None
    return cloud, settings.download.connect_timeout, certificates


def _refuse_what_needs_a_restart(before: Settings, after: Settings) -> None:
    fixed = {
        "storage.directory": (before.storage.directory, after.storage.directory),
        "storage.state": (before.storage.state, after.storage.state),
        "web": (before.web, after.web),
    }
    text = "cannot change while ddslogd runs: restart for it"
    complaints = [Complaint(line=0, column=0, path=path, text=text) for path, (old, new) in fixed.items() if old != new]
    if complaints:
        raise ConfigError("the configuration", complaints)


def _checks(settings: Settings) -> Checks:
    return Checks(md5=settings.download.verify == "md5", sha256=settings.storage.sha256)


async def _storage(settings: Settings, *, clock: Clock, stack: AsyncExitStack) -> tuple[Store, Ledger, Recovery]:
    """Open directory and ledger; where the ledger is new, it is brought in line with what is on disk."""
    storage = settings.storage
    store = Store(
        storage.directory,
        keep_free=storage.keep_free,
        fresh_for=settings.export.fresh_for,
        checks=_checks(settings),
    )
    stack.callback(store.close)
    await asyncio.to_thread(store.open, clock.now())
    _claim_state(settings, stack)
    ledger = Ledger(storage.state)
    stack.push_async_callback(ledger.close)
    known = await ledger.open()
    await ledger.belong_to(storage.directory)
    names = [instance.name for instance in settings.fleet()]
    recovery = Recovery(store, ledger, names=names, clock=clock)
    await recovery.promises()
    if not known:
        if await asyncio.to_thread(store.has_snapshots):
            log.error("ledger.missing", directory=str(storage.state), todo=REBUILT)
        await recovery.whole()
    if not any(settings.discover_entries(cloud) for cloud in settings.clouds):  # else it is not known yet who is there
        await ledger.forget_instances(set(names))
    return store, ledger, recovery


async def _archive(settings: Settings, *, clock: Clock, stack: AsyncExitStack) -> tuple[Archive, Streams]:
    """Open all that is on disk; the streams are there also where they are not enabled, and may be later."""
    storage, stream = settings.storage, settings.stream
    store, ledger, recovery = await _storage(settings, clock=clock, stack=stack)
    streams = Streams(storage.directory, ledger=ledger, rotate=stream.rotate, clock=clock)
    stack.callback(streams.close)
    retention = Retention(storage, ledger=ledger, streamed=stream.enabled, clock=clock)
    used = streams if stream.enabled else None
    return Archive(store=store, ledger=ledger, recovery=recovery, streams=used, retention=retention), streams


def _origin(instance: Instance | None, name: str, settings: Settings) -> Origin:
    """Give where the streams of an instance come from, also where it is not collected from any more."""
    if instance is None:
        return Origin(schedule=settings.schedule.when, key=name)
    return Origin(schedule=instance.schedule, key=instance.id)


def _seen_of(name: str, api: Api, cloud: Cloud, *, now: datetime, unlisted: Mapping[str, str]) -> status.Cloud:
    """Give what is to be said of an account."""
    budget = api.budget
    pause_s = budget.pause_left_s
    return status.Cloud(
        name=name,
        calls_per_minute=cloud.calls_per_minute,
        left=budget.left,
        waiting=budget.waiting,
        throttled=api.tally.throttled,
        paused_until=now + timedelta(seconds=pause_s) if pause_s else None,
        credentials=api.tally.credentials.value,
        reachable=budget.reachable,
        unlisted=unlisted.get(name, ""),
    )


def _unheard(advance: Advance) -> None:
    """Take no notice: a gap is told of by the stream itself."""


def _claim_state(settings: Settings, stack: AsyncExitStack) -> None:
    """Claim the ledger's directory too: two directories of logs may not share a ledger."""
    storage = settings.storage
    if storage.state.resolve() != storage.directory.resolve():  # else it is claimed already
        stack.callback(os.close, claim(storage.state))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calls:
    """An account without what fetches files."""

    api: Api
    rule: LinkRule
    skew: Skew


class _Builder:
    """Builds the parts of one cloud."""

    def __init__(self, name: str, cloud: Cloud, *, settings: Settings, clock: Clock, stack: AsyncExitStack) -> None:
        self._name = name
        self._cloud = cloud
        self._settings = settings
        self._clock = clock
        self._stack = stack
        self._skew = Skew()
        self._tally = Tally()

    async def account(self, redact: Callable[[str], None]) -> _Calls:
        """Build what makes calls."""
        cloud = self._cloud
        session = await self._stack.enter_async_context(self._connect(read_timeout_s=REQUEST_TIMEOUT_S))
        http = Http(session, clock=self._clock, skew=self._skew)
        endpoint = cloud.dds_endpoint
        api = Api(
            endpoint=endpoint,
            http=http,
            credentials=await self._credentials(http, redact),
            budget=self._budget(self._name, cloud.calls_per_minute),
            tally=self._tally,
        )
        parts = urlsplit(endpoint)
        on_loopback = parts.scheme == "http" and links.is_loopback(parts.hostname or "")
        rule = LinkRule(hosts=cloud.allowed_link_hosts, plain_http=on_loopback)
        return _Calls(api=api, rule=rule, skew=self._skew)

    async def with_downloader(
        self, calls: _Calls | Account, stack: AsyncExitStack, *, slots: Slots, progress: Progress
    ) -> Account:
        """Build what fetches files beside what makes calls."""
        download = self._settings.download
        store = await stack.enter_async_context(
            self._connect(read_timeout_s=download.stall_timeout.total_seconds(), most_connections=0)  # there are slots
        )
        downloader = Downloader(
            session=store, slots=slots, settings=download, clock=self._clock, skew=calls.skew, progress=progress
        )
        return Account(api=calls.api, downloader=downloader, rule=calls.rule, skew=calls.skew)

    def _connect(self, *, read_timeout_s: float, most_connections: int = MOST_CALLS) -> aiohttp.ClientSession:
        return new_session(
            ca_file=self._cloud.ca_file,
            proxy=self._cloud.proxy,
            connect_timeout_s=self._settings.download.connect_timeout.total_seconds(),
            read_timeout_s=read_timeout_s,
            most_connections=most_connections,
        )

    async def caller(self, redact: Callable[[str], None]) -> Caller:
        session = new_session(
            ca_file=self._cloud.ca_file,
            proxy=self._cloud.proxy,
            connect_timeout_s=PATIENCE_S,
            read_timeout_s=PATIENCE_S,
        )
        http = Http(await self._stack.enter_async_context(session), clock=self._clock, skew=self._skew)
        credentials = await self._credentials(http, redact)
        return Caller(endpoint=self._cloud.dds_endpoint, http=http, credentials=credentials)

    async def _credentials(self, http: Http, redact: Callable[[str], None]) -> Credentials:
        identity = IdentityService(
            self._name,
            endpoint=self._cloud.identity_endpoint,
            http=http,
            tally=self._tally,
            budget=self._budget(f"{self._name} (logins)", LOGINS_PER_MINUTE),
        )
        match self._cloud.auth:
            case TokenAuth() | PasswordAuth() as auth:
                return self._by_token(auth, identity, http, redact)
            case AccessKeyAuth() | MetadataAuth() as auth:
                return await self._by_key(auth, identity, http, redact)

    def _by_token(
        self, auth: TokenAuth | PasswordAuth, identity: IdentityService, http: Http, redact: Callable[[str], None]
    ) -> Credentials:
        if isinstance(auth, TokenAuth):
            project_id = self._cloud.project_id or ""
            return GivenToken(auth.token, project_id=project_id, identity=identity, clock=self._clock, redact=redact)
        owner = auth.assume_role or auth
        return PasswordLogin(
            auth,
            identity=identity,
            project=self._project(domain=owner.domain_name),
            server_now=http.now,
            clock=self._clock,
            redact=redact,
        )

    async def _by_key(
        self, auth: AccessKeyAuth | MetadataAuth, identity: IdentityService, http: Http, redact: Callable[[str], None]
    ) -> Credentials:
        project, signer = self._project(), Signer(server_now=http.now)
        if isinstance(auth, AccessKeyAuth):
            return AccessKey(auth, project=project, identity=identity, signer=signer, clock=self._clock, redact=redact)
        service = await self._metadata(auth.address, redact)
        return MetadataKeys(
            service, project=project, identity=identity, signer=signer, clock=self._clock, redact=redact
        )

    def _project(self, *, domain: str = "") -> ProjectName:
        cloud = self._cloud
        return ProjectName(id=cloud.project_id or "", name=cloud.project_name or cloud.region or "", domain=domain)

    async def _metadata(self, address: str, redact: Callable[[str], None]) -> MetadataService:
        """Reach the metadata service by a session of its own: through no proxy, and with little patience."""
        session = new_session(
            ca_file=self._cloud.ca_file,
            proxy=None,
            connect_timeout_s=metadata.TIMEOUT_S,
            read_timeout_s=metadata.TIMEOUT_S,
        )
        http = Http(await self._stack.enter_async_context(session), clock=self._clock, skew=Skew())
        return MetadataService(address=address, http=http, redact=redact)

    def _budget(self, name: str, calls_per_minute: int) -> Budget:
        budget = Budget(calls_per_minute=calls_per_minute, clock=self._clock, name=name)
        self._stack.callback(budget.close)
        return budget
