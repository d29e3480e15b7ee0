"""Pages of one column of byte strings in a Parquet file: where they lie, and their values.

Arrow reads row groups only whole. Follows the Parquet format 2.10 (page headers in Thrift's compact protocol; encodings
``PLAIN``, ``PLAIN_DICTIONARY`` and ``RLE_DICTIONARY``; data pages of both versions) for columns that do not repeat.
"""

from __future__ import annotations

import bisect
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, NamedTuple

from curation.containers.container import within

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_PAGE = 1 << 30
"""Bytes of a page above which it is not read, compressed or not."""

SPARSE = 4 << 10
"""Mean bytes of a value from which a page that is not compressed is read by the value."""
MAX_ROWS = 1 << 20
"""Rows of a page above which it is left to Arrow."""

_DATA, _INDEX, _DICTIONARY, _DATA_V2 = 0, 1, 2, 3
_PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY = 0, 2, 8
_CODECS = {"SNAPPY": "snappy", "GZIP": "gzip", "BROTLI": "brotli", "ZSTD": "zstd", "LZ4": "lz4_raw"}
_HEADER = 16 << 10
"""Bytes read to find a page's header; with long statistics it is longer and read again."""

Struct = dict[int, "int | bytes | Struct | None"]


class ParquetPage(NamedTuple):
    """One data page, or the dictionary."""

    first_row: int
    rows: int
    offset: int
    """Of what follows the header."""
    packed: int
    unpacked: int
    encoding: int
    crc: int | None
    levels: int | None
    """Bytes of definition levels in front of the values (version 2); null: they say so themselves (version 1)."""
    is_packed: bool


@dataclass(frozen=True)
class Chunk:
    """The pages of one column in one row group."""

    pages: tuple[ParquetPage, ...]
    dictionary: ParquetPage | None
    codec: str | None
    max_level: int
    """Definition level of a value that is there; 0 where none can be absent."""

    def page_of(self, row: int) -> int:
        """Number of the page that a row lies in.

        Raises:
            ValueError: there is none.
        """
        at = bisect.bisect_right(self.pages, row, key=lambda page: page.first_row) - 1
        if at < 0 or row >= self.pages[at].first_row + self.pages[at].rows:
            raise ValueError("no such row; if the table changed since it was listed, run with --relist")
        return at


@dataclass(frozen=True)
class Values:
    """The values of a page: where each lies in ``data``, or in the file where the page is large and not compressed."""

    data: bytes | None
    offset: int
    places: list[tuple[int, int] | None]
    """Start and end; None where there is no value."""

    def value(self, stream: IO[bytes], row: int, limit: int) -> bytes | None:
        """One value.

        Raises:
            ValueError: longer than ``limit``.
        """
        place = self.places[row]
        if place is None:
            return None
        start, end = place
        within(end - start, limit)
        if self.data is not None:
            return self.data[start:end]
        return _exactly(stream, self.offset + start, end - start)


@dataclass(frozen=True)
class _OnDisk:
    """Bytes of a page that are read where they are looked at."""

    stream: IO[bytes]
    page: ParquetPage

    def __getitem__(self, part: slice) -> bytes:
        stop = min(part.stop, self.page.packed)
        return _exactly(self.stream, self.page.offset + part.start, max(stop - part.start, 0))


# ------------------------------------------------------------------------------------------------ headers


def walk(stream: IO[bytes], start: int, size: int, rows: int, codec: str, max_level: int) -> Chunk | None:
    """Find the pages of a column chunk by their headers, without their values.

    Args:
        stream: the file.
        start: where the chunk begins, from the footer.
        size: its bytes.
        rows: of the row group.
        codec: as pyarrow names it.
        max_level: of definition.

    Returns:
        None where a page has an encoding, or the chunk a compression, that is not read here.

    Raises:
        ValueError: damaged.
    """
    if codec != "UNCOMPRESSED" and codec not in _CODECS:
        return None
    found: list[ParquetPage] = []
    dictionary, at, row = None, start, 0
    while row < rows:
        kind, page = _page(stream, at, row, start + size - at)
        if kind == _DICTIONARY:
            dictionary = page
        elif kind in (_DATA, _DATA_V2):
            if page.encoding not in (_PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY) or page.rows > MAX_ROWS:
                return None
            if page.rows > rows - row:
                raise ValueError("a page with more rows than its row group")
            found.append(page)
            row += page.rows
        at = page.offset + page.packed
    return Chunk(tuple(found), dictionary, _CODECS.get(codec), max_level)


def _page(stream: IO[bytes], at: int, row: int, left: int) -> tuple[int, ParquetPage]:
    """Kind and place of the page whose header is at ``at``, in a chunk of which so many bytes are left."""
    if left <= 0:
        raise ValueError("a row group whose pages lack rows")
    header, length = _header(stream, at, left)
    kind, unpacked, packed = (_number(header, field) for field in (1, 2, 3))
    facts = header.get({_DATA: 5, _INDEX: 6, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, -1), {})
    if not isinstance(facts, dict) or packed < 0 or unpacked < 0 or length + packed > left:
        raise ValueError("a damaged page header")
    is_second = kind == _DATA_V2
    crc = header.get(4)
    return kind, ParquetPage(
        first_row=row,
        rows=_number(facts, 1) if kind != _INDEX else 0,
        offset=at + length,
        packed=within(packed, MAX_PAGE),
        unpacked=within(unpacked, MAX_PAGE),
        encoding=_number(facts, 4 if is_second else 2) if kind != _INDEX else 0,
        crc=crc & 0xFFFFFFFF if isinstance(crc, int) else None,
        levels=_number(facts, 5) if is_second else None,
        is_packed=bool(facts.get(7, 1)) if is_second else True,
    )


