"""Calls to the cloud: what is retried, what is not, and at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from ddslogd.huaweicloud.response_limits import MAX_BODY
from ddslogd.sandbox import ApiError
from support.testbed import known_gaps

if TYPE_CHECKING:
    from ddslogd.sandbox import Sandbox
    from support.testbed import Bed

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
        (ApiError(400, "DBS.280001"), "rejected"),
        (ApiError(404, "DBS.200002"), "gone"),
        (ApiError(400, "DBS.280110"), "gone"),
        (ApiError(403, "DBS.280063"), "not_allowed"),
        (ApiError(403, "DBS.280019"), "not_allowed"),
        (ApiError(400, "DBS.280343"), "unsupported"),
        (ApiError(307, shape="empty"), "rejected"),
        (ApiError(404, "APIGW.0101", shape="gateway"), "misdirected"),
        (ApiError(404, shape="html"), "misdirected"),
        (ApiError(404, shape="empty"), "misdirected"),
        (ApiError(404, "NotFound"), "misdirected"),
        (ApiError(403, shape="html"), "foreign_answer"),
        (ApiError(401, shape="html"), "foreign_answer"),
    ],
)
async def test_what_cannot_pass_costs_one_call(sandbox: Sandbox, bed: Bed, error: ApiError, kind: str) -> None:
    sandbox.faults.api_errors = [error] * 9

    report = await bed.collect()

    assert (report.error_kind, sandbox.calls["errorlog-download"]) == (kind, 1)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error_code": "DBS.200002", "error_msg": "The DB instance does not exist."}, "gone"),
        ({"error_code": "DBS.280032", "error_msg": "You do not have permission."}, "not_allowed"),
        ({"error_code": "DBS.999999", "error_msg": "Something else."}, "rejected"),
        (b"<html><title>Please log in</title></html>", "foreign_answer"),
    ],
)
async def test_an_error_in_the_body_of_a_200_is_told_at_once(
    sandbox: Sandbox, bed: Bed, body: dict[str, str] | bytes, kind: str
) -> None:
    """Not polled as an export that is being prepared."""
    sandbox.faults.mangle = lambda _: body

    report = await bed.collect()

    said = "" if isinstance(body, bytes) else body["error_msg"]
    assert (report.error_kind, said in report.error, sandbox.calls["errorlog-download"]) == (kind, True, 1)


async def test_a_busy_cloud_that_says_so_with_a_200_is_asked_again(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.write(NODE, LOG)
    answers = iter([{"error_code": "DBS.200019", "error_msg": "busy"}] * 2)
    sandbox.faults.mangle = lambda reply: next(answers, reply)

    report = await bed.collect()

    assert (report.error, bed.contents()) == ("", [LOG])


@pytest.mark.parametrize(
    "error",
    [ApiError(404, "APIGW.0101", shape="gateway"), ApiError(404, shape="html"), ApiError(404, shape="empty")],
)
async def test_a_404_that_is_not_the_services_own_is_no_instance_that_is_gone(
    sandbox: Sandbox, bed: Bed, error: ApiError
) -> None:
    sandbox.write(NODE, LOG)
    await bed.collect()
    bed.clock.forward(minutes=20)
    sandbox.faults.api_errors = [error] * 9

    report = await bed.collect()

    assert ("see endpoint and region" in report.error, known_gaps(bed.state)) == (True, ())


async def test_a_proxys_page_is_no_answer_of_the_cloud(sandbox: Sandbox, bed: Bed) -> None:
    """So the credentials go on at once when it has gone, and the account counts as out of reach meanwhile."""
    sandbox.write(NODE, LOG)
    async with bed.open() as service:
        sandbox.faults.api_errors = [ApiError(status, shape="html") for status in (403, 401, 403, 401, 403)]
        kinds = [(await bed.collect()).error_kind for _ in range(5)]
        (cloud,) = (await service.observer.status()).clouds
        sandbox.faults.clear()
        bed.clock.forward(seconds=10)

        report = await bed.collect()

    assert (kinds, cloud.credentials, cloud.reachable) == (["foreign_answer"] * 5, "untried", False)
    assert (report.error, bed.contents()) == ("", [LOG])


async def test_retries_end(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.api_errors = [ApiError(500)] * 50

    report = await bed.collect()

    assert (report.error_kind, sandbox.calls["errorlog-download"] <= 10) == ("unavailable", True)


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


async def test_a_body_without_end_is_cut_off_and_not_asked_for_again(sandbox: Sandbox, bed: Bed) -> None:
    sandbox.faults.mangle = lambda _: b'{"x": "' + b"a" * MAX_BODY

    report = await bed.collect()

    assert (report.error_kind, sandbox.calls["errorlog-download"]) == ("oversized", 1)


async def test_an_unreachable_cloud_is_said_in_words_without_an_address(sandbox: Sandbox, bed: Bed) -> None:
    await sandbox.stop()

    report = await bed.collect()

    assert (report.error_kind, "gave no answer" in report.error or "gave no reply" in report.error) == (
        "unavailable",
        True,
    )
