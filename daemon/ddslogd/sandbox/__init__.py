"""A cloud on loopback: IAM, DDS and object store on one port, with faults on demand.

Written from the API's reference alone, so that client and sandbox check each other.
"""

from __future__ import annotations

from ddslogd.sandbox.dds.log_kinds import LogKind
from ddslogd.sandbox.dds.topology import (
    Fleet,
    SandboxGroup,
    SandboxInstance,
    SandboxNode,
    cluster,
    default_fleet,
    replica_set,
    single,
)
from ddslogd.sandbox.fault_options import fault_forms, read_faults
from ddslogd.sandbox.faults import ApiError, Faults
from ddslogd.sandbox.request_log import RequestRecord
from ddslogd.sandbox.sample_config import configuration
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
    "fault_forms",
    "read_faults",
    "replica_set",
    "single",
]
