"""Every fact of the vendor's API: paths, JSON to models, error codes to errors. No I/O.

Sources, by their short names in the comments:
    dds_api_0096   support.huaweicloud.com, api-dds: "Obtaining Links for Downloading Error Logs"
    OTC            the same pages for Open Telekom Cloud, and its lists of error codes
    IAM            "Obtaining a User Token Through Password Authentication" (Keystone v3)
    APIGW          the API gateway's list of error codes
    Terraform      huaweicloud/terraform-provider-huaweicloud, services/dds
Where the documents contradict each other, both are read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ddslogd.errors import (
    CloudError,
    CredentialsRefused,
    Gone,
    NotAllowed,
    Rejected,
    Throttled,
    Unavailable,
    Unsupported,
)
from ddslogd.models import ExportReply, ListedInstance, ListPage, LogKind, Node, Row, RowState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MAX_ROWS = 10_000  # rows of one reply; the largest cluster has some hundred nodes
MAX_NAME = 1024  # characters of a node or file name
MAX_MESSAGE = 300  # characters kept of what the cloud says went wrong
MAX_CODE = 64  # characters of an error code or a status word; the longest known has 12
MAX_REQUEST_ID = 128  # characters; 32 to 36 are usual
JSON_HEADERS = {"Content-Type": "application/json"}


# --- errorlog-download ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LogExport:
    """How a kind of log is exported.

    Attributes:
        call: The last part of the path.
        groups: The types of groups whose nodes have such a log.
    """

    call: str
    groups: frozenset[str]


LOG_EXPORTS = {
    # dds_api_0096: every node, mongos and config nodes too.
    LogKind.ERROR: LogExport(
        call="errorlog-download", groups=frozenset({"mongos", "shard", "config", "replica", "single"})
    ),
    # OTC, "Obtaining Links for Downloading Slow Query Logs": shard nodes of a cluster, not mongos nor config nodes.
    LogKind.SLOW: LogExport(call="slowlog-download", groups=frozenset({"shard", "replica", "single"})),
}


def export_path(project_id: str, instance_id: str, kind: LogKind) -> str:
    """Give the path of the call that starts an export, reports on it and renews its links. dds_api_0096."""
    return f"/v3/{project_id}/instances/{instance_id}/{LOG_EXPORTS[kind].call}"


def export_body(node_ids: Sequence[str]) -> bytes:
    """Give the call's body: ``{}`` means all nodes that have such a log. OTC, note on the empty body."""
    return json.dumps({"node_id_list": list(node_ids)} if node_ids else {}).encode()


def read_export(body: bytes, *, request_id: str = "") -> ExportReply:
    """Read the reply to errorlog-download.

    Raises:
        Unavailable: It is no JSON (a proxy's page, a cut body).
        Rejected: It is JSON of another shape.
    """
    reply = _json_object(body)
    if reply is None:
        raise Unavailable("the cloud's reply is no JSON object; it is asked again", status=200, request_id=request_id)
    entries = reply.get("list")
    if entries is None:
        entries = []
    if not isinstance(entries, list) or len(entries) > MAX_ROWS:
        raise Rejected(
            "the cloud's reply has no usable list; report this to ddslogd", status=200, request_id=request_id
        )
    rows: list[Row] = []
    unknown: set[str] = set()
    for number, entry in enumerate(entries):
        row, word = _row(_stripped(entry) if isinstance(entry, dict) else {}, number)
        rows.append(row)
        unknown.update(word)
    top = _word(reply.get("status"))
    if top not in _TOP_WORDS:
        unknown.add(top)
    # Without rows nothing but a known last word settles it. With rows the rows decide, and CREATING delays it.
    creating = top == "CREATING" or (not rows and top not in {"FINISH", "FAILED"})
    return ExportReply(
        rows=tuple(rows),
        creating=creating,
        failed=top == "FAILED",
        unknown_words=tuple(sorted(unknown)),
        request_id=request_id,
    )


_TOP_WORDS = {"", "CREATING", "FINISH", "FAILED"}  # dds_api_0096; lower-case in RDS's example of the same call
_ROW_WORDS = {
    "SUCCESS": RowState.READY,
    "FINISH": RowState.READY,  # the word of RDS's extended-event rows
    "EXPORTING": RowState.PENDING,
    "CREATING": RowState.PENDING,
    "FAILED": RowState.FAILED,
}
_NODE_IN_FILE_NAME = re.compile(r"[0-9a-f]{32}no\d\d")
_EPOCH = datetime.fromtimestamp(0, UTC)
_YEAR_5138_S = 1e11  # as epoch seconds, so a larger number counts milliseconds


