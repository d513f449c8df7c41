"""The Debian package: built, then installed, upgraded and purged in a Debian of its own. `make test-deb` runs this.

Debian 12's is built here; Debian 13's is built in a Debian 13, as an operator would there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.booted_system import Booted
from support.places import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

TOOLS = ROOT / ".venv-deb/bin"
EXAMPLE = "/usr/share/doc/ddslogd/examples/ddslogd.yaml"
LIMIT = 9_500_000  # bytes
SITE = "opt/ddslogd/lib/python3.11/site-packages"
CHECKOUT = "root/ddslogd-checkout"
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
    """The root directory of a Debian."""

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
        done = self.dpkg("--install", "/tmp/ddslogd.deb")  # noqa: S108  # of its own root
        (self.root / "tmp/ddslogd.deb").unlink()
        return done.stdout

    def files(self) -> set[str]:
        """Return all that is there, but what dpkg and systemd keep for themselves."""
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
    """The package of the next commit, whose example differs."""
    assert package.exists()
    directory = tmp_path_factory.mktemp("newer")
    config = directory / "ddslogd.yaml"
    config.write_text((ROOT / "systemd/deb/ddslogd.yaml").read_text() + "# Of the next version.\n")
    return packed(directory, next_version(directory / "clone"), ("systemd/deb/ddslogd.yaml", str(config)))


@pytest.fixture(scope="module")
def older(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version before, which brought the configuration as a conffile."""
    assert package.exists()
    directory = tmp_path_factory.mktemp("older")
    config = directory / "ddslogd.yaml"
    config.write_text((ROOT / "systemd/deb/ddslogd.yaml").read_text() + "# Of the version before.\n")
    conffile = f"src: {config}, dst: /etc/ddslogd/ddslogd.yaml, type: config|noreplace,"
    example = "src: systemd/deb/ddslogd.yaml, dst: /usr/share/doc/ddslogd/examples/ddslogd.yaml,"
    return packed(directory, "0.0.1", (example, conffile))


def packed(directory: Path, version: str, change: tuple[str, str]) -> Path:
    """Pack what was built once more, with another version and another line of the recipe."""
    text = (ROOT / "build/deb/nfpm.yaml").read_text()
    assert change[0] in text
    text = re.sub(r'^version: ".*"', f'version: "{version}"', text.replace(*change), flags=re.MULTILINE)
    (directory / "nfpm.yaml").write_text(text)
    target = ("--packager", "deb", "--target", directory)
    built = run(TOOLS / "nfpm", "package", "--config", directory / "nfpm.yaml", *target)
    assert built.returncode == 0, built.stderr
    return next(directory.glob("*.deb"))


def next_version(clone: Path) -> str:
    """Return the version that a package of the next commit would have, an hour from now."""
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    who = {f"GIT_{role}_{what}": "somebody@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    assert run("git", "clone", "--quiet", "--shared", ROOT, clone).returncode == 0
    made = run(
        *(
            "git",
            "-C",
            clone,
            "commit",
            "--quiet",
            "--allow-empty",
            "--no-gpg-sign",
            "--no-verify",
            "--message",
            "Next",
        ),
        **{**who, "GIT_COMMITTER_DATE": later},
    )
    assert made.returncode == 0, made.stderr
    return run(clone / "systemd/deb/version", "3.11").stdout.strip()


def bootstrap(release: str, packages: str, root: Path) -> Path:
    if os.geteuid() != 0:
        unavailable("debootstrap is for root")
    if shutil.which("debootstrap") is None:
        unavailable("debootstrap is missing")
    made = run(ROOT / ".ci/debian", release, packages, root)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr
    return root


@pytest.fixture(scope="module")
def bootstrapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages = "python3,systemd,procps,ca-certificates,man-db"
    return bootstrap("bookworm", packages, tmp_path_factory.mktemp("debian") / "root")


@pytest.fixture
def debian(bootstrapped: Path, tmp_path: Path) -> Debian:
    root = tmp_path / "root"
    assert run("cp", "-a", bootstrapped, root).returncode == 0
    return Debian(root)


def test_what_is_installed_works_and_is_as_it_was_packed(debian: Debian, package: Path) -> None:
    debian.install(package)

    version, check = debian.run("ddslogd", "--version"), debian.run("ddslogd", "check")
    untouched = debian.run("ddslogd", "check", "-c", EXAMPLE)
    verified = debian.run("dpkg", "--verify", "ddslogd")
    assert (version.stdout.startswith("ddslogd, version "), verified.stdout) == (True, ""), version.stderr
    assert (check.returncode, f"cp {EXAMPLE} /etc/ddslogd/ddslogd.yaml" in check.stderr) == (78, True)
    assert (untouched.returncode, "instances[0].id: is all zeros" in untouched.stderr) == (78, True)


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
        "/var/lib/ddslogd ddslogd ddslogd 700",
        "/etc/ddslogd root root 755",
    ]


