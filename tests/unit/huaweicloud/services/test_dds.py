"""What the cloud says, in every shape it says it: replies become models, refusals become who has to act."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddslogd.huaweicloud import error_codes, json_reader
from ddslogd.huaweicloud.auth import iam_protocol
from ddslogd.huaweicloud.response_limits import MAX_ROWS, MAX_VALUES, MOST_INSTANCE_NODES, MOST_TAGS
from ddslogd.huaweicloud.services import dds
from ddslogd.model.errors import (
    CloudError,
    CredentialsRefused,
    ForeignAnswer,
    Gone,
    Misdirected,
    NotAllowed,
    Oversized,
    Rejected,
    Throttled,
    Unavailable,
    UnknownFile,
    Unsupported,
)
from ddslogd.model.export import ExportReply, Row, RowState, Selection
from ddslogd.model.instance import LogKind

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MS = 1666941725829
MOMENT = datetime(2022, 10, 28, 7, 22, 5, 829_000, tzinfo=UTC)


class Missing:
    """Stands for a key that is not there."""

    def __repr__(self) -> str:
        return "missing"


MISSING = Missing()
LINK = "https://obs.example.com/b/o?AWSAccessKeyId=A%2B&Expires=1666942048&Signature=a%2Fb%3D"
PROJECT, NODE = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210no02"
patient = settings(deadline=None)  # a machine that is busy with something else is no bug
LONGEST = 700  # characters of an error's text: who has to act, what the cloud said, status, code, request id

READY: dict[str, Any] = {
    "node_name": "orders_replica_node_1",
    "file_name": f"{PROJECT}_{NODE}_errorlog_20221028152200",
    "status": "SUCCESS",
    "file_size": "3.59",
    "file_link": LINK,
    "updated_at": MS,
}


def row(**changes: object) -> dict[str, Any]:
    """Return a ready row, changed; what is changed to MISSING is not there."""
    return {key: value for key, value in {**READY, **changes}.items() if value is not MISSING}


def read(*rows: object, **top: object) -> ExportReply:
    """Read a reply with these rows whose top level says FINISH, unless it is told otherwise."""
    reply = {"status": "FINISH", "count": len(rows), "list": list(rows), **top}
    return dds.read_export(json.dumps({key: value for key, value in reply.items() if value is not MISSING}).encode())


def read_row(**changes: object) -> Row:
    (only,) = read(row(**changes)).rows
    return only


def refusal(status: int, body: object = b"", **headers: str) -> CloudError:
    """Read a refusal; the headers' names have ``_`` for ``-``."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return error_codes.read_error(
        status, {key.replace("_", "-"): value for key, value in headers.items()}, raw, now=NOW
    )


# --- one row ----------------------------------------------------------------------------------------------------------


def test_a_ready_row_is_read_whole() -> None:
    expected = Row(
        node="orders_replica_node_1",
        file_name=f"{PROJECT}_{NODE}_errorlog_20221028152200",
        state=RowState.READY,
        url=LINK,
        updated_at=MOMENT,
        node_id=NODE,
        called="orders_replica_node_1",
    )

    assert expected == read_row()


@pytest.mark.parametrize(
    "said",
    [
        {"updated_at": MS},
        {"update_at": MS},
        {" updated_at ": MS},
        {"update_at ": MS},
        {"updated_at": str(MS)},
        {"updated_at": f" {MS} "},
        {"updated_at": float(MS)},
        {"updated_at": MS / 1000},
        {"update_at": str(MS / 1000)},
        {"updated_at": None, "update_at": MS},
        {"updated_at": "", "update_at": str(MS)},
        {"updated_at": 0, "update_at": MS},
        {"updated_at": "never", "update_at": MS},
        {"updated_at": MS, "update_at": "never"},
        {"updated_at": MS, "update_at": 1},
    ],
    ids=repr,
)
def test_the_update_time_is_read_however_it_is_spelled(said: dict[str, object]) -> None:
    assert read_row(**{"updated_at": MISSING, **said}).updated_at == MOMENT


def test_the_update_time_in_whole_seconds_is_no_time_in_1970() -> None:
    assert read_row(updated_at=MS // 1000).updated_at == MOMENT.replace(microsecond=0)


@pytest.mark.parametrize(
    "said",
    [
        MISSING,
        None,
        "",
        " ",
        "soon",
        "2022-10-28T07:22:05Z",
        True,
        False,
        0,
        0.0001,
        -MS,
        float("nan"),
        float("inf"),
        float("-inf"),
        "NaN",
        "Infinity",
        10**400,
        "9" * 5000,
        1e300,
        10**14,
        253_402_300_799_999,
        [MS],
        {"$date": MS},
    ],
    ids=lambda said: repr(said)[:30],
)
def test_an_update_time_that_is_none_is_not_made_up(said: object) -> None:
    """Nor is one that is so late that adding to it would leave the calendar."""
    assert read_row(updated_at=said).updated_at is None


@pytest.mark.parametrize("late", [10**14 - 1, 10**11 - 1], ids=["milliseconds", "seconds"])
def test_the_latest_update_time_leaves_room_in_the_calendar(late: int) -> None:
    updated_at = read_row(updated_at=late).updated_at

    assert updated_at is not None
    assert (updated_at + timedelta(days=365)).year == 5139


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("SUCCESS", RowState.READY),
        ("success", RowState.READY),
        (" Success\n", RowState.READY),
        ("FINISH", RowState.READY),
        ("EXPORTING", RowState.PENDING),
        ("exporting", RowState.PENDING),
        ("CREATING", RowState.PENDING),
        ("FAILED", RowState.FAILED),
        ("failed", RowState.FAILED),
    ],
)
def test_a_rows_word_is_read_in_any_case(word: str, state: RowState) -> None:
    assert read_row(status=word).state == state