def _row(entry: dict[str, Any], number: int) -> tuple[Row, tuple[str, ...]]:
    word = _word(entry.get("status"))
    state = _ROW_WORDS.get(word, RowState.PENDING)
    url = _text(entry.get("file_link"))
    if state is RowState.READY and not url:
        state = RowState.PENDING  # Terraform's rule for the sister call of TaurusDB
    file_name = _text(entry.get("file_name"))[:MAX_NAME]
    found = _NODE_IN_FILE_NAME.search(file_name)
    row = Row(
        node=_text(entry.get("node_name"))[:MAX_NAME] or (found.group() if found else f"row-{number}"),
        file_name=file_name or "errorlog",
        state=state,
        url=url if state is RowState.READY else None,
        # The reference's table says update_at, its examples updated_at; the live service sent updated_at to Terraform's
        # acceptance test. Milliseconds. dds_api_0096, OTC.
        updated_at=_moment(entry.get("updated_at")) or _moment(entry.get("update_at")),
    )
    return row, () if word in _ROW_WORDS else (word,)


def _moment(value: object) -> datetime | None:
    """Read epoch milliseconds, or seconds where it is too small for that, as a number or as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
        ms = round(number if number > _YEAR_5138_S else number * 1000)
    except (ValueError, OverflowError):  # no number, NaN, infinite
        return None
    # What is later than any log can be is no moment: adding to it could leave the calendar.
    return _EPOCH + timedelta(milliseconds=ms) if 0 < ms < _YEAR_5138_S * 1000 else None


def _word(value: object) -> str:
    return _line(_text(value).upper(), MAX_CODE)


def _text(value: object) -> str:
    """Give a text without blanks around it; half a surrogate pair, which no file or database takes, is spelled out."""
    return value.strip().encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else ""


def _line(text: str, limit: int) -> str:
    """Make one line of foreign text: bounded, and with nothing in it that a terminal or a log would obey."""
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * limit])
    return " ".join(printable.split())[:limit]


def _stripped(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Strip the blanks that some replies have inside the quotes of a key. OTC, third example."""
    return {key.strip(): value for key, value in entry.items()}


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return _stripped(value) if isinstance(value, dict) else None


# --- instances --------------------------------------------------------------------------------------------------------

PAGE = 100  # instances a page, the most there is. OTC, "Querying Instances and Details"


def instances_path(project_id: str, offset: int) -> str:
    """Give the path and query of one page of the list of instances, newest first."""
    return f"/v3/{project_id}/instances?limit={PAGE}&offset={offset}"


def one_instance_path(project_id: str) -> str:
    """Give the path and query of the smallest list of instances there is: it shows whether there is the right."""
    return f"/v3/{project_id}/instances?limit=1&offset=0"


NO_INSTANCE = f"{'0' * 32}in02"
"""An id that no instance has. What is asked of it starts nothing: the cloud refuses it, DBS.200002 or the like."""


def read_instances(body: bytes, *, request_id: str = "") -> ListPage:
    """Read one page of the list of instances; entries without an id are passed over.

    Raises:
        Unavailable: It is no JSON.
        Rejected: It is JSON of another shape.
    """
    reply = _json_object(body)
    if reply is None:
        raise Unavailable("the cloud's reply is no JSON object; it is asked again", status=200, request_id=request_id)
    entries = reply.get("instances")
    if not isinstance(entries, list) or len(entries) > MAX_ROWS:
        said = "the cloud's reply lists no instances; report this to ddslogd"
        raise Rejected(said, status=200, request_id=request_id)
    listed = [_listed(entry) for entry in entries if isinstance(entry, dict)]
    total = reply.get("total_count")
    return ListPage(
        instances=tuple(instance for instance in listed if instance.id),
        total=total if isinstance(total, int) and not isinstance(total, bool) else 0,
    )


def _listed(entry: Mapping[str, Any]) -> ListedInstance:
    return ListedInstance(
        id=_text(entry.get("id"))[:MAX_NAME],
        name=_text(entry.get("name"))[:MAX_NAME],
        mode=_text(entry.get("mode"))[:64],
        status=_text(entry.get("status"))[:64],
        tags=tuple((_text(tag.get("key")), _text(tag.get("value"))) for tag in _objects(entry.get("tags"))),
        nodes=tuple(
            Node(
                id=_text(node.get("id"))[:MAX_NAME],
                name=_text(node.get("name"))[:MAX_NAME],
                group=_text(group.get("type"))[:64],
                role=_text(node.get("role"))[:64],
            )
            for group in _objects(entry.get("groups"))
            for node in _objects(group.get("nodes"))
        ),
    )


