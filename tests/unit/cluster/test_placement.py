"""Which member is to own which instance: all come to the same result, and little moves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from ddslogd.cluster.leases import Lease
from ddslogd.cluster.placement import MOST_MOVES, Placement, placed, ranking
from ddslogd.model.cluster import Epoch, Member

WAIT = timedelta(seconds=120)
NOW = timedelta(0)
FLEET = [f"instance {number}" for number in range(600)]


def member(name: str, *, weight: int = 1, draining: bool = False) -> Member:
    return Member(name=name, version="1", address="", weight=weight, draining=draining, age=NOW)


A, B, C = member("a"), member("b"), member("c")


def lease(
    instance: str, collector: str | None = None, *, free_for: timedelta = NOW, asked_by: str | None = None
) -> Lease:
    epoch = Epoch(number=1)
    return Lease(instance=instance, epoch=epoch, collector=collector, free_for=free_for, asked_by=asked_by)


def plan(me: Member, *leases: Lease, members: tuple[Member, ...] = (A, B, C), fleet: list[str] = FLEET) -> Placement:
    return placed(me.name, fleet=fleet, members=members, leases={one.instance: one for one in leases}, wait=WAIT)


def firsts(*members: Member) -> dict[str, str]:
    return {instance: ranking(instance, members)[0] for instance in FLEET}


OF_A = next(instance for instance in FLEET if ranking(instance, [A, B, C]) == ["a", "b", "c"])


NAMES = st.sets(st.text(min_size=1, max_size=8), min_size=2, max_size=6)


@given(names=NAMES, instance=st.text(max_size=40), order=st.randoms())
def test_all_members_come_to_the_same_ranking(names: set[str], instance: str, order: object) -> None:
    members = [member(name) for name in sorted(names)]
    mixed = members.copy()
    order.shuffle(mixed)  # type: ignore[attr-defined]  # hypothesis gives a Random

    assert ranking(instance, mixed) == ranking(instance, members)


@given(names=NAMES, instance=st.text(max_size=40))
def test_who_goes_takes_nobody_elses_place(names: set[str], instance: str) -> None:
    """Those that stay keep their order, so that only what the one that went had moves."""
    gone, *others = sorted(names)

    remaining = ranking(instance, map(member, others))
    assert remaining == [name for name in ranking(instance, map(member, names)) if name != gone]


def test_the_shares_of_equal_members_are_about_equal() -> None:
    shares = Counter(firsts(A, B, C).values())

    assert all(150 < share < 250 for share in shares.values()), shares


def test_the_shares_are_by_weight() -> None:
    shares = Counter(firsts(A, replace(B, weight=3)).values())

    assert 2.4 < shares["b"] / shares["a"] < 3.7, shares


def test_a_new_member_takes_its_share_and_nothing_else_moves() -> None:
    before, after = firsts(A, B), firsts(A, B, C)

    moved = {after[instance] for instance in FLEET if after[instance] != before[instance]}
    assert moved == {"c"}


def test_what_is_free_is_claimed_by_who_is_to_own_it() -> None:
    claims = [plan(one, *map(lease, FLEET)).claims for one in (A, B, C)]

    assert sorted(instance for one in claims for instance in one) == sorted(FLEET)


def test_what_its_first_does_not_claim_the_next_in_the_ranking_claims_after_a_wait() -> None:
    """The first may have another configuration, in which the instance is not."""
    free = [lease(OF_A, free_for=waited * WAIT) for waited in (0, 1, 2)]

    claims = [[bool(plan(one, lease).claims) for lease in free] for one in (A, B, C)]
    assert claims == [[True, True, True], [False, True, True], [False, False, True]]


def test_what_somebody_owns_is_never_claimed() -> None:
    owned = lease(OF_A, "b", free_for=-WAIT)

    assert [plan(one, owned).claims for one in (A, B, C)] == [frozenset()] * 3


def test_what_is_not_in_the_fleet_is_neither_claimed_nor_asked_for() -> None:
    leases = lease(OF_A), lease(FLEET[1], "b")

    assert plan(A, *leases, fleet=[]) == Placement()


def test_a_member_asks_for_its_share_a_few_at_a_time() -> None:
    leases = [lease(instance, "b") for instance in FLEET]

    asks = [plan(one, *leases).asks for one in (A, B, C)]
    assert [len(one) for one in asks] == [MOST_MOVES, 0, MOST_MOVES]
    assert {ranking(instance, [A, B, C])[0] for instance in asks[0]} == {"a"}


def test_a_member_asks_once_for_an_instance() -> None:
    assert plan(A, lease(OF_A, "b", asked_by="a")) == Placement()


def test_nobody_asks_a_member_that_is_dead() -> None:
    """Its lease ends by itself."""
    assert plan(A, lease(OF_A, "dead")) == Placement()


def test_an_owner_hands_over_to_who_is_to_own_it_and_to_nobody_else() -> None:
    leaving = {asker: plan(B, lease(OF_A, "b", asked_by=asker)).leaving for asker in ("a", "c", "dead", None)}

    assert leaving == {"a": {OF_A}, "c": frozenset(), "dead": frozenset(), None: frozenset()}


def test_an_instance_stays_with_its_owner_whoever_is_to_own_it() -> None:
    assert plan(B, lease(OF_A, "b")) == Placement()


def test_what_is_in_the_fleet_no_more_is_handed_over() -> None:
    assert plan(A, lease(OF_A, "a"), fleet=[]).leaving == {OF_A}


def test_a_drained_member_hands_over_all_and_takes_nothing() -> None:
    drained = replace(A, draining=True)
    leases = lease(OF_A, "a"), lease(FLEET[0]), lease(FLEET[1], "b")

    assert plan(drained, *leases, members=(drained, B)) == Placement(leaving=frozenset({OF_A}))


def test_a_drained_member_that_is_alone_keeps_what_it_has() -> None:
    """There is nobody to hand it to; the logs go on until it stops."""
    drained = replace(A, draining=True)

    assert plan(drained, lease(OF_A, "a"), members=(drained, replace(B, draining=True))).leaving == frozenset()


def test_what_a_drained_member_releases_goes_to_the_others() -> None:
    members = (replace(A, draining=True), B, C)

    assert [bool(plan(one, lease(OF_A), members=members).claims) for one in members] == [False, True, False]
