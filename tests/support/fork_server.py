"""A process that has the whole daemon imported, and forks one for each command: most of a command's time is imports.

It has one thread, so that what it forks is sound. What it is asked comes by the socket whose number it is started with;
it ends with that socket.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import selectors
import socket
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

import ddslogd
from ddslogd.cli.main import main

MAX_REQUEST = 128 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be run: as ``python -m ddslogd`` with these arguments, in this environment."""

    arguments: list[str]
    environ: dict[str, str]
    directory: str


def serve(requests: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not requests:
                    selector.unregister(key.fileobj)
                    _reap(key.fd, *key.data)
                elif not _began(requests, selector):
                    return


def _began(requests: socket.socket, selector: selectors.BaseSelector) -> bool:
    """Fork what is asked for; return whether there may be more to do."""
    text, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST, 3)
    if not text:
        return False
    pid = os.fork()
    if pid == 0:
        requests.close()
        for key in list(selector.get_map().values()):
            if key.fileobj is not requests:
                os.close(key.fd)
                os.close(key.data[1])
        _run(Request(**json.loads(text)), *descriptors)
    out, err, told = descriptors
    os.close(out)
    os.close(err)
    os.write(told, b"%d\n" % pid)
    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, told))
    return True


def _reap(ended: int, pid: int, told: int) -> None:
    _, status = os.waitpid(pid, 0)
    os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))
    os.close(told)
    os.close(ended)


def _run(request: Request, out: int, err: int, told: int) -> NoReturn:
    status = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        for descriptor in (out, err, told):
            os.close(descriptor)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115  # as Python opens them
        os.environ.clear()
        os.environ.update(request.environ)
        os.chdir(request.directory)
        sys.argv = ["ddslogd", *request.arguments]
        main()
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:  # noqa: BLE001  # as the interpreter does
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    for module in pkgutil.walk_packages(ddslogd.__path__, "ddslogd."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
