"""The commands that need no cloud: a sandbox of it, and a demonstration with one."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from ddslogd.cli.demo import run_demo, serve_sandbox
from ddslogd.cli.exit_status import EXIT_FAILED
from ddslogd.cli.log_setup import set_up_log
from ddslogd.cli.options import log_options
from ddslogd.cli.standard_streams import say
from ddslogd.cli.stop_signals import until_signal
from ddslogd.sandbox import fault_forms, read_faults


@click.command()
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
@click.option(
    "--config-out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the configuration to this file in place of printing it, once the sandbox answers.",
)
@click.option(
    "--fault",
    "faults",
    metavar="NAME[=VALUE]",
    multiple=True,
    help="Let the sandbox do this wrong, as no_length or api_errors=500,503. Can be repeated; --fault help lists them.",
)
def sandbox(port: int, speed: float, directory: Path, config_out: Path | None, faults: tuple[str, ...]) -> None:
    """Run a sandbox of the cloud until Ctrl-C.

    It listens on loopback, and prints a configuration that fits it. With --fault it goes wrong, to rehearse by.
    """
    if "help" in faults:
        say("\n".join(f"{name}={form}" if form else name for name, form in fault_forms().items()))
        return
    try:
        chosen = read_faults(faults)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--fault") from exc
    serve = partial(serve_sandbox, port=port, speed=speed, directory=directory.absolute(), faults=chosen)
    until_signal(partial(serve, config_out=config_out and config_out.absolute()))


@click.command()
@click.option("--keep", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep what is stored here; else it is removed in the end.",
)
@log_options("warning")
def demo(*, keep: bool, directory: Path | None, log_level: str, log_format: str) -> None:
    """Collect from a sandbox cloud, to see how it goes.

    It takes some ten seconds, and nothing leaves this machine. Exit status 0: each file on disk is, byte for byte, what
    the cloud exported.
    """
    redactor, directory = set_up_log(log_level, log_format), directory and directory.absolute()
    whole = until_signal(partial(run_demo, keep=keep, directory=directory, redactor=redactor, clean=redactor.clean))
    sys.exit(0 if whole in {True, None} else EXIT_FAILED)
