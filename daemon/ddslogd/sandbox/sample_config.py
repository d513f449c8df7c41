"""A configuration of ddslogd that fits a sandbox."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ddslogd.sandbox.server import Sandbox

_CALLS_PER_MINUTE = 60
_MOST_CALLS_PER_MINUTE = 6_000


def configuration(sandbox: Sandbox, *, directory: Path, state: Path) -> str:
    """Return the YAML: the whole fleet, durations divided by the sandbox's speed, the token in DDSLOGD_TOKEN.

    Args:
        sandbox: Started, so that it has its port.
        directory: Where snapshots go.
        state: Where the ledger goes.
    """

    def scaled(seconds: float) -> str:
        return _duration(timedelta(seconds=seconds) / sandbox.speed)

    calls = min(_MOST_CALLS_PER_MINUTE, max(_CALLS_PER_MINUTE, round(_CALLS_PER_MINUTE * sandbox.speed)))
    instances = "".join(f"  - id: {one.id}\n    name: {json.dumps(one.name)}\n" for one in sandbox.fleet)
    return f"""\
clouds:
  sandbox:
    endpoint: {sandbox.endpoint}
    iam_endpoint: {sandbox.iam_endpoint}
    project_id: {json.dumps(sandbox.project_id)}
    auth:
      method: token
      token: {{env: DDSLOGD_TOKEN}}
    calls_per_minute: {calls}
    link_hosts: ["127.0.0.1"]
schedule:
  every: {scaled(20 * 60)}
export:
  first_poll: {scaled(10)}
  max_poll: {scaled(30)}
  give_up_after: {scaled(10 * 60)}
  fresh_for: {_duration(sandbox.rules.fresh_for / sandbox.speed)}
download:
  concurrent: 16
  stall_timeout: 60s
  renew_before: {scaled(30)}
  attempts: 5
storage:
  directory: {json.dumps(str(directory))}
  state: {json.dumps(str(state))}
  keep_free: 0
instances:
{instances}"""


def _duration(duration: timedelta) -> str:
    """Return a duration as a configuration spells it: whole minutes, seconds or milliseconds, at least one."""
    milliseconds = max(1, round(duration / timedelta(milliseconds=1)))
    for unit, size in (("m", 60_000), ("s", 1_000)):
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"
