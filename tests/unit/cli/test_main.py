from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from ddslogd.cli.main import commands

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = commands.list_commands(click.Context(commands))


def loaded(name: str) -> click.Command:
    found = commands.get_command(click.Context(commands), name)
    assert found is not None
    return found


def lines_of_help() -> Iterator[str]:
    yield from CliRunner().invoke(commands, ["--help"], terminal_width=100).output.splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_the_table_has_each_command_with_its_own_summary(name: str) -> None:
    """In the help, and shortened where a shell completes it."""
    listed, command = commands.commands[name], loaded(name)

    assert (listed.name, [listed.get_short_help_str(limit) for limit in (45, 200)]) == (
        command.name,
        [command.get_short_help_str(limit) for limit in (45, 200)],
    )


def test_the_help_has_the_commands_by_what_they_are_for() -> None:
    headings = [line[:-1] for line in lines_of_help() if line.endswith(":") and not line.startswith(" ")]

    assert headings == ["Options", "Collect", "Look", "Set up", "Files", "Try", "Examples"]


def test_a_misspelt_command_is_an_error_that_says_which_is_meant() -> None:
    ended = CliRunner().invoke(commands, ["statsu"])

    assert (ended.exit_code, "Did you mean 'status'?" in ended.output) == (2, True)


def test_a_shell_completes_commands_and_then_their_options() -> None:
    def completed(words: str, number: int) -> list[str]:
        environ = {"_DDSLOGD_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        told = CliRunner().invoke(commands, [], prog_name="ddslogd", env=environ).output
        return [line.removeprefix("plain,") for line in told.splitlines()]

    assert completed("ddslogd s", 1) == ["sandbox", "schema", "status", "support-bundle"]
    assert completed("ddslogd --v", 1) == ["--version"]
    assert completed("ddslogd gaps --", 2) == ["--config", "--since", "--json", "--help"]