def test_the_installed_units_please_systemd(debian: Debian, package: Path) -> None:
    """All that it names is there."""
    debian.install(package)

    units = [f"/usr/lib/systemd/system/ddslogd.{kind}" for kind in ("service", "socket")]
    told = debian.run("systemd-analyze", "verify", *units)

    assert (told.returncode, told.stdout + told.stderr) == (0, "")


@pytest.fixture(scope="module")
def raw(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the package."""
    root = tmp_path_factory.mktemp("package") / "raw"
    assert run("dpkg-deb", "--raw-extract", package, root).returncode == 0
    return root


def test_nothing_in_it_tells_where_it_was_built(raw: Path) -> None:
    found = run("grep", "--recursive", "--files-with-matches", "--fixed-strings", str(ROOT), raw)
    assert found.stdout == ""


def test_it_is_small(package: Path) -> None:
    assert package.stat().st_size < LIMIT


def test_it_has_no_tests_and_no_lexers_but_those_that_rich_may_ask_for(raw: Path) -> None:
    site = raw / SITE
    tests = [path for path in site.rglob("*") if re.search(r"^(tests?$|test_|conftest\.)|_test\.|_testcapi", path.name)]
    lexers = {path.name for path in (site / "pygments/lexers").glob("*.py")}

    assert (tests, lexers) == ([], {"__init__.py", "_mapping.py", "python.py", "special.py"})


def test_records_of_what_is_installed_name_what_is_there(raw: Path) -> None:
    site = raw / SITE
    named = [line.split(",")[0] for record in site.glob("*.dist-info/RECORD") for line in record.read_text().split()]

    assert [name for name in named if not (site / name).exists()] == []


def test_libraries_are_stripped_and_all_is_compiled(raw: Path) -> None:
    libraries, modules = list((raw / SITE).rglob("*.so*")), list((raw / SITE).rglob("*.py"))
    unstripped = [path for path in libraries if "not stripped" in run("file", path).stdout]
    slow = [path for path in modules if not list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc"))]

    assert (len(libraries) > 0, unstripped, slow) == (True, [], [])


def test_lintian_finds_no_error_that_has_no_reason(package: Path) -> None:
    if shutil.which("lintian") is None:
        unavailable("lintian is missing")

    done = run("lintian", "--allow-root", "--fail-on", "error", "--tag-display-limit", "0", package)

    assert (done.returncode, done.stdout) == (0, "")


def test_each_override_is_needed_and_has_its_reason(package: Path) -> None:
    if shutil.which("lintian") is None:
        unavailable("lintian is missing")
    lines = (ROOT / "systemd/deb/lintian-overrides").read_text().splitlines()
    done = run("lintian", "--allow-root", "--tags", "unused-override,mismatched-override", package)

    assert (done.returncode, done.stdout, lines[0][0]) == (0, "", "#")


def test_what_is_trimmed_is_imported_by_nothing(debian: Debian, package: Path) -> None:
    """But by the cluster, whose library is an extra that the package has not."""
    debian.install(package)
    program = """if True:
        import importlib, pkgutil, ddslogd, rich, rich.traceback
        for module in pkgutil.walk_packages(ddslogd.__path__, "ddslogd."):
            if not module.name.endswith("__main__") and not module.name.startswith("ddslogd.cluster."):
                importlib.import_module(module.name)
        from rich.syntax import Syntax
        rich.print(Syntax("import this", "python"))
    """
    done = debian.run("/opt/ddslogd/bin/python3", "-W", "error", "-c", program)

    assert (done.returncode, done.stderr, "import this" in done.stdout) == (0, "", True)


def test_the_manual_is_found(debian: Debian, package: Path) -> None:
    debian.install(package)

    found = [debian.run("man", "-w", name).stdout.strip() for name in ("ddslogd", "ddslogd.yaml")]

    assert found == ["/usr/share/man/man1/ddslogd.1.gz", "/usr/share/man/man5/ddslogd.yaml.5.gz"]


def test_bash_completes_its_commands_and_other_shells_have_what_they_need(debian: Debian, package: Path) -> None:
    debian.install(package)
    program = """
        source /usr/share/bash-completion/completions/ddslogd
        COMP_WORDS=(ddslogd inst); COMP_CWORD=1; _ddslogd_completion ddslogd; echo "${COMPREPLY[@]}"
    """
    shells = ["usr/share/zsh/vendor-completions/_ddslogd", "usr/share/fish/vendor_completions.d/ddslogd.fish"]

    assert debian.run("bash", "-c", program).stdout == "instances\n"
    assert [(debian.root / file).is_file() for file in shells] == [True, True]


def test_alert_rules_and_dashboard_are_in_it(raw: Path) -> None:
    packed = [raw / "usr/share/doc/ddslogd/systemd" / name for name in ("ddslogd.rules.yml", "ddslogd-dashboard.json")]

    assert [path.read_text() for path in packed] == [(ROOT / "systemd" / path.name).read_text() for path in packed]


def test_the_next_commit_s_package_installs_as_an_upgrade(debian: Debian, package: Path, newer: Path) -> None:
    """With apt, which would not install what has the version that is there, nor one below it without being forced."""
    debian.install(package)
    shutil.copy(newer, debian.root / "tmp/ddslogd.deb")

    done = debian.run(
        *("apt-get", "install", "--yes", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"),
        "/tmp/ddslogd.deb",  # noqa: S108  # of its own root
    )

    assert (done.returncode, "\n1 upgraded, 0 newly installed" in done.stdout) == (0, True), done.stdout + done.stderr
    assert debian.dpkg("--verify", "ddslogd").stdout == ""


def test_an_upgrade_keeps_the_configuration_and_all_data(debian: Debian, package: Path, newer: Path) -> None:
    debian.install(package)
    config, ledger = debian.root / CONFIG / "ddslogd.yaml", debian.root / STATE / "ledger.sqlite3"
    config.write_text(mine := "# mine\n")
    ledger.write_text("a ledger")

    debian.install(newer)

    example = (debian.root / EXAMPLE.lstrip("/")).read_text()
    assert (config.read_text(), ledger.read_text(), "Of the next version" in example) == (mine, "a ledger", True)
    assert newer.name.split("_")[1] in debian.dpkg("--status", "ddslogd").stdout


def test_a_purge_leaves_what_was_there_before(debian: Debian, package: Path, newer: Path) -> None:
    """And the user: files may still be its."""
    before = debian.files()
    debian.install(package)
    debian.run("cp", EXAMPLE, "/etc/ddslogd/")
    debian.run("ddslogd", "check")
    debian.run("systemctl", "enable", "ddslogd", "ddslogd.socket")
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


# --- on a system that runs --------------------------------------------------------------------------------------------

CLOUD = """
import asyncio, datetime
from pathlib import Path
from ddslogd.sandbox import Sandbox, configuration, single

async def serve():
    options = {"speed": 300, "lines_per_second": 0, "backlog": datetime.timedelta(0)}
    async with Sandbox(fleet=(single("solo"),), **options) as cloud:
        cloud.write("solo_single_node_1", b"a line\\n" * 100)
        text = configuration(cloud, directory=Path("/var/log/ddslogd"), state=Path("/var/lib/ddslogd"))
        login = f"username: {cloud.user_name}\\n      domain_name: {cloud.domain_name}\\n      "
        text = text.replace("method: token", "method: password")
        text = text.replace("token: {env: DDSLOGD_TOKEN}", login + "password: {credential: password}")
        Path("/root/password").write_text(cloud.password)
        Path("/root/ddslogd.yaml").write_text(text)
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(serve())
"""


@pytest.fixture
def system(debian: Debian, package: Path) -> Iterator[Booted]:
    """A system with the package installed, and a cloud on its loopback that /root/ddslogd.yaml names."""
    with Booted(debian.root) as system:
        system.copy(package, "/root/ddslogd.deb")
        done = system.run("dpkg", "--install", "/root/ddslogd.deb")
        assert done.returncode == 0, done.stdout + done.stderr
        (debian.root / "root/cloud.py").write_text(CLOUD)
        system.run("systemd-run", "--unit=cloud", "/opt/ddslogd/bin/python3", "/root/cloud.py")
        system.until("journalctl", "--unit=cloud", "--output=cat", says="ready")
        yield system


def owners(system: Booted) -> set[str]:
    found = system.run("find", "/var/log/ddslogd", "/var/lib/ddslogd", "-printf", "%u\\n")
    return set(found.stdout.split())


def journal(system: Booted, *options: str) -> str:
    return system.run("journalctl", "--unit=ddslogd", "--output=cat", *options).stdout


def test_the_first_start_asks_for_a_configuration(system: Booted) -> None:
    """As an error, once: it is not restarted."""
    started = system.run("systemctl", "start", "ddslogd")

    ended = system.run("systemctl", "show", "--property=ExecMainStatus,NRestarts", "ddslogd").stdout.split()
    assert (started.returncode != 0, sorted(ended)) == (True, ["ExecMainStatus=78", "NRestarts=0"])
    asked = f"cp {EXAMPLE} /etc/ddslogd/ddslogd.yaml, put your values into it, then ddslogd check"
    assert asked in journal(system, "--priority=err")


def test_what_operators_do(system: Booted, newer: Path) -> None:
    """A wrong password, corrected; a broken configuration; root's commands; an upgrade; a purge."""
    etc = system.root / "etc/ddslogd"
    config, password = etc / "ddslogd.yaml", etc / "password"
    shutil.copy(system.root / "root/ddslogd.yaml", config)
    password.write_text("wrong")
    password.chmod(0o600)
    assert system.run("ddslogd", "check").stderr == ""
    assert system.run("systemctl", "start", "ddslogd").returncode == 0

    # A wrong password, corrected: a reload does not see it, and says so; a restart does.
    system.until("journalctl", "--unit=ddslogd", "--output=cat", says="credentials.refused")
    shutil.copy(system.root / "root/password", password)
    assert system.run("systemctl", "reload", "ddslogd").returncode == 0
    todo = "then systemctl restart ddslogd: the service has a copy from its start, which a reload does not renew"
    told = system.until("journalctl", "--unit=ddslogd", "--output=cat", says="credentials.still_refused")
    assert todo in next(line for line in told.splitlines() if "still_refused" in line)
    system.until("ddslogd", "status", "--json", says=todo)
    system.run("systemctl", "restart", "ddslogd")
    system.until("systemctl", "show", "--property=StatusText", "ddslogd", says="=1/1 instances fresh")

    # A broken configuration: the reload fails, what runs goes on, and its status says so.
    good = config.read_text()
    config.write_text(good + "surplus: 1\n")
    assert system.run("systemctl", "reload", "ddslogd").returncode != 0
    system.until("systemctl", "show", "--property=StatusText", "ddslogd", says="=the last reload was refused")
    assert system.run("systemctl", "is-active", "ddslogd").stdout == "active\n"
    config.write_text(good)
    reloaded = system.run("systemctl", "reload", "ddslogd")
    assert (reloaded.returncode, reloaded.stderr) == (0, "")
    system.until("systemctl", "show", "--property=StatusText", "ddslogd", says="=1/1 instances fresh")

    # Root's commands leave nothing behind that keeps the service from going on.
    system.run("systemctl", "stop", "ddslogd")
    for command in (["once"], ["rebuild", "solo"], ["prune"], ["status"], ["gaps"]):
        done = system.run("ddslogd", *command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert owners(system) == {"ddslogd"}
    assert system.run("systemctl", "start", "ddslogd").returncode == 0

    # An upgrade asks nothing, and the service that ran runs again.
    system.copy(newer, "/root/newer.deb")
    done = system.run("dpkg", "--install", "/root/newer.deb", closed_stdin=True)
    assert (done.returncode, config.read_text()) == (0, good), done.stdout + done.stderr
    system.until("systemctl", "show", "--property=StatusText", "ddslogd", says="=1/1 instances fresh")

    # A purge takes the configuration, and leaves what was collected and the password.
    done = system.run("dpkg", "--purge", "ddslogd", closed_stdin=True)
    streams = list((system.root / LOGS).glob("streams/*/*.log"))
    assert (done.returncode, config.exists(), password.exists(), len(streams)) == (0, False, True, 1), done.stderr


def test_an_upgrade_from_a_conffile_that_was_edited_asks_nothing(debian: Debian, older: Path, package: Path) -> None:
    """Neither by dpkg, nor with its standard input closed."""
    with Booted(debian.root) as system:
        system.copy(older, "/root/older.deb")
        system.copy(package, "/root/ddslogd.deb")
        first = system.run("dpkg", "--install", "/root/older.deb")
        assert first.returncode == 0, first.stderr
        config = debian.root / CONFIG / "ddslogd.yaml"
        config.write_text(mine := config.read_text().replace("0" * 32, "a" * 32))
        done = system.run("dpkg", "--install", "/root/ddslogd.deb", closed_stdin=True)

    assert (done.returncode, config.read_text()) == (0, mine), done.stdout + done.stderr
    assert not list(config.parent.glob("*.dpkg-*"))


@pytest.fixture(scope="module")
def trixie(tmp_path_factory: pytest.TempPathFactory) -> Debian:
    """A Debian 13 with what `make deb` needs, and this checkout in CHECKOUT."""
    packages = "python3-venv,systemd,procps,ca-certificates,make,binutils,git"
    debian = Debian(bootstrap("trixie", packages, tmp_path_factory.mktemp("debian") / "root"))
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (debian.root / CHECKOUT / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, debian.root / CHECKOUT / name)
    return debian


def test_debian_13_builds_it_with_its_own_python_and_runs_it(trixie: Debian) -> None:
    built = trixie.run("make", "-C", f"/{CHECKOUT}", "deb")
    assert built.returncode == 0, built.stdout + built.stderr
    package = next((trixie.root / CHECKOUT / "dist").glob("ddslogd_*.deb"))
    trixie.install(package)

    needed = run("dpkg-deb", "--field", package, "Depends").stdout
    done = trixie.run("setpriv", "--reuid=ddslogd", "--regid=ddslogd", "--clear-groups", "ddslogd", "demo")
    assert ("python3 (>= 3.13~), python3 (<< 3.14~)" in needed, package.stat().st_size < LIMIT) == (True, True)
    assert (done.returncode, "each byte for byte what the cloud exported" in done.stdout) == (0, True), done.stderr
