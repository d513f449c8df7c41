"""Addresses of hosts, as text. Pure."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine by its very name: ``localhost``, or a loopback address without brackets."""
    if host == "localhost":
        return True
    address = address_of(host)
    # IPv4 in IPv6's form never counts: Python judges it as IPv4 from 3.13 on, and not before.
    return address is not None and address.is_loopback and getattr(address, "ipv4_mapped", None) is None


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host is, without brackets; None where it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
