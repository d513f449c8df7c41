"""Against the real identity service: OpenStack Keystone, whose language Huawei's IAM speaks. `make test-keystone`.

The daemon logs in to Keystone and collects from the sandbox, which takes a token only on Keystone's word. It runs for
three lifetimes of a token; then, twice, its password is changed and later given to it. One run, judged by all tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from ddslogd.sandbox import Sandbox, configuration, single
from support.places import ROOT
from support.testbed import ANY_PORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

pytestmark = pytest.mark.slow

VENV = ROOT / ".venv-keystone"
SERVER = Path(__file__).parent / "keystone_server.py"
FLEET = tuple(single(f"one{number}") for number in range(3))

LIFE_S = 30  # of a token
LIFETIMES = 3
PATIENCE_S = 30  # for what takes a cycle or a start
WRONG_S = 10  # fifteen cycles: without a cool-down each would log in, and five refusals lock the account

ADMIN, ADMIN_PASSWORD = "admin", "made-up-password-of-the-administrator"
USER, PASSWORD = "collector", "made-up-password"
DOMAIN, PROJECT = "sandbox", "loopback-1"

CONFIGURATION = """\
[DEFAULT]
log_file = {directory}/keystone.log
[database]
connection = sqlite:///{directory}/keystone.db
[fernet_tokens]
key_repository = {directory}/keys
[fernet_receipts]
key_repository = {directory}/receipt-keys
[token]
provider = fernet
expiration = {life_s}
allow_expired_window = 0
[security_compliance]
lockout_failure_attempts = 5
lockout_duration = 900
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A login as Keystone saw it; times in seconds since the epoch."""

    user: str
    began: float
    ended: float
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What came of a changed password.

    Attributes:
        refused_logins: Of the daemon, until it was given the new password.
        refusals: What it said of its credentials.
        by_hand: The status of somebody's login with the new password, before the daemon had it.
        collects: Whether it stored new files of all instances after that.
        fixed: The statuses of the logins it did so with.
    """

    refused_logins: int
    refusals: list[str]
    by_hand: int
    collects: bool
    fixed: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What came of the run.

    Attributes:
        calls: To DDS over the lifetimes, by the status of their answer.
        steady: The daemon's logins over the lifetimes.
        ends: When each of its tokens ended, by its own word.
        remembered: The password is changed, and DDS still takes tokens it knows: IAM allows half an hour of that.
        revoked: It is changed again, and DDS takes no token that Keystone has revoked.
        logins: All of the run.
        exit_status: Of the daemon.
    """

    calls: Counter[int]
    steady: list[Login]
    ends: list[datetime]
    remembered: Change
    revoked: Change
    logins: list[Login]
    exit_status: int


class Keystone:
    """Keystone under way, and its API as far as it is needed here."""

    def __init__(self, said: Path, session: aiohttp.ClientSession) -> None:
        self.endpoint = f"http://127.0.0.1:{said.read_text().split()[0]}"
        self.remembers = False
        self._good: set[str] = set()
        self._said = said
        self._session = session

    def logins(self) -> list[Login]:
        """Return the logins of the daemon's user so far."""
        logins = [Login(**json.loads(line)) for line in self._said.read_text().splitlines()[1:]]
        return [login for login in logins if login.user == USER]

    async def log_in(self, user: str, password: str, *, domain: str, project: str) -> tuple[int, str]:
        """Return the status and the token, as curl would."""
        identity = {
            "methods": ["password"],
            "password": {"user": {"name": user, "password": password, "domain": {"name": domain}}},
        }
        scope = {"project": {"name": project, "domain": {"name": domain}}}
        body = {"auth": {"identity": identity, "scope": scope}}
        async with self._session.post(f"{self.endpoint}/v3/auth/tokens", json=body) as reply:
            return reply.status, reply.headers.get("X-Subject-Token", "")

    async def vouches_for(self, token: str) -> bool:
        """Return whether a token is good (everybody may look at their own), or was once where that is enough."""
        if self.remembers and token in self._good:
            return True
        headers = {"X-Auth-Token": token, "X-Subject-Token": token}
        async with self._session.get(f"{self.endpoint}/v3/auth/tokens", headers=headers) as reply:
            if reply.status == 200:
                self._good.add(token)
            return reply.status == 200

    async def new_user(self) -> tuple[str, str]:
        """Make the daemon's user, who may read a project; give both ids."""
        domain = await self._make("domain", name=DOMAIN)
        project = await self._make("project", name=PROJECT, domain_id=domain)
        user = await self._make("user", name=USER, domain_id=domain, password=PASSWORD)
        role = (await self._administer("GET", "/v3/roles?name=reader"))["roles"][0]["id"]
        await self._administer("PUT", f"/v3/projects/{project}/users/{user}/roles/{role}")
        return user, project

    async def change_password(self, user: str, password: str) -> None:
        await self._administer("PATCH", f"/v3/users/{user}", {"user": {"password": password}})

    async def _make(self, kind: str, **fields: str) -> str:
        made: str = (await self._administer("POST", f"/v3/{kind}s", {kind: fields}))[kind]["id"]
        return made

    async def _administer(self, method: str, path: str, body: Any = None) -> Any:
        _, token = await self.log_in(ADMIN, ADMIN_PASSWORD, domain="Default", project=ADMIN)
        async with self._session.request(
            method, self.endpoint + path, json=body, headers={"X-Auth-Token": token}, raise_for_status=True
        ) as reply:
            return await reply.json() if reply.status != 204 else None


