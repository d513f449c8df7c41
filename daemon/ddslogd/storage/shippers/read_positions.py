"""The registries of the log shippers: how much of a file they have read.

    program      registry                       what a file is known by
    Filebeat     registry/filebeat/             its path
    Vector       checkpoints.json               device and inode
    Fluent Bit   the database of its option DB  inode, with a name next to it
    Alloy        positions.yml                  its path
    rsyslog      imfile-state:<inode>:<hash>    inode and SipHash of its first 512 bytes

They are read as the snippets in systemd/shippers set their programs up; what other settings write is passed over.
Nothing of theirs is changed, made, or kept from being written. Whatever is in doubt counts as not read, so that the
file is kept. The source of each fact is a file in the program's own repository.
"""

from __future__ import annotations

import errno
import sys
from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from ddslogd.model.errors import StorageError
from ddslogd.storage.shippers.alloy import alloy_positions
from ddslogd.storage.shippers.file_identity import Mark, OpenedLog, Position, opened_log
from ddslogd.storage.shippers.filebeat import filebeat_positions
from ddslogd.storage.shippers.fluent_bit import fluent_bit_positions
from ddslogd.storage.shippers.rsyslog import rsyslog_positions
from ddslogd.storage.shippers.vector import vector_positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from ddslogd.config.settings import Storage


class Shipper(StrEnum):
    """The programs whose registries can be read; the values are in the configuration."""

    FILEBEAT = "filebeat"
    VECTOR = "vector"
    FLUENT_BIT = "fluent-bit"
    ALLOY = "alloy"
    RSYSLOG = "rsyslog"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPositions:
    """What a shipper said it had read when its registry was read.

    A registry cannot say whether what was read has arrived. Filebeat enters what its output has confirmed, Vector too
    where acknowledgements are on, the others what they have read.
    """

    _claims: Mapping[Mark, tuple[Position, ...]]
    _kinds: frozenset[type[Mark]]

    def position(self, path: Path) -> int | None:
        """Return how many bytes of the file the shipper has read: the least where several inputs read it.

        Blocks: the file is opened.

        Returns:
            None where the registry does not speak of this very file, or it is not sure that it does.
        """
        try:
            with opened_log(path) as file:
                positions = [claim.position for claim in self._of(file) if claim.speaks_of(file)]
                size = file.status.st_size
        except OSError:
            return None
        known = [position for position in positions if position is not None]
        if not known or len(known) < len(positions) or min(known) > size:
            return None  # a file that is shorter than what was read of it is another one, or was cut
        return min(known)

    def _of(self, file: OpenedLog) -> Iterator[Position]:
        for kind in self._kinds:
            mark = kind.of(file)
            if mark is not None and mark in self._claims:
                yield from self._claims[mark]


def read(shipper: Shipper, registry: Path) -> ReadPositions:
    """Read a shipper's registry. Blocks.

    Args:
        shipper: Whose.
        registry: Filebeat's directory ``registry`` or the one in it; Vector's ``checkpoints.json`` or its directory,
            ``<data_dir>/<source>``; Fluent Bit's database; Alloy's ``positions.yml`` or its directory,
            ``<storage.path>/loki.source.file.<label>``; rsyslog's work directory.

    Raises:
        StorageError: There are none, they cannot be read, or the program writes none like these. One entry that makes
            no sense is passed over.
    """
    claims = defaultdict(list)
    try:
        for mark, claim in entries_of(shipper, registry):
            claims[mark].append(claim)
    except OSError as exc:
        raise StorageError(_refusal(shipper, registry, exc)) from exc
    except ValueError as exc:
        raise StorageError(
            f"this is not what {shipper} writes: {exc}; set storage.shipper.kind and storage.shipper.registry right"
        ) from exc
    kinds = frozenset(type(mark) for mark in claims)
    return ReadPositions(_claims={mark: tuple(found) for mark, found in claims.items()}, _kinds=kinds)


def entries_of(shipper: Shipper, registry: Path) -> Iterable[tuple[Mark, Position]]:
    """Return the positions that a registry holds."""
    match shipper:
        case Shipper.FILEBEAT:
            return filebeat_positions(registry)
        case Shipper.VECTOR:
            return vector_positions(registry)
        case Shipper.FLUENT_BIT:
            return fluent_bit_positions(registry)
        case Shipper.ALLOY:
            return alloy_positions(registry)
        case Shipper.RSYSLOG:
            return rsyslog_positions(registry)


def _refusal(shipper: Shipper, registry: Path, exc: OSError) -> str:
    path = exc.filename or registry
    match exc:
        case FileNotFoundError() | NotADirectoryError():
            return (
                f"{shipper} keeps no registry here: {path}; set storage.shipper.registry right, or wait until it has "
                f"read a first file"
            )
        case PermissionError():
            return (
                f"ddslogd may not read the registry of {shipper}: {path}; add its user to the group that may, or give "
                f"its service CAP_DAC_READ_SEARCH"
            )
        case _:
            return f"{exc.strerror} ({errno.errorcode.get(exc.errno or 0, '?')}): {path}"


class Registry(Protocol):
    """What a shipper has read."""

    def position(self, path: Path) -> int | None:
        """Return how many bytes of a file were read; None where that is not known."""


class AllRead:
    """There is no shipper that we know of: limits alone decide."""

    def position(self, path: Path) -> int:
        """Return more than any file has."""
        del path
        return sys.maxsize


class NothingRead:
    """There is a shipper, and its registry cannot be read."""

    def position(self, path: Path) -> None:
        """Return nothing."""
        del path


def read_registry(settings: Storage) -> Registry:
    """Read the registry of the shipper that the settings name. Blocks.

    Raises:
        StorageError: They cannot be read.
    """
    shipper = settings.shipper
    if shipper.kind == "none" or shipper.registry is None:
        return AllRead()
    return read(Shipper(shipper.kind), shipper.registry)
