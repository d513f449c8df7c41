"""What the cloud's error codes and statuses mean: which of our errors each is, and who has to act. Pure.

Sources, by their short names in the comments:
    dds_api_0096   support.huaweicloud.com, api-dds: "Obtaining Links for Downloading Error Logs"
    OTC            the same pages for Open Telekom Cloud, and its lists of error codes
    IAM            "Obtaining a User Token Through Password Authentication" (Keystone v3)
    APIGW          the API gateway's list of error codes
    Terraform      huaweicloud/terraform-provider-huaweicloud, services/dds
Where the documents contradict each other, both are read.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from ddslogd.huaweicloud.json_reader import EPOCH, MAX_CODE, json_object, one_line, read_text
from ddslogd.huaweicloud.response_limits import MAX_VALUES
from ddslogd.model.errors import (
    CloudError,
    CredentialsRefused,
    ForeignAnswer,
    Gone,
    Misdirected,
    NotAllowed,
    Oversized,
    Rejected,
    Throttled,
    Unavailable,
    UnknownFile,
    Unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
MAX_MESSAGE = 300  # characters kept of what the cloud says went wrong
MAX_REQUEST_ID = 128  # characters; 32 to 36 are usual
"""An id that no instance has. What is asked of it starts nothing: the cloud refuses it, DBS.200002 or the like."""


def excess(what: str, *, request_id: str = "") -> Oversized:
    """Return the error of a reply that holds more than any can hold."""
    text = f"the cloud's reply holds {what}: see endpoint; if it is right, open a ticket with the cloud"
    return Oversized(text, status=200, request_id=request_id)


# --- errors -----------------------------------------------------------------------------------------------------------

_BUSY = (
    "DBS.200011 DBS.200018 DBS.200019 DBS.200076 DBS.201000 DBS.201014 DBS.201015 DBS.280042 DBS.200047 DBS.200998 "
    "DBS.201202 DBS.212003 DBS.280005 DBS.201509 00010009"
)
_REJECTED = (
    "DBS.200001 DBS.200004 DBS.200095 DBS.201006 DBS.212017 DBS.212019 DBS.280001 DBS.280066 DBS.280067 DBS.280068 "
    "DBS.280404 DBS.280407 DBS.280408 DBS.280409 DBS.280439 DBS.280440 DBS.290000"
)
_GONE = (
    "DBS.200002 DBS.280110 DBS.201501 DBS.201502 DBS.280016 DBS.201028 DBS.200604 DBS.200010 "
    "DBS.200013 DBS.200451 DBS.216026 DBS.216030"
)
# OTC error_code.rst; which of them are worth a repeat: Terraform, services/dds/common.go. The code decides, not the
# HTTP status: the same code comes with different ones in sister services.
_BY_CODE: dict[str, type[CloudError]] = {
    **dict.fromkeys(_BUSY.split(), Unavailable),
    **dict.fromkeys(_REJECTED.split(), Rejected),
    **dict.fromkeys(_GONE.split(), Gone),
    **dict.fromkeys(["DBS.280032", "DBS.280063", "DBS.280015", "DBS.280064", "DBS.280019"], NotAllowed),
    **dict.fromkeys(["DBS.280343", "DBS.280347", "DBS.201020", "DBS.280122"], Unsupported),
    "DBS.280056": CredentialsRefused,
    "DBS.280361": UnknownFile,
    "DBS.280443": Throttled,
}
# APIGW. The prefix is APIGW at the public gateway and APIG at a private one, with the same numbers.
_BY_GATEWAY_NUMBER: dict[str, type[CloudError]] = {
    "0301": CredentialsRefused,  # wrong or expired token, or wrong signature
    "0302": NotAllowed,  # address or account on no list of allowed ones
    "0305": NotAllowed,
    "0307": CredentialsRefused,  # token must be updated; also a token of another region
    "0308": Throttled,
    "0101": Misdirected,  # the API does not exist, or is not published here
}
_GATEWAY = re.compile(r"^APIG(?:W)?\.(\d{4})$")
# Whose codes these are: DDS, the gateway, IAM (PAP5 and STS5 are its identity policies and tokens), the older DDS.
_CLOUDS_CODE = re.compile(r"(?:DBS|APIGW?|IAM5?|PAP5|STS5)\.[0-9A-Z]{2,12}|[0-9]{8}")
_DDS_CODE = re.compile(r"DBS\.[0-9]+")
_BY_STATUS: dict[int, type[CloudError]] = {
    401: CredentialsRefused,
    403: NotAllowed,
    404: Gone,
    408: Unavailable,
    425: Unavailable,
    429: Throttled,
}
_MAYBE_OLD_TOKEN = {"DBS.280015", "DBS.280064"}  # OTC's advice for them: look whether the token has expired

_TURN: dict[type[CloudError], str] = {
    Unavailable: "the cloud is busy or out of reach: wait, it is asked again",
    Throttled: "the account makes too many calls: wait, or lower calls_per_minute",
    ForeignAnswer: "a proxy between here and the cloud answered, as it seems, and not the cloud: see proxy, firewall "
    "and endpoint; it is asked again",
    Misdirected: "this endpoint has no such API: see endpoint and region",
    CredentialsRefused: "the cloud does not accept the credentials: check them, their expiry and the region",
    NotAllowed: "the credentials lack a right: grant dds:instance:downloadErrorLog (for slow logs "
    "dds:instance:downloadSlowLog, for the list of instances dds:instance:list), or see whether the account is "
    "suspended",
    Gone: "the cloud knows no such instance or node in this project: if it was deleted, take it out of the "
    "configuration",
    Unsupported: "this kind of instance has no such logs to download: take it, or this kind of log, out of the "
    "configuration",
    Rejected: "the cloud calls the request wrong: check project_id, endpoint and ids, else report this to ddslogd",
    UnknownFile: "the cloud knows no file of this name (any more): see which it offers now",
}
_TURN_BY_CODE = {"DBS.280407": "the cloud calls a node's id wrong: check which nodes the instance has"}
_MESSAGE_KEYS = ("error_msg", "errMsg", "errorMsg", "message", "encoded_authorization_message")
_CODE_KEYS = ("error_code", "errCode", "errorCode", "code")
_MOST_OF_AN_ERROR = 64 * 1024  # bytes of a reply that is looked through for an error; the longest known has some 500


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, *, now: datetime, expected: int = 200
) -> CloudError | None:
    """Return the error that a reply stands for, also one with the status of a success; None where it is a success.

    Args:
        status: HTTP status.
        headers: As of ``read_error``, as ``body`` and ``now``.
        body: The whole of it.
        now: By the server's clock.
        expected: The one status of a call that was done.
    """
    if status != expected or _is_page(body):
        return read_error(status, headers, body, now=now)
    reply = json_object(body) if len(body) <= _MOST_OF_AN_ERROR else None
    return read_error(status, headers, body, now=now) if reply and _holds_error(reply) else None


def read_error(status: int, headers: Mapping[str, str], body: bytes, *, now: datetime) -> CloudError:
    """Turn a reply that is no success into the error that says who has to act.

    Args:
        status: HTTP status.
        headers: The reply's; looked up as they are, so pass a case-insensitive mapping.
        body: Any of the shapes that services, gateway, IAM and proxies send, or anything else.
        now: For a Retry-After that is a date; by the server's clock.
    """
    reply = (json_object(body) if len(body) <= _MOST_OF_AN_ERROR else None) or {}
    code = one_line(next((text for text in _values(reply, _CODE_KEYS) if text), ""), MAX_CODE)
    said = next((text for text in _values(reply, _MESSAGE_KEYS) if text), "")
    kind = _kind(status, code, within=_status_within(reply), page=_is_page(body))
    if kind is Rejected and status == 413 and "Retry-After" in headers:  # noqa: PLR2004  # DDS's status page: over the limit
        kind = Throttled
    turn = _TURN_BY_CODE.get(code, _TURN[kind])
    message = f"{turn}: {one_line(said, MAX_MESSAGE)}" if said else turn
    request_id = request_id_of(headers) or one_line(read_text(reply.get("request_id")), MAX_REQUEST_ID)
    if issubclass(kind, Unavailable):
        wait = retry_after(headers.get("Retry-After", ""), now=now)
        return kind(message, code=code, status=status, request_id=request_id, retry_after_s=wait)
    return kind(message, code=code, status=status, request_id=request_id)


def request_id_of(headers: Mapping[str, str]) -> str:
    """Return the id by which the vendor's support finds a call."""
    names = ("X-Request-Id", "X-IAM-Trace-Id", "x-obs-request-id")
    return next((text for name in names if (text := one_line(headers.get(name, ""), MAX_REQUEST_ID))), "")


