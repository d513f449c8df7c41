"""Secrets, read from where the configuration says that they are."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiofiles

from ddslogd.model.errors import CredentialsRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ddslogd.config.settings import Secret


UNIT_CREDENTIALS: Final = Path("/etc/ddslogd")

_held: Final = dict["Secret", str]()  # read as root, by a process that went on as another user


async def read_secret(secret: Secret, *, environ: Mapping[str, str] = os.environ) -> str:
    """Read a secret from where the configuration says it is.

    Raises:
        CredentialsRefused: It is not there, or empty; the message says where it was looked for.
    """
    todo = to_replace(secret, environ=environ)
    if secret.env:
        text, where = environ.get(secret.env, ""), f"the environment variable {secret.env}"
    else:
        path = secret_file(secret, environ=environ)
        if path is None:
            raise CredentialsRefused(
                f"the credential {secret.credential} is systemd's to give, and this process does not run as its "
                "service: use file or env, or run it as root"
            )
        where = f"the file {path}"
        try:
            async with aiofiles.open(path, encoding="utf-8-sig") as file:
                text = await file.read()
        except (OSError, UnicodeDecodeError) as exc:
            if isinstance(exc, PermissionError) and secret in _held:
                return _held[secret]
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
            raise CredentialsRefused(f"a secret cannot be read from {where}: {reason}: {todo}") from None
    if "\0" in text:
        raise CredentialsRefused(
            f"a secret cannot be read from {where}: it holds a NUL character; save it as UTF-8 text"
        )
    if not text.strip():
        raise CredentialsRefused(f"a secret is missing: {where} is empty or not set: {todo}")
    return text.strip()


def secret_file(secret: Secret, *, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file that a secret is read from; None for an environment variable, and where only systemd can read it.

    Outside of the service, root reads a credential where the unit has it from.
    """
    if secret.file is not None or secret.credential is None:
        return secret.file
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory and os.geteuid() != 0 and secret not in _held:
        return None
    return (Path(directory) if directory else UNIT_CREDENTIALS) / secret.credential


def to_replace(secret: Secret, *, environ: Mapping[str, str] = os.environ) -> str:
    """Return what puts another secret to use, by where this one comes from."""
    if secret.env is not None:
        return f"set {secret.env} to the right one, and restart ddslogd: a process keeps the environment of its start"
    if secret.file is not None and secret not in _held:
        return f"put the right one into {secret.file}: it is read again, no restart is needed"
    if environ.get("CREDENTIALS_DIRECTORY"):
        return (
            f"put the right one into the file that LoadCredential={secret.credential}: of the unit names"
            f" ({UNIT_CREDENTIALS / str(secret.credential)} as it is packaged), then systemctl restart ddslogd:"
            " the service has a copy from its start, which a reload does not renew"
        )
    return f"put the right one into {secret_file(secret, environ=environ)}, and start ddslogd again"


async def hold(secrets: Iterable[Secret]) -> None:
    """Read secrets as root, for the time when this process is another user, who may not read them.

    What cannot be read is refused where it is used, as ever. What that user may read, too, is read again each time.
    """
    for secret in secrets:
        if secret.env is None:
            with suppress(CredentialsRefused):
                _held[secret] = await read_secret(secret)
