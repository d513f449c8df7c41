"""Signed requests: the vendor's own examples, and the vendor's own signer next to ours."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddslogd.huaweicloud.auth.request_signing import Keys, canonical_request, sign, signed_at, wire_url
from support.testbed import needed_module

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON = {"Content-Type": "application/json"}
GUIDE = Keys(access_key="QTWAOYTTINDUT2QVKYUC", secret_key="MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc")
KEYS = Keys(access_key="AKIDEXAMPLE0000000AK", secret_key="SecretKeyExample000000000000000000000000")
TEMPORARY = Keys(access_key=KEYS.access_key, secret_key=KEYS.secret_key, security_token="temp-token-example")
PROJECT = "0123456789abcdef0123456789abcdef"
DDS = f"https://dds.example-1.myhuaweicloud.com/v3/{PROJECT}/instances"
DOWNLOAD = f"{DDS}/{PROJECT}in02/errorlog-download"
VPCS = (
    "https://service.region.example.com/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs"
    "?limit=2&marker=13551d6b-755d-4757-b956-536f674975c0"
)
LISTED = wire_url(f"{DDS}?offset=0&limit=100&name=*a b/ü")
GUIDE_NOW = datetime(2019, 11, 15, 3, 36, 55, tzinfo=UTC)
NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Vector:
    """A request whose signature is known."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    keys: Keys
    now: datetime
    signed: str
    signature: str


VECTORS = {
    "of the guide": Vector(
        method="GET",
        url=VPCS,
        headers=JSON,
        body=b"",
        keys=GUIDE,
        now=GUIDE_NOW,
        signed="content-type;host;x-sdk-date",
        signature="7be6668032f70418fcc22abc52071e57aff61b84a1d2381bb430d6870f4f6ebe",
    ),
    "with a body": Vector(
        method="POST",
        url=DOWNLOAD,
        headers={**JSON, "X-Project-Id": PROJECT},
        body=b"{}",
        keys=KEYS,
        now=NOW,
        signed="content-type;host;x-project-id;x-sdk-date",
        signature="1f600b42bc156edac6de4329f3075ebbcbfbc42a2575ec8892c308754b4d636b",
    ),
    "with temporary keys": Vector(
        method="POST",
        url=DOWNLOAD,
        headers={**JSON, "X-Project-Id": PROJECT},
        body=b"{}",
        keys=TEMPORARY,
        now=NOW,
        signed="content-type;host;x-project-id;x-sdk-date;x-security-token",
        signature="f7d1cd0966e70b576ec14b2a060f990c8f7efb3fc74f951f01cfbb238e49d45e",
    ),
    "with a query": Vector(
        method="GET",
        url=LISTED,
        headers={},
        body=b"",
        keys=KEYS,
        now=NOW,
        signed="host;x-sdk-date",
        signature="15cde4e5476801024c57b5c3c229e4d32cea7673bcfbba5c82742dbf89d34217",
    ),
}


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_the_known_signatures_are_ours(vector: Vector) -> None:
    added = sign(
        method=vector.method,
        url=vector.url,
        headers=vector.headers,
        body=vector.body,
        keys=vector.keys,
        now=vector.now,
    )

    assert added["Authorization"] == (
        f"SDK-HMAC-SHA256 Access={vector.keys.access_key}, SignedHeaders={vector.signed}, Signature={vector.signature}"
    )


def test_the_canonical_request_is_the_guides() -> None:
    headers = {
        "content-type": "application/json",
        "host": "service.region.example.com",
        "x-sdk-date": "20191115T033655Z",
    }

    assert canonical_request("get", urlsplit(VPCS), headers, b"").splitlines() == [
        "GET",
        "/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs/",
        "limit=2&marker=13551d6b-755d-4757-b956-536f674975c0",
        "content-type:application/json",
        "host:service.region.example.com",
        "x-sdk-date:20191115T033655Z",
        "",
        "content-type;host;x-sdk-date",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ]


def test_the_query_that_is_sent_is_the_one_that_is_signed() -> None:
    assert f"{DDS}?limit=100&name=%2Aa%20b%2F%C3%BC&offset=0" == LISTED


def test_what_has_to_be_added_is_what_is_signed_and_was_not_there() -> None:
    added = sign(method="POST", url=DOWNLOAD, headers=JSON, body=b"{}", keys=TEMPORARY, now=NOW)

    assert {name: text for name, text in added.items() if name != "Authorization"} == {
        "Host": "dds.example-1.myhuaweicloud.com",
        "X-Sdk-Date": "20250102T030405Z",
        "X-Security-Token": "temp-token-example",
    }


def test_the_date_is_in_utc_whatever_the_zone_of_the_clock() -> None:
    now = NOW.astimezone(timezone(timedelta(hours=8)))

    assert sign(method="GET", url=DDS, headers={}, body=b"", keys=KEYS, now=now)["X-Sdk-Date"] == "20250102T030405Z"


def test_when_it_was_signed_can_be_read_back() -> None:
    added = sign(method="GET", url=DDS, headers={}, body=b"", keys=KEYS, now=NOW + timedelta(milliseconds=999))

    assert signed_at(added) == NOW


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://dds.example.com/", "dds.example.com"),
        ("https://dds.example.com:443/", "dds.example.com"),
        ("http://127.0.0.1:80/", "127.0.0.1"),
        ("http://127.0.0.1:443/", "127.0.0.1:443"),
        ("https://dds.example.com:8443/", "dds.example.com:8443"),
        ("http://[::1]:8080/", "[::1]:8080"),
        ("https://[::1]/", "[::1]"),
    ],
)
def test_a_port_that_goes_without_saying_is_no_part_of_the_host(url: str, host: str) -> None:
    assert sign(method="GET", url=url, headers={}, body=b"", keys=KEYS, now=NOW)["Host"] == host


