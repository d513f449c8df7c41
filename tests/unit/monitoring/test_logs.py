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

from ddslogd.model.redactor import Redactor
from ddslogd.monitoring import logs
from ddslogd.sandbox import ApiError
from support.testbed import RecordingRedactor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ddslogd.sandbox import Sandbox
    from support.testbed import Bed

NODE = "solo_single_node_1"


@pytest.fixture
def redactor() -> Redactor:
    return Redactor()


@pytest.fixture
def lines(redactor: Redactor) -> Iterator[io.StringIO]:
    """Send every event, down to debug, to a buffer as JSON."""
    buffer = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure(redactor, level="debug", form="json", stream=buffer)
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


def test_what_is_below_the_level_is_not_written(redactor: Redactor, lines: io.StringIO) -> None:
    logs.configure(redactor, level="warning", form="json", stream=lines)

    structlog.get_logger().info("cycle.done")

    assert lines.getvalue() == ""


def test_a_console_line_is_for_eyes(redactor: Redactor, lines: io.StringIO) -> None:
    logs.configure(redactor, form="console", stream=lines)

    structlog.get_logger().info("cycle.done", stored=3)

    assert re.search(r"\[info +\] cycle\.done +stored=3", lines.getvalue())


def test_on_the_journal_each_line_begins_with_its_priority(
    redactor: Redactor, lines: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.configure(redactor, form="json", stream=stream)
        structlog.get_logger().warning("disk.below_keep_free")
        stream.seek(0)

        assert stream.read().startswith('<4>{"')
    assert lines.getvalue() == ""


def test_a_line_begins_with_time_level_and_event_and_leaves_out_what_is_nothing(lines: io.StringIO) -> None:
    structlog.get_logger().info("cycle.done", stored=0, error="", gaps=None, nodes=[], whole=False, took_s=0.0, new=3)

    event = json.loads(lines.getvalue())
    assert (list(event), event["whole"]) == (["timestamp", "level", "event", "whole", "new"], False)


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_secret_spoils_a_line(redactor: Redactor, lines: io.StringIO, form: str) -> None:
    """Whatever the operator's password is: values are redacted, not what stands around them."""
    redactor.add('", "')
    redactor.add('"level": "info"')
    logs.configure(redactor, level="debug", form=form, stream=lines)

    structlog.get_logger().info("cycle.done", said='a", "b', nested={"key": ['", "']})

    assert "cycle.done" in lines.getvalue()
    assert form == "console" or json.loads(lines.getvalue())["said"] == "a[redacted]b"


def test_a_line_is_bounded_and_a_cut_shows_no_part_of_a_secret(redactor: Redactor, lines: io.StringIO) -> None:
    redactor.add("s3cret" * 20)
    text = "x" * (logs.LONGEST_TEXT - 30) + "s3cret" * 20 + "y" * 1_000_000

    structlog.get_logger().info("cycle.done", reason=text, rows=list(range(1000)), deep={"a": [text]})

    event = json.loads(lines.getvalue())
    assert "s3cret" not in lines.getvalue()
    assert len(lines.getvalue()) < 4 * logs.LONGEST_TEXT
    assert event["reason"].endswith(f"… ({len(text):,} characters)")
    assert event["rows"][-1] == "950 more"


def test_a_console_line_obeys_no_name(redactor: Redactor, lines: io.StringIO) -> None:
    logs.configure(redactor, form="console", stream=lines)

    structlog.get_logger().warning("file.failed", node="n\x1b]52;c;ZXZpbA==\x07\nforged line")

    assert ("\x1b" in lines.getvalue(), lines.getvalue().count("\n")) == (False, 1)


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
def test_what_looks_like_a_credential_is_blanked_out(redactor: Redactor, text: str) -> None:
    assert "c2VjcmV0" not in redactor.clean(text)


@pytest.mark.parametrize("secret", ["plain-token", 'with "quotes"', "with\\backslash", "ümlaut", "tab\there"])
def test_a_known_secret_is_blanked_out_in_every_spelling(redactor: Redactor, lines: io.StringIO, secret: str) -> None:
    redactor.add(secret)

    structlog.get_logger().info("x", direct=secret, nested={"as": [secret]}, shown=repr(secret))

    written = lines.getvalue()
    assert not any(spelling in written for spelling in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]))


def test_a_traceback_holds_no_secret_and_no_local_variables(redactor: Redactor, lines: io.StringIO) -> None:
    redactor.add("s3cret-token")

    def fail(token: str) -> None:
        raise ValueError(f"cannot use {token}")

    try:
        fail("s3cret-token")
    except ValueError:
        structlog.get_logger().exception("cycle.bug")

    assert ("s3cret-token" in lines.getvalue(), "cannot use [redacted]" in lines.getvalue()) == (False, True)
    assert '"locals"' not in lines.getvalue()


def test_ordinary_lines_stay_as_they_are(redactor: Redactor) -> None:
    redactor.add("abc")  # shorter than a secret can be
    line = '{"path": "snapshots/orders/n1/x.log", "why": "is it full? yes, 100 %", "abc": "a=b"}'

    assert redactor.clean(line) == line


@given(st.text(min_size=8), st.text(), st.text())
def test_no_text_around_a_secret_saves_it(secret: str, before: str, after: str) -> None:
    redactor = Redactor()
    redactor.add(secret)

    assert secret not in redactor.clean(f"{before}{secret}{after}").replace("[redacted]", "")


async def test_a_failing_cycle_at_debug_level_writes_no_secret(
    sandbox: Sandbox, bed: Bed, redactor: Redactor, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
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
    bed.redactor = RecordingRedactor(redactor.add)
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
