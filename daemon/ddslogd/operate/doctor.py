"""One run that looks at everything there is to be wrong, and says what to do.

Nothing is changed, nothing is exported, and each login is tried once. Every wait for the network ends by itself after
10 seconds; clouds are asked at the same time; no check ends the run.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ddslogd import __version__, config, service
from ddslogd.cloud import reach, rights, secrecy
from ddslogd.config import PasswordAuth
from ddslogd.errors import ConfigError
from ddslogd.findings import Finding, Level, fail, ok, warn
from ddslogd.models import Cron, Every
from ddslogd.operate import shipperconfig, shipperrules
from ddslogd.operate.housing import housed
from ddslogd.operate.shipperrules import Tree
from ddslogd.pacing import next_tick
from ddslogd.storage import layout, premises
from ddslogd.storage.store import LOCK_FILE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from ddslogd.config import Settings
    from ddslogd.pacing import Clock
    from ddslogd.storage.premises import Who
    from ddslogd.storage.shippers import Shipper

SERVICE_USER: Final = "ddslogd"
_CONFIGURED: Final = Path("/etc")
_MOMENT: Final = datetime(2024, 1, 1, tzinfo=UTC)
_MOST_TICKS: Final = 3_000  # a week of a cron expression that fires every five minutes, and more
_COLOURS: Final = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What is to be looked at.

    Attributes:
        path: The daemon's configuration.
        shippers: Configurations of shippers, and whose they are; None: guess.
        offline: Call nobody.
        who: By whose rights the disk is judged; None for the service's user where root asks, else for who asks.
    """

    path: Path
    shippers: Sequence[tuple[Shipper | None, Path]] = ()
    offline: bool = False
    who: Who | None = None


async def examined(
    visit: Visit, *, clock: Clock, redact: Callable[[str], None], environ: Mapping[str, str] = os.environ
) -> tuple[Finding, ...]:
    """Look at everything.

    Args:
        visit: What that is.
        clock: The host's.
        redact: Hears every secret.
        environ: Of this process.
    """
    try:
        loaded = config.load(visit.path)
    except ConfigError as exc:
        todo = "correct it, and run doctor again: without it nothing else can be looked at"
        return tuple(fail("configuration", complaint.render(exc.file), todo) for complaint in exc.complaints)
    settings = loaded.settings
    found = [ok("configuration", f"{visit.path} can be used")]
    found += [warn("configuration", warning.render(visit.path), "see the README") for warning in loaded.warnings]
    who = visit.who or (premises.user(SERVICE_USER) if os.geteuid() == 0 else None) or premises.myself()
    found += await _all(_secrets(settings, visit, who, redact=redact, environ=environ), "secrets")
    if not visit.offline:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    _all(_cloud(settings, name, clock=clock, redact=redact, environ=environ), f"cloud {name}"),
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
    for shipper, path in visit.shippers:
        found += await _all(_blocking(lambda shipper=shipper, path=path: _shipper(settings, shipper, path)), "shipper")  # type: ignore[misc]  # mypy cannot type defaults of a lambda
    return tuple(found)


def _named(finding: Finding, cloud: str) -> Finding:
    return Finding(level=finding.level, area=finding.area, what=f"{cloud}: {finding.what}", todo=finding.todo)


async def _all(checks: AsyncIterator[Finding], area: str) -> list[Finding]:
    """Give what checks find; one that breaks is a finding too."""
    found: list[Finding] = []
    try:
        async for finding in checks:
            found.append(finding)  # noqa: PERF401  # what was found before it breaks counts
    except Exception as exc:  # noqa: BLE001  # no check ends the run
        what = f"the check itself failed ({type(exc).__name__}), and what comes after it was not looked at"
        found.append(fail(area.partition(" ")[0], what, "report this to ddslogd"))
    return found


async def _blocking(checks: Callable[[], Iterator[Finding]]) -> AsyncIterator[Finding]:
    """Run checks that wait for the disk beside the loop."""
    for finding in await asyncio.to_thread(lambda: list(checks())):
        yield finding


async def _secrets(
    settings: Settings, visit: Visit, who: Who, *, redact: Callable[[str], None], environ: Mapping[str, str]
) -> AsyncIterator[Finding]:
    in_service = visit.path.is_relative_to(_CONFIGURED) or "CREDENTIALS_DIRECTORY" in environ
    for place, secret in secrecy.secrets_of(settings):
        finding = await secrecy.kept(place, secret, in_service=in_service, redact=redact, environ=environ)
        stop = premises.barrier(secret.file, who, 4) if secret.file and finding.level is not Level.FAIL else None
        if stop is not None:  # root may read what the service may not
            todo = f"chown root:{who.name} {secret.file}; chmod 0640 {secret.file}"
            finding = fail("secrets", f"{place}: {who.name} may not read {secret.file}: see {stop}", todo)
        yield finding


