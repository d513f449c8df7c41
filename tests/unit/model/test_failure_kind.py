from __future__ import annotations

import importlib
import pkgutil
import re
from typing import TYPE_CHECKING

import pytest

import ddslogd
from ddslogd.model import errors
from ddslogd.model.failure_kind import FailureKind, Owner

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOTS = {errors.DdslogdError, errors.CloudError, errors.TransferError}
OF_NO_ERROR = {
    FailureKind.TIMEOUT,
    FailureKind.EXPORT_FAILED,
    FailureKind.EXPORT_PENDING,
    FailureKind.LEFT_OUT,
    FailureKind.SOURCE_STALLED,
    FailureKind.UNKNOWN,
}


def every(error: type[errors.DdslogdError]) -> Iterator[type[errors.DdslogdError]]:
    yield error
    for below in error.__subclasses__():
        yield from every(below)


def every_error() -> list[type[errors.DdslogdError]]:
    """Return all errors of the package, wherever they are defined."""
    for module in pkgutil.walk_packages(ddslogd.__path__, "ddslogd."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return [error for error in every(errors.DdslogdError) if error.__module__.startswith("ddslogd.")]


def test_every_error_has_a_kind_of_its_own() -> None:
    """But the roots, which say nothing; and what is more special than its parent is only so for who catches it."""
    without = [error for error in every_error() if error.kind is FailureKind.UNKNOWN]
    kinds = [error.kind for error in every_error() if "kind" in vars(error) and error not in ROOTS]

    assert set(without) == ROOTS
    assert sorted(kinds) == sorted(set(FailureKind) - OF_NO_ERROR)


@pytest.mark.parametrize("kind", FailureKind)
def test_every_kind_has_a_word_an_owner_and_an_advice(kind: FailureKind) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.value)
    assert (type(kind.owner), kind.advice.strip()) == (Owner, kind.advice)
    assert kind.advice


def test_a_stored_word_that_this_version_does_not_know_is_unknown() -> None:
    assert [FailureKind.read(word) for word in ("no_room", "of_tomorrow", "")] == ["no_room", "unknown", "unknown"]
