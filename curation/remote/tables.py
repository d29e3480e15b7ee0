"""Rows of remote Parquet tables: footers and the wanted columns of row groups by ranges, each group read once.

Threads that want rows of one group wait for the one that reads it. Whole groups are not spooled, since they hold more
than is drawn; the rows that were made of them are.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from curation.base.errors import UnreadableImage
from curation.containers.container import within
from curation.containers.parquet_arrays import ArrayColumns, byte_columns, bytes_of, group_bytes, image_of, load_group
from curation.remote.remote_file import Ranges, RemoteFile
from curation.remote.transport import Pin

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

GROUPS, FOOTERS = 3, 64
"""Row groups and footers that a process keeps."""


class TableRow(NamedTuple):
    """A row of a table, and about what it takes once it is unpacked, as the spool keeps it."""

    number: int
    group: int
    row: int
    bytes: int


@dataclass
class _Held:
    """A row group, or a place for one that is being read."""

    rows: pa.Table | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Tables:
    """Reads rows of pinned tables; safe for threads."""

    ranges: Ranges
    _held: OrderedDict[tuple[str, int, ArrayColumns], _Held] = field(default_factory=OrderedDict)
    _footers: OrderedDict[str, pq.FileMetaData] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def rows(self, pin: Pin, columns: ArrayColumns) -> Iterator[TableRow]:
        """All rows of a table, from its footer.

        Raises:
            UnreadableImage: it is no table, or lacks a column.
        """
        footer, number = self._footer(pin), 0
        try:
            leaves = columns.leaves(footer)
        except ValueError as error:
            raise UnreadableImage(f"{pin.url}: {error}") from None
        for group in range(footer.num_row_groups):
            count, (stored, unpacked) = footer.row_group(group).num_rows, group_bytes(footer, group, leaves)
            if count > 8 * stored:
                raise UnreadableImage(f"{pin.url}: {count} images in {stored} bytes")
            yield from (TableRow(number + row, group, row, unpacked // count) for row in range(count))
            number += count

    def image(self, pin: Pin, group: int, row: int, columns: ArrayColumns, as_stored: bool, limit: int) -> bytes:
        """An image: its own bytes where they are stored, else a TIFF of its numbers.

        Raises:
            UnreadableImage: there is none, or it is damaged or larger than ``limit``.
        """
        rows = self._group(pin, group, columns)
        try:
            return _stored(rows, row, columns, limit) if as_stored else image_of(rows, row, columns, limit)
        except ValueError as error:
            raise UnreadableImage(f"{pin.url}: row {row} of group {group}: {error}") from None

    def _footer(self, pin: Pin) -> pq.FileMetaData:
        with self._lock:
            if (known := self._footers.get(pin.key)) is not None:
                return known
        file = RemoteFile(pin, self.ranges)
        try:
            with _opened(file) as table:
                footer = table.metadata
        except (ValueError, OSError) as error:
            raise file.error or UnreadableImage(f"{pin.url}: {error}") from None
        with self._lock:
            self._footers[pin.key] = footer
            while len(self._footers) > FOOTERS:
                self._footers.popitem(last=False)
        return footer

    def _group(self, pin: Pin, group: int, columns: ArrayColumns) -> pa.Table:
        key = pin.key, group, columns
        with self._lock:
            held = self._held.setdefault(key, _Held())
            self._held.move_to_end(key)
            while len(self._held) > GROUPS:
                self._held.popitem(last=False)
        with held.lock:
            if held.rows is None:
                held.rows = self._load(pin, group, columns)
            return held.rows

    def _load(self, pin: Pin, group: int, columns: ArrayColumns) -> pa.Table:
        file, footer = RemoteFile(pin, self.ranges, spooled=False), self._footer(pin)
        try:
            with _opened(file, footer) as table:
                return load_group(table, group, columns)
        except (ValueError, OSError) as error:
            raise file.error or UnreadableImage(f"{pin.url}: {error}") from None


def _opened(file: RemoteFile, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """A table, whose columns are read as ranges of their own.

    Raises:
        ValueError: it is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        as_stored = None if footer is None else byte_columns(footer)
        return pq.ParquetFile(file, metadata=footer, pre_buffer=False, read_dictionary=as_stored)
    except pa.ArrowException as error:
        raise ValueError(f"no Parquet table ({str(error).splitlines()[0]})") from None


def _stored(rows: pa.Table, row: int, columns: ArrayColumns, limit: int) -> bytes:
    if not 0 <= row < len(rows):
        raise ValueError("no such row; if the table changed since it was listed, run with --relist")
    data = bytes_of(rows[columns.names[0]][row].as_py())
    if data is None:
        raise ValueError("no image in this row")
    within(len(data), limit)
    return data
