"""Builds the accounts: what makes calls, and what fetches files by slots that all share."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ddslogd.collection.context import Account
from ddslogd.download.downloader import Downloader
from ddslogd.download.slots import Slots
from ddslogd.huaweicloud.client_factory import Calls, ClientFactory
from ddslogd.huaweicloud.link_resolver import LinkResolver
from ddslogd.model.addresses import is_loopback
from ddslogd.service.account_pool import AccountEntry, Accounts, AccountSet, Connections

if TYPE_CHECKING:
    from ddslogd.config.settings import Cloud, Settings
    from ddslogd.model.cycle import Progress
    from ddslogd.model.redactor import Redactor
    from ddslogd.scheduling.clock import Clock


async def open_accounts(
    settings: Settings,
    *,
    clock: Clock,
    progress: Progress,
    redactor: Redactor,
    stack: AsyncExitStack,
) -> Accounts:
    """Open the line of each account."""
    accounts = Accounts(partial(open_line, clock=clock, progress=progress, redactor=redactor))
    stack.push_async_callback(accounts.close)
    accounts.adopt(await accounts.prepared(settings))
    return accounts


async def open_line(
    settings: Settings, before: AccountSet, *, clock: Clock, progress: Progress, redactor: Redactor
) -> AccountSet:
    """Build the accounts of all clouds; what was built from the same before is taken over."""
    entries: dict[str, AccountEntry] = {}
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
            build = ClientFactory(name, settings=settings, clock=clock, stack=calls)
            account = stays.account if stays else await build.account(redactor)
            account = await with_downloader(build, account, files, slots=slots, progress=progress)
            entries[name] = AccountEntry(account=account, built_of=built_of, calls=calls, files=files)
        undo.pop_all()
    return AccountSet(entries=entries, download=settings.download, slots=slots)


async def with_downloader(
    factory: ClientFactory, calls: Calls | Account, stack: AsyncExitStack, *, slots: Slots, progress: Progress
) -> Account:
    """Build what fetches files next to what makes calls."""
    download = factory.settings.download
    is_home = is_loopback(urlsplit(factory.cloud.dds_endpoint).hostname or "")
    store = await stack.enter_async_context(
        factory.connect(
            read_timeout_s=download.stall_timeout.total_seconds(),
            most_connections=0,  # there are slots
            # A proxy may well be on this host; it is the one that resolves the names of links, then.
            resolver=None if is_home or factory.cloud.proxy else LinkResolver(),
        )
    )
    downloader = Downloader(
        session=store, slots=slots, settings=download, clock=factory.clock, skew=calls.skew, progress=progress
    )
    return Account(api=calls.api, downloader=downloader, rule=calls.rule, skew=calls.skew)


def _built_of(cloud: Cloud, settings: Settings) -> tuple[object, ...]:
    """Return all that an account's calls are built from: another certificate in the same file counts too."""
    try:
        certificates = cloud.ca_file.read_bytes() if cloud.ca_file else b""
    except OSError:  # whoever builds it says so
        certificates = None
    return cloud, settings.download.connect_timeout, certificates
