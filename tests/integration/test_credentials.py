"""Who we are: one login for all, renewed in time, never repeated into a locked account."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from rich.console import Console

from ddslogd.cli.progress import Lines
from ddslogd.config.settings import Secret
from ddslogd.huaweicloud.auth.password import PasswordLogin
from ddslogd.huaweicloud.auth.secret_source import read_secret, to_replace
from ddslogd.huaweicloud.auth.token import proof
from ddslogd.model.cycle import CycleOutcome
from ddslogd.model.errors import CredentialsRefused, Misdirected
from ddslogd.sandbox import ApiError, replica_set, single

if TYPE_CHECKING:
    from pathlib import Path

    from ddslogd.sandbox import Sandbox
    from support.clocks import ManualClock
    from support.testbed import Bed

NODE = "solo_single_node_1"
LOG = b"a line\n" * 100


@pytest.fixture
def by_password(sandbox: Sandbox, bed: Bed, tmp_path: Path) -> Path:
    """Log in by password; give the file that holds it."""
    sandbox.write(NODE, LOG)
    return by_password_of(sandbox, bed, tmp_path)


def by_password_of(sandbox: Sandbox, bed: Bed, tmp_path: Path) -> Path:
    """Have the configuration log in to a sandbox by password; return the file that holds it."""
    file = tmp_path / "password"
    file.write_text(sandbox.password + "\n")
    bed.set("method: token", "method: password")
    bed.set(
        "token: {env: DDSLOGD_TOKEN}",
        f"username: {sandbox.user_name}\n      domain_name: {sandbox.domain_name}\n      password: {{file: {file}}}",
    )
    return file


@pytest.mark.usefixtures("by_password")
async def test_a_password_is_exchanged_for_a_token(sandbox: Sandbox, bed: Bed) -> None:
    await bed.collect()

    assert (bed.contents(), sandbox.calls["login"]) == ([LOG], 1)


@pytest.mark.usefixtures("by_password")
async def test_the_project_id_comes_from_the_login(sandbox: Sandbox, bed: Bed) -> None:
    bed.set(f'project_id: "{sandbox.project_id}"', f"project_name: {sandbox.project_name}")

    await bed.collect()

    assert bed.contents() == [LOG]


async def test_a_token_of_a_user_with_many_roles_is_received_and_sent(bed: Bed, tmp_path: Path) -> None:
    """The vendor speaks of 32,768 bytes and more, aiohttp by itself reads 8,190 of a header."""
    async with bed.cloud(token_length=128 * 1024 - len("X-Subject-Token")) as sandbox:
        by_password_of(sandbox, bed, tmp_path)
        sandbox.write(NODE, LOG)

        await bed.collect()

        assert bed.contents() == [LOG]


async def test_a_given_token_of_a_user_with_many_roles_is_sent(bed: Bed) -> None:
    """Its project is asked for by two headers of that size."""
    async with bed.cloud(token_length=100 * 1024) as sandbox:
        bed.set(f'project_id: "{sandbox.project_id}"', f"project_name: {sandbox.project_name}")
        sandbox.write(NODE, LOG)

        await bed.collect()

        assert bed.contents() == [LOG]


async def test_a_token_that_is_longer_still_is_named_and_does_not_count_against_the_password(
    bed: Bed, tmp_path: Path
) -> None:
    async with bed.cloud(token_length=128 * 1024) as sandbox:
        by_password_of(sandbox, bed, tmp_path)
        async with bed.open():
            reports = [await bed.collect() for _ in range(2)]

        said = "the header X-Subject-Token of the reply is longer than 131072 bytes"
        assert [(said in one.error, one.error_kind) for one in reports] == [(True, "oversized")] * 2
        assert sandbox.calls["login"] == 2  # no retry, and no rest


async def test_many_instances_share_one_login(bed: Bed, tmp_path: Path) -> None:
    async with bed.cloud(fleet=tuple(single(f"one{number}") for number in range(20))) as sandbox:
        file = tmp_path / "password"
        file.write_text(sandbox.password)
        bed.set("method: token", "method: password")
        bed.set(
            "token: {env: DDSLOGD_TOKEN}",
            f"username: {sandbox.user_name}\n      domain_name: {sandbox.domain_name}\n"
            f"      password: {{file: {file}}}",
        )
        async with bed.open() as service:
            await service.once(bed.settings.fleet())

        assert sandbox.calls["login"] == 1


@pytest.mark.usefixtures("by_password")
async def test_a_token_is_renewed_before_its_end(sandbox: Sandbox, bed: Bed, clock: ManualClock) -> None:
    """No call is ever refused: the renewal comes before the end of the 24 hours."""
    async with bed.open():
        for _ in range(80):
            clock.forward(minutes=20)
            await bed.collect()

    refused = [request for request in sandbox.requests if request.status == 401]
    assert (refused, sandbox.calls["login"]) == ([], 2)


async def test_a_token_that_dies_early_is_replaced_once_for_all(bed: Bed, tmp_path: Path, clock: ManualClock) -> None:
    async with bed.cloud(fleet=tuple(single(f"one{number}") for number in range(10))) as sandbox:
        file = tmp_path / "password"
        file.write_text(sandbox.password)
        bed.set("method: token", "method: password")
        bed.set(
            "token: {env: DDSLOGD_TOKEN}",
            f"username: {sandbox.user_name}\n      domain_name: {sandbox.domain_name}\n"
            f"      password: {{file: {file}}}",
        )
        async with bed.open() as service:
            await service.once(bed.settings.fleet())
            sandbox.revoke_tokens()
            clock.forward(minutes=20)
            reports = await service.once(bed.settings.fleet())

        assert ({report.outcome for report in reports}, sandbox.calls["login"]) == ({CycleOutcome.OK}, 2)


async def test_a_wrong_password_is_tried_once_and_never_locks_the_account(
    sandbox: Sandbox, bed: Bed, by_password: Path, clock: ManualClock
) -> None:
    """One login in a cool-down of 15 minutes: far from the five that lock."""
    by_password.write_text("wrong")
    async with bed.open():
        for _ in range(12):
            clock.forward(minutes=1)
            await bed.collect()

    assert sandbox.calls["login"] == 1


async def test_after_the_cool_down_it_is_tried_again(
    sandbox: Sandbox, bed: Bed, by_password: Path, clock: ManualClock
) -> None:
    by_password.write_text("wrong")
    async with bed.open():
        await bed.collect()
        clock.forward(minutes=16)
        await bed.collect()

    assert sandbox.calls["login"] == 2


async def test_a_new_password_in_the_file_ends_the_cool_down(sandbox: Sandbox, bed: Bed, by_password: Path) -> None:
    by_password.write_text("wrong")
    async with bed.open():
        await bed.collect()
        by_password.write_text(sandbox.password)
        await bed.collect()

    assert (bed.contents(), sandbox.calls["login"]) == ([LOG], 2)


async def test_a_refused_login_is_said_once(bed: Bed, by_password: Path, clock: ManualClock) -> None:
    by_password.write_text("wrong")
    with structlog.testing.capture_logs() as events:
        async with bed.open():
            for _ in range(5):
                clock.forward(minutes=1)
                await bed.collect()

    assert [event["cloud"] for event in events if event["event"] == "credentials.refused"] == ["sandbox"]


@pytest.mark.usefixtures("sandbox", "by_password")
async def test_a_login_is_told_with_its_cloud(bed: Bed) -> None:
    with structlog.testing.capture_logs() as events:
        async with bed.open():
            await bed.collect()

    assert [event["cloud"] for event in events if event["event"] == "login.done"] == ["sandbox"]


@pytest.mark.usefixtures("by_password")
async def test_a_login_whose_tokens_are_refused_is_not_repeated_for_ever(sandbox: Sandbox, bed: Bed) -> None:
    """Never more than two logins in a row."""
    sandbox.faults.api_errors = [ApiError(401, "APIGW.0301", shape="gateway")] * 99
    async with bed.open():
        for _ in range(5):
            await bed.collect()

    assert sandbox.calls["login"] == 2


@pytest.mark.usefixtures("by_password")
async def test_an_identity_service_that_is_down_is_asked_again(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.login_errors = [ApiError(503, shape="empty"), ApiError(500, shape="html")]

    await bed.collect()

    assert bed.contents() == [LOG]


@pytest.mark.usefixtures("by_password")
@pytest.mark.parametrize(
    ("error", "kind"),
    [(ApiError(403, shape="html"), "foreign_answer"), (ApiError(404, shape="html"), "misdirected")],
)
async def test_a_login_that_iam_has_not_answered_costs_the_password_no_rest(
    sandbox: Sandbox, bed: Bed, error: ApiError, kind: str
) -> None:
    """A proxy's page, or an endpoint where there is no IAM: nobody has looked at the password."""
    async with bed.open():
        sandbox.faults.login_errors = [error]
        before = await bed.collect()
        report = await bed.collect()

    assert (before.error_kind, report.outcome, sandbox.calls["login"]) == (kind, CycleOutcome.OK, 2)


