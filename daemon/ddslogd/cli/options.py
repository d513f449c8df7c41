"""Options and arguments that several commands take, and what is said of their values.

The help of all commands imports this: nothing heavy belongs here.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddslogd.cli.standard_streams import complain

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddslogd.config.loader import Loaded
    from ddslogd.model.instance import Instance

DEFAULT_CONFIG = "/etc/ddslogd/ddslogd.yaml"

config_file = partial(click.option, "-c", "--config", type=click.Path(path_type=Path, dir_okay=False))


def _given_before(context: click.Context, parameter: click.Parameter, path: Path) -> Path:
    """Return the path that stands before the command where none stands behind it."""
    source = context.get_parameter_source(parameter.name or "")
    behind = source is not None and source is click.core.ParameterSource.COMMANDLINE
    return path if behind or not isinstance(context.obj, Path) else context.obj


config_option = config_file(
    "path",
    envvar="DDSLOGD_CONFIG",
    default=DEFAULT_CONFIG,
    show_default=True,
    callback=_given_before,
    help="The configuration file ($DDSLOGD_CONFIG); also before the command.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
instances_argument = click.argument("names", metavar="[INSTANCE]...", nargs=-1)


def log_options(default_level: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds the options on how events are printed."""

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


def print_warnings(loaded: Loaded, path: Path) -> None:
    """Print what is doubtful in the configuration, each with its place."""
    for warning in loaded.warnings:
        complain(warning.render(path), level="warning")


def chosen_instances(fleet: tuple[Instance, ...], names: tuple[str, ...], *, whole: bool) -> tuple[Instance, ...]:
    """Return the instances that are named, or all; where the fleet is not whole, a name may be one of the rest."""
    unknown = [name for name in names if not any(name in {one.name, one.id} for one in fleet)]
    if unknown and whole:
        known = ", ".join(sorted(one.name for one in fleet)[:20])
        raise click.BadParameter(f"not in the configuration: {', '.join(unknown)}; it has {known}")
    return tuple(one for one in fleet if not names or one.name in names or one.id in names)