class Daemon:
    """ddslogd under way."""

    def __init__(self, directory: Path) -> None:
        self.password = directory / "password"
        self.logs = directory / "logs"
        self.said = directory / "ddslogd.err"

    def put(self, password: str) -> None:
        """Put the password in its place, whole at any moment."""
        new = self.password.with_suffix(".new")
        new.write_text(password)
        new.replace(self.password)

    def events(self, name: str) -> list[dict[str, Any]]:
        whole = self.said.read_text().rpartition("\n")[0]
        return [event for event in map(json.loads, whole.splitlines()) if event["event"] == name]

    def files(self) -> int:
        return len([*(self.logs / "snapshots").rglob("*.log")])


async def until(condition: Callable[[], object], *, within_s: float = PATIENCE_S) -> bool:
    """Wait, and tell whether it came: the run goes on without it, so that each test has something to judge."""
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0.1)
    return bool(condition())


@asynccontextmanager
async def running(
    *command: str | Path, said: Path, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program, which ends with the block at the latest; its errors stand next to what it said."""
    with said.open("wb") as out, said.with_suffix(".err").open("wb") as err:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=err, env=environ)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def keystone(directory: Path) -> AsyncIterator[Keystone]:
    """Set Keystone up in the directory and serve it."""
    file = directory / "keystone.conf"
    file.write_text(CONFIGURATION.format(directory=directory, life_s=LIFE_S))
    said = directory / "keystone.out"
    for step in (
        ("db_sync",),
        ("fernet_setup", "--keystone-user", directory.owner(), "--keystone-group", directory.group()),
        ("bootstrap", "--bootstrap-username", ADMIN, "--bootstrap-password", ADMIN_PASSWORD),
    ):
        async with running(VENV / "bin" / "keystone-manage", "--config-file", file, *step, said=said) as process:
            assert await process.wait() == 0, said.with_suffix(".err").read_text()
    environ = {**os.environ, "OS_KEYSTONE_CONFIG_FILES": str(file)}
    async with running(VENV / "bin" / "python", SERVER, said=said, environ=environ), aiohttp.ClientSession() as session:
        assert await until(lambda: said.read_text().endswith("\n")), said.with_suffix(".err").read_text()
        yield Keystone(said, session)


def configure(daemon: Daemon, sandbox: Sandbox, identity: Keystone) -> str:
    """Return a configuration with logins at Keystone, and a project that only its name is known of."""
    text = configuration(sandbox, directory=daemon.logs, state=daemon.logs.with_name("state")) + ANY_PORT
    for old, new in (
        (f"iam_endpoint: {sandbox.iam_endpoint}", f"iam_endpoint: {identity.endpoint}"),
        (f'project_id: "{sandbox.project_id}"', f"project_name: {PROJECT}"),
        ("method: token", f"method: password\n      username: {USER}\n      domain_name: {DOMAIN}"),
        ("token: {env: DDSLOGD_TOKEN}", f"password: {{file: {daemon.password}}}"),
        ("every: 4s", "every: 2s"),
        ("storage:\n", "storage:\n  snapshots: all\n"),  # they are counted
    ):
        assert old in text
        text = text.replace(old, new)
    return text


async def run(directory: Path) -> Seen:
    daemon = Daemon(directory)
    daemon.put(PASSWORD)
    async with keystone(directory) as identity:
        user, project = await identity.new_user()
        async with Sandbox(fleet=FLEET, speed=300, project_id=project, token_check=identity.vouches_for) as sandbox:
            path = directory / "ddslogd.yaml"
            path.write_text(configure(daemon, sandbox, identity))
            command = (sys.executable, "-m", "ddslogd", "run", "-c", path)
            async with running(*command, said=directory / "ddslogd.out") as process:
                return await watch(daemon, process, sandbox, identity, user)


async def watch(
    daemon: Daemon, process: asyncio.subprocess.Process, sandbox: Sandbox, identity: Keystone, user: str
) -> Seen:
    assert await until(daemon.files), daemon.said.read_text()
    await asyncio.sleep(LIFETIMES * LIFE_S)
    calls = Counter(call.status for call in sandbox.requests if call.kind == "errorlog-download" and call.status)
    steady = identity.logins()
    identity.remembers = True
    remembered = await change(daemon, identity, user, f"{PASSWORD}-2")
    identity.remembers = False
    revoked = await change(daemon, identity, user, f"{PASSWORD}-3")
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        exit_status = await process.wait()
    return Seen(
        calls=calls,
        steady=steady,
        ends=[datetime.fromisoformat(event["ends_at"]) for event in daemon.events("login.done")],
        remembered=remembered,
        revoked=revoked,
        logins=identity.logins(),
        exit_status=exit_status,
    )


async def change(daemon: Daemon, identity: Keystone, user: str, password: str) -> Change:
    """Change the password, let the daemon go on with the old one for a while, then give it the new one."""
    logins, refusals = len(identity.logins()), len(daemon.events("credentials.refused"))
    await identity.change_password(user, password)
    await until(lambda: len(daemon.events("credentials.refused")) > refusals, within_s=LIFE_S)
    await asyncio.sleep(WRONG_S)
    refused = [login for login in identity.logins()[logins:] if login.status != 201]
    by_hand, _ = await identity.log_in(USER, password, domain=DOMAIN, project=PROJECT)
    logins, files = len(identity.logins()), daemon.files()
    daemon.put(password)
    collects = await until(lambda: daemon.files() >= files + len(FLEET))
    return Change(
        refused_logins=len(refused),
        refusals=[event["reason"] for event in daemon.events("credentials.refused")[refusals:]],
        by_hand=by_hand,
        collects=collects,
        fixed=[login.status for login in identity.logins()[logins:]],
    )


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    if not (VENV / ".installed").exists():
        reason = "Keystone's virtualenv is missing: make test-keystone"
        if os.environ.get("DDSLOGD_SKIP_NOTHING"):
            pytest.fail(reason)
        pytest.skip(reason)
    return asyncio.run(run(tmp_path_factory.mktemp("keystone")))


def test_no_call_is_refused_over_three_lifetimes(seen: Seen) -> None:
    assert sum(seen.calls.values()) > LIFETIMES * LIFE_S
    assert set(seen.calls) == {200}


def test_each_login_is_over_before_the_last_token_ends(seen: Seen) -> None:
    pairs = zip(seen.ends, seen.steady[1:], strict=False)
    late = [login for end, login in pairs if login.ended >= end.timestamp()]

    assert late == []


def test_there_is_about_one_login_for_each_lifetime(seen: Seen) -> None:
    """A token is renewed when a fifth of its life is left: after 24 of 30 seconds."""
    assert len(seen.steady) in {LIFETIMES + 1, LIFETIMES + 2}


def test_logins_come_one_at_a_time(seen: Seen) -> None:
    """Keystone takes a second for one, in which other calls are made."""
    met = [(first, second) for first, second in pairwise(seen.logins) if second.began < first.ended]

    assert met == []


def test_a_changed_password_is_found_out_at_the_next_renewal_and_said_once(seen: Seen) -> None:
    said = [reason.partition(":")[0] for reason in seen.remembered.refusals]

    assert said == [f"the login of {USER} was refused"]


def test_a_changed_password_that_ends_the_token_is_said_once(seen: Seen) -> None:
    said = [reason.partition(":")[0] for reason in seen.revoked.refusals]

    assert said == [f"the login of {USER} was refused"]


def test_a_password_that_was_refused_is_not_tried_again_and_the_account_is_not_locked(seen: Seen) -> None:
    changes = (seen.remembered, seen.revoked)

    assert [(change.refused_logins, change.by_hand) for change in changes] == [(1, 201)] * 2


def test_the_new_password_in_the_file_is_taken_and_all_goes_on(seen: Seen) -> None:
    changes = (seen.remembered, seen.revoked)

    assert [(change.fixed, change.collects) for change in changes] == [([201], True)] * 2


def test_the_daemon_ends_in_peace(seen: Seen) -> None:
    assert seen.exit_status == 0
