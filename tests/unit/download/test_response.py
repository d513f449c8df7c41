"""What an answer of the object store means for what is on disk."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from multidict import CIMultiDict

from ddslogd.download.response import MAX_ERROR, Beginning, Placement, begin, code_of, expected_md5, place, same
from ddslogd.model.errors import Changed, Interrupted, LinkRefused, ObjectGone, TransferError, Unpublishable
from ddslogd.model.snapshot import Identity

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MD5 = "0123456789abcdef0123456789abcdef"
KNOWN = Identity(etag=f'"{MD5}"', total=1000, last_modified="Fri, 02 Jan 2026 03:04:05 GMT")


def judged(status: int, *, at: int = 0, **headers: str) -> Placement:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return place(status, named, at=at, known=KNOWN, now=NOW)


def test_a_200_begins_from_zero_even_where_a_range_was_asked_for() -> None:
    placement = judged(200, at=500, etag='"new"', content_length="2000")

    assert (placement.at, placement.identity) == (0, Identity(etag='"new"', total=2000))


@pytest.mark.parametrize("length", ["", "-1", "1e3", "٣", "9" * 25])
def test_a_length_that_is_no_number_is_none(length: str) -> None:
    assert judged(200, content_length=length).identity.total is None


@pytest.mark.parametrize("kind", ["text/html", "TEXT/HTML; charset=utf-8", "application/xml", "text/xml"])
def test_a_200_that_is_a_page_is_no_log(kind: str) -> None:
    with pytest.raises(Interrupted, match="in place of the log"):
        judged(200, content_type=kind)


@pytest.mark.parametrize("kind", ["", "binary/octet-stream", "application/octet-stream", "text/plain"])
def test_a_log_may_have_any_other_type(kind: str) -> None:
    assert judged(200, content_type=kind).at == 0


def test_a_206_that_begins_where_we_are_goes_on() -> None:
    placement = judged(206, at=500, content_range="bytes 500-999/1000", etag=KNOWN.etag)

    assert (placement.at, placement.identity, placement.identity.md5) == (500, KNOWN, MD5)


@pytest.mark.parametrize(
    "headers",
    [
        {"content_range": "bytes 499-999/1000"},
        {"content_range": "bytes 501-999/1000"},
        {"content_range": "bytes 500-1000/1001"},
        {"content_range": "bytes */1000"},
        {"content_range": "bytes 500-999/*"},
        {"content_range": ""},
        {},
        {"content_range": "bytes 500-999/1000", "etag": '"other"'},
        {"content_range": "bytes 500-999/1000", "last_modified": "Fri, 02 Jan 2026 03:04:06 GMT"},
    ],
)
def test_a_206_that_differs_in_anything_is_another_object(headers: dict[str, Any]) -> None:
    with pytest.raises(Changed):
        judged(206, at=500, **headers)


def test_a_206_that_nobody_asked_for_is_no_answer() -> None:
    with pytest.raises(Unpublishable):
        judged(206, content_range="bytes 0-999/1000")


@pytest.mark.parametrize("content_range", ["bytes */1000", ""])
def test_a_416_at_the_very_end_says_that_all_is_there(content_range: str) -> None:
    placement = judged(416, at=1000, content_range=content_range)

    assert (placement.at, placement.has_body) == (1000, False)


@pytest.mark.parametrize(("at", "content_range"), [(500, "bytes */400"), (1000, "bytes */999"), (500, "")])
def test_a_416_anywhere_else_says_that_the_object_is_another_one(at: int, content_range: str) -> None:
    with pytest.raises(Changed):
        judged(416, at=at, content_range=content_range)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, LinkRefused) for status in (400, 401, 403, 404, 410)),
        (412, Changed),
        *((status, Interrupted) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
        *((status, Unpublishable) for status in (100, 204, 300, 301, 302, 304, 307, 308, 402, 405, 416, 418)),
    ],
)
def test_every_other_status_says_what_can_help(status: int, kind: type[TransferError]) -> None:
    with pytest.raises(TransferError) as caught:
        judged(status)

    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("status", "code", "kind", "expected"),
    [
        (404, "NoSuchKey", ObjectGone, "the object is gone"),
        (404, "NoSuchBucket", ObjectGone, "the bucket is gone"),
        (404, "", LinkRefused, "leads to no object store"),
        (403, "NoSuchKey", LinkRefused, "does not accept the link"),
        (403, "RequestTimeTooSkewed", LinkRefused, "RequestTimeTooSkewed"),
        (503, "SlowDown", Interrupted, "HTTP 503, SlowDown"),
        (407, "", Interrupted, "the proxy"),
    ],
)
def test_the_stores_code_says_more_than_the_status(
    status: int, code: str, kind: type[TransferError], expected: str
) -> None:
    with pytest.raises(kind, match=expected):
        place(status, CIMultiDict({}), at=0, known=Identity(), now=NOW, code=code)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code><Message>x</Message></Error>', "NoSuchKey"),
        (b"<Error><Code>\n NoSuchBucket </Code>", "NoSuchBucket"),
        (b"<Error><Code>No such\x1b[31m</Code></Error>", ""),
        (b"<Code>" + b"x" * 65 + b"</Code>", ""),
        (b"<html>404</html>", ""),
        (b" " * MAX_ERROR + b"<Code>NoSuchKey</Code>", ""),
        (b"", ""),
    ],
)
def test_a_code_is_read_from_what_is_near_the_beginning_and_is_a_word(body: bytes, expected: str) -> None:
    assert code_of(body) == expected


def test_a_busy_store_may_say_how_long_to_wait() -> None:
    with pytest.raises(Interrupted) as caught:
        judged(503, retry_after="7")

    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"ETag": f'"{MD5}"'}, MD5),
        ({"ETag": f'"{MD5.upper()}"'}, MD5),
        ({"ETag": f'"{MD5}-3"'}, ""),
        ({"ETag": f'W/"{MD5}"'}, ""),
        ({"ETag": MD5}, ""),
        ({}, ""),
        ({"ETag": f'"{MD5}"', "x-obs-server-side-encryption": "kms"}, ""),
        ({"ETag": f'"{MD5}"', "X-Amz-Server-Side-Encryption-Customer-Algorithm": "AES256"}, ""),
    ],
)
def test_an_etag_is_a_checksum_only_where_it_can_be_one(headers: dict[str, str], expected: str) -> None:
    assert expected_md5(CIMultiDict(headers)) == expected


# --- the first bytes --------------------------------------------------------------------------------------------------


def begun(status: int, **headers: str) -> Beginning | Placement | None:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return begin(status, named, asked=100, now=NOW)


def test_a_206_with_the_first_bytes_tells_what_the_object_is() -> None:
    found = begun(206, content_range="bytes 0-99/1000", etag=KNOWN.etag, last_modified=KNOWN.last_modified)

    assert found == Beginning(identity=KNOWN, size=100)
    assert isinstance(found, Beginning)
    assert found.identity.md5 == MD5


@pytest.mark.parametrize("total", [1, 99, 100])
def test_a_206_with_all_bytes_there_are_is_shorter(total: int) -> None:
    found = begun(206, content_range=f"bytes 0-{total - 1}/{total}")

    assert found == Beginning(identity=Identity(total=total), size=total)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content_range": ""},
        {"content_range": "bytes */1000"},
        {"content_range": "bytes 0-99/*"},
        {"content_range": "bytes 1-100/1000"},
        {"content_range": "bytes 0-98/1000"},
        {"content_range": "bytes 0-100/1000"},
        {"content_range": "bytes 0-99/99"},
        {"content_range": "bytes 0-99/0"},
        {"content_range": "bytes 0-99/" + "9" * 20},
        {"content_range": "bytes 0-99/1000", "content_type": "text/html"},
    ],
)
def test_any_other_206_is_not_what_was_asked_for(headers: dict[str, Any]) -> None:
    with pytest.raises(Changed):
        begun(206, **headers)


def test_a_200_is_the_whole_object_though_its_beginning_was_asked_for() -> None:
    assert begun(200, content_length="1000") == Placement(at=0, identity=Identity(total=1000))


def test_a_416_says_that_there_are_no_bytes() -> None:
    assert begun(416, content_range="bytes */0") is None


def test_any_other_answer_means_what_it_always_means() -> None:
    with pytest.raises(LinkRefused):
        begun(403)


# --- whether an object is still what is on disk -----------------------------------------------------------------------


def is_same(status: int, *, known: str = KNOWN.etag, **headers: str) -> bool:
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return same(status, named, etag=known, size=1000, now=NOW)


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (206, {"content_range": "bytes 0-0/1000", "etag": KNOWN.etag}, True),
        (206, {"content_range": "bytes 0-0/1000"}, True),
        (206, {"content_range": "bytes 0-0/1001", "etag": KNOWN.etag}, False),
        (206, {"content_range": "bytes 0-0/1000", "etag": '"other"'}, False),
        (412, {}, False),
        (416, {"content_range": "bytes */0"}, False),
        (200, {"content_length": "1000", "etag": KNOWN.etag}, True),
        (200, {"content_length": "1000", "etag": '"other"'}, False),
        (200, {"content_length": "1001", "etag": KNOWN.etag}, False),
        (200, {"content_length": "1000"}, False),
        (200, {}, False),
    ],
)
def test_an_answer_to_the_first_byte_says_whether_it_is_the_same(
    status: int, headers: dict[str, str], *, expected: bool
) -> None:
    assert is_same(status, **headers) == expected


@pytest.mark.parametrize(("length", "expected"), [("1000", True), ("1001", False)])
def test_without_an_etag_the_size_tells_by_a_range_alone(length: str, *, expected: bool) -> None:
    """A whole of the same length may be another log: it is fetched."""
    assert is_same(206, known="", content_range=f"bytes 0-0/{length}", etag='"new"') == expected
    assert not is_same(200, known="", content_length=length)


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (206, {}, Interrupted),
        (200, {"content_type": "text/html"}, Interrupted),
        (503, {}, Interrupted),
        (204, {}, Unpublishable),
        (307, {}, Unpublishable),
        (403, {}, LinkRefused),
        (404, {}, LinkRefused),
    ],
)
def test_an_answer_that_does_not_say_is_none(status: int, headers: dict[str, str], error: type[TransferError]) -> None:
    with pytest.raises(error):
        is_same(status, **headers)


def test_an_object_that_is_gone_is_named_as_that_where_it_is_asked_whether_it_is_the_same() -> None:
    with pytest.raises(ObjectGone):
        same(404, CIMultiDict(), etag=KNOWN.etag, size=1000, now=NOW, code="NoSuchKey")
