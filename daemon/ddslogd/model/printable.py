"""Text from outside as it may be printed, on a terminal, on the page or in a report: pure.

A name from the cloud may hold what a terminal obeys (ESC, C1 controls), what ends a line, bidirectional overrides,
which would let it read as another name, or a surrogate, which no encoding takes.
"""

from __future__ import annotations

import unicodedata

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # Unicode's categories of what has no shape of its own


def printable(text: str) -> str:
    """Return one line of which each character is seen: what obeys, reorders, hides or breaks is its code point."""
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_lines(text: str) -> str:
    """Return a text of several lines, which stay lines, with each of them printable."""
    return "\n".join(map(printable, text.split("\n")))


def _shown(character: str) -> str:
    if character in "\n\t\r":
        return " "
    return f"⟨U+{ord(character):04X}⟩" if unicodedata.category(character) in _UNSEEN else character
