"""One member of a remote file as bytes: a window as a small TIFF, or a whole image as it is.

A listing names a member ``@<a>+<b> <bytes> <version> <kind> <rest>``: two numbers that say where it lies, then the
file's size and version when it was listed, so that another version is never read in its place.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

from curation.base import watchdog
from curation.base.errors import UnreadableImage
from curation.catalogue import Window
from curation.containers.container import locate
from curation.containers.parquet_arrays import ArrayColumns
from curation.remote import scenes
from curation.remote.access import MOST_REQUESTS, RemoteImagery
from curation.remote.remote_file import Ranges, RemoteFile
from curation.remote.spool import Spool
from curation.remote.tables import Tables
from curation.remote.transport import Pin, Transport

T = TypeVar("T")
AHEAD = 3
"""Members that are being read before they are asked for, as a multiple of the requests that may be in flight."""
HANGS_S = 1800.0
"""After so long a decoder hangs: the process ends, and the image is found that brings it about."""
FOLDER = ".remote"
"""Below a source's folder: its spool; beside it, for all sources: the lock files of requests."""


class RemoteMember(NamedTuple):
    """Bytes of a member."""

    data: bytes
    size: int
    """What it takes of the remote file."""
    as_stored: bool
    """Whether these are the remote file's own bytes."""


class Member(NamedTuple):
    """What a listing says of a member."""

    first: int
    second: int
    pin: Pin
    kind: str
    rest: str

    def written(self) -> str:
        """As a listing holds it."""
        version = quote(self.pin.version, safe="")
        return f"@{self.first}+{self.second} {self.pin.size} {version} {self.kind} {self.rest}"

    @classmethod
    def of(cls, url: str, member: str) -> Member:
        """Of a line of a listing.

        Raises:
            UnreadableImage: it is none.
        """
        located = locate(member)
        if located is None or located[2].count(" ") < 3:
            raise UnreadableImage(f"{url}: {member}: no member of a remote file; run with --relist")
        size, version, kind, rest = located[2].split(" ", 3)
        return cls(located[0], located[1], Pin(url, int(size), unquote(version)), kind, rest)


class _OpenScene(NamedTuple):
    """What a thread keeps open."""

    stack: ExitStack
    file: RemoteFile
    data: Any


