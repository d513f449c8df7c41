"""How hard one file is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ddslogd.download.retry_policy import FRUITFUL, LONGEST_RETRY_AFTER_S, LONGEST_WAIT_S, MOST_STARVED, Effort
from ddslogd.model.errors import Changed, Corrupt, Interrupted, LinkRefused

if TYPE_CHECKING:
    from ddslogd.model.errors import TransferError


def cut() -> Interrupted:
    return Interrupted("cut")


def rounds(effort: Effort, exc: type[TransferError], *, received: int = 0) -> int:
    """Return how often it goes on until it gives up."""
    for number in range(1000):
        try:
            effort.judge(exc("x"), size=received * (number + 1))
        except exc:
            return number
    return 1000


@pytest.mark.parametrize("tries", [1, 2, 5])
def test_so_many_fruitless_requests_in_a_row_are_made(tries: int) -> None:
    assert rounds(Effort(tries=tries), Interrupted) == tries - 1


def test_a_request_that_brought_something_begins_the_count_anew() -> None:
    assert rounds(Effort(tries=1), Interrupted, received=FRUITFUL) == 1000


def test_a_trickle_is_no_progress() -> None:
    assert rounds(Effort(tries=5), Interrupted, received=FRUITFUL - 1) == 4


def test_what_has_to_be_thrown_away_is_no_progress() -> None:
    assert rounds(Effort(tries=5), Changed, received=FRUITFUL) == 4


def test_wrong_bytes_are_fetched_again_once() -> None:
    assert rounds(Effort(tries=100), Corrupt) == 1


def test_a_refused_link_is_renewed_at_once() -> None:
    effort = Effort(tries=1)

    assert (effort.judge(LinkRefused("403"), size=0), effort.refused) == (0.0, True)


def test_a_new_link_that_is_refused_too_ends_it() -> None:
    effort = Effort(tries=100)
    effort.judge(LinkRefused("403"), size=0)

    with pytest.raises(LinkRefused, match="neither the new link"):
        effort.judge(LinkRefused("403"), size=0)


def test_a_refusal_after_a_renewal_that_worked_is_renewed_again() -> None:
    effort = Effort(tries=10)
    effort.judge(LinkRefused("403"), size=0)
    effort.judge(cut(), size=FRUITFUL)

    effort.judge(LinkRefused("403"), size=FRUITFUL)

    assert effort.refused


def test_refusals_and_cuts_in_turns_end_as_well() -> None:
    effort = Effort(tries=5)
    for _ in range(2):
        effort.judge(LinkRefused("403"), size=0)
        effort.judge(cut(), size=0)
    effort.judge(LinkRefused("403"), size=0)

    with pytest.raises(Interrupted):
        effort.judge(cut(), size=0)


def test_waits_have_a_floor_and_a_ceiling() -> None:
    effort = Effort(tries=50)

    waits = [effort.judge(cut(), size=0) for _ in range(49)]

    assert (min(waits) >= 0.5, max(waits) <= LONGEST_WAIT_S) == (True, True)


@pytest.mark.parametrize(("asked", "expected"), [(3.0, 3.0), (86_400.0, LONGEST_RETRY_AFTER_S)])
def test_the_store_may_say_how_long_up_to_a_limit(asked: float, expected: float) -> None:
    assert Effort(tries=5).judge(Interrupted("busy", retry_after_s=asked), size=0) == expected


def test_links_that_die_in_the_queue_again_and_again_end_it() -> None:
    effort = Effort(tries=5)
    for _ in range(MOST_STARVED - 1):
        effort.starved()

    with pytest.raises(LinkRefused, match=r"raise download\.concurrent"):
        effort.starved()


def test_to_begin_from_zero_again_and_again_is_no_progress() -> None:
    """A store that cannot resume and cuts at the same place each time would be asked for ever."""
    effort = Effort(tries=3)
    waits = [effort.judge(cut(), size=FRUITFUL * 2) for _ in range(3)]

    with pytest.raises(Interrupted):
        effort.judge(cut(), size=FRUITFUL * 2)

    assert len(waits) == 3
