"""Members of remote tars, found by reading some of their byte ranges, or all of them, one after another.

A range begins where it was drawn, and its first member at the next valid header: headers lie at multiples of 512
bytes and hold a checksum (POSIX.1-2001, ustar). What the end of a drawn range cuts is left; of a whole tar it begins
the next chunk.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from curation.base.errors import UnreadableImage
from curation.remote.remote_file import Ranges
from curation.remote.transport import Pin

_BLOCK = 512
MOST_RANGES = 1 << 20
"""That are drawn from: 67 TB in ranges of 64 MB."""


class TarMember(NamedTuple):
    """A plain file in a tar: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int
    data: bytes


def drawn_ranges(size: int, count: int | None, length: int, key: str) -> list[tuple[int, int]]:
    """Beginnings and lengths of ``count`` ranges of a file, in their order, none over another; null: one for all.

    Args:
        size: bytes of the file.
        count: how many ranges.
        length: bytes of a range.
        key: what the draw follows from.

    Raises:
        UnreadableImage: too many to draw from, since the file is said to be larger than any, or the ranges are tiny.
    """
    starts = range(0, max(size - _BLOCK, 1), max(length // _BLOCK, 1) * _BLOCK)
    if count is None or count >= len(starts):
        return [(0, size)]
    if len(starts) > MOST_RANGES:
        raise UnreadableImage(f"{size:,} bytes are too many ranges of {length:,}; raise remote.range_megabytes")
    chosen = sorted(starts, key=lambda start: hashlib.blake2b(f"{key}\0{start}".encode(), digest_size=8).digest())
    return [(start, min(length, size - start)) for start in sorted(chosen[:count])]


def members(pin: Pin, ranges: Ranges, start: int, length: int, chunk: int) -> Iterator[TarMember]:
    """Plain files that lie whole within a range of a tar, read ``chunk`` bytes at a time.

    Raises:
        RscorpusError: the bytes do not come.
    """
    end, at = start + length, start
    while at < end:
        data = ranges.transport.read(pin, at, min(max(chunk, _BLOCK), end - at))
        ranges.count(len(data))
        first = first_header(data)
        if first is None:
            at += len(data) // _BLOCK * _BLOCK or len(data)
            continue
        following = at + first
        for member in _whole(data, first):
            following = at + member.offset + -(-member.size // _BLOCK) * _BLOCK
            yield member._replace(offset=at + member.offset)
        if following <= at + first:  # one that is longer than the chunk is passed over
            following = at + len(data) // _BLOCK * _BLOCK
        if following <= at or at + len(data) >= end:
            return
        at = following


def first_header(data: bytes) -> int | None:
    """Offset of the first valid header at a multiple of 512 bytes; null where there is none."""
    for at in range(0, len(data) - _BLOCK + 1, _BLOCK):
        block = data[at : at + _BLOCK]
        if block[257:262] == b"ustar" and _sum_of(block) == _stated(block):
            return at
    return None


def _sum_of(block: bytes) -> int:
    return sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _stated(block: bytes) -> int | None:
    try:
        return int(block[148:156].strip(b"\0 ") or b"-", 8)
    except ValueError:
        return None


def _whole(data: bytes, first: int) -> Iterator[TarMember]:
    """Members that lie whole in some bytes, offsets counted from their beginning."""
    view = data[first:]
    try:
        with tarfile.open(fileobj=io.BytesIO(view), mode="r:") as tar:
            for member in tar:
                end = member.offset_data + member.size
                if end > len(view) or member.size < 0:  # a negative size leads back to the same header, for ever
                    return
                if member.isreg() and member.sparse is None:
                    yield TarMember(
                        member.name, first + member.offset_data, member.size, view[member.offset_data : end]
                    )
    except (tarfile.TarError, ValueError, OverflowError, EOFError):
        return  # what the end of the bytes cut
