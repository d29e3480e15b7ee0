"""A web server on loopback that gives byte ranges, and misbehaves as real ones do when it is told to."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from loopback import running


@dataclass
class RangeServer:
    """What is served, and what happened."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    """Content by path."""
    pages: set[str] = field(default_factory=set)
    """Paths that answer with a web page."""
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Statuses of the next answers of a path; of the last one for ever."""
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    """Headers of a path's ranges, in place of the true ones."""
    without_etag: set[str] = field(default_factory=set)
    without_ranges: set[str] = field(default_factory=set)
    silent: bool = False
    """Whether answers stop halfway through the body."""
    latency: float = 0.0
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and range of every request."""
    sent: int = 0
    flying: int = 0
    most_flying: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        """URL of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    @contextmanager
    def counted(self, path: str, ranged: str) -> Iterator[None]:
        with self.lock:
            self.asked.append((path, ranged))
            self.flying += 1
            self.most_flying = max(self.most_flying, self.flying)
        try:
            yield
        finally:
            with self.lock:
                self.flying -= 1


def _handler(server: RangeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            path, ranged = self.path, self.headers.get("Range", "")
            with server.counted(path, ranged):
                time.sleep(server.latency)
                self._answer(path if path in server.files else urlsplit(path).path, ranged)

        def _answer(self, path: str, ranged: str) -> None:
            if told := server.statuses.get(path):
                status = told.pop(0) if len(told) > 1 else told[0]
                if status != 200:
                    return self._send(status, b"no", {"Retry-After": "0"})
            if path in server.redirects:
                return self._send(302, b"", {"Location": server.redirects[path]})
            if path in server.pages:
                return self._send(200, b"<html>not found</html>", {"Content-Type": "text/html; charset=utf-8"})
            if path not in server.files:
                return self._send(404, b"absent", {})
            data = server.files[path]
            headers = {"ETag": f'"{hashlib.md5(data).hexdigest()}"'}
            if path in server.without_etag:
                headers = {"Last-Modified": "Sun, 22 Nov 2026 00:00:00 GMT"}
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", ranged)
            if asked is None or path in server.without_ranges:
                return self._send(200, data, headers)
            first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
            if first > last:
                return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self._send(206, data[first : last + 1], headers | server.headers.get(path, {}))

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if server.silent:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                server.over.wait(30)
                self.close_connection = True
                return
            with server.lock:  # before whoever waits for the last byte has it
                server.sent += len(body)
            self.wfile.write(body)

    return Handler


@contextmanager
def range_server() -> Iterator[RangeServer]:
    """A server on a free port of loopback."""
    told = RangeServer()
    with running(ThreadingHTTPServer(("127.0.0.1", 0), _handler(told))) as server:
        told.port = server.server_port
        yield told
        told.over.set()