@pytest.mark.parametrize("query", ["b=1&a=2", "a=b c", "a", "a=%2f", "a=1&&b=2", "a=*"])
def test_a_url_in_another_form_than_the_signed_one_is_not_signed(query: str) -> None:
    """The cloud would refuse it, and five refusals lock the key."""
    with pytest.raises(ValueError, match="wire_url"):
        sign(method="GET", url=f"{DDS}?{query}", headers={}, body=b"", keys=KEYS, now=NOW)


def test_secrets_are_not_shown() -> None:
    assert repr(TEMPORARY) == "Keys(access_key='AKIDEXAMPLE0000000AK')"


pairs = st.lists(st.tuples(st.text(min_size=1), st.text()))


@given(pairs)
def test_the_query_keeps_its_meaning(query: list[tuple[str, str]]) -> None:
    query = [(name.encode(errors="replace").decode(), text.encode(errors="replace").decode()) for name, text in query]
    written = "&".join(f"{quote(name, safe='')}={quote(text, safe='')}" for name, text in query)

    sent = parse_qsl(urlsplit(wire_url(f"{DDS}?{written}")).query, keep_blank_values=True)

    assert sent == sorted(query)


@given(st.text(st.characters(codec="utf-8")))
def test_the_form_that_is_sent_is_final_and_of_plain_characters(query: str) -> None:
    sent = wire_url(f"{DDS}?{quote(query, safe='&=+;/?')}")

    assert (wire_url(sent), bool(re.fullmatch(r"[A-Za-z0-9_.~%&=-]*", urlsplit(sent).query))) == (sent, True)


# --- next to the vendor's signer --------------------------------------------------------------------------------------

CHARACTERS = "azAZ019-_.~ /%+&=?#*'\"(){}[]:;,@!$|\\^`<>äü漢😀"
TYPES = ("application/json", "application/json;charset=UTF-8", "application/bson", "text/plain", "")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A request as both signers take it."""

    method: str
    host: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes
    keys: Keys
    now: datetime


def text(chance: random.Random, most: int, least: int = 0, characters: str = CHARACTERS) -> str:
    return "".join(chance.choices(characters, k=chance.randint(least, most)))


def sample(chance: random.Random) -> Sample:
    words = [quote(text(chance, 12), safe="/~:") for _ in range(chance.randint(0, 5))]
    headers = {
        f"X-{text(chance, 6, 1, 'abcXYZ-_')}-{number}": text(chance, 20) for number in range(chance.randint(0, 4))
    }
    if kind := chance.choice(TYPES):
        headers["Content-Type"] = kind
    return Sample(
        method=chance.choice(["GET", "POST", "PUT", "DELETE", "get"]),
        host=chance.choice(["dds.example-1.myhuaweicloud.com", "127.0.0.1:8080", "[::1]:8635"]),
        path="/" + "/".join(words),
        query=[(text(chance, 8, 1), text(chance, 12)) for _ in range(chance.randint(0, 5))],
        headers=headers,
        body=text(chance, chance.choice([0, 200])).encode(),
        keys=Keys(
            access_key=text(chance, 20, 20, "ABCDEF0123456789"),
            secret_key=text(chance, 40, 1),
            security_token=chance.choice(["", text(chance, 80, 1, "abcXYZ019-_.")]),
        ),
        now=NOW + timedelta(seconds=chance.randint(0, 10**9)),
    )


def by_the_vendor(asked: Sample) -> tuple[str, str]:
    """Return the Authorization of the vendor's signer, and the path and query that it would send."""
    date = asked.now.strftime("%Y%m%dT%H%M%SZ")
    temporary = {"X-Security-Token": asked.keys.security_token} if asked.keys.security_token else {}
    request = needed_module("huaweicloudsdkcore.sdk_request").SdkRequest(
        method=asked.method,
        schema="http",
        host=asked.host,
        resource_path=asked.path,
        query_params=list(asked.query),
        header_params={**asked.headers, **temporary, "X-Sdk-Date": date},
        body=asked.body,
    )
    credentials = needed_module("huaweicloudsdkcore.auth.credentials").BasicCredentials(
        asked.keys.access_key, asked.keys.secret_key, PROJECT
    )
    signed = needed_module("huaweicloudsdkcore.signer.signer").Signer(credentials).sign(request)
    return signed.header_params["Authorization"], signed.uri


def by_us(asked: Sample) -> tuple[str, str]:
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in asked.query)
    origin = f"http://{asked.host}"
    url = wire_url(f"{origin}{asked.path}?{query}")
    added = sign(method=asked.method, url=url, headers=asked.headers, body=asked.body, keys=asked.keys, now=asked.now)
    return added["Authorization"], url.removeprefix(origin)


@pytest.mark.parametrize("seed", range(500))
def test_any_request_is_signed_and_sent_as_by_the_vendors_client(seed: int) -> None:
    asked = sample(random.Random(seed))

    assert by_us(asked) == by_the_vendor(asked)
