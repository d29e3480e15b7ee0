"""A web server on loopback with a folder of shards, and what goes wrong with it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from loopback import serving


@dataclass
class Shelf:
    """What is served, how, and what was asked."""

    folder: Path
    url: str = ""
    faults: dict[str, list[int]] = field(default_factory=dict)
    """Per file, for its next requests: a status from 100 on, or bytes after which the connection breaks."""
    wrong: set[str] = field(default_factory=set)
    """Files whose last byte is another."""
    longer: set[str] = field(default_factory=set)
    """Files that do not end."""
    slow: float = 0.0
    """Seconds before every 4096 bytes."""
    asked: list[tuple[str, int]] = field(default_factory=list)
    """File and first byte of each request."""

    def times(self, name: str) -> int:
        """Requests of a file."""
        return sum(asked == name for asked, _ in self.asked)


@contextmanager
def shelf(folder: Path) -> Iterator[Shelf]:
    """Run one."""
    state = Shelf(folder)
    with serving(_Handler, shelf=state) as root:
        state.url = f"{root}/corpus"
        yield state


class _Handler(BaseHTTPRequestHandler):
    shelf: Shelf

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        name = self.path.removeprefix("/corpus/")
        first = int(re.sub(r"\D", "", self.headers.get("Range", "0")))
        self.shelf.asked.append((name, first))
        path, fault = self.shelf.folder / name, (self.shelf.faults.get(name) or [0]).pop(0)
        if not path.is_file() or 100 <= fault < 600:
            self.send_error(404 if not path.is_file() else fault)
            return
        data = path.read_bytes()
        data = data[:-1] + bytes([data[-1] ^ 1]) if name in self.shelf.wrong else data
        data += bytes(1 << 24) if name in self.shelf.longer else b""
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        end = first + fault if fault else len(data)
        for start in range(first, end, 4096):
            time.sleep(self.shelf.slow)
            self.wfile.write(data[start : min(start + 4096, end)])
