"""One cause over many instances is one warning, with a count."""

from __future__ import annotations

from ddslogd.collection.shared_causes import SharedCauses
from ddslogd.model.failure_kind import FailureKind

REFUSED = FailureKind.CREDENTIALS_REFUSED


def fail(causes: SharedCauses, *numbers: int, cloud: str = "eu", kind: FailureKind = REFUSED) -> list[bool]:
    return [causes.failed(f"i-{number}", cloud=cloud, kind=kind, reason="no token") for number in numbers]


def news(causes: SharedCauses) -> list[tuple[str, str, int]]:
    return [(cause.cloud, cause.kind, len(cause.instances)) for cause in causes.news()]


def test_the_first_instance_speaks_for_itself_and_the_others_together() -> None:
    causes = SharedCauses()

    assert fail(causes, *range(3000)).count(False) == 1
    assert news(causes) == [("eu", "credentials_refused", 3000)]
    assert news(causes) == []


def test_one_instance_alone_is_no_shared_cause() -> None:
    causes = SharedCauses()

    assert (fail(causes, 1, 1, 1), news(causes)) == ([False, False, False], [])


def test_it_is_reported_again_where_it_hits_twice_as_many() -> None:
    causes = SharedCauses()
    fail(causes, *range(10))
    news(causes)
    fail(causes, *range(19))
    quiet = news(causes)
    fail(causes, 19)

    assert (quiet, news(causes)) == ([], [("eu", "credentials_refused", 20)])


def test_its_end_is_reported_once() -> None:
    causes = SharedCauses()
    fail(causes, 1, 2)
    news(causes)
    causes.ended("i-1")
    not_yet = news(causes)
    causes.ended("i-2")

    assert (not_yet, news(causes), news(causes)) == ([], [("eu", "credentials_refused", 0)], [])


def test_clouds_and_kinds_are_causes_of_their_own() -> None:
    causes = SharedCauses()

    assert (fail(causes, 1), fail(causes, 2, cloud="asia"), fail(causes, 3, kind=FailureKind.UNAVAILABLE)) == (
        [False],
        [False],
        [False],
    )


def test_an_instance_fails_for_one_cause_at_a_time() -> None:
    causes = SharedCauses()
    fail(causes, 1, 2)
    fail(causes, 1, 2, kind=FailureKind.UNAVAILABLE)

    assert news(causes) == [("eu", "unavailable", 2)]