@pytest.mark.parametrize("word", ["ARCHIVING", "", None, MISSING, 1, True, ["SUCCESS"], {"status": "SUCCESS"}])
def test_a_row_whose_word_nobody_knows_is_pending(word: object) -> None:
    assert read_row(status=word).state == RowState.PENDING


def test_words_that_nobody_knows_are_told_each_once() -> None:
    words = read(row(status="archiving"), row(status="ARCHIVING"), row(status="Queued"), row()).unknown_words

    assert words == ("ARCHIVING", "QUEUED")


def test_a_word_that_nobody_knows_is_told_on_one_short_line() -> None:
    assert read(row(status="a\x1b[2J\nb" + "c" * 1000)).unknown_words == ("A [2J B" + "C" * 57,)


def test_words_that_are_known_are_not_told() -> None:
    reply = read(row(status="success"), row(status="Exporting"), row(status="FAILED"), status="creating")

    assert reply.unknown_words == ()


@pytest.mark.parametrize("link", [None, MISSING, "", "  ", 0, 1, True, [LINK], {"url": LINK}], ids=repr)
def test_a_success_row_without_a_link_is_pending(link: object) -> None:
    assert read_row(file_link=link).state == RowState.PENDING


@pytest.mark.parametrize("word", ["EXPORTING", "FAILED", "ARCHIVING"])
def test_the_link_of_a_row_that_is_not_ready_is_not_used(word: str) -> None:
    assert read_row(status=word).url is None


def test_a_link_is_kept_byte_for_byte() -> None:
    """The signature covers it: neither quoted again, nor unquoted, nor sorted."""
    link = "https://obs.example.com:443/b/%7Eo+o?z=1&a=%2f&Signature=a%2Bb=="

    assert read_row(file_link=link).url == link


@pytest.mark.parametrize("size", [None, MISSING, "0", "3.59", 3.59, "many", [], float("nan")], ids=repr)
def test_the_size_never_matters(size: object) -> None:
    assert read_row(file_size=size) == read_row()


@pytest.mark.parametrize(
    ("size", "fitting", "other"),
    [
        ("7.81", [7800, 7810, 7997, 8000, 8005], [0, 1, 781, 7799, 8009, 80_000]),
        (7.81, [7810, 7997], [0, 7799]),
        ("8", [7000, 8000, 8192, 9216], [0, 6999, 9217]),
        ("7.81 KB", [8000], [0]),
        ("0", [0, 1, 1024], [1025]),
        ("0.00", [0, 10], [11, 1000]),
        ("0.01", [1, 10, 20], [0, 21]),
    ],
    ids=repr,
)
def test_a_size_means_what_its_digits_say_in_either_kilobyte(
    size: object, fitting: list[int], other: list[int]
) -> None:
    stated = read_row(file_size=size).stated

    assert stated is not None
    assert [stated.fits(bytes_) for bytes_ in fitting + other] == [True] * len(fitting) + [False] * len(other)


@pytest.mark.parametrize(
    "size",
    [None, MISSING, "", "many", "-1", "1e9", "1,024.5", "9" * 16, [], True, float("nan"), float("inf")],
    ids=repr,
)
def test_a_size_that_cannot_be_read_is_none(size: object) -> None:
    assert read_row(file_size=size).stated is None


@pytest.mark.parametrize("name", [None, MISSING, "", " ", 7, ["a"]], ids=repr)
def test_a_row_without_a_node_name_is_named_after_the_node_in_its_file_name(name: object) -> None:
    assert read_row(node_name=name).node == NODE


def test_a_row_without_any_name_is_not_named_by_its_place_in_the_reply() -> None:
    """As in the older shape, whose file names hold no node: what it is called is decided where all rows are known."""
    reply = read(
        row(), row(node_name=None, file_name=None), row(node_name="", file_name=f"{PROJECT}_errorlog_download_1")
    )

    assert [(one.node, one.node_id) for one in reply.rows] == [("orders_replica_node_1", NODE), ("", ""), ("", "")]


@pytest.mark.parametrize("name", [None, MISSING, "", " ", 7])
def test_a_file_without_a_name_is_called_errorlog(name: object) -> None:
    assert read_row(file_name=name).file_name == "errorlog"


def test_names_are_bounded() -> None:
    only = read_row(node_name="n" * 100_000, file_name="f" * 100_000)

    assert (len(only.node), len(only.file_name)) == (1024, 1024)


def test_half_a_surrogate_pair_in_a_name_is_spelled_out() -> None:
    """Neither a file nor the ledger takes it, and different names stay different."""
    assert read_row(node_name="a\ud800", file_name="b\udfff").node == "a\\ud800"


@pytest.mark.parametrize("entry", [None, 0, True, "SUCCESS", [], [READY]], ids=lambda entry: repr(entry)[:20])
def test_a_row_that_is_no_object_is_pending(entry: object) -> None:
    assert [one.state for one in read(entry, row()).rows] == [RowState.PENDING, RowState.READY]