def _header(stream: IO[bytes], at: int, left: int) -> tuple[Struct, int]:
    wanted = _HEADER
    while True:
        stream.seek(at)
        data = stream.read(min(wanted, left))
        try:
            return _thrift(data, 0, 0)
        except IndexError:
            if wanted >= left or wanted >= 1 << 24:
                raise ValueError("a damaged page header") from None
            wanted *= 16


def _number(fields: Struct, field: int) -> int:
    value = fields.get(field)
    if not isinstance(value, int) or value < 0:
        raise ValueError("a damaged page header")
    return value


def _thrift(data: bytes, at: int, depth: int) -> tuple[Struct, int]:
    """A struct in Thrift's compact protocol, and where it ends. Lists and maps, which page headers lack, are refused.

    Raises:
        IndexError: it goes on behind the data.
    """
    fields: Struct = {}
    field = 0
    while data[at]:
        kind, step = data[at] & 15, data[at] >> 4
        at += 1
        if step:
            field += step
        else:
            field, at = _zigzag(data, at)
        value: int | bytes | Struct | None = None
        if kind in (1, 2):
            value = int(kind == 1)
        elif kind == 3:
            value, at = data[at], at + 1
        elif kind in (4, 5, 6):
            value, at = _zigzag(data, at)
        elif kind == 7:
            at += 8
        elif kind == 8:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        elif kind == 12 and depth < 4:
            value, at = _thrift(data, at, depth + 1)
        else:
            raise ValueError("a damaged page header")
        fields[field] = value
    return fields, at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a damaged number")


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


# ------------------------------------------------------------------------------------------------ values


def read(stream: IO[bytes], chunk: Chunk, page: ParquetPage) -> Values:
    """Values of a page.

    Raises:
        ValueError: damaged.
    """
    data, size, levels = _body(stream, chunk, page)
    present = [True] * page.rows
    at = 0
    if chunk.max_level:
        if levels is None:  # version 1: in front of the values, with their length
            at = 4 + int.from_bytes(data[0:4], "little")
            levels = data[4:at]
        found = _hybrid(levels, chunk.max_level.bit_length(), page.rows)
        present = (found == chunk.max_level).tolist()
    count = sum(present)
    if page.encoding == _PLAIN:
        places = _plain(data, at, count, size)
    else:
        if chunk.dictionary is None:
            raise ValueError("a page without its dictionary")
        numbers = _indexes(data[at:size], count)
        page = chunk.dictionary
        data, size, _ = _body(stream, chunk, page)
        words = _plain(data, 0, page.rows, size)
        places = [words[number] for number in numbers]
    following = iter(places)
    return Values(
        data if isinstance(data, bytes) else None,
        page.offset,
        [next(following) if here else None for here in present],
    )


def _body(stream: IO[bytes], chunk: Chunk, page: ParquetPage) -> tuple[bytes | _OnDisk, int, bytes | None]:
    """A page without compression, its size, and its definition levels where they lie outside of it (version 2)."""
    is_plain = chunk.codec is None and page.crc is None and page.levels is None and page.encoding == _PLAIN
    if is_plain and page.packed > SPARSE * page.rows:
        return _OnDisk(stream, page), page.packed, None
    data = _exactly(stream, page.offset, page.packed)
    if page.crc is not None and zlib.crc32(data) != page.crc:
        raise ValueError("wrong checksum")
    levels = None if page.levels is None else data[: page.levels]
    body, size = data[page.levels or 0 :], page.unpacked - (page.levels or 0)
    if chunk.codec is not None and page.is_packed and size:
        body = _unpacked(body, chunk.codec, size)
    return body, len(body), levels


def _exactly(stream: IO[bytes], offset: int, size: int) -> bytes:
    stream.seek(offset)
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("cut short")
    return data


def _unpacked(data: bytes, codec: str, size: int) -> bytes:
    import pyarrow as pa

    try:
        return bytes(pa.Codec(codec).decompress(data, decompressed_size=size, asbytes=True))
    except pa.ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from None


def _plain(data: bytes | _OnDisk, at: int, count: int, size: int) -> list[tuple[int, int]]:
    """Places of strings that lie one after another, each behind its length."""
    places = []
    for _ in range(count):
        start = at + 4
        at = start + int.from_bytes(data[start - 4 : start], "little")
        if at > size or start > size:
            raise ValueError("cut short")
        places.append((start, at))
    return places


def _indexes(data: bytes, count: int) -> list[int]:
    """Numbers of words of the dictionary: a byte with their width, then the hybrid of runs and packed bits."""
    return _hybrid(data[1:], within(data[0], 32), count).tolist() if count else []


def _hybrid(data: bytes, width: int, count: int) -> npt.NDArray[np.int64]:
    """``count`` numbers of ``width`` bits, in runs of one value and in groups of eight that are packed."""
    import numpy as np

    out = np.zeros(count, np.int64)
    done, at, step = 0, 0, -(-width // 8)
    while done < count:
        try:
            head, at = _varint(data, at)
        except IndexError:
            raise ValueError("cut short") from None
        if head & 1:
            size = (head >> 1) * width
            bits = np.unpackbits(np.frombuffer(data[at : at + size], np.uint8), bitorder="little")
            bits = bits[: bits.size // max(width, 1) * max(width, 1)]
            values = bits.reshape(-1, max(width, 1)) @ (1 << np.arange(max(width, 1), dtype=np.int64))
            values = values[: min(count - done, (head >> 1) * 8)]
            if not values.size:
                raise ValueError("cut short")
            out[done : done + values.size] = values
            done += values.size
            at += size
        else:
            length = min(head >> 1, count - done)
            if not length or at + step > len(data):
                raise ValueError("cut short")
            out[done : done + length] = int.from_bytes(data[at : at + step], "little")
            done += length
            at += step
    return out
