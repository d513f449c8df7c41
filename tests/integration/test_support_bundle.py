"""What somebody who helps gets to see: all that matters, no secret from wherever, and names only if asked for."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import sqlite3
import stat
import sys
import tarfile
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from ddslogd.doctor.pseudonyms import Pseudonyms
from ddslogd.doctor.support_bundle import gathered, packed
from ddslogd.model.errors import StorageError
from ddslogd.model.redactor import Redactor
from ddslogd.monitoring import control_socket
from ddslogd.web.server import listening
from support.testbed import ANY_PORT, config_of

if TYPE_CHECKING:
    from pathlib import Path

    from support.testbed import Bed

PASSWORD = "Hunter2-of-the-user"
OLD_TOKEN = "MIIFabc" + "Zx9_-" * 40
OTHER_KEY = "AbCd1234" * 5
LINK = "https://obs.example.com/bucket/key?AWSAccessKeyId=AKIDEXAMPLE&Expires=1&Signature=s1gnature%3D"


async def members(bed: Bed, *, with_names: bool = False) -> dict[str, bytes]:
    return await gathered(config_of(bed), clock=bed.clock, redactor=Redactor(), with_names=with_names)


def told(found: dict[str, bytes], name: str) -> Any:
    return json.loads(found[name])


def everything(found: dict[str, bytes]) -> str:
    return b"\n".join(found.values()).decode()


def fail_with(bed: Bed, text: str) -> None:
    with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db, db:
        db.execute(
            "INSERT INTO failures VALUES ('solo', 'solo_single_node_1', 'error', 'unavailable', 1, 2, 3, ?)", (text,)
        )
        db.execute("UPDATE cycles SET outcome = 'failed', error = ?", (text,))


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program in journalctl's place, which prints a file."""
    printed = tmp_path / "journal"
    printed.write_text("")
    program = tmp_path / "bin" / "journalctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncat {printed}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return printed


async def test_it_holds_all_that_matters(bed: Bed, journal: Path) -> None:
    journal.write_text("a line of the journal\n")
    bed.sandbox.write("solo_single_node_1", b"a line\n")
    await bed.collect()

    found = await members(bed)

    assert set(found) == {
        *("README.txt", "configuration.json", "status.json", "failures.json", "ledger.json", "doctor.json"),
        *("versions.json", "journal.txt"),
    }
    assert told(found, "ledger.json")["rows"]["snapshots"] == 1
    assert told(found, "status.json")["instances"][0]["last_cycle"]["outcome"] == "ok"
    assert {"ddslogd", "python", "kernel", "libraries"} <= told(found, "versions.json").keys()
    assert told(found, "doctor.json")["fail"] == 0
    assert found["journal.txt"] == b"a line of the journal\n"
    assert (journal.parent / "asked").read_text().startswith("-u ddslogd -n 2000")


