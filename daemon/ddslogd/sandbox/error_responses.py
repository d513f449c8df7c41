"""The bodies of refusals: DDS, gateway, IAM and object store each have a shape of their own."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddslogd.sandbox.faults import ApiError

_STORE_CODES = {
    400: "InvalidArgument",
    403: "AccessDenied",
    404: "NoSuchKey",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    412: "PreconditionFailed",
    416: "InvalidRange",
    429: "TooManyRequests",
    500: "InternalError",
    503: "SlowDown",
}


class Refused(Exception):
    """The cloud says no; holds the whole reply."""

    def __init__(self, reply: web.Response) -> None:
        self.reply = reply
        super().__init__(reply.status)


def json_reply(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a JSON reply."""
    return web.Response(
        body=json.dumps(body, ensure_ascii=False).encode(),
        status=status,
        headers=headers,
        content_type="application/json",
        charset="utf-8",
    )


def dds_refusal(status: int, code: str, message: str) -> Refused:
    """Refuse as DDS does: error_code and error_msg."""
    return Refused(json_reply({"error_code": code, "error_msg": message}, status=status))


def gateway_refusal(status: int, code: str, message: str) -> Refused:
    """Refuse as the API gateway does: with a request_id in the body."""
    body = {"error_msg": message, "error_code": code, "request_id": "sandbox-gateway"}
    return Refused(json_reply(body, status=status))


def iam_refusal(status: int, message: str) -> Refused:
    """Refuse as IAM v3 does: no error_code, but a title."""
    body = {"error": {"message": message, "code": status, "title": HTTPStatus(status).phrase}}
    return Refused(json_reply(body, status=status))


def store_refusal(
    status: int,
    message: str,
    *,
    code: str = "",
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, str] | None = None,
) -> Refused:
    """Refuse as the object store does: XML.

    Args:
        status: HTTP status.
        message: For people.
        code: Default: what fits the status.
        headers: Further headers.
        more: Further elements of the body.
    """
    told = {"Code": code or _STORE_CODES.get(status, "InternalError"), "Message": message, **(more or {})}
    elements = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in told.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{elements}<RequestId>sandbox</RequestId></Error>'
    return Refused(web.Response(body=body.encode(), status=status, headers=headers, content_type="application/xml"))


def ordered(error: ApiError) -> Refused:
    """Return the refusal that a fault orders."""
    refused = _shaped(error, error.message or HTTPStatus(error.status).phrase)
    refused.reply.headers.update(error.headers)
    return refused


def _shaped(error: ApiError, message: str) -> Refused:
    match error.shape:
        case "dds":
            return dds_refusal(error.status, error.code, message)
        case "gateway":
            return gateway_refusal(error.status, error.code, message)
        case "iam":
            return iam_refusal(error.status, message)
        case "html":
            page = f"<html><head><title>{error.status} {message}</title></head><body>{message}</body></html>"
            return Refused(web.Response(text=page, status=error.status, content_type="text/html"))
        case "empty":
            return Refused(web.Response(status=error.status))
