"""Who a token is for and what it opens, and how IAM tells it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datetime import datetime

Scope = Literal["project", "domain", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """An account of the cloud, with the one project it has."""

    name: str
    project_id: str
    project_name: str

    @property
    def id(self) -> str:
        """Return the id that goes with the name."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:32]

    @property
    def told(self) -> dict[str, Any]:
        """Return it as tokens show it."""
        return {"id": self.id, "name": self.name}

    @property
    def project(self) -> dict[str, Any]:
        """Return its project as the list of projects shows it."""
        return {
            "id": self.project_id,
            "name": self.project_name,
            "domain_id": self.id,
            "parent_id": self.id,
            "enabled": True,
            "is_domain": False,
            "description": "",
            "links": {},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a login comes to.

    Attributes:
        user: Who logged in.
        home: Their domain.
        domain: The one the token acts in: home, or what an agency lends.
        scope: ``none`` is for no service but IAM, as ``domain`` is.
        agency: Its name; empty where the user acts for themselves.
    """

    user: str
    home: Domain
    domain: Domain
    scope: Scope
    agency: str = ""

    def told(self, *, issued: datetime, expires: datetime) -> dict[str, Any]:
        """Return the token as IAM shows it: all but the token itself."""
        user = {"name": self.user, "id": self.home.id[::-1], "domain": self.home.told}
        told: dict[str, Any] = {
            "methods": ["password"],
            "issued_at": _stamp(issued),
            "expires_at": _stamp(expires),
            "user": user,
            "roles": [{"id": "0", "name": "dds_adm"}],
        }
        if self.agency:
            # The user is the agency itself, named after both (iam_30_0003 and OTC's page, their examples).
            lender = {"name": f"{self.domain.name}/{self.agency}", "id": self.domain.id[::-1]}
            told |= {"methods": ["assume_role"], "user": lender | {"domain": self.domain.told}}
            told["assumed_by"] = {"user": user}
        match self.scope:
            case "project":
                project = {"id": self.domain.project_id, "name": self.domain.project_name}
                told["project"] = project | {"domain": self.domain.told}
            case "domain":
                told["domain"] = self.domain.told
            case "none":
                pass
        return told


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
