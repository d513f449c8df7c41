"""Other names in place of those that tell who somebody is: the same one for the same name, in one bundle.

The key is made for the bundle and kept nowhere, so that nobody finds a name by trying.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_BETWEEN: Final = re.compile(r"([\W_]+)")
_ADDRESS: Final = re.compile(r"(?<![\w.])(?!127\.)\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")
# What the vendor's support asks for looks alike, and tells nothing.
_ID: Final = re.compile(r"(?<!request id )(?<![0-9a-f])[0-9a-f]{32}(?:(?:in|no|gr)\d\d)?(?![0-9a-f])")
# Whatever is long and mixed like a token or a key, though nobody said that it is one.
_LONG: Final = re.compile(r"[A-Za-z0-9+=_-]{32,}")
_TOKEN: Final = re.compile(r"(?<![A-Za-z0-9])MII[A-Za-z0-9+/=_-]{20,}")  # how IAM's begin: a signed ASN.1 sequence
_MIXED: Final = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)", re.DOTALL)
_KEPT: Final = frozenset({"ddslogd", "localhost", "root"})
_SHORTEST: Final = 2  # characters of a name; what is shorter tells nothing
_LONGEST: Final = 40  # pieces of a name between what is no letter and no digit


class Pseudonyms:
    """Knows names, and finds them in text."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._key = secrets.token_bytes(32)
        self._names: set[str] = set()
        self._firsts: dict[str, int] = {}
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        """Replace this name from now on."""
        pieces = _BETWEEN.split(name)
        while pieces and not pieces[0].isalnum():
            del pieces[0]
        while pieces and not pieces[-1].isalnum():
            del pieces[-1]
        core = "".join(pieces)
        if len(core) < _SHORTEST or core.lower() in _KEPT or core.startswith("127.") or len(pieces) > _LONGEST:
            return
        self._names.add(core)
        self._firsts[pieces[0]] = max(self._firsts.get(pieces[0], 0), len(pieces))

    def text(self, text: str) -> str:
        """Return a text with other names in it."""
        text = self.without_tokens(text)
        pieces, told, at = _BETWEEN.split(text), [], 0
        while at < len(pieces):
            end = self._end(pieces, at)
            told.append(self.of("".join(pieces[at:end])) if end else pieces[at])
            at = end or at + 1
        return _ADDRESS.sub(self._found, _ID.sub(self._found, "".join(told)))

    @staticmethod
    def without_tokens(text: str) -> str:
        """Blank out what is long and mixed as a token or a key is, whoever it belongs to."""
        text = _TOKEN.sub("[redacted]", text)
        return _LONG.sub(lambda found: "[redacted]" if _MIXED.match(found[0]) else found[0], text)

    def of(self, name: str) -> str:
        """Return the other name."""
        return f"name-{hmac.new(self._key, name.lower().encode(), hashlib.sha256).hexdigest()[:8]}"

    def _found(self, found: re.Match[str]) -> str:
        return self.of(found[0])

    def _end(self, pieces: list[str], at: int) -> int:
        """Return where the longest name ends that begins here; 0 where none does."""
        for length in range(self._firsts.get(pieces[at], 0), 0, -1):
            if "".join(pieces[at : at + length]) in self._names:
                return at + length
        return 0