# --- the whole reply --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [None, MISSING, []], ids=["null", "missing", "empty"])
def test_a_list_that_is_not_there_is_empty(entries: object) -> None:
    assert read(list=entries).rows == ()


@pytest.mark.parametrize("entries", ["", "rows", 0, 7, False, {}, {"0": READY}], ids=lambda entries: repr(entries)[:20])
def test_a_list_that_is_none_is_rejected(entries: object) -> None:
    with pytest.raises(Rejected, match="no usable list"):
        read(list=entries)


def test_more_rows_than_an_instance_can_have_are_refused() -> None:
    assert len(read(*[row()] * MAX_ROWS).rows) == MAX_ROWS

    with pytest.raises(Oversized, match="holds 1001 rows, more than the 1000 of any instance: see endpoint"):
        read(*[None] * (MAX_ROWS + 1))


def test_more_values_than_a_reply_can_hold_are_refused_before_they_are_read() -> None:
    """4 MiB of ``{},`` are 100 MiB of objects; nothing of it has to be JSON to be refused."""
    with pytest.raises(Oversized, match="more than 150000 values"):
        dds.read_export(b'{"list": [' + b"{}," * (MAX_VALUES + 1))


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (
            [{"id": str(number)} for number in range(dds.PAGE + 1)],
            "101 instances in a page, where 100 were asked for",
        ),
        ([{"id": "1", "tags": [{"key": "a"}] * (MOST_TAGS + 1)}], "an instance with 101 tags"),
        ([{"id": "1", "groups": [{"nodes": [{}] * (MOST_INSTANCE_NODES + 1)}]}], "an instance with 1001 nodes"),
    ],
    ids=["instances", "tags", "nodes"],
)
def test_a_page_that_holds_more_than_can_be_is_refused(found: list[dict[str, Any]], what: str) -> None:
    with pytest.raises(Oversized, match=f"the cloud's reply holds {what}"):
        dds.read_instances(json.dumps({"instances": found}).encode())


def test_a_page_that_is_full_is_read() -> None:
    tags, nodes = [{"key": "a" * 2000, "value": "b"}] * MOST_TAGS, [{"id": "1"}] * MOST_INSTANCE_NODES
    found = [{"id": str(number), "tags": tags} for number in range(dds.PAGE - 1)]
    found.append({"id": "last", "groups": [{"nodes": nodes}]})

    page = dds.read_instances(json.dumps({"instances": found}).encode())

    assert (len(page.instances), len(page.instances[-1].nodes)) == (dds.PAGE, MOST_INSTANCE_NODES)
    assert page.instances[0].tags[0] == ("a" * json_reader.MAX_NAME, "b")


def test_an_error_that_is_too_long_to_be_one_is_not_read() -> None:
    body = json.dumps({"error_code": "DBS.280443", "error_msg": "x" * 70_000}).encode()

    assert (
        error_codes.read_error(400, {}, body, now=NOW).code,
        error_codes.read_error(400, {}, body[:9], now=NOW).code,
    ) == ("", "")


def test_the_count_is_not_trusted() -> None:
    assert len(read(row(), row(), count=17).rows) == 2


@pytest.mark.parametrize(
    ("word", "rows", "settled"),
    [
        ("FINISH", [row()], True),
        ("finish", [row()], True),
        ("FINISH", [], True),
        ("FINISH", [row(), row(status="EXPORTING")], False),
        ("FINISH", [row(file_link=None)], False),
        ("FINISH", [row(status="ARCHIVING")], False),
        ("CREATING", [], False),
        ("CREATING", [row()], False),
        ("creating", [row(), row(status="FAILED")], False),
        ("FAILED", [], True),
        ("FAILED", [row(), row(status="FAILED")], True),
        ("FAILED", [row(status="EXPORTING")], False),
        (MISSING, [], False),
        (MISSING, [row()], True),
        (MISSING, [row(status="EXPORTING")], False),
        (None, [row()], True),
        (None, [], False),
        (200, [row()], True),
        ("ARCHIVING", [], False),
        ("ARCHIVING", [row()], True),
    ],
)
def test_the_rows_settle_a_reply_and_creating_delays_it(word: object, rows: list[object], *, settled: bool) -> None:
    """Without rows only a last word that is known settles it."""
    assert read(*rows, status=word).settled == settled


def test_success_rows_under_a_failed_reply_are_ready() -> None:
    """At the top FAILED means that at least one file failed. dds_api_0096, Chinese text."""
    reply = read(row(), row(status="FAILED", file_link=None), status="FAILED")

    assert (reply.failed, [one.state for one in reply.rows]) == (True, [RowState.READY, RowState.FAILED])


def test_a_reply_that_does_not_speak_of_failure_has_not_failed() -> None:
    assert not read(row(status="FAILED"), status="FINISH").failed


def test_a_word_at_the_top_that_nobody_knows_is_told() -> None:
    assert read(row(), status="Archiving").unknown_words == ("ARCHIVING",)


def test_keys_at_the_top_may_have_blanks_too() -> None:
    body = json.dumps({" list": [row()], "status ": "CREATING"}).encode()

    reply = dds.read_export(body)

    assert (len(reply.rows), reply.creating) == (1, True)


