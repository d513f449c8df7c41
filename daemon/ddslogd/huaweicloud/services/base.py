"""What a log service is: the facts that tell one service of the cloud from another, as data and pure functions.

A service is a file next to this one. It has no client, no session and no state: ``api_client`` makes the calls, by the
paths and readers that are given here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ddslogd.model.export import ExportReply, Selection
    from ddslogd.model.instance import ListPage, LogKind

T_co = TypeVar("T_co", covariant=True)


class Reader(Protocol[T_co]):
    """Reads the body of a reply.

    Raises:
        CloudError: The body is of another shape, too large, or holds an error.
    """

    def __call__(self, body: bytes, *, request_id: str = "") -> T_co:
        """Return what the body holds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogExport:
    """How a kind of log is exported.

    Attributes:
        call: The last part of the path.
        word: What the names of its files have, and those of no other kind.
        groups: The types of groups whose nodes have such a log.
        right: What the credentials must be granted, as the service's list of actions names it.
    """

    call: str
    word: str
    groups: frozenset[str]
    right: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogService:
    """A service of the cloud whose instances have logs.

    Attributes:
        exports: Its kinds of log.
        list_right: The right to list instances.
        page_size: Instances a page of the list.
        most_file_names: Files that one call may ask for by name.
        no_file_name: Stands for the name of a file that the cloud has not told yet.
        no_instance: An id that no instance has: what is said of it shows whether there is a right.
        export_path: By project, instance and kind: the call that starts an export, reports on it and renews its links.
        export_body: By selection; all files where it is empty.
        read_export: Reads that call's reply.
        instances_path: By project and offset: one page of the list of instances.
        listed_instance_path: By project and instance: the list that holds this instance only.
        one_instance_path: By project: the smallest list there is.
        read_instances: Reads a page.
        node_id_in: The id of the node in a file's name; empty where the name has none.
    """

    exports: Mapping[LogKind, LogExport]
    list_right: str
    page_size: int
    most_file_names: int
    no_file_name: str
    no_instance: str
    export_path: Callable[[str, str, LogKind], str]
    export_body: Callable[[Selection], bytes]
    read_export: Reader[ExportReply]
    instances_path: Callable[[str, int], str]
    listed_instance_path: Callable[[str, str], str]
    one_instance_path: Callable[[str], str]
    read_instances: Reader[ListPage]
    node_id_in: Callable[[str], str]

    def kind_may_be(self, kind: LogKind, file_name: str) -> bool:
        """Return whether a file may be of a kind of log: its name has no other kind's word."""
        return not any(export.word in file_name for other, export in self.exports.items() if other is not kind)
