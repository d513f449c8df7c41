"""The commands for when something is wrong: the checks, and what somebody who helps needs."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from ddslogd.cli.exit_status import EXIT_FAILED
from ddslogd.cli.log_setup import set_up_log
from ddslogd.cli.options import config_option, json_option
from ddslogd.cli.standard_streams import say
from ddslogd.cli.stop_signals import until_signal
from ddslogd.doctor.check_result import Level
from ddslogd.doctor.report import lines, report, table
from ddslogd.doctor.run_checks import Visit, examined
from ddslogd.doctor.support_bundle import gathered, packed
from ddslogd.scheduling.clock import SystemClock


@click.command()
@config_option
@click.option("--offline", is_flag=True, help="Call nobody.")
@json_option
def doctor(path: Path, *, offline: bool, as_json: bool) -> None:
    """Look at all that can be wrong, and say what to do.

    Configuration, secrets, network, certificates, clock, login, rights, disk and ledger. Nothing
    is changed, and no export is started; each login is tried once. Works next to a running daemon.

    Exit status 0: nothing fails (there may be warnings). 1: something does.
    """
    redactor, clock = set_up_log("critical", "auto"), SystemClock()
    visit = Visit(path=path.absolute(), offline=offline)
    examine = partial(examined, visit, clock=clock, redactor=redactor)
    findings = until_signal(examine, left="nothing was changed") or ()
    console = Console()
    if as_json:
        told = json.dumps(report(findings, clock.now()), indent=2)
    else:
        told = table(findings, width=console.width) if console.is_terminal else lines(findings)
    say(redactor.clean(told), is_drawn=not as_json and console.is_terminal)
    if any(finding.level is Level.FAIL for finding in findings):
        sys.exit(EXIT_FAILED)


@click.command("support-bundle")
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
    journal's last lines. Secrets are blanked out, and names replaced. Nothing is sent. Works next to a running daemon.

    Exit status 0: done, also where the configuration is wrong. 74: the file cannot be written.
    """
    redactor, clock = set_up_log("critical", "auto"), SystemClock()
    gather = partial(gathered, path.absolute(), clock=clock, redactor=redactor, with_names=with_names)
    members = until_signal(gather, left="nothing was written") or {}
    name = f"ddslogd-support-{clock.now():%Y%m%dT%H%M%SZ}"
    target = (target or Path(f"{name}.tar.gz")).absolute()
    packed(members, target, name=name, clock=clock)
    say(f"{target}: {len(members)} files, which only you can read")
    say(f"Look at them before you send it: tar -xzOf {target} | less")
