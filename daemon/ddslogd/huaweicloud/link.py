"""What a signed URL says of its own life, and whether it may be followed at all.

Facts: reference OBS "Authentication of Signature in a URL" (V2: ``Expires``, epoch seconds, absolute), S3 API "V4
temporarily authorized request" (``X-Amz-Date`` and ``X-Amz-Expires``, seconds after it).
"""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from ddslogd.model.addresses import address_of, is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_URL = 8192  # characters; signed links are a few hundred, with a session token two thousand
MAX_HOST = 253  # characters. RFC 1035, 2.3.4
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")  # RFC 1123, 2.1; some hosts have the "_" too
_MILLISECONDS_FROM = 10**11  # as seconds that is the year 5138, so a larger number counts milliseconds


def expiry(url: str) -> datetime | None:
    """Return when the link dies, by the object store's clock: aware, UTC; None where the URL does not say.

    Names are read in any case. Where both forms are there, the earlier moment counts.
    """
    if len(url) > MAX_URL:
        return None
    try:
        query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    except ValueError:
        return None
    moments = [_absolute(query.get("expires")), _relative(query, "x-amz-"), _relative(query, "x-obs-")]
    return min((moment for moment in moments if moment is not None), default=None)


def objection(url: str, *, hosts: Iterable[str], plain_http: bool) -> str | None:
    """Return why a link must not be followed; None where it may.

    Args:
        url: The link. It appears in no answer but by its scheme and host.
        hosts: Patterns of allowed hosts: ``obs.example.com``, or ``*.example.com`` for every name under it.
        plain_http: Whether the API itself is on loopback over http; then a link to a loopback address may be too.
    """
    if len(url) > MAX_URL:
        return "the link is longer than 8192 characters"
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return "the link holds characters that no URL may hold"
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError:
        return "the link is no URL"
    if "@" in parts.netloc:
        return "the link holds user information"
    if parts.scheme != "https" and not (plain_http and parts.scheme == "http" and is_loopback(host)):
        return f"the link's scheme is {parts.scheme[:16]!r}, not https"
    if not any(_matches(host, pattern.lower()) for pattern in hosts):
        return f"the link points to {host[:255]!r}, which link_hosts does not allow"
    if not plain_http and _is_local(host):
        return "the link points to this machine or its own network segment, where the API is not"
    return None


def _is_local(host: str) -> bool:
    return host == "localhost" or is_local_address(host)


def is_local_address(host: str) -> bool:
    """Return whether an address never leaves this machine or its wire, in whatever form IPv6 holds it; no name is one.

    Loopback, link-local (the metadata service), unspecified, multicast and broadcast.
    """
    address = address_of(host)
    if address is None:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _COMPATIBLE or address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        return _never_leaves(address) or any(_never_leaves(one) for one in inner if one is not None)
    return _never_leaves(address)


_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")  # RFC 1122, 3.2.1.3; Linux takes 0.0.0.0 for itself
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # RFC 4291, 2.5.5.1
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052, 2.1


def _never_leaves(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address) and (address in _THIS_NETWORK or address == _BROADCAST):
        return True
    return address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast


@lru_cache(maxsize=256)  # links come by the thousand, from a few hosts
def _matches(host: str, pattern: str) -> bool:
    if _is_address(host):  # an address is allowed in so many words only, never by a pattern
        return host == pattern
    return _is_name(host) and fnmatchcase(host, pattern)


def _is_name(host: str) -> bool:
    """Return whether a resolver can look the host up: of other names the client raises what is no network error."""
    if len(host) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        return False
    try:
        host.encode("ascii").decode("idna")  # "xn--" and nonsense after it
    except UnicodeError:
        return False
    return True


def _is_address(host: str) -> bool:
    # "127.1", "0x7f.1" and "2130706433" are addresses to some resolvers.
    return address_of(host) is not None or host.rpartition(".")[2][:1].isdigit()


def _absolute(seconds: str | None) -> datetime | None:
    if seconds is None or not seconds.isdecimal() or len(seconds) > 15:  # noqa: PLR2004  # milliseconds have 13
        return None
    number = int(seconds)
    try:
        return datetime.fromtimestamp(number / 1000 if number >= _MILLISECONDS_FROM else number, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _relative(query: dict[str, str], prefix: str) -> datetime | None:
    begin, seconds = query.get(f"{prefix}date", ""), query.get(f"{prefix}expires", "")
    if not seconds.isdecimal() or len(seconds) > 9:  # noqa: PLR2004  # a week, the most there is, has 6 digits
        return None
    try:
        return datetime.strptime(begin, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) + timedelta(seconds=int(seconds))
    except (ValueError, OverflowError):
        return None
