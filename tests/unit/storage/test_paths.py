"""Where files lie: one safe place for each, whatever the cloud calls things."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ddslogd.model.instance import LogKind
from ddslogd.model.snapshot import Identity, LogFile
from ddslogd.storage import paths

patient = settings(deadline=None)  # a machine that is busy with something else is no bug
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
FILE = LogFile(instance="orders", node="node_1", file_name="errorlog_1", updated_at=MOMENT)
SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~-]*(?<!\.)")
WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)

TRICKS = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "..\\..\\x",
    "C:\\x",
    "a\x00b",
    "a\nb",
    "\x1b[2J",
    ".hidden",
    "...",
    "-rf",
    "~",
    "~root",
    "_",
    " ",
    "a ",
    " a",
    "a.",
    "a..",
    "a.part",
    ".a.part",
    "x" * 97,
    "x" * 250,
    "x" * 300,
    "x" * 299 + "y",
    "é" * 300,
    "\u0430dmin",  # a Cyrillic letter that looks like "a"
    "admin",
    "\uff41dmin",
    "caf\u00e9",
    "cafe\u0301",
    "a\u202eb",
    "\ud800",
    "\udfff",
    "con",
    "CON",
    "con.txt",
    "con.txt/",
    "Aux.log ",
    "nul",
    "com1",
    "LPT9.x",
    "lpt0",
    "console",
    "*?<>|:",
]
texts = st.text(st.characters(exclude_categories=()), max_size=120) | st.sampled_from(TRICKS)
moments = st.datetimes(datetime(1970, 1, 1), datetime(5138, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001  # bounds
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
kinds = st.sampled_from(LogKind)
files = st.builds(LogFile, instance=texts, log=kinds, node=texts, file_name=texts, updated_at=moments)


# --- segments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "orders",
        "orders_replica_node_1",
        "a",
        "7",
        "mongod.log",
        "a.b-c_d",
        "x" * 96,
        f"{'0' * 32}_{'f' * 32}no02_errorlog_20221028152200",
    ],
)
def test_a_plain_name_stays_as_it_is(name: str) -> None:
    assert paths.segment(name) == name


@pytest.mark.parametrize("name", TRICKS, ids=lambda name: ascii(name)[:20])
def test_a_name_with_a_trick_in_it_becomes_one_safe_segment(name: str) -> None:
    assert SAFE.fullmatch(paths.segment(name))


@patient
@given(name=texts)
def test_any_text_becomes_one_safe_segment(name: str) -> None:
    """One name, not hidden, with nothing in it that a shell, a terminal or another file system takes for more."""
    segment = paths.segment(name)

    assert SAFE.fullmatch(segment)
    assert PurePosixPath(segment).parts == (segment,)
    assert len(segment) <= 96


@patient
@given(name=texts)
@example(name="con.txt ")
@example(name="nul.")
def test_no_segment_is_a_device_of_windows(name: str) -> None:
    assert not WINDOWS_DEVICE.fullmatch(paths.segment(name))


@patient
@given(one=texts, other=texts)
def test_different_texts_become_different_segments(one: str, other: str) -> None:
    assert (paths.segment(one) == paths.segment(other)) == (one == other)


def test_every_trick_has_a_segment_of_its_own() -> None:
    """Look-alikes, names that differ beyond the 96th character, and what is left of tricks included."""
    assert len({paths.segment(name) for name in TRICKS}) == len(TRICKS)


def test_no_plain_name_passes_for_an_altered_one() -> None:
    """Who knows the hash could else put their file in another's place."""
    altered = paths.segment("../x")

    assert paths.segment(altered) not in {altered, "../x"}


def test_what_is_plain_in_a_name_stays_readable() -> None:
    assert paths.segment("node 1/ä.log").startswith("node_1__.log~")


# --- snapshots --------------------------------------------------------------------------------------------------------


def test_a_snapshots_path_tells_instance_node_file_and_moment() -> None:
    path = paths.snapshot_path(FILE)

    assert str(path) == "snapshots/orders/node_1/errorlog_1.20260102T030405.678Z.log"


@patient
@given(file=files)
def test_a_snapshot_lies_under_the_directory_and_is_never_taken_for_a_part(file: LogFile) -> None:
    path = paths.snapshot_path(file)

    assert (path.is_absolute(), len(path.parts), path.parts[0], path.suffix) == (False, 4, "snapshots", ".log")
    assert not any(part.startswith(".") for part in path.parts)
    assert paths.read_part_name(path.name) is None


@patient
@given(file=files)
def test_the_moment_can_be_read_back_from_a_snapshots_name(file: LogFile) -> None:
    assert paths.updated_at(paths.snapshot_path(file).name) == file.updated_at