async def test_no_secret_is_in_any_member_wherever_it_comes_from(
    bed: Bed, journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the environment, a file, comments, error texts with links, tokens in the ledger and in the journal."""
    token = bed.sandbox.issue_token()
    monkeypatch.setenv("DDSLOGD_TOKEN", token)
    monkeypatch.setenv("SOME_PASSWORD", PASSWORD)
    (tmp_path / "key").write_text("a-secret-in-a-file\n")
    bed.set(
        "clouds:\n",
        f"# the password is {PASSWORD}, the token {OLD_TOKEN}\nclouds:\n  other:\n    region: eu-de\n"
        "    project_id: p\n"
        f"    auth: {{method: access_key, access_key: AKIDACCESS01, secret_key: {{file: {tmp_path}/key}}}}\n",
    )
    bed.set('name: "solo"', 'name: "solo"\n    cloud: sandbox')
    await bed.collect()
    said = (
        f"refused: {token} {PASSWORD} a-secret-in-a-file {OLD_TOKEN} {OTHER_KEY} {LINK}\n"
        f"X-Auth-Token: shorttoken1 {json.dumps({'Authorization': 'SDK-HMAC-SHA256 Signature=abcdef0123'})}"
    )
    fail_with(bed, said)
    journal.write_text(said)
    secrets = [
        *(token, PASSWORD, "a-secret-in-a-file", OLD_TOKEN, OTHER_KEY, "s1gnature", "AKIDEXAMPLE", "shorttoken1"),
        "abcdef0123",
    ]

    plain, named = await members(bed), await members(bed, with_names=True)

    assert "refused" in plain["failures.json"].decode()
    assert "refused" in named["journal.txt"].decode()
    for found in (plain, named):
        for name, content in found.items():
            assert [secret for secret in secrets if secret in content.decode()] == [], name


async def test_names_are_replaced_the_same_everywhere(bed: Bed, journal: Path) -> None:
    """Of users, accounts, projects, instances, nodes and hosts, and what is in paths and messages of them."""
    bed.sandbox.write("solo_single_node_1", b"a line\n")
    bed.set(
        "clouds:\n",
        "clouds:\n  bigbank:\n    endpoint: https://dds.secret-region.example.com\n"
        "    iam_endpoint: https://iam.secret-region.example.com\n    project_name: treasury\n"
        "    auth: {method: password, username: alice, password: {env: NO}, domain_name: Big Bank AG,\n"
        "      assume_role: {agency_name: lender, domain_name: OtherBank}}\n",
    )
    bed.set('name: "solo"', 'name: "solo"\n    cloud: sandbox')
    bed.set("instances:\n", "instances:\n  - {discover: {include: [acme-*], tags: {team: gold}}, cloud: bigbank}\n")
    await bed.collect()
    fail_with(bed, f"solo: node solo_single_node_1 of {bed.sandbox.project_id}, 10.1.2.3, request id {'ab' * 16}")
    journal.write_text(
        "login of alice (Big Bank AG) at dds.secret-region.example.com; streams/solo/solo_single_node_1.log\n"
    )
    names = [
        *("bigbank", "secret-region", "treasury", "alice", "Big Bank", "lender", "OtherBank", "acme", "gold", "solo"),
        *(bed.sandbox.project_id, bed.instance().id, "10.1.2.3"),
    ]

    plain, named = await members(bed), await members(bed, with_names=True)

    assert [name for name in names if name in everything(plain).replace("ddslogd", "")] == []
    assert [name for name in names if name not in everything(named)] == []
    failure = told(plain, "failures.json")["failures"][0]
    assert failure["last_error"].startswith(f"{failure['instance']}: node {failure['node']} of name-")
    assert f"streams/{failure['instance']}/{failure['node']}.log" in plain["journal.txt"].decode()
    assert "ab" * 16 in failure["last_error"]


def test_another_bundle_has_other_names() -> None:
    """So that nobody finds a name by trying, or follows it from one bundle to the next."""
    first, second = Pseudonyms(["orders"]), Pseudonyms(["orders"])

    assert (first.text("orders") == first.text("orders"), first.text("orders") != second.text("orders")) == (True, True)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("orders", ""),
        ("the orders_node_1.log", "the _node_1.log"),
        ("orders2", "orders2"),
        ("reorders", "reorders"),
        ("orders-db", ""),
        ("ddslogd", "ddslogd"),
        ("a", "a"),
        ("127.0.0.1", "127.0.0.1"),
        ("version 1.2.3", "version 1.2.3"),
        ("", ""),
    ],
)
def test_a_name_is_found_whole_and_the_longest_first(text: str, kept: str) -> None:
    other = Pseudonyms(["orders", "orders-db", "ddslogd", "a", "127.0.0.1", "", "--"])

    told_ = other.text(text).replace(other.of("orders-db"), "").replace(other.of("orders"), "")

    assert told_ == kept


def test_a_hundred_thousand_names_and_a_journal_are_done_in_a_blink() -> None:
    """One look a word, however many names there are."""
    other = Pseudonyms(f"instance-{number}_node_1" for number in range(100_000))

    told_ = other.text("cycle.done instance-99999_node_1 ok\n" * 2_000)

    assert told_ == f"cycle.done {other.of('instance-99999_node_1')} ok\n" * 2_000


async def test_of_a_configuration_that_is_wrong_only_the_complaints_are_told(bed: Bed, journal: Path) -> None:
    """It may hold a secret, which is one of the complaints; and nobody knows which names the journal has."""
    journal.write_text("instance solo\n")
    bed.set("{env: DDSLOGD_TOKEN}", PASSWORD)

    found = await members(bed)

    assert ("a secret must not stand" in everything(found), PASSWORD in everything(found)) == (True, False)
    assert "journal.txt" not in found


async def test_without_a_ledger_it_says_so(bed: Bed) -> None:
    found = await members(bed)

    assert "the ledger cannot be read" in told(found, "ledger.json")["not_read"]


async def test_the_name_of_the_host_is_a_name_that_is_left_out(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "collector-7.corp.example")
    await bed.collect()

    plain, named = await members(bed), await members(bed, with_names=True)

    assert told(named, "status.json")["host"] == "collector-7.corp.example"
    assert ("collector-7" in plain["status.json"].decode(), "host" in told(plain, "status.json")) == (False, True)


async def test_the_status_is_the_running_daemons_where_it_answers(bed: Bed) -> None:
    """What only it knows is there: since when it runs. Of the ledger, that is null."""
    bed.changes.append(("instances:", f"{ANY_PORT}instances:"))
    settings = bed.settings
    async with bed.open() as service:
        first = told(await members(bed), "status.json")
        async with listening(
            settings.web, service.observer, clean=Redactor().clean, socket_at=control_socket.offered_at(settings, {})
        ):
            second = told(await members(bed), "status.json")

    assert (first["started_at"], bool(second["started_at"])) == (None, True)


def test_the_file_is_its_owners_alone_and_never_written_over(bed: Bed, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"

    packed({"a.txt": b"one"}, target, name="ddslogd-support", clock=bed.clock)

    with pytest.raises(StorageError, match="EEXIST"):
        packed({"a.txt": b"two"}, target, name="ddslogd-support", clock=bed.clock)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(target.read_bytes()))) as archive:
        (entry,) = archive.getmembers()
        content = archive.extractfile(entry)
        assert (entry.name, entry.mode, content and content.read()) == ("ddslogd-support/a.txt", 0o600, b"one")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.daemon
async def test_the_command_says_where_it_is_and_what_to_look_at(bed: Bed, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"
    arguments = ["support-bundle", "-c", str(config_of(bed)), "-o", str(target)]

    ended = []
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        ended.append((process.returncode, out.decode(), err.decode()))

    assert (ended[0][0], f"{target}: 8 files" in ended[0][1], "before you send it" in ended[0][1]) == (0, True, True)
    assert (ended[1][0], "EEXIST" in ended[1][2]) == (74, True)


@pytest.mark.parametrize("token", ["MIIFab/cd+ef/" * 3, OLD_TOKEN, OTHER_KEY])
def test_what_looks_like_a_token_is_none_of_anybodys(token: str) -> None:
    assert Pseudonyms.without_tokens(f"token {token}, refused") == "token [redacted], refused"


@pytest.mark.parametrize(
    "text",
    [
        "20260102T030405.000Z",
        "/var/log/ddslogd/streams/Orders/Orders_replica_node_1.log.20260102T030405.000Z",
        f"{'0f' * 16}_{'ab' * 16}no02_errorlog_20260102030405000",
    ],
)
def test_what_is_long_and_no_token_stays(text: str) -> None:
    assert Pseudonyms.without_tokens(text) == text


async def test_nodes_that_the_ledger_alone_knows_are_replaced_and_defaults_left_out(bed: Bed) -> None:
    await bed.collect()
    with closing(sqlite3.connect(bed.state / "ledger.sqlite3")) as db, db:
        db.execute("INSERT INTO failures VALUES ('solo', 'vaultdb', 'error', 'gone', 1, 2, 3, 'vaultdb is gone')")

    found = await members(bed)

    assert ("vaultdb" in everything(found), "is gone" in everything(found)) == (False, True)
    assert "stream" not in told(found, "configuration.json")


async def test_durations_are_spelled_as_in_the_configuration(bed: Bed) -> None:
    bed.set("every: 20m", "every: 1h30m")

    found = told(await members(bed), "configuration.json")

    assert ('"every": "1h30m"' in json.dumps(found), "PT" in json.dumps(found["schedule"])) == (True, False)
