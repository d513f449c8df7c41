"""Secrets, and texts without them: pure.

What is known is blanked out by its text; next to that, whatever looks like a signed link or a credential's header. Each
of these takes time that grows with the text's length and no faster: the cloud writes much of what passes here.
"""

from __future__ import annotations

import json
import re
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_ERROR = 64 * 1024  # bytes of the body of a refusal; those of every cloud have less than one thousand
REDACTED = "[redacted]"
SHORTEST_ISSUED = 16  # characters of a token or key that a server issues; each that is documented has 20 and more
_SHORTEST = 4  # characters of an own secret; what is shorter would blank out half of every line
_REMEMBERED = 100  # of the own secrets and of the issued ones each, so that none of a server's pushes out a password
_RUN = re.compile(r"""[^\s"'<>]++""")
_PARAMETER = re.compile(
    r"""(?P<kept>(?:signature|x-amz-credential|accesskeyid|security-token)(?:=|%3D))[^&\s"'<>]++""", re.IGNORECASE
)
_HEADER = re.compile(
    r"""(?P<kept>(?:x-auth-token|x-subject-token|authorization)['"]?\s*+[:,=]\s*+b?['"]?)[^'",\s)}\]]++""",
    re.IGNORECASE,
)


def is_token(text: str) -> bool:
    """Return whether a text that a server issues can be a token or a key: long enough, and one printable word.

    What is shorter, or has blanks in it, would blank out parts of every line once it counts as a secret.
    """
    return len(text) >= SHORTEST_ISSUED and text.isascii() and text.isprintable() and " " not in text


class Redactor:
    """Blanks out secrets in texts.

    A secret that was replaced by another stays known: what speaks of it may come later.
    """

    def __init__(self) -> None:
        self._own: deque[str] = deque(maxlen=_REMEMBERED)
        self._issued: deque[str] = deque(maxlen=_REMEMBERED)
        self._spellings: tuple[str, ...] = ()

    def add(self, secret: str) -> None:
        """Blank out a secret of the operator's from now on."""
        if len(secret) >= _SHORTEST:
            self._remember(secret, self._own)

    def add_issued(self, secret: str) -> None:
        """Blank out a secret that a server has issued; what cannot be one is passed over, see ``is_token``."""
        if is_token(secret):
            self._remember(secret, self._issued)

    def _remember(self, secret: str, secrets: deque[str]) -> None:
        if secret not in secrets:
            secrets.append(secret)
            # The longest first, lest a part of one be blanked out and the rest of it be shown.
            self._spellings = tuple(sorted({*_spelled(self._own), *_spelled(self._issued)}, key=len, reverse=True))

    def clean_known(self, text: str) -> str:
        """Return the text without the secrets that are known, in each spelling it may have them in."""
        for spelling in self._spellings:
            if spelling in text:
                text = text.replace(spelling, REDACTED)
        return text

    def clean_reply(self, body: bytes) -> bytes:
        """Return the body of a reply without the secrets that are known; its links are whole."""
        for spelling in self._spellings:
            raw = spelling.encode("utf-8", "surrogatepass")
            if raw in body:
                body = body.replace(raw, REDACTED.encode())
        return body

    def clean_error(self, body: bytes) -> bytes:
        """Return the body of an error without secrets of any kind, and without what is too much of it."""
        return self.clean(body[:LONGEST_ERROR].decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def clean(self, text: str) -> str:
        """Return the text without secrets: those that are known, and what looks like one."""
        text = _RUN.sub(_without_query, self.clean_known(text))
        for pattern in (_PARAMETER, _HEADER):
            text = pattern.sub(rf"\g<kept>{REDACTED}", text)
        return text


def _spelled(secrets: Iterable[str]) -> set[str]:
    """Return the spellings of secrets: as they are, in JSON, and in what Python prints."""
    return {spelling for secret in secrets for spelling in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])} - {
        ""
    }


def _without_query(found: re.Match[str]) -> str:
    """Return a run of characters without the query of the URL or path that it is, where it has one."""
    run = found[0]
    slash = run.find("/")
    mark = run.find("?", slash) if slash >= 0 else -1
    if mark < 0 or "=" not in run[mark:]:
        return run
    return f"{run[: mark + 1]}{REDACTED}"
