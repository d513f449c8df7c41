"""What the credentials are good for: each call is made once, starts nothing, and is not repeated.

An account locks after some failures (IAM: five logins in 15 minutes, five signatures in a row). So there is one try,
and after a refusal none.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ddslogd.cloud import signing, wire
from ddslogd.cloud.credentials import Request
from ddslogd.errors import CloudError, CredentialsRefused, Gone, NotAllowed, Rejected, Unavailable
from ddslogd.findings import Finding, fail, ok, warn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from ddslogd.cloud.credentials import Credentials
    from ddslogd.cloud.http import Http, Reply
    from ddslogd.models import LogKind

PATIENCE_S: Final = 10.0
"""To connect, of silence, and for each step as a whole."""
_LIST: Final = "the list of instances (dds:instance:list)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Makes single calls to one account."""

    endpoint: str
    http: Http
    credentials: Credentials

    async def ask(self, method: str, path: Callable[[str], str], body: bytes) -> Reply:
        """Make a call, once.

        Raises:
            CloudError: It was refused, or no answer came in time.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._sent(method, path, body)
        except TimeoutError:
            raise Unavailable("no answer within 10 s") from None

    async def _sent(self, method: str, path: Callable[[str], str], body: bytes) -> Reply:
        url = signing.wire_url(self.endpoint + path(await self.credentials.project_id()))
        request = Request(method=method, url=url, headers=wire.JSON_HEADERS, body=body)
        proof = await self.credentials.authenticate(request)
        headers = {**request.headers, **proof.headers}
        reply = await self.http.call(request.method, request.url, headers=headers, body=request.body)
        if reply.status != 200:  # noqa: PLR2004  # the one status of a call that was done. dds_api_0096
            raise wire.read_error(reply.status, reply.headers, reply.body, now=self.http.now())
        return reply


async def granted(caller: Caller, *, kinds: Iterable[LogKind], discovers: bool) -> AsyncIterator[Finding]:
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
    listing = await _error(caller, "GET", wire.one_instance_path, b"")
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


def _no_login(exc: CloudError | TimeoutError) -> Finding:
    said = str(exc) if isinstance(exc, CloudError) else "no answer within 10 s"
    todo = "mend that, then run doctor again; it was tried once: some refusals more would lock the account for a while"
    if not isinstance(exc, CredentialsRefused):
        todo = "see what is said of the network above; check region, project_id and project_name"
    return fail("login", said, todo)


async def _error(caller: Caller, method: str, path: Callable[[str], str], body: bytes) -> CloudError | None:
    try:
        await caller.ask(method, path, body)
    except CloudError as exc:
        return exc
    return None


def _of_list(error: CloudError | None, *, discovers: bool) -> Finding:
    match error:
        case None:
            return ok("rights", f"{_LIST} is allowed")
        case NotAllowed() if discovers:
            return fail(
                "rights", f"{_LIST} is refused: {error}", "grant dds:instance:list: an entry discovers instances"
            )
        case NotAllowed():
            what = f"{_LIST} is refused, which costs the warning of nodes that are left out, and no more: {error}"
            return warn("rights", what, "grant dds:instance:list")
        case _:
            return fail("rights", f"{_LIST} cannot be asked for: {error}", "check endpoint, region and project_id")


async def _of_export(caller: Caller, kind: LogKind) -> Finding:
    """Ask for the logs of an instance that does not exist: who lacks the right is told that, the others the other.

    That the cloud looks at the right first is not documented. So a cycle alone proves it.
    """
    call = wire.LOG_EXPORTS[kind].call

    def path(project_id: str) -> str:
        return wire.export_path(project_id, wire.NO_INSTANCE, kind)

    error = await _error(caller, "POST", path, wire.export_body(()))
    match error:
        case None | Gone() | Rejected():
            said = error.code if error else "HTTP 200"
            what = f"{call} is not refused for lack of a right: of an instance that does not exist it says {said}"
            return ok("rights", f"{what} (that the right is looked at first is not known: a cycle proves it)")
        case NotAllowed():
            todo = "grant dds:instance:downloadErrorLog (of other logs the right's name is not known: see the console)"
            return fail("rights", f"{call} is refused: {error}", todo)
        case CredentialsRefused():
            return fail(
                "login", f"{call}: {error}", "the list was accepted before: run doctor once more in five minutes"
            )
        case _:
            return fail("rights", f"{call} cannot be asked for: {error}", "wait, and run doctor again")
