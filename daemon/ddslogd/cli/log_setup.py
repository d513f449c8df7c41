"""Where a command's events go, and how they are printed."""

from __future__ import annotations

import sys
from traceback import format_exception
from typing import TYPE_CHECKING

from ddslogd.cli.standard_streams import complain
from ddslogd.model.redactor import Redactor
from ddslogd.monitoring import logs

if TYPE_CHECKING:
    from types import TracebackType


def set_up_log(level: str, form: str) -> Redactor:
    """Let events be printed, and what nobody foresaw; return what keeps secrets out of them."""
    redactor = Redactor()
    logs.configure(redactor, level=level, form=form)

    def tell(kind: type[BaseException], exc: BaseException, traceback: TracebackType | None) -> None:
        complain(redactor.clean("".join(format_exception(kind, exc, traceback)).rstrip("\n")))

    sys.excepthook = tell  # what nobody foresaw is told without its secrets
    return redactor
