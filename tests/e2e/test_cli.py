"""The commands as an operator types them: in a process of their own, against a sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml

from ddslogd.cli import main
from ddslogd.sandbox import Sandbox, configuration, replica_set, single
from support.commands import ddslogd, end, start
from support.places import ROOT
from support.testbed import ANY_PORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

EXAMPLE = ROOT / "config" / "ddslogd.example.yaml"
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


def stored(tmp_path: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (tmp_path / "logs" / "snapshots").rglob("*.log")}


@pytest.mark.daemon
@pytest.mark.parametrize("command", main.commands.list_commands(click.Context(main.commands)))
async def test_each_command_starts_in_a_python_of_its_own(command: str) -> None:
    """The other tests here fork one that has all modules imported."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ddslogd", command, "--help"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()

    assert (process.returncode, out.decode().splitlines()[0][:6]) == (0, "Usage:")


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


async def listed_files(config: Path, token: str, *names: str) -> list[dict[str, Any]]:
    ended = await ddslogd("instances", "--files", "--json", "-c", config, *names, token=token)
    assert ended.status == 0, ended.err
    found: list[dict[str, Any]] = json.loads(ended.out)
    return found


@pytest.fixture
async def steady(cloud: Sandbox, config: Path) -> AsyncIterator[Sandbox]:
    """A cloud at the real pace in the place of the quick one: its exports last longer than the commands."""
    async with Sandbox(fleet=cloud.fleet, lines_per_second=0, backlog=timedelta(0)) as steady:
        config.write_text(config.read_text().replace(cloud.endpoint, steady.endpoint))
        yield steady


async def test_files_are_listed_with_size_and_time_and_can_be_asked_for(
    steady: Sandbox, config: Path, tmp_path: Path
) -> None:
    """The first question begins the export, and the next one has what it offers; of that one file is fetched."""
    token, node = steady.issue_token(), steady.fleet[1].nodes[1]
    steady.write(node.name, LOG)
    begun = await listed_files(config, token, "trio")
    steady.finish_exports()
    table = await ddslogd("instances", "--files", "-c", config, "trio", token=token)
    found = await listed_files(config, token, "trio")

    ended = await ddslogd("once", "-c", config, "trio", "--file", found[1]["file"], token=token)

    size = f"{len(LOG) / 1024:.2f}"
    assert [one["state"] for one in begun] == ["pending"] * 3
    assert (found[1]["node"], found[1]["size_kb"]) == (node.name, size)
    assert all(part in table.out for part in (found[1]["file"], f"{size} KB", found[1]["updated"], "ready"))
    assert (ended.status, stored(tmp_path)) == (0, {node.name: LOG}), ended.err
    assert "cycle      trio (what was selected of it): ok, 1 stored" in ended.out


async def test_files_of_an_instance_that_is_refused_are_told_and_exit_1(cloud: Sandbox, config: Path) -> None:
    cloud.faults.missing_rights = {"errorlog-download"}

    ended = await ddslogd("instances", "--files", "-c", config, "solo", token=cloud.issue_token())

    assert (ended.status, ended.err.startswith("ddslogd: solo (error log): the credentials lack a right")) == (1, True)


async def test_once_says_which_files_the_cloud_does_not_know_and_exits_1(cloud: Sandbox, config: Path) -> None:
    ended = await ddslogd("once", "-c", config, "trio", "--file", "p_errorlog_1", token=cloud.issue_token())

    said = "failed     trio/ (error log): the cloud knows no file 'p_errorlog_1' (DBS.280361)"
    assert (ended.status, said in ended.out) == (1, True), ended.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--node", "a" * 32 + "no02"], "are of one INSTANCE: name it"),
        (["solo", "trio", "--file", "x"], "are of one INSTANCE: name it"),
        (["solo", "--node", "typo"], "'typo' is no node of solo"),
        (["solo", *["--file", "x"] * 51], "50 files at the most"),
    ],
    ids=["no instance", "two instances", "no node", "too many files"],
)
async def test_a_selection_that_cannot_be_exits_2_and_asks_nobody(
    cloud: Sandbox, config: Path, arguments: list[str], said: str
) -> None:
    ended = await ddslogd("once", "-c", config, *arguments, token=cloud.issue_token())

    assert (ended.status, said in ended.err, cloud.calls["errorlog-download"]) == (2, True, 0), ended.err


