"""What shippers are told to read: the snippets against a real tree, and every mistake that doctor knows."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from ddslogd.findings import Finding, Level
from ddslogd.operate import globs
from ddslogd.operate.doctor import tree_of
from ddslogd.operate.shipperconfig import Unreadable, guessed, read, read_time
from ddslogd.operate.shipperrules import Tree, judged
from ddslogd.sandbox import replica_set, single
from ddslogd.service import rebuilt
from ddslogd.storage.shippers import Shipper

if TYPE_CHECKING:
    from conftest import Bed

SNIPPETS = Path(__file__).parents[1] / "systemd" / "shippers"
KINDS = {
    "filebeat.yml": Shipper.FILEBEAT,
    "vector.yaml": Shipper.VECTOR,
    "fluent-bit.conf": Shipper.FLUENT_BIT,
    "promtail.yml": Shipper.PROMTAIL,
    "rsyslog.conf": Shipper.RSYSLOG,
}
ROOT = "/var/log/ddslogd"
STAMP = "20260102T030405.000Z"
LIVE = f"{ROOT}/streams/orders/orders_node_1.log"
SLOW = f"{ROOT}/streams/orders/orders_node_1.slow.log"
ROTATED = f"{LIVE}.{STAMP}"
SNAPSHOT = f"{ROOT}/snapshots/orders/orders_node_1/name.{STAMP}.log"
PART = f"{ROOT}/snapshots/orders/orders_node_1/.name.{STAMP}.log~1~~.part"
ASIDE = f"{ROOT}/streams/orders/.replaced.{STAMP}/orders_node_1.log"
TREE = Tree(
    streams=[LIVE, SLOW],
    rotated=[ROTATED],
    others=[
        (SNAPSHOT, "a snapshot, whose lines are in a stream too"),
        (PART, "a part, which is no whole file yet"),
        (ASIDE, "a stream that rebuild put aside"),
        (f"{ROOT}/.ddslogd.lock", "a lock"),
    ],
    slowest=timedelta(minutes=20),
    made=True,
)


def look(tmp_path: Path, text: str, kind: Shipper | None = None, name: str = "shipper.yml") -> tuple[Finding, ...]:
    path = tmp_path / name
    path.write_text(text)
    return judged(read(path, kind)[1], TREE)


def levels(findings: tuple[Finding, ...]) -> set[Level]:
    return {finding.level for finding in findings}


# --- the snippets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), KINDS.items(), ids=KINDS)
def test_doctor_knows_whose_a_snippet_is_and_has_nothing_against_it(name: str, kind: Shipper) -> None:
    told, tails = read(SNIPPETS / name)

    findings = judged(tails, TREE)

    assert (told, len(tails), levels(findings)) == (kind, 1, {Level.OK}), findings


def test_there_is_a_snippet_for_each_shipper_whose_books_are_read() -> None:
    assert (set(KINDS.values()), {path.name for path in SNIPPETS.iterdir()}) == (set(Shipper), set(KINDS))


@pytest.mark.parametrize("name", ["filebeat.yml", "vector.yaml", "promtail.yml"])
def test_a_snippet_of_yaml_is_yaml(name: str) -> None:
    assert isinstance(yaml.safe_load((SNIPPETS / name).read_text()), dict)


@pytest.mark.parametrize("name", KINDS)
async def test_a_snippet_takes_the_streams_of_a_real_tree_and_nothing_else(bed: Bed, name: str, tmp_path: Path) -> None:
    """Live and rotated files, of error and slow logs; no part, no snapshot, no lock, nothing that was put aside."""
    bed.set('name: "solo"', 'name: "solo"\n    logs: [error, slow]')
    bed.set("instances:\n", "stream: {rotate: {size: 20}}\ninstances:\n")
    async with bed.cloud(fleet=(single("solo"), replica_set("trio"))) as cloud:
        for round_ in range(2):
            for instance in cloud.fleet:
                for node in instance.nodes:
                    cloud.write(node.name, b"a line of round %d\n" % round_)
            cloud.write("solo_single_node_1", b"a slow line\n", kind="slow")
            bed.clock.forward(minutes=20)
            await bed.collect("solo")
            await bed.collect("trio")
        await rebuilt(bed.settings, "solo", clock=bed.clock, note=lambda _: None)
    (bed.files()[0].parent / f".growing.{STAMP}.log~9~~.part").write_bytes(b"x")
    snippet = tmp_path / name
    snippet.write_text((SNIPPETS / name).read_text().replace(f"{ROOT}/", f"{bed.directory}/"))

    (tail,) = read(snippet)[1]

    everything = {str(path) for path in bed.directory.rglob("*") if path.is_file()}
    streams = {str(path) for path in (bed.directory / "streams").glob("[!.]*/[!.]*") if path.is_file()}
    live = {path for path in streams if path.endswith(".log")}
    expected = live if name in {"fluent-bit.conf", "promtail.yml"} else streams
    assert {path for path in everything if tail.takes(path)} == expected
    assert (len(live), len(streams) > len(live), len(everything) - len(streams) > 8) == (5, True, True)
    assert levels(judged((tail,), tree_of(bed.settings))) == {Level.OK}


# --- globs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "dialect", "path", "matches"),
    [
        ("/a/*.log", globs.GO, "/a/.b.log", True),
        ("/a/*.log", globs.POSIX, "/a/.b.log", False),
        ("/a/.*.log", globs.POSIX, "/a/.b.log", True),
        ("/a/?b", globs.POSIX, "/a/.b", False),
        ("/a/[.]b", globs.POSIX, "/a/.b", False),
        ("/a/b*.log", globs.POSIX, "/a/b.c.log", True),
        ("/a/*", globs.GO, "/a/b/c", False),
        ("/a/**", globs.GO, "/a/b/c", True),
        ("/a/**/c", globs.GO, "/a/c", True),
        ("/a/**/c", globs.GO, "/a/b/d/c", True),
        ("/a/**/c", globs.POSIX, "/a/b/d/c", False),
        ("/a/{b,c}/*.log", globs.DOUBLESTAR, "/a/c/d.log", True),
        ("/a/{b,c}/*.log", globs.GO, "/a/c/d.log", False),
        ("/a/[bc]d", globs.GO, "/a/cd", True),
        ("/a/[!bc]d", globs.GO, "/a/cd", False),
        ("/a/[^b]d", globs.GO, "/a/cd", True),
        (r"/a/\*", globs.GO, "/a/*", True),
        (r"/a/\*", globs.GO, "/a/b", False),
        ("/a/*", globs.RUST_EXCLUDE, "/a/b/c", True),
        ("/a/[", globs.GO, "/a/[", True),
    ],
)
def test_patterns_are_read_as_their_programs_do(
    pattern: str, dialect: globs.Dialect, path: str, *, matches: bool
) -> None:
    assert (globs.compiled(pattern, dialect).fullmatch(path) is not None) is matches


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("90", timedelta(seconds=90)),
        ("2h", timedelta(hours=2)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("500ms", timedelta(milliseconds=500)),
        ("1d", timedelta(days=1)),
        ("0", None),
        ("0s", None),
        ("soon", None),
        ("", None),
        ("9" * 30 + "h", None),
    ],
)
def test_times_are_read_as_shippers_write_them(text: str, time: timedelta | None) -> None:
    assert read_time(text) == time


# --- what is wrong ----------------------------------------------------------------------------------------------------


def filebeat(extra: str = "", path: str = f"{ROOT}/streams/*/*.log*") -> str:
    return f"""
