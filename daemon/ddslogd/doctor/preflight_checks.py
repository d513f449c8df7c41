"""What ``check`` sees next to the configuration: whether secrets and directories are as the daemon needs them.

Nothing is changed and nobody is called. What the user who asks cannot see for the service is not judged.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ddslogd.doctor import disk_checks, secret_checks
from ddslogd.doctor.check_result import Level
from ddslogd.huaweicloud.auth.secret_source import secret_file
from ddslogd.model.errors import StorageError
from ddslogd.model.redactor import Redactor
from ddslogd.storage import file_access, ownership

if TYPE_CHECKING:
    from ddslogd.config.settings import Secret, Settings
    from ddslogd.doctor.check_result import CheckResult

_CONFIGURED: Final = Path("/etc")


def of_service(path: Path) -> bool:
    """Return whether a configuration is the service's, by where it is."""
    return path.absolute().is_relative_to(_CONFIGURED)


async def warnings(settings: Settings, *, in_service: bool) -> tuple[str, ...]:
    """Return a line for each secret and directory that is not as it should be, or that cannot be seen.

    Args:
        settings: As loaded.
        in_service: They are the service's.
    """
    service = file_access.user(ownership.SERVICE_USER) if in_service else None
    stranger = service is not None and os.geteuid() not in {0, service.uid}
    lines = [
        line
        for place, secret in secret_checks.secrets_of(settings)
        for line in await _of(place, secret, in_service=in_service)
    ]
    if stranger and service is not None:
        return (
            *lines,
            f"not checked: whether {service.name} may write to the directories: ask as root, or as that user",
        )
    return (*lines, *_of_directories(settings))


async def _of(place: str, secret: Secret, *, in_service: bool) -> list[str]:
    file = secret_file(secret)
    if (file is None and secret.credential is not None) or _given_to_another(secret, file):
        return [f"not checked: {place}: systemd gives the credential {secret.credential} to the service: ask as root"]
    if secret.credential is not None and secret_checks.not_seen(secret):  # root looked for it
        return [f"warning: {place}: there is no {file}, where the unit has it from if no drop-in says otherwise"]
    if secret.env is not None and in_service and secret.env not in os.environ:
        return [f"not checked: {place}: {secret.env} is not set here; whether it is for the service cannot be seen"]
    if file is not None and _is_kept_from_us(file):
        return [f"not checked: {place}: only others may read {file}: ask as root, or as the service's user"]
    found = await secret_checks.kept(place, secret, in_service=in_service, redactor=Redactor())
    if found.level is Level.FAIL:  # which says itself what to do
        return [f"warning: {found.what}"]
    return [_line(found)] if found.level is Level.WARN else []


def _given_to_another(secret: Secret, file: Path | None) -> bool:
    """Return whether systemd gives a credential to the service, and not to this command of its unit (ExecReload=)."""
    return (
        secret.credential is not None
        and "CREDENTIALS_DIRECTORY" in os.environ
        and not (file and os.access(file, os.R_OK))
    )


def _is_kept_from_us(file: Path) -> bool:
    try:
        file.stat()
    except FileNotFoundError:
        return False
    except OSError:  # a directory on the way
        return True
    return not os.access(file, os.R_OK)


def _of_directories(settings: Settings) -> list[str]:
    storage = settings.storage
    try:
        user = ownership.user_for(storage) if os.geteuid() == 0 else None
    except StorageError as exc:
        return [f"warning: {exc}"]
    who = ownership.as_who(user) if user is not None else file_access.myself()
    return [_line(found) for found in disk_checks.directories(storage, who) if found.level is Level.FAIL]


def _line(finding: CheckResult) -> str:
    return f"warning: {finding.what}: {finding.todo}"