def may_be_old_token(error: CloudError) -> bool:
    """Return whether a new token is worth a try: also where the cloud speaks of a missing right."""
    return isinstance(error, CredentialsRefused) or error.code in _MAYBE_OLD_TOKEN


def retry_after(value: str, *, now: datetime) -> float | None:
    """Read a Retry-After header, seconds or a date, as seconds from ``now``; None where there is none to read."""
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):  # the last: a year or an offset of many digits
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())


def _kind(status: int, code: str, *, within: int, page: bool) -> type[CloudError]:
    """Return the kind of an error; its status decides only as far as it is the cloud that speaks.

    Args:
        status: HTTP status.
        code: The vendor's; empty where there is none.
        within: The status that the body holds, in IAM's shape; 0 for none.
        page: Whether the body is a page.
    """
    gateway = _GATEWAY.match(code)
    known = _BY_CODE.get(code) or (_BY_GATEWAY_NUMBER.get(gateway[1]) if gateway else None)
    if known is not None:
        return known
    status = within or status if status < 300 else status  # noqa: PLR2004  # RFC 9110, 15.3: the status of a success
    clouds = bool(_CLOUDS_CODE.fullmatch(code)) or within == status
    match status:
        case _ if status >= 500:  # noqa: PLR2004  # RFC 9110, 15.6
            return Unavailable
        case _ if status < 300 and page:  # noqa: PLR2004  # as above
            return ForeignAnswer
        case 401 | 403 | 407 if not clouds:
            return ForeignAnswer
        case 404 | 405 | 410 if not clouds or gateway:  # only DDS knows which instances there are
            return Misdirected
        case 404 if not _DDS_CODE.fullmatch(code):  # of IAM: no such user, domain or project
            return Rejected
        case _:
            return _BY_STATUS.get(status, Rejected)