filebeat.inputs:
  - type: filestream
    id: dds
    paths: ["{path}"]
    file_identity.native: ~
    prospector.scanner.exclude_files: ['/\\.']
{extra}"""


def vector(extra: str = "", path: str = f"{ROOT}/streams/*/*.log*") -> str:
    return f"""
sources:
  dds:
    type: file
    include: ["{path}"]
    exclude: ["{ROOT}/streams/*/.*"]
    fingerprint: {{strategy: device_and_inode}}
    max_line_bytes: 1048576
{extra}"""


def fluent_bit(extra: str = "", path: str = f"{ROOT}/streams/*/*.log") -> str:
    return f"""
[INPUT]
    Name tail
    Path {path}
    DB /var/lib/f.db
    Read_from_Head on
    Skip_Long_Lines on
{extra}"""


def rsyslog(extra: str = "", path: str = f"{ROOT}/streams/*/*.log*") -> str:
    return f'module(load="imfile")\ninput(type="imfile" file="{path}" tag="dds" persistStateInterval="1" {extra})\n'


def promtail(path: str = f"{ROOT}/streams/*/*.log", exclude: str = f"{ROOT}/streams/*/.*/*") -> str:
    return f"""
positions: {{filename: /var/lib/promtail/p.yaml}}
scrape_configs:
  - job_name: dds
    static_configs:
      - labels: {{__path__: "{path}", __path_exclude__: "{exclude}"}}
