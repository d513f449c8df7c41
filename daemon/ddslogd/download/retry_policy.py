"""How hard one file is tried: when to go on, when to have a new link, when to give up. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddslogd.model.errors import Corrupt, Interrupted, LinkRefused, ObjectGone, TooSlow
from ddslogd.scheduling.backoff import full_jitter

if TYPE_CHECKING:
    from ddslogd.model.errors import TransferError

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 20.0
LONGEST_RETRY_AFTER_S = 60.0
FRUITFUL = 64 * 1024  # bytes: a request that brought as much is progress, and the tries begin again
MOST_STARVED = 20  # times that a link dies before it has a slot


class Effort:
    """The tries of one file in one cycle.

    Attributes:
        requests: Made so far.
        request_id: The object store's, of the last one; for its support.
        refused: The link was refused last: renew it before anything else.
        framed: The end of the last body said that it was the end, by a length or by a last chunk.
    """

    def __init__(self, *, tries: int) -> None:
        """Begin; ``tries`` requests in a row may bring nothing."""
        self.requests = 0
        self.request_id = ""
        self.refused = False
        self.framed = False
        self._tries = tries
        self._fruitless = 0  # requests in a row
        self._most = 0  # bytes that were ever on disk
        self._was_corrupt = False
        self._starved = 0
        self._waits = full_jitter(FIRST_WAIT_S, LONGEST_WAIT_S)

    @property
    def is_last(self) -> bool:
        """Return whether only one more request may bring nothing."""
        return self._fruitless + 2 >= self._tries

    def starved(self) -> None:
        """Record that a link died before it had a slot.

        Raises:
            LinkRefused: That went on for too long.
        """
        self._starved += 1
        if self._starved >= MOST_STARVED:
            raise LinkRefused("the links of this file died before a slot was free: raise download.concurrent")

    def judge(self, exc: TransferError, *, size: int) -> float:
        """Return the seconds to wait before the next request, or raise where there is to be none.

        Args:
            exc: How the last request failed.
            size: Bytes of the file that are on disk now. What has to be fetched again is no progress.

        Raises:
            TransferError: The given one, or one that says more.
        """
        twice, self.refused = self.refused, isinstance(exc, LinkRefused)
        self._count(exc, size)
        match exc:
            case ObjectGone() if twice:
                todo = "wait, the next cycle asks for it again; if it stays, open a ticket"
                raise ObjectGone(f"{exc}, and the new link leads there too: {todo}")
            case LinkRefused() if twice:
                raise LinkRefused(f"{exc}, and neither the new link after it: see the account's rights and the clock")
            case Corrupt() if self._was_corrupt:
                raise exc
            case Corrupt():
                self._was_corrupt = True
            case LinkRefused() if self._fruitless <= self._tries:
                return 0.0
            case _ if self._fruitless >= self._tries:
                raise exc
            case TooSlow():
                return 0.0  # it waits for its next slot, behind the others
            case _:
                pass
        asked = exc.retry_after_s if isinstance(exc, Interrupted) else None
        return next(self._waits) if asked is None else min(asked, LONGEST_RETRY_AFTER_S)

    def _count(self, exc: TransferError, size: int) -> None:
        goes_on = isinstance(exc, Interrupted) and not isinstance(exc, TooSlow)
        fruitful = goes_on and size - self._most >= FRUITFUL
        self._most = max(self._most, size)
        if fruitful:
            self._fruitless = 0
            self._waits = full_jitter(FIRST_WAIT_S, LONGEST_WAIT_S)
        else:
            self._fruitless += 1
