"""How a request says who we are: what every way to do so offers, and what they share.

An account locks after some failures (IAM: five logins in 15 minutes, five signatures in a row), so what was refused is
not repeated until a cool-down is over or the operator has put another secret in its place; and what nothing has
accepted yet is tried by one call at a time.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from ddslogd.model.errors import CredentialsRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Mapping
    from datetime import timedelta

    from ddslogd.scheduling.clock import Clock

log = structlog.get_logger()
"""Where the unit has its credentials from: LoadCredential=NAME:/etc/ddslogd/NAME."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is going to be sent; a signature covers all of it.

    Attributes:
        url: In the form that ``signing.wire_url`` gives.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What says of one request who sends it.

    Attributes:
        headers: To be added to the request's own.
        secret: What they were made with: equal for all requests that are accepted or refused alike.
    """

    headers: Mapping[str, str] = field(repr=False)
    secret: Hashable = field(repr=False)


class Credentials(Protocol):
    """Says who we are, on a request."""

    @property
    def todo(self) -> str:
        """What lets the next call be accepted, where they are refused."""

    async def authenticate(self, request: Request) -> Proof:
        """Return what authenticates a request, to be sent at once: a signature ages.

        Raises:
            CredentialsRefused: They were refused, and it is too early to try again.
            Unavailable: Whoever issues them gave no answer.
        """

    async def project_id(self) -> str:
        """Return the project the credentials are for; raises as ``authenticate`` does."""

    async def renew(self, refused: Proof, *, sure: bool) -> bool:
        """Put another in the place of a refused proof; tell whether one more call is worth it.

        ``sure`` is False where the cloud spoke of a missing right, which an old token only may be the reason of.
        """

    async def give_up(self, refused: Proof) -> None:
        """Hear that the new proof was refused as well: begin a cool-down."""


class Trial:
    """Lets one call at a time use a secret that no call has proven yet; the others wait for how it goes."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()
        self._proven: Hashable = None

    @asynccontextmanager
    async def of(self, secret: Hashable) -> AsyncIterator[None]:
        """Wait for a turn with this secret; none is needed once it is proven."""
        async with AsyncExitStack() as stack:
            if secret != self._proven:
                await stack.enter_async_context(self._one)
            if secret == self._proven:
                await stack.aclose()  # another call has proven it meanwhile: those behind need not wait for this one
            yield

    def accepted(self, secret: Hashable) -> None:
        """Hear that the cloud knows who we are."""
        self._proven = secret

    def refused(self) -> None:
        """Hear that it does not, or not any more."""
        self._proven = None


class Refusal:
    """Remembers a secret that was refused, until the cool-down is over or another one is there."""

    def __init__(self, cloud: str, clock: Clock, cool_down: timedelta, *, todo: str) -> None:
        """Prepare.

        Args:
            cloud: For the journal.
            clock: For the cool-down.
            cool_down: How long a refused secret rests.
            todo: What puts another secret to use; what is to be done now is in the attribute of that name.
        """
        self._cloud = cloud
        self._clock = clock
        self._cool_down = cool_down
        self._usual_todo = self.todo = todo
        self._secret: Hashable = None
        self._reason = ""
        self._until = clock.now()
        self._until_s = 0.0  # the same by the steady clock, which decides: the other one may be set

    def note(self, secret: Hashable, reason: str, *, todo: str = "") -> None:
        """Begin the cool-down of a secret, and say why; with what is to be done where another secret is no help."""
        self.todo = todo or self._usual_todo
        self._secret, self._reason = secret, reason
        self._until = self._clock.now() + self._cool_down
        self._until_s = self._clock.monotonic() + self._cool_down.total_seconds()
        until = self._until.isoformat(timespec="seconds")
        log.error("credentials.refused", cloud=self._cloud, reason=reason, not_tried_before=until, todo=self.todo)

    def check(self, secret: Hashable) -> None:
        """Pass, unless this very secret cools down.

        Raises:
            CredentialsRefused: It does.
        """
        if secret == self._secret and self._clock.monotonic() < self._until_s:
            until = self._until.isoformat(timespec="seconds")
            raise CredentialsRefused(
                f"{self._reason}; not tried again before {until}, or with another secret: {self.todo}"
            )
