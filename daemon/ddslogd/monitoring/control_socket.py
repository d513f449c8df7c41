"""The unix socket by which commands ask the daemon: where it is, how it is made, and whom a command believes.

A TCP port belongs to whoever takes it first, also to somebody without any rights. A command believes only who listens
as root, or as the user that the state directory belongs to, which the kernel tells of the other end.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ddslogd.config.settings import Settings

NAME: Final = "ddslogd.sock"
MODE: Final = 0o660
PACKAGED: Final = Path("/run/ddslogd")
_LONGEST: Final = 107  # bytes of a path: sun_path has one more, for its end
_BACKLOG: Final = 16
_CREDENTIALS: Final = struct.Struct("iII")  # pid, uid, gid: SO_PEERCRED in unix(7)


def offered_at(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return where a daemon makes its socket: as configured, in systemd's RuntimeDirectory, or with its ledger."""
    if settings.web.socket is not None:
        return settings.web.socket
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(runtime or settings.storage.state) / NAME


def looked_for_at(settings: Settings) -> tuple[Path, ...]:
    """Return where a command looks for the socket of the daemon with this configuration."""
    if settings.web.socket is not None:
        return (settings.web.socket,)
    return (PACKAGED / NAME, settings.storage.state / NAME)


def listen(path: Path) -> socket.socket:
    """Make the socket; one that a dead daemon left is replaced. Blocks for a moment.

    Raises:
        OSError: Somebody listens there, something else is there, or the directory is missing or not this user's.
    """
    with _short(path) as name:
        _clear(path, name)
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            one.bind(name)
            os.chmod(name, MODE)  # noqa: PTH101  # text; before it listens, nobody can connect
            one.listen(_BACKLOG)
        except BaseException:
            one.close()
            raise
    return one


def connect(path: Path, trusted: frozenset[int], *, timeout_s: float) -> socket.socket:
    """Connect to who listens at a socket. Blocks.

    Args:
        path: Of the socket.
        trusted: Users, by number, one of whom it has to be who listens.
        timeout_s: For each step.

    Raises:
        OSError: Nobody listens, this user may not connect, or it is somebody else who listens.
    """
    with _short(path) as name:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            one.settimeout(timeout_s)
            one.connect(name)
            _refuse_strangers(one, trusted)
        except BaseException:
            one.close()
            raise
    return one


def _refuse_strangers(one: socket.socket, trusted: frozenset[int]) -> None:
    _, uid, _ = _CREDENTIALS.unpack(one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid not in trusted:
        raise PermissionError(f"user {uid} listens there, who is not the daemon's")


def trusted_users(settings: Settings) -> frozenset[int]:
    """Return who may be the daemon of a configuration: root, and the owner of the state directory."""
    users = {0}
    with suppress(OSError):
        users.add(settings.storage.state.stat().st_uid)
    return frozenset(users)


def number_of(path: Path) -> tuple[int, int] | None:
    """Return the file system and number of a file, by which it is known again; None where there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove(path: Path, number: tuple[int, int] | None) -> None:
    """Remove the socket's file, if it is still the one with that number."""
    if number is not None and number_of(path) == number:
        with suppress(OSError):
            path.unlink()


def _clear(path: Path, name: str) -> None:
    """Remove a socket that nobody listens at.

    Raises:
        OSError: Somebody does, or it is no socket.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(f"there is something else: {path}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # its queue is full
            pass
    raise FileExistsError(f"another process listens at {path}")


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a name of the path that a socket's address has room for."""
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
