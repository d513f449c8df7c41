"""The commands an operator types, each loaded when it is called."""

# What is heavy (aiohttp, pydantic, rich) is imported by the command's own file, so that --help is quick.

from __future__ import annotations

import importlib
import signal
import sys
from io import StringIO
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from ddslogd import __version__
from ddslogd.cli.exit_status import EXIT_CONFIG, EXIT_DISK, EXIT_INTERRUPTED, EXIT_LOCKED, end
from ddslogd.cli.options import config_file
from ddslogd.cli.private_memory import keep_memory_private
from ddslogd.cli.standard_streams import open_missing_streams
from ddslogd.model.errors import ConfigError, Locked, StorageError

if TYPE_CHECKING:
    from pathlib import Path

# By the headings of the help: each command's place, and the first sentence of its own help.
_TABLE = {
    "Collect": {
        "run": (
            "ddslogd.cli.collect:run",
            "Collect on schedule until SIGTERM or SIGINT; reload the configuration on SIGHUP.",
        ),
        "once": ("ddslogd.cli.collect:once", "Run one cycle now, of all or of some."),
    },
    "Look": {
        "status": (
            "ddslogd.cli.status:status",
            "Show how fresh each instance's logs are, and who has to act where they are not.",
        ),
        "gaps": ("ddslogd.cli.status:gaps", "List the lines that are missing from streams."),
        "instances": ("ddslogd.cli.instances:instances", "List what the clouds have, and what is collected."),
    },
    "Set up": {
        "check": (
            "ddslogd.cli.configuration:check",
            "Report all that is wrong with the configuration, and how many calls its schedules need.",
        ),
        "doctor": ("ddslogd.cli.diagnose:doctor", "Look at all that can be wrong, and say what to do."),
        "schema": ("ddslogd.cli.configuration:schema", "Print the configuration's JSON schema."),
        "support-bundle": ("ddslogd.cli.diagnose:support_bundle", "Pack what somebody who helps needs to see."),
    },
    "Files": {
        "prune": ("ddslogd.cli.storage:prune", "Remove what storage.keep lets go, as the daemon does every hour."),
        "rebuild": (
            "ddslogd.cli.storage:rebuild",
            "Make the streams of an instance again from its snapshots on disk.",
        ),
    },
    "Try": {
        "demo": ("ddslogd.cli.sandbox:demo", "Collect from a sandbox cloud, to see how it goes."),
        "sandbox": ("ddslogd.cli.sandbox:sandbox", "Run a sandbox of the cloud until Ctrl-C."),
    },
}
_PLACES = {name: place for listed in _TABLE.values() for name, (place, _) in listed.items()}
_EXAMPLES = """\
Examples:
  ddslogd check -c ddslogd.yaml      what is wrong with a configuration
  ddslogd once orders                one cycle of one instance, now
  ddslogd status                     how fresh the logs are, and who has to act
  ddslogd gaps --since 7d            which lines are missing
  ddslogd demo                       see it work, without a cloud"""


class LazyCommands(click.Group):
    """The commands of the table: listed and completed as it has them, loaded only to be called.

    Attributes:
        commands: For each name a command that has its short help, and does nothing.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's
        """Return the command itself: this imports all that it needs."""
        if cmd_name not in _PLACES:
            return None
        module, _, attribute = _PLACES[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is to be called."""
        if args[0] == "run":
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it means a reload: to load takes a while
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's
        """Write the commands in groups, each with the whole of its first sentence."""
        for heading, names in _TABLE.items():
            with formatter.section(heading):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=200)) for name in names])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's
        """Write examples."""
        formatter.write(f"\n{_EXAMPLES}\n")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin so, and the options of all."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        found = [CompletionItem(name, help=self.commands[name].get_short_help_str()) for name in names]
        return found + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=LazyCommands,
    commands=[click.Command(name, help=summary) for listed in _TABLE.values() for name, (_, summary) in listed.items()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@config_file("given", help="The configuration file, for every command.")
@click.version_option(__version__, prog_name="ddslogd")
@click.pass_context
def commands(context: click.Context, given: Path | None) -> None:
    """Bring the error logs of Huawei Cloud DDS instances to local disk."""
    context.obj = given


def main() -> None:
    """Run a command; turn what is foreseen into a message and an exit status."""
    open_missing_streams()
    keep_memory_private()
    try:
        sys.exit(commands.main(standalone_mode=False) or 0)
    except click.ClickException as exc:
        told = StringIO()
        exc.show(file=told)
        end(told.getvalue().rstrip("\n"), exc.exit_code)
    except click.Abort:
        end("ddslogd: stopped before the end", EXIT_INTERRUPTED)
    except ConfigError as exc:
        end(str(exc), EXIT_CONFIG)
    except Locked as exc:
        end(f"ddslogd: {exc}", EXIT_LOCKED)
    except StorageError as exc:
        end(f"ddslogd: {exc}", EXIT_DISK)