def test_a_slow_logs_snapshot_says_so_in_its_name() -> None:
    path = paths.snapshot_path(replace(FILE, log=LogKind.SLOW))

    assert str(path) == "snapshots/orders/node_1/errorlog_1.20260102T030405.678Z.slow.log"


@patient
@given(file=files)
@example(file=replace(FILE, file_name="a.slow"))
@example(file=replace(FILE, file_name="a.20260102T030405.678Z.slow.log"))
def test_the_kind_and_the_file_can_be_read_back_from_a_snapshots_key(file: LogFile) -> None:
    key = paths.key(file)

    read = (paths.log_kind(key), paths.file_name(PurePosixPath(key).name))

    assert read == (file.log, paths.segment(file.file_name))


def test_a_series_is_a_nodes_log_of_one_kind() -> None:
    """What is compared with the export before it."""
    slow, other = replace(FILE, log=LogKind.SLOW), replace(FILE, node="node_2")
    later = replace(FILE, file_name="errorlog_2", updated_at=MOMENT + timedelta(days=1))

    same = [paths.series(paths.key(file)) == paths.series(paths.key(FILE)) for file in (later, slow, other)]

    assert same == [True, False, False]


names = texts | st.sampled_from(["a", "a.log", "a.log.log", "a.slow", "a.slow.log", "log", "g", "a.LOG"])


@patient
@given(one=names, other=names, kind=kinds, other_kind=kinds)
@example(one="a", other="a.log", kind=LogKind.ERROR, other_kind=LogKind.ERROR)
@example(one="a", other="a.slow", kind=LogKind.SLOW, other_kind=LogKind.ERROR)
def test_no_stream_has_the_place_of_another(one: str, other: str, kind: LogKind, other_kind: LogKind) -> None:
    """Neither its link nor its directory; only the kinds of a node share one."""
    first = paths.series(paths.key(replace(FILE, node=one, log=kind)))
    second = paths.series(paths.key(replace(FILE, node=other, log=other_kind)))

    assert (paths.stream_link(first) == paths.stream_link(second)) == (first == second)
    assert (paths.stream_directory(first) == paths.stream_directory(second)) == (one == other)
    assert paths.stream_directory(first) != paths.stream_link(second)
    assert not paths.stream_directory(first).name.endswith("g")  # rsyslog's pattern finds it, and no link


@patient
@given(file=files)
def test_when_a_stream_s_file_began_can_be_read_back_from_its_name(file: LogFile) -> None:
    path = paths.stream_file(paths.key(file), file.updated_at)
    others = [kind for kind in LogKind if kind is not file.log]

    assert path.parent == paths.stream_directory(paths.key(file))
    assert paths.born_at(path.name, log=file.log) == file.updated_at
    assert [paths.born_at(path.name, log=kind) for kind in others] == [None]


@pytest.mark.parametrize(
    "name",
    [
        "20260102T030405.678Z.log.1",
        "20260102T030405Z.log",
        "x20260102T030405.678Z.log",
        "20261302T030405.678Z.log",
        "99991231T235959.999Z.log",
        "20260102T030405.678Z.txt.log",
    ],
)
def test_other_names_are_none_of_a_stream_s_files(name: str) -> None:
    assert paths.born_at(name, log=LogKind.ERROR) is None


@patient
@given(one=files, other=files)
def test_different_files_lie_in_different_places(one: LogFile, other: LogFile) -> None:
    assert (paths.key(one) == paths.key(other)) == (one == other)


@pytest.mark.parametrize(
    "other",
    [
        replace(FILE, instance="other"),
        replace(FILE, node="other"),
        replace(FILE, file_name="other"),
        replace(FILE, log=LogKind.SLOW),
    ],
    ids=["instance", "node", "file name", "log"],
)
def test_each_part_of_a_files_identity_has_its_part_in_the_path(other: LogFile) -> None:
    assert paths.key(other) != paths.key(FILE)


def test_a_file_that_is_exported_again_under_its_name_lies_beside_the_old_one() -> None:
    again = replace(FILE, updated_at=MOMENT + timedelta(milliseconds=1))

    assert paths.snapshot_path(again) == paths.snapshot_path(FILE).with_name("errorlog_1.20260102T030405.679Z.log")


def test_a_nodes_snapshots_sort_by_age() -> None:
    ages = [timedelta(0), timedelta(milliseconds=1), timedelta(seconds=1), timedelta(days=40), timedelta(days=4000)]

    names = [paths.snapshot_path(replace(FILE, updated_at=MOMENT + age)).name for age in ages]

    assert names == sorted(names)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "errorlog_1.log",
        "x.20260102T030405.678Z.txt",
        "x.20261302T030405.678Z.log",
        "x.20260102T030405Z.log",
        ".log",
    ],
)
def test_a_name_without_a_moment_gives_none(name: str) -> None:
    assert paths.updated_at(name) is None


