"""What the package is made with: its version, the pages of the manual, and what completes commands in shells."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ddslogd.cli.main import commands
from ddslogd.config import loader
from support.places import ROOT

DEB = ROOT / "systemd/deb"
MODULE = Path("daemon/ddslogd/__init__.py")
WHO = {f"GIT_{role}_{what}": "somebody@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def run(*command: str | Path, **environ: str) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def needs(program: str) -> None:
    if shutil.which(program) is None:
        (pytest.fail if os.environ.get("DDSLOGD_SKIP_NOTHING") else pytest.skip)(f"{program} is missing")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with what the version is made of, without git."""
    (tmp_path / MODULE).parent.mkdir(parents=True)
    (tmp_path / "systemd/deb").mkdir(parents=True)
    shutil.copy(DEB / "version", tmp_path / "systemd/deb/version")
    (tmp_path / MODULE).write_text('__version__ = "1.2.0"\n')
    return tmp_path


@pytest.fixture
def checkout(tree: Path) -> Path:
    needs("git")
    run("git", "-C", tree, "init", "--quiet")
    return tree


def commit(tree: Path, date: str) -> None:
    run("git", "-C", tree, "add", "--all")
    options = ("--quiet", "--allow-empty", "--no-gpg-sign", "--no-verify", "--message", "A change")
    run("git", "-C", tree, "commit", *options, GIT_COMMITTER_DATE=date, **WHO)


def version(tree: Path, python: str = "3.11") -> str:
    return run(tree / "systemd/deb/version", python)


def grows(older: str, newer: str) -> bool:
    needs("dpkg")
    return subprocess.run(["dpkg", "--compare-versions", older, "lt", newer], check=False).returncode == 0


def test_each_commit_has_a_version_above_that_of_the_last(checkout: Path) -> None:
    """Also where somebody committed in another zone of time: both are the same morning in UTC."""
    commit(checkout, "2026-11-29T10:00:00+0900")
    first = version(checkout)
    commit(checkout, "2026-11-29T02:00:00+0000")
    second = version(checkout)

    assert re.fullmatch(r"1\.2\.0\+git20261129010000\.[0-9a-f]{9}\+python3\.11", first)
    assert re.fullmatch(r"1\.2\.0\+git20261129020000\.[0-9a-f]{9}\+python3\.11", second)
    assert grows(first, second)


def test_a_tree_with_changes_has_a_version_above_its_commit_s(checkout: Path) -> None:
    commit(checkout, "2026-11-28T10:00:00+0000")
    before = version(checkout)
    (checkout / "new").write_text("not committed")
    after = version(checkout)

    assert (grows(before, after), ".modified+" in after) == (True, True)


def test_a_tree_without_git_has_its_own_version(tree: Path) -> None:
    assert version(tree) == "1.2.0+python3.11"


@pytest.mark.parametrize("early", ["1.2.0rc1", "1.2.0.dev3", "1.2.0a2"])
def test_what_comes_before_a_release_is_below_it(tree: Path, early: str) -> None:
    release = version(tree)
    (tree / MODULE).write_text(f'__version__ = "{early}"\n')

    assert grows(version(tree), release)


def test_the_next_debian_s_package_is_above_this_one_s(tree: Path) -> None:
    assert grows(version(tree, "3.11"), version(tree, "3.13"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    for script in ("manual.py", "completions.py"):
        run(sys.executable, DEB / script, root)
    return root / "usr/share"


def page(written: Path, section: int, name: str) -> str:
    text = gzip.decompress((written / f"man/man{section}/{name}.{section}.gz").read_bytes()).decode()
    return text.replace("\\-", "-")


@pytest.mark.daemon
def test_the_manual_has_each_command_with_its_options(written: Path) -> None:
    sections = dict(re.findall(r'^\.SS "(.+)"\n((?:(?!\.S[SH] ).*\n)+)', page(written, 1, "ddslogd"), re.MULTILINE))
    context = click.Context(commands)
    known = {name: commands.get_command(context, name) for name in commands.list_commands(context)}

    assert sections.keys() == {name for name, command in known.items() if command is not None and not command.hidden}
    for name, text in sections.items():
        command = known[name]
        assert command is not None
        options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
        assert [option.opts[-1] for option in options if option.opts[-1] not in text] == []


def test_the_manual_has_each_setting_with_what_the_schema_says_of_it(written: Path) -> None:
    text, schema = page(written, 5, "ddslogd.yaml"), loader.schema()
    models = [schema, *schema["$defs"].values()]
    settings = [(key, node) for model in models for key, node in model.get("properties", {}).items()]

    tags = {tag.rpartition(".")[2] for tag in re.findall(r"^\.B (\S+)$", text, re.MULTILINE)}
    assert {key for key, _ in settings} - tags == set()
    said = [" ".join(node.get("description", "").replace('"', "\\(dq").split()) for _, node in settings]
    assert [one for one in said if one.replace("…", "\\[u2026]") not in text] == []


def test_the_document_of_all_settings_is_current() -> None:
    """What a model says of a setting is in config/README.md once `make schema` was run."""
    assert run(sys.executable, DEB / "settings_readme.py") == (ROOT / "config/README.md").read_text().strip()


@pytest.mark.parametrize("file", ["man1/ddslogd.1.gz", "man5/ddslogd.yaml.5.gz"])
def test_groff_finds_nothing_to_warn_of(written: Path, file: str) -> None:
    needs("man")

    text = run("man", "--warnings", "--local-file", written / "man" / file, LC_ALL="C.UTF-8", MANPAGER="cat")

    assert "SEE ALSO" in text


@pytest.mark.daemon
def test_the_manual_is_the_same_at_each_build(written: Path, tmp_path: Path) -> None:
    run(sys.executable, DEB / "manual.py", tmp_path, PYTHONHASHSEED="7")

    pages = sorted(path.relative_to(written) for path in (written / "man").rglob("*.gz"))
    assert [(tmp_path / "usr/share" / name).read_bytes() for name in pages] == [
        (written / name).read_bytes() for name in pages
    ]


def test_bash_completes_a_command_and_an_option(written: Path) -> None:
    script = written / "bash-completion/completions/ddslogd"
    program = f"""
        PATH={Path(sys.executable).parent}:$PATH
        source {script}
        COMP_WORDS=(ddslogd gap); COMP_CWORD=1; _ddslogd_completion ddslogd; echo "${{COMPREPLY[@]}}"
        COMPREPLY=()
        COMP_WORDS=(ddslogd gaps --si); COMP_CWORD=2; _ddslogd_completion ddslogd; echo "${{COMPREPLY[@]}}"
    """
    assert run("bash", "-c", program) == "gaps\n--since"


def test_zsh_and_fish_have_theirs(written: Path) -> None:
    zsh = (written / "zsh/vendor-completions/_ddslogd").read_text()
    fish = (written / "fish/vendor_completions.d/ddslogd.fish").read_text()

    assert (zsh.startswith("#compdef ddslogd\n"), "complete --no-files --command ddslogd" in fish) == (True, True)
