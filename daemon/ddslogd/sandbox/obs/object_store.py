"""The object store: exported files by key, links that sign for one of them, and who may read it."""

from __future__ import annotations

import gzip
import hashlib
import hmac
from dataclasses import dataclass
from email.utils import format_datetime
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

from ddslogd.sandbox.error_responses import store_refusal
from ddslogd.sandbox.obs.url_signature import sign, string_to_sign

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from aiohttp import web

    from ddslogd.sandbox.clock import CloudClock
    from ddslogd.sandbox.faults import Etag

BUCKET = "dds-log-loopback-1"
_PART = 5 * 1024 * 1024
_ASKED = "no-cache,no-store"


@dataclass(frozen=True)
class StoredObject:
    """The bytes under a key, from one write to the next.

    Attributes:
        data: As written.
        modified: By the cloud's clock, as it stood then.
    """

    data: bytes
    modified: datetime

    @cached_property
    def gzipped(self) -> StoredObject:
        """Return the object that it would be if it were stored compressed."""
        return StoredObject(gzip.compress(self.data, mtime=0), self.modified)

    @cached_property
    def md5(self) -> str:
        """Return the MD5 in hex."""
        return _md5(self.data).hexdigest()

    def etag(self, kind: Etag) -> str:
        """Return the ETag with its quotes; empty for none."""
        match kind:
            case "md5":
                return f'"{self.md5}"'
            case "multipart":
                parts = [self.data[at : at + _PART] for at in range(0, len(self.data), _PART)] or [b""]
                whole = _md5(b"".join(_md5(part).digest() for part in parts))
                return f'"{whole.hexdigest()}-{len(parts)}"'
            case "encrypted":
                return f'"{_md5(self.md5.encode()).hexdigest()}"'
            case "none":
                return ""


class ObjectStore:
    """Holds one bucket.

    Args:
        clock: The cloud's; links are judged by what it shows.
    """

    def __init__(self, clock: CloudClock) -> None:
        self._clock = clock
        self._objects: dict[str, StoredObject] = {}
        self._access_key = "SANDBOXACCESSKEY0001"
        self._secret = "made-up-secret-of-the-sandbox"  # noqa: S105 - it guards nothing: the store is a toy

    def put(self, key: str, data: bytes) -> None:
        """Write an object, over what had the key before."""
        self._objects[key] = StoredObject(data, self._clock.shown(by="objects"))

    def drop(self, key: str) -> None:
        """Forget an object: its links answer 404 from now on."""
        self._objects.pop(key, None)

    def link(self, endpoint: str, key: str, *, expires: int) -> str:
        """Sign a link, path-style and in the S3 dialect, as all published examples are.

        Args:
            endpoint: Scheme, host and port.
            key: Of an object, there or not.
            expires: Epoch seconds.
        """
        resource = f"/{BUCKET}/{quote(key)}"
        asked = [("response-cache-control", _ASKED)]
        text = string_to_sign("GET", resource, expires=str(expires), headers={}, query=asked)
        signature = quote(sign(self._secret, text), safe="")
        return (
            f"{endpoint}{resource}?AWSAccessKeyId={self._access_key}&Expires={expires}"
            f"&response-cache-control={quote(_ASKED, safe='')}&Signature={signature}"
        )

    def admit(self, request: web.Request) -> StoredObject:
        """Return the object that a request's link signs for, or refuse."""
        if "Authorization" in request.headers or "X-Auth-Token" in request.headers:
            raise store_refusal(400, "Only one authentication mechanism is allowed.")
        parts = urlsplit(request.raw_path)
        query = parse_qsl(parts.query, keep_blank_values=True)
        self._check_life(dict(query))
        self._check_signature(request, parts.path, query)
        if request.match_info["bucket"] != BUCKET:
            raise store_refusal(404, "The specified bucket does not exist.", code="NoSuchBucket")
        held = self._objects.get(request.match_info["key"])
        if held is None:
            raise store_refusal(404, "The specified key does not exist.", more={"Key": request.match_info["key"]})
        return held

    def _check_life(self, query: Mapping[str, str]) -> None:
        """Refuse a link without its parts, or whose time is over. A transfer that began is left alone."""
        if not {"AWSAccessKeyId", "Expires", "Signature"} <= query.keys():
            raise store_refusal(403, "Access Denied")
        if not query["Expires"].isdecimal():
            raise store_refusal(403, "Invalid date (should be seconds since epoch)")
        now = self._clock.shown(by="objects")
        if now.timestamp() >= int(query["Expires"]):
            told = {"Expires": query["Expires"], "ServerTime": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
            raise store_refusal(403, "Request has expired", more=told)

    def _check_signature(self, request: web.Request, path: str, query: list[tuple[str, str]]) -> None:
        given = dict(query)
        if given["AWSAccessKeyId"] != self._access_key:
            raise store_refusal(403, "The access key does not exist.", code="InvalidAccessKeyId")
        text = string_to_sign(request.method, path, expires=given["Expires"], headers=request.headers, query=query)
        if not hmac.compare_digest(sign(self._secret, text).encode(), given["Signature"].encode()):
            raise store_refusal(
                403, "The signature does not match.", code="SignatureDoesNotMatch", more={"StringToSign": text}
            )


def http_date(moment: datetime) -> str:
    """Return a moment as HTTP headers have it."""
    return format_datetime(moment, usegmt=True)


def _md5(data: bytes) -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)