def success(body: bytes, *, request_id: str) -> dict[str, Any]:
    """Return the JSON object that a reply is.

    Raises:
        ForeignAnswer: It is a page.
        Unavailable: It is no JSON object.
        Oversized: It holds more values than any reply can.
        CloudError: It holds an error in place of what was asked for.
    """
    if body.count(b",") > MAX_VALUES:  # before it is read: objects take many times the bytes that stand for them
        raise excess(f"more than {MAX_VALUES} values", request_id=request_id)
    reply = json_object(body)
    if _is_page(body) or (reply is not None and _holds_error(reply)):
        raise read_error(200, {"X-Request-Id": request_id}, body, now=EPOCH)
    if reply is None:
        raise Unavailable("the cloud's reply is no JSON object; it is asked again", status=200, request_id=request_id)
    return reply


def _holds_error(reply: Mapping[str, Any]) -> bool:
    """Return whether a reply holds an error and nothing else of use."""
    if any(reply.get(key) for key in ("list", "instances", "projects", "token")):
        return False
    nested = reply.get("error")
    within = nested if isinstance(nested, dict) else {}
    return any(read_text(one.get(key)) for one in (reply, within) for key in _CODE_KEYS) or _status_within(reply) > 0


def _status_within(reply: Mapping[str, Any]) -> int:
    """Return the status that IAM's shape of an error holds; 0 where it is another shape."""
    nested = reply.get("error")
    code = nested.get("code") if isinstance(nested, dict) else None
    valid = isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600  # noqa: PLR2004  # RFC 9110, 15
    return code if valid and code is not None else 0


def _is_page(body: bytes) -> bool:
    """Return whether a body is HTML or XML: none of these services sends such."""
    return body[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def _values(reply: Mapping[str, Any], keys: Sequence[str], depth: int = 0) -> Iterator[str]:
    """Walk the reply for the keys' texts, outer ones first: the shapes nest them differently."""
    for key in keys:
        yield read_text(reply.get(key))
    for value in reply.values():
        if isinstance(value, dict) and depth < 4:  # noqa: PLR2004  # no known shape nests deeper than two
            yield from _values(value, keys, depth + 1)
