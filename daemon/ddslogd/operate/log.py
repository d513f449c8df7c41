"""Events on standard error: structlog through stdlib logging, one line each, nothing secret in it.

On a terminal a line is for eyes, elsewhere it is JSON. Where standard error is the journal's socket, each line begins
with its priority, as sd-daemon(3) has it. Redaction works on the finished line, so tracebacks, debug output and what
libraries log pass it as well.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping

LEVELS = ("debug", "info", "warning", "error")
# Three ways a secret can look, beside those that are known by their text: a URL's query, one of its parameters alone, a
# credential's header.
_LOOKS_SECRET = (
    re.compile(r"""(?P<kept>(?:https?://|/)[^\s"'<>?\\]*\?)[^\s"'<>]*=[^\s"'<>]*"""),
    re.compile(
        r"""(?P<kept>(?:signature|x-amz-credential|accesskeyid|security-token)(?:=|%3D))[^&\s"'<>]+""", re.IGNORECASE
    ),
    re.compile(
        r"""(?P<kept>(?:x-auth-token|x-subject-token|authorization)['"]?\s*[:,=]\s*b?['"]?)[^'",\s)}\]]+""",
        re.IGNORECASE,
    ),
)
_SHORTEST = 4  # characters; what is shorter would blank out half of every line
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}


class Redactor:
    """Blanks out secrets: those it was told of, and whatever looks like a signed link or a credential's header."""

    def __init__(self, remembered: int = 200) -> None:
        self._secrets: deque[str] = deque(maxlen=remembered)

    def add(self, secret: str) -> None:
        """Blank out this text from now on, in each spelling a line may have it in."""
        if len(secret) < _SHORTEST or secret in self._secrets:
            return
        for spelling in dict.fromkeys((secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])):
            self._secrets.append(spelling)

    def clean(self, line: str) -> str:
        """Give the line without secrets."""
        for secret in self._secrets:
            if secret in line:
                line = line.replace(secret, "[redacted]")
        for pattern in _LOOKS_SECRET:
            line = pattern.sub(r"\g<kept>[redacted]", line)
        return line


def configure(redactor: Redactor, *, level: str = "info", form: str = "auto", stream: TextIO | None = None) -> None:
    """Send all events of the process, the libraries' too, to the stream.

    Args:
        redactor: Has the last word on each line.
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
            redactor,
            journal=_is_journal(stream or sys.stderr, os.environ),
            foreign_pre_chain=[*shared, _without_arguments],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(console=console),
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
    def __init__(self, redactor: Redactor, *, journal: bool, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._redactor = redactor
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        line = self._redactor.clean(super().format(record))
        if not self._journal:
            return line
        prefix = f"<{_PRIORITIES.get(record.levelname.lower(), 6)}>"
        return prefix + line.replace("\n", f"\n{prefix}")


def _rendering(*, console: bool) -> list[structlog.typing.Processor]:
    if console:
        return [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    # Without locals: a frame's variables hold tokens and links.
    tracebacks = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    return [tracebacks, structlog.processors.EventRenamer("event"), structlog.processors.JSONRenderer(default=str)]


def _without_arguments(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Drop what structlog attaches to a library's record beside its message."""
    event.pop("positional_args", None)
    return event


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Tell whether the stream is the journal's socket: systemd.exec(5), ``$JOURNAL_STREAM``."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
