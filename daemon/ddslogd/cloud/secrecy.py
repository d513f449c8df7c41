"""Where secrets are, and who else may read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ddslogd.cloud.credentials import read_secret
from ddslogd.config import Secret
from ddslogd.errors import CredentialsRefused
from ddslogd.findings import Finding, fail, ok, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ddslogd.config import Cloud, Settings

AREA: Final = "secrets"
_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP
_AS_SERVICE: Final = (
    "as root: CREDENTIALS_DIRECTORY=/etc/ddslogd ddslogd doctor, where the file has the credential's name; "
    "or run doctor by systemd-run with the same LoadCredential="
)


def secrets_of(settings: Settings) -> Iterator[tuple[str, Secret]]:
    """Give each secret that the configuration refers to, with its place."""
    for name, cloud in settings.clouds.items():
        for key in type(cloud.auth).model_fields:
            value = getattr(cloud.auth, key)
            if isinstance(value, Secret):
                yield f"clouds.{name}.auth.{key}", value


def hidden(cloud: Cloud, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a secret is a credential that only the service is given."""
    given = (getattr(cloud.auth, key) for key in type(cloud.auth).model_fields)
    return not environ.get("CREDENTIALS_DIRECTORY") and any(
        isinstance(one, Secret) and one.credential is not None for one in given
    )


async def kept(
    place: str,
    secret: Secret,
    *,
    in_service: bool,
    redact: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> Finding:
    """Look at one secret: whether it is there, can be read, and is one.

    Args:
        place: In the configuration.
        secret: Where it is.
        in_service: The configuration is a service's.
        redact: Hears it.
        environ: Of this process.
    """
    if secret.credential is not None and not environ.get("CREDENTIALS_DIRECTORY"):
        return warn(
            AREA, f"{place}: the credential {secret.credential} is for the service alone: not looked at", _AS_SERVICE
        )
    try:
        redact(await read_secret(secret, environ=environ))
    except CredentialsRefused as exc:
        return fail(AREA, f"{place}: {exc}", _to_put(secret))
    if secret.env is not None:
        text = f"{place}: the environment variable {secret.env} is set"
        if in_service:
            return warn(AREA, f"{text}; other processes of the user can read it", "use {credential: …} or {file: …}")
        return ok(AREA, text)
    path = secret.file or Path(environ["CREDENTIALS_DIRECTORY"]) / str(secret.credential)
    return _of_file(place, path)


def _to_put(secret: Secret) -> str:
    if secret.env is not None:
        return f"set {secret.env} for this command as it is for the daemon"
    if secret.credential is not None:
        return f"see LoadCredential={secret.credential}:… in the unit, and the file that it names"
    return f"put the secret into {secret.file}, readable to the daemon's user: install -m 0640 -g ddslogd"


def _of_file(place: str, path: Path) -> Finding:
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
