"""What the clouds have, asked without a daemon: their instances, and the files that their exports offer.

One client of each account is built for it, and nothing else of the daemon. No disk is touched.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from ddslogd.collection.discovery import judge
from ddslogd.collection.node_registry import NodeRegistry
from ddslogd.huaweicloud.client_factory import ClientFactory
from ddslogd.huaweicloud.rate_limiter import IN_PROGRESS
from ddslogd.model.errors import CloudError
from ddslogd.model.export import Offer, Selection
from ddslogd.monitoring import status_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddslogd.collection.discovery import DiscoveryVerdict
    from ddslogd.config.settings import Settings
    from ddslogd.huaweicloud.api_client import Api
    from ddslogd.model.instance import Instance, LogKind
    from ddslogd.model.redactor import Redactor
    from ddslogd.scheduling.clock import Clock


async def seen(settings: Settings, *, clock: Clock, redactor: Redactor) -> tuple[DiscoveryVerdict, ...]:
    """Ask every cloud for its instances, or the daemon that runs, and judge each.

    It knows no names that were given before: it has those that would be given now.

    Raises:
        CloudError: A cloud does not answer, or does not let us see its list.
    """
    told = await asyncio.to_thread(status_client.listings, settings)
    if told is not None:
        return judge(settings, told, names={})
    async with AsyncExitStack() as stack:
        apis = await _apis(settings, clock=clock, redactor=redactor, stack=stack)
        listings = {name: await api.instances() for name, api in apis.items()}
        return judge(settings, listings, names={})


async def offered(
    settings: Settings,
    choose: Callable[[tuple[Instance, ...]], tuple[Instance, ...]],
    *,
    clock: Clock,
    redactor: Redactor,
) -> tuple[Offer, ...]:
    """Ask once for the export of each log of some instances, which begins one where none is served.

    Args:
        settings: As loaded.
        choose: Returns those of all instances there are that are asked for.
        clock: Policy time.
        redactor: Is told every secret, so that none is printed.

    Raises:
        CloudError: A cloud whose instances have to be discovered does not list them.
    """
    async with AsyncExitStack() as stack:
        apis, node_registry = await _apis(settings, clock=clock, redactor=redactor, stack=stack), NodeRegistry()
        listings = {name: await api.instances() for name, api in apis.items() if settings.discover_entries(name)}
        fleet = {(one.cloud, one.id): one for one in settings.fleet()}
        for verdict in judge(settings, listings, names={}):
            if verdict.instance is not None:
                fleet[verdict.cloud, verdict.listed.id] = verdict.instance
                node_registry.enter(verdict.instance.name, verdict.listed.nodes)
        limited = [
            (node_registry.limited(one, kind), kind) for one in choose(tuple(fleet.values())) for kind in one.logs
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_offer(apis[one.cloud], one, kind), name=f"{kind} log of {one.name}")
                for one, kind in limited
                if one is not None
            ]
        return tuple(task.result() for task in tasks)


async def _apis(settings: Settings, *, clock: Clock, redactor: Redactor, stack: AsyncExitStack) -> dict[str, Api]:
    return {
        name: (await ClientFactory(name, settings=settings, clock=clock, stack=stack).account(redactor)).api
        for name in settings.clouds
    }


async def _offer(api: Api, instance: Instance, kind: LogKind) -> Offer:
    try:
        reply = await api.export(instance, kind, Selection(node_ids=instance.node_ids), urgency=IN_PROGRESS)
    except CloudError as exc:
        return Offer(instance=instance, log=kind, error=str(exc))
    return Offer(instance=instance, log=kind, rows=reply.rows)
