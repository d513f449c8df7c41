"""Events on standard error: structlog through stdlib logging, one line each, nothing secret in it.

On a terminal a line is for eyes, elsewhere it is JSON. Where standard error is the journal's socket, each line begins
with its priority, as sd-daemon(3) has it. A line begins with its time, level and event; fields that are 0, empty or
null are left out, and long ones are cut. Redaction works on the values, before they are rendered: no secret that a
cloud has chosen can spoil a line. Tracebacks, debug output and what libraries log pass it as well.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from ddslogd.model.line_quota import within_quota
from ddslogd.model.printable import printable_lines
from ddslogd.monitoring.journal_socket import is_journal, with_priority

if TYPE_CHECKING:
    from ddslogd.model.redactor import Redactor

LEVELS = ("debug", "info", "warning", "error")
LONGEST_TEXT = 4_000  # characters of one field
LONGEST_TRACEBACK = 16_000
MOST_ITEMS = 50  # of a list or an object in a field
_DEEPEST = 12  # a traceback's frames are some levels down
_SLACK = 4_000  # characters: a secret or a link that begins before the cut is seen whole, or at least its beginning
_FIRST = ("timestamp", "level", "event")
_TRACEBACKS = {"exception", "exc_info", "stack"}


def configure(redactor: Redactor, *, level: str = "info", form: str = "auto", stream: TextIO | None = None) -> None:
    """Send all events of the process, the libraries' too, to the stream.

    Args:
        redactor: Cleans each value of each event.
        level: One of ``LEVELS``.
        form: ``console``, ``json``, or ``auto``: console on a terminal, else JSON.
        stream: Standard error where none is given.
    """
    console = form == "console" or (form == "auto" and (stream or sys.stderr).isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(stream) if stream else _StandardError()
    handler.setFormatter(
        _Formatter(
            journal=is_journal(stream or sys.stderr, os.environ),
            foreign_pre_chain=[*shared, _without_arguments],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _tracebacks(console=console),
                _Tidy(redactor, console=console),
                _renderer(console=console),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            within_quota,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is at that moment: a progress bar puts itself in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # the base class has an attribute
        return sys.stderr


class _Formatter(structlog.stdlib.ProcessorFormatter):
    def __init__(self, *, journal: bool, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return with_priority(line, record.levelname.lower()) if self._journal else line


class _Tidy:
    """Makes of an event what may be written: in order, without secrets, no longer than a line may be."""

    def __init__(self, redactor: Redactor, *, console: bool) -> None:
        self._redactor = redactor
        self._console = console

    def __call__(self, _: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        names = [*(name for name in _FIRST if name in event), *(name for name in event if name not in _FIRST)]
        tidy = {name: event[name] for name in _FIRST[:2] if name in event}
        for name in names[len(tidy) :]:
            value = self._value(event[name], longest=LONGEST_TRACEBACK if name in _TRACEBACKS else LONGEST_TEXT)
            if name == "event" or value is False or value not in _NOTHING:
                tidy[self._redactor.clean(name)] = value
        return tidy

    def _value(self, value: Any, *, longest: int, depth: int = 0) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str) or depth == _DEEPEST:
            return self._text(str(value), longest)
        if isinstance(value, dict):
            few = list(value.items())[:MOST_ITEMS]
            return {
                self._text(str(key), longest): self._value(one, longest=longest, depth=depth + 1) for key, one in few
            }
        if isinstance(value, list | tuple | set | frozenset):
            few = [self._value(one, longest=longest, depth=depth + 1) for one in list(value)[:MOST_ITEMS]]
            return few if len(value) <= MOST_ITEMS else [*few, f"{len(value) - MOST_ITEMS:,} more"]
        return self._text(str(value), longest)

    def _text(self, text: str, longest: int) -> str:
        """Return a text without its secrets, and then without what is too much of it: a cut secret is still one."""
        clean = self._redactor.clean(text[: longest + _SLACK])
        if len(text) > longest + _SLACK or len(clean) > longest:
            clean = f"{clean[:longest]} … ({len(text):,} characters)"
        return printable_lines(clean) if self._console else clean  # JSON has its own spelling of what is not seen


_NOTHING: tuple[Any, ...] = (None, 0, "", [], {})


def _tracebacks(*, console: bool) -> structlog.typing.Processor:
    """Return what makes text or objects of an exception; without locals: a frame's variables hold tokens and links."""
    if console:
        return structlog.processors.format_exc_info
    return structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _renderer(*, console: bool) -> structlog.typing.Processor:
    if console:
        return structlog.dev.ConsoleRenderer(colors=False, sort_keys=False)
    return structlog.processors.JSONRenderer(default=str)


def _without_arguments(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Drop what structlog attaches to a library's record next to its message."""
    event.pop("positional_args", None)
    return event
