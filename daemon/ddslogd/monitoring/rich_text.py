"""Text from outside in what rich draws."""

from __future__ import annotations

from rich.markup import escape

from ddslogd.model.printable import printable


def shown(text: str) -> str:
    """Return a text as rich may draw it: on one line, each character seen, and none of it markup."""
    return escape(printable(text))