def test_a_poll_after_the_export_expired_shows_a_new_one_begin() -> None:
    """OTC's third example: old names, nulls, and a key with a blank in its quotes."""
    old = {"node_name": "n", "file_name": "f", "status": "EXPORTING", "file_size": None, "file_link": None}

    reply = read({**old, "updated_at ": MS}, status="CREATING", count=0)

    expected = Row(node="n", file_name="f", state=RowState.PENDING, updated_at=MOMENT, called="n")
    assert reply == ExportReply(rows=(expected,), creating=True)


def test_the_request_id_is_kept_for_the_vendors_support() -> None:
    assert dds.read_export(b'{"list": []}', request_id="abc").request_id == "abc"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>busy</html>", b'{"list": [', b"\xff\xfe\xfa", b"[]", b"null", b'"x"', b"7", b"[" * 100_000],
    ids=lambda body: repr(body[:12]),
)
def test_a_reply_that_is_no_json_object_is_asked_for_again(body: bytes) -> None:
    with pytest.raises(Unavailable, match="asked again"):
        dds.read_export(body)


def test_a_byte_order_mark_does_no_harm() -> None:
    assert dds.read_export(b'\xef\xbb\xbf{"status": "FINISH"}').settled


# --- requests ---------------------------------------------------------------------------------------------------------


def test_all_nodes_are_asked_for_with_an_empty_object() -> None:
    assert dds.export_body(Selection()) == b"{}"


def test_some_nodes_are_asked_for_by_id() -> None:
    assert json.loads(dds.export_body(Selection(node_ids=(NODE,)))) == {"node_id_list": [NODE]}


def test_some_files_are_asked_for_by_name() -> None:
    assert json.loads(dds.export_body(Selection(file_names=("a", "b")))) == {"file_name_list": ["a", "b"]}


def test_files_of_some_nodes_are_asked_for_by_both() -> None:
    selection = Selection(node_ids=(NODE,), file_names=("a",))

    assert json.loads(dds.export_body(selection)) == {"node_id_list": [NODE], "file_name_list": ["a"]}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("p_n_errorlog_20221028072205", {LogKind.ERROR}),
        ("p_n_slowlog_20221028070323", {LogKind.SLOW}),
        ("anything", {LogKind.ERROR, LogKind.SLOW}),
    ],
)
def test_a_file_s_name_tells_which_logs_it_may_be_of(name: str, kinds: set[LogKind]) -> None:
    assert {kind for kind in LogKind if dds.DDS.kind_may_be(kind, name)} == kinds


@pytest.mark.parametrize(("kind", "call"), [(LogKind.ERROR, "errorlog-download"), (LogKind.SLOW, "slowlog-download")])
def test_each_kind_of_log_has_its_documented_call(kind: LogKind, call: str) -> None:
    assert dds.export_path("p", "i", kind) == f"/v3/p/instances/i/{call}"


@pytest.mark.parametrize(
    ("project_id", "project"),
    [("4711", {"id": "4711"}), ("", {"name": "eu-west-101", "domain": {"name": "acme"}})],
)
def test_a_login_is_scoped_to_a_project_by_id_or_else_by_name(project_id: str, project: dict[str, object]) -> None:
    name = iam_protocol.ProjectName(id=project_id, name="eu-west-101", domain="acme")
    body = iam_protocol.password_login(user="u", password="p", domain="acme", project=name)

    user = {"name": "u", "password": "p", "domain": {"name": "acme"}}
    identity = {"methods": ["password"], "password": {"user": user}}
    assert json.loads(body) == {"auth": {"identity": identity, "scope": {"project": project}}}


def test_a_login_without_a_project_is_for_the_users_own_domain() -> None:
    body = json.loads(iam_protocol.password_login(user="u", password="p", domain="acme", project=None))

    assert body["auth"]["scope"] == {"domain": {"name": "acme"}}


def test_an_agency_is_assumed_in_the_account_that_gave_it() -> None:
    project = iam_protocol.ProjectName(id="", name="eu-west-101", domain="customer")

    body = json.loads(iam_protocol.agency_login(agency="logs", domain="customer", project=project))

    role = {"agency_name": "logs", "domain_name": "customer"}
    scope = {"project": {"name": "eu-west-101", "domain": {"name": "customer"}}}
    assert body == {"auth": {"identity": {"methods": ["assume_role"], "assume_role": role}, "scope": scope}}


def test_a_projects_name_is_one_value_of_the_query() -> None:
    assert iam_protocol.projects_path("eu&name=x y") == "/v3/projects?name=eu%26name%3Dx%20y"


def projects(*ids: object) -> bytes:
    return json.dumps({"projects": [{"id": id_, "name": "eu"} for id_ in ids]}).encode()


def test_the_only_project_of_a_name_is_the_one() -> None:
    assert iam_protocol.read_project(projects("p1"), "eu") == "p1"


@pytest.mark.parametrize("body", [projects(), projects(None), projects("")])
def test_no_project_of_a_name_is_for_the_operator_to_mend(body: bytes) -> None:
    """It says nothing of instances: none is gone."""
    with pytest.raises(Misdirected, match="no project of the name 'eu'"):
        iam_protocol.read_project(body, "eu")


@pytest.mark.parametrize("body", [b"{}", b'{"projects": null}', b"", b"[]", b"<html>busy</html>"])
def test_a_reply_that_lists_no_projects_says_nothing_of_them(body: bytes) -> None:
    with pytest.raises(Unavailable):
        iam_protocol.read_project(body, "eu")