# --- parts ------------------------------------------------------------------------------------------------------------

ETAG, MODIFIED = '"9e107d9d372bb6826bd81d3542a419d6"', "Fri, 28 Oct 2022 07:22:05 GMT"
WHOLE = Identity(etag=ETAG, total=41_943_040, last_modified=MODIFIED)
header_values = st.text(max_size=30) | st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
identities = st.builds(
    Identity,
    etag=header_values,
    total=st.none() | st.integers(min_value=0, max_value=2**63),
    last_modified=header_values,
)


def test_a_parts_name_is_hidden_and_holds_what_proves_its_identity() -> None:
    name = paths.part_name(paths.snapshot_path(FILE).name, WHOLE)

    assert name == (
        ".errorlog_1.20260102T030405.678Z.log~41943040~Fri%2C%2028%20Oct%202022%2007%3A22%3A05%20GMT"
        "~%229e107d9d372bb6826bd81d3542a419d6%22.part"
    )


@patient
@given(file=files, identity=identities)
@example(file=FILE, identity=Identity(etag='"a~b"', total=1, last_modified="~"))
@example(file=replace(FILE, file_name="a~b~1~c"), identity=WHOLE)
@example(file=replace(FILE, file_name="x" * 300), identity=WHOLE)
@example(file=FILE, identity=Identity(etag='"\udcff"', total=1))
@example(file=FILE, identity=Identity(etag='"../a"', total=1))
def test_a_parts_name_can_be_read_back(file: LogFile, identity: Identity) -> None:
    """Whole, or, where length or room is missing, without the identity: never with another one."""
    final = paths.snapshot_path(file).name

    name = paths.part_name(final, identity)

    assert paths.read_part_name(name) == (final, identity if name.count("~") >= 3 else None)


@patient
@given(file=files, identity=identities)
@example(file=FILE, identity=Identity(etag='"../a"', total=1))
def test_a_parts_name_is_one_hidden_name_of_a_length_that_every_disk_takes(file: LogFile, identity: Identity) -> None:
    name = paths.part_name(paths.snapshot_path(file).name, identity)

    assert (name[0], name[-5:], "/" in name, name.isascii()) == (".", ".part", False, True)
    assert len(name) <= 255


def test_what_proves_the_identity_always_fits_for_the_object_store() -> None:
    """With the longest names there are: an MD5 as the ETag of a file of any size."""
    longest = paths.snapshot_path(replace(FILE, file_name="x" * 96, log=LogKind.SLOW)).name
    identity = replace(WHOLE, total=2**63 - 1)

    assert paths.read_part_name(paths.part_name(longest, identity)) == (longest, identity)


def test_what_proves_the_identity_is_held_up_to_the_longest_name_there_is() -> None:
    """And beyond it, the name without it."""
    names = [paths.part_name("f.log", replace(WHOLE, etag="e" * length)) for length in range(255)]

    assert max(len(name) for name in names) == 255
    assert names[-1] == ".f.log.part"


@pytest.mark.parametrize(
    "identity",
    [replace(WHOLE, total=None), replace(WHOLE, etag='"' + "e" * 200 + '"'), Identity()],
    ids=["no length", "no room", "nothing"],
)
def test_a_part_that_nothing_can_go_on_with_has_no_identity_in_its_name(identity: Identity) -> None:
    assert paths.part_name("f.log", identity) == ".f.log.part"


def test_the_checksum_is_no_part_of_a_parts_name() -> None:
    assert paths.part_name("f.log", replace(WHOLE, md5="0" * 32)) == paths.part_name("f.log", WHOLE)


@pytest.mark.parametrize("name", ["", "f.log", ".f.log", "f.log.part", ".f.log.part~", ".ddslogd.lock", "x.part"])
def test_what_is_no_parts_name_is_not_read_as_one(name: str) -> None:
    assert paths.read_part_name(name) is None


@pytest.mark.parametrize(
    "name",
    [".part", ".f.log.part", ".f.log~1~m.part", ".f.log~x~m~e.part", ".f.txt~1~m~e.part", ".f.log~-1~m~e.part"],
)
def test_a_parts_name_without_a_whole_identity_has_none(name: str) -> None:
    read = paths.read_part_name(name)

    assert read is not None
    assert read[1] is None


@patient
@given(name=st.text(st.characters(exclude_categories=()), max_size=60))
@example(name="f.log~1~%FF~%ED%A0%80")
@example(name="f.log~\u0663~m~e")
def test_any_name_on_disk_can_be_read(name: str) -> None:
    """Whoever put it there."""
    read = paths.read_part_name(f".{name}.part")

    assert read is not None
    assert name.startswith(read[0])
