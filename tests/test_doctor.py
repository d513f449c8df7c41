"""One run that finds what is wrong: real sockets, files and certificates, with a fault in each."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd import cli
from ddslogd.findings import Finding, Level
from ddslogd.operate.doctor import Visit, examined, lines, report, table
from ddslogd.pacing import SystemClock
from ddslogd.sandbox import ApiError
from ddslogd.storage import database, premises
from ddslogd.storage.inventory import growth
from ddslogd.storage.premises import Who, barrier, member_of
from ddslogd.storage.store import holder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from conftest import Bed
    from ddslogd.pacing import Clock

NODE = "solo_single_node_1"
NOBODY = Who(name="nobody", uid=65534, gids=frozenset({65534}))


def config_of(bed: Bed) -> Path:
    path = bed.state.parent / "ddslogd.yaml"
    path.write_text(bed.text)
    return path


async def doctor(bed: Bed, *, clock: Clock | None = None, **visit: Any) -> tuple[Finding, ...]:
    asked = Visit(path=config_of(bed), **visit)
    return await examined(asked, clock=clock or bed.clock, redact=bed.secrets.append)


def found(findings: tuple[Finding, ...], text: str) -> Level:
    """Give the level of the only finding with a text."""
    (level,) = {finding.level for finding in findings if text in finding.what}
    return level


def failing(findings: tuple[Finding, ...]) -> list[str]:
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


async def test_without_the_right_to_export_that_fails_and_names_the_right(bed: Bed) -> None:
    bed.sandbox.faults.missing_rights = {"errorlog-download"}

    findings = await doctor(bed)

    (refused,) = [finding for finding in findings if finding.level is Level.FAIL]
    assert ("DBS.280032" in refused.what, "dds:instance:downloadErrorLog" in refused.todo) == (True, True)


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
        (timedelta(minutes=16), Level.FAIL),
        (timedelta(minutes=-16), Level.FAIL),
    ],
)
async def test_the_clocks_are_compared(bed: Bed, skew: timedelta, level: Level) -> None:
    bed.sandbox.faults.skew = skew

    findings = await doctor(bed)

    assert [finding.level for finding in findings if finding.area == "clock"] == [level]


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


def needed_openssl() -> str:
    path = shutil.which("openssl")
    if path is None and os.environ.get("DDSLOGD_SKIP_NOTHING"):
        pytest.fail("openssl is missing")
    if path is None:
        pytest.skip("openssl is missing: install Debian's openssl")
    return path


def certificate(directory: Path, *, days: int, host: str = "localhost") -> Path:
    """Make a self-signed certificate that ends in so many days, or ended before; give the file of it and its key."""
    now = datetime.now(UTC)
    begin, end = (
        f"{moment:%Y%m%d%H%M%SZ}" for moment in (now - timedelta(days=90), now + timedelta(days=days, hours=1))
    )
    openssl = needed_openssl()
    pem = directory / "server.pem"
    subject = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    key, request = directory / "key.pem", directory / "request.pem"
    run = partial(subprocess.run, check=True, capture_output=True)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run([openssl, "req", *curve, *subject, "-keyout", str(key), "-out", str(request)])
    (directory / "index").write_text("")
    (directory / "serial").write_text("01\n")
    (directory / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=c\n[c]\ndatabase={directory}/index\nserial={directory}/serial\nnew_certs_dir={directory}\n"
        "default_md=sha256\npolicy=p\ncopy_extensions=copy\n[p]\ncommonName=supplied\n"
    )
    signing = ["-batch", "-selfsign", "-config", str(directory / "ca.cnf"), "-keyfile", str(key)]
    times = ["-startdate", begin, "-enddate", end]
    run([openssl, "ca", *signing, "-in", str(request), "-out", str(directory / "cert.pem"), *times])
    text = (directory / "cert.pem").read_text()
    pem.write_text(text[text.index("-----BEGIN") :] + key.read_text())
    return pem


@asynccontextmanager
async def secure(pem: Path, sandbox_port: int) -> AsyncIterator[int]:
    """Put TLS before the sandbox; give the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_cloud, from_cloud = await asyncio.open_connection("127.0.0.1", sandbox_port)
        writers.extend((writer, from_cloud))
        tasks.add(asyncio.create_task(pump(reader, from_cloud)))
        tasks.add(asyncio.create_task(pump(to_cloud, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            if not writer.is_closing():  # Python 3.11.2 fails where that was closed twice
                writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


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
    monkeypatch.setattr("ddslogd.cloud.reach.PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        bed.set(
            f"endpoint: {bed.sandbox.endpoint}\n    iam",
            f"endpoint: http://127.0.0.1:{server.getsockname()[1]}\n    iam",
        )
        async with asyncio.timeout(5):
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

    assert found(await doctor(bed, offline=True), "the ledger cannot be read") is Level.FAIL


# --- who may read -----------------------------------------------------------------------------------------------------


async def test_a_shippers_group_has_to_pass_every_directory_on_the_way(bed: Bed, tmp_path: Path) -> None:
    bed.sandbox.write(NODE, b"a line\n")
    await bed.collect()
    for path in (bed.directory, *bed.directory.rglob("*")):
        os.chown(path, -1, 12345)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and str(path).startswith("/tmp/pytest"):  # noqa: S108  # pytest's own
            path.chmod(0o711)
    open_way = found(await doctor(bed, offline=True), "group 12345")

    (bed.directory / "streams" / "solo" / f"{NODE}.log").chmod(0o600)
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
    monkeypatch.setattr(premises, "_MOUNTS", mounts)

    assert [premises.remote_type(Path(path)) for path in ("/var/log/a", "/var/log/here/a", "/var/lib")] == [
        "nfs4",
        "",
        "",
    ]


# --- as a command -----------------------------------------------------------------------------------------------------

FINDINGS = (
    Finding(level=Level.OK, area="disk", what="[all] is well"),
    Finding(level=Level.FAIL, area="login", what="refused", todo="mend it"),
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


class Ended:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


async def ddslogd(*arguments: str | Path, **environ: str) -> Ended:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ddslogd", *map(str, arguments), stdout=pipe, stderr=pipe, env={**os.environ, **environ}
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return Ended(process.returncode or 0, out.decode(), err.decode())


async def test_the_command_exits_0_where_nothing_fails(bed: Bed) -> None:
    bed.sandbox.faults.skew = datetime.now(UTC) - bed.clock.now()

    ended = await ddslogd("doctor", "-c", config_of(bed), "--json")

    assert (ended.status, json.loads(ended.out)["fail"], ended.err) == (0, 0, ""), ended.out


async def test_the_command_exits_1_where_something_does_and_prints_no_secret(bed: Bed, tmp_path: Path) -> None:
    bed.sandbox.faults.skew = datetime.now(UTC) - bed.clock.now()
    shipper = tmp_path / "filebeat.yml"
    shipper.write_text(f"filebeat.inputs: [{{type: filestream, paths: ['{bed.directory}/**']}}]")

    ended = await ddslogd(
        "doctor", "-c", config_of(bed), "--shipper", f"filebeat:{shipper}", DDSLOGD_TOKEN="no-token-at-all"
    )

    told = [line[:4].strip() for line in ended.out.splitlines()]
    assert (ended.status, told.count("fail") >= 3, "no-token-at-all" in ended.out + ended.err) == (1, True, False)
    assert "matches a part" in ended.out


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [
        ("filebeat:/etc/f.yml", "filebeat", "/etc/f.yml"),
        ("fluent-bit:f", "fluent-bit", "f"),
        ("/etc/f.yml", None, "/etc/f.yml"),
        ("other:/etc/f.yml", None, "other:/etc/f.yml"),
    ],
)
def test_a_shippers_kind_may_stand_before_its_file(text: str, kind: str | None, path: str) -> None:
    assert cli._shipper(text) == (kind, Path(path))


async def test_a_shipper_that_is_not_the_one_whose_books_are_read_is_warned_of(bed: Bed, tmp_path: Path) -> None:
    bed.set("keep_free: 0\n", "keep_free: 0\n  shipper: {kind: vector, registry: /var/lib/vector}\n")
    shipper = tmp_path / "rsyslog.conf"
    shipper.write_text(f'input(type="imfile" file="{bed.directory}/streams/*/*.log*" tag="x" persistStateInterval="1")')

    findings = await doctor(bed, offline=True, shippers=[(None, shipper), (None, tmp_path / "none")])

    assert (found(findings, "storage.shipper.kind is vector"), found(findings, "No such file")) == (
        Level.WARN,
        Level.FAIL,
    )


async def test_ignore_older_is_held_against_the_slowest_schedule(bed: Bed, tmp_path: Path) -> None:
    """Also one that is read from cron."""
    shipper = tmp_path / "fluent-bit.conf"
    shipper.write_text(
        f"[INPUT]\n Name tail\n Path {bed.directory}/streams/*/*.log\n DB x\n Read_from_Head on\n Skip_Long_Lines on\n"
        " Ignore_Older 36h\n"
    )
    before = await doctor(bed, offline=True, shippers=[(None, shipper)])
    bed.set("every: 20m", 'cron: "0 6 * * mon-fri"')

    after = await doctor(bed, offline=True, shippers=[(None, shipper)])

    assert (failing(before), found(after, "(3 days, 0:00:00)")) == ([], Level.FAIL)


async def test_an_instance_with_a_slower_schedule_of_its_own_counts(bed: Bed, tmp_path: Path) -> None:
    bed.set('name: "solo"', 'name: "solo"\n    every: 2d')
    shipper = tmp_path / "vector.toml"
    shipper.write_text(
        f'[sources.dds]\ntype = "file"\ninclude = ["{bed.directory}/streams/*/*.log*"]\nignore_older_secs = 90000\n'
    )

    findings = await doctor(bed, offline=True, shippers=[(None, shipper)])

    assert found(findings, "(2 days, 0:00:00)") is Level.FAIL