def test_several_projects_of_a_name_have_to_be_told_apart_by_the_operator() -> None:
    with pytest.raises(Rejected, match="2 projects of the name 'eu': set project_id"):
        iam_protocol.read_project(projects("p1", "p2"), "eu")


@pytest.mark.parametrize(
    "expires_at",
    ["2026-01-02T03:04:05.000000Z", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05", "2026-01-02T05:04:05+02:00"],
)
def test_a_tokens_end_and_project_are_read(expires_at: str) -> None:
    body = json.dumps({"token": {"expires_at": expires_at, "project": {"id": "4711", "name": "eu"}}}).encode()

    assert iam_protocol.read_token(body) == (NOW, "4711")


@pytest.mark.parametrize(
    "token",
    [
        None,
        "token",
        [],
        {},
        {"expires_at": "2026-01-02T03:04:05Z"},
        {"expires_at": "2026-01-02T03:04:05Z", "project": None},
        {"expires_at": "2026-01-02T03:04:05Z", "project": {"id": None}},
        {"expires_at": "2026-01-02T03:04:05Z", "project": {"id": " "}},
        {"expires_at": "tomorrow", "project": {"id": "4711"}},
        {"expires_at": None, "project": {"id": "4711"}},
        {"expires_at": 1767323045, "project": {"id": "4711"}},
        {"project": {"id": "4711"}},
    ],
    ids=repr,
)
def test_a_token_without_an_end_or_a_project_is_none(token: object) -> None:
    with pytest.raises(Unavailable, match="names no end or no project"):
        iam_protocol.read_token(json.dumps({"token": token}).encode())


# --- errors -----------------------------------------------------------------------------------------------------------

# Section 5 of the reference, line by line, copied apart from the code: OTC error_code.rst, Terraform dds/common.go.
CODES: dict[type[CloudError], str] = {
    Rejected: "200001 200004 200095 201006 212017 212019 280001 280066 280067 280068 280404 280407 280408 "
    "280409 280439 280440 290000",
    Gone: "200002 280110 201501 201502 280016 201028 200604 200010 200013 200451 216026 216030",
    Unavailable: "200011 200018 200019 200076 201000 201014 201015 280042 200047 200998 201202 212003 280005 201509",
    NotAllowed: "280032 280063 280015 280064 280019",
    CredentialsRefused: "280056",
    Unsupported: "280343 280347 201020 280122",
    Throttled: "280443",
    UnknownFile: "280361",
}
BY_CODE = [
    *((f"DBS.{number}", kind) for kind, numbers in CODES.items() for number in numbers.split()),
    ("00010009", Unavailable),
]
STATUSES = (400, 401, 403, 404, 409, 413, 429, 500, 503)


@pytest.mark.parametrize(("code", "kind"), BY_CODE)
def test_the_code_says_who_has_to_act_and_not_the_status(code: str, kind: type[CloudError]) -> None:
    """The same code comes with other statuses in sister services."""
    kinds = {type(refusal(status, {"error_code": code, "error_msg": "x"})) for status in STATUSES}

    assert kinds == {kind}


@pytest.mark.parametrize("prefix", ["APIGW", "APIG"])
@pytest.mark.parametrize(
    ("number", "kind"),
    [
        ("0301", CredentialsRefused),
        ("0302", NotAllowed),
        ("0305", NotAllowed),
        ("0307", CredentialsRefused),
        ("0308", Throttled),
    ],
)
def test_the_gateways_number_says_who_has_to_act_under_both_prefixes(
    prefix: str, number: str, kind: type[CloudError]
) -> None:
    body = {"error_msg": "x", "error_code": f"{prefix}.{number}", "request_id": "r"}

    assert {type(refusal(status, body)) for status in STATUSES} == {kind}


# A status says something where it is the cloud that speaks. Any other answer is that of whoever stands at the endpoint,
# or on the way to it.
SAME_OF_ALL = {301: Rejected, 400: Rejected, 408: Unavailable, 409: Rejected, 413: Rejected, 425: Unavailable} | {
    429: Throttled,
    500: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
DDS, GATEWAY, IAM, NOT_THE_CLOUD = "DDS", "the gateway", "IAM", "not the cloud"
BY_SPEAKER: dict[str, dict[int, type[CloudError]]] = {
    DDS: {401: CredentialsRefused, 403: NotAllowed, 404: Gone, 405: Rejected},
    GATEWAY: {401: CredentialsRefused, 403: NotAllowed, 404: Misdirected, 405: Misdirected},
    IAM: {401: CredentialsRefused, 403: NotAllowed, 404: Rejected, 405: Rejected},
    NOT_THE_CLOUD: {401: ForeignAnswer, 403: ForeignAnswer, 404: Misdirected, 405: Misdirected, 407: ForeignAnswer},
}


@pytest.mark.parametrize(
    ("body", "speaker"),
    [
        (b"", NOT_THE_CLOUD),
        (b"<html><h1>nginx</h1></html>", NOT_THE_CLOUD),
        (b"\xef\xbb\xbf <?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", NOT_THE_CLOUD),
        ({"message": "no Route matched with those values"}, NOT_THE_CLOUD),
        ({"error_code": "XAPIGW.0308"}, NOT_THE_CLOUD),
        ({"error_code": "NotFound"}, NOT_THE_CLOUD),
        ({"error": {"code": 280443, "message": "x", "title": "x"}}, NOT_THE_CLOUD),
        (["DBS.280443"], NOT_THE_CLOUD),
        ({"error_code": ["DBS.280443"]}, NOT_THE_CLOUD),
        ({"error_code": "DBS.999999"}, DDS),
        ({"error_code": "APIGW.0999"}, GATEWAY),
        ({"error_code": "IAM.0101", "error_msg": "x"}, IAM),
    ],
    ids=repr,
)
def test_without_a_code_that_is_known_the_status_decides_as_far_as_the_cloud_speaks(body: object, speaker: str) -> None:
    expected = SAME_OF_ALL | BY_SPEAKER[speaker]

    assert {status: type(refusal(status, body)) for status in expected} == expected


@pytest.mark.parametrize("status", [401, 403, 404])
def test_iams_own_shape_is_the_clouds_word(status: int) -> None:
    body = {"error": {"code": status, "message": "x", "title": "x"}}

    assert type(refusal(status, body)) is BY_SPEAKER[IAM][status]


def test_the_gateway_that_knows_no_such_api_says_nothing_of_the_instance() -> None:
    body = {"error_msg": "The API does not exist or has not been published", "error_code": "APIGW.0101"}

    error = refusal(404, body)

    assert (type(error), "see endpoint and region" in str(error)) == (Misdirected, True)


# --- errors with the status of a success ------------------------------------------------------------------------------


def said(body: object, status: int = 200, expected: int = 200) -> CloudError | None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return error_codes.refusal(status, {"X-Request-Id": "r"}, raw, now=NOW, expected=expected)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error_code": "DBS.200002", "error_msg": "x"}, Gone),
        ({"error_code": "DBS.280443", "error_msg": "x"}, Throttled),
        ({"error_code": "APIGW.0307", "error_msg": "x"}, CredentialsRefused),
        ({"error_code": "APIGW.0101", "error_msg": "x"}, Misdirected),
        ({"error_code": "DBS.999999", "error_msg": "x", "list": []}, Rejected),
        ({"errCode": "DBS.200011", "errMsg": "x", "list": None}, Unavailable),
        ({"error": {"code": 401, "message": "x", "title": "x"}}, CredentialsRefused),
        ({"error": {"code": "DBS.280032", "message": "x"}}, NotAllowed),
        (b"<html><title>Log in</title></html>", ForeignAnswer),
    ],
    ids=repr,
)
def test_an_error_in_the_body_of_a_success_is_that_error(body: object, kind: type[CloudError]) -> None:
    error = said(body)

    assert (type(error), str(error).endswith("request id r)")) == (kind, True)


