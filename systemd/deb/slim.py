"""Removes from a virtualenv what ddslogd never imports: modules for tests, and lexers of pygments. Called by build."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

TESTS = (
    "**/tests",
    "**/test",
    "**/test_*",
    "**/*_test.py",
    "**/conftest.py",
    "**/pytest_plugin.py",
    "**/_testcapi*.so",
)
CLICK_TESTING = "click/testing.py"  # by name: structlog imports its own module of that name
KEPT_LEXERS = ("python", "special")  # for tracebacks of rich, and for what is no code
# Written by pip: where the package was built, and commands that are not taken along.
UNTRUE_RECORDS = re.compile(r"[^,]*direct_url\.json,|\.\./\.\./\.\./bin/")


def main(site: Path) -> None:
    """Remove them, and the lines of RECORD that name what is gone."""
    for pattern in TESTS:
        for path in list(site.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    _remove_lexers(site / "pygments/lexers")
    for record in site.glob("*.dist-info/RECORD"):
        record.with_name("direct_url.json").unlink(missing_ok=True)
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(line for line in lines if _is_true(line, site)))


def _is_true(line: str, site: Path) -> bool:
    name = line[1:].partition('"')[0] if line.startswith('"') else line.partition(",")[0]
    return not UNTRUE_RECORDS.match(line) and (site / name).exists()


def _remove_lexers(lexers: Path) -> None:
    """Remove modules, and their entries in the table by which pygments looks for a lexer."""
    kept = {f"{name}.py" for name in (*KEPT_LEXERS, "__init__", "_mapping")}
    for path in lexers.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    names = "|".join(KEPT_LEXERS)
    entry = re.compile(rf"    '\w+': \('pygments\.lexers\.(?!(?:{names})')")
    table = lexers / "_mapping.py"
    table.write_text("".join(line for line in table.read_text().splitlines(keepends=True) if not entry.match(line)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
