"""Secrets go, whoever chose them, and nothing else does; the time it takes grows with the text."""

from __future__ import annotations

import time

import pytest

from ddslogd.model.redactor import SHORTEST_ISSUED, Redactor, is_token

PASSWORD = "correct-horse-battery"


@pytest.fixture
def redactor() -> Redactor:
    return Redactor()


@pytest.mark.parametrize(
    ("issued", "expected"),
    [
        ('", "', False),
        ("short", False),
        ("x" * (SHORTEST_ISSUED - 1), False),
        ("x" * SHORTEST_ISSUED, True),
        ("a token with blanks in it", False),
        ("a-token-with-\x1b-in-it-so-long", False),
        ("ein-schlüssel-aus-der-ferne", False),
        ("MIIDkgYJKoZIhvcNAQcCoIIDgzCCA38CAQExDTAL", True),
    ],
)
def test_a_token_is_long_and_one_word(issued: str, expected: bool) -> None:  # noqa: FBT001  # a table
    assert is_token(issued) is expected


def test_what_a_server_calls_a_token_and_is_none_blanks_nothing_out(redactor: Redactor) -> None:
    line = '{"event": "cycle.done", "level": "info"}'
    redactor.add_issued('", "')

    assert redactor.clean(line) == line


def test_a_secret_that_was_replaced_stays_known(redactor: Redactor) -> None:
    redactor.add(PASSWORD)
    redactor.add("its-successor")

    assert redactor.clean(f"the password {PASSWORD} is wrong") == "the password [redacted] is wrong"


def test_issued_secrets_push_no_password_out(redactor: Redactor) -> None:
    """A server that issues a token a second would have the password forgotten."""
    redactor.add(PASSWORD)
    for number in range(1000):
        redactor.add_issued(f"token-of-a-hostile-server-{number}")

    assert PASSWORD not in redactor.clean(PASSWORD)


def test_a_secret_in_another_one_leaves_no_rest(redactor: Redactor) -> None:
    redactor.add("horse")
    redactor.add(PASSWORD)

    assert redactor.clean(PASSWORD) == "[redacted]"


def test_a_body_loses_what_is_known_and_keeps_its_links(redactor: Redactor) -> None:
    redactor.add(PASSWORD)
    link = b'{"file_link": "https://obs.example.com/k?Signature=abc", "node_name": "correct-horse-battery"}'

    assert redactor.clean_reply(link) == link.replace(PASSWORD.encode(), b"[redacted]")


def test_an_error_loses_what_looks_like_a_link_too(redactor: Redactor) -> None:
    error = b'{"error_msg": "cannot serve https://obs.example.com/k?Signature=abc"}'

    assert redactor.clean_error(error) == b'{"error_msg": "cannot serve https://obs.example.com/k?[redacted]"}'


def test_a_body_that_is_no_text_stays_what_it_is(redactor: Redactor) -> None:
    body = bytes(range(256))

    assert redactor.clean_error(body) == body


@pytest.mark.parametrize(
    "unit",
    ["/", "?", "/a?", "=", "x-auth-token", "x-auth-token: ", "authorization ", "signature=", "https://", '"/', "a/b?c"],
)
def test_time_grows_with_the_text_and_no_faster(redactor: Redactor, unit: str) -> None:
    """Sixteen times the text takes some sixteen times as long; what is quadratic takes 256 times."""

    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        took = []
        for _ in range(3):
            began = time.process_time()
            redactor.clean(text)
            took.append(time.process_time() - began)
        return min(took)

    seconds(8_000)
    assert seconds(256_000) < 80 * max(seconds(16_000), 1e-4)
