"""What is wrong with a shipper's inputs, for the streams of ddslogd."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ddslogd.findings import Finding, Level, fail, ok, warn
from ddslogd.storage.shippers import Shipper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ddslogd.operate.shipperconfig import Tail

AREA: Final = "shipper"
_SNIPPET: Final = "see the snippets in systemd/shippers (installed: /usr/share/doc/ddslogd)"
_LONG_LINE: Final = 1024 * 1024  # bytes that a line of MongoDB's may well have
_BY_PATH: Final = frozenset({Shipper.PROMTAIL, Shipper.FLUENT_BIT})
"""Who has nothing of a rotated file under its new name: it knows paths only, or follows the rename by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Paths as they are in the storage directory, or will be: whole paths.

    Attributes:
        streams: Live files.
        rotated: What live files were renamed to.
        others: What no shipper should read, with what it is.
        slowest: The longest time between two ticks of an instance.
        made: The streams are on disk; else they are made up.
    """

    streams: Sequence[str]
    rotated: Sequence[str]
    others: Sequence[tuple[str, str]]
    slowest: timedelta
    made: bool


def judged(tails: Sequence[Tail], tree: Tree) -> tuple[Finding, ...]:
    """Judge the inputs that have to do with the storage directory; where there is none, say so."""
    everything = (*tree.streams, *tree.rotated, *(path for path, _ in tree.others))
    concerned = [tail for tail in tails if any(map(tail.takes, everything))]
    if not concerned:
        paths = ", ".join(path for tail in tails for path in tail.paths) or "no input that follows files"
        return (fail(AREA, f"no path matches a stream: {paths}", f"read {_hint(tree)}; {_SNIPPET}"),)
    return tuple(finding for tail in concerned for finding in _of(tail, tree))


def _hint(tree: Tree) -> str:
    root = tree.streams[0].rpartition("/")[0].rpartition("/")[0] if tree.streams else "…/streams"
    return f"{root}/*/*.log*"


def _of(tail: Tail, tree: Tree) -> Iterator[Finding]:
    found = [*_paths(tail, tree), *_ages(tail, tree), *_own(tail)]
    if not any(finding.level is Level.FAIL for finding in found):
        number = sum(map(tail.takes, tree.streams))
        kind = "streams" if tree.made else "streams, as they will be named"
        yield ok(AREA, f"{tail.shipper} {tail.name}: reads {number} of {len(tree.streams)} {kind}, and nothing else")
    yield from found


def _paths(tail: Tail, tree: Tree) -> Iterator[Finding]:
    who = f"{tail.shipper} {tail.name}"
    missed = [path for path in tree.streams if not tail.takes(path)]
    if missed and len(missed) == len(tree.streams):
        yield fail(AREA, f"{who}: matches no stream", f"read {_hint(tree)}; {_SNIPPET}")
    elif missed:
        yield warn(AREA, f"{who}: does not match {missed[0]}", f"read {_hint(tree)}")
    wrong: dict[str, str] = {}
    for path, what in tree.others:
        if tail.takes(path):
            wrong.setdefault(what, path)
    for what, path in wrong.items():
        yield fail(AREA, f"{who}: matches {what}: {path}", f"read {_hint(tree)} alone; leave hidden names out")
    rotated = any(map(tail.takes, tree.rotated))
    if tail.shipper in _BY_PATH and rotated:
        todo = "match *.log, without a star behind it"
        yield warn(AREA, f"{who}: matches rotated files, and would send their lines again", todo)
    elif tail.shipper not in _BY_PATH and not rotated:
        text = f"{who}: does not match rotated files (<node>.log.<UTC time>)"
        yield warn(AREA, f"{text}: what was not read before a rotation is lost", f"read {_hint(tree)}")


# What a file that was not written to for so long is: one option a program.
_OLD: Final = {
    Shipper.FILEBEAT: ("ignore_older",),
    Shipper.VECTOR: ("ignore_older_secs", "ignore_older"),
    Shipper.FLUENT_BIT: ("ignore_older",),
    Shipper.PROMTAIL: (),
    Shipper.RSYSLOG: (),
}


def _ages(tail: Tail, tree: Tree) -> Iterator[Finding]:
    for name in _OLD[tail.shipper]:
        age = tail.duration(name)
        if age is not None and age < tree.slowest:
            text = f"{tail.shipper} {tail.name}: {name} is {age}, shorter than the time between two cycles"
            yield fail(
                AREA, f"{text} ({tree.slowest}): lines that came while it was down are passed over", f"drop {name}"
            )
        elif age is not None and age < timedelta(days=1):
            text = f"{tail.shipper} {tail.name}: {name} is {age}: a shipper that is down for longer loses lines"
            yield warn(AREA, text, f"drop {name}, or give it days")


def _own(tail: Tail) -> Iterator[Finding]:
    who = f"{tail.shipper} {tail.name}"
    return (Finding(level=level, area=AREA, what=f"{who}: {what}", todo=todo) for level, what, todo in _said(tail))


def _said(tail: Tail) -> Iterator[_Said]:
    match tail.shipper:
        case Shipper.FILEBEAT if tail.text("type") == "filestream":
            return _filestream(tail)
        case Shipper.FILEBEAT:
            return _log_input(tail)
        case Shipper.VECTOR:
            return _vector(tail)
        case Shipper.FLUENT_BIT:
            return _fluent_bit(tail)
        case Shipper.PROMTAIL:
            return _promtail(tail)
        case Shipper.RSYSLOG:
            return _rsyslog(tail)


_Said = tuple[Level, str, str]


def _filestream(tail: Tail) -> Iterator[_Said]:
    """Judge by filebeat's reference, "filestream input"."""
    identities = [key for key in tail.options if key.startswith("file_identity")]
    if any("path" in key for key in identities):
        yield Level.FAIL, "file_identity.path: a rotated file is read again as a new one", "use file_identity.native"
    elif not identities:
        what = "no file_identity: from version 9 on a file under 1,024 bytes is not read, so a quiet node's log waits"
        yield Level.WARN, what, "set file_identity.native and prospector.scanner.fingerprint.enabled: false"
    if tail.flag("close.on_state_change.renamed"):
        yield (
            Level.WARN,
            "close.on_state_change.renamed: reading ends at a rotation, and goes on only if rotated names match",
            "drop it",
        )
    if tail.duration("close.reader.after_interval"):
        yield Level.WARN, "close.reader.after_interval: a file is closed before it is read to its end", "drop it"
    if (age := tail.duration("clean_inactive")) is not None:
        yield (
            Level.WARN,
            f"clean_inactive is {age}: a node that is quiet for longer is forgotten, and read again from the beginning",
            "drop it: clean_removed suffices",
        )
    if tail.text("clean_removed", "true").lower() == "false":
        yield Level.WARN, "clean_removed is off: a new file may get a removed one's inode, and its place", "drop it"
    if tail.text("ignore_inactive"):
        yield (
            Level.FAIL,
            f"ignore_inactive is {tail.text('ignore_inactive')}: what was there before is not read",
            "drop it",
        )


