"""The object store's V2 signature: HMAC-SHA1 over what a link and its request say.

From the S3 manual, "Authenticating requests (Signature Version 2)": verb, Content-MD5, Content-Type, Expires, the
x-amz headers, and the resource with its sub-resources. The Host is not signed, Range and the If- headers neither.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SUB_RESOURCES = frozenset(
    [
        "acl",
        "cors",
        "lifecycle",
        "location",
        "logging",
        "partNumber",
        "policy",
        "tagging",
        "torrent",
        "uploadId",
        "uploads",
        "versionId",
        "versioning",
        "versions",
        "website",
        "x-image-process",
    ]
)


def string_to_sign(
    verb: str, resource: str, *, expires: str, headers: Mapping[str, str], query: Iterable[tuple[str, str]]
) -> str:
    """Return what is signed.

    Args:
        verb: A link made for GET does not hold for HEAD.
        resource: The path as it is in the request, percent signs and all.
        expires: As it is in the link.
        headers: Of the request: some of them are signed, so that sending them breaks a link made without.
        query: Decoded; those that are sub-resources are signed, in order of their names.
    """
    low = {name.lower(): value.strip() for name, value in headers.items()}
    vendor = sorted((name, value) for name, value in low.items() if name.startswith(("x-amz-", "x-obs-")))
    subs = sorted((name, value) for name, value in query if name in _SUB_RESOURCES or name.startswith("response-"))
    lines = [verb, low.get("content-md5", ""), low.get("content-type", ""), expires]
    lines += [f"{name}:{value}" for name, value in vendor]
    asked = "&".join(f"{name}={value}" if value else name for name, value in subs)
    return "\n".join([*lines, f"{resource}?{asked}" if asked else resource])


def sign(secret: str, text: str) -> str:
    """Return the signature, in base64, before it is percent-encoded into a link."""
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha1).digest()).decode()