async def test_once_exits_1_where_a_source_stands_still_and_says_which(cloud: Sandbox, config: Path) -> None:
    def old(reply: dict[str, Any]) -> dict[str, Any]:
        for row in reply["list"]:
            row["updated_at"] -= 4 * 3_600_000
        return reply

    cloud.faults.mangle = old

    ended = await ddslogd("once", "-c", config, "solo", token=cloud.issue_token())

    stalled = [line for line in ended.out.splitlines() if line.startswith("stalled    solo/solo_single_node_1")]
    assert (ended.status, len(stalled), "makes no new export" in stalled[0]) == (1, 1, True)


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


async def test_ctrl_c_before_the_loop_s_first_step_leaves_no_coroutine() -> None:
    """A loop that gets the signal where it is about to run its first task."""
    program = """if True:
        import asyncio, signal
        from ddslogd.cli.stop_signals import until_signal

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

        class Loop(asyncio.SelectorEventLoop):
            def run_until_complete(self, future):
                if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                    signal.raise_signal(signal.SIGINT)
                return super().run_until_complete(future)

        async def work():
            print("began")

        asyncio.events.new_event_loop = Loop
        try:
            until_signal(work)
        except KeyboardInterrupt:
            print("interrupted")
        """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=pipe, stderr=pipe)

    out, err = await process.communicate()

    assert (out, err) == (b"interrupted\n", b"")


async def test_a_second_daemon_on_the_same_directory_exits_75_and_names_the_first(
    cloud: Sandbox, config: Path, tmp_path: Path
) -> None:
    first = await start("run", "-c", config, token=cloud.issue_token())
    async with asyncio.timeout(30):
        while not stored(tmp_path):
            await asyncio.sleep(0.02)

    second = await ddslogd("run", "-c", config, token=cloud.issue_token())
    selecting = await ddslogd("once", "-c", config, "solo", "--file", "x", token=cloud.issue_token())

    first.send_signal(signal.SIGINT)
    assert (await end(first)).status == 0
    assert (second.status, f"(process {first.pid})" in second.err, selecting.status) == (75, True, 75)


async def test_a_disk_that_refuses_exits_74_and_names_the_path(cloud: Sandbox, config: Path) -> None:
    config.write_text(re.sub(r'directory: ".*"', 'directory: "/proc/ddslogd"', config.read_text()))

    ended = await ddslogd("run", "-c", config, token=cloud.issue_token())

    assert (ended.status, "/proc/ddslogd" in ended.err) == (74, True)


async def test_check_accepts_the_example() -> None:
    """What it warns of is what this host lacks."""
    ended = await ddslogd("check", "-c", EXAMPLE)

    kinds = {line.split(": ")[1] for line in ended.err.splitlines()}
    assert (ended.status, kinds <= {"warning", "not checked"}) == (0, True), ended.err


