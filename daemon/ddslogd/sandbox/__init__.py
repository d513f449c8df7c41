"""A cloud on loopback: IAM, DDS and object store on one port, with faults on demand.

Written from the API's reference alone, so that client and sandbox check each other.
"""

from __future__ import annotations

from ddslogd.sandbox.configuration import configuration
from ddslogd.sandbox.faults import ApiError, Faults
from ddslogd.sandbox.fleet import (
    Fleet,
    SandboxGroup,
    SandboxInstance,
    SandboxNode,
    cluster,
    default_fleet,
    replica_set,
    single,
)
from ddslogd.sandbox.journal import RequestRecord
from ddslogd.sandbox.kinds import LogKind
from ddslogd.sandbox.server import Sandbox

__all__ = [
    "ApiError",
    "Faults",
    "Fleet",
    "LogKind",
    "RequestRecord",
    "Sandbox",
    "SandboxGroup",
    "SandboxInstance",
    "SandboxNode",
    "cluster",
    "configuration",
    "default_fleet",
    "replica_set",
    "single",
]
