"""What is written of events: readable, one line each, and nothing secret whatever it came through."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import warnings
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from ddslogd.operate import log
from ddslogd.sandbox import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Bed
    from ddslogd.sandbox import Sandbox

NODE = "solo_single_node_1"


@pytest.fixture
def redactor() -> log.Redactor:
    return log.Redactor()


@pytest.fixture
def lines(redactor: log.Redactor) -> Iterator[io.StringIO]:
    """Send every event, down to debug, to a buffer as JSON."""
    buffer = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log.configure(redactor, level="debug", form="json", stream=buffer)
    yield buffer
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def test_an_event_is_one_line_of_json(lines: io.StringIO) -> None:
    structlog.get_logger().info("cycle.done", stored=3)

    event = json.loads(lines.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", event.pop("timestamp"))
    assert event == {"event": "cycle.done", "level": "info", "stored": 3}


def test_a_librarys_record_is_an_event_as_well(lines: io.StringIO) -> None:
    logging.getLogger("aiohttp.client").warning("odd header %s", "X")

    assert json.loads(lines.getvalue())["event"] == "odd header X"


def test_a_warning_is_an_event_as_well(lines: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("something is deprecated", UserWarning, stacklevel=1)

    assert "something is deprecated" in json.loads(lines.getvalue())["event"]


def test_what_is_below_the_level_is_not_written(redactor: log.Redactor, lines: io.StringIO) -> None:
    log.configure(redactor, level="warning", form="json", stream=lines)

    structlog.get_logger().info("cycle.done")

    assert lines.getvalue() == ""


def test_a_console_line_is_for_eyes(redactor: log.Redactor, lines: io.StringIO) -> None:
    log.configure(redactor, form="console", stream=lines)

    structlog.get_logger().info("cycle.done", stored=3)

    assert re.search(r"\[info +\] cycle\.done +stored=3", lines.getvalue())


def test_on_the_journal_each_line_begins_with_its_priority(
    redactor: log.Redactor, lines: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        log.configure(redactor, form="json", stream=stream)
        structlog.get_logger().warning("disk.below_keep_free")
        stream.seek(0)

        assert stream.read().startswith('<4>{"')
    assert lines.getvalue() == ""


LINK = "https://obs.example.com/bucket/key?AWSAccessKeyId=AK&Expires=1&Signature=c2VjcmV0"


def test_a_links_query_is_blanked_out_and_its_place_stays(lines: io.StringIO) -> None:
    structlog.get_logger().info("x", url=LINK)

    assert json.loads(lines.getvalue())["url"] == "https://obs.example.com/bucket/key?[redacted]"


@pytest.mark.parametrize(
    "text",
    [
        "Signature=c2VjcmV0",
        "x-amz-credential=c2VjcmV0%2F20260102",
        "AWSAccessKeyId=c2VjcmV0",
        "X-Auth-Token: c2VjcmV0",
        "{'X-Auth-Token': 'c2VjcmV0'}",
        "<CIMultiDict('X-Subject-Token': 'c2VjcmV0')>",
        "(b'Authorization', b'c2VjcmV0')",
        "/bucket/key?Signature=c2VjcmV0",
    ],
)
def test_what_looks_like_a_credential_is_blanked_out(redactor: log.Redactor, text: str) -> None:
    assert "c2VjcmV0" not in redactor.clean(text)


@pytest.mark.parametrize("secret", ["plain-token", 'with "quotes"', "with\\backslash", "ümlaut", "tab\there"])
def test_a_known_secret_is_blanked_out_in_every_spelling(
    redactor: log.Redactor, lines: io.StringIO, secret: str
) -> None:
    redactor.add(secret)

    structlog.get_logger().info("x", direct=secret, nested={"as": [secret]}, shown=repr(secret))

    written = lines.getvalue()
    assert not any(spelling in written for spelling in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]))


def test_a_traceback_holds_no_secret_and_no_local_variables(redactor: log.Redactor, lines: io.StringIO) -> None:
    redactor.add("s3cret-token")

    def fail(token: str) -> None:
        raise ValueError(f"cannot use {token}")

    try:
        fail("s3cret-token")
    except ValueError:
        structlog.get_logger().exception("cycle.bug")

    assert ("s3cret-token" in lines.getvalue(), "cannot use [redacted]" in lines.getvalue()) == (False, True)
    assert '"locals"' not in lines.getvalue()


def test_ordinary_lines_stay_as_they_are(redactor: log.Redactor) -> None:
    redactor.add("abc")  # shorter than a secret can be
    line = '{"path": "snapshots/orders/n1/x.log", "why": "is it full? yes, 100 %", "abc": "a=b"}'

    assert redactor.clean(line) == line


@given(st.text(min_size=8), st.text(), st.text())
def test_no_text_around_a_secret_saves_it(secret: str, before: str, after: str) -> None:
    redactor = log.Redactor()
    redactor.add(secret)

    assert secret not in redactor.clean(f"{before}{secret}{after}").replace("[redacted]", "")


async def test_a_failing_cycle_at_debug_level_writes_no_secret(
    sandbox: Sandbox, bed: Bed, redactor: log.Redactor, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused links, refused tokens, odd errors that quote the token: everything that was written is searched."""
    token = os.environ["DDSLOGD_TOKEN"]
    urls: list[str] = []
    sandbox.write(NODE, b"a line\n" * 10_000)

    def seen(url: str) -> str:
        urls.append(url)
        return url

    sandbox.faults.link_rewrite = seen
    sandbox.faults.cut_after = [1000, 2000]
    sandbox.faults.object_errors = [503, 403, 503, 403, 403]
    sandbox.faults.api_errors = [ApiError(500, "DBS.280005", f"cannot check {token}")]
    bed.secrets = _Told(redactor)
    async with bed.open():
        await bed.collect()
        sandbox.faults.api_errors = [ApiError(401, "APIGW.0301", f"decrypt token fail: {token}")]
        await bed.collect()
        monkeypatch.setenv("DDSLOGD_TOKEN", "another-token-that-is-wrong")
        bed.clock.forward(minutes=20)
        await bed.collect()
    logging.getLogger("aiohttp").debug("GET %s with %s", urls[0], {"X-Auth-Token": token})

    written = lines.getvalue()
    signatures = [parse_qs(urlsplit(url).query)["Signature"][0] for url in urls]
    raw = [part.split("=", 1)[1] for url in urls for part in urlsplit(url).query.split("&")]
    secrets = {token, "another-token-that-is-wrong", *signatures, *(text for text in raw if len(text) > 9)}
    assert len(urls) > 1
    assert "file.failed" in written
    assert [secret for secret in secrets if secret in written and secret != "no-cache,no-store"] == []


class _Told(list[str]):
    """A list that tells the redactor of what is put in."""

    def __init__(self, redactor: log.Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def append(self, secret: str) -> None:
        self._redactor.add(secret)
