"""Where secrets are, and who else may read them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from ddslogd.config.settings import Secret
from ddslogd.doctor.check_result import CheckResult, fail, ok, warn
from ddslogd.huaweicloud.auth.secret_source import UNIT_CREDENTIALS, read_secret, secret_file
from ddslogd.model.errors import CredentialsRefused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ddslogd.config.settings import Cloud, Settings
    from ddslogd.model.redactor import Redactor

AREA: Final = "secrets"
_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP
_AS_SERVICE: Final = (
    "run it as root, who finds it in /etc/ddslogd; where the unit has it from elsewhere, set CREDENTIALS_DIRECTORY"
)


def secrets_of(settings: Settings) -> Iterator[tuple[str, Secret]]:
    """Yield each secret that the configuration refers to, with its place."""
    for name, cloud in settings.clouds.items():
        for key in type(cloud.auth).model_fields:
            value = getattr(cloud.auth, key)
            if isinstance(value, Secret):
                yield f"clouds.{name}.auth.{key}", value


def hidden(cloud: Cloud, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a secret is a credential that only the service is given."""
    given = (getattr(cloud.auth, key) for key in type(cloud.auth).model_fields)
    return any(isinstance(one, Secret) and not_seen(one, environ) for one in given)


def not_seen(secret: Secret, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a secret is a credential that this process cannot find, and the service may be given."""
    if secret.credential is None or environ.get("CREDENTIALS_DIRECTORY"):
        return False
    path = secret_file(secret, environ=environ)
    return path is None or not path.exists()


async def kept(
    place: str,
    secret: Secret,
    *,
    in_service: bool,
    redactor: Redactor,
    environ: Mapping[str, str] = os.environ,
) -> CheckResult:
    """Look at one secret: whether it is there, can be read, and is one.

    Args:
        place: In the configuration.
        secret: Where it is.
        in_service: The configuration is a service's.
        redactor: Is told it.
        environ: Of this process.
    """
    if not_seen(secret, environ):
        what = f"{place}: the credential {secret.credential} is for the service alone: not looked at"
        if secret_file(secret, environ=environ) is not None:  # root looked for it
            return warn(AREA, f"{what} (there is no {UNIT_CREDENTIALS / str(secret.credential)})", _to_put(secret))
        return warn(AREA, what, _AS_SERVICE)
    try:
        redactor.add(await read_secret(secret, environ=environ))
    except CredentialsRefused as exc:
        return fail(AREA, f"{place}: {exc}", _to_put(secret))
    if secret.env is not None:
        text = f"{place}: the environment variable {secret.env} is set"
        if in_service:
            return warn(AREA, f"{text}; other processes of the user can read it", "use {credential: …} or {file: …}")
        return ok(AREA, text)
    path = secret_file(secret, environ=environ)
    return ok(AREA, f"{place}: it can be read") if path is None else _of_file(place, path)


def _to_put(secret: Secret) -> str:
    if secret.env is not None:
        return f"set {secret.env} for this command as it is for the daemon"
    if secret.credential is not None:
        return f"see LoadCredential={secret.credential}:… in the unit, and the file that it names"
    return f"put the secret into {secret.file}, readable to the daemon's user: install -m 0640 -g ddslogd"


def _of_file(place: str, path: Path) -> CheckResult:
    try:
        status = path.stat()
    except OSError:
        return ok(AREA, f"{place}: {path} can be read")
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        what = "others can read" if mode & stat.S_IROTH else "others can write"
        return warn(
            AREA, f"{place}: {what} {path} (mode {mode:04o})", f"chmod 0640 {path}; then change the secret itself"
        )
    return ok(AREA, f"{place}: {path} can be read, and not by others (mode {mode:04o})")
