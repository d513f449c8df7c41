"""The Debian package: built, then installed, upgraded and purged in a Debian of its own. `make test-deb` runs this."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / ".venv-deb/bin"
CONFIG, STATE, LOGS = Path("etc/ddslogd"), Path("var/lib/ddslogd"), Path("var/log/ddslogd")

pytestmark = pytest.mark.slow


def unavailable(reason: str) -> None:
    """Skip, or fail where nothing may be skipped."""
    (pytest.fail if os.environ.get("DDSLOGD_SKIP_NOTHING") else pytest.skip)(reason)


def run(*command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ, **environ}, cwd=ROOT
    )


class Debian:
    """The root directory of a Debian 12."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in it, with a /proc that goes when it ends."""
        script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        return run(
            *("unshare", "--mount", "--pid", "--fork", "sh", "-c", script, str(self.root), *command),
            DEBIAN_FRONTEND="noninteractive",
            LC_ALL="C.UTF-8",
        )

    def dpkg(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = self.run("dpkg", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def install(self, package: Path) -> str:
        shutil.copy(package, self.root / "tmp/ddslogd.deb")
        done = self.dpkg("--force-confold", "--install", "/tmp/ddslogd.deb")  # noqa: S108  # of its own root
        (self.root / "tmp/ddslogd.deb").unlink()
        return done.stdout

    def files(self) -> set[str]:
        """Give all that is there, but what dpkg and systemd keep for themselves."""
        found = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*"))
        return {
            path for path in found if not re.match(r"(proc|run|tmp|var/lib/dpkg|var/log/dpkg\.log|var/cache)\b", path)
        }


@pytest.fixture(scope="module")
def package() -> Path:
    if not (TOOLS / "nfpm").exists():
        unavailable("there is no nfpm: make test-deb installs it")
    built = run(ROOT / "systemd/deb/build", TOOLS / "python", TOOLS / "nfpm")
    assert built.returncode == 0, built.stdout + built.stderr
    return max((ROOT / "dist").glob("ddslogd_*.deb"), key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="module")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The next version, whose configuration differs."""
    directory = tmp_path_factory.mktemp("newer")
    config, recipe = directory / "ddslogd.yaml", directory / "nfpm.yaml"
    config.write_text((ROOT / "systemd/deb/ddslogd.yaml").read_text() + "# Of the next version.\n")
    text = (ROOT / "build/deb/nfpm.yaml").read_text()
    text = re.sub(r'^version: ".*"', 'version: "999.0"', text, flags=re.MULTILINE)
    recipe.write_text(text.replace("systemd/deb/ddslogd.yaml", str(config)))
    built = run(TOOLS / "nfpm", "package", "--config", recipe, "--packager", "deb", "--target", directory)
    assert (built.returncode, package.exists()) == (0, True), built.stderr
    return next(directory.glob("*.deb"))


@pytest.fixture(scope="module")
def bootstrapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        unavailable("debootstrap is for root")
    if shutil.which("debootstrap") is None:
        unavailable("debootstrap is missing")
    root = tmp_path_factory.mktemp("debian") / "root"
    packages = "python3,systemd,procps,ca-certificates"
    known = [
        line.split() for line in run("apt-get", "indextargets", "--format", "$(RELEASE) $(SITE)").stdout.splitlines()
    ]
    sites = [site for release, site in known if release == "bookworm"]
    if not sites:
        unavailable("apt knows no mirror of Debian")
    made = run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", root, sites[0])
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr
    return root


@pytest.fixture
def debian(bootstrapped: Path, tmp_path: Path) -> Debian:
    root = tmp_path / "root"
    assert run("cp", "-a", bootstrapped, root).returncode == 0
    return Debian(root)


def test_what_is_installed_works_and_is_as_it_was_packed(debian: Debian, package: Path) -> None:
    debian.install(package)

    version, check = debian.run("ddslogd", "--version"), debian.run("ddslogd", "check")
    verified = debian.run("dpkg", "--verify", "ddslogd")
    assert (version.stdout.startswith("ddslogd, version "), verified.stdout) == (True, ""), version.stderr
    assert (check.returncode, check.stderr, "good: 1 instance in eu" in check.stdout) == (0, "", True)


def test_the_service_user_collects_with_it(debian: Debian, package: Path) -> None:
    """The demo runs it whole, against its own cloud, with Debian's Python."""
    debian.install(package)

    done = debian.run("setpriv", "--reuid=ddslogd", "--regid=ddslogd", "--clear-groups", "ddslogd", "demo")

    assert (done.returncode, "each byte for byte what the cloud exported" in done.stdout) == (0, True), done.stderr


def test_users_directories_and_modes_are_there(debian: Debian, package: Path) -> None:
    debian.install(package)

    there = debian.run("stat", "--format=%n %U %G %a", *(f"/{path}" for path in (LOGS, STATE, CONFIG)))
    assert there.stdout.splitlines() == [
        "/var/log/ddslogd ddslogd ddslogd 750",
        "/var/lib/ddslogd ddslogd ddslogd 750",
        "/etc/ddslogd root root 755",
    ]


def test_the_installed_unit_pleases_systemd(debian: Debian, package: Path) -> None:
    """All that it names is there."""
    debian.install(package)

    told = debian.run("systemd-analyze", "verify", "/usr/lib/systemd/system/ddslogd.service")

    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def test_nothing_in_it_tells_where_it_was_built(package: Path, tmp_path: Path) -> None:
    assert run("dpkg-deb", "--raw-extract", package, tmp_path / "raw").returncode == 0

    found = run("grep", "--recursive", "--files-with-matches", "--fixed-strings", str(ROOT), tmp_path / "raw")
    assert found.stdout == ""


def test_an_upgrade_keeps_the_configuration_and_all_data(debian: Debian, package: Path, newer: Path) -> None:
    debian.install(package)
    config, ledger = debian.root / CONFIG / "ddslogd.yaml", debian.root / STATE / "ledger.sqlite3"
    config.write_text(mine := config.read_text().replace("name: example", "name: orders"))
    ledger.write_text("a ledger")

    debian.install(newer)

    offered = (debian.root / CONFIG / "ddslogd.yaml.dpkg-dist").read_text()
    assert (config.read_text(), ledger.read_text(), "Of the next version" in offered) == (mine, "a ledger", True)
    assert "999.0" in debian.dpkg("--status", "ddslogd").stdout


def test_a_purge_leaves_what_was_there_before(debian: Debian, package: Path, newer: Path) -> None:
    """And the user: files may still be its."""
    before = debian.files()
    debian.install(package)
    debian.run("ddslogd", "check")
    debian.run("systemctl", "enable", "ddslogd")
    debian.install(newer)
    (debian.root / STATE / ".ddslogd.lock").write_text("1")
    debian.dpkg("--purge", "ddslogd")

    left = {path for path in debian.files() - before if not re.fullmatch(r"etc/(passwd|group|shadow|gshadow)-", path)}
    assert (left, before - debian.files()) == (set(), set())


def test_a_purge_loses_no_data_and_says_what_stays(debian: Debian, package: Path) -> None:
    debian.install(package)
    kept = [STATE / "ledger.sqlite3", LOGS / "streams/orders/orders_1.log", CONFIG / "password"]
    for path in kept:
        (debian.root / path).parent.mkdir(parents=True, exist_ok=True)
        (debian.root / path).write_text("mine")

    told = debian.dpkg("--purge", "ddslogd").stdout

    assert [(debian.root / path).read_text() for path in kept] == ["mine"] * 3
    assert re.findall(r"ddslogd: (\S+) stays", told) == ["/var/log/ddslogd", "/var/lib/ddslogd", "/etc/ddslogd"]
