"""Standard input, output and error of a command: open, whatever they were started with, and safe to write to.

A stream that was closed would be the first file or socket that is opened, and get what is printed. One that is full,
or whose encoding lacks a character, ends no command that has other work to do.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Literal, TextIO

from ddslogd.model.printable import printable_lines
from ddslogd.monitoring.journal_socket import is_journal, with_priority

EXIT_LOST = 1
_DESCRIPTORS = {0: os.O_RDONLY, 1: os.O_WRONLY, 2: os.O_WRONLY}


def open_missing_streams() -> None:
    """Open descriptors 0 to 2 on /dev/null where they are closed, and let streams replace what they cannot encode."""
    for descriptor, flags in _DESCRIPTORS.items():
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, flags)  # the lowest that is free: those below it are open by now
            os.set_inheritable(opened, True)  # noqa: FBT003  # positional only
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, *, is_drawn: bool = False) -> None:
    """Print a text that may hold names from a cloud on standard output; lines stay lines.

    Args:
        text: What is printed.
        is_drawn: It has colours, and what came from outside was made printable when they were put in.

    Raises:
        SystemExit: It cannot be printed. The work is done by then, and nobody has seen what came of it.
    """
    try:
        print(text if is_drawn else printable_lines(text), flush=True)  # noqa: T201  # what the command is for
    except OSError as exc:
        lose_output(exc)
        sys.exit(EXIT_LOST)


def lose_output(exc: OSError) -> None:
    """Report that standard output cannot be written, and leave it alone from now on."""
    if not isinstance(exc, BrokenPipeError):  # who has read enough knows
        complain(f"ddslogd: standard output cannot be written: {exc.strerror}")
    sys.stdout = _stream(os.open(os.devnull, os.O_WRONLY), "w")


def complain(text: str, *, level: str = "error") -> None:
    """Print a text for the operator on standard error, with its priority where that is the journal.

    Nothing is raised where it cannot be printed: the exit status says it too.
    """
    text = printable_lines(text)
    with suppress(OSError, ValueError):
        in_journal = is_journal(sys.stderr, os.environ)
        print(with_priority(text, level) if in_journal else text, file=sys.stderr, flush=True)  # noqa: T201  # as above


def _stream(descriptor: int, mode: Literal["r", "w"]) -> TextIO:
    return open(  # a descriptor, which stays open as long as the process lives
        descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False
    )
