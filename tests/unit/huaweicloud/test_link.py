"""What a signed URL says of its life, and which links are not followed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from ddslogd.huaweicloud import link
from ddslogd.model.addresses import is_loopback

HOSTS = ("obs.eu-de.otc.t-systems.com", "*.example.com")
patient = settings(deadline=None)  # a machine that is busy with something else is no bug
SECRET = "SignatureThatNobodyMayRead"
END = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECONDS = int(END.timestamp())


def objection(url: str, *hosts: str, plain_http: bool = False) -> str | None:
    return link.objection(url, hosts=hosts or HOSTS, plain_http=plain_http)


# --- expiry -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        f"AWSAccessKeyId=A&Expires={SECONDS}&Signature=s%3D",
        f"response-cache-control=no-cache%2Cno-store&AWSAccessKeyId=A&Expires={SECONDS}&Signature=s",
        f"AccessKeyId=A&Expires={SECONDS}&Signature=s&x-obs-security-token=t",
        f"Signature=s&Expires={SECONDS}&AWSAccessKeyId=A&x-amz-security-token=t",
        f"awsaccesskeyid=A&expires={SECONDS}&signature=s",
        f"AWSACCESSKEYID=A&EXPIRES={SECONDS}&SIGNATURE=s",
        f"Expires={SECONDS}000",
        "X-Amz-Credential=A%2F20260102&X-Amz-Date=20260102T025905Z&X-Amz-Expires=300&X-Amz-SignedHeaders=host",
        "x-amz-date=20260102T025905Z&x-amz-expires=300",
        "X-AMZ-EXPIRES=300&X-AMZ-DATE=20260102T025905Z",
        "X-Amz-Date=20251226T030405Z&X-Amz-Expires=604800",
        "X-Obs-Date=20260102T025905Z&X-Obs-Expires=300",
    ],
)
def test_each_form_of_a_link_says_when_it_dies(query: str) -> None:
    assert link.expiry(f"https://obs.example.com/bucket/object?{query}") == END


@pytest.mark.parametrize(
    ("v2", "v4_seconds"),
    [(SECONDS, 301), (SECONDS + 1, 300)],
    ids=["V2 is earlier", "V4 is earlier"],
)
def test_where_both_forms_are_there_the_earlier_end_counts(v2: int, v4_seconds: int) -> None:
    url = f"https://obs.example.com/o?Expires={v2}&X-Amz-Date=20260102T025905Z&X-Amz-Expires={v4_seconds}"

    assert link.expiry(url) == END


def test_a_form_that_is_nonsense_does_not_hide_the_other() -> None:
    assert link.expiry(f"https://obs.example.com/o?Expires={SECONDS}&X-Amz-Date=now&X-Amz-Expires=300") == END


@pytest.mark.parametrize(
    "query",
    [
        "",
        "Signature=s",
        "Expires",
        "Expires=",
        "Expires=soon",
        "Expires=-1",
        "Expires=1e9",
        "Expires=1767323045.5",
        "Expires=%201767323045",
        "Expires=\u00b2",
        "Expires=" + "9" * 15,
        "Expires=" + "9" * 5000,
        "NotExpires=1767323045",
        "X-Amz-Expires=300",
        "X-Amz-Date=20260102T025905Z",
        "X-Amz-Date=20260102T025905Z&X-Amz-Expires=soon",
        "X-Amz-Date=20260102T025905Z&X-Amz-Expires=-300",
        "X-Amz-Date=20260102&X-Amz-Expires=300",
        "X-Amz-Date=20261302T025905Z&X-Amz-Expires=300",
        "X-Amz-Date=99991231T235959Z&X-Amz-Expires=300",
        "X-Amz-Date=20260102T025905Z&X-Amz-Expires=" + "9" * 5000,
        "X-Amz-Date=20260102T025905Z&X-Obs-Expires=300",
    ],
    ids=lambda query: query[:60],
)
def test_a_link_that_does_not_say_when_it_dies_says_nothing(query: str) -> None:
    assert link.expiry(f"https://obs.example.com/bucket/object?{query}") is None


@pytest.mark.parametrize(
    "url", ["", "Expires=1767323045", "https://[::1?Expires=1767323045", "https://o#?Expires=1767323045"]
)
def test_only_the_query_of_a_url_says_when_it_dies(url: str) -> None:
    assert link.expiry(url) is None


def test_what_is_too_long_for_a_link_is_not_even_taken_apart() -> None:
    assert link.expiry(f"https://obs.example.com/o?Expires={SECONDS}&" + "a=1&" * link.MAX_URL) is None


def ms(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expires", "updated_at", "life_s"),
    [
        (1589530200, ms("2020-05-15T08:06:31.385"), 208.6),
        (1666942048, ms("2022-10-28T07:22:05.800"), 322),
        (1666942048, ms("2022-10-28T07:22:06.200"), 322),
        (1666942048, ms("2022-10-28T07:22:18.800"), 309),
        (1666941149, ms("2022-10-28T07:03:23.600"), 545),
        (1666941149, ms("2022-10-28T07:03:26.100"), 543),
        (1666941149, ms("2022-10-28T07:03:11.300"), 558),
    ],
)
def test_no_published_link_lives_fifteen_minutes(expires: int, updated_at: datetime, life_s: float) -> None:
    """The reference's section 6: Huawei 2020, OTC's error logs and slow logs of 2022."""
    end = link.expiry(f"https://obs.example.com/o?AWSAccessKeyId=A&Expires={expires}&Signature=s")

    assert end is not None
    assert (end - updated_at).total_seconds() == pytest.approx(life_s, abs=0.5)


# --- objection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://obs.eu-de.otc.t-systems.com/bucket/object?Signature=a%2Fb%3D",
        "https://obs.eu-de.otc.t-systems.com:443/bucket/object",
        "https://obs.eu-de.otc.t-systems.com./bucket/object",
        "HTTPS://OBS.EU-DE.OTC.T-SYSTEMS.COM/bucket/object",
        "https://obs.example.com/o",
        "https://a.dotted.bucket.obs.example.com:8443/o",
        "https://with_underscore.example.com/o",
        "https://xn--bcher-kva.example.com/o",
        "https://1.example.com/o",
        "https://obs.example.com",
        "https://obs.example.com?Signature=a@b",
        "https://obs.example.com/a@b:c",
    ],
)
def test_a_link_to_an_allowed_host_is_followed(url: str) -> None:
    assert objection(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/o",
        "https://evil-example.com/o",
        "https://evilexample.com/o",
        "https://example.com.evil.net/o",
        "https://obs.example.com.evil.net/o",
        "https://evil.net/obs.example.com",
        "https://evil.net/?obs.example.com",
        "https://evil.net/#.example.com",
        "https://evil.net?.example.com",
        "https://evil.net;.example.org/o",
        "https://sub.obs.eu-de.otc.t-systems.com/o",
        "https://xobs.eu-de.otc.t-systems.com/o",
        "https://localhost/o",
        "https://.example.com/o",
        "https:///o",
        "https:o",
    ],
)
def test_a_link_to_another_host_is_not_followed(url: str) -> None:
    assert "which link_hosts does not allow" in str(objection(url))


@pytest.mark.parametrize(
    "host",
    [
        "evil.net%2f.example.com",
        "evil.net%00.example.com",
        "a..example.com",
        "obs.example.com..",
        "-a.example.com",
        "a-.example.com",
        "a,b.example.com",
        "a;b.example.com",
        "a*.example.com",
        "*.example.com",
        "a'\"<>.example.com",
        "a" * 64 + ".example.com",
        "a." * 125 + "example.com",
        "xn--a.example.com",
    ],
    ids=lambda host: host[:30],
)
def test_a_host_that_no_resolver_can_look_up_is_not_followed(host: str) -> None:
    """The client would raise something else than a network error, which would end the whole cycle."""
    assert "which link_hosts does not allow" in str(objection(f"https://{host}/o"))


ADDRESSES = [
    "127.0.0.1",
    "127.0.0.1.",
    "10.0.0.1",
    "169.254.169.254",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[0:0:0:0:0:ffff:7f00:1]",
    "[fe80::1%25eth0]",
    "[fd00::1]",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_pattern_allows_an_address(address: str) -> None:
    """However it is written. Not even a pattern for everything does."""
    answer = objection(f"https://{address}/o", "*", "*.*", "*.0.0.1", "[*]", "*::*", "*.169.254", "*.1")

    assert "which link_hosts does not allow" in str(answer)


@pytest.mark.parametrize(
    ("url", "host"),
    [("https://10.0.0.1:443/o", "10.0.0.1"), ("https://[fd00::1]/o", "fd00::1"), ("https://[FD00::1]/o", "FD00::1")],
)
def test_an_address_is_allowed_in_so_many_words(url: str, host: str) -> None:
    assert objection(url, host) is None


def test_a_pattern_is_read_in_any_case() -> None:
    assert objection("https://obs.example.com/o", "*.EXAMPLE.com") is None


def test_without_a_host_that_is_allowed_no_link_is_followed() -> None:
    assert link.objection("https://obs.example.com/o", hosts=(), plain_http=False) is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://obs.example.com/o",
        "ftp://obs.example.com/o",
        "file:///etc/passwd",
        "//obs.example.com/o",
        "/etc/passwd",
        "obs.example.com/o",
        "javascript:alert(1)",
        "https+unix://obs.example.com/o",
        "",
    ],
)
def test_a_link_by_another_scheme_than_https_is_not_followed(url: str) -> None:
    assert "not https" in str(objection(url))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost"])
def test_plain_http_is_followed_on_this_machine_where_the_api_is_there_too(host: str) -> None:
    assert objection(f"http://{host}:8080/o", host.strip("[]"), plain_http=True) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_plain_http_on_this_machine_is_not_followed_where_the_api_is_elsewhere(host: str) -> None:
    assert "not https" in str(objection(f"http://{host}:8080/o", host.strip("[]")))


@pytest.mark.parametrize(
    "host", ["obs.example.com", "10.0.0.1", "127.1", "[::ffff:127.0.0.1]", "localhost.example.com"]
)
def test_plain_http_to_another_machine_is_never_followed(host: str) -> None:
    assert "not https" in str(objection(f"http://{host}/o", host.strip("[]"), "*.example.com", plain_http=True))


@pytest.mark.parametrize("scheme", ["ftp", "ws", "file", "httpx", ""])
def test_no_other_scheme_is_followed_on_this_machine_either(scheme: str) -> None:
    assert "not https" in str(objection(f"{scheme}://127.0.0.1/o", "127.0.0.1", plain_http=True))


def test_plain_http_on_this_machine_needs_an_allowed_host_too() -> None:
    assert "does not allow" in str(objection("http://127.0.0.1/o", "127.0.0.2", plain_http=True))


@pytest.mark.parametrize(
    "url",
    [
        "https://user@obs.example.com/o",
        "https://user:password@obs.example.com/o",
        "https://@obs.example.com/o",
        "https://:@obs.example.com/o",
        "https://obs.example.com@evil.net/o",
        "https://evil.net@obs.example.com/o",
        "https://obs.example.com:443@evil.net/o",
    ],
)
def test_a_link_with_a_user_is_not_followed(url: str) -> None:
    assert objection(url) == "the link holds user information"


@pytest.mark.parametrize(
    "char", [*"\t\n\r\x00\x1b\x7f \\", "\u3002", "\uff0e", "\u2044", "\u0430", "\ud800"], ids=ascii
)
@pytest.mark.parametrize(
    "form", ["https://obs{}.example.com/o", "https://obs.example.com/o{}", "{}https://obs.example.com/"]
)
def test_a_link_with_characters_that_no_url_may_hold_is_not_followed(form: str, char: str) -> None:
    assert objection(form.format(char)) == "the link holds characters that no URL may hold"


@pytest.mark.parametrize("port", ["65536", "99999999999999999999", "-1", "+80", "8_0", "http", "443:443", "0x50"])
def test_a_link_with_a_port_that_is_none_is_not_followed(port: str) -> None:
    assert objection(f"https://obs.example.com:{port}/o") == "the link is no URL"


@pytest.mark.parametrize("url", ["https://[::1/o", "https://::1]/o", "https://[obs.example.com]/o", "https://[]/o"])
def test_a_link_with_brackets_that_hold_no_address_is_not_followed(url: str) -> None:
    assert objection(url, "::1", "*.example.com") == "the link is no URL"


@pytest.mark.parametrize(("length", "followed"), [(link.MAX_URL, True), (link.MAX_URL + 1, False)])
def test_a_link_has_a_longest_length(length: int, *, followed: bool) -> None:
    url = "https://obs.example.com/o?Signature="

    assert (objection(url + "s" * (length - len(url))) is None) == followed


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("", False),
        ("localhost.example.com", False),
        ("0.0.0.0", False),  # noqa: S104  # nothing is bound to it
        ("10.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("example.com", False),
    ],
)
def test_this_machine_is_known_by_its_very_name(host: str, *, here: bool) -> None:
    assert is_loopback(host) == here


# --- anything at all --------------------------------------------------------------------------------------------------

PIECES = [
    *["https", "http", "://", "//", ":", "/", "?", "#", "@", "[", "]", "%", "&", "=", ".", "..", "-", "_", "*", "\\"],
    *[
        "obs.example.com",
        ".example.com",
        "example",
        "com",
        "xn--",
        "localhost",
        "127.0.0.1",
        "::1",
        "443",
        "0",
        "65536",
    ],
    *["Expires=", "X-Amz-Date=20260102T025905Z", "X-Amz-Expires=", "300", str(SECONDS), "%2f", "\n", " ", "\u3002"],
]
urls = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)
hosts = st.lists(st.sampled_from(PIECES) | st.sampled_from("ab1-_%;,'"), max_size=6).map("".join)
near_misses = st.builds("https://{}.example.com{}".format, hosts, st.sampled_from(["/o", ":443/o", "?a=b", "#", ""]))


@patient
@given(url=urls | st.text())
def test_any_text_has_an_expiry_or_none(url: str) -> None:
    end = link.expiry(url)

    assert end is None or end.tzinfo is UTC


@patient
@given(url=urls | st.text(), plain_http=st.booleans())
def test_any_text_has_an_objection_or_none(url: str, *, plain_http: bool) -> None:
    answer = objection(url, *HOSTS, "127.0.0.1", "localhost", plain_http=plain_http)

    assert answer is None or answer.startswith("the link")


@patient
@given(url=urls | near_misses)
def test_what_is_not_objected_to_is_where_the_client_connects_to(url: str) -> None:
    """The client takes URLs apart in its own way: whatever passes must mean the same to it."""
    if objection(url) is not None:
        return
    target = URL(url, encoded=True)

    host = (target.host or "").removesuffix(".")
    assert (target.scheme, host.endswith(".example.com") or host == HOSTS[0], target.user) == ("https", True, None)


@patient
@given(before=urls | st.text(), after=st.text(max_size=10))
@example(before="https://evil.net/o", after="")
@example(before="https://user@obs.example.com/o", after="")
@example(before="ftp://obs.example.com/o", after="")
@example(before="o", after="")
@example(before="https://[::1", after="")
@example(before="https://obs.example.com/o", after=" ")
@example(before="https://obs.example.com/o", after="s" * 9000)
def test_an_objection_never_holds_the_query(before: str, after: str) -> None:
    answer = objection(f"{before}?AWSAccessKeyId={SECRET}&Signature={SECRET}{after}")

    assert SECRET.lower() not in str(answer).lower()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "[fe80::1]", "[::]", "[::ffff:127.0.0.1]"]
)
def test_a_link_to_this_machine_is_refused_even_where_it_is_listed(host: str) -> None:
    """Unless the API is there too: else a link could be made to read what only this host may."""
    said = objection(f"https://{host}/o?x=1", host.strip("[]"))

    assert said == "the link points to this machine or its own network segment, where the API is not"


def test_a_private_address_that_is_listed_is_followed() -> None:
    """A VPC endpoint may have no name."""
    assert objection("https://10.1.2.3/o?x=1", "10.1.2.3") is None