@pytest.mark.parametrize(
    "body",
    [
        {"list": [row()], "status": "FINISH"},
        {"list": [row()], "error_code": "DBS.200002"},
        {"list": [], "status": "FINISH", "error_code": ""},
        {"list": None, "status": "CREATING", "code": 0},
        {"instances": [{"id": "x"}], "total_count": 1},
        {"projects": []},
        {"token": {"expires_at": "x"}},
        {},
        b"",
        b"cut {",
    ],
    ids=repr,
)
def test_a_success_is_no_error(body: object) -> None:
    """What makes no sense at all is for whoever reads it."""
    assert said(body) is None


@pytest.mark.parametrize("read", [dds.read_export, dds.read_instances])
def test_an_error_in_place_of_a_list_says_its_code_and_words(read: Callable[[bytes], object]) -> None:
    body = json.dumps({"error_code": "DBS.200002", "error_msg": "The DB instance does not exist."}).encode()

    with pytest.raises(Gone, match=r"The DB instance does not exist\. \(HTTP 200, DBS\.200002\)"):
        read(body)


def test_a_large_list_is_not_read_twice() -> None:
    """A list is read by whoever wants it; errors are short."""
    assert said(b'{"error_code": "DBS.200002", "padding": "' + b"x" * 100_000 + b'"}') is None


def test_too_large_with_a_retry_after_means_too_many() -> None:
    """DDS's status page: over the limit, with a Retry-After."""
    error = refusal(413, Retry_After="7")

    assert isinstance(error, Throttled)
    assert error.retry_after_s == 7.0


@pytest.mark.parametrize(
    "body",
    [
        {"error_code": "DBS.280443", "error_msg": "Too many."},
        {"errCode": "DBS.280443", "errMsg": "Too many."},
        {"error_msg": "Too many.", "error_code": "DBS.280443", "request_id": "r"},
        {"errorCode": "DBS.280443", "errorMsg": "Too many."},
        {"code": "DBS.280443", "message": "Too many."},
        {"error": {"code": "DBS.280443", "message": "Too many.", "title": "Too Many"}},
        {"error": {"error_code": "DBS.280443", "error_msg": "Too many."}},
        {"a": {"b": {"c": {"code": "DBS.280443", "message": "Too many."}}}},
        {" error_code ": " DBS.280443 ", "error_msg": " Too\n many. "},
        {"error_code": "", "error_msg": "", "code": "DBS.280443", "message": "Too many."},
        {"error_code": None, "error_msg": None, "code": "DBS.280443", "message": "Too many."},
        {"code": "DBS.280443", "encoded_authorization_message": "Too many."},
        {"error_code": "DBS.280443", "error_msg": "Too many.", "details": {"error_code": "DBS.1", "error_msg": "no"}},
    ],
    ids=lambda body: json.dumps(body)[:60],
)
def test_every_shape_of_an_error_gives_code_and_message(body: dict[str, object]) -> None:
    error = refusal(400, body)

    expected = (Throttled, "DBS.280443", True)
    assert expected == (type(error), error.code, ": Too many. (HTTP 400, DBS.280443" in str(error))


