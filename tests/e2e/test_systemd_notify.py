"""What systemd is told, read from a real socket; and the whole daemon in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import sys
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ddslogd.sandbox import Sandbox, configuration, single
from ddslogd.service.systemd import LONGEST_STATUS, Notifier
from support.testbed import ANY_PORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

NOW = datetime(2026, 1, 2, 14, 20, tzinfo=UTC)


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(0)
        yield listener


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def systemd(address: str) -> Iterator[socket.socket]:
    with listening(address) as listener:
        yield listener


def told(listener: socket.socket) -> list[str]:
    """Return all that has come."""
    messages = []
    while True:
        try:
            messages.append(listener.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_each_thing_is_told_in_a_datagram_of_its_own(systemd: socket.socket, address: str) -> None:
    notifier = Notifier(address, beat_every=timedelta(seconds=30))

    notifier.ready()
    notifier.status("all\nis well")
    notifier.beat()
    notifier.close()

    assert told(systemd) == ["READY=1", "STATUS=all is well", "WATCHDOG=1"]


def test_an_abstract_socket_is_told_too() -> None:
    name = f"ddslogd-test-{os.getpid()}"
    with listening(f"\0{name}") as listener:
        notifier = Notifier(f"@{name}")
        notifier.ready()
        notifier.close()

        assert told(listener) == ["READY=1"]


def test_a_reload_says_when_it_began_by_the_steady_clock(systemd: socket.socket, address: str) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier = Notifier(address)
    notifier.reloading()
    notifier.close()

    (message,) = told(systemd)
    first, second = message.splitlines()
    began = int(second.removeprefix("MONOTONIC_USEC="))
    assert (first, before <= began <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000) == ("RELOADING=1", True)


def test_a_status_is_told_when_it_changes(systemd: socket.socket, address: str) -> None:
    notifier = Notifier(address)
    for text in ("good", "good", "bad"):
        notifier.status(text)
    notifier.close()

    assert told(systemd) == ["STATUS=good", "STATUS=bad"]


def test_a_status_is_one_line_without_secrets(systemd: socket.socket, address: str) -> None:
    notifier = Notifier(address, clean=lambda line: line.replace("hunter2", "[redacted]"))
    notifier.status("hunter2 " + "x" * 1000)
    notifier.close()

    (message,) = told(systemd)
    assert (message.startswith("STATUS=[redacted] x"), len(message)) == (True, len("STATUS=") + LONGEST_STATUS)


@pytest.mark.parametrize("where", ["", "/nowhere/at/all", "vsock:2:1"])
def test_where_nobody_listens_nothing_happens(where: str) -> None:
    notifier = Notifier(where)
    notifier.ready()
    notifier.stopping()
    notifier.close()

    assert notifier.beat_every is None


@pytest.mark.parametrize(
    ("environ", "every"),
    [
        ({"WATCHDOG_USEC": "60000000"}, timedelta(seconds=30)),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, timedelta(seconds=30)),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_hears_twice_in_its_time_if_it_watches_this_process(
    environ: dict[str, str], every: timedelta | None, systemd: socket.socket, address: str
) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": address, **environ}, pid=7)
    notifier.beat()
    notifier.close()

    assert (notifier.beat_every, told(systemd)) == (every, ["WATCHDOG=1"] if every else [])


class Daemon:
    """``ddslogd run`` as systemd starts it."""

    def __init__(self, process: asyncio.subprocess.Process, listener: socket.socket, config: Path) -> None:
        self.process, self.listener, self.config = process, listener, config
        self.heard: list[str] = []

    async def hears(self, beginning: str, *, after: int = 0) -> str:
        """Wait for a line of a datagram."""
        async with asyncio.timeout(30):
            while True:
                lines = [line for message in self.heard[after:] for line in message.splitlines()]
                found = next((line for line in lines if line.startswith(beginning)), None)
                if found is not None:
                    return found
                message = await asyncio.get_running_loop().sock_recv(self.listener, 4096)
                self.heard.append(message.decode())

    async def stop(self) -> list[str]:
        """Stop it, and give its events."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            _, err = await self.process.communicate()
        self.heard += told(self.listener)
        return [json.loads(line)["event"] for line in err.decode().splitlines()]


