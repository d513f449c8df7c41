"""The commands an operator types.

Exit status: 0 done; 1 something failed, it says what; 2 the command line is wrong; 74 the disk refuses; 75 another
ddslogd works on the same directory; 78 the configuration is wrong (sysexits.h).
"""

# What is heavy (aiohttp, pydantic, rich) is imported by the command that needs it, so that --help is quick.

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from ddslogd import __version__
from ddslogd.errors import CloudError, ConfigError, Locked, NotListening, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Any

    from ddslogd.config import Loaded, Settings
    from ddslogd.models import Advance, CycleReport, Instance
    from ddslogd.operate.log import Redactor
    from ddslogd.storage.shippers import Shipper

T = TypeVar("T")

DEFAULT_CONFIG = "/etc/ddslogd/ddslogd.yaml"
STOPS = (signal.SIGTERM, signal.SIGINT)
EXIT_FAILED = 1
EXIT_DISK = 74
EXIT_LOCKED = 75
EXIT_CONFIG = 78

config_option = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="DDSLOGD_CONFIG",
    default=DEFAULT_CONFIG,
    show_default=True,
    help="The configuration file ($DDSLOGD_CONFIG).",
)


def log_options(default_level: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options that say how events are printed."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        levels, forms = click.Choice(["debug", "info", "warning", "error"]), click.Choice(["auto", "console", "json"])
        command = click.option("--log-level", type=levels, default=default_level, show_default=True)(command)
        return click.option(
            "--log-format",
            type=forms,
            default="auto",
            show_default=True,
            help="auto: console on a terminal, else JSON.",
        )(command)

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ddslogd")
def commands() -> None:
    """Bring the error logs of Huawei Cloud DDS instances to local disk."""


@commands.command()
@config_option
@log_options("info")
def run(path: Path, log_level: str, log_format: str) -> None:
    """Collect on schedule until SIGTERM or SIGINT; reload the configuration on SIGHUP.

    Exit status 0: it was told to stop. 1: web.listen cannot be had. 74: the disk refuses. 75: another ddslogd works on
    the directory. 78: the configuration is wrong.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it means a reload
    from ddslogd.operate import page  # noqa: PLC0415  # heavy
    from ddslogd.operate.notify import Notifier  # noqa: PLC0415  # heavy
    from ddslogd.operate.progress import Silent  # noqa: PLC0415  # heavy
    from ddslogd.operate.web import listening  # noqa: PLC0415  # heavy
    from ddslogd.pacing import SystemClock  # noqa: PLC0415  # heavy
    from ddslogd.reload import Reloads, tell_warnings, tried  # noqa: PLC0415  # heavy
    from ddslogd.scheduler import Chore  # noqa: PLC0415  # heavy
    from ddslogd.service import opened  # noqa: PLC0415  # heavy

    redactor = _events(log_level, log_format)
    notifier = Notifier.of(os.environ, pid=os.getpid(), clean=redactor.clean)
    loaded = tried(path)
    tell_warnings(loaded)

    async def serve() -> None:
        async with (
            opened(loaded.settings, clock=SystemClock(), progress=Silent(), redact=redactor.add) as service,
            listening(loaded.settings.web, service.observer, clean=redactor.clean, page=page),
        ):
            reloads = Reloads(path, take_over=service.reload, notifier=notifier)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloads.ask)
            notifier.ready()
            reload = Chore(name="reload", every=timedelta(0), run=reloads.run)
            await service.serve(notifier=notifier, chores=[reload])

    _until_signal(serve(), stopping=notifier.stopping)


@commands.command()
@click.argument("names", metavar="[INSTANCE]...", nargs=-1)
@config_option
@log_options("error")
def once(names: tuple[str, ...], path: Path, log_level: str, log_format: str) -> None:
    """Run one cycle now, of all or of some.

    INSTANCE is a name or an id of the configuration; where none is given, all have their cycle.

    Exit status 0: every file is on disk. 1: something failed, or a list to discover from could not be had. 74: the
    disk refuses. 75: another ddslogd works on the directory. 78: the configuration is wrong.
    """
    from rich.console import Console  # noqa: PLC0415  # heavy

    from ddslogd import config  # noqa: PLC0415  # heavy
    from ddslogd.operate.progress import watching  # noqa: PLC0415  # heavy
    from ddslogd.pacing import SystemClock  # noqa: PLC0415  # heavy
    from ddslogd.service import opened  # noqa: PLC0415  # heavy

    redactor = _events(log_level, log_format)
    loaded = config.load(path)
    _print_warnings(loaded, path)

    unlisted: dict[str, str] = {}

    async def cycles() -> list[CycleReport]:
        with watching(Console()) as progress:
            async with opened(loaded.settings, clock=SystemClock(), progress=progress, redact=redactor.add) as service:
                fleet = await service.fleet()
                unlisted.update(service.unlisted())
                return await service.once(_chosen(fleet, names, whole=not unlisted))

    reports = _until_signal(cycles())
    for cloud, reason in unlisted.items():
        click.echo(redactor.clean(f"ddslogd: the instances of {cloud} could not be discovered: {reason}"), err=True)
    if reports is None or unlisted or any(report.error or report.failures for report in reports):
        sys.exit(EXIT_FAILED)


@commands.command()
@config_option
def check(path: Path) -> None:
    """Say all that is wrong with the configuration, and how many calls its schedules need.

    Exit status 0: the daemon would run with it (there may be warnings). 78: it would not.
    """
    from ddslogd import config  # noqa: PLC0415  # heavy
    from ddslogd.cloud.http import trust  # noqa: PLC0415  # heavy

    loaded = config.load(path)
    _print_warnings(loaded, path)
    for cloud in loaded.settings.clouds.values():
        trust(cloud.ca_file)
    click.echo(f"{path}: good: {_summary(loaded.settings)}")
    for name in loaded.settings.clouds:
        click.echo(_calls(loaded.settings, name))


@commands.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@log_options("error")
def instances(path: Path, log_level: str, log_format: str, *, as_json: bool) -> None:
    """List what the clouds have, and what is collected.

    Each instance with the entry of the configuration that takes it, or why none does. Works beside a running daemon.

    Exit status 0: every cloud answered. 1: one did not, or does not let us see its list. 78: the configuration is
    wrong.
    """
    from ddslogd import config  # noqa: PLC0415  # heavy
    from ddslogd.operate.listing import instance_objects, instance_table  # noqa: PLC0415  # heavy
    from ddslogd.pacing import SystemClock  # noqa: PLC0415  # heavy
    from ddslogd.service import seen  # noqa: PLC0415  # heavy

    redactor = _events(log_level, log_format)
    loaded = config.load(path)
    try:
        verdicts = _until_signal(seen(loaded.settings, clock=SystemClock(), redact=redactor.add)) or ()
    except CloudError as exc:
        _end(redactor.clean(f"ddslogd: {exc}"), EXIT_FAILED)
    else:
        click.echo(json.dumps(instance_objects(verdicts), indent=2) if as_json else instance_table(verdicts))


@commands.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(path: Path, *, as_json: bool) -> None:
    """Say how fresh each instance's logs are, and whose turn it is where they are not.

    Asks the running daemon, by web.listen; where none answers, the ledger says how it stood in the end.

    Exit status 0: no instance is stale. 1: one is. 74: the ledger cannot be read. 78: the configuration is wrong.
    """
    from rich.console import Console  # noqa: PLC0415  # heavy

    from ddslogd import config  # noqa: PLC0415  # heavy
    from ddslogd.operate import asking  # noqa: PLC0415  # heavy
    from ddslogd.operate.listing import WIDTH, status_text  # noqa: PLC0415  # heavy

    found = asking.status(config.load(path).settings, now=datetime.now(UTC))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        console = Console()
        status_text(found, console if console.is_terminal else Console(width=WIDTH))
    if found["stale"]:
        sys.exit(EXIT_FAILED)


@commands.command()
@click.argument("names", metavar="[INSTANCE]...", nargs=-1)
@config_option
@click.option(
    "--since", metavar="WHEN", help="Only gaps since then: a time (2026-11-24, 2026-11-24T08:00Z) or an age (2h, 7d)."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def gaps(names: tuple[str, ...], path: Path, since: str | None, *, as_json: bool) -> None:
    """List the lines that are missing from streams.

    INSTANCE is a name; where none is given, all count. Works beside a running daemon.

    Exit status 0: none is missing. 1: there is a gap. 74: the ledger cannot be read. 78: the configuration is wrong.
    """
    from ddslogd import config  # noqa: PLC0415  # heavy
    from ddslogd.operate.listing import gap_objects, gap_table  # noqa: PLC0415  # heavy
    from ddslogd.storage import database, ledger, streambook  # noqa: PLC0415  # heavy

    settings = config.load(path).settings
    moment = None if since is None else _moment(since)
    with database.reading(settings.storage.state / ledger.FILE_NAME) as db:
        unknown = set(names) - streambook.instances(db)
        if unknown:
            raise click.BadParameter(f"nothing was ever collected of {', '.join(sorted(unknown))}")
        found = streambook.gaps(db, since=moment, instances=names)
    if as_json:
        click.echo(json.dumps(gap_objects(found), indent=2))
    elif found:
        click.echo(gap_table(found))
    if found:
        sys.exit(EXIT_FAILED)


@commands.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing. Works beside a running daemon.")
@log_options("warning")
def prune(path: Path, log_level: str, log_format: str, *, dry_run: bool) -> None:
    """Remove what storage.keep lets go, as the daemon does every hour.

    Exit status 0: done. 1: stopped by a signal. 74: the disk refuses. 75: another ddslogd works on the directory. 78:
    the configuration is wrong.
    """
    from ddslogd import config  # noqa: PLC0415  # heavy
    from ddslogd.operate.listing import removal_table  # noqa: PLC0415  # heavy
    from ddslogd.pacing import SystemClock  # noqa: PLC0415  # heavy
    from ddslogd.service import archive_of  # noqa: PLC0415  # heavy
    from ddslogd.storage.retention import NothingRead, Removal, planned, read_books  # noqa: PLC0415  # heavy

    _events(log_level, log_format)
    settings = config.load(path).settings

    async def remove() -> tuple[Removal, ...]:
        async with archive_of(settings, clock=SystemClock()) as archive:
            return await archive.retention.run()

    if dry_run:
        try:
            books = read_books(settings.storage)
        except StorageError as exc:  # as the daemon does: nothing counts as read
            click.echo(f"ddslogd: {exc}", err=True)
            books = NothingRead()
        removals = planned(settings.storage, streamed=settings.stream.enabled, books=books, now=datetime.now(UTC))
    else:
        removed = _until_signal(remove())
        if removed is None:
            _end("ddslogd: stopped before the end; what was removed until then is gone", EXIT_FAILED)
        removals = removed
    if removals:
        click.echo(removal_table(removals))
    size = sum(removal.file.size for removal in removals)
    click.echo(
        f"{len(removals)} file{'' if len(removals) == 1 else 's'}, {size} bytes {'would go' if dry_run else 'removed'}"
    )


@commands.command()
@click.argument("name", metavar="INSTANCE")
@config_option
@log_options("warning")
def rebuild(name: str, path: Path, log_level: str, log_format: str) -> None:
    """Make the streams of an instance anew from its snapshots on disk.

    The files of the old ones are moved to a hidden directory beside them. A shipper takes the new ones for new files,
    and ships their lines again. With storage.snapshots: latest, the new stream begins with the last export. Stop the
    daemon first.

    Exit status 0: done. 1: there are no snapshots of this instance, or streams are not enabled. 74: the disk refuses.
    75: another ddslogd works on the directory. 78: the configuration is wrong.
    """
    from ddslogd import config  # noqa: PLC0415  # heavy
    from ddslogd.pacing import SystemClock  # noqa: PLC0415  # heavy
    from ddslogd.service import rebuilt  # noqa: PLC0415  # heavy

    _events(log_level, log_format)
    settings = config.load(path).settings
    if not settings.stream.enabled:
        _end("ddslogd: stream.enabled is false: there is no stream to rebuild", EXIT_FAILED)
    taken: list[Advance] = []

    async def work() -> tuple[tuple[Path, ...] | None]:
        return (await rebuilt(settings, name, clock=SystemClock(), note=taken.append),)

    ended = _until_signal(work())
    if ended is None:
        _end("ddslogd: stopped before the end; what is left to do, the daemon does when it starts", EXIT_FAILED)
    (aside,) = ended
    if aside is None:
        _end(f"ddslogd: there are no snapshots of an instance {name!r} on disk", EXIT_FAILED)
    size, found = sum(advance.new for advance in taken), sum(advance.gap is not None for advance in taken)
    click.echo(f"{name}: {len(taken)} snapshots, {size} bytes in streams, {found} gap{'' if found == 1 else 's'}")
    for directory in aside:
        click.echo(f"the old files are in {directory}: remove it when nobody needs them")


@commands.command()
@config_option
@click.option(
    "--shipper",
    "shippers",
    metavar="[KIND:]FILE",
    multiple=True,
    help="A shipper's configuration to look at too, as filebeat:/etc/filebeat/filebeat.yml. Can be repeated.",
)
@click.option("--offline", is_flag=True, help="Call nobody.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(path: Path, shippers: tuple[str, ...], *, offline: bool, as_json: bool) -> None:
    """Look at all that can be wrong, and say what to do.

    Configuration, secrets, network, certificates, clock, login, rights, disk, ledger, and what shippers read. Nothing
    is changed, and no export is started; each login is tried once. Works beside a running daemon.

    Exit status 0: nothing fails (there may be warnings). 1: something does.
    """
    from rich.console import Console  # noqa: PLC0415  # heavy

    from ddslogd.findings import Level  # noqa: PLC0415  # heavy
    from ddslogd.operate.doctor import Visit, examined, lines, report, table  # noqa: PLC0415  # heavy
    from ddslogd.pacing import SystemClock  # noqa: PLC0415  # heavy

    redactor, clock = _events("critical", "auto"), SystemClock()
    visit = Visit(path=path.absolute(), shippers=[_shipper(text) for text in shippers], offline=offline)
    findings = _until_signal(examined(visit, clock=clock, redact=redactor.add))
    if findings is None:
        _end("ddslogd: stopped before the end", EXIT_FAILED)
    console = Console()
    if as_json:
        told = json.dumps(report(findings, clock.now()), indent=2)
    else:
        told = table(findings, width=console.width) if console.is_terminal else lines(findings)
    click.echo(redactor.clean(told))
    if any(finding.level is Level.FAIL for finding in findings):
        sys.exit(EXIT_FAILED)


@commands.command("support-bundle")
@config_option
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file, which must be a new one; default ddslogd-support-<time>.tar.gz here.",
)
@click.option("--with-names", is_flag=True, help="Leave names of users, projects, instances and hosts as they are.")
def support_bundle(path: Path, target: Path | None, *, with_names: bool) -> None:
    """Pack what somebody who helps needs to see.

    Configuration, status, last failures, ledger schema and counts, versions, doctor's findings without network, and the
    journal's last lines. Secrets are blanked out, and names replaced. Nothing is sent. Works beside a running daemon.

    Exit status 0: done, also where the configuration is wrong. 74: the file cannot be written.
    """
    from ddslogd.operate.bundle import gathered, packed  # noqa: PLC0415  # heavy
    from ddslogd.pacing import SystemClock  # noqa: PLC0415  # heavy

    redactor, clock = _events("critical", "auto"), SystemClock()
    members = _until_signal(gathered(path.absolute(), clock=clock, redactor=redactor, with_names=with_names))
    if members is None:
        _end("ddslogd: stopped before the end; nothing was written", EXIT_FAILED)
    name = f"ddslogd-support-{clock.now():%Y%m%dT%H%M%SZ}"
    target = (target or Path(f"{name}.tar.gz")).absolute()
    packed(members, target, name=name, clock=clock)
    click.echo(f"{target}: {len(members)} files, which only you can read")
    click.echo(f"Look at them before you send it: tar -xzOf {target} | less")


@commands.command()
def schema() -> None:
    """Print the configuration's JSON schema.

    An editor completes and checks by it.
    """
    from ddslogd import config  # noqa: PLC0415  # heavy

    click.echo(json.dumps(config.schema(), indent=2))


@commands.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: any free one.")
@click.option(
    "--speed", type=click.FloatRange(0.001, 10_000), default=60.0, show_default=True, help="1: the cloud's own pace."
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("ddslogd-sandbox"),
    show_default=True,
    help="Where the printed configuration stores logs.",
)
def sandbox(port: int, speed: float, directory: Path) -> None:
    """Run a made-up cloud until Ctrl-C.

    It listens on loopback, and prints a configuration that fits it.
    """
    from ddslogd.demo import serve_sandbox  # noqa: PLC0415  # heavy

    _until_signal(serve_sandbox(port=port, speed=speed, directory=directory.absolute()))


@commands.command()
@click.option("--keep", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep what is stored here; else it is removed in the end.",
)
@log_options("warning")
def demo(*, keep: bool, directory: Path | None, log_level: str, log_format: str) -> None:
    """Collect from a made-up cloud, to see how it goes.

    It takes some ten seconds, and nothing leaves this machine. Exit status 0: each file on disk is, byte for byte, what
    the cloud exported.
    """
    from ddslogd.demo import run_demo  # noqa: PLC0415  # heavy

    redactor = _events(log_level, log_format)
    whole = _until_signal(run_demo(keep=keep, directory=directory, redact=redactor.add, clean=redactor.clean))
    sys.exit(0 if whole in {True, None} else EXIT_FAILED)


def main() -> None:
    """Run a command; turn what is foreseen into a message and an exit status."""
    try:
        commands()
    except ConfigError as exc:
        _end(str(exc), EXIT_CONFIG)
    except Locked as exc:
        _end(f"ddslogd: {exc}", EXIT_LOCKED)
    except NotListening as exc:
        _end(f"ddslogd: {exc}", EXIT_FAILED)
    except StorageError as exc:
        _end(f"ddslogd: {exc}", EXIT_DISK)


def _end(message: str, status: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(status)


def _events(level: str, form: str) -> Redactor:
    from ddslogd.operate import log  # noqa: PLC0415  # heavy

    redactor = log.Redactor()
    log.configure(redactor, level=level, form=form)

    def say(kind: type[BaseException], exc: BaseException, traceback: TracebackType | None) -> None:
        click.echo(redactor.clean("".join(format_exception(kind, exc, traceback))), err=True, nl=False)

    sys.excepthook = say  # what nobody foresaw is told without its secrets, too
    return redactor


def _shipper(text: str) -> tuple[Shipper | None, Path]:
    """Read KIND:FILE, or FILE alone."""
    from ddslogd.storage.shippers import Shipper  # noqa: PLC0415  # heavy

    kind, colon, file = text.partition(":")
    if colon and kind in set(Shipper):
        return Shipper(kind), Path(file)
    return None, Path(text)


def _moment(text: str) -> datetime:
    """Read a time, or how long ago it was."""
    from ddslogd.values import duration_or_none  # noqa: PLC0415  # heavy

    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.astimezone()
    age = duration_or_none(text)
    with suppress(OverflowError):
        if age is not None:
            return datetime.now(UTC) - age
    said = f"{text!r} is neither a time like 2026-11-24T08:00Z nor an age like 2h"
    raise click.BadParameter(said, param_hint="--since")


def _summary(settings: Settings) -> str:
    named = len(settings.fleet())
    discover = len(settings.instances) - named
    counts = [
        f"{named} instance{'' if named == 1 else 's'}" if named else "",
        f"{discover} entr{'y that discovers' if discover == 1 else 'ies that discover'}" if discover else "",
    ]
    return f"{' and '.join(filter(None, counts))} in {', '.join(sorted(settings.clouds))}"


def _calls(settings: Settings, cloud: str) -> str:
    """Say how many calls a minute the schedules of a cloud need, and how many there are."""
    from ddslogd.config import CALLS_PER_CYCLE, tenths  # noqa: PLC0415  # heavy
    from ddslogd.pacing import bucket  # noqa: PLC0415  # heavy

    budget = settings.clouds[cloud].calls_per_minute
    number = sum(one.cloud == cloud for one in settings.fleet())
    discover = len(settings.discover_entries(cloud))
    beside = f"; what {_counted(discover, 'entry discovers', 'entries discover')} comes on top" if discover else ""
    return (
        f"{cloud}: {_counted(number, 'instance needs', 'instances need')} {tenths(settings.calls_a_minute(cloud))}"
        f" calls a minute of {budget} ({bucket(budget)[1]:g} in the long run), at {float(CALLS_PER_CYCLE):g} calls for"
        f" each export{beside}"
    )


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _print_warnings(loaded: Loaded, path: Path) -> None:
    for warning in loaded.warnings:
        click.echo(warning.render(path), err=True)


def _chosen(fleet: tuple[Instance, ...], names: tuple[str, ...], *, whole: bool) -> tuple[Instance, ...]:
    """Give the instances that are named, or all; where the fleet is not whole, a name may be one of the rest."""
    unknown = [name for name in names if not any(name in {one.name, one.id} for one in fleet)]
    if unknown and whole:
        known = ", ".join(sorted(one.name for one in fleet)[:20])
        raise click.BadParameter(f"not in the configuration: {', '.join(unknown)}; it has {known}")
    return tuple(one for one in fleet if not names or one.name in names or one.id in names)


def _until_signal(work: Coroutine[Any, Any, T], *, stopping: Callable[[], None] = lambda: None) -> T | None:
    """Run to the end, or until SIGTERM or SIGINT cancels it; then give None. A second signal changes nothing.

    Args:
        work: What to run.
        stopping: Called first when such a signal comes.
    """
    told = False

    async def stoppable() -> T | None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def stop() -> None:
            nonlocal told
            if task is not None and not told:  # else it is closing what is open: that is to end
                told = True
                stopping()
                task.cancel()

        for number in STOPS:
            loop.add_signal_handler(number, stop)
        try:
            return await work
        except asyncio.CancelledError:
            return None

    try:
        with asyncio.Runner(loop_factory=_faster_loop()) as runner:
            return runner.run(stoppable())
    finally:
        for number in (*STOPS, signal.SIGHUP) if told else ():  # the loop is gone, and its handlers with it
            signal.signal(number, signal.SIG_IGN)


def _faster_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give uvloop's loop where the extra ``speed`` is installed."""
    try:
        import uvloop  # noqa: PLC0415  # optional
    except ImportError:
        return None
    return uvloop.new_event_loop
