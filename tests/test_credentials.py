"""Who we are: one login for all, renewed in time, never repeated into a locked account."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import structlog

from ddslogd.cloud.credentials import read_secret
from ddslogd.config import Secret
from ddslogd.errors import CredentialsRefused
from ddslogd.models import CycleOutcome
from ddslogd.sandbox import ApiError, replica_set, single

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Bed, ManualClock
    from ddslogd.sandbox import Sandbox

NODE = "solo_single_node_1"
LOG = b"a line\n" * 100


@pytest.fixture
def by_password(sandbox: Sandbox, bed: Bed, tmp_path: Path) -> Path:
    """Log in by password; give the file that holds it."""
    file = tmp_path / "password"
    file.write_text(sandbox.password + "\n")
    bed.set("method: token", "method: password")
    bed.set(
        "token: {env: DDSLOGD_TOKEN}",
        f"username: {sandbox.user_name}\n      domain_name: {sandbox.domain_name}\n      password: {{file: {file}}}",
    )
    sandbox.write(NODE, LOG)
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
async def test_a_missing_right_costs_no_second_login_while_the_token_is_young(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.api_errors = [ApiError(400, "DBS.280015")] * 9

    report = await bed.collect()

    assert (report.error_kind, sandbox.calls["login"]) == ("NotAllowed", 1)


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
