"""What make and the build of the package install is locked: by hash, the build's own tools too."""

from __future__ import annotations

import re

import pytest

from support.places import ROOT

RECIPES = ("Makefile", ".ci/run", ".ci/debian", ".ci/pythons", "systemd/deb/build")
HASHED, OFFLINE = "--require-hashes", "--no-index"


def fetches(recipe: str) -> list[str]:
    text = (ROOT / recipe).read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if re.search(r"\bpip\b.* (install|wheel|download)\b", line)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_pip_fetches_nothing_without_its_hash(recipe: str) -> None:
    """With --no-index it fetches nothing at all, a build's requirements included."""
    loose = [line for line in fetches(recipe) if HASHED not in line and OFFLINE not in line]

    assert loose == []


def test_the_recipes_are_read() -> None:
    assert [len(fetches(recipe)) > 0 for recipe in RECIPES] == [True, False, False, True, True]


@pytest.mark.parametrize("lock", ["requirements", "deb"])
def test_what_builds_the_wheel_is_locked(lock: str) -> None:
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / f".ci/{lock}.lock").read_text(), re.MULTILINE))

    assert {"hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers"} - pinned == set()


@pytest.mark.parametrize("lock", sorted(path.name for path in (ROOT / ".ci").glob("*.lock")))
def test_a_lock_names_no_registry(lock: str) -> None:
    assert re.findall(r"\w+://|--(?:extra-)?index-url|--find-links", (ROOT / ".ci" / lock).read_text()) == []
