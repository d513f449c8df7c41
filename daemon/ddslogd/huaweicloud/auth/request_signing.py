"""SDK-HMAC-SHA256: a request is signed with an access key, and whoever knows the secret key can check it. No I/O.

Sources: the vendor's developer guide, API request signing, "Signature algorithm" (devg-apisign,
api-sign-algorithm-002), and the vendor's own client (huaweicloudsdkcore, signer/signer.py), which decides where the
guide is silent. Tests hold this module to that client's signatures.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

ALGORITHM = "SDK-HMAC-SHA256"
DATE = "X-Sdk-Date"
SECURITY_TOKEN = "X-Security-Token"  # noqa: S105  # a header's name
PAYLOAD_HASH = "X-Sdk-Content-Sha256"
_DATE_FORMAT = "%Y%m%dT%H%M%SZ"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HASHED_TYPES = ("application/json", "application/bson")  # bodies of any other type are not hashed. signer.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What signs.

    Attributes:
        access_key: Says whose request it is; no secret.
        secret_key: Never leaves this process.
        security_token: Belongs to temporary keys and travels with each request; empty for lasting ones.
    """

    access_key: str
    secret_key: str = field(repr=False)
    security_token: str = field(default="", repr=False)


def sign(
    *, method: str, url: str, headers: Mapping[str, str], body: bytes, keys: Keys, now: datetime
) -> dict[str, str]:
    """Return the headers to add to a request, Host among them: it is signed, so it is sent as given here.

    Args:
        method: In any case.
        url: As it is sent, so as ``wire_url`` gives it.
        headers: All of them are signed, but those with ``_`` in their name.
        body: The exact bytes that are sent.
        keys: What to sign with.
        now: Aware; by the cloud's clock, which refuses what is more than 15 minutes off.

    Raises:
        ValueError: The query is in another order or spelling than the one that is signed.
    """
    if url != wire_url(url):
        raise ValueError("a URL is signed in the form that wire_url gives it")
    parts = urlsplit(url)
    date = now.astimezone(UTC).strftime(_DATE_FORMAT)
    added = {"Host": _host(parts), DATE: date}
    if keys.security_token:
        added[SECURITY_TOKEN] = keys.security_token
    kind = _lowered(headers).get("content-type", "")
    if kind and not kind.startswith(_HASHED_TYPES):
        added[PAYLOAD_HASH] = "UNSIGNED-PAYLOAD"
    signed = {name: text for name, text in sorted(_lowered({**headers, **added}).items()) if "_" not in name}
    canonical = canonical_request(method, parts, signed, body)
    text = "\n".join([ALGORITHM, date, hashlib.sha256(canonical.encode()).hexdigest()])
    signature = hmac.new(keys.secret_key.encode(), text.encode(), hashlib.sha256).hexdigest()
    names = ";".join(signed)
    added["Authorization"] = f"{ALGORITHM} Access={keys.access_key}, SignedHeaders={names}, Signature={signature}"
    return added


def wire_url(url: str) -> str:
    """Return the URL to send: its query is the very text that is signed, the rest stays as it is."""
    return urlsplit(url)._replace(query=_canonical_query(urlsplit(url).query)).geturl()


def signed_at(headers: Mapping[str, str]) -> datetime:
    """Return when a request was signed, to the second, from the headers that ``sign`` gave."""
    return datetime.strptime(headers[DATE], _DATE_FORMAT).replace(tzinfo=UTC)


def canonical_request(method: str, parts: SplitResult, signed: Mapping[str, str], body: bytes) -> str:
    """Return the text whose hash is signed; ``signed`` are the headers by their lower-case names, in order."""
    payload = signed.get(PAYLOAD_HASH.lower(), "") if body else ""
    return "\n".join(
        [
            method.upper(),
            _canonical_path(parts.path),
            _canonical_query(parts.query),
            *(f"{name}:{text}" for name, text in signed.items()),
            "",  # the headers end in a line feed of their own
            ";".join(signed),
            payload or hashlib.sha256(body).hexdigest(),
        ]
    )


def _canonical_path(path: str) -> str:
    """Return the path with each segment encoded again, and with a slash in the end that is never sent."""
    return quote(unquote(path), safe="/~").removesuffix("/") + "/"


def _canonical_query(query: str) -> str:
    """Return the pairs in the order of their names and values before they are encoded. signer.py."""
    pairs = sorted(parse_qsl(query, keep_blank_values=True))
    return "&".join(f"{quote(name, safe='~')}={quote(text, safe='~')}" for name, text in pairs)


def _host(parts: SplitResult) -> str:
    """Return the host without a port that goes without saying. api-dis, dis_02_0508."""
    default = parts.port is None or parts.port == _DEFAULT_PORTS.get(parts.scheme)
    return parts.netloc.removesuffix(f":{parts.port}") if default else parts.netloc


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): text.strip() for name, text in headers.items()}
