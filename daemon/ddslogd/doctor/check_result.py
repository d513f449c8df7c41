"""What a check found: one line for the operator."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One line of what was looked at.

    Attributes:
        area: Which part: configuration, secrets, network, login, rights, disk, ledger, shipper.
        what: What was looked at, and how it is.
        todo: What to do about it; empty where there is nothing to do.
    """

    level: Level
    area: str
    what: str
    todo: str = ""


def ok(area: str, what: str, todo: str = "") -> CheckResult:
    """Make a finding that all is well."""
    return CheckResult(level=Level.OK, area=area, what=what, todo=todo)


def warn(area: str, what: str, todo: str = "") -> CheckResult:
    """Make a finding that works, but not as it should, or that could not be looked at."""
    return CheckResult(level=Level.WARN, area=area, what=what, todo=todo)


def fail(area: str, what: str, todo: str = "") -> CheckResult:
    """Make a finding that keeps logs from arriving, or a secret from being one."""
    return CheckResult(level=Level.FAIL, area=area, what=what, todo=todo)
