"""What the benchmarks of transfers fetch from: nginx with TLS on loopback, and a made-up API that links to it."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PROJECT = "1" * 32
LINE = (
    b'{"t":{"$date":"2026-01-02T03:04:05.678+00:00"},"s":"W","c":"NETWORK","id":22943,"ctx":"conn%08d","msg":"limit"}\n'
)
NGINX = """
user {user}; worker_processes 1; daemon off; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile off; etag off; output_buffers 2 256k; default_type binary/octet-stream;
    keepalive_timeout 75; keepalive_requests 1000000;
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
    map_hash_max_size 65536; map_hash_bucket_size 128;
    map $uri $md5 {{ include {root}/md5.map; }}
    ssl_certificate {root}/cert.pem; ssl_certificate_key {root}/key.pem;
    server {{
        listen 127.0.0.1:{port} ssl; root {root}/objects; add_header ETag '"$md5"';
    }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSet:
    """Files of one size that are fetched together.

    Attributes:
        size: Bytes of each.
    """

    name: str
    count: int
    size: int

    @property
    def bytes(self) -> int:
        """Sum the sizes."""
        return self.count * self.size

    def paths(self) -> list[str]:
        """Return the path of each object in the store's URL."""
        return [f"/{self.name}/{number}" for number in range(self.count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where they listen, and what they are trusted by."""

    store: str
    api: str
    ca_file: Path


@contextmanager
def serving(root: Path, sets: Sequence[ObjectSet]) -> Iterator[Servers]:
    """Make the objects, and serve them until the block ends."""
    root.mkdir()
    _certificate(root)
    lines = [line for objects in sets for line in _make(root, objects)]
    (root / "md5.map").write_text("".join(lines))
    store, api = _free_port(), _free_port()
    conf = root / "nginx.conf"
    conf.write_text(NGINX.format(root=root, port=store, user=getpass.getuser()))
    described = json.dumps(
        {"port": api, "store": f"https://127.0.0.1:{store}", "sets": {s.name: s.count for s in sets}}
    )
    with (
        _process("nginx", "-p", str(root), "-e", str(root / "error.log"), "-c", str(conf)),
        _process(sys.executable, __file__, described),
    ):
        for port in (store, api):
            _wait_for(port)
        yield Servers(store=f"https://127.0.0.1:{store}", api=f"http://127.0.0.1:{api}", ca_file=root / "cert.pem")


def instance_id(number: int) -> str:
    """Return the id of the instance whose export is the set of that number."""
    return f"1{number:031d}in02"  # an id of zeros is refused


def _certificate(root: Path) -> None:
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    paths = ["-keyout", str(root / "key.pem"), "-out", str(root / "cert.pem")]
    subprocess.run([*command.split(), *paths], check=True, capture_output=True)


def _make(root: Path, objects: ObjectSet) -> Iterator[str]:
    directory = root / "objects" / objects.name
    directory.mkdir(parents=True)
    lines = min(20_000, objects.size // len(LINE % 0) + 1)
    for number, path in enumerate(objects.paths()):
        md5 = hashlib.md5(usedforsecurity=False)
        with (root / "objects" / path[1:]).open("wb") as file:
            block = b"".join(LINE % (number * 1000 + at) for at in range(lines))
            for left in range(objects.size, 0, -len(block)):
                piece = block[:left]
                md5.update(piece)
                file.write(piece)
        yield f"{path} {md5.hexdigest()};\n"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _process(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


async def serve_api(described: str) -> None:
    """Answer every export at once: the set of an instance's number, one row an object, each of a node of its own."""
    told = json.loads(described)

    async def export(request: web.Request) -> web.Response:
        number = int(request.match_info["instance"].removesuffix("in02")[1:])
        name, count = list(told["sets"].items())[number]
        now = datetime.now(UTC)
        expires = int((now + timedelta(hours=1)).timestamp())
        rows = [
            {
                "node_name": f"node-{at}",
                "file_name": f"errorlog_{at}",
                "file_size": "1 KB",
                "file_link": f"{told['store']}/{name}/{at}?AWSAccessKeyId=A&Expires={expires}&Signature=S",
                "status": "SUCCESS",
                "update_at": int(now.timestamp() * 1000),
            }
            for at in range(count)
        ]
        return web.json_response({"status": "FINISH", "list": rows})

    application = web.Application()
    application.router.add_post("/v3/{project}/instances/{instance}/errorlog-download", export)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", told["port"]).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve_api(sys.argv[1]))
