"""The patterns of paths that shippers take, each in its program's own dialect: pure.

program      written in                       *  matches a leading dot   **   {a,b}
Filebeat     Go's path/filepath               yes                        yes  no
Vector       Rust's crate glob 0.3            yes                        yes  no
Fluent Bit   glob(3)                          no                         no   no
Promtail     Go's bmatcuk/doublestar          yes                        yes  yes
rsyslog      glob(3), with GLOB_BRACE         no                         no   yes
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"\*\*/?|\*|\?|\[!?\^?\]?[^\]]*\]|\\.|[{},]|.", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a program reads patterns.

    Attributes:
        dotfiles: ``*`` and ``?`` match a dot at the beginning of a name.
        deep: ``**`` stands for any number of directories.
        braces: ``{a,b}`` stands for one of them.
        crossing: ``*`` matches a slash too.
    """

    dotfiles: bool
    deep: bool = False
    braces: bool = False
    crossing: bool = False


GO = Dialect(dotfiles=True, deep=True)
RUST = Dialect(dotfiles=True, deep=True)
RUST_EXCLUDE = Dialect(dotfiles=True, deep=True, crossing=True)  # Pattern::matches with its default options
DOUBLESTAR = Dialect(dotfiles=True, deep=True, braces=True)
POSIX = Dialect(dotfiles=False)
POSIX_BRACES = Dialect(dotfiles=False, braces=True)


def compiled(pattern: str, dialect: Dialect) -> re.Pattern[str]:
    """Turn a pattern into one for whole paths; what makes no sense in it stands for itself."""
    regex, depth, begins = "", 0, True  # begins: a name does, so that a dot counts
    for sign in _TOKEN.findall(pattern):
        shut = "" if dialect.dotfiles or not begins else r"(?!\.)"
        if dialect.braces and (sign == "{" or (depth and sign in "},")):
            depth += {"{": 1, "}": -1, ",": 0}[sign]
            regex += {"{": "(?:", "}": ")", ",": "|"}[sign]
            continue
        if sign.startswith("**") and dialect.deep:
            regex += "(?:.*/)?" if sign.endswith("/") else ".*"
            begins = sign.endswith("/")
            continue
        regex += (shut if sign[0] in "*?[" else "") + _one(sign, dialect)
        begins = sign.endswith("/")
    return re.compile(regex + ")" * depth, re.DOTALL)


def _one(sign: str, dialect: Dialect) -> str:
    any_one = "." if dialect.crossing else "[^/]"
    match sign[0], len(sign):
        case "*", _:
            return f"{any_one}*" + ("/" if sign.endswith("/") else "")
        case "?", _:
            return any_one
        case "[", size if size > 2:  # noqa: PLR2004  # something between its brackets
            inner = sign[1:-1]
            negated = inner[0] in "!^"
            chars = re.sub(r"([\\\[&~|])", r"\\\1", inner[1:] if negated else inner)
            return f"(?!/)[{'^' if negated else ''}{chars}]" if chars else re.escape(sign)
        case "\\", size if size > 1:
            return re.escape(sign[1])
        case _:
            return re.escape(sign)