@pytest.fixture
async def daemon(tmp_path: Path, systemd: socket.socket, address: str) -> AsyncIterator[Daemon]:
    fleet = (single("solo"),)
    async with Sandbox(fleet=fleet, speed=300, lines_per_second=0, backlog=timedelta(0)) as cloud:
        cloud.write("solo_single_node_1", b"a line\n" * 100)
        config = tmp_path / "ddslogd.yaml"
        config.write_text(configuration(cloud, directory=tmp_path / "logs", state=tmp_path / "state") + ANY_PORT)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ddslogd", "run", "-c", str(config)),
            env={
                **os.environ,
                "DDSLOGD_TOKEN": cloud.issue_token(),
                "NOTIFY_SOCKET": address,
                "WATCHDOG_USEC": "400000",
            },
            stderr=asyncio.subprocess.PIPE,
        )
        yield Daemon(process, systemd, config)
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.daemon
async def test_the_daemon_is_ready_when_its_ledger_is_open(daemon: Daemon, tmp_path: Path) -> None:
    await daemon.hears("READY=1")

    there = (tmp_path / "state" / "ledger.sqlite3").exists()
    assert (daemon.heard, there) == (["READY=1"], True)


@pytest.mark.daemon
async def test_the_daemon_says_how_it_goes_and_that_its_loop_turns(daemon: Daemon) -> None:
    status = await daemon.hears("STATUS=1/1 instances fresh, next at ")
    begun = len(daemon.heard)
    await daemon.hears("WATCHDOG=1", after=begun)

    assert status.removeprefix("STATUS=1/1 instances fresh, next at ")[2] == ":"


@pytest.mark.daemon
async def test_where_the_ledger_cannot_be_read_that_is_said(daemon: Daemon, tmp_path: Path) -> None:
    await daemon.hears("STATUS=1/1")
    with closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite3")) as db:
        db.execute("PRAGMA user_version = 1")
    daemon.process.send_signal(signal.SIGHUP)  # which is news
    said = await daemon.hears("STATUS=how it goes cannot be told")
    events = await daemon.stop()

    assert ("an older ddslogd wrote this ledger" in said, "status.bug" in events) == (True, False)


@pytest.mark.daemon
async def test_a_reload_is_told_from_its_beginning_to_its_end(daemon: Daemon) -> None:
    await daemon.hears("STATUS=1/1")
    begun = len(daemon.heard)
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.hears("READY=1", after=begun)

    lines = [line.partition("=")[0] for message in daemon.heard[begun:] for line in message.splitlines()]
    events = await daemon.stop()
    assert [line for line in lines if line not in {"WATCHDOG", "STATUS"}] == ["RELOADING", "MONOTONIC_USEC", "READY"]
    assert "config.reloaded" in events


@pytest.mark.daemon
async def test_a_configuration_that_is_wrong_is_refused_complaint_by_complaint(daemon: Daemon) -> None:
    await daemon.hears("STATUS=1/1")
    begun = len(daemon.heard)
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("concurrent: 16", "concurrent: 0") + "surplus: 1\n")
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.hears("READY=1", after=begun)

    events = await daemon.stop()
    assert (events.count("config.refused"), "config.reloaded" in events) == (
        2 if "concurrent: 16" in text else 1,
        False,
    )


@pytest.mark.daemon
async def test_the_status_says_that_the_last_reload_was_refused_until_one_is_not(daemon: Daemon) -> None:
    await daemon.hears("STATUS=1/1")
    good, begun = daemon.config.read_text(), len(daemon.heard)
    daemon.config.write_text(good + "surplus: 1\n")
    daemon.process.send_signal(signal.SIGHUP)
    said = await daemon.hears("STATUS=the last reload was refused", after=begun)
    refused = len(daemon.heard)
    daemon.config.write_text(good)
    daemon.process.send_signal(signal.SIGHUP)
    again = await daemon.hears("STATUS=1/1", after=refused)
    await daemon.stop()

    rest = "the configuration before it counts: see config.refused in the journal, 1/1 instances fresh"
    assert (rest in said, again.startswith("STATUS=1/1 instances fresh")) == (True, True)


@pytest.mark.daemon
async def test_the_daemon_says_that_it_stops_and_a_second_signal_changes_nothing(daemon: Daemon) -> None:
    await daemon.hears("STATUS=1/1")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.send_signal(signal.SIGINT)
    daemon.process.send_signal(signal.SIGHUP)

    events = await daemon.stop()

    stopped = [message for message in daemon.heard if message.startswith("STOPPING=1\n")]
    assert (daemon.process.returncode, len(stopped), events[-1]) == (0, 1, "service.stopped")
