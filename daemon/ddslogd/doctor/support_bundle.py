"""What somebody who helps needs to see, in one file, with nothing secret in it and, unless asked for, no names."""

from __future__ import annotations

import asyncio
import io
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from contextlib import suppress
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ddslogd import __version__
from ddslogd.config import loader
from ddslogd.config.settings import InstanceEntry, PasswordAuth
from ddslogd.doctor import secret_checks
from ddslogd.doctor.pseudonyms import Pseudonyms
from ddslogd.doctor.report import report
from ddslogd.doctor.run_checks import Visit, examined
from ddslogd.huaweicloud.auth.secret_source import read_secret
from ddslogd.model.errors import ConfigError, CredentialsRefused, StorageError
from ddslogd.monitoring import status_client
from ddslogd.storage.filesystem import disk
from ddslogd.storage.ledger import reports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ddslogd.config.settings import Cloud, Settings
    from ddslogd.model.redactor import Redactor
    from ddslogd.scheduling.clock import Clock

_JOURNAL_LINES: Final = 2000
_SECRET_NAMES: Final = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "ACCESS_KEY", "APIKEY", "API_KEY")
_README: Final = """\
What `ddslogd support-bundle` gathered, for whoever helps you. Look through it before you send it.

configuration.json  the configuration as it was understood, without comments (or what is wrong with it)
status.json         the state of each instance: from the running daemon where it answers, else from the ledger
failures.json       what fails now, the last cycles that did not end well, the last gaps
ledger.json         the ledger's schema and how many rows it has
doctor.json         what `ddslogd doctor --offline` says
versions.json       of ddslogd, Python, libraries, systemd and the kernel
journal.txt         the last lines of the service's journal, where it could be read

Secrets, links and what looks like a token are replaced by [redacted]. {names}
Log lines are not in it.
"""
_WITHOUT: Final = (
    "Names of users, accounts, projects, instances, nodes and hosts, ids and addresses are replaced by name-…: "
    "the same one\nfor the same name, by a key that was thrown away. Else paths of files are as they are."
)
_WITH: Final = "Names are as they are (--with-names)."


async def gathered(
    path: Path, *, clock: Clock, redactor: Redactor, with_names: bool, environ: Mapping[str, str] = os.environ
) -> dict[str, bytes]:
    """Gather the bundle's members, by name.

    Args:
        path: The daemon's configuration; one that cannot be used is told of, and not copied: it may hold a secret.
        clock: The host's.
        redactor: Hears every secret there is, and cleans each member.
        with_names: Leave names as they are.
        environ: Of this process.
    """
    settings, told = _configuration(path)
    await _learn_secrets(settings, redactor, environ)
    members: dict[str, Any] = {"configuration.json": told, "versions.json": versions()}
    if settings is not None:
        state = settings.storage.state
        members["status.json"] = await asyncio.to_thread(
            _or_reason, lambda: status_client.status(settings, now=clock.now())
        )
        members["failures.json"] = _or_reason(lambda: reports.troubles(state))
        members["ledger.json"] = _or_reason(lambda: reports.contents(state))
    findings = await examined(Visit(path=path, offline=True), clock=clock, redactor=redactor, environ=environ)
    members["doctor.json"] = report(findings, clock.now())
    if settings is not None or with_names:  # else nobody knows which names to replace in it
        members["journal.txt"] = _journal()
    other = None if with_names else Pseudonyms(_names(settings) if settings else ())
    readme = _README.format(names=_WITH if with_names else _WITHOUT)
    return {"README.txt": readme.encode()} | {
        name: _cleaned(member, redactor, other, keys=name == "configuration.json") for name, member in members.items()
    }


