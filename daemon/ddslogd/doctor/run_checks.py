"""One run that looks at everything there is to be wrong, and says what to do.

Nothing is changed, nothing is exported, and each login is tried once. Every wait for the network ends by itself after
10 seconds; clouds are asked at the same time; no check ends the run.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ddslogd.config import loader
from ddslogd.config.settings import AccessKeyAuth, MetadataAuth, PasswordAuth
from ddslogd.doctor import network_checks, permission_checks, secret_checks
from ddslogd.doctor.check_result import CheckResult, Level, fail, ok, warn
from ddslogd.doctor.disk_checks import housed
from ddslogd.huaweicloud.client_factory import ClientFactory
from ddslogd.model.errors import ConfigError
from ddslogd.storage import file_access
from ddslogd.storage.ownership import SERVICE_USER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from ddslogd.config.settings import Settings
    from ddslogd.model.redactor import Redactor
    from ddslogd.scheduling.clock import Clock
    from ddslogd.storage.file_access import Who

_CONFIGURED: Final = Path("/etc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What is to be looked at.

    Attributes:
        path: The daemon's configuration.
        offline: Call nobody.
        who: By whose rights the disk is judged; None for the service's user where root asks, else for who asks.
    """

    path: Path
    offline: bool = False
    who: Who | None = None


async def examined(
    visit: Visit, *, clock: Clock, redactor: Redactor, environ: Mapping[str, str] = os.environ
) -> tuple[CheckResult, ...]:
    """Look at everything.

    Args:
        visit: What that is.
        clock: The host's.
        redactor: Is told every secret.
        environ: Of this process.
    """
    try:
        loaded = loader.load(visit.path)
    except ConfigError as exc:
        todo = "correct it, and run doctor again: without it nothing else can be looked at"
        return tuple(fail("configuration", complaint.render(exc.file), todo) for complaint in exc.complaints)
    settings = loaded.settings
    found = [ok("configuration", f"{visit.path} can be used")]
    found += [warn("configuration", warning.render(visit.path), "see man ddslogd.yaml") for warning in loaded.warnings]
    who = visit.who or (file_access.user(SERVICE_USER) if os.geteuid() == 0 else None) or file_access.myself()
    found += await _all(_secrets(settings, visit, who, redactor=redactor, environ=environ), "secrets")
    if not visit.offline:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    _all(_cloud(settings, name, clock=clock, redactor=redactor, environ=environ), f"cloud {name}"),
                    name=f"checks of {name}",
                )
                for name in settings.clouds
            ]
        found += [
            _named(finding, name)
            for name, task in zip(settings.clouds, tasks, strict=True)
            for finding in task.result()
        ]
    found += await _all(_blocking(lambda: housed(settings, who, clock.now())), "disk")
    return tuple(found)


def _named(finding: CheckResult, cloud: str) -> CheckResult:
    return CheckResult(level=finding.level, area=finding.area, what=f"{cloud}: {finding.what}", todo=finding.todo)


async def _all(checks: AsyncIterator[CheckResult], area: str) -> list[CheckResult]:
    """Return what checks find; one that breaks is a finding too."""
    found: list[CheckResult] = []
    try:
        async for finding in checks:
            found.append(finding)  # noqa: PERF401  # what was found before it breaks counts
    except Exception as exc:  # noqa: BLE001  # no check ends the run
        what = f"the check itself failed ({type(exc).__name__}), and what comes after it was not looked at"
        found.append(fail(area.partition(" ")[0], what, "report this to ddslogd"))
    return found


async def _blocking(checks: Callable[[], Iterator[CheckResult]]) -> AsyncIterator[CheckResult]:
    """Run checks that wait for the disk next to the loop."""
    for finding in await asyncio.to_thread(lambda: list(checks())):
        yield finding


async def _secrets(
    settings: Settings, visit: Visit, who: Who, *, redactor: Redactor, environ: Mapping[str, str]
) -> AsyncIterator[CheckResult]:
    in_service = visit.path.is_relative_to(_CONFIGURED) or "CREDENTIALS_DIRECTORY" in environ
    for place, secret in secret_checks.secrets_of(settings):
        finding = await secret_checks.kept(place, secret, in_service=in_service, redactor=redactor, environ=environ)
        stop = file_access.barrier(secret.file, who, 4) if secret.file and finding.level is not Level.FAIL else None
        if stop is not None:  # root may read what the service may not
            todo = f"chown root:{who.name} {secret.file}; chmod 0640 {secret.file}"
            finding = fail("secrets", f"{place}: {who.name} may not read {secret.file}: see {stop}", todo)
        yield finding


async def _cloud(
    settings: Settings, name: str, *, clock: Clock, redactor: Redactor, environ: Mapping[str, str]
) -> AsyncIterator[CheckResult]:
    cloud, reachable = settings.clouds[name], True
    services = {"DDS": cloud.dds_endpoint}
    if isinstance(cloud.auth, PasswordAuth) or not cloud.project_id:
        services["IAM"] = cloud.identity_endpoint
    async with AsyncExitStack() as stack:
        try:
            caller = await ClientFactory(name, settings=settings, clock=clock, stack=stack).caller(redactor)
        except ConfigError as exc:
            yield fail("network", str(exc), "correct ca_file")
            return
        for called, endpoint in services.items():
            looked_at = network_checks.reached(
                called,
                endpoint,
                caller.http,
                ca_file=cloud.ca_file,
                proxy=cloud.proxy,
                now=clock.now(),
                signs=isinstance(cloud.auth, AccessKeyAuth | MetadataAuth),
            )
            async for finding in looked_at:
                reachable = reachable and not (finding.area == network_checks.AREA and finding.level is Level.FAIL)
                yield finding
        if not reachable or secret_checks.hidden(cloud, environ):
            why = "a service cannot be reached" if not reachable else "a secret is for the service alone"
            yield warn("login", f"not tried: {why}", "see above")
            return
        kinds = sorted({kind for entry in settings.instances for kind in entry.logs if entry.cloud in {None, name}})
        discovers = bool(settings.discover_entries(name))
        async for finding in permission_checks.granted(caller, kinds=kinds, discovers=discovers):
            yield finding
