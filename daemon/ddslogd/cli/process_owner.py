"""The user that a command writes as: the owner of the directories, where root starts it."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import structlog

from ddslogd.doctor import secret_checks
from ddslogd.huaweicloud.auth import secret_source
from ddslogd.model.errors import StorageError
from ddslogd.storage import file_access, ownership

if TYPE_CHECKING:
    from ddslogd.config.settings import Settings

log = structlog.get_logger()


def go_on_as_owner(settings: Settings) -> None:
    """Let a command that writes go on as the owner of the directories, where root started it; with its secrets.

    Raises:
        StorageError: It cannot, or root has left there what is in the way; it says what fixes that.
    """
    user = ownership.user_for(settings.storage) if os.geteuid() == 0 else None
    if user is not None:
        asyncio.run(secret_source.hold(secret for _, secret in secret_checks.secrets_of(settings)))
        ownership.become(user, settings.storage)
        log.info("process.user", user=user.name, reason="root started it, and the directories are this user's")
    left = ownership.leftovers(settings.storage, file_access.myself())
    if left is None:
        return
    if left.vital:
        raise StorageError(f"{left.paths[0]} is root's, left by a command that root started: {left.todo}")
    paths = [str(path) for path in left.paths[:3]]
    log.warning("storage.of_root", paths=paths, number=len(left.paths), todo=left.todo)
