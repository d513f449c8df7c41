"""What is sent to the identity service, and how its replies are read. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from ddslogd.huaweicloud.error_codes import success
from ddslogd.huaweicloud.json_reader import EPOCH, objects, read_text
from ddslogd.model.errors import Misdirected, Rejected, Unavailable

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
        """Return it as the scope of a token."""
        project = {"id": self.id} if self.id else {"name": self.name, "domain": {"name": self.domain}}
        return {"project": project}


def password_login(*, user: str, password: str, domain: str, project: ProjectName | None) -> bytes:
    """Return the body of a login: for the project, as DDS needs it, or else for the user's own domain. IAM."""
    identity = {
        "methods": ["password"],
        "password": {"user": {"name": user, "password": password, "domain": {"name": domain}}},
    }
    scope = project.scope if project else {"domain": {"name": domain}}
    return json.dumps({"auth": {"identity": identity, "scope": scope}}).encode()


def agency_login(*, agency: str, domain: str, project: ProjectName) -> bytes:
    """Return the body that trades a token for one in another account, by its agency. IAM, "Obtaining an Agency Token".

    The reference's example spells the key xrole_name, its table agency_name.
    """
    identity = {"methods": ["assume_role"], "assume_role": {"agency_name": agency, "domain_name": domain}}
    return json.dumps({"auth": {"identity": identity, "scope": project.scope}}).encode()


def projects_path(name: str) -> str:
    """Return the path and query that list the projects of a name. IAM, "Querying Project Information"."""
    return f"/v3/projects?name={quote(name, safe='')}"


def read_project(body: bytes, name: str, *, request_id: str = "") -> str:
    """Read the id of the only project of a name.

    Raises:
        Unavailable: The reply makes no sense.
        Misdirected: There is none.
        Rejected: There are several.
        CloudError: The reply holds an error.
    """
    listed = success(body, request_id=request_id).get("projects")
    if not isinstance(listed, list):
        raise Unavailable("the reply lists no projects; it is asked again", status=200, request_id=request_id)
    projects = objects(listed)
    ids = [text for project in projects if project.get("name", name) == name and (text := read_text(project.get("id")))]
    facts = f"the name {name!r}"
    match ids:
        case [only]:
            return only
        case []:
            said = f"the account has no project of {facts}: check project_name and region"
            raise Misdirected(said, request_id=request_id)
        case _:
            raise Rejected(f"the account has {len(ids)} projects of {facts}: set project_id", request_id=request_id)


def read_token(body: bytes, *, request_id: str = "") -> tuple[datetime, str]:
    """Read when a new token ends (aware, UTC) and the id of its project.

    Raises:
        Unavailable: The reply makes no sense.
        CloudError: It holds an error.
    """
    token = success(body, request_id=request_id).get("token")
    try:
        ends_at = datetime.fromisoformat(token["expires_at"])  # type: ignore[index]  # judged by the except below
        project = read_text(token["project"]["id"])  # type: ignore[index]  # the same
    except (TypeError, KeyError, ValueError):
        project, ends_at = "", EPOCH
    if not project:
        raise Unavailable("the login's reply names no end or no project", request_id=request_id)
    return ends_at if ends_at.tzinfo else ends_at.replace(tzinfo=UTC), project