def _objects(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


# --- identity ---------------------------------------------------------------------------------------------------------

TOKEN_PATH = "/v3/auth/tokens?nocatalog=1"  # noqa: S105  # a path; nocatalog leaves the long service list out. IAM
SUBJECT_TOKEN = "X-Subject-Token"  # noqa: S105  # the header that holds the new token. IAM


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectName:
    """What tells a project where its id is not known, or in its place.

    Attributes:
        id: Wins where it is not empty.
        name: Within the domain.
        domain: The account that owns the project.
    """

    id: str
    name: str
    domain: str

    @property
    def scope(self) -> dict[str, Any]:
        """Give it as the scope of a token."""
        project = {"id": self.id} if self.id else {"name": self.name, "domain": {"name": self.domain}}
        return {"project": project}


def password_login(*, user: str, password: str, domain: str, project: ProjectName | None) -> bytes:
    """Give the body of a login: for the project, as DDS needs it, or else for the user's own domain. IAM."""
    identity = {
        "methods": ["password"],
        "password": {"user": {"name": user, "password": password, "domain": {"name": domain}}},
    }
    scope = project.scope if project else {"domain": {"name": domain}}
    return json.dumps({"auth": {"identity": identity, "scope": scope}}).encode()


def agency_login(*, agency: str, domain: str, project: ProjectName) -> bytes:
    """Give the body that exchanges a token for one in another account, by its agency. IAM, "Obtaining an Agency Token".

    The reference's example spells the key xrole_name, its table agency_name.
    """
    identity = {"methods": ["assume_role"], "assume_role": {"agency_name": agency, "domain_name": domain}}
    return json.dumps({"auth": {"identity": identity, "scope": project.scope}}).encode()


def projects_path(name: str) -> str:
    """Give the path and query that list the projects of a name. IAM, "Querying Project Information"."""
    return f"/v3/projects?name={quote(name, safe='')}"


def read_project(body: bytes, name: str, *, request_id: str = "") -> str:
    """Read the id of the only project of a name.

    Raises:
        Unavailable: The reply makes no sense.
        Gone: There is none.
        Rejected: There are several.
    """
    projects = _objects((_json_object(body) or {"projects": None}).get("projects"))
    ids = [text for project in projects if project.get("name", name) == name and (text := _text(project.get("id")))]
    facts = f"the name {name!r}"
    match ids:
        case [only]:
            return only
        case []:
            raise Gone(f"the account has no project of {facts}: check project_name and region", request_id=request_id)
        case _:
            raise Rejected(f"the account has {len(ids)} projects of {facts}: set project_id", request_id=request_id)


def read_token(body: bytes, *, request_id: str = "") -> tuple[datetime, str]:
    """Read when a new token ends (aware, UTC) and the id of its project.

    Raises:
        Unavailable: The reply makes no sense.
    """
    token = (_json_object(body) or {}).get("token")
    try:
        ends_at = datetime.fromisoformat(token["expires_at"])  # type: ignore[index]  # judged by the except below
        project = _text(token["project"]["id"])  # type: ignore[index]  # the same
    except (TypeError, KeyError, ValueError):
        project, ends_at = "", _EPOCH
    if not project:
        raise Unavailable("the login's reply names no end or no project", request_id=request_id)
    return ends_at if ends_at.tzinfo else ends_at.replace(tzinfo=UTC), project


# --- errors -----------------------------------------------------------------------------------------------------------

_BUSY = (
    "DBS.200011 DBS.200018 DBS.200019 DBS.200076 DBS.201000 DBS.201014 DBS.201015 DBS.280042 DBS.200047 DBS.200998 "
    "DBS.201202 DBS.212003 DBS.280005 DBS.201509 00010009"
)
_REJECTED = (
    "DBS.200001 DBS.200004 DBS.200095 DBS.201006 DBS.212017 DBS.212019 DBS.280001 DBS.280066 DBS.280067 DBS.280068 "
    "DBS.280361 DBS.280404 DBS.280407 DBS.280408 DBS.280409 DBS.280439 DBS.280440 DBS.290000"
)
_GONE = (
    "DBS.200002 DBS.280110 DBS.201501 DBS.201502 DBS.280016 DBS.201028 DBS.200604 DBS.200010 "
    "DBS.200013 DBS.200451 DBS.216026 DBS.216030"
)
# OTC error_code.rst; which of them are worth a repeat: Terraform, services/dds/common.go. The code decides, not the
# HTTP status: the same code comes with different ones in sister services.
_BY_CODE: dict[str, type[CloudError]] = {
    **dict.fromkeys(_BUSY.split(), Unavailable),
    **dict.fromkeys(_REJECTED.split(), Rejected),
    **dict.fromkeys(_GONE.split(), Gone),
    **dict.fromkeys(["DBS.280032", "DBS.280063", "DBS.280015", "DBS.280064", "DBS.280019"], NotAllowed),
    **dict.fromkeys(["DBS.280343", "DBS.280347", "DBS.201020", "DBS.280122"], Unsupported),
    "DBS.280056": CredentialsRefused,
    "DBS.280443": Throttled,
}
# APIGW. The prefix is APIGW at the public gateway and APIG at a private one, with the same numbers.
_BY_GATEWAY_NUMBER: dict[str, type[CloudError]] = {
    "0301": CredentialsRefused,  # wrong or expired token, or wrong signature
    "0302": NotAllowed,  # address or account on no list of allowed ones
    "0305": NotAllowed,
    "0307": CredentialsRefused,  # token must be updated; also a token of another region
    "0308": Throttled,
}
_GATEWAY = re.compile(r"^APIG(?:W)?\.(\d{4})$")
_BY_STATUS: dict[int, type[CloudError]] = {
    401: CredentialsRefused,
    403: NotAllowed,
    404: Gone,
    408: Unavailable,
    425: Unavailable,
    429: Throttled,
}
_MAYBE_OLD_TOKEN = {"DBS.280015", "DBS.280064"}  # OTC's advice for them: look whether the token has expired

_TURN: dict[type[CloudError], str] = {
    Unavailable: "the cloud is busy or out of reach: wait, it is asked again",
    Throttled: "the account makes too many calls: wait, or lower calls_per_minute",
    CredentialsRefused: "the cloud does not accept the credentials: check them, their expiry and the region",
    NotAllowed: "the credentials lack a right: grant dds:instance:downloadErrorLog (for the list of instances "
    "dds:instance:list), or see whether the account is suspended",
    Gone: "the cloud knows no such instance or node in this project: if it was deleted, take it out of the "
    "configuration",
    Unsupported: "this kind of instance has no such logs to download: take it, or this kind of log, out of the "
    "configuration",
    Rejected: "the cloud calls the request wrong: check project_id, endpoint and ids, else report this to ddslogd",
}
_MESSAGE_KEYS = ("error_msg", "errMsg", "errorMsg", "message", "encoded_authorization_message")
_CODE_KEYS = ("error_code", "errCode", "errorCode", "code")


def read_error(status: int, headers: Mapping[str, str], body: bytes, *, now: datetime) -> CloudError:
    """Turn a reply that is no success into the error that says who has to act.

    Args:
        status: HTTP status.
        headers: The reply's; looked up as they are, so pass a case-insensitive mapping.
        body: Any of the shapes that services, gateway, IAM and proxies send, or anything else.
        now: For a Retry-After that is a date; by the server's clock.
    """
    reply = _json_object(body) or {}
    code = _line(next((text for text in _values(reply, _CODE_KEYS) if text), ""), MAX_CODE)
    said = next((text for text in _values(reply, _MESSAGE_KEYS) if text), "")
    kind = _kind(status, code, throttled="Retry-After" in headers)
    message = f"{_TURN[kind]}: {_line(said, MAX_MESSAGE)}" if said else _TURN[kind]
    request_id = request_id_of(headers) or _line(_text(reply.get("request_id")), MAX_REQUEST_ID)
    if issubclass(kind, Unavailable):
        wait = retry_after(headers.get("Retry-After", ""), now=now)
        return kind(message, code=code, status=status, request_id=request_id, retry_after_s=wait)
    return kind(message, code=code, status=status, request_id=request_id)


def request_id_of(headers: Mapping[str, str]) -> str:
    """Give the id by which the vendor's support finds a call."""
    names = ("X-Request-Id", "X-IAM-Trace-Id", "x-obs-request-id")
    return next((text for name in names if (text := _line(headers.get(name, ""), MAX_REQUEST_ID))), "")


def may_be_old_token(error: CloudError) -> bool:
    """Tell whether a new token is worth a try: also where the cloud speaks of a missing right."""
    return isinstance(error, CredentialsRefused) or error.code in _MAYBE_OLD_TOKEN


def retry_after(value: str, *, now: datetime) -> float | None:
    """Read a Retry-After header, seconds or a date, as seconds from ``now``; None where there is none to read."""
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):  # the last: a year or an offset of many digits
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())


def _kind(status: int, code: str, *, throttled: bool) -> type[CloudError]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    gateway = _GATEWAY.match(code)
    if gateway and gateway[1] in _BY_GATEWAY_NUMBER:
        return _BY_GATEWAY_NUMBER[gateway[1]]
    if status >= 500:  # noqa: PLR2004  # RFC 9110, 15.6
        return Unavailable
    if status == 413 and throttled:  # noqa: PLR2004  # DDS's status page: over the limit, with a Retry-After
        return Throttled
    return _BY_STATUS.get(status, Rejected)


def _values(reply: Mapping[str, Any], keys: Sequence[str], depth: int = 0) -> Iterator[str]:
    """Walk the reply for the keys' texts, outer ones first: the shapes nest them differently."""
    for key in keys:
        yield _text(reply.get(key))
    for value in reply.values():
        if isinstance(value, dict) and depth < 4:  # noqa: PLR2004  # no known shape nests deeper than two
            yield from _values(value, keys, depth + 1)
