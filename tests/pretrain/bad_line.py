"""A proxy on loopback between a trainer and S3 or the Hub, on whose way files come to harm."""

from __future__ import annotations

import http.client
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import urlsplit

from loopback import serving

Harm = int | Literal["reset", "cut", "short", "slow", "silent", "wrong"]
"""A status; a reset connection; a body that ends early, without or with its length saying so; pauses before every
quarter of it; silence amid it; another last byte."""


@dataclass
class Line:
    """What happens on it."""

    behind: str
    """URL that requests are passed on to."""
    url: str = ""
    harm: dict[str, list[Harm]] = field(default_factory=dict)
    """Per file name, for its next requests; the last one stays if it is ``always``."""
    always: bool = False
    pause: float = 0.1
    """Seconds of each pause of a slow body."""
    silence: float = 6.0
    asked: list[str] = field(default_factory=list)

    def next(self, name: str) -> Harm:
        """What this request meets; 200 is none."""
        self.asked.append(name)
        left = self.harm.get(name)
        if not left:
            return 200
        return left[0] if self.always else left.pop(0)


@contextmanager
def bad_line(behind: str) -> Iterator[Line]:
    """Run one."""
    line = Line(behind)
    with serving(_Handler, line=line) as line.url:
        yield line


class _Handler(BaseHTTPRequestHandler):
    line: Line

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        harm = self.line.next(urlsplit(self.path).path.rpartition("/")[2])
        if harm in (500, 503):
            self.send_error(int(harm))
            return
        status, headers, data = self._passed_on()
        told = len(data)
        if harm == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        elif harm in ("reset", "cut", "short"):
            data = data[: told // 2]
        self.send_response(status)
        headers = {name: value for name, value in headers.items() if name.lower() not in _OWN}
        for name, value in {**headers, "Content-Length": str(len(data) if harm == "short" else told)}.items():
            self.send_header(name, value)
        self.end_headers()
        self._give(data, harm)

    def _passed_on(self) -> tuple[int, http.client.HTTPMessage, bytes]:
        behind = http.client.HTTPConnection(urlsplit(self.line.behind).netloc)
        behind.request("GET", self.path, headers=dict(self.headers))
        answer = behind.getresponse()
        return answer.status, answer.headers, answer.read()

    def _give(self, data: bytes, harm: Harm) -> None:
        quarter = -(-len(data) // 4)
        for start in range(0, len(data), quarter):
            time.sleep(self.line.pause if harm == "slow" else 0)
            if harm == "silent" and start >= 2 * quarter:
                time.sleep(self.line.silence)
                return
            self.wfile.write(data[start : start + quarter])
            self.wfile.flush()
        if harm == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


_OWN = {"content-length", "connection", "transfer-encoding", "server", "date"}