@pytest.mark.usefixtures("by_password")
async def test_a_token_that_still_lives_serves_while_the_identity_service_is_down(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    """Within the last half hour a renewal is due; that it fails stops nothing yet."""
    async with bed.open():
        await bed.collect()
        clock.forward(hours=23, minutes=45)
        sandbox.faults.login_errors = [ApiError(503, shape="empty")] * 50
        report = await bed.collect()

    assert report.outcome == CycleOutcome.OK


@pytest.mark.usefixtures("by_password")
async def test_a_renewal_that_failed_is_tried_again_before_the_token_ends_and_not_at_each_call(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    """After a quarter of what is left of its life: of 15 minutes, 4."""
    async with bed.open() as service:
        (account,) = service._accounts.all().values()
        await account.api.instances()
        clock.forward(hours=23, minutes=45)
        sandbox.faults.login_errors = [ApiError(404, shape="html")]
        logins = []
        for minutes in (0, 3, 1):
            clock.forward(minutes=minutes)
            await account.api.instances()
            logins.append(sandbox.calls["login"])

    assert logins == [2, 2, 3]


@pytest.mark.usefixtures("by_password")
async def test_a_token_that_is_refused_right_after_its_login_is_not_kept(sandbox: Sandbox, bed: Bed) -> None:
    """While the password rests, nothing is sent with it either."""
    sandbox.faults.api_errors = [ApiError(401, "APIGW.0301", shape="gateway")] * 99
    async with bed.open():
        await bed.collect()
        sent = sandbox.calls["errorlog-download"]
        await bed.collect()

    assert (sent, sandbox.calls["errorlog-download"]) == (2, 2)


@pytest.mark.usefixtures("by_password")
async def test_a_token_that_is_refused_while_its_renewal_fails_is_not_kept(
    sandbox: Sandbox, bed: Bed, clock: ManualClock
) -> None:
    """Though it would serve for a quarter of an hour, had nobody found out."""
    async with bed.open() as service:
        (account,) = service._accounts.all().values()
        login = account.api._credentials
        assert isinstance(login, PasswordLogin)
        old = await login._current()
        clock.forward(hours=23, minutes=45)
        sandbox.faults.login_errors = [ApiError(404, shape="html")]
        renewing = asyncio.create_task(login._current())
        await asyncio.sleep(0)
        await login.renew(proof(old.text), sure=True)
        with pytest.raises(Misdirected):
            await renewing

        assert (await login._current()).text != old.text


@pytest.mark.usefixtures("by_password")
async def test_a_missing_right_costs_no_second_login_while_the_token_is_young(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.api_errors = [ApiError(400, "DBS.280015")] * 9

    report = await bed.collect()

    assert (report.error_kind, sandbox.calls["login"]) == ("not_allowed", 1)


async def test_a_refused_token_is_not_sent_again_until_another_is_there(
    sandbox: Sandbox, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.write(NODE, LOG)
    sandbox.revoke_tokens()
    async with bed.open():
        await bed.collect()
        await bed.collect()
        calls = sandbox.calls["errorlog-download"]
        monkeypatch.setenv("DDSLOGD_TOKEN", sandbox.issue_token())
        await bed.collect()

    assert (calls, bed.contents()) == (1, [LOG])


async def test_a_login_that_is_cancelled_by_one_serves_the_others(bed: Bed, by_password: Path) -> None:
    async with bed.cloud(fleet=(replica_set("solo"), single("other"))) as sandbox:
        by_password.write_text(sandbox.password)
        async with bed.open() as service:
            first = asyncio.create_task(service.once([bed.instance("solo")]))
            second = asyncio.create_task(service.once([bed.instance("other")]))
            await asyncio.sleep(0)
            first.cancel()
            (report,) = await second

        assert (report.outcome, sandbox.calls["login"]) == (CycleOutcome.OK, 1)


async def test_a_secret_comes_from_the_environment() -> None:
    assert await read_secret(Secret(env="X"), environ={"X": " s3cret\n"}) == "s3cret"


async def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")

    assert await read_secret(Secret(file=tmp_path / "secret"), environ={}) == "s3cret"


async def test_a_secret_comes_from_systemds_credentials(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")

    assert await read_secret(Secret(credential="token"), environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "s3cret"


async def test_a_missing_secret_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CredentialsRefused, match=rf"{tmp_path}/none: No such file"):
        await read_secret(Secret(file=tmp_path / "none"), environ={})


async def test_an_empty_variable_is_a_missing_secret() -> None:
    with pytest.raises(CredentialsRefused, match="the environment variable X is empty or not set"):
        await read_secret(Secret(env="X"), environ={"X": "  "})


@pytest.mark.parametrize("text", ["\ufeffs3cret\n", "\ufeff s3cret", "s3cret\r\n"])
async def test_what_an_editor_adds_to_a_secret_is_no_part_of_it(tmp_path: Path, text: str) -> None:
    """A byte order mark counted as a wrong password, and towards the lock of the account."""
    (tmp_path / "secret").write_text(text, encoding="utf-8", newline="")

    assert await read_secret(Secret(file=tmp_path / "secret"), environ={}) == "s3cret"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32-be"])
async def test_a_secret_with_nul_characters_is_named_and_not_shown(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "secret").write_text("s3cret", encoding=encoding)

    with pytest.raises(CredentialsRefused, match=r"secret: it holds a NUL character; save it as UTF-8 text$"):
        await read_secret(Secret(file=tmp_path / "secret"), environ={})


async def test_what_is_called_a_token_and_is_none_is_not_used(bed: Bed, by_password: Path) -> None:
    """As a secret it would blank out parts of each line of the journal."""
    assert by_password.exists()
    bed.sandbox.faults.subject_token = '", "'

    report = await bed.collect()

    assert ("what it calls a token is none" in report.error, set(bed.secrets)) == (True, {bed.sandbox.password})


@pytest.mark.parametrize("status", [401, 500])
async def test_an_error_that_echoes_the_password_shows_it_nowhere(
    bed: Bed, by_password: Path, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in the report, nor in the ledger, nor in what is printed; also where the cut goes through it."""
    assert by_password.exists()
    password = bed.sandbox.password
    bed.progress = Lines(Console(file=None, width=500))
    for padding in (0, 150, 195, 995):
        message = "x" * padding + f" the password {password} will not do"
        bed.sandbox.faults.login_errors = [ApiError(status, "APIGW.0301", message, shape="iam")] * 9
        bed.clock.forward(minutes=20)
        report = await bed.collect()

        assert password[:6] not in report.error
    found = [path.read_bytes() for path in bed.state.iterdir() if path.is_file()]
    assert [one for one in found if password.encode() in one] == []
    assert password not in capsys.readouterr().out


async def test_a_reply_that_names_a_node_by_the_token_shows_it_nowhere(bed: Bed) -> None:
    token = os.environ["DDSLOGD_TOKEN"]
    bed.sandbox.write(NODE, LOG)

    def named(reply: dict[str, Any]) -> dict[str, Any]:
        return dict(json.loads(json.dumps(reply).replace(NODE, f"node-{token}")))

    bed.sandbox.faults.mangle = named
    await bed.collect()

    assert [path for path in bed.directory.rglob("*") if token[:20] in path.name] == []
    assert [path for path in bed.state.iterdir() if path.is_file() and token.encode() in path.read_bytes()] == []


async def turn_after_a_wrong_password(bed: Bed, sandbox: Sandbox) -> tuple[str, str]:
    """Return who has to act after a wrong password, and the last error."""
    async with bed.open() as service:
        await service.once([bed.instance()])
        (report,) = await service.once([bed.instance()])
        (instance,) = (await service.observer.status()).instances
        assert sandbox.calls["login"] == 1
        return instance.turn, report.error


async def test_a_wrong_password_in_a_file_is_said_to_be_read_again(
    sandbox: Sandbox, bed: Bed, by_password: Path
) -> None:
    by_password.write_text("wrong")

    turn, error = await turn_after_a_wrong_password(bed, sandbox)

    todo = f"put the right one into {by_password}: it is read again, no restart is needed"
    assert (turn, todo in error) == (f"yours: {todo}", True)


async def test_a_wrong_credential_of_systemd_is_said_to_need_a_restart(
    bed: Bed, by_password: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service has a copy from its start; a reload says so, too."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(by_password.parent))
    bed.set(f"{{file: {by_password}}}", "{credential: password}")
    by_password.write_text("wrong")
    with structlog.testing.capture_logs() as events:
        async with bed.open() as service:
            await service.once([bed.instance()])
            (instance,) = (await service.observer.status()).instances
            await service.reload(bed.settings)

    todos = [event["todo"] for event in events if event["event"].startswith("credentials.")]
    assert (len(todos), len({instance.turn.removeprefix("yours: "), *todos})) == (2, 1)
    assert "systemctl restart ddslogd: the service has a copy from its start, which a reload does not renew" in todos[0]


async def test_a_secret_that_is_missing_is_asked_for_where_it_is_read(
    bed: Bed, by_password: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(by_password.parent))
    bed.set(f"{{file: {by_password}}}", "{credential: password}")
    by_password.write_text("\n")  # as the unit gives it where there is none

    async with bed.open() as service:
        (report,) = await service.once([bed.instance()])
        (instance,) = (await service.observer.status()).instances

    assert ("systemctl restart ddslogd" in report.error, "systemctl restart ddslogd" in instance.turn) == (True, True)


@pytest.mark.parametrize(
    ("secret", "environ", "expected"),
    [
        (Secret(env="TOKEN"), {}, "set TOKEN to the right one, and restart ddslogd"),
        (Secret(file="/run/token"), {}, "put the right one into /run/token: it is read again"),
        (Secret(credential="eu"), {"CREDENTIALS_DIRECTORY": "/c"}, "LoadCredential=eu: of the unit"),
    ],
)
def test_what_puts_another_secret_to_use_goes_by_where_it_is_from(
    secret: Secret, environ: dict[str, str], expected: str
) -> None:
    assert expected in to_replace(secret, environ=environ)
