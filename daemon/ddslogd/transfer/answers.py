"""What one answer of the object store means for the part on disk: pure.

Sources: reference OBS, "Downloading an Object", and RFC 9110 (14 and 15). OBS does not document If-Range; it documents
If-Match, so a resume sends Range with If-Match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ddslogd.cloud import wire
from ddslogd.errors import Changed, Interrupted, LinkRefused, Unpublishable
from ddslogd.models import Identity

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19})")
_MD5_ETAG = re.compile(r'"([0-9a-fA-F]{32})"')
_PAGES = {"text/html", "application/xhtml+xml", "text/xml", "application/xml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the bytes of an answer go.

    Attributes:
        at: The offset of its first byte; 0 begins the file anew.
        identity: What the bytes are a part of.
        has_body: False where everything is on disk already.
    """

    at: int
    identity: Identity
    has_body: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """The first bytes of an object, and what the object is.

    Attributes:
        identity: Of the whole object; its total is known.
        size: Bytes that are to come.
    """

    identity: Identity
    size: int


def place(status: int, headers: Mapping[str, str], *, at: int, known: Identity, now: datetime) -> Placement:
    """Judge an answer.

    Args:
        status: HTTP status.
        headers: Looked up in any case.
        at: From where the request asked; 0: for the whole object.
        known: The identity of what is on disk.
        now: For a Retry-After that is a date.

    Raises:
        Interrupted: The same request may succeed later.
        LinkRefused: A new link may succeed.
        Changed: The object is another one now.
        Unpublishable: No request gives a log here.
    """
    match status:
        case 200:
            return Placement(at=0, identity=_whole(headers))
        case 206 if at > 0:
            return _continued(headers, at, known)
        case 412:
            raise Changed("the object store holds another object now (412)")
        case 416 if at > 0:
            return _beyond(headers, at, known)
        case 400 | 401 | 403 | 404 | 410:
            raise LinkRefused(f"the object store does not accept the link (HTTP {status}{_request(headers)})")
        case 408 | 425 | 429:
            raise Interrupted(f"the object store is busy (HTTP {status})", retry_after_s=_wait(headers, now))
        case _ if status >= 500:  # noqa: PLR2004  # RFC 9110, 15.6
            raise Interrupted(f"the object store failed (HTTP {status})", retry_after_s=_wait(headers, now))
        case _ if 300 <= status < 400:  # noqa: PLR2004  # RFC 9110, 15.4
            raise Unpublishable(f"the object store redirects (HTTP {status}), which is not followed: see link_hosts")
        case _:
            raise Unpublishable(f"the object store sent no log (HTTP {status}{_request(headers)})")


def begin(status: int, headers: Mapping[str, str], *, asked: int, now: datetime) -> Beginning | Placement | None:
    """Judge the answer to a request for the first bytes; a placement where the whole object comes, None for no bytes.

    Args:
        status: HTTP status.
        headers: Looked up in any case.
        asked: Bytes from the first one on.
        now: As of ``place``.

    Raises:
        Changed: It is something else than these bytes.
        TransferError: As of ``place``.
    """
    match status:
        case 206:
            return _beginning(headers, asked)
        case 416:  # also of an empty object
            return None
        case _:
            return place(status, headers, at=0, known=Identity(), now=now)


def expected_md5(headers: Mapping[str, str]) -> str:
    """Give the MD5 that the object's bytes must have; empty where the ETag is none.

    An ETag is the MD5 of an object that was uploaded at once and not encrypted with a key of KMS or the customer. OBS,
    "Returned Values".
    """
    found = _MD5_ETAG.fullmatch(headers.get("ETag", ""))
    encrypted = any("server-side-encryption" in name.lower() for name in headers)
    return found[1].lower() if found and not encrypted else ""


def _beginning(headers: Mapping[str, str], asked: int) -> Beginning:
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if found is None or found[1] is None or _is_page(headers):
        raise Changed("the object store answers a range without saying which")
    first, last, total = map(int, found.groups())
    if (first, last + 1) != (0, min(asked, total)):
        raise Changed("the object store answers another range than was asked for")
    return Beginning(identity=_identity(headers, total), size=last + 1)


def _whole(headers: Mapping[str, str]) -> Identity:
    if _is_page(headers):
        raise Interrupted(f"a page ({_kind(headers)}) came in place of the log")
    length = headers.get("Content-Length", "")
    return _identity(headers, int(length) if re.fullmatch(r"[0-9]{1,19}", length) else None)  # 2**63 has 19 digits


def _is_page(headers: Mapping[str, str]) -> bool:
    return _kind(headers) in _PAGES


def _kind(headers: Mapping[str, str]) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _identity(headers: Mapping[str, str], total: int | None) -> Identity:
    return Identity(
        etag=_readable(headers.get("ETag", "")),
        total=total,
        last_modified=_readable(headers.get("Last-Modified", "")),
        md5=expected_md5(headers),
    )


def _readable(value: str) -> str:
    """Drop a value that is no plain text: it could be neither sent back nor written down."""
    return value if value.isascii() and value.isprintable() else ""


def _continued(headers: Mapping[str, str], at: int, known: Identity) -> Placement:
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if found is None or found[1] is None:
        raise Changed("the object store answers a range without saying which")
    if int(found[1]) != at or int(found[3]) != known.total:
        raise Changed("the object store answers another range than was asked for")
    modified = headers.get("Last-Modified", known.last_modified)
    if headers.get("ETag", known.etag) != known.etag or modified != known.last_modified:
        raise Changed("the object store goes on with another object")
    return Placement(at=at, identity=replace(known, md5=expected_md5(headers)))


def _beyond(headers: Mapping[str, str], at: int, known: Identity) -> Placement:
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if at == known.total and (found is None or int(found[3]) == at):
        return Placement(at=at, identity=known, has_body=False)
    raise Changed("the object is shorter than what is on disk (416)")


def _wait(headers: Mapping[str, str], now: datetime) -> float | None:
    return wire.retry_after(headers.get("Retry-After", ""), now=now)


def _request(headers: Mapping[str, str]) -> str:
    request_id = wire.request_id_of(headers)
    return f", request id {request_id}" if request_id else ""
