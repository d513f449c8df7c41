"""Which project calls are for where the configuration does not say; other accounts' projects, by their agencies."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from ddslogd.model.cycle import CycleOutcome
from ddslogd.sandbox import ApiError, single

if TYPE_CHECKING:
    from pathlib import Path

    from ddslogd.sandbox import Sandbox
    from support.testbed import Bed

NODE = "solo_single_node_1"
LOG = b"a line\n" * 100


@pytest.fixture
def unnamed(sandbox: Sandbox, bed: Bed) -> Bed:
    """Leave the project's id out."""
    sandbox.write(NODE, LOG)
    bed.set(f'    project_id: "{sandbox.project_id}"\n', "")
    return bed


@pytest.fixture
def by_key(sandbox: Sandbox, unnamed: Bed, tmp_path: Path) -> Bed:
    (tmp_path / "secret").write_text(sandbox.secret_key)
    unnamed.set("method: token", "method: access_key")
    unnamed.set(
        "token: {env: DDSLOGD_TOKEN}",
        f"access_key: {sandbox.access_key}\n      secret_key: {{file: {tmp_path / 'secret'}}}",
    )
    return unnamed


def named(bed: Bed, name: str) -> None:
    bed.set("    auth:\n", f"    project_name: {name}\n    auth:\n")


async def test_a_token_says_itself_which_project_it_is_for(sandbox: Sandbox, unnamed: Bed) -> None:
    await unnamed.collect()

    assert (unnamed.contents(), sandbox.calls["token"]) == ([LOG], 1)


async def test_many_instances_ask_for_the_project_once(bed: Bed) -> None:
    async with bed.cloud(fleet=tuple(single(f"one{number}") for number in range(20))) as sandbox:
        bed.set(f'    project_id: "{sandbox.project_id}"\n', "")
        async with bed.open() as service:
            reports = await service.once(bed.settings.fleet())

        assert ({report.outcome for report in reports}, sandbox.calls["token"]) == ({CycleOutcome.OK}, 1)


async def test_a_dead_token_is_asked_about_once_until_another_is_there(sandbox: Sandbox, unnamed: Bed) -> None:
    sandbox.revoke_tokens()
    async with unnamed.open():
        first = await unnamed.collect()
        await unnamed.collect()

    assert (first.error_kind, sandbox.calls["token"]) == ("credentials_refused", 1)


async def test_with_access_keys_the_project_is_looked_up_by_its_name(sandbox: Sandbox, by_key: Bed) -> None:
    named(by_key, sandbox.project_name)

    await by_key.collect()

    assert (by_key.contents(), sandbox.calls["projects"]) == ([LOG], 1)


async def test_a_project_that_is_not_there_is_for_the_operator_to_mend(by_key: Bed) -> None:
    named(by_key, "mars-north-1")

    report = await by_key.collect()

    assert (report.error_kind, "no project of the name 'mars-north-1'" in report.error) == ("misdirected", True)


async def test_a_wrong_secret_key_costs_one_look_up_in_a_cool_down(
    sandbox: Sandbox, by_key: Bed, tmp_path: Path
) -> None:
    """More than five refusals in a row would lock the key."""
    named(by_key, sandbox.project_name)
    (tmp_path / "secret").write_text("wrong")
    async with by_key.open():
        for _ in range(8):
            await by_key.collect()

    assert sandbox.calls["projects"] == 1


async def test_a_clock_that_is_off_by_an_hour_is_corrected_by_the_first_refusal(sandbox: Sandbox, by_key: Bed) -> None:
    """Signatures that are over 15 minutes off are refused; the refusal tells the time."""
    named(by_key, sandbox.project_name)
    sandbox.faults.skew = timedelta(hours=1)

    await by_key.collect()

    assert (by_key.contents(), sandbox.calls["projects"]) == ([LOG], 2)


@pytest.fixture
async def agency(bed: Bed, tmp_path: Path) -> Bed:
    """Collect from a customer's account, by the agency that it has given."""
    (tmp_path / "password").write_text(bed.sandbox.password)
    sandbox = bed.sandbox
    bed.set("method: token", "method: password")
    bed.set(
        "token: {env: DDSLOGD_TOKEN}",
        f"username: {sandbox.user_name}\n      domain_name: {sandbox.domain_name}\n"
        f"      password: {{file: {tmp_path / 'password'}}}\n"
        f"      assume_role: {{agency_name: {sandbox.agency_name}, domain_name: {sandbox.agency_domain_name}}}",
    )
    return bed


async def test_another_accounts_logs_are_collected_by_its_agency(agency: Bed) -> None:
    async with agency.cloud(agency_only=True) as sandbox:
        sandbox.write(NODE, LOG)

        await agency.collect()

        assert (agency.contents(), sandbox.calls["login"]) == ([LOG], 2)


async def test_without_the_agency_the_same_account_is_closed(agency: Bed) -> None:
    """What the test before it stands on."""
    async with agency.cloud(agency_only=True) as sandbox:
        sandbox.write(NODE, LOG)
        agency.changes = [
            (old, new[: new.index("\n      assume_role")] if "assume_role" in new else new)
            for old, new in agency.changes
        ]

        report = await agency.collect()

        assert (report.outcome, agency.files()) == (CycleOutcome.FAILED, [])


async def test_an_agency_token_is_renewed_by_both_logins(agency: Bed) -> None:
    async with agency.cloud(agency_only=True) as sandbox:
        sandbox.write(NODE, LOG)
        async with agency.open():
            await agency.collect()
            agency.clock.forward(hours=23, minutes=50)
            await agency.collect()

        refused = [request for request in sandbox.requests if request.status == 401]
        assert (refused, sandbox.calls["login"]) == ([], 4)


async def test_an_agency_that_is_refused_rests_like_a_wrong_password(agency: Bed) -> None:
    async with agency.cloud(agency_only=True) as sandbox:
        agency.set(f"agency_name: {sandbox.agency_name}", "agency_name: nobody")
        async with agency.open():
            first = await agency.collect()
            await agency.collect()

        assert (first.error_kind, sandbox.calls["login"]) == ("credentials_refused", 2)


async def test_an_identity_service_that_fails_between_the_two_logins_is_asked_again(agency: Bed) -> None:
    async with agency.cloud(agency_only=True) as sandbox:
        sandbox.write(NODE, LOG)
        sandbox.faults.login_errors = [ApiError(503, shape="empty")]

        await agency.collect()

        assert agency.contents() == [LOG]
