"""Calls to the cloud: what is retried, what is not, and at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from ddslogd.sandbox import ApiError

if TYPE_CHECKING:
    from conftest import Bed
    from ddslogd.sandbox import Sandbox

NODE = "solo_single_node_1"
LOG = b"a line\n" * 100


@pytest.mark.parametrize(
    "error",
    [
        ApiError(500, "DBS.280005"),
        ApiError(502, shape="html"),
        ApiError(503, shape="empty"),
        ApiError(504, shape="gateway", code="APIGW.0201"),
        ApiError(408, shape="empty"),
        ApiError(429, "APIGW.0308", shape="gateway"),
        ApiError(429, "DBS.280443"),
        ApiError(403, "DBS.200019"),
        ApiError(400, "DBS.200998"),
    ],
)
async def test_what_may_pass_is_asked_again(sandbox: Sandbox, bed: Bed, error: ApiError) -> None:
    """Also the busy codes, whose HTTP status says 'do not repeat'."""
    sandbox.write(NODE, LOG)
    sandbox.faults.api_errors = [error, error]

    await bed.collect()

    assert bed.contents() == [LOG]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ApiError(400, "DBS.280001"), "Rejected"),
        (ApiError(404, "DBS.200002"), "Gone"),
        (ApiError(400, "DBS.280110"), "Gone"),
        (ApiError(403, "DBS.280063"), "NotAllowed"),
        (ApiError(403, "DBS.280019"), "NotAllowed"),
        (ApiError(400, "DBS.280343"), "Unsupported"),
        (ApiError(307, shape="empty"), "Rejected"),
    ],
)
async def test_what_cannot_pass_costs_one_call(sandbox: Sandbox, bed: Bed, error: ApiError, kind: str) -> None:
    sandbox.faults.api_errors = [error] * 9

    report = await bed.collect()

    assert (report.error_kind, sandbox.calls["errorlog-download"]) == (kind, 1)


async def test_retries_end(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.api_errors = [ApiError(500)] * 50

    report = await bed.collect()

    assert (report.error_kind, sandbox.calls["errorlog-download"] <= 10) == ("Unavailable", True)


async def test_each_retry_is_told_and_the_last_failure_is_none(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.api_errors = [ApiError(500)] * 50
    with structlog.testing.capture_logs() as events:
        await bed.collect()

    told = [event["about"] for event in events if event["event"] == "call.retried"]
    assert told == ["error log of solo"] * (sandbox.calls["errorlog-download"] - 1)


async def test_a_dropped_connection_is_asked_again(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    sandbox.faults.drop_api = 2

    await bed.collect()

    assert bed.contents() == [LOG]


async def test_a_429_pauses_the_account_as_long_as_it_asks(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    sandbox.faults.api_errors = [ApiError(429, "APIGW.0308", headers={"Retry-After": "37"}, shape="gateway")]

    await bed.collect()

    assert (37.0 in bed.clock.slept, bed.contents()) == (True, [LOG])


async def test_a_server_cannot_make_us_wait_for_hours(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    sandbox.faults.api_errors = [ApiError(429, "APIGW.0308", headers={"Retry-After": "86400"}, shape="gateway")]

    await bed.collect()

    assert (max(bed.clock.slept), bed.contents()) == (120.0, [LOG])


async def test_a_message_says_whose_turn_it_is_and_gives_the_request_id(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.api_errors = [ApiError(403, "DBS.280063", "no right")]

    report = await bed.collect()

    assert "grant dds:instance:downloadErrorLog" in report.error
    assert "DBS.280063, request id 0000000000" in report.error


async def test_a_body_without_end_is_cut_off_and_rejected(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.mangle = lambda _: b'{"x": "' + b"a" * (17 * 1024 * 1024)

    report = await bed.collect()

    assert (report.error_kind, sandbox.calls["errorlog-download"]) == ("Rejected", 1)


async def test_an_unreachable_cloud_is_said_in_words_without_an_address(sandbox: Sandbox, bed: Bed) -> None:
    await sandbox.stop()

    report = await bed.collect()

    assert (report.error_kind, "gave no answer" in report.error or "gave no reply" in report.error) == (
        "Unavailable",
        True,
    )
