"""Where the daemon listens: a port that another took, sockets of the service manager, and the commands' socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING

import aiohttp
import pytest
from structlog.testing import capture_logs

from ddslogd.config.settings import Web
from ddslogd.monitoring import control_socket, status_client
from ddslogd.sandbox import Sandbox, configuration, single
from ddslogd.sandbox.faults import ApiError
from ddslogd.web.server import listening
from support.clocks import START
from support.commands import ddslogd
from support.testbed import config_of, known_gaps
from support.users import NOBODY, being

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from ddslogd.config.settings import Settings
    from ddslogd.web.server import Listener
    from support.testbed import Bed

NODE = "solo_single_node_1"
SOON_S = 0.01


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A port that somebody else took first."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
async def quick() -> AsyncIterator[Sandbox]:
    """A cloud by the real clock, 300 times as fast, with a log of a hundred lines."""
    async with Sandbox(fleet=(single("solo"),), speed=300, lines_per_second=0, backlog=timedelta(0)) as cloud:
        cloud.write(NODE, b"a line\n" * 100)
        yield cloud


@asynccontextmanager
async def served(bed: Bed, *, port: int | None = None) -> AsyncIterator[Listener]:
    """Serve commands, and the page at a port where one is given."""
    web = Web(enabled=False) if port is None else Web(listen=f"127.0.0.1:{port}")
    settings = bed.settings
    async with (
        bed.open() as service,
        listening(
            web,
            service.observer,
            clean=str,
            socket_at=control_socket.offered_at(settings, {}),
            listings=service.listings,
            again_s=SOON_S,
        ) as listener,
    ):
        yield listener


async def healthy(port: int) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/healthz") as reply:
        return await reply.text()


async def status(settings: Settings) -> object:
    """Return since when the daemon runs that was asked; None where the ledger was read."""
    return (await asyncio.to_thread(status_client.status, settings, now=START))["started_at"]


# --- the page's port --------------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_had_once_it_is_free(bed: Bed, taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    with capture_logs() as events:
        async with served(bed, port=port) as listener, asyncio.timeout(30):
            before = listener.address, listener.trouble
            taken.close()
            while listener.address is None:
                await asyncio.sleep(SOON_S)
            after = listener.address, listener.trouble, await healthy(port)

    told = [(event["event"], event["log_level"]) for event in events if event["event"].startswith("web.")]
    assert before == (None, f"web.listen 127.0.0.1:{port} cannot be had (Address already in use)")
    assert after == (("127.0.0.1", port), "", "ok: the loop turns\n")
    assert [one for one in told if one[1] != "debug"] == [("web.not_listening", "warning"), ("web.listening", "info")]


@contextmanager
def told_by_systemd(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(0)
        yield listener


def write_configuration(cloud: Sandbox, tmp_path: Path, listen: str) -> Path:
    path = tmp_path / "ddslogd.yaml"
    text = configuration(cloud, directory=tmp_path / "logs", state=tmp_path / "state")
    path.write_text(f"{text}web: {{listen: '{listen}'}}\n")
    return path


@pytest.mark.daemon
async def test_whoever_takes_the_port_first_stops_no_collection(
    quick: Sandbox, tmp_path: Path, taken: socket.socket
) -> None:
    """The journal has a warning, and the status line says it."""
    config = write_configuration(quick, tmp_path, f"127.0.0.1:{taken.getsockname()[1]}")
    with told_by_systemd(tmp_path / "notify") as systemd:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", "run", "-c", config),
            env={**os.environ, "DDSLOGD_TOKEN": quick.issue_token(), "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=asyncio.subprocess.PIPE,
        )
        said = ""
        async with asyncio.timeout(30):
            while not list((tmp_path / "logs" / "snapshots").rglob("*.log")):
                await asyncio.sleep(SOON_S)
            while not said.startswith("STATUS="):
                said = (await asyncio.get_running_loop().sock_recv(systemd, 4096)).decode()
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()

    levels = {event["event"]: event["level"] for event in map(json.loads, err.decode().splitlines())}
    assert (process.returncode, levels["web.not_listening"], levels["service.started"]) == (0, "warning", "info")
    assert said.startswith(f"STATUS=web.listen 127.0.0.1:{taken.getsockname()[1]} cannot be had (Address already in")


# --- what the service manager opened ----------------------------------------------------------------------------------


async def activated(
    sandbox: Sandbox, config: Path, listener: socket.socket, *, pid: str, names: str
) -> asyncio.subprocess.Process:
    """Start the daemon as systemd does with ddslogd.socket: the descriptor is number 3."""
    script = f'LISTEN_PID={pid} exec "$0" -m ddslogd run -c "$1" 3<&{listener.fileno()}'
    return await asyncio.create_subprocess_exec(
        *("bash", "-c", script, sys.executable, config),
        env={
            **os.environ,
            "DDSLOGD_TOKEN": sandbox.issue_token(),
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": names,
        },
        stderr=asyncio.subprocess.PIPE,
        pass_fds=[listener.fileno()],
    )


async def first_event(process: asyncio.subprocess.Process, *names: str) -> dict[str, object]:
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while True:
            event: dict[str, object] = json.loads(await process.stderr.readline())
            if event["event"] in names:
                return event


@pytest.mark.daemon
async def test_the_page_is_served_by_the_socket_that_systemd_opened(
    sandbox: Sandbox, tmp_path: Path, taken: socket.socket
) -> None:
    """Whatever web.listen says: here an address that nobody has."""
    config, port = write_configuration(sandbox, tmp_path, "192.0.2.1:9464"), taken.getsockname()[1]
    process = await activated(sandbox, config, taken, pid="$$", names="web")
    event = await first_event(process, "web.listening", "web.not_listening")
    answer = await healthy(port)
    process.send_signal(signal.SIGTERM)
    await process.communicate()

    assert (event["event"], event["port"], answer) == ("web.listening", port, "ok: the loop turns\n")


@pytest.mark.daemon
@pytest.mark.parametrize(("pid", "names"), [("1", "web"), ("$$", "metrics-of-another")])
async def test_sockets_of_others_are_left_alone(
    sandbox: Sandbox, tmp_path: Path, taken: socket.socket, pid: str, names: str
) -> None:
    """Such as those that were meant for a parent, or have another name."""
    process = await activated(
        sandbox, write_configuration(sandbox, tmp_path, "127.0.0.1:0"), taken, pid=pid, names=names
    )
    event = await first_event(process, "web.listening")
    process.send_signal(signal.SIGTERM)
    await process.communicate()

    assert event["port"] not in {0, taken.getsockname()[1]}


# --- the socket of commands -------------------------------------------------------------------------------------------


async def test_the_socket_is_for_owner_and_group_and_goes_with_the_daemon(bed: Bed) -> None:
    path = bed.state / "ddslogd.sock"
    await bed.collect()
    async with served(bed):
        mode = stat.S_IMODE(path.stat().st_mode)
        answered = await status(bed.settings)

    assert (oct(mode), answered is None, path.exists()) == ("0o660", False, False)


async def test_a_socket_that_a_dead_daemon_left_is_replaced(bed: Bed) -> None:
    await bed.collect()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(bed.state / "ddslogd.sock"))
        dead.listen()
    async with served(bed) as listener:
        answered = await status(bed.settings)

    assert (listener.trouble, answered is None) == ("", False)


async def test_a_socket_at_which_somebody_lives_is_not_taken(bed: Bed) -> None:
    await bed.collect()
    path = bed.state / "ddslogd.sock"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        number = path.stat().st_ino
        async with served(bed) as listener:
            trouble = listener.trouble

        assert (trouble.startswith(f"commands cannot ask by {path} (another process"), path.stat().st_ino) == (
            True,
            number,
        )


async def test_a_file_in_the_socket_s_place_stays(bed: Bed) -> None:
    await bed.collect()
    path = bed.state / "ddslogd.sock"
    path.write_text("mine")
    async with served(bed) as listener:
        trouble = listener.trouble

    assert (bool(trouble), path.read_text()) == (True, "mine")


async def test_a_socket_whose_file_was_removed_is_made_again(bed: Bed) -> None:
    await bed.collect()
    async with served(bed), asyncio.timeout(30):
        (bed.state / "ddslogd.sock").unlink()
        while (answered := await status(bed.settings)) is None:
            await asyncio.sleep(SOON_S)

    assert answered is not None


async def test_a_path_that_is_too_long_for_a_socket_s_address_will_do(bed: Bed, tmp_path: Path) -> None:
    bed.state = tmp_path / ("x" * 120) / "state"
    await bed.collect()
    async with served(bed) as listener:
        answered = await status(bed.settings)

    assert (listener.trouble, answered is None) == ("", False)


async def test_without_a_directory_for_the_socket_collection_goes_on(bed: Bed, tmp_path: Path) -> None:
    bed.set("instances:\n", f"web: {{socket: {tmp_path}/nowhere/ddslogd.sock}}\ninstances:\n")
    async with served(bed) as listener:
        trouble, report = listener.trouble, await bed.collect()

    assert (trouble, report.error) == (
        f"commands cannot ask by {tmp_path}/nowhere/ddslogd.sock (No such file or directory)",
        "",
    )


def test_systemd_s_runtime_directory_holds_it(bed: Bed) -> None:
    settings = bed.settings

    found = [control_socket.offered_at(settings, environ) for environ in ({}, {"RUNTIME_DIRECTORY": "/run/ddslogd:/b"})]

    assert tuple(map(str, found)) == (f"{bed.state}/ddslogd.sock", "/run/ddslogd/ddslogd.sock")
    assert set(found) == set(control_socket.looked_for_at(settings))


# --- whom commands believe --------------------------------------------------------------------------------------------


def reply_of(told: object) -> bytes:
    body = json.dumps(told).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@contextmanager
def answering(listener: socket.socket, answer: bytes) -> Iterator[None]:
    """Send whoever connects the same."""

    def serve() -> None:
        with suppress(OSError):  # accept ends by the shutdown below
            while True:
                one, _ = listener.accept()
                with one, suppress(OSError):
                    asked = b""
                    while b"\r\n\r\n" not in asked and (more := one.recv(4096)):
                        asked += more
                    one.sendall(answer)

    listener.listen()
    thread = Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def forged(bed: Bed) -> bytes:
    """Return what somebody would send who wants to be taken for the daemon."""
    found = status_client.status(bed.settings, now=START)
    return reply_of({**found, "headline": "\x1b]52;c;forged\x07", "started_at": "2026-01-01T00:00:00Z"})


async def test_whoever_listens_at_the_page_s_port_is_not_believed(bed: Bed, taken: socket.socket) -> None:
    await bed.collect()
    bed.set("instances:\n", f"web: {{listen: '127.0.0.1:{taken.getsockname()[1]}'}}\ninstances:\n")
    with answering(taken, forged(bed)):
        answered = await status(bed.settings)

    assert answered is None


@pytest.mark.parametrize("stranger", [False, True])
async def test_who_listens_at_the_socket_is_the_daemon_s_user_or_root(bed: Bed, *, stranger: bool) -> None:
    await bed.collect()
    answer = forged(bed)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bed.state / "ddslogd.sock"))
        with ExitStack() as stack:
            with being(NOBODY) if stranger else nullcontext():  # who begins to listen is who the kernel names
                stack.enter_context(answering(listener, answer))
            answered = await status(bed.settings)

    assert (answered is None) == stranger


@pytest.mark.parametrize("said", [reply_of({}), reply_of([]), b"SSH-2.0-OpenSSH_9.2\r\n", b""])
async def test_what_makes_no_sense_is_not_believed(bed: Bed, said: bytes) -> None:
    await bed.collect()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bed.state / "ddslogd.sock"))
        with answering(listener, said):
            answered = await status(bed.settings)

    assert answered is None


async def test_gaps_are_the_running_daemon_s(bed: Bed) -> None:
    """Here one that knows of a gap that is in no ledger."""
    await bed.collect()
    gap = {
        "instance": "solo",
        "node": NODE,
        "log": "error",
        "from": None,
        "to": "2026-01-02T03:04:05.000+00:00",
        "cause": "window overflow",
        "noted": "2026-01-02T03:04:06.000+00:00",
        "begins_within_a_line": False,
        "file": "snapshots/a",
    }
    told = {"directory": str(bed.directory), "unknown": [], "gaps": [gap]}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bed.state / "ddslogd.sock"))
        with answering(listener, reply_of(told)):
            ended = await ddslogd("gaps", "--json", "-c", config_of(bed))

    assert (ended.status, json.loads(ended.out)) == (1, [gap])


async def test_gaps_are_the_same_by_the_daemon_and_by_the_ledger(bed: Bed) -> None:
    bed.sandbox.write(NODE, b"2026-01-02T03:04:04.000+0000 one\n")
    await bed.collect()
    bed.sandbox.faults.api_errors = [ApiError(404, "DBS.200002")]
    bed.clock.forward(minutes=21)
    await bed.collect()
    settings, since = bed.settings, START
    ledger = await asyncio.to_thread(status_client.gaps, settings, since=since, instances=["solo", "who"])
    async with served(bed):
        daemon = await asyncio.to_thread(status_client.gaps, settings, since=since, instances=["solo", "who"])

    assert (daemon, ledger[1]) == (ledger, ("who",))
    assert ledger[0] == known_gaps(bed.state) != ()


async def test_instances_are_listed_by_the_daemon_that_knows_the_secrets(bed: Bed) -> None:
    """Whoever asks knows none; where another configuration is tried, the clouds are asked with its own."""
    path = config_of(bed)
    async with served(bed):
        by_daemon = await ddslogd("instances", "--json", "-c", path, token="wrong")  # made up
        path.write_text(bed.text.replace("calls_per_minute: 12000", "calls_per_minute: 30"))
        by_itself = await ddslogd("instances", "--json", "-c", path, token="wrong")  # made up

    (one,) = json.loads(by_daemon.out)
    assert (by_daemon.status, one["name"], one["collected_as"], len(one["nodes"])) == (0, "solo", "solo", 1)
    assert (by_itself.status, "does not accept" in by_itself.err) == (1, True), by_itself.err


async def test_a_cloud_that_refuses_the_daemon_its_list_is_told(bed: Bed) -> None:
    """Who asks could list them, and is not made to think that the daemon can."""
    path = config_of(bed)
    async with served(bed):
        bed.sandbox.revoke_tokens()
        ended = await ddslogd("instances", "-c", path, token=bed.sandbox.issue_token())

    assert (ended.status, "does not accept" in ended.err) == (1, True), ended.err


async def test_the_page_s_port_has_no_clouds_asked(bed: Bed) -> None:
    """It costs calls of the account, and anybody on this host reaches the port."""
    async with served(bed, port=0) as listener:
        assert listener.address is not None
        url = f"http://127.0.0.1:{listener.address[1]}/api/v1/listings"
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            found = reply.status

    assert found == 404
