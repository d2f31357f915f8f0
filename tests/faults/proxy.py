"""A gate on loopback between an S3 client and its server, where requests and answers can be spoilt.

Every request passes in order of its arrival; a `Fault` says which of them are spoilt, and how. Host headers pass
unchanged, so signatures stay valid. Ends with the test.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Literal
from urllib.parse import unquote, urlsplit

Kind = Literal["reset", "500", "503", "slow", "truncated", "dropped-answer", "expired"]
SLOW_S = 1.0


@dataclass
class Fault:
    """Which requests are spoilt, and how: the first `times` whose method and path fit."""

    kind: Kind
    fits: Callable[[str, str], bool]
    """(method, path without the query) of a request."""
    times: int = 1
    spoilt: list[str] = field(default_factory=list)
    """What was spoilt."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def takes(self, method: str, path: str) -> bool:
        """Whether this request is to be spoilt; counts it."""
        with self.lock:
            if len(self.spoilt) >= self.times or not self.fits(method, path):
                return False
            self.spoilt.append(f"{method} {path}")
            return True


class _Gate(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: ClassVar[tuple[str, int]]
    faults: ClassVar[list[Fault]]
    seen: ClassVar[list[str]]

    def _pass(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append(f"{self.command} {path}")
        kind = next((fault.kind for fault in self.faults if fault.takes(self.command, path)), None)
        if kind == "reset":
            return self._reset()
        if kind in ("500", "503", "expired"):
            code, status = {"500": ("InternalError", 500), "503": ("SlowDown", 503), "expired": ("ExpiredToken", 403)}[
                kind
            ]
            told = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
            return self._send(status, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else told)
        if kind == "slow":
            time.sleep(SLOW_S)
        upstream = http.client.HTTPConnection(*self.upstream, timeout=30)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data, headers = answer.read(), answer.getheaders()
        finally:
            upstream.close()
        if kind == "dropped-answer":
            return self._reset()
        self._send(answer.status, headers, data, cut=kind == "truncated")
        return None

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass

    def _send(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of a HEAD: the object's own
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.wfile.flush()
        if cut:
            self._reset()

    def _reset(self) -> None:
        """Close at once, so that the client sees a reset connection and no answer."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *args: Any) -> None:
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        """A client that went away is part of the game."""


@dataclass
class Gate:
    """A running gate."""

    url: str
    faults: list[Fault]
    seen: list[str]
    """Every request so far."""

    @contextmanager
    def spoiling(self, *faults: Fault) -> Iterator[None]:
        """Spoil by these faults inside."""
        self.faults[:] = faults
        try:
            yield
        finally:
            self.faults.clear()


@contextmanager
def gate(upstream_url: str) -> Iterator[Gate]:
    """A gate before the server at `upstream_url` (http, loopback)."""
    parts = urlsplit(upstream_url)
    faults: list[Fault] = []
    seen: list[str] = []
    handler = type("Gate", (_Gate,), {"upstream": (parts.hostname, parts.port), "faults": faults, "seen": seen})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Gate(f"http://127.0.0.1:{server.server_address[1]}", faults, seen)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
