"""Certificates of an authority of the test's own."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def needed_openssl() -> str:
    path = shutil.which("openssl")
    if path is None and os.environ.get("DDSLOGD_SKIP_NOTHING"):
        pytest.fail("openssl is missing")
    if path is None:
        pytest.skip("openssl is missing: install Debian's openssl")
    return path


def certificate(directory: Path, *, days: int, host: str = "localhost") -> Path:
    """Make a self-signed certificate that ends in so many days, or ended before; give the file of it and its key."""
    now = datetime.now(UTC)
    begin, end = (
        f"{moment:%Y%m%d%H%M%SZ}" for moment in (now - timedelta(days=90), now + timedelta(days=days, hours=1))
    )
    openssl = needed_openssl()
    pem = directory / "server.pem"
    subject = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    key, request = directory / "key.pem", directory / "request.pem"
    run = partial(subprocess.run, check=True, capture_output=True)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run([openssl, "req", *curve, *subject, "-keyout", str(key), "-out", str(request)])
    (directory / "index").write_text("")
    (directory / "serial").write_text("01\n")
    (directory / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=c\n[c]\ndatabase={directory}/index\nserial={directory}/serial\nnew_certs_dir={directory}\n"
        "default_md=sha256\npolicy=p\ncopy_extensions=copy\n[p]\ncommonName=supplied\n"
    )
    signing = ["-batch", "-selfsign", "-config", str(directory / "ca.cnf"), "-keyfile", str(key)]
    times = ["-startdate", begin, "-enddate", end]
    run([openssl, "ca", *signing, "-in", str(request), "-out", str(directory / "cert.pem"), *times])
    text = (directory / "cert.pem").read_text()
    pem.write_text(text[text.index("-----BEGIN") :] + key.read_text())
    return pem


@asynccontextmanager
async def secure(pem: Path, sandbox_port: int) -> AsyncIterator[int]:
    """Put TLS before the sandbox; give the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_cloud, from_cloud = await asyncio.open_connection("127.0.0.1", sandbox_port)
        writers.extend((writer, from_cloud))
        tasks.add(asyncio.create_task(pump(reader, from_cloud)))
        tasks.add(asyncio.create_task(pump(to_cloud, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            if not writer.is_closing():  # Python 3.11.2 fails where that was closed twice
                writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