@dataclass
class Reader:
    """Reads members of one source's remote files; safe for threads."""

    ranges: Ranges
    tables: Tables
    _local: threading.local = field(default_factory=threading.local)
    _ready: dict[tuple[str, str], Future[RemoteMember]] = field(default_factory=dict)

    @classmethod
    def of(cls, ranges: Ranges) -> Reader:
        """A reader of ranges."""
        return cls(ranges, Tables(ranges))

    def read(self, url: str, member: str, limit: int) -> RemoteMember:
        """One member.

        Raises:
            UnreadableImage: the server refuses it, it has changed, it is damaged, or larger than ``limit`` bytes.
            WorkError: the server does not answer.
        """
        ready = self._ready.pop((url, member), None)
        return self._read(url, member, limit) if ready is None or ready.cancelled() else ready.result()

    def start(self, pool: ThreadPoolExecutor, url: str, member: str, limit: int) -> Future[RemoteMember]:
        """Begin to read a member that :meth:`read` will be asked for next."""
        future = self._ready[url, member] = pool.submit(self._read, url, member, limit)
        return future

    def _read(self, url: str, member: str, limit: int) -> RemoteMember:
        wanted = Member.of(url, member)
        if wanted.kind == "window":
            return self._window(wanted)
        if wanted.kind in ("row", "image"):
            return self._row(wanted, limit)
        if wanted.second > limit:
            raise UnreadableImage(f"{url}: {wanted.second} bytes, the limit is {limit}")
        data = self.ranges.read(wanted.pin, wanted.first, wanted.second)
        return RemoteMember(data, len(data), True)

    def _row(self, wanted: Member, limit: int) -> RemoteMember:
        """Of a table: kept in the spool one by one, since a row group brings all its rows along."""
        columns = ArrayColumns.of(wanted.rest)
        if columns is None:
            raise UnreadableImage(f"{wanted.pin.url}: {wanted.rest}: names no columns; run with --relist")
        place, as_stored = (wanted.pin, wanted.first, wanted.second), wanted.kind == "image"
        key = hashlib.blake2b(wanted.written().encode(), digest_size=20).hexdigest()
        data = self.ranges.kept(key, lambda: self.tables.image(*place, columns, as_stored, limit))
        return RemoteMember(data, len(data), as_stored)

    def _window(self, wanted: Member) -> RemoteMember:
        width, height = map(int, wanted.rest.split("x"))
        driver = scenes.driver_of(self.ranges.page(wanted.pin, 0))
        if driver is None:
            raise UnreadableImage(f"{wanted.pin.url}: is no raster that is read by windows")
        with self._scene(wanted.pin, driver) as (file, data):
            before = file.blocks
            cut = scenes.cut(data, Window(wanted.first, wanted.second, width, height))
        return RemoteMember(cut, file.blocks - before, False)

    @contextmanager
    def _scene(self, pin: Pin, driver: str) -> Iterator[tuple[RemoteFile, Any]]:
        """An open scene. A thread of :func:`ahead` keeps its last one open: to parse a header is half of the work."""
        if threading.current_thread() is threading.main_thread():
            file = RemoteFile(pin, self.ranges)
            with scenes.opened(file, driver) as data:
                yield file, data
            return
        held: _OpenScene | None = getattr(self._local, "scene", None)
        if held is None or held.file.pin != pin or held.file.error is not None:
            if held is not None:
                held.stack.close()
            self._local.scene = None
            file, stack = RemoteFile(pin, self.ranges), ExitStack()
            with scenes.told_of(file):
                held = self._local.scene = _OpenScene(stack, file, scenes.enter(stack, file, driver))
        with scenes.told_of(held.file):
            yield held.file, held.data


Wanted = tuple["Reader", str, str]
"""A reader, and the file and member that it is to read."""


def ahead(items: Iterable[T], wanted: Callable[[T], Wanted | None], limit: int) -> Iterator[T]:
    """The items, each when its remote member is at hand; those of the next are read meanwhile.

    Args:
        items: in the order in which they will be worked on.
        wanted: what an item needs of a remote file, if anything; asked for once where neighbours need the same.
        limit: most bytes of a member.
    """
    waiting: deque[tuple[T, Future[RemoteMember] | None]] = deque()
    last: Wanted | None = None
    with ThreadPoolExecutor(MOST_REQUESTS) as pool:
        try:
            for item in items:
                waiting.append((item, None))
                if (place := wanted(item)) is not None and place[1:] != (last and last[1:]):
                    waiting[-1] = item, place[0].start(pool, *place[1:], limit)
                    last = place
                if len(waiting) > AHEAD * MOST_REQUESTS:
                    yield _awaited(*waiting.popleft())
            while waiting:
                yield _awaited(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _awaited(item: T, future: Future[RemoteMember] | None) -> T:
    """The item once its member is there, or has failed: what failed is told when it is asked for."""
    if future is not None:
        with watchdog.deadline(HANGS_S):
            future.exception()
    return item


def reader(root: Path, access: RemoteImagery) -> Reader:
    """The reader of a source's remote files in this process."""
    return _reader(root, access, os.getpid())


@lru_cache(maxsize=16)
def _reader(root: Path, access: RemoteImagery, process: int) -> Reader:
    """Of a process, since connections and threads do not survive its fork."""
    return Reader.of(Ranges(Transport(access, root.parent / FOLDER / "requests"), spool(root, access)))


def spool(root: Path, access: RemoteImagery) -> Spool:
    """Where a source's bytes are kept."""
    return Spool(root / FOLDER / "spool", int(access.spool_gigabytes * 1e9))
