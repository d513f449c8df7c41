"""The commands that show how fresh the logs are, and what is missing from them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from ddslogd.cli.exit_status import EXIT_FAILED
from ddslogd.cli.options import config_option, instances_argument, json_option
from ddslogd.cli.standard_streams import say
from ddslogd.cli.tables import WIDTH, gap_table, status_text, table_width
from ddslogd.config import loader
from ddslogd.model.units import duration_or_none
from ddslogd.monitoring import status_client
from ddslogd.monitoring.status_reader import gap_objects


@click.command()
@config_option
@json_option
def status(path: Path, *, as_json: bool) -> None:
    """Show how fresh each instance's logs are, and who has to act where they are not.

    Asks the running daemon, by its unix socket; where none answers, the ledger says how it stood in the end.

    Exit status 0: no instance is stale. 1: one is. 74: the ledger cannot be read. 78: the configuration is wrong.
    """
    found = status_client.status(loader.load(path).settings, now=datetime.now(UTC), again=_with_sudo())
    if as_json:
        say(json.dumps(found, indent=2))
    else:
        console = Console()
        status_text(found, console if console.is_terminal else Console(width=WIDTH))
    if found["stale"]:
        sys.exit(EXIT_FAILED)


@click.command()
@instances_argument
@config_option
@click.option(
    "--since", metavar="WHEN", help="Only gaps since then: a time (2026-11-24, 2026-11-24T08:00Z) or an age (2h, 7d)."
)
@json_option
def gaps(names: tuple[str, ...], path: Path, since: str | None, *, as_json: bool) -> None:
    """List the lines that are missing from streams.

    INSTANCE is a name; where none is given, all count. Asks the running daemon, or reads the ledger, as status does.

    Exit status 0: none is missing. 1: there is a gap. 74: the ledger cannot be read. 78: the configuration is wrong.
    """
    settings = loader.load(path).settings
    moment = None if since is None else _moment(since)
    found, unknown = status_client.gaps(settings, since=moment, instances=names, again=_with_sudo())
    if unknown:
        raise click.BadParameter(f"nothing was ever collected of {', '.join(unknown)}")
    if as_json:
        say(json.dumps(gap_objects(found), indent=2))
    else:
        say(gap_table(found, width=table_width(Console())) if found else "no gaps")
    if found:
        sys.exit(EXIT_FAILED)


def _with_sudo() -> str:
    """Return this command line as root would type it."""
    program = sys.argv[0]
    if Path(program).name == "__main__.py":
        words = [sys.executable, "-m", "ddslogd"]
    else:
        words = ["ddslogd" if Path("/usr/bin/ddslogd").exists() else str(Path(program).absolute())]
    config = os.environ.get("DDSLOGD_CONFIG")  # which sudo does not hand on
    preset = [f"DDSLOGD_CONFIG={config}"] if config else []
    return shlex.join(["sudo", *preset, *words, *sys.argv[1:]])


def _moment(text: str) -> datetime:
    """Read a time, or how long ago it was."""
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.astimezone()
    age = duration_or_none(text)
    with suppress(OverflowError):
        if age is not None:
            return datetime.now(UTC) - age
    said = f"{text!r} is neither a time like 2026-11-24T08:00Z nor an age like 2h"
    raise click.BadParameter(said, param_hint="--since")
