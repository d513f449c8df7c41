"""One run that finds what is wrong: real sockets, files and certificates, with a fault in each."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.doctor import network_checks
from ddslogd.doctor.check_result import CheckResult, Level
from ddslogd.doctor.report import lines, report, table
from ddslogd.doctor.run_checks import Visit, examined
from ddslogd.sandbox import ApiError
from ddslogd.scheduling.clock import SystemClock
from ddslogd.storage import file_access
from ddslogd.storage.file_access import Who, barrier, member_of
from ddslogd.storage.ledger import database
from ddslogd.storage.ledger.reports import growth
from ddslogd.storage.snapshots.store import holder
from support.certificates import certificate, secure
from support.commands import ddslogd
from support.testbed import config_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ddslogd.scheduling.clock import Clock
    from support.testbed import Bed

NODE = "solo_single_node_1"
NOBODY = Who(name="nobody", uid=65534, gids=frozenset({65534}))


async def doctor(bed: Bed, *, clock: Clock | None = None, **visit: Any) -> tuple[CheckResult, ...]:
    asked = Visit(path=config_of(bed), **visit)
    return await examined(asked, clock=clock or bed.clock, redactor=bed.redactor)


def found(findings: tuple[CheckResult, ...], text: str) -> Level:
    """Return the level of the only finding with a text."""
    (level,) = {finding.level for finding in findings if text in finding.what}
    return level


def failing(findings: tuple[CheckResult, ...]) -> list[str]:
    return [finding.what for finding in findings if finding.level is Level.FAIL]


# --- all is well ------------------------------------------------------------------------------------------------------


async def test_where_all_is_well_nothing_fails_and_each_area_was_looked_at(bed: Bed) -> None:
    findings = await doctor(bed)

    assert failing(findings) == []
    assert {finding.area for finding in findings} == {
        *("configuration", "secrets", "network", "clock", "login", "rights", "disk", "daemon", "ledger", "shipper")
    }


async def test_it_exports_nothing_and_makes_no_file(bed: Bed) -> None:
    """The one call of errorlog-download is for an instance that does not exist."""
    await doctor(bed)

    bed.sandbox.finish_exports()
    asked = [record for record in bed.sandbox.requests if record.kind == "errorlog-download"]
    assert [record.status for record in asked] == [404]
    assert (bed.sandbox.exports_of(NODE), bed.directory.exists(), bed.state.exists()) == ([], False, False)


async def test_each_thing_is_asked_for_once(bed: Bed) -> None:
    await doctor(bed)

    assert dict(bed.sandbox.calls) == {"instances": 1, "errorlog-download": 1}


async def test_a_running_daemon_is_noted_and_not_disturbed(bed: Bed) -> None:
    async with bed.open():
        await bed.collect()

        findings = await doctor(bed)

        running = [finding.what for finding in findings if finding.area == "daemon"]
        assert (f"process {os.getpid()} works on" in running[0], failing(findings)) == (True, [])
        assert holder(bed.directory) == str(os.getpid())
    assert holder(bed.directory) is None


# --- configuration and secrets ----------------------------------------------------------------------------------------


async def test_each_complaint_about_the_configuration_is_a_failure(bed: Bed) -> None:
    bed.set("attempts: 5", "attempts: none")
    bed.set("keep_free: 0", "keep_fre: 0")

    findings = await doctor(bed)

    assert [finding.level for finding in findings] == [Level.FAIL, Level.FAIL]
    assert ("attempts" in findings[0].what, "keep_fre" in findings[1].what) == (True, True)


async def test_a_warning_about_the_configuration_is_one(bed: Bed) -> None:
    bed.set("every: 20m", "every: 5m")

    assert found(await doctor(bed), "below export.fresh_for") is Level.WARN


async def test_a_secret_that_is_not_there_fails_and_says_where_it_was_looked_for(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DDSLOGD_TOKEN")

    findings = await doctor(bed)

    assert found(findings, "clouds.sandbox.auth.token: a secret is missing") is Level.FAIL


@pytest.mark.parametrize(
    ("mode", "level"), [(0o640, Level.OK), (0o600, Level.OK), (0o644, Level.WARN), (0o660, Level.WARN)]
)
async def test_a_secret_that_others_can_read_is_warned_of(bed: Bed, tmp_path: Path, mode: int, level: Level) -> None:
    secret = tmp_path / "token"
    secret.write_text(bed.sandbox.issue_token())
    secret.chmod(mode)
    bed.set("{env: DDSLOGD_TOKEN}", f"{{file: {secret}}}")

    findings = await doctor(bed, offline=True)

    assert found(findings, str(secret)) is level


async def test_a_secret_that_root_may_read_and_the_service_not_fails(bed: Bed, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text(bed.sandbox.issue_token())
    secret.chmod(0o600)
    bed.set("{env: DDSLOGD_TOKEN}", f"{{file: {secret}}}")

    findings = await doctor(bed, offline=True, who=NOBODY)

    assert found(findings, f"nobody may not read {secret}") is Level.FAIL


async def test_a_variable_is_warned_of_in_a_service_alone(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand = await doctor(bed, offline=True)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    in_service = await doctor(bed, offline=True)

    assert (found(by_hand, "DDSLOGD_TOKEN"), found(in_service, "DDSLOGD_TOKEN")) == (Level.OK, Level.WARN)


async def test_a_credential_of_the_service_is_not_looked_for_outside_of_it(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    bed.set("{env: DDSLOGD_TOKEN}", "{credential: token}")

    findings = await doctor(bed)

    assert (found(findings, "the credential token"), found(findings, "not tried")) == (Level.WARN, Level.WARN)
    assert (failing(findings), bed.sandbox.calls["instances"]) == ([], 0)


async def test_a_credential_is_found_where_systemd_puts_it(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(bed.sandbox.issue_token())
    (tmp_path / "token").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    bed.set("{env: DDSLOGD_TOKEN}", "{credential: token}")

    findings = await doctor(bed)

    assert (failing(findings), found(findings, "accepts the credentials")) == ([], Level.OK)


# --- login and rights -------------------------------------------------------------------------------------------------


async def test_a_wrong_token_fails_after_one_try(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDSLOGD_TOKEN", "no-token-of-this-cloud")

    findings = await doctor(bed)

    (login,) = [finding for finding in findings if finding.area == "login"]
    assert (login.level, "tried once" in login.todo, bed.sandbox.calls["instances"]) == (Level.FAIL, True, 1)
    assert bed.sandbox.calls["errorlog-download"] == 0


@pytest.fixture
def by_password(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> Bed:
    monkeypatch.setenv("DDSLOGD_PASSWORD", bed.sandbox.password)
    bed.set(
        "      method: token\n      token: {env: DDSLOGD_TOKEN}",
        f"      method: password\n      username: {bed.sandbox.user_name}\n"
        f"      password: {{env: DDSLOGD_PASSWORD}}\n      domain_name: {bed.sandbox.domain_name}",
    )
    return bed


async def test_a_password_is_exchanged_for_a_token(by_password: Bed) -> None:
    findings = await doctor(by_password)

    assert (failing(findings), by_password.sandbox.calls["login"]) == ([], 1)
    assert {finding.what.split(": ")[1] for finding in findings if finding.area == "network"} == {"DDS", "IAM"}


async def test_a_wrong_password_is_tried_once_and_does_not_lock_the_user(
    by_password: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDSLOGD_PASSWORD", "wrong-password")

    findings = await doctor(by_password)

    assert (found(findings, "the login of collector was refused"), by_password.sandbox.calls["login"]) == (
        Level.FAIL,
        1,
    )
    assert "wrong-password" in by_password.secrets


async def test_a_wrong_signature_is_tried_once(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDSLOGD_SECRET", "x" * 40)
    bed.set(
        "      method: token\n      token: {env: DDSLOGD_TOKEN}",
        f"      method: access_key\n      access_key: {bed.sandbox.access_key}\n"
        "      secret_key: {env: DDSLOGD_SECRET}",
    )

    findings = await doctor(bed)

    assert ([one.level for one in findings if one.area == "login"], bed.sandbox.calls["instances"]) == ([Level.FAIL], 1)


async def test_a_signature_is_made_by_the_clouds_clock_which_was_asked_for_first(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDSLOGD_SECRET", bed.sandbox.secret_key)
    bed.sandbox.faults.skew = timedelta(minutes=30)
    bed.set(
        "      method: token\n      token: {env: DDSLOGD_TOKEN}",
        f"      method: access_key\n      access_key: {bed.sandbox.access_key}\n"
        "      secret_key: {env: DDSLOGD_SECRET}",
    )

    findings = await doctor(bed)

    assert [one.level for one in findings if one.area in {"login", "clock"}] == [Level.FAIL, Level.OK]


@pytest.mark.parametrize(
    ("call", "right"),
    [("errorlog-download", "dds:instance:downloadErrorLog"), ("slowlog-download", "dds:instance:downloadSlowLog")],
)
async def test_without_the_right_to_export_that_fails_and_names_the_right(bed: Bed, call: str, right: str) -> None:
    bed.set("instances:\n  - id:", "instances:\n  - logs: [error, slow]\n    id:")
    bed.sandbox.faults.missing_rights = {call}

    findings = await doctor(bed)

    (refused,) = [finding for finding in findings if finding.level is Level.FAIL]
    assert ("DBS.280032" in refused.what, f"grant {right}") == (True, refused.todo)


@pytest.mark.parametrize(("discovers", "level"), [(False, Level.WARN), (True, Level.FAIL)])
async def test_the_right_to_list_is_needed_where_instances_are_discovered(
    bed: Bed, level: Level, *, discovers: bool
) -> None:
    bed.sandbox.faults.missing_rights = {"instances"}
    if discovers:
        bed.set("instances:\n", "instances:\n  - discover: {}\n")

    findings = await doctor(bed)

    assert (found(findings, "(dds:instance:list) is refused"), found(findings, "errorlog-download")) == (
        level,
        Level.OK,
    )


async def test_each_kind_of_log_that_is_collected_is_asked_for(bed: Bed) -> None:
    bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
    bed.sandbox.faults.missing_rights = {"slowlog-download"}

    findings = await doctor(bed)

    assert (found(findings, "slowlog-download is"), found(findings, "errorlog-download is")) == (Level.FAIL, Level.OK)


async def test_a_wrong_project_fails(bed: Bed) -> None:
    bed.set(f'project_id: "{bed.sandbox.project_id}"', f'project_id: "{"f" * 32}"')

    assert found(await doctor(bed), "the list of instances") is Level.FAIL


async def test_a_cloud_that_is_busy_is_no_missing_right(bed: Bed) -> None:
    bed.sandbox.faults.api_errors = [ApiError(503)]

    assert found(await doctor(bed), "errorlog-download cannot be asked for") is Level.FAIL


# --- clock ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skew", "level"),
    [
        (timedelta(seconds=50), Level.OK),
        (timedelta(seconds=-90), Level.WARN),
        (timedelta(minutes=14), Level.WARN),
        (timedelta(minutes=16), Level.WARN),
    ],
)
async def test_the_clocks_are_compared(bed: Bed, skew: timedelta, level: Level) -> None:
    """A token is no signature: nothing is refused for the clock."""
    bed.sandbox.faults.skew = skew

    findings = await doctor(bed)

    (clock,) = [finding for finding in findings if finding.area == "clock"]
    assert (clock.level, "signature" in clock.what) == (level, False)


@pytest.mark.parametrize("minutes", [16, -16])
async def test_where_calls_are_signed_a_clock_that_is_off_by_much_fails(bed: Bed, tmp_path: Path, minutes: int) -> None:
    (tmp_path / "secret").write_text(bed.sandbox.secret_key)
    keys = f"access_key: {bed.sandbox.access_key}\n      secret_key: {{file: {tmp_path}/secret}}"
    bed.set("method: token", "method: access_key")
    bed.set("token: {env: DDSLOGD_TOKEN}", keys)
    bed.sandbox.faults.skew = timedelta(minutes=minutes)

    findings = await doctor(bed)

    clocks = [finding for finding in findings if finding.area == "clock"]
    assert {finding.level for finding in clocks} == {Level.FAIL}
    assert all("signatures are refused" in finding.what for finding in clocks)


@pytest.mark.parametrize("directory", ["/proc/ddslogd", "/dev/null/ddslogd"])
async def test_of_a_directory_that_cannot_be_made_no_room_is_said(bed: Bed, directory: str) -> None:
    """It was: 0 bytes are free, make room."""
    bed.directory = Path(directory)

    findings = await doctor(bed, offline=True)

    said = [finding.what for finding in findings if finding.level is Level.FAIL and finding.area == "disk"]
    assert said
    assert [what for what in said if "are free" in what] == []


# --- names and certificates -------------------------------------------------------------------------------------------


async def test_a_name_that_cannot_be_resolved_fails_and_no_login_is_tried(bed: Bed) -> None:
    bed.set(f"endpoint: {bed.sandbox.endpoint}\n    iam", "endpoint: https://dds.example.invalid\n    iam")

    findings = await doctor(bed)

    resolved, tried = found(findings, "dds.example.invalid cannot be resolved"), found(findings, "not tried")
    assert (resolved, tried, bed.sandbox.calls["instances"]) == (Level.FAIL, Level.WARN, 0)


async def test_nobody_listening_fails_and_the_other_cloud_is_looked_at(bed: Bed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    bed.set(
        "clouds:\n",
        f"clouds:\n  other:\n    endpoint: http://127.0.0.1:{port}\n    project_id: p\n"
        "    auth: {method: token, token: {env: DDSLOGD_TOKEN}}\n",
    )
    bed.set('name: "solo"', 'name: "solo"\n    cloud: sandbox')

    findings = await doctor(bed)

    assert [what for what in failing(findings) if not what.startswith("other: DDS: 127.0.0.1 gave no reply")] == []
    assert found(findings, "sandbox: the cloud accepts the credentials") is Level.OK


@asynccontextmanager
async def behind_tls(
    bed: Bed, tmp_path: Path, *, days: int, trusted: bool = True, host: str = "localhost"
) -> AsyncIterator[None]:
    pem = certificate(tmp_path, days=days, host=host)
    port = int(bed.sandbox.endpoint.rpartition(":")[2])
    async with secure(pem, port) as secured:
        ca = f"\n    ca_file: {pem}" if trusted else ""
        bed.set(f"endpoint: {bed.sandbox.endpoint}\n    iam", f"endpoint: https://localhost:{secured}{ca}\n    iam")
        yield


@pytest.mark.parametrize(("days", "level"), [(60, Level.OK), (22, Level.OK), (20, Level.WARN), (0, Level.WARN)])
async def test_a_certificate_is_judged_by_the_days_that_are_left(
    bed: Bed, tmp_path: Path, days: int, level: Level
) -> None:
    bed.sandbox.faults.skew = datetime.now(UTC) - bed.clock.now()
    async with behind_tls(bed, tmp_path, days=days):
        findings = await doctor(bed, clock=SystemClock())

    assert (found(findings, f"is trusted, and ends in {days} days"), failing(findings)) == (level, [])


async def test_where_an_address_does_not_answer_the_next_one_is_asked(tmp_path: Path) -> None:
    """As cycles do: a name that has an address of IPv6, too, on a host without a route for it."""
    context, ended = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), asyncio.Event()
    context.load_cert_chain(pem := certificate(tmp_path, days=60))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read()
        writer.transport.abort()
        ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        look = partial(network_checks._certificate, "DDS", "localhost", port, ca_file=pem, now=datetime.now(UTC))
        findings = [await look(addresses) for addresses in (["127.0.0.2", "127.0.0.1"], ["127.0.0.2"])]
        assert [finding.level for finding in findings] == [Level.OK, Level.FAIL]
        await ended.wait()


@pytest.mark.parametrize(
    ("days", "trusted", "host", "said"),
    [
        (-2, True, "localhost", "certificate has expired"),
        (60, False, "localhost", "self-signed certificate"),
        (60, True, "dds.example.com", "Hostname mismatch"),
    ],
)
async def test_a_certificate_that_is_not_good_fails_and_says_why(
    bed: Bed, tmp_path: Path, days: int, host: str, said: str, *, trusted: bool
) -> None:
    async with behind_tls(bed, tmp_path, days=days, trusted=trusted, host=host):
        findings = await doctor(bed)

    assert (found(findings, said), bed.sandbox.calls["instances"]) == (Level.FAIL, 0)


async def test_a_ca_file_that_cannot_be_used_fails_and_ends_nothing(bed: Bed, tmp_path: Path) -> None:
    bed.set("    calls_per_minute", f"    ca_file: {tmp_path}/none\n    calls_per_minute")

    findings = await doctor(bed)

    assert (found(findings, "ca_file cannot be used"), {"disk", "ledger"} <= {one.area for one in findings}) == (
        Level.FAIL,
        True,
    )


async def test_a_service_that_never_answers_is_given_up(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stands, and nothing comes: each wait ends by itself. (It is shortened here.)"""
    monkeypatch.setattr("ddslogd.doctor.network_checks.PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        bed.set(
            f"endpoint: {bed.sandbox.endpoint}\n    iam",
            f"endpoint: http://127.0.0.1:{server.getsockname()[1]}\n    iam",
        )
        findings = await doctor(bed)

    assert found(findings, "no answer within 10 s") is Level.FAIL


