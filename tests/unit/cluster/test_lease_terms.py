from __future__ import annotations

from datetime import timedelta

from ddslogd.cluster.lease_terms import LeaseTerms


def test_two_renewals_in_a_row_may_fail_and_take_as_long_as_they_may() -> None:
    """The third begins while the lease is still used."""
    terms = LeaseTerms(ttl=timedelta(seconds=120))

    failed = terms.floor + terms.renew_every + terms.patience
    assert 2 * failed + terms.floor + terms.renew_every < terms.ttl - terms.margin
