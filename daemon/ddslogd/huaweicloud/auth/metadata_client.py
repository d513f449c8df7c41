"""The metadata service of a cloud server: keys for whoever runs there, by an agency that is bound to the server.

Sources: OTC elastic-cloud-server, "Obtaining metadata" (securitykey), and the vendor's own client
(huaweicloudsdkcore, auth/internal.py) for the token of version 2, which the guide does not have.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ddslogd.huaweicloud.auth.request_signing import Keys
from ddslogd.model.errors import CredentialsRefused, Unavailable
from ddslogd.model.redactor import is_token

if TYPE_CHECKING:
    from ddslogd.huaweicloud.http import Http, Reply
    from ddslogd.model.redactor import Redactor

TIMEOUT_S = 3.0  # to connect, and of silence: it answers from the same machine. internal.py
_TOKEN_PATH = "/meta-data/latest/api/token"  # noqa: S105  # a path
_KEY_PATH = "/openstack/latest/securitykey"
_TOKEN_LIFE = {"X-Metadata-Token-Ttl-Seconds": "21600"}
_TOKEN = "X-Metadata-Token"  # noqa: S105  # a header's name
_NO_VERSION_2 = {404, 405, 503}  # what servers without tokens answer. internal.py
_NO_KEY = {401, 403, 404}
_KEY_NAMES = ("access", "secret", "securitytoken", "expires_at")
_MOST_SAID = 200  # characters kept of what it says went wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporaryKeys:
    """Keys that end.

    Attributes:
        ends_at: Aware, UTC, by the cloud's clock.
    """

    keys: Keys
    ends_at: datetime


class MetadataService:
    """Asks for keys: with a token of its own (version 2), without one where the server knows none (version 1).

    Args:
        address: Its origin.
        http: Goes there straight, never through a proxy.
        redactor: Is told the token, and cleans what the service says.
    """

    def __init__(self, *, address: str, http: Http, redactor: Redactor) -> None:
        self._address = address
        self._http = http
        self._redactor = redactor
        self._token = ""

    async def security_key(self) -> TemporaryKeys:
        """Get the server's keys: the same ones until shortly before their end.

        Raises:
            CredentialsRefused: The server has no agency to get keys by.
            Unavailable: The service gave no answer, or none that makes sense.
        """
        if not self._token:
            await self._new_token()
        reply = await self._ask()
        if reply.status == 401 and not _misses_agency(reply):  # noqa: PLR2004  # the token has ended, or one is needed
            await self._new_token()
            reply = await self._ask()
        if reply.status == 200:  # noqa: PLR2004  # the one status that comes with keys
            return _read_keys(reply.body)
        if reply.status in _NO_KEY:
            raise CredentialsRefused(
                "the metadata service has no key for this server: bind an agency with rights to DDS to it, or use "
                f"another method of auth; it says: {self._said(reply)}",
                status=reply.status,
            )
        raise Unavailable(f"the metadata service gave no key: {self._said(reply)}", status=reply.status)

    async def _ask(self) -> Reply:
        headers = {_TOKEN: self._token} if self._token else {}
        return await self._http.call("GET", self._address + _KEY_PATH, headers=headers, body=b"")

    async def _new_token(self) -> None:
        reply = await self._http.call("PUT", self._address + _TOKEN_PATH, headers=_TOKEN_LIFE, body=b"")
        text = reply.body.decode("ascii", "replace").strip()
        if reply.status in _NO_VERSION_2:
            self._token = ""
        elif reply.status == 200 and is_token(text) and not text.startswith("<"):  # noqa: PLR2004  # as above
            self._redactor.add_issued(text)
            self._token = text
        else:
            raise Unavailable(f"the metadata service gave no token: HTTP {reply.status}", status=reply.status)

    def _said(self, reply: Reply) -> str:
        """Return what an error says, on one line, without secrets."""
        text = " ".join(self._redactor.clean_error(reply.body).decode("utf-8", "replace").split())
        return "".join(char for char in text if char.isprintable())[:_MOST_SAID] or "nothing"


def _misses_agency(reply: Reply) -> bool:
    """Return whether the server lacks an agency: ``Please configure Cloud Service Agency first``. internal.py."""
    return b"agency" in reply.body.lower()


def _read_keys(body: bytes) -> TemporaryKeys:
    """Read the reply, ``{"credential": {access, secret, securitytoken, expires_at}}``.

    Raises:
        Unavailable: It is of another shape.
    """
    try:
        found = json.loads(body)["credential"]
        access_key, secret_key, token, end = (str(found[name]) for name in _KEY_NAMES)
        ends_at = datetime.fromisoformat(end)
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Unavailable("the metadata service's reply makes no sense", status=200) from None
    if not all(map(is_token, (access_key, secret_key, token))):
        raise Unavailable("the metadata service's reply lacks a part of the keys", status=200)
    keys = Keys(access_key=access_key, secret_key=secret_key, security_token=token)
    return TemporaryKeys(keys=keys, ends_at=ends_at if ends_at.tzinfo else ends_at.replace(tzinfo=UTC))
