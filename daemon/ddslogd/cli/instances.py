"""The command that lists what the clouds have: instances, and the files of their exports."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING

import click
from rich.console import Console

from ddslogd.cli.exit_status import EXIT_FAILED, end
from ddslogd.cli.instance_listing import offered, seen
from ddslogd.cli.log_setup import set_up_log
from ddslogd.cli.options import chosen_instances, config_option, instances_argument, json_option, log_options
from ddslogd.cli.standard_streams import complain, say
from ddslogd.cli.stop_signals import until_signal
from ddslogd.cli.tables import file_objects, file_table, instance_objects, instance_table, table_width
from ddslogd.config import loader
from ddslogd.model.errors import CloudError
from ddslogd.scheduling.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

    from ddslogd.model.redactor import Redactor


@click.command()
@instances_argument
@config_option
@click.option(
    "--files", is_flag=True, help="List the files that the exports of INSTANCE (all where none is named) offer now."
)
@json_option
@log_options("error")
def instances(
    names: tuple[str, ...], path: Path, log_level: str, log_format: str, *, files: bool, as_json: bool
) -> None:
    """List what the clouds have, and what is collected.

    Each instance with the entry of the configuration that takes it, or why none does. The running daemon asks the
    clouds; where none answers, or the configuration names others, the clouds are asked with the secrets that this user
    may read.

    With --files the cloud is asked once for each log of each INSTANCE, a name or an id of the configuration. Where it
    serves no export, that begins one: its files are pending, and ready half a minute later.

    Exit status 0: every cloud answered. 1: one did not, or does not let us see its list. 78: the configuration is
    wrong.
    """
    if files:
        _list_files(names, path, set_up_log(log_level, log_format), as_json=as_json)
        return
    if names:
        raise click.UsageError("INSTANCE is for --files")

    redactor = set_up_log(log_level, log_format)
    loaded = loader.load(path)
    try:
        see = partial(seen, loaded.settings, clock=SystemClock(), redactor=redactor)
        verdicts = until_signal(see, left="nothing was listed") or ()
    except CloudError as exc:
        end(redactor.clean(f"ddslogd: {exc}"), EXIT_FAILED)
    else:
        say(
            json.dumps(instance_objects(verdicts), indent=2)
            if as_json
            else instance_table(verdicts, width=table_width(Console()))
        )


def _list_files(names: tuple[str, ...], path: Path, redactor: Redactor, *, as_json: bool) -> None:
    settings, choose = loader.load(path).settings, partial(chosen_instances, names=names, whole=True)
    try:
        ask = partial(offered, settings, choose, clock=SystemClock(), redactor=redactor)
        found = until_signal(ask, left="nothing was listed") or ()
    except CloudError as exc:
        end(redactor.clean(f"ddslogd: {exc}"), EXIT_FAILED)
    say(json.dumps(file_objects(found), indent=2) if as_json else file_table(found, width=table_width(Console())))
    failed = [offer for offer in found if offer.error]
    for offer in failed:
        complain(redactor.clean(f"ddslogd: {offer.instance.name} ({offer.log} log): {offer.error}"))
    if failed:
        sys.exit(EXIT_FAILED)
