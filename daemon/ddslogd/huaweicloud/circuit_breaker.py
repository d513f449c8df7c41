"""Stops calls to a cloud that cannot be reached, and probes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from ddslogd.model.errors import CloudError, Unavailable

if TYPE_CHECKING:
    from ddslogd.scheduling.clock import Clock

log = structlog.get_logger()

OPEN_AFTER = 5  # calls in a row without an answer
FIRST_PROBE_S = 5.0
LONGEST_PROBE_S = 300.0


class Circuit:
    """Stops calling where nobody answers: after some silent calls one is let through now and then, as a probe."""

    def __init__(self, *, clock: Clock, name: str) -> None:
        self._clock = clock
        self._name = name
        self._silent = 0
        self._probe_at = 0.0  # by the steady clock
        self._probing = False
        self._last: CloudError | None = None

    @property
    def silence(self) -> str:
        """Return why nobody answers, as of the last call; empty while calls pass."""
        return "" if self.closed or self._last is None else str(self._last)

    @property
    def closed(self) -> bool:
        """Return whether calls pass."""
        return self._silent < OPEN_AFTER

    def check(self) -> None:
        """Refuse at once what could not pass now.

        Raises:
            Unavailable: The circuit is open, and somebody else probes or it is too early to.
        """
        if self._silent >= OPEN_AFTER and (self._probing or self._clock.monotonic() < self._probe_at):
            kind = type(self._last) if isinstance(self._last, Unavailable) else Unavailable
            text = f"{self._name} gave no answer to the last {self._silent} calls, and is probed now and then"
            raise kind(f"{text}: {self._last or 'wait'}")

    def enter(self) -> bool:
        """Pass, or be refused as by ``check``; tell whether this call is the probe."""
        self.check()
        self._probing = self._silent >= OPEN_AFTER
        return self._probing

    def left(self, *, probe: bool, answered: bool | None, error: CloudError | None = None) -> None:
        """Record how a call that entered ended; None where it was broken off."""
        if probe:
            self._probing = False
        match answered:
            case True:
                if self._silent >= OPEN_AFTER:
                    log.info("account.reached_again", cloud=self._name, silent_calls=self._silent)
                self._silent = 0
            case False:
                self._silent += 1
                self._last = error
                doublings = min(max(self._silent - OPEN_AFTER, 0), 16)
                self._probe_at = self._clock.monotonic() + min(LONGEST_PROBE_S, FIRST_PROBE_S * 2**doublings)
                if self._silent == OPEN_AFTER:
                    reason = str(error) if error else ""
                    log.warning("account.unreachable", cloud=self._name, silent_calls=self._silent, reason=reason)
            case None:
                pass
