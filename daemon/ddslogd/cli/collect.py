"""The commands that collect: on schedule, or once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import click
from rich.console import Console

from ddslogd.cli.exit_status import EXIT_FAILED
from ddslogd.cli.log_setup import set_up_log
from ddslogd.cli.options import chosen_instances, config_option, instances_argument, log_options, print_warnings
from ddslogd.cli.process_owner import go_on_as_owner
from ddslogd.cli.progress import watching
from ddslogd.cli.standard_streams import complain, lose_output
from ddslogd.cli.stop_signals import until_signal
from ddslogd.config import loader
from ddslogd.huaweicloud.services.dds import DDS
from ddslogd.model.cycle import Silent
from ddslogd.model.errors import UnknownNode
from ddslogd.model.export import Selection
from ddslogd.monitoring import control_socket
from ddslogd.scheduling.clock import SystemClock
from ddslogd.scheduling.scheduler import Chore
from ddslogd.service.factory import opened
from ddslogd.service.reload import Reloads, tell_warnings, tried
from ddslogd.service.systemd import Notifier
from ddslogd.web import page
from ddslogd.web.connections import raise_descriptor_limit
from ddslogd.web.server import listening
from ddslogd.web.socket_activation import inherited

if TYPE_CHECKING:
    from pathlib import Path

    from ddslogd.cli.progress import Lines
    from ddslogd.model.cycle import CycleReport
    from ddslogd.service.service import Service

LOOK_EVERY_S = 0.5


@click.command()
@config_option
@log_options("info")
def run(path: Path, log_level: str, log_format: str) -> None:
    """Collect on schedule until SIGTERM or SIGINT; reload the configuration on SIGHUP.

    Exit status 0: it was told to stop. 74: the disk refuses. 75: another ddslogd works on the directory. 78: the
    configuration is wrong.
    """
    redactor = set_up_log(log_level, log_format)
    notifier = Notifier.of(os.environ, pid=os.getpid(), clean=redactor.clean)
    given = inherited(os.environ, pid=os.getpid())
    raise_descriptor_limit()
    loaded = tried(path)
    tell_warnings(loaded)
    go_on_as_owner(loaded.settings)

    async def serve() -> None:
        async with (
            opened(loaded.settings, clock=SystemClock(), progress=Silent(), redactor=redactor) as service,
            listening(
                loaded.settings.web,
                service.observer,
                clean=redactor.clean,
                page=page,
                socket_at=control_socket.offered_at(loaded.settings, os.environ),
                listings=service.listings,
                given=given,
            ) as listener,
        ):
            reloads = Reloads(path, apply=service.reload, refused=service.reload_refused, notifier=notifier)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloads.ask)
            notifier.ready()
            reload = Chore(name="reload", every=timedelta(0), run=reloads.run)
            await service.serve(notifier=notifier, chores=[reload], unreachable=lambda: listener.trouble)

    until_signal(serve, stopping=notifier.stopping)


@click.command()
@instances_argument
@config_option
@click.option(
    "--node", "nodes", metavar="ID", multiple=True, help="Only this node of INSTANCE (or its name). Can be repeated."
)
@click.option(
    "--file",
    "files",
    metavar="NAME",
    multiple=True,
    help="Only this file of INSTANCE, as `instances --files` lists it. Can be repeated.",
)
@log_options("error")
def once(
    names: tuple[str, ...],
    path: Path,
    log_level: str,
    log_format: str,
    *,
    nodes: tuple[str, ...],
    files: tuple[str, ...],
) -> None:
    """Run one cycle now, of all or of some.

    INSTANCE is a name or an id of the configuration; where none is given, all have their cycle.

    With --node or --file just these are asked for, of one INSTANCE, and stored as ever. That is no run of the schedule,
    and says nothing of how fresh or complete the instance's logs are.

    Exit status 0: every file is on disk. 1: something failed, or a list to discover from could not be had. 74: the
    disk refuses. 75: another ddslogd works on the directory. 78: the configuration is wrong.
    """
    selected = _selection(names, nodes, files)
    redactor = set_up_log(log_level, log_format)
    loaded = loader.load(path)
    print_warnings(loaded, path)
    go_on_as_owner(loaded.settings)

    unlisted: dict[str, str] = {}
    lost: list[OSError] = []

    async def cycles() -> list[CycleReport]:
        with watching(Console()) as progress:
            async with opened(loaded.settings, clock=SystemClock(), progress=progress, redactor=redactor) as service:
                waits = asyncio.create_task(_report_waits(service, progress), name="waits")
                try:
                    fleet = await service.fleet()
                    unlisted.update(service.unlisted())
                    chosen = chosen_instances(fleet, names, whole=not unlisted)
                    if selected is None:
                        reports = await service.once(chosen)
                    else:
                        reports = [await service.select(instance, selected) for instance in chosen]
                finally:
                    waits.cancel()
            lost.extend(filter(None, [progress.lost]))
            return reports

    try:
        reports = until_signal(cycles, left="what is on disk stays, and the next cycle goes on with the rest")
    except UnknownNode as exc:
        raise click.BadParameter(str(exc), param_hint="--node") from exc
    if lost:
        lose_output(lost[0])
    for cloud, reason in unlisted.items():
        complain(redactor.clean(f"ddslogd: the instances of {cloud} could not be discovered: {reason}"))
    if (
        reports is None
        or lost
        or unlisted
        or any(report.error or report.failures or report.outcome == "stalled" for report in reports)
    ):
        sys.exit(EXIT_FAILED)


def _selection(names: tuple[str, ...], nodes: tuple[str, ...], files: tuple[str, ...]) -> Selection | None:
    """Return what is selected of the only instance that is named; None where nothing is."""
    if not nodes and not files:
        return None
    if len(names) != 1:
        raise click.UsageError("--node and --file are of one INSTANCE: name it")
    if len(files) > DDS.most_file_names:
        raise click.BadParameter(f"one call asks for {DDS.most_file_names} files at the most", param_hint="--file")
    return Selection(node_ids=nodes, file_names=files)


async def _report_waits(service: Service, progress: Lines) -> None:
    """Print what each cloud is waited for, once for each reason, until cancelled: a call may take most of a minute."""
    said: set[tuple[str, str]] = set()
    while True:
        for wait in service.retries().items() - said:
            progress.waiting(*wait)
            said.add(wait)
        await asyncio.sleep(LOOK_EVERY_S)
