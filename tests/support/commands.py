"""Commands, run as programs."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ddslogd.service.factory import rebuilt
from support.fork_server import Request
from support.places import ROOT

if TYPE_CHECKING:
    from ddslogd.model.stream import Advance
    from support.testbed import Bed


# --- rebuild ----------------------------------------------------------------------------------------------------------


async def rebuild(
    bed: Bed, name: str = "solo", *, shorter: bool = True
) -> tuple[tuple[Path, ...] | None, list[Advance]]:
    taken: list[Advance] = []
    done = await rebuilt(bed.settings, name, shorter=shorter, clock=bed.clock, note=taken.append)
    return None if done is None else done.aside, taken


# --- any --------------------------------------------------------------------------------------------------------------


class Ended:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@cache
def fork_server() -> socket.socket:
    """Start the process that commands are forked from; it ends with this one."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])}
    server = subprocess.Popen(
        [sys.executable, "-m", "support.fork_server", str(its.fileno())],
        pass_fds=[its.fileno()],
        env=environ,
        stdin=subprocess.DEVNULL,
    )
    its.close()

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


async def _reader(descriptor: int) -> asyncio.StreamReader:
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


class Command:
    """A command in a process of its own, like one of asyncio's."""

    def __init__(
        self, pid: int, *, out: asyncio.StreamReader, err: asyncio.StreamReader, told: asyncio.StreamReader
    ) -> None:
        self.pid, self.stdout, self.stderr, self._told = pid, out, err, told

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    async def ended(self) -> Ended:
        out, err, told = await asyncio.gather(self.stdout.read(), self.stderr.read(), self._told.read())
        return Ended(int(told), out.decode(), err.decode())


async def start(*arguments: str | Path, token: str = "") -> Command:
    """Start ``python -m ddslogd``, as far as can be told; other tests see that it starts without any help."""
    pipes = [os.pipe() for _ in range(3)]
    environ = {**os.environ, "DDSLOGD_TOKEN": token}
    request = Request(arguments=[str(one) for one in arguments], environ=environ, directory=str(Path.cwd()))
    theirs = [end for _, end in pipes]
    socket.send_fds(fork_server(), [json.dumps(asdict(request)).encode()], theirs)
    for end in theirs:
        os.close(end)
    out, err, told = [await _reader(begin) for begin, _ in pipes]
    return Command(int(await told.readline()), out=out, err=err, told=told)


async def end(command: Command) -> Ended:
    return await command.ended()


async def ddslogd(*arguments: str | Path, token: str = "") -> Ended:
    return await end(await start(*arguments, token=token))