def _log_input(tail: Tail) -> Iterator[_Said]:
    """Judge by filebeat's reference, "log input", which filestream replaces."""
    yield Level.WARN, "the input log is no more in version 9", "use filestream"
    if tail.flag("close_renamed"):
        yield Level.FAIL, "close_renamed: what was not read before a rotation may be lost", "drop it"
    if tail.flag("close_eof"):
        yield Level.WARN, "close_eof: a file is closed at each end", "drop it"
    if tail.duration("close_timeout"):
        yield Level.WARN, "close_timeout: a file is closed before it is read to its end", "drop it"
    if tail.flag("tail_files"):
        yield Level.FAIL, "tail_files: what a file holds when it is found is not read", "drop it"
    if (age := tail.duration("clean_inactive")) is not None:
        yield Level.WARN, f"clean_inactive is {age}: a node that is quiet for longer is read again", "drop it"


def _vector(tail: Tail) -> Iterator[_Said]:
    """Judge by vector.dev, reference of the source ``file``."""
    strategy = tail.text("fingerprint.strategy", "checksum")
    if strategy != "device_and_inode":
        what = f"fingerprint.strategy is {strategy}: files whose first lines are alike count as one"
        yield Level.WARN, what, "use device_and_inode"
    if tail.text("read_from", "beginning") == "end" or tail.text("start_at_beginning", "true").lower() == "false":
        yield Level.FAIL, "read_from is end: what a file holds when it is found is not read", "use beginning"
    if tail.text("remove_after_secs"):
        yield Level.FAIL, "remove_after_secs: Vector would remove the files of ddslogd", "drop it: storage.keep removes"
    if tail.flag("ignore_checkpoints"):
        yield Level.FAIL, "ignore_checkpoints: every start sends all lines again", "drop it"
    if _bytes(tail.text("max_line_bytes", "102400")) < _LONG_LINE:
        yield Level.WARN, "max_line_bytes: longer lines are dropped", "set max_line_bytes: 1048576"


