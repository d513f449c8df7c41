"""The commands on the files: remove what is old, and make streams again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.console import Console

from ddslogd.cli.exit_status import EXIT_FAILED, end
from ddslogd.cli.log_setup import set_up_log
from ddslogd.cli.options import config_option, log_options
from ddslogd.cli.process_owner import go_on_as_owner
from ddslogd.cli.standard_streams import complain, say
from ddslogd.cli.stop_signals import until_signal
from ddslogd.cli.tables import removal_table, table_width
from ddslogd.config import loader
from ddslogd.model.errors import StorageError
from ddslogd.scheduling.clock import SystemClock
from ddslogd.service.factory import archive_of, rebuilt
from ddslogd.storage.retention_plan import planned
from ddslogd.storage.shippers.read_positions import NothingRead, read_registry

if TYPE_CHECKING:
    from pathlib import Path

    from ddslogd.model.stream import Advance
    from ddslogd.service.factory import Rebuilt
    from ddslogd.storage.retention_plan import Removal


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing. Works beside a running daemon.")
@log_options("warning")
def prune(path: Path, log_level: str, log_format: str, *, dry_run: bool) -> None:
    """Remove what storage.keep lets go, as the daemon does every hour.

    Exit status 0: done. 1: stopped by a signal. 74: the disk refuses. 75: another ddslogd works on the directory. 78:
    the configuration is wrong.
    """
    set_up_log(log_level, log_format)
    settings = loader.load(path).settings

    async def remove() -> tuple[Removal, ...]:
        async with archive_of(settings, clock=SystemClock()) as archive:
            return await archive.retention.run()

    if dry_run:
        try:
            registry = read_registry(settings.storage)
        except StorageError as exc:  # as the daemon does: nothing counts as read
            complain(f"ddslogd: {exc}", level="warning")
            registry = NothingRead()
        removals = planned(settings.storage, streamed=settings.stream.enabled, registry=registry, now=datetime.now(UTC))
    else:
        go_on_as_owner(settings)
        removals = until_signal(remove, left="what was removed until then is gone") or ()
    if removals:
        say(removal_table(removals, width=table_width(Console())))
    size = sum(removal.file.size for removal in removals)
    say(f"{len(removals)} file{'' if len(removals) == 1 else 's'}, {size} bytes {'would go' if dry_run else 'removed'}")


@click.command()
@click.argument("name", metavar="INSTANCE")
@click.option(
    "--shorter",
    is_flag=True,
    help="Do it also where new streams begin later than the old ones: older lines are in the moved files only then.",
)
@config_option
@log_options("warning")
def rebuild(name: str, path: Path, log_level: str, log_format: str, *, shorter: bool) -> None:
    """Make the streams of an instance again from its snapshots on disk.

    The files of the old ones are moved to a hidden directory next to them. A shipper takes the new ones for new files,
    and ships their lines again, under other ids. Snapshots that do not reach back to a stream's first line cannot make
    all of it again, as with storage.snapshots: latest: then nothing is done, unless --shorter says so. Stop the daemon
    first.

    Exit status 0: done. 1: there are no snapshots of this instance, or not all that would be needed, or streams are not
    enabled. 74: the disk refuses. 75: another ddslogd works on the directory. 78: the configuration is wrong.
    """
    set_up_log(log_level, log_format)
    settings = loader.load(path).settings
    if not settings.stream.enabled:
        end("ddslogd: stream.enabled is false: there is no stream to rebuild", EXIT_FAILED)
    go_on_as_owner(settings)
    taken: list[Advance] = []

    async def work() -> tuple[Rebuilt | None]:
        return (await rebuilt(settings, name, shorter=shorter, clock=SystemClock(), note=taken.append),)

    done = (until_signal(work, left="what is left to do, the daemon does when it starts") or (None,))[0]
    if done is None:
        end(f"ddslogd: there are no snapshots of an instance {name!r} on disk", EXIT_FAILED)
    if done.short:
        text = "ddslogd: nothing was done: the snapshots do not reach back to the first line of"
        end(f"{text} {', '.join(done.short)}; --shorter begins these with what there is", EXIT_FAILED)
    size, found = sum(advance.new for advance in taken), sum(advance.gap is not None for advance in taken)
    say(f"{name}: {len(taken)} snapshots, {size} bytes in streams, {found} gap{'' if found == 1 else 's'}")
    for directory in done.aside:
        say(f"the old files are in {directory}: remove it when nobody needs them")