"""


@pytest.mark.parametrize("text", [filebeat(), vector(), fluent_bit(), rsyslog(), promtail()])
def test_what_the_mistakes_are_made_in_is_without_one(text: str, tmp_path: Path) -> None:
    assert levels(look(tmp_path, text)) == {Level.OK}


@pytest.mark.parametrize(
    ("text", "level", "said"),
    [
        (filebeat(path=f"{ROOT}/**"), Level.FAIL, "matches a snapshot"),
        (filebeat(path=f"{ROOT}/streams/**").replace("'/\\.'", "'x'"), Level.FAIL, "that rebuild put aside"),
        (filebeat(path=f"{ROOT}/s*/*/*/*").replace("'/\\.'", "'x'"), Level.FAIL, "matches a part"),
        (filebeat(path=f"{ROOT}/*").replace("'/\\.'", "'x'"), Level.FAIL, "matches a lock"),
        (filebeat(path=f"{ROOT}/*.log"), Level.FAIL, "no path matches a stream"),
        (filebeat(path=f"{ROOT}/streams/*/*.log"), Level.WARN, "does not match rotated files"),
        (filebeat(path=f"{ROOT}/streams/*/*.slow.log*"), Level.WARN, f"does not match {LIVE}"),
        (filebeat("    ignore_older: 10m"), Level.FAIL, "shorter than the time between two cycles"),
        (filebeat("    ignore_older: 2h"), Level.WARN, "ignore_older is 2:00:00"),
        (filebeat("    close.on_state_change.renamed: true"), Level.WARN, "renamed"),
        (filebeat("    close: {on_state_change: {renamed: true}}"), Level.WARN, "renamed"),
        (filebeat("    close.reader.after_interval: 5m"), Level.WARN, "after_interval"),
        (filebeat("    clean_inactive: 1h"), Level.WARN, "clean_inactive"),
        (filebeat("    clean_removed: false"), Level.WARN, "clean_removed"),
        (filebeat("    ignore_inactive: since_first_start"), Level.FAIL, "ignore_inactive"),
        (filebeat().replace("file_identity.native", "file_identity.path"), Level.FAIL, "file_identity.path"),
        (filebeat().replace("file_identity.native: ~", ""), Level.WARN, "no file_identity"),
        (filebeat().replace("filestream", "log"), Level.WARN, "no more in version 9"),
        (filebeat("    close_renamed: true").replace("filestream", "log"), Level.FAIL, "close_renamed"),
        (filebeat("    close_eof: true").replace("filestream", "log"), Level.WARN, "close_eof"),
        (filebeat("    close_timeout: 5m").replace("filestream", "log"), Level.WARN, "close_timeout"),
        (filebeat("    tail_files: true").replace("filestream", "log"), Level.FAIL, "tail_files"),
        (filebeat("    clean_inactive: 5h").replace("filestream", "log"), Level.WARN, "clean_inactive"),
        (vector(path=f"{ROOT}/**/*"), Level.FAIL, "matches a part"),
        (vector("    ignore_older_secs: 600"), Level.FAIL, "ignore_older_secs is 0:10:00"),
        (vector("    read_from: end"), Level.FAIL, "read_from is end"),
        (vector("    remove_after_secs: 60"), Level.FAIL, "remove_after_secs"),
        (vector("    ignore_checkpoints: true"), Level.FAIL, "ignore_checkpoints"),
        (vector().replace("device_and_inode", "checksum"), Level.WARN, "fingerprint.strategy is checksum"),
        (vector().replace("    max_line_bytes: 1048576", ""), Level.WARN, "max_line_bytes"),
        (fluent_bit(path=f"{ROOT}/streams/*/*.log*"), Level.WARN, "would send their lines again"),
        (fluent_bit(path=f"{ROOT}/snapshots/*/*/*.log,{LIVE}"), Level.FAIL, "matches a snapshot"),
        (fluent_bit("    Ignore_Older 10m"), Level.FAIL, "ignore_older is 0:10:00"),
        (fluent_bit("    Rotate_Wait 1"), Level.WARN, "Rotate_Wait is 0:00:01"),
        (fluent_bit("    DB.locking true"), Level.WARN, "DB.locking"),
        (fluent_bit("    ignore_active_older_files on"), Level.FAIL, "ignore_active_older_files"),
        (fluent_bit().replace("    DB /var/lib/f.db\n", ""), Level.FAIL, "no DB"),
        (fluent_bit().replace("Read_from_Head on", ""), Level.FAIL, "Read_from_Head is not on"),
        (fluent_bit().replace("Skip_Long_Lines on", ""), Level.WARN, "Buffer_Max_Size"),
        (rsyslog('freshStartTail="on"'), Level.FAIL, "freshStartTail"),
        (rsyslog('maxLinesPerMinute="100"'), Level.WARN, "a limit a minute"),
        (rsyslog('reopenOnTruncate="on"'), Level.WARN, "reopenOnTruncate"),
        (rsyslog().replace('"imfile")', '"imfile" mode="polling")'), Level.WARN, "mode polling"),
        (rsyslog().replace('persistStateInterval="1"', ""), Level.WARN, "persistStateInterval is 0"),
        (rsyslog(path=f"{ROOT}/snapshots/*/*/*"), Level.FAIL, "matches a snapshot"),
        (promtail(path=f"{ROOT}/streams/*/*.log*"), Level.WARN, "would send their lines again"),
        (promtail(path=f"{ROOT}/streams/**/*.log", exclude="x"), Level.FAIL, "that rebuild put aside"),
        (promtail().replace("/var/lib/promtail", "/var/tmp"), Level.WARN, "positions.filename"),  # noqa: S108
    ],
)
def test_each_mistake_is_told(text: str, level: Level, said: str, tmp_path: Path) -> None:
    found = look(tmp_path, text)

    assert any(finding.level is level and said in finding.what and finding.todo for finding in found), found


def test_parts_are_no_match_where_hidden_names_are_left_out_anyway(tmp_path: Path) -> None:
    """rsyslog and Fluent Bit match by glob(3)."""
    found = look(tmp_path, rsyslog(path=f"{ROOT}/s*/*/*"))

    assert not any("part" in finding.what for finding in found)


def test_toml_and_yaml_say_the_same_to_vector(tmp_path: Path) -> None:
    text = f"""