async def test_check_warns_of_secrets_and_directories_that_are_not_there(config: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("\n")
    secret.chmod(0o600)
    (tmp_path / "state").write_text("no directory")
    config.write_text(config.read_text().replace("env: DDSLOGD_TOKEN", f"file: {secret}"))

    ended = await ddslogd("check", "-c", config)

    empty = f"warning: clouds.sandbox.auth.token: a secret is missing: the file {secret} is empty"
    no_place = f"warning: storage.state: {tmp_path / 'state'} is no directory"
    assert (ended.status, empty in ended.err, no_place in ended.err) == (0, True, True), ended.err


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


@pytest.mark.daemon
async def test_demo_stores_what_the_cloud_exported_and_exits_0(tmp_path: Path) -> None:
    ended = await ddslogd("demo", "--directory", tmp_path)

    assert (ended.status, "each byte for byte what the cloud exported" in ended.out) == (0, True), ended.out + ended.err


async def test_an_error_that_nobody_foresaw_is_told_without_its_secrets() -> None:
    code = (
        "from ddslogd.cli.log_setup import set_up_log\n"
        "set_up_log('error', 'json').add('s3cret-token')\n"
        "raise RuntimeError('https://x.example/y?Signature=abcdef and s3cret-token')"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)

    _, err = await process.communicate()

    told = err.decode().splitlines()[-1]
    assert (process.returncode, told) == (1, "RuntimeError: https://x.example/y?[redacted] and [redacted]")


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["--help"], {}),
        (["--version"], {}),
        (["statsu"], {}),
        ([], {"_DDSLOGD_COMPLETE": "zsh_complete", "COMP_WORDS": "ddslogd ", "COMP_CWORD": "1"}),
    ],
    ids=["help", "version", "misspelt", "completed"],
)
async def test_help_does_not_wait_for_the_heavy_libraries(arguments: list[str], environ: dict[str, str]) -> None:
    """Nor does what else is known without a command."""
    code = """if True:
        import sys
        from ddslogd.cli import main as cli

        sys.argv[0] = "ddslogd"
        try:
            cli.main()
        except SystemExit:
            print(sorted({"aiohttp", "asyncio", "pydantic", "rich", "structlog"} & set(sys.modules)))
        """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *arguments), env={**os.environ, **environ}, stdout=pipe, stderr=pipe
    )

    out, err = await process.communicate()

    *shown, loaded = (err + out).decode().splitlines()
    assert (loaded, any("status" in line or "version" in line for line in shown)) == ("[]", True)


@pytest.mark.parametrize(
    ("sent", "status", "reported"),
    [
        (signal.SIGHUP, 78, "c.yaml: cannot be read: No such file or directory\n"),
        (signal.SIGINT, 130, "\nddslogd: stopped before the end\n"),
    ],
)
async def test_a_signal_while_run_is_loaded_means_what_it_means_later(
    tmp_path: Path, sent: signal.Signals, status: int, reported: str
) -> None:
    """To load takes up to a second: by then it may have been asked for a reload."""
    code = """if True:
        import signal, sys
        from ddslogd.cli import main as cli

        class Finder:
            def find_spec(self, name, path, target=None):
                if name == "ddslogd.service.factory":
                    signal.raise_signal(sent)

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        sent = int(sys.argv.pop())
        sys.meta_path.insert(0, Finder())
        cli.main()
        """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "run", "-c", "c.yaml", str(int(sent))),
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()

    assert (process.returncode, err.decode()) == (status, reported)


async def test_check_says_how_many_calls_the_schedules_need(tmp_path: Path) -> None:
    """Twelve exports every 20 minutes; of instances that are discovered it knows nothing."""
    path = tmp_path / "f.yaml"
    entries = "".join(f"  - {{id: {number:032x}in02, cloud: eu}}\n" for number in range(1, 11))
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


async def test_once_says_what_it_waits_for(tmp_path: Path) -> None:
    """A call is tried for most of a minute; until then nothing was printed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        path = tmp_path / "c.yaml"
        path.write_text(
            f"clouds: {{eu: {{endpoint: '{endpoint}', iam_endpoint: '{endpoint}', project_id: p,"
            " auth: {method: token, token: {env: DDSLOGD_TOKEN}}}}\n"
            f"instances: [{{id: {'1' * 32}in02}}]\nstorage: {{directory: {tmp_path}/logs, state: {tmp_path}/state}}\n"
        )
        process = await start("once", "-c", path, token="a-token-of-some-length")
        assert process.stdout is not None
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        await end(process)

    assert line.decode() == "waiting    eu: 127.0.0.1 gave no reply: Connection refused; it is tried again\n"