async def test_a_check_that_breaks_is_a_finding_and_ends_nothing(bed: Bed) -> None:
    class Broken(SystemClock):
        def now(self) -> datetime:
            raise ZeroDivisionError

    findings = await doctor(bed, clock=Broken())

    assert (found(findings, "sandbox: the check itself failed (ZeroDivisionError)"), len(failing(findings))) == (
        Level.FAIL,
        2,
    )


# --- disk -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(bed: Bed, tmp_path: Path) -> Iterator[Path]:
    """Put the logs on a file system of 1 MiB and 40 inodes."""
    path = tmp_path / "disk"
    path.mkdir()
    try:
        options = ["-t", "tmpfs", "-o", "size=1m,nr_inodes=40", "tmpfs"]
        subprocess.run(["mount", *options, str(path)], check=True, capture_output=True)
    except (subprocess.CalledProcessError, FileNotFoundError) as exc:
        pytest.skip(f"this machine forbids mounts (uid {os.getuid()}): {exc}")
    bed.directory = path / "logs"
    bed.directory.mkdir(mode=0o750)
    yield path
    subprocess.run(["umount", str(path)], check=True)


async def test_a_full_disk_fails(bed: Bed, small: Path) -> None:
    (small / "filler").write_bytes(bytes(os.statvfs(small).f_bavail * os.statvfs(small).f_frsize))

    assert found(await doctor(bed, offline=True), "nothing is asked for") is Level.FAIL


