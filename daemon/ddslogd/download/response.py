"""What one answer of the object store means for the part on disk: pure.

Sources: reference OBS, "Downloading an Object", and RFC 9110 (14 and 15). OBS does not document If-Range; it documents
If-Match, so a resume sends Range with If-Match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ddslogd.huaweicloud import error_codes
from ddslogd.model.errors import Changed, Interrupted, LinkRefused, ObjectGone, Unpublishable
from ddslogd.model.snapshot import Identity

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ddslogd.model.errors import TransferError

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19})")
_MD5_ETAG = re.compile(r'"([0-9a-fA-F]{32})"')
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,64})\s*</Code>")
_GONE = {"NoSuchKey": "object", "NoSuchVersion": "object", "NoSuchBucket": "bucket"}  # OBS, "Error Codes"
MAX_ERROR = 8192  # bytes of an error's body, whose code comes first
# "aws-chunked" is how the object was put there, and stays in some stores' answers: it says nothing of these bytes.
_NO_ENCODINGS = {"", "identity", "aws-chunked"}
_GZIP = {"gzip", "x-gzip"}  # RFC 9110, 8.4.1.3
_PAGES = {"text/html", "application/xhtml+xml", "text/xml", "application/xml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the bytes of an answer go.

    Attributes:
        at: The offset of its first byte; 0 begins the file again.
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


def place(
    status: int, headers: Mapping[str, str], *, at: int, known: Identity, now: datetime, code: str = ""
) -> Placement:
    """Judge an answer.

    Args:
        status: HTTP status.
        headers: Looked up in any case.
        at: From where the request asked; 0: for the whole object.
        known: The identity of what is on disk.
        now: For a Retry-After that is a date.
        code: The object store's own, of an error.

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
        case _:
            raise _refusal(status, headers, code, now)


def code_of(body: bytes) -> str:
    """Return the code in the XML body of an object store's error; empty where there is none. OBS, "Error Responses"."""
    found = _CODE.search(body[:MAX_ERROR])
    return found[1].decode() if found else ""


def begin(
    status: int, headers: Mapping[str, str], *, asked: int, now: datetime, code: str = ""
) -> Beginning | Placement | None:
    """Judge the answer to a request for the first bytes; a placement where the whole object comes, None for no bytes.

    Args:
        status: HTTP status.
        headers: Looked up in any case.
        asked: Bytes from the first one on.
        now: As of ``place``.
        code: The same.

    Raises:
        Changed: It is something else than these bytes.
        TransferError: As of ``place``.
    """
    match status:
        case 206:
            return _beginning(headers, asked)
        case 416:  # also of an empty object
            return None
        case 501:  # RFC 9110, 15.6.2: no outage, it has no such thing
            raise Changed("the object store serves no ranges (HTTP 501)")
        case _:
            return place(status, headers, at=0, known=Identity(), now=now, code=code)


def framed(headers: Mapping[str, str]) -> bool:
    """Return whether the end of the body says that it is the end: by a length, or by a last chunk. RFC 9112, 6.3."""
    return "Content-Length" in headers or "chunked" in headers.get("Transfer-Encoding", "").lower()


def same(status: int, headers: Mapping[str, str], *, etag: str, size: int, now: datetime, code: str = "") -> bool:
    """Return whether the object is still what is on disk, by the answer to a request for its first byte with If-Match.

    Args:
        status: HTTP status.
        headers: Looked up in any case.
        etag: Of what is on disk, as it was sent; empty where none was: then the size alone tells.
        size: Of what is on disk, in bytes.
        now: As of ``place``.
        code: The same.

    Raises:
        TransferError: As of ``place``: the answer does not say.
    """
    match status:
        case 206:
            found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
            if found is None:
                raise Interrupted("the object store answers a range without saying which")
            return int(found[3]) == size and (not etag or headers.get("ETag", etag) == etag)
        case 200:  # it knows no ranges; an If-Match that it does not know either proves nothing
            whole = _whole(headers)
            return whole.total == size and bool(etag) and whole.etag == etag
        case 412 | 416:  # the latter: it is empty
            return False
        case _:
            place(status, headers, at=0, known=Identity(), now=now, code=code)
            raise Interrupted(f"the object store answers HTTP {status} to a request for the first byte")


def expected_md5(headers: Mapping[str, str]) -> str:
    """Return the MD5 that the object's bytes must have; empty where the ETag is none.

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
    if _encoding(headers):  # of which representation this is a range, each proxy decides for itself
        raise Changed("the object store answers a range with a compressed body")
    first, last, total = map(int, found.groups())
    if (first, last + 1) != (0, min(asked, total)):
        raise Changed("the object store answers another range than was asked for")
    return Beginning(identity=_identity(headers, total), size=last + 1)


def _whole(headers: Mapping[str, str]) -> Identity:
    if _is_page(headers):
        raise Interrupted(f"a page ({_kind(headers)}) came in place of the log")
    _encoding(headers)
    length = headers.get("Content-Length", "")
    return _identity(headers, int(length) if re.fullmatch(r"[0-9]{1,19}", length) else None)  # 2**63 has 19 digits


def _encoding(headers: Mapping[str, str]) -> str:
    """Return how a body is compressed, although identity was asked for; empty where it is not.

    Whether it is unpacked, its bytes decide (``storage.packed``); here it is only judged whether it could be.

    Raises:
        Unpublishable: It cannot.
    """
    value = headers.get("Content-Encoding", "")
    codings = [one for part in value.split(",") if (one := part.strip().lower()) not in _NO_ENCODINGS]
    if len(codings) > 1 or not set(codings) <= _GZIP:
        raise Unpublishable(
            f"the object store sends the file compressed (Content-Encoding: {_readable(value)[:64]}), and only gzip is "
            "unpacked: see the bucket, or the proxy on the way"
        )
    return "".join(codings)


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


def _refusal(status: int, headers: Mapping[str, str], code: str, now: datetime) -> TransferError:
    """Return what an answer without any bytes means."""
    facts, wait = _facts(status, headers, code), _wait(headers, now)
    match status:
        case 404 | 410 if code in _GONE:
            return ObjectGone(f"the {_GONE[code]} is gone from the object store ({facts})")
        case 404 | 410 if not code:
            return LinkRefused(f"the link leads to no object store: what answers sends no code of one ({facts})")
        case 400 | 401 | 403 | 404 | 410:
            return LinkRefused(f"the object store does not accept the link ({facts})")
        case 407:
            return Interrupted("the proxy on the way to the object store wants a user and a password (HTTP 407)")
        case 408 | 425 | 429:
            return Interrupted(f"the object store is busy ({facts})", retry_after_s=wait, busy=True)
        case _ if status >= 500:  # noqa: PLR2004  # RFC 9110, 15.6
            return Interrupted(f"the object store failed ({facts})", retry_after_s=wait, busy=code == "SlowDown")
        case _ if 300 <= status < 400:  # noqa: PLR2004  # RFC 9110, 15.4
            return Unpublishable(f"the object store redirects (HTTP {status}), which is not followed: see link_hosts")
        case _:
            return Unpublishable(f"the object store sent no log ({facts})")


def _wait(headers: Mapping[str, str], now: datetime) -> float | None:
    return error_codes.retry_after(headers.get("Retry-After", ""), now=now)


def _facts(status: int, headers: Mapping[str, str], code: str) -> str:
    return f"HTTP {status}{', ' if code else ''}{code}{_request(headers)}"


def _request(headers: Mapping[str, str]) -> str:
    request_id = error_codes.request_id_of(headers)
    return f", request id {request_id}" if request_id else ""