def test_iams_own_shape_has_a_number_for_a_code_which_is_the_status() -> None:
    """A wrong password, as captured: otc-tools issue 36."""
    error = refusal(
        401, {"error": {"code": 401, "message": "The username or password is wrong.", "title": "Unauthorized"}}
    )

    assert isinstance(error, CredentialsRefused)
    assert str(error).endswith(": The username or password is wrong. (HTTP 401)")


@pytest.mark.parametrize(
    ("kind", "status", "turn"),
    [
        (Unavailable, 503, "wait"),
        (Throttled, 429, "calls_per_minute"),
        (CredentialsRefused, 401, "credentials"),
        (NotAllowed, 403, "grant dds:instance:downloadErrorLog"),
        (Gone, 404, "take it out of the configuration"),
        (Rejected, 400, "report this"),
    ],
)
def test_an_error_says_whose_turn_it_is(kind: type[CloudError], status: int, turn: str) -> None:
    error = refusal(status, {"error_code": "DBS.999999"})

    assert type(error) is kind
    assert turn in str(error)


@pytest.mark.parametrize(
    ("kind", "status", "turn"),
    [(ForeignAnswer, 403, "see proxy, firewall and endpoint"), (Misdirected, 404, "see endpoint and region")],
)
def test_an_answer_that_is_not_the_clouds_says_whose_turn_it_is(kind: type[CloudError], status: int, turn: str) -> None:
    error = refusal(status)

    assert type(error) is kind
    assert turn in str(error)


def test_a_page_is_not_quoted() -> None:
    assert "nginx" not in str(refusal(502, b"<html><title>nginx</title></html>"))


def test_what_the_cloud_says_is_one_line_that_no_terminal_obeys() -> None:
    error = refusal(
        400, {"error_msg": "a\r\nb\x1b[2Jc\u2028d\x00e\u202ef", "error_code": "X\n.1", "request_id": "r\n1"}
    )

    assert str(error).endswith(": a b [2Jc d e f (HTTP 400, X .1, request id r 1)")


def test_what_the_cloud_says_is_bounded() -> None:
    error = refusal(400, {"error_msg": "x" * 10**4, "error_code": "y" * 10**4, "request_id": "z" * 10**4})

    assert {letter: str(error).count(letter) for letter in "xyz"} == {"x": 300, "y": 64, "z": 128}


@pytest.mark.parametrize("name", ["X-Request-Id", "X-IAM-Trace-Id", "x-obs-request-id"])
def test_the_request_id_is_found_in_each_services_header(name: str) -> None:
    assert error_codes.request_id_of({name: "abc"}) == "abc"


def test_a_header_that_is_empty_does_not_hide_another() -> None:
    assert error_codes.request_id_of({"X-Request-Id": " ", "x-obs-request-id": "abc"}) == "abc"


def test_a_request_id_of_bytes_that_are_no_text_can_be_printed() -> None:
    """The client gives such bytes as halves of surrogate pairs."""
    assert error_codes.request_id_of({"X-Request-Id": "a\udcffb\x1b"}).encode() == b"a b"


def test_the_gateways_body_names_the_request_where_no_header_does() -> None:
    assert refusal(400, {"request_id": "from the body"}).request_id == "from the body"


def test_a_header_names_the_request_before_the_body_does() -> None:
    assert refusal(400, {"request_id": "from the body"}, X_Request_Id="abc").request_id == "abc"


@pytest.mark.parametrize(
    ("status", "code", "old"),
    [
        (401, "DBS.280056", True),
        (401, "APIGW.0301", True),
        (401, "APIG.0307", True),
        (401, "", False),
        (400, "DBS.280015", True),
        (401, "DBS.280064", True),
        (403, "DBS.280032", False),
        (403, "DBS.280063", False),
        (403, "", False),
        (403, "DBS.280019", False),
        (404, "", False),
        (429, "", False),
    ],
)
def test_a_new_token_is_worth_a_try_where_the_vendor_says_so(status: int, code: str, *, old: bool) -> None:
    """Also where the cloud speaks of a missing right. OTC error_code.rst, advice for 280015 and 280064."""
    assert error_codes.may_be_old_token(refusal(status, {"error_code": code})) == old


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("9" * 400, 999_999_999.0),
        ("Fri, 02 Jan 2026 03:04:35 GMT", 30.0),
        ("Fri, 02 Jan 2026 04:04:35 +0100", 30.0),
        ("Fri, 02 Jan 2026 03:04:35 -0000", 30.0),
        ("Fri, 02 Jan 2026 03:04:00 GMT", 0.0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("Fri, 32 Jan 2026 03:04:00 GMT", None),
        ("Fri, 02 Jan 99999999999999999999 03:04:00 GMT", None),
        ("Fri, 02 Jan 2026 03:04:00 +99999999999999", None),
        ("\u00b2", None),
    ],
)
def test_a_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert error_codes.retry_after(value, now=NOW) == seconds


