"""The commands as an operator types them: in a process of their own, against a sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from conftest import ANY_PORT
from ddslogd.sandbox import Sandbox, configuration, replica_set, single

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EXAMPLE = Path(__file__).parents[1] / "config" / "ddslogd.example.yaml"
LOG = b"".join(b"line %06d of the log\n" % number for number in range(4000))


@pytest.fixture
async def cloud() -> AsyncIterator[Sandbox]:
    """A cloud by the real clock, 300 times as fast, that writes nothing by itself."""
    fleet = (single("solo"), replica_set("trio"))
    async with Sandbox(fleet=fleet, speed=300, lines_per_second=0, backlog=timedelta(0)) as cloud:
        for instance in fleet:
            for node in instance.nodes:
                cloud.write(node.name, node.name.encode() + LOG)
        yield cloud


@pytest.fixture
def config(cloud: Sandbox, tmp_path: Path) -> Path:
    path = tmp_path / "ddslogd.yaml"
    path.write_text(configuration(cloud, directory=tmp_path / "logs", state=tmp_path / "state") + ANY_PORT)
    return path


class Ended:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


async def start(*arguments: str | Path, token: str = "") -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    environ = {**os.environ, "DDSLOGD_TOKEN": token}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ddslogd", *map(str, arguments), stdout=pipe, stderr=pipe, env=environ
    )


async def end(process: asyncio.subprocess.Process) -> Ended:
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return Ended(process.returncode or 0, out.decode(), err.decode())


async def ddslogd(*arguments: str | Path, token: str = "") -> Ended:
    return await end(await start(*arguments, token=token))


def stored(tmp_path: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (tmp_path / "logs" / "snapshots").rglob("*.log")}


async def test_once_stores_everything_and_exits_0(cloud: Sandbox, config: Path, tmp_path: Path) -> None:
    ended = await ddslogd("once", "-c", config, token=cloud.issue_token())

    expected = {node.name: cloud.log_of(node.name) for instance in cloud.fleet for node in instance.nodes}
    assert (ended.status, stored(tmp_path)) == (0, expected), ended.err


async def test_once_prints_a_line_for_each_file(cloud: Sandbox, config: Path) -> None:
    ended = await ddslogd("once", "-c", config, token=cloud.issue_token())

    kinds = sorted(line.split()[0] for line in ended.out.splitlines())
    assert kinds == ["cycle", "cycle", "stored", "stored", "stored", "stored"]


async def test_once_takes_only_the_instances_that_are_named(cloud: Sandbox, config: Path, tmp_path: Path) -> None:
    await ddslogd("once", "-c", config, "solo", token=cloud.issue_token())

    assert list(stored(tmp_path)) == ["solo_single_node_1"]


async def test_once_refuses_a_name_that_is_not_there(cloud: Sandbox, config: Path) -> None:
    ended = await ddslogd("once", "-c", config, "slo", token=cloud.issue_token())

    assert (ended.status, "not in the configuration: slo; it has solo, trio" in ended.err) == (2, True)


async def test_once_exits_1_where_something_failed_and_says_what(cloud: Sandbox, config: Path) -> None:
    cloud.faults.failed_rows.add("trio_replica_node_2")

    ended = await ddslogd("once", "-c", config, token=cloud.issue_token())

    failed = [line for line in ended.out.splitlines() if line.startswith("failed")]
    assert (
        ended.status,
        len(failed),
        "trio/trio_replica_node_2 (error log): the cloud could not prepare" in failed[0],
    ) == (
        1,
        1,
        True,
    )


@pytest.fixture
def discovering(config: Path) -> Path:
    text = config.read_text()
    config.write_text(text[: text.index("instances:\n")] + "instances:\n  - discover: {}\n")
    return config


@pytest.mark.parametrize("names", [[], ["solo"]])
async def test_once_exits_1_where_the_list_is_refused_and_says_why(discovering: Path, names: list[str]) -> None:
    ended = await ddslogd("once", "-c", discovering, *names, token="a-wrong-token")  # made up

    lines = ended.err.splitlines()
    said = lines[-1].startswith("ddslogd: the instances of sandbox could not be discovered: the cloud does not accept")
    assert (ended.status, said, "not in the configuration" in ended.err) == (1, True, False), ended.err


async def test_once_collects_from_the_clouds_that_answer_and_exits_1_for_the_rest(
    cloud: Sandbox, discovering: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = yaml.safe_load(discovering.read_text())
    ((name, section),) = tree["clouds"].items()
    other = {**section, "auth": {"method": "token", "token": {"env": "DDSLOGD_OTHER"}}}
    tree["clouds"] = {name: section, "other": other}
    tree["instances"] = [{"discover": {}, "cloud": name}, {"discover": {}, "cloud": "other"}]
    discovering.write_text(yaml.safe_dump(tree))
    monkeypatch.setenv("DDSLOGD_OTHER", "a-wrong-token")

    ended = await ddslogd("once", "-c", discovering, token=cloud.issue_token())

    assert (ended.status, len(stored(tmp_path))) == (1, 4), ended.err
    assert "the instances of other could not be discovered" in ended.err


async def test_run_collects_until_sigterm_and_exits_0(cloud: Sandbox, config: Path, tmp_path: Path) -> None:
    process = await start("run", "-c", config, token=cloud.issue_token())
    async with asyncio.timeout(30):
        while len(stored(tmp_path)) < 4:
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGTERM)

    ended = await end(process)

    events = [json.loads(line)["event"] for line in ended.err.splitlines()]
    started, stopped = ["web.listening", "service.started"], ["service.stopped"]
    assert (ended.status, events[:2], events[-1:]) == (0, started, stopped)


async def test_run_stops_at_once_in_the_middle_of_a_transfer(cloud: Sandbox, config: Path, tmp_path: Path) -> None:
    """What had come stays as a hidden part, which can be gone on with; nothing visible is cut."""
    cloud.faults.stall_after = [50_000] * 4
    process = await start("run", "-c", config, token=cloud.issue_token())
    async with asyncio.timeout(30):
        while cloud.bytes_sent < 200_000:
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGTERM)

    ended = await end(process)

    hidden = [path.name for path in (tmp_path / "logs").rglob("*.part")]
    assert (ended.status, stored(tmp_path), all(name.startswith(".") for name in hidden)) == (0, {}, True)


async def test_a_second_daemon_on_the_same_directory_exits_75_and_names_the_first(
    cloud: Sandbox, config: Path, tmp_path: Path
) -> None:
    first = await start("run", "-c", config, token=cloud.issue_token())
    async with asyncio.timeout(30):
        while not stored(tmp_path):
            await asyncio.sleep(0.02)

    second = await ddslogd("run", "-c", config, token=cloud.issue_token())

    first.send_signal(signal.SIGINT)
    assert (await end(first)).status == 0
    assert (second.status, f"(process {first.pid})" in second.err) == (75, True)


async def test_a_disk_that_refuses_exits_74_and_names_the_path(cloud: Sandbox, config: Path) -> None:
    config.write_text(re.sub(r'directory: ".*"', 'directory: "/proc/ddslogd"', config.read_text()))

    ended = await ddslogd("run", "-c", config, token=cloud.issue_token())

    assert (ended.status, "/proc/ddslogd" in ended.err) == (74, True)


async def test_check_accepts_the_example() -> None:
    ended = await ddslogd("check", "-c", EXAMPLE)

    assert (ended.status, ended.err) == (0, "")


async def test_check_says_every_complaint_with_its_place_and_exits_78(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("clouds: {}\ninstancs: []\n")

    ended = await ddslogd("check", "-c", path)

    places = [line.split(": ")[0] for line in ended.err.splitlines()]
    assert (ended.status, places) == (78, [f"{path}:1:1", f"{path}:1:9", f"{path}:2:1"])


@pytest.mark.parametrize("command", ["run", "once", "check"])
async def test_a_missing_configuration_exits_78_and_names_the_file(command: str) -> None:
    ended = await ddslogd(command, "-c", "/nonexistent/ddslogd.yaml")

    assert (ended.status, "/nonexistent/ddslogd.yaml" in ended.err) == (78, True)


async def test_schema_prints_what_stands_in_the_repository() -> None:
    ended = await ddslogd("schema")

    assert json.loads(ended.out) == json.loads((EXAMPLE.parent / "ddslogd.schema.json").read_text())


async def test_sandbox_prints_a_configuration_that_once_works_with(tmp_path: Path) -> None:
    sandbox = await start("sandbox", "--speed", "300", "--directory", tmp_path)
    assert sandbox.stdout is not None
    text = ""
    async with asyncio.timeout(30):
        while 'name: "audit"' not in text:
            text += (await sandbox.stdout.readline()).decode()
    token = re.search(r"export DDSLOGD_TOKEN=(\S+)", text)
    path = tmp_path / "sandbox.yaml"
    path.write_text(text)

    ended = await ddslogd("once", "-c", path, "audit", token=token[1] if token else "")

    sandbox.send_signal(signal.SIGINT)
    assert (ended.status, (await end(sandbox)).status, list(stored(tmp_path))) == (0, 0, ["audit_single_node_1"])
    assert yaml.safe_load(text)["instances"][0]["name"] == "orders"


async def test_demo_stores_what_the_cloud_exported_and_exits_0(tmp_path: Path) -> None:
    ended = await ddslogd("demo", "--directory", tmp_path)

    assert (ended.status, "each byte for byte what the cloud exported" in ended.out) == (0, True), ended.out + ended.err


async def test_an_error_that_nobody_foresaw_is_told_without_its_secrets() -> None:
    code = (
        "from ddslogd import cli\n"
        "cli._events('error', 'json').add('s3cret-token')\n"
        "raise RuntimeError('https://x.example/y?Signature=abcdef and s3cret-token')"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)

    _, err = await process.communicate()

    told = err.decode().splitlines()[-1]
    assert (process.returncode, told) == (1, "RuntimeError: https://x.example/y?[redacted] and [redacted]")


async def test_help_does_not_wait_for_the_heavy_libraries() -> None:
    code = (
        "import sys; from ddslogd import cli\n"
        "print(sorted({'aiohttp', 'pydantic', 'rich', 'structlog'} & set(sys.modules)))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)

    out, _ = await process.communicate()

    assert out.decode().strip() == "[]"


async def test_check_says_how_many_calls_the_schedules_need(tmp_path: Path) -> None:
    """Twelve exports every 20 minutes; of instances that are discovered it knows nothing."""
    path = tmp_path / "f.yaml"
    entries = "".join(f"  - {{id: {number:032x}in02, cloud: eu}}\n" for number in range(10))
    path.write_text(
        f"""\
clouds:
  eu: &account
    endpoint: https://dds.x.eu
    project_id: p
    auth: {{method: token, token: {{env: DDSLOGD_TOKEN}}}}
  us: *account
instances:
{entries}  - {{id: {"a" * 32}in02, cloud: eu, logs: [error, slow]}}
  - {{discover: {{}}, cloud: us}}
"""
    )

    ended = await ddslogd("check", "-c", path)

    assert ended.out.splitlines()[1:] == [
        "eu: 11 instances need 1.4 calls a minute of 60 (54 in the long run), at 2.2 calls for each export",
        (
            "us: 0 instances need 0.0 calls a minute of 60 (54 in the long run), at 2.2 calls for each export"
            "; what 1 entry discovers comes on top"
        ),
    ]
