"""A remote file as GDAL and Arrow read files: small reads by pages that are kept, large ones as they are asked.

GDAL gets no URL: it reads through these objects alone, so it opens no sidecar, follows no link and makes no request,
and every byte is of the version that was pinned.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rasterio.abc import MultiByteRangeResourceContainer

from curation.base.errors import RscorpusError, UnreadableImage
from curation.remote.spool import Spool
from curation.remote.transport import PAGE, Pin, Transport

LONGEST = 1 << 30
"""Bytes of a range, whatever a file's index says."""
PAGES = 1024
"""Pages that a process keeps in memory."""


@dataclass
class Ranges:
    """Ranges of pinned files, from memory, the spool or the network; safe for threads.

    Attributes:
        fetched: bytes that came over the network.
    """

    transport: Transport
    spool: Spool
    fetched: int = 0
    _pages: OrderedDict[tuple[str, int], bytes] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, pin: Pin, offset: int, size: int, spooled: bool = True) -> bytes:
        """A range exactly as it is asked for; shorter at the file's end.

        Args:
            pin: the file.
            offset: where the range begins.
            size: its bytes.
            spooled: whether it is sought in the spool, and kept there.

        Raises:
            RscorpusError: as :class:`~curation.remote.transport.Transport`.
        """
        if not spooled:
            data = self.transport.read(pin, offset, size)
            self.count(len(data))
            return data
        return self.kept(range_key(pin, offset, size), lambda: self.read(pin, offset, size, spooled=False))

    def kept(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Bytes from the spool, made and kept where they are not there."""
        data = self.spool.get(key)
        if data is None:
            data = make()
            self.spool.put(key, data)
        return data

    def count(self, size: int) -> None:
        """Note bytes that came over the network."""
        with self._lock:
            self.fetched += size

    def page(self, pin: Pin, number: int) -> bytes:
        """One page of :data:`PAGE` bytes."""
        place = pin.key, number
        with self._lock:
            if (page := self._pages.get(place)) is not None:
                self._pages.move_to_end(place)
                return page
        page = self.read(pin, number * PAGE, PAGE)
        self._keep(pin, number, page)
        return page

    def first_page(self, url: str) -> tuple[Pin, bytes]:
        """A file's version and first page, asked of its server and kept."""
        pin, page = self.transport.pin(url)
        self.spool.put(range_key(pin, 0, PAGE), page)
        self._keep(pin, 0, page)
        return pin, page

    def _keep(self, pin: Pin, number: int, page: bytes) -> None:
        """Keep a page in memory, and the newest :data:`PAGES` with it."""
        with self._lock:
            self._pages[pin.key, number] = page
            while len(self._pages) > PAGES:
                self._pages.popitem(last=False)


def range_key(pin: Pin, offset: int, size: int) -> str:
    """What a range is kept under."""
    return hashlib.blake2b(f"{pin.key} {offset} {size}".encode(), digest_size=20).hexdigest()


class RemoteFile:
    """A pinned file, open for reading.

    Attributes:
        error: what went wrong first; Arrow tells it in its own words.
        quiet: whether zeros stand for what does not come, since GDAL's callbacks must not raise; whoever opened the
            file looks at ``error``.
        blocks: bytes that were asked for as ranges.
    """

    def __init__(self, pin: Pin, ranges: Ranges, spooled: bool = True) -> None:
        self._spooled = spooled
        self.pin, self.closed, self.blocks, self.quiet = pin, False, 0, False
        self.error: RscorpusError | None = None
        self._ranges, self._at = ranges, 0

    def read(self, size: int = -1) -> bytes:
        """Read on; the rest of the file where no size is given."""
        size = max(min(self.pin.size - self._at, size if size >= 0 else self.pin.size), 0)
        data = self._guarded(self._at, size)
        self._at += len(data)
        return data

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Several ranges, as GDAL asks for the blocks of a window."""
        self.blocks += sum(sizes)
        return [self._guarded(offset, size, exact=True) for offset, size in zip(offsets, sizes, strict=True)]

    def _guarded(self, offset: int, size: int, exact: bool = False) -> bytes:
        if self.quiet and self.error is not None:
            return bytes(size)
        try:
            return self._range(offset, size, exact)
        except RscorpusError as error:
            self.error = self.error or error
            if self.quiet:
                return bytes(size)
            raise

    def _range(self, offset: int, size: int, exact: bool) -> bytes:
        if size == 0:
            return b""
        if size > LONGEST:
            raise UnreadableImage(f"{self.pin.url}: asks for {size:,} bytes at once, the limit is {LONGEST:,}")
        if size > PAGE or exact:
            return self._ranges.read(self.pin, offset, size, self._spooled)
        first, last = offset // PAGE, (offset + size - 1) // PAGE
        data = b"".join(self._ranges.page(self.pin, number) for number in range(first, last + 1))
        return data[offset - first * PAGE :][:size]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + (0, self._at, self.pin.size)[whence]
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def size(self) -> int:
        """Bytes of the file."""
        return self.pin.size

    def close(self) -> None:
        """Nothing is held open."""
        self.closed = True

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Never."""
        return False

    def flush(self) -> None:
        """Nothing is written."""

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Opener(MultiByteRangeResourceContainer):  # type: ignore[misc]
    """A folder of one file, for rasterio: whatever name GDAL asks for beside it is not there."""

    def __init__(self, name: str, file: RemoteFile) -> None:
        self.name, self.file = name, file
        file.quiet = True

    def _is(self, path: Any) -> bool:
        return str(path).rpartition("/")[2] == self.name

    def open(self, path: str, mode: str = "r", **kwds: Any) -> RemoteFile:
        """The file, at its beginning; there is no other.

        Raises:
            FileNotFoundError: another name.
        """
        if not self._is(path):
            raise FileNotFoundError(path)
        self.file.seek(0)
        return self.file

    def isfile(self, path: str) -> bool:
        """Whether it is the file."""
        return self._is(path)

    def isdir(self, path: str) -> bool:
        """Never."""
        return False

    def ls(self, path: str) -> list[str]:
        """Nothing is told."""
        return []

    def mtime(self, path: str) -> int:
        """Unknown."""
        return 0

    def size(self, path: str) -> int:
        """Bytes of the file."""
        return self.file.size() if self._is(path) else 0

    def rm(self, path: str) -> None:
        """Nothing is removed.

        Raises:
            PermissionError: always.
        """
        raise PermissionError(path)
