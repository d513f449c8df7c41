"""What a gateway checks of a request that is signed with an access key: SDK-HMAC-SHA256.

From the developer guide, "Signature algorithm": the canonical request has six parts (verb, path, query, headers, the
headers' names, hash of the body); its hash is signed together with the algorithm's name and X-Sdk-Date, and the key of
the HMAC is the secret key itself.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCHEME = "SDK-HMAC-SHA256"
_AUTHORIZATION = re.compile(
    rf"{SCHEME} Access=(?P<access>[^,\s]+), "
    r"SignedHeaders=(?P<names>[a-z0-9;-]+), Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an Authorization header says.

    Attributes:
        access: The access key.
        names: Of the headers that are signed, as they stand there.
        signature: In hex.
    """

    access: str
    names: Sequence[str]
    signature: str


def read_claim(authorization: str) -> Claim | None:
    """Read an Authorization header; None where it is no such claim."""
    match = _AUTHORIZATION.fullmatch(authorization)
    if match is None:
        return None
    return Claim(access=match["access"], names=tuple(match["names"].split(";")), signature=match["signature"])


def signature(
    secret: str, *, verb: str, target: str, headers: Mapping[str, str], names: Sequence[str], body: bytes
) -> str:
    """Return the signature that a request should have.

    Args:
        secret: The secret key.
        verb: As it came.
        target: Path and query as they came.
        headers: Looked up in any case; those that are named have to be there.
        names: Of the signed headers, in the order of the claim.
        body: As it came.
    """
    path, _, query = target.partition("?")
    said = headers.get("x-sdk-content-sha256", "")
    payload = said if body and "x-sdk-content-sha256" in names else hashlib.sha256(body).hexdigest()
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    canonical = f"{verb.upper()}\n{_path(path)}\n{_query(query)}\n{lines}\n{';'.join(names)}\n{payload}"
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    text = f"{SCHEME}\n{headers['x-sdk-date']}\n{digest}"
    return hmac.new(secret.encode(), text.encode(), "sha256").hexdigest()


def _path(path: str) -> str:
    segments = [_encoded(unquote(segment)) for segment in path.split("/")]
    return "/".join(segments if segments[-1] == "" else [*segments, ""])


def _query(query: str) -> str:
    """Return the pairs in order. A plus stands for itself: whoever means a blank has to send %20."""
    pairs = sorted(tuple(map(unquote, pair.partition("=")[::2])) for pair in query.split("&") if pair)
    return "&".join("=".join(map(_encoded, pair)) for pair in pairs)


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")