async def test_less_room_than_keep_free_fails(bed: Bed, small: Path) -> None:
    bed.set("keep_free: 0", "keep_free: 2MiB")

    assert (small.exists(), found(await doctor(bed, offline=True), "nothing is asked for")) == (True, Level.FAIL)


async def test_inodes_that_run_out_are_told(bed: Bed, small: Path) -> None:
    before = found(await doctor(bed, offline=True), "inodes: ")
    for number in range(os.statvfs(small).f_favail):
        (small / str(number)).touch()

    assert (before, found(await doctor(bed, offline=True), "inodes: 0 of 40")) == (Level.OK, Level.FAIL)


async def test_what_comes_is_reckoned_and_warned_of_where_there_is_no_room_for_it(bed: Bed, small: Path) -> None:
    """Half a megabyte in its first day makes fifteen in a month."""
    bed.sandbox.write(NODE, b"x" * 99 + b"\n")
    bed.sandbox.write(NODE, (b"y" * 99 + b"\n") * 3000)
    await bed.collect()

    findings = await doctor(bed, offline=True)

    assert small.exists()
    assert (found(findings, "which there is no room for"), growth(bed.state, bed.clock.now()).held_snapshots) == (
        Level.WARN,
        300_100,
    )


async def test_a_directory_that_the_daemon_may_not_write_to_fails(bed: Bed, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for path in (bed.directory, bed.state):
        path.mkdir(mode=0o750)

    findings = await doctor(bed, offline=True, who=Who(name="nobody", uid=65534, gids=frozenset()))

    told = [what for what in failing(findings) if "nobody may not write to" in what]
    assert len(told) == 2


async def test_a_directory_below_one_that_cannot_be_entered_fails_and_names_that_one(bed: Bed, tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    bed.directory = shut / "logs"
    bed.directory.mkdir(parents=True)
    os.chown(bed.directory, NOBODY.uid or 0, -1)
    shut.chmod(0o700)

    findings = await doctor(bed, offline=True, who=NOBODY)

    (told,) = [what for what in failing(findings) if what.startswith("storage.directory")]
    assert "see /" in told


async def test_a_directory_that_everybody_can_look_into_is_warned_of(bed: Bed) -> None:
    bed.directory.mkdir()
    bed.directory.chmod(0o755)

    assert found(await doctor(bed, offline=True), "others can look into") is Level.WARN


async def test_a_file_in_the_place_of_the_directory_fails(bed: Bed) -> None:
    bed.directory.write_text("")

    assert found(await doctor(bed, offline=True), "is no directory") is Level.FAIL


# --- ledger -----------------------------------------------------------------------------------------------------------


async def test_the_ledger_is_read_and_its_version_told(bed: Bed) -> None:
    await bed.collect()

    assert found(await doctor(bed, offline=True), f"can be read (version {database.VERSION})") is Level.OK


@pytest.mark.parametrize(
    ("version", "level", "said"),
    [(database.VERSION + 1, Level.FAIL, "a newer ddslogd"), (database.VERSION - 1, Level.WARN, "an older ddslogd")],
)
async def test_a_ledger_of_another_version_is_told(bed: Bed, version: int, level: Level, said: str) -> None:
    import sqlite3  # noqa: PLC0415  # here alone

    await bed.collect()
    db = sqlite3.connect(bed.state / "ledger.sqlite3")
    db.execute(f"PRAGMA user_version = {version}")
    db.close()

    assert found(await doctor(bed, offline=True), said) is level


async def test_a_ledger_that_is_none_fails(bed: Bed) -> None:
    bed.state.mkdir()
    (bed.state / "ledger.sqlite3").write_bytes(b"no database" * 1000)

    assert found(await doctor(bed, offline=True), "the ledger is damaged") is Level.FAIL


# --- who may read -----------------------------------------------------------------------------------------------------


async def test_a_shippers_group_has_to_pass_every_directory_on_the_way(bed: Bed, tmp_path: Path) -> None:
    bed.sandbox.write(NODE, b"a line\n")
    await bed.collect()
    for path in (bed.directory, *bed.directory.rglob("*")):
        os.chown(path, -1, 12345)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and "pytest-of-" in str(path):  # pytest's own
            path.chmod(0o711)
    open_way = found(await doctor(bed, offline=True), "group 12345")

    (bed.directory / "streams" / "solo" / f"{NODE}.log").resolve().chmod(0o600)
    unreadable_file = found(await doctor(bed, offline=True), "group 12345")
    tmp_path.chmod(0o700)
    shut_way = await doctor(bed, offline=True)

    assert (open_way, unreadable_file, found(shut_way, "group 12345")) == (Level.OK, Level.WARN, Level.WARN)
    assert any(f"see {tmp_path}" in finding.what for finding in shut_way)


def test_access_is_judged_by_the_mode_bits_of_whoever_asks(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.chown(file, 1000, 2000)
    file.chmod(0o640)
    owner, group, other = (Who(name="", uid=uid, gids=frozenset({gid})) for uid, gid in ((1000, 1), (2, 2000), (2, 1)))

    seen = [[who.may(file.stat(), bits) for bits in (4, 2)] for who in (owner, group, other, member_of(2000))]

    assert seen == [[True, True], [True, False], [False, False], [True, False]]
    assert barrier(file, other, 4) is not None


def test_a_file_system_of_another_host_is_known_by_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("tmpfs /var/log/here tmpfs rw 0 0\nhost:/x /var/log nfs4 rw 0 0\n/dev/vda / ext4 rw 0 0\n")
    monkeypatch.setattr(file_access, "_MOUNTS", mounts)

    assert [file_access.remote_type(Path(path)) for path in ("/var/log/a", "/var/log/here/a", "/var/lib")] == [
        "nfs4",
        "",
        "",
    ]


# --- as a command -----------------------------------------------------------------------------------------------------

FINDINGS = (
    CheckResult(level=Level.OK, area="disk", what="[all] is well"),
    CheckResult(level=Level.FAIL, area="login", what="refused", todo="mend it"),
)


def test_a_line_each_and_below_it_what_to_do() -> None:
    assert lines(FINDINGS).splitlines() == [
        "ok    disk           [all] is well",
        "fail  login          refused",
        "                     to do: mend it",
        "1 ok, 0 warn, 1 fail",
    ]


def test_a_terminal_gets_colours() -> None:
    told = table(FINDINGS, width=80)

    assert ("\x1b[32mok" in told, "\x1b[1;31mfail" in told, "[all] is well" in re.sub("\x1b.*?m", "", told)) == (
        True,
        True,
        True,
    )


def test_programs_get_an_object() -> None:
    told = report(FINDINGS, datetime(2026, 1, 2, tzinfo=UTC))

    assert (told["ok"], told["warn"], told["fail"], told["findings"][1]) == (
        1,
        0,
        1,
        {"level": "fail", "area": "login", "what": "refused", "todo": "mend it"},
    )


async def test_the_command_exits_0_where_nothing_fails(bed: Bed) -> None:
    bed.sandbox.faults.skew = datetime.now(UTC) - bed.clock.now()

    ended = await ddslogd("doctor", "-c", config_of(bed), "--json", token=os.environ["DDSLOGD_TOKEN"])

    assert (ended.status, json.loads(ended.out)["fail"], ended.err) == (0, 0, ""), ended.out


async def test_the_command_exits_1_where_something_does_and_prints_no_secret(bed: Bed) -> None:
    bed.sandbox.faults.skew = datetime.now(UTC) - bed.clock.now()

    ended = await ddslogd("doctor", "-c", config_of(bed), token="no-token-at-all")

    told = [line[:4].strip() for line in ended.out.splitlines()]
    assert (ended.status, told.count("fail") >= 1, "no-token-at-all" in ended.out + ended.err) == (1, True, False)
