"""Other users of the host."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


@contextmanager
def being(user: int, group: int | None = None) -> Iterator[None]:
    """Be another user meanwhile, with one group."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    groups, own = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(user if group is None else group)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(own)
        os.setgroups(groups)