def packed(members: Mapping[str, bytes], target: Path, *, name: str, clock: Clock) -> None:
    """Write the members into a new .tar.gz that only its owner can read.

    Raises:
        StorageError: It cannot be written, or is there already.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, content in members.items():
            entry = tarfile.TarInfo(f"{name}/{member}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(clock.now().timestamp())
            archive.addfile(entry, io.BytesIO(content))
    with disk(target):
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(buffer.getvalue())


def _configuration(path: Path) -> tuple[Settings | None, Any]:
    try:
        settings = loader.load(path).settings
    except ConfigError as exc:
        return None, {"complaints": [complaint.render(path) for complaint in exc.complaints]}
    return settings, settings.model_dump(mode="json", exclude_unset=True)


async def _learn_secrets(settings: Settings | None, redactor: Redactor, environ: Mapping[str, str]) -> None:
    for _, secret in secret_checks.secrets_of(settings) if settings else ():
        with suppress(CredentialsRefused):
            redactor.add(await read_secret(secret, environ=environ))
    for key, value in environ.items():
        if any(word in key.upper() for word in _SECRET_NAMES) and key != "CREDENTIALS_DIRECTORY":
            redactor.add(value.strip())


def _names(settings: Settings) -> Iterator[str]:
    yield socket.gethostname()
    yield socket.gethostname().partition(".")[0]
    for name, cloud in settings.clouds.items():
        yield name
        yield from _names_of(cloud)
    for entry in settings.instances:
        if isinstance(entry, InstanceEntry):
            yield from (entry.id, entry.name or "", *entry.nodes)
        else:
            found = entry.discover
            yield from (*found.include, *found.exclude, *found.tags, *found.tags.values())
    yield from reports.nodes_known(settings.storage.state)


def _names_of(cloud: Cloud) -> Iterator[str]:
    yield from (cloud.project_id or "", cloud.project_name or "", cloud.region or "")
    for url in (cloud.dds_endpoint, cloud.identity_endpoint, cloud.proxy or ""):
        yield urlsplit(url).hostname or ""
    yield from cloud.allowed_link_hosts
    for key in type(cloud.auth).model_fields:
        value = getattr(cloud.auth, key)
        if isinstance(value, str) and key not in {"method", "address"}:
            yield value
    if isinstance(cloud.auth, PasswordAuth) and cloud.auth.assume_role is not None:
        yield from (cloud.auth.assume_role.agency_name, cloud.auth.assume_role.domain_name)


def _cleaned(member: Any, redactor: Redactor, other: Pseudonyms | None, *, keys: bool) -> bytes:
    """Return a member's bytes: secrets are blanked out in each text before names are, and once more in the whole.

    Keys of mappings are names in the configuration alone.
    """

    def told(text: str) -> str:
        text = redactor.clean(text)
        return other.text(text) if other else Pseudonyms.without_tokens(text)

    def tree(value: Any) -> Any:
        match value:
            case str():
                return told(value)
            case list() | tuple():
                return [tree(one) for one in value]
            case dict():
                return {told(key) if keys else key: tree(one) for key, one in value.items()}
            case _:
                return value

    text = told(member) if isinstance(member, str) else json.dumps(tree(member), indent=2, ensure_ascii=False)
    return redactor.clean(text).encode("utf-8", "backslashreplace")


def _or_reason(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except (ConfigError, StorageError) as exc:
        return {"not_read": str(exc)}


def _journal() -> str:
    program = shutil.which("journalctl")
    if program is None:
        return "there is no journalctl here\n"
    command = [program, "-u", "ddslogd", "-n", str(_JOURNAL_LINES), "--no-pager", "-o", "short-iso", "-q"]
    return _said_by(command) or "nothing: there is none, or this user may not read it (group systemd-journal)\n"


def versions() -> dict[str, Any]:
    """Return the versions of all that matters."""
    found: dict[str, Any] = {"ddslogd": __version__, "python": sys.version, "executable": sys.executable}
    found["kernel"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    with suppress(OSError):
        found["system"] = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    if program := shutil.which("systemctl"):
        found["systemd"] = _said_by([program, "--version"]).partition("\n")[0]
    needed = metadata.requires("ddslogd") if _version("ddslogd") else None
    names = {re.split(r"[^\w.-]", name)[0] for name in needed or () if "extra" not in name}
    found["libraries"] = {name: version for name in sorted(names) if (version := _version(name))}
    return found


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _said_by(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)  # noqa: S603  # a constant, but for where it is
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")
