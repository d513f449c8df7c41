"""What a checkout offers by `make`, and before a commit."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import yaml

from support.places import ROOT
from support.programs import needed

MAKEFILE = (ROOT / "Makefile").read_text().replace("\\\n", " ")


def made(*arguments: str) -> str:
    """Return what a make prints that is nobody's part: pytest may be one of another make's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    make = needed("make", "install make")
    done = subprocess.run([make, *arguments], cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_make_alone_shows_what_there_is() -> None:
    assert made() == made("help")


def test_the_help_names_each_target_that_somebody_types() -> None:
    (phony,) = re.findall(r"(?m)^\.PHONY: (.*)$", MAKEFILE)
    (benches,) = re.findall(r"(?m)^BENCHES := (.*)$", MAKEFILE)

    shown = re.findall(r"(?m)^make (\S+) +\S", made("help"))
    assert sorted(shown) == sorted(phony.replace("$(BENCHES)", benches).split())


def test_before_a_commit_the_same_is_looked_at_as_by_make_lint() -> None:
    hooks = [
        hook
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repo["hooks"]
    ]
    recipe = made("--dry-run", "--assume-old=.venv/.installed", "lint")

    assert [hook["entry"] for hook in hooks] == recipe.splitlines()
    assert {(hook["language"], hook["pass_filenames"]) for hook in hooks} == {("system", False)}


def test_each_file_with_a_slow_test_is_run_by_a_target() -> None:
    """What is marked and named nowhere would never be run again."""
    named = {path for pattern in re.findall(r"tests/\S+\.py", MAKEFILE) for path in ROOT.glob(pattern)}
    marked = {path for path in ROOT.glob("tests/*/**/test_*.py") if "pytest.mark.slow" in path.read_text()}

    assert (marked - named - {Path(__file__)}, bool(marked)) == (set(), True)