[sources.dds]
type = "file"
include = ["{ROOT}/streams/*/*.log*"]
exclude = ["{ROOT}/streams/*/.*"]
max_line_bytes = 1048576
ignore_older_secs = 60
[sources.dds.fingerprint]
strategy = "device_and_inode"
"""
    tomllib.loads(text)

    found = look(tmp_path, text, name="vector.toml")

    assert [finding.level for finding in found] == [Level.FAIL]


def test_fluent_bits_yaml_is_read_as_its_classic_form_is(tmp_path: Path) -> None:
    text = f"""
pipeline:
  inputs:
    - name: tail
      path: {ROOT}/streams/*/*.log
      db: /var/lib/f.db
      Read_From_Head: true
      skip_long_lines: on
"""
    assert levels(look(tmp_path, text)) == {Level.OK}


def test_inputs_of_other_files_are_no_concern(tmp_path: Path) -> None:
    text = filebeat() + "  - type: filestream\n    id: other\n    paths: [/var/log/syslog]\n    ignore_older: 1m\n"

    assert levels(look(tmp_path, text)) == {Level.OK}


def test_an_input_that_is_switched_off_reads_nothing(tmp_path: Path) -> None:
    assert "no path matches" in look(tmp_path, filebeat("    enabled: false"))[0].what


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (filebeat(), Shipper.FILEBEAT),
        (vector(), Shipper.VECTOR),
        ('[sources.a]\ntype = "file"', Shipper.VECTOR),
        (fluent_bit(), Shipper.FLUENT_BIT),
        ("pipeline:\n  inputs: []", Shipper.FLUENT_BIT),
        (promtail(), Shipper.PROMTAIL),
        (rsyslog(), Shipper.RSYSLOG),
        ("hello", None),
    ],
)
def test_whose_a_configuration_is_is_guessed(text: str, kind: Shipper | None) -> None:
    assert guessed(text) == kind


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"hello", b"filebeat:\n  password: [hunter2\n", b"[sources.a\nkey = 'hunter2"],
)
def test_what_cannot_be_read_is_said_without_a_word_of_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "shipper"
    path.write_bytes(content)

    with pytest.raises(Unreadable) as raised:
        read(path)

    assert (str(path) in str(raised.value), "hunter2" in str(raised.value)) == (True, False)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        read(tmp_path / "none", Shipper.VECTOR)


def test_what_is_commented_out_counts_for_nothing(tmp_path: Path) -> None:
    text = rsyslog() + '# input(type="imfile" file="/var/log/ddslogd/snapshots/*/*/*")\n/* input(type="imfile") */\n'

    assert levels(look(tmp_path, text)) == {Level.OK}


def test_what_filebeat_leaves_out_is_found_anywhere_in_a_path(tmp_path: Path) -> None:
    assert levels(look(tmp_path, filebeat(path=f"{ROOT}/streams/**"))) == {Level.OK}
