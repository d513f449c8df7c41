"""What the credentials are good for: each call is made once, starts nothing, and is not repeated.

An account locks after some failures (IAM: five logins in 15 minutes, five signatures in a row). So there is one try,
and after a refusal none.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ddslogd.doctor.check_result import CheckResult, fail, ok, warn
from ddslogd.huaweicloud.services.dds import DDS
from ddslogd.huaweicloud.single_call import PATIENCE_S, Caller
from ddslogd.model.errors import (
    CloudError,
    CredentialsRefused,
    ForeignAnswer,
    Gone,
    Misdirected,
    NotAllowed,
    Rejected,
    Unavailable,
)
from ddslogd.model.export import Selection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from ddslogd.model.instance import LogKind
SEE_PROXY: Final = "see the proxy and the firewall on the way: let DDS, IAM and OBS through; check endpoint"
_LIST: Final = f"the list of instances ({DDS.list_right})"


async def granted(caller: Caller, *, kinds: Iterable[LogKind], discovers: bool) -> AsyncIterator[CheckResult]:
    """Log in, and ask for each right.

    Args:
        caller: Of the account.
        kinds: The kinds of log that are collected.
        discovers: Whether the list of instances is needed.
    """
    try:
        async with asyncio.timeout(PATIENCE_S):
            project = await caller.credentials.project_id()
    except (CloudError, TimeoutError) as exc:
        yield _no_login(exc)
        return
    listing = await _error(caller, "GET", DDS.one_instance_path, b"")
    if isinstance(listing, CredentialsRefused):
        yield _no_login(listing)
        return
    if listing is None or isinstance(listing, NotAllowed):
        yield ok("login", f"the cloud accepts the credentials, for the project {project}; tried once")
    yield _of_list(listing, discovers=discovers)
    if isinstance(listing, Unavailable):
        return
    for kind in kinds:
        yield await _of_export(caller, kind)


def _no_login(exc: CloudError | TimeoutError) -> CheckResult:
    said = str(exc) if isinstance(exc, CloudError) else "no answer within 10 s"
    todo = "fix that, then run doctor again; it was tried once: some refusals more would lock the account for a while"
    if not isinstance(exc, CredentialsRefused):
        todo = "see what is said of the network above; check region, project_id and project_name"
    return fail("login", said, todo)


async def _error(caller: Caller, method: str, path: Callable[[str], str], body: bytes) -> CloudError | None:
    try:
        await caller.ask(method, path, body)
    except CloudError as exc:
        return exc
    return None


def _of_list(error: CloudError | None, *, discovers: bool) -> CheckResult:
    match error:
        case None:
            return ok("rights", f"{_LIST} is allowed")
        case NotAllowed() if discovers:
            return fail(
                "rights", f"{_LIST} is refused: {error}", f"grant {DDS.list_right}: an entry discovers instances"
            )
        case NotAllowed():
            what = f"{_LIST} is refused, which costs the warning of nodes that are left out, and no more: {error}"
            return warn("rights", what, f"grant {DDS.list_right}")
        case ForeignAnswer():
            return fail("rights", f"{_LIST} cannot be asked for: {error}", SEE_PROXY)
        case _:
            return fail("rights", f"{_LIST} cannot be asked for: {error}", "check endpoint, region and project_id")


async def _of_export(caller: Caller, kind: LogKind) -> CheckResult:
    """Ask for the logs of an instance that does not exist: who lacks the right is told that, the others the other.

    That the cloud looks at the right first is not documented. So a cycle alone proves it.
    """
    call = DDS.exports[kind].call

    def path(project_id: str) -> str:
        return DDS.export_path(project_id, DDS.no_instance, kind)

    error = await _error(caller, "POST", path, DDS.export_body(Selection()))
    match error:
        case None | Gone() | Rejected():
            said = error.code if error else "HTTP 200"
            what = f"{call} is not refused for lack of a right: of an instance that does not exist it says {said}"
            return ok("rights", f"{what} (that the right is looked at first is not known: a cycle proves it)")
        case NotAllowed():
            return fail("rights", f"{call} is refused: {error}", f"grant {DDS.exports[kind].right}")
        case CredentialsRefused():
            return fail(
                "login", f"{call}: {error}", "the list was accepted before: run doctor once more in five minutes"
            )
        case Misdirected():
            return fail("rights", f"{call} cannot be asked for: {error}", "check endpoint and region")
        case ForeignAnswer():
            return fail("rights", f"{call} cannot be asked for: {error}", SEE_PROXY)
        case _:
            return fail("rights", f"{call} cannot be asked for: {error}", "wait, and run doctor again")