@pytest.mark.parametrize("status", [429, 503])
def test_an_error_that_passes_carries_the_retry_after(status: int) -> None:
    error = refusal(status, Retry_After="Fri, 02 Jan 2026 03:05:05 GMT")

    assert isinstance(error, Unavailable)
    assert error.retry_after_s == 60.0


def test_an_error_that_passes_carries_no_retry_after_that_nobody_sent() -> None:
    error = refusal(503)

    assert isinstance(error, Unavailable)
    assert error.retry_after_s is None


# --- anything at all --------------------------------------------------------------------------------------------------

WORDS = [
    "SUCCESS",
    "EXPORTING",
    "FAILED",
    "CREATING",
    "FINISH",
    "success",
    LINK,
    str(MS),
    "NaN",
    "DBS.280443",
    "\ud800",
]
KEYS = [
    *READY,
    "update_at",
    " updated_at",
    "list",
    "status",
    "count",
    "error",
    "error_code",
    "error_msg",
    "code",
    "message",
]
texts = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=()), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | texts, inner, max_size=6),
    max_leaves=25,
)
rows = st.fixed_dictionaries({}, optional=dict.fromkeys([*READY, "update_at", "updated_at "], values)) | values


def usable(reply: ExportReply) -> bool:
    """Return whether the daemon can work with a reply: name files by it, add to its times, print its words."""
    for one in reply.rows:
        one.node.encode()
        one.file_name.encode()
        _ = (one.updated_at or NOW) + timedelta(days=365)
    return all(word.isprintable() and len(word) <= 64 for word in reply.unknown_words)


@patient
@given(value=values)
def test_any_json_as_a_reply_is_a_reply_or_a_cloud_error(value: object) -> None:
    try:
        reply = dds.read_export(json.dumps(value).encode())
    except CloudError:
        return
    assert usable(reply)


@patient
@given(entries=st.lists(rows, max_size=4), word=values)
def test_any_json_as_a_row_leaves_a_reply_with_as_many_rows(entries: list[object], word: object) -> None:
    reply = read(*entries, status=word)

    assert (len(reply.rows), usable(reply)) == (len(entries), True)


@patient
@given(body=st.binary(max_size=200))
def test_any_bytes_as_a_reply_are_a_reply_or_a_cloud_error(body: bytes) -> None:
    try:
        reply = dds.read_export(body)
    except CloudError:
        return
    assert usable(reply)


headers = st.dictionaries(
    st.sampled_from(["Retry-After", "X-Request-Id", "x-obs-request-id"]),
    st.text(st.characters(exclude_categories=())) | st.sampled_from(["Mon, 1 Jan 9999999999 0:0:0 GMT", "9" * 500]),
)


@patient
@given(
    status=st.integers(min_value=0, max_value=999),
    said=headers,
    body=st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()),
)
def test_anything_as_an_error_is_a_cloud_error_of_one_short_line(
    status: int, said: dict[str, str], body: bytes
) -> None:
    text = str(error_codes.read_error(status, said, body, now=NOW))

    assert (text.isprintable(), len(text) <= LONGEST) == (True, True)


@patient
@given(value=values)
def test_any_json_as_a_token_is_a_token_or_unavailable(value: object) -> None:
    token = {"expires_at": "2026-01-02T03:04:05Z", "project": {"id": value}}

    try:
        _, project = iam_protocol.read_token(json.dumps({"token": token}).encode())
    except Unavailable:
        return
    assert project


LISTED = {
    "id": "6ade8143870047b8999aba8f1891b48ein02",
    "name": "orders",
    "mode": "Sharding",
    "status": "normal",
    "tags": [{"key": "env", "value": "prod"}],
    "groups": [
        {"type": "mongos", "nodes": [{"id": "a-no02", "name": "m1", "role": "master"}]},
        {"type": "shard", "nodes": [{"id": "b-no02", "name": "s1", "role": "Primary"}]},
    ],
}


def test_an_instance_is_read_with_its_tags_and_the_nodes_of_all_groups() -> None:
    page = dds.read_instances(json.dumps({"instances": [LISTED], "total_count": 1}).encode())

    nodes = [(node.id, node.name, node.group, node.role) for node in page.instances[0].nodes]
    assert (page.total, page.instances[0].tags, nodes) == (
        1,
        (("env", "prod"),),
        [("a-no02", "m1", "mongos", "master"), ("b-no02", "s1", "shard", "Primary")],
    )


@pytest.mark.parametrize("entry", [{}, {"id": None}, {"id": 5}, [], "x", None])
def test_an_entry_without_an_id_is_passed_over(entry: object) -> None:
    page = dds.read_instances(json.dumps({"instances": [entry, LISTED]}).encode())

    assert [instance.name for instance in page.instances] == ["orders"]


@pytest.mark.parametrize("body", [b'{"instances": null}', b"{}", b'{"instances": {}}'])
def test_a_list_of_instances_that_is_none_is_rejected(body: bytes) -> None:
    with pytest.raises(Rejected):
        dds.read_instances(body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_whatever_stands_in_an_instance_it_is_read_or_refused(value: object) -> None:
    odd = [dict.fromkeys(LISTED, value), {**LISTED, "groups": [{"type": value, "nodes": value}]}]

    page = dds.read_instances(json.dumps({"instances": odd, "total_count": value}).encode())

    assert all(isinstance(instance.id, str) for instance in page.instances)
