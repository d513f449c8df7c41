"""Faults on demand: what the sandbox does wrong, as fields that a test sets.

A list is used up, one element for each request it fits; every other field holds until it is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

Shape = Literal["dds", "gateway", "iam", "html", "empty"]
Etag = Literal["md5", "multipart", "encrypted", "none"]


@dataclass(frozen=True, slots=True)
class ApiError:
    """One error reply in place of what the cloud would have said.

    Attributes:
        status: HTTP status.
        code: The vendor's code, as ``DBS.280443`` or ``APIGW.0308``.
        message: Empty for one that fits the status.
        headers: Further headers, as ``Retry-After``.
        shape: Whose body it has.
    """

    status: int
    code: str = ""
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    shape: Shape = "dds"


@dataclass(slots=True, kw_only=True)
class Faults:
    """What goes wrong; a fresh one is a cloud that works.

    Attributes:
        cut_after: The connection is closed after so many bytes of this object's body; Content-Length promised more.
        stall_after: So many bytes of the body come, then nothing until the client goes or the sandbox stops.
        object_errors: Statuses, each with the XML body that fits it.
        object_codes: The codes in those bodies, in place of what fits the status.
        retry_after: Seconds that those of 429 and 503 name; 0 for none.
        api_errors: Replies to errorlog-download and slowlog-download.
        login_errors: Replies to a login.
        subject_token: What a login gives in place of a token; empty for a token.
        missing_rights: Which calls the credentials have no right to: instances, errorlog-download, slowlog-download.
            They are refused before anything else of the request is looked at; in which order the cloud does is not
            documented.
        drop_api: So many of their connections are closed without a reply.
        drop_objects: The same for objects. A client may repeat a GET by itself after that.
        forgotten_files: Names of files that may not be asked for by name any more (DBS.280361), though they are listed.
        slow_rows: Node (name or id) to extra seconds until its row is ready, divided by the sandbox's speed as every
            time of the cloud; ``math.inf`` is never.
        failed_rows: Nodes whose exports fail, of both kinds as with ``slow_rows``.
        bytes_per_second: The pace of an object's body; None for as fast as it goes.
        paces: Bytes a second of the next bodies, before ``bytes_per_second`` counts.
        no_length: An object comes with neither Content-Length nor chunks; the connection's end is its end.
        etag: ``encrypted`` is 32 hex digits that are no MD5, next to the header that says so.
        etags: The kind of the next replies' ETags, before ``etag`` counts; If-Match is not touched by it.
        ignore_range: A range is answered with 200 and the whole object.
        shift_range: A 206 begins (and says so) that many bytes from where it should.
        refuse_range: Status for whatever asks for a range; 0 for none.
        range_surplus: A 206 ends (and says so) so many bytes later than was asked for.
        content_range: What the next 206 say of themselves, in place of the truth.
        after_object: Called one by one, each as soon as the body of an object's reply has gone.
        corrupt: The byte at this offset of the object is flipped in this reply.
        page_instead: Content type and body that come with status 200 in place of an object.
        chunked: An object comes in chunks, without Content-Length; a cut has no last one.
        encoding: ``gzip``: the object is stored compressed and served with that Content-Encoding; of any other only the
            header comes.
        packed: The object itself is a gzip file, and no header says so.
        packed_on_the_way: A proxy compresses the whole object, in chunks, under the ETag of what it compresses.
        emptied: The next objects are empty, whatever their rows say.
        redirect: Locations for a 307 in place of an object.
        short_pages: The most instances that a page of the list has, whatever limit is asked for; 0 for what is asked
            for. More may follow a page that is shorter than its limit: only an empty one says that there are no more.
        total_count_off: What the list's total_count is wrong by; the reference's own example is.
        metadata_v1_only: The metadata service knows no tokens.
        metadata_errors: Statuses of the metadata service, for tokens and keys alike.
        metadata_token: What it gives in place of a token; empty for a token.
        metadata_mangle: The last word on the metadata service's keys: what it returns is sent.
        no_agency: The cloud server has no agency, so the metadata service has no keys for it.
        skew: The cloud's clock minus the true one.
        skew_of: The same of one server alone, on top of that: ``dds``, ``iam``, ``objects``.
        cached_for: By server: its replies come from a cache, which says in ``Age`` how old they are, and in Date what
            time it was.
        mangle: The last word on the body of a DDS reply: what it returns is sent, bytes as they are, the rest as JSON.
        link_rewrite: The last word on each link.
    """

    cut_after: list[int] = field(default_factory=list)
    stall_after: list[int] = field(default_factory=list)
    object_errors: list[int] = field(default_factory=list)
    object_codes: list[str] = field(default_factory=list)
    retry_after: int = 0
    api_errors: list[ApiError] = field(default_factory=list)
    login_errors: list[ApiError] = field(default_factory=list)
    subject_token: str = ""
    missing_rights: set[str] = field(default_factory=set)
    drop_api: int = 0
    drop_objects: int = 0
    forgotten_files: set[str] = field(default_factory=set)
    slow_rows: dict[str, float] = field(default_factory=dict)
    failed_rows: set[str] = field(default_factory=set)
    bytes_per_second: float | None = None
    paces: list[float] = field(default_factory=list)
    no_length: bool = False
    chunked: bool = False
    etag: Etag = "md5"
    etags: list[Etag] = field(default_factory=list)
    ignore_range: bool = False
    refuse_range: int = 0
    range_surplus: list[int] = field(default_factory=list)
    content_range: list[str] = field(default_factory=list)
    after_object: list[Callable[[], None]] = field(default_factory=list)
    shift_range: list[int] = field(default_factory=list)
    corrupt: list[int] = field(default_factory=list)
    page_instead: list[tuple[str, bytes]] = field(default_factory=list)
    encoding: str = ""
    packed: bool = False
    packed_on_the_way: bool = False
    emptied: int = 0
    redirect: list[str] = field(default_factory=list)
    short_pages: int = 0
    total_count_off: int = 0
    metadata_v1_only: bool = False
    metadata_errors: list[int] = field(default_factory=list)
    metadata_token: str = ""
    metadata_mangle: Callable[[dict[str, Any]], bytes] | None = None
    no_agency: bool = False
    skew: timedelta = timedelta(0)
    skew_of: dict[str, timedelta] = field(default_factory=dict)
    cached_for: dict[str, timedelta] = field(default_factory=dict)
    mangle: Callable[[dict[str, Any]], Any] | None = None
    link_rewrite: Callable[[str], str] | None = None

    def clear(self) -> None:
        """End every fault; the cloud works again."""
        fresh = Faults()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))


def take(queue: list[T]) -> T | None:
    """Use up the first element; None where there is none."""
    return queue.pop(0) if queue else None
