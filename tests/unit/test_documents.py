"""Documents that people read: short where they begin, and without a link that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ddslogd.config import loader
from support.markdown import anchors, links
from support.places import ROOT

DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("config/README.md", "daemon/README.md", "systemd/README.md"),
]
INSTALLED = "/usr/share/doc/ddslogd"


def broken(document: str) -> list[str]:
    """Return the links that lead to no file, or to no heading in it."""
    found = []
    for target in links((ROOT / document).read_text()):
        path, _, anchor = target.partition("#")
        there = (ROOT / document).parent / path if path else ROOT / document
        if not there.exists() or (anchor and anchor not in anchors(there.read_text())):
            found.append(target)
    return found


def test_the_readme_is_read_in_minutes() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8 * 1024


def test_the_configuration_in_the_readme_can_be_used(tmp_path: Path) -> None:
    (text,) = re.findall(r"(?ms)^```yaml\n(.*?)^```$", (ROOT / "README.md").read_text())
    config = tmp_path / "ddslogd.yaml"
    config.write_text(text)

    assert loader.load(config).warnings == ()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_link_leads_to_a_file_and_a_heading_in_it(document: str) -> None:
    assert broken(document) == []


def test_all_documents_are_looked_at() -> None:
    folders = [ROOT / folder for folder in ("config", "daemon", "systemd", "tests")]
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]

    assert sorted(str(path.relative_to(ROOT)) for path in found) == sorted(DOCUMENTS)


def test_installed_documents_lead_to_what_is_installed() -> None:
    """Below one directory, by the folders of the tree."""
    contents = yaml.safe_load((ROOT / "systemd/deb/nfpm.yaml").read_text())["contents"]
    installed = {entry["src"].removesuffix("/*"): entry["dst"].rstrip("/") for entry in contents if "src" in entry}
    documents = [src for src in installed if src in DOCUMENTS]

    assert {"systemd/README.md", "config/README.md"} <= set(documents)
    for document in documents:
        targets = {path for target in links((ROOT / document).read_text()) if (path := target.partition("#")[0])}
        sources = {str(((ROOT / document).parent / path).resolve().relative_to(ROOT)) for path in targets}
        assert [one for one in sources if installed.get(one) != f"{INSTALLED}/{one}"] == [], document


def test_each_test_that_a_promise_names_is_there() -> None:
    """In the file that is named before it."""
    text = (ROOT / "daemon/README.md").read_text()
    promises = text[text.index("## Promises") : text.index("## Benchmarks")]
    named = re.findall(r"\]\(\.\./(tests/[^)]+)\)|`(test_\w+)`", promises)

    path, missing = Path(), []
    for file, function in named:
        path = ROOT / file if file else path
        if function and f"def {function}(" not in path.read_text():
            missing.append(function)
    assert named
    assert missing == []