def _fluent_bit(tail: Tail) -> Iterator[_Said]:
    """Judge by docs.fluentbit.io, input ``tail``."""
    if not tail.text("db"):
        yield Level.FAIL, "no DB: after a restart lines are lost or sent again", "set DB"
    elif tail.flag("db.locking"):
        yield Level.WARN, "DB.locking: ddslogd cannot look what was read (storage.shipper)", "set DB.locking false"
    if not tail.flag("read_from_head"):
        yield Level.FAIL, "Read_from_Head is not on: what a file holds at the start is not read", "set it to true"
    if not tail.flag("skip_long_lines") and _bytes(tail.text("buffer_max_size", "32k")) < _LONG_LINE:
        yield (
            Level.WARN,
            "a line longer than Buffer_Max_Size ends the reading of its file",
            "set Buffer_Max_Size 2M and Skip_Long_Lines On",
        )
    wait = tail.duration("rotate_wait")
    if wait is not None and wait < timedelta(seconds=5):
        yield Level.WARN, f"Rotate_Wait is {wait}: the end of a rotated file may be lost", "set it to an hour"
    if tail.flag("ignore_active_older_files"):
        yield Level.FAIL, "ignore_active_older_files: a quiet node's file is given up while it is read", "drop it"


def _promtail(tail: Tail) -> Iterator[_Said]:
    """Judge by grafana.com, Promtail's configuration reference."""
    filename = tail.text("positions.filename")
    if not filename or filename.startswith(("/tmp/", "/var/tmp/")):  # noqa: S108  # what is looked for
        what = f"positions.filename is {filename or 'not set'}: places are lost with it, and lines sent again"
        yield Level.WARN, what, "set it to a file that stays, as /var/lib/promtail/positions.yaml"


def _rsyslog(tail: Tail) -> Iterator[_Said]:
    """Judge by rsyslog's reference, module ``imfile``."""
    if tail.flag("freshstarttail"):
        yield Level.FAIL, "freshStartTail: what a file holds when it is found is not read", "drop it"
    if tail.text("persiststateinterval", "0") == "0":
        yield (
            Level.WARN,
            "persistStateInterval is 0: its place is noted at the end only, and lines may be sent twice",
            'set persistStateInterval="1"',
        )
    if tail.text("maxlinesperminute", "0") != "0" or tail.text("maxbytesperminute", "0") != "0":
        yield Level.WARN, "lines beyond a limit a minute are dropped: a cycle brings many at once", "drop the limit"
    if tail.text("module.mode", "inotify") == "polling" and any("*" in path for path in tail.paths):
        yield Level.WARN, "mode polling: a rotated file may be read again", 'load imfile with mode="inotify"'
    if tail.text("reopenontruncate", "off").lower() == "on":
        yield Level.WARN, "reopenOnTruncate: streams are never truncated", "drop it"


def _bytes(text: str) -> int:
    """Read a size as 2M or 32k; what is none is taken as large."""
    number, unit = text[:-1], text[-1:].lower()
    factor = {"k": 1024, "m": 1024**2, "g": 1024**3}.get(unit)
    digits = number if factor else text
    return int(digits) * (factor or 1) if digits.isdecimal() else _LONG_LINE