async def _cloud(
    settings: Settings, name: str, *, clock: Clock, redact: Callable[[str], None], environ: Mapping[str, str]
) -> AsyncIterator[Finding]:
    cloud, reachable = settings.clouds[name], True
    services = {"DDS": cloud.dds_endpoint}
    if isinstance(cloud.auth, PasswordAuth) or not cloud.project_id:
        services["IAM"] = cloud.identity_endpoint
    async with AsyncExitStack() as stack:
        try:
            caller = await service.caller(settings, name, clock=clock, redact=redact, stack=stack)
        except ConfigError as exc:
            yield fail("network", str(exc), "correct ca_file")
            return
        for called, endpoint in services.items():
            looked_at = reach.reached(
                called, endpoint, caller.http, ca_file=cloud.ca_file, proxy=cloud.proxy, now=clock.now()
            )
            async for finding in looked_at:
                reachable = reachable and not (finding.area == reach.AREA and finding.level is Level.FAIL)
                yield finding
        if not reachable or secrecy.hidden(cloud, environ):
            why = "a service cannot be reached" if not reachable else "a secret is for the service alone"
            yield warn("login", f"not tried: {why}", "see above")
            return
        kinds = sorted({kind for entry in settings.instances for kind in entry.logs if entry.cloud in {None, name}})
        discovers = bool(settings.discover_entries(name))
        async for finding in rights.granted(caller, kinds=kinds, discovers=discovers):
            yield finding


def _shipper(settings: Settings, shipper: Shipper | None, path: Path) -> Iterator[Finding]:
    try:
        kind, tails = shipperconfig.read(path, shipper)
    except shipperconfig.Unreadable as exc:
        yield fail("shipper", str(exc), "name the file in which its inputs stand")
        return
    books = settings.storage.shipper.kind
    if books not in {"none", kind}:
        todo = f"set storage.shipper.kind: {kind}"
        yield warn("shipper", f"storage.shipper.kind is {books}, and {path} is of {kind}", todo)
    yield from shipperrules.judged(tails, tree_of(settings))


def tree_of(settings: Settings) -> Tree:
    """Give what is in the storage directory, or would be; blocks."""
    directory = settings.storage.directory
    files = [
        str(entry.path) for entry in premises.streams(directory) if entry.path.parent.parent.name == layout.STREAMS
    ]
    rotated = [path for path in files if ".log." in path.rpartition("/")[2]]
    live = [path for path in files if path.endswith(".log")]
    model = f"{directory}/{layout.STREAMS}/{layout.segment(_name(settings))}"
    stamp = layout.stamp(_MOMENT)
    made_up = [f"{model}/node_1.log"]
    if any("slow" in entry.logs for entry in settings.instances):
        made_up.append(f"{model}/node_1.slow.log")
    snapshot = f"{directory}/{layout.SNAPSHOTS}/{layout.segment(_name(settings))}/node_1"
    others = [
        *premises.others(directory),
        (f"{snapshot}/name.{stamp}.log", "a snapshot, whose lines are in a stream too"),
        (f"{snapshot}/.name.{stamp}.log~1~~{layout.PART}", "a part, which is no whole file yet"),
        (f"{model}/.replaced.{stamp}/node_1.log", "a stream that rebuild put aside"),
        (f"{directory}/{LOCK_FILE}", "a lock"),
    ]
    return Tree(
        streams=live or made_up,
        rotated=rotated or [f"{path}.{stamp}" for path in live or made_up],
        others=others,
        slowest=_slowest(settings),
        made=bool(live),
    )


def _name(settings: Settings) -> str:
    return next((instance.name for instance in settings.fleet()), "instance")


def _slowest(settings: Settings) -> timedelta:
    """Give the longest time between two ticks of an instance."""
    schedules = {instance.schedule for instance in settings.fleet()} | {settings.schedule.when}
    for cloud in settings.clouds:
        for _, entry in settings.discover_entries(cloud):
            schedules.add(settings.discovered(entry, id_="", name="", cloud=cloud).schedule)
    return max(map(_longest, schedules))


def _longest(schedule: Every | Cron) -> timedelta:
    match schedule:
        case Every(interval=interval):
            return interval
        case Cron():
            longest, tick = timedelta(0), next_tick(schedule, after=_MOMENT, key="")
            for _ in range(_MOST_TICKS):
                after = next_tick(schedule, after=tick, key="")
                longest, tick = max(longest, after - tick), after
                if tick > _MOMENT + timedelta(days=9):
                    break
            return longest


# --- how it is shown --------------------------------------------------------------------------------------------------


def report(findings: Sequence[Finding], now: datetime) -> dict[str, Any]:
    """Give it for programs."""
    counts = Counter(finding.level for finding in findings)
    return {
        "version": __version__,
        "checked_at": now.isoformat(timespec="milliseconds"),
        **{level.value: counts[level] for level in Level},
        "findings": [asdict(finding) for finding in findings],
    }


def lines(findings: Sequence[Finding]) -> str:
    """Give it as text: a line for each, and below it what to do."""
    told = []
    for finding in findings:
        told.append(f"{finding.level:<4}  {finding.area:<13}  {finding.what}")
        if finding.todo:
            told.append(f"{'':<21}to do: {finding.todo}")
    return "\n".join([*told, _summary(findings)])


def table(findings: Sequence[Finding], *, width: int) -> str:
    """Give it with colours, for a terminal of so many columns."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(2):
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in findings:
        todo = f"\n[dim]→ {escape(finding.todo)}[/dim]" if finding.todo else ""
        colour = _COLOURS[finding.level]
        grid.add_row(f"[{colour}]{finding.level}[/{colour}]", finding.area, escape(finding.what) + todo)
    buffer = StringIO()
    console = Console(file=buffer, width=width, force_terminal=True)
    console.print(grid)
    console.print(_summary(findings), highlight=False)
    return buffer.getvalue().rstrip("\n")


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.level for finding in findings)
    return ", ".join(f"{counts[level]} {level}" for level in Level)
