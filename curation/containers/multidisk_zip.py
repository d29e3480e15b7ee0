"""Zip archives in several disks (``a.z01``, ``a.z02``, ``a.zip``), which the standard library does not read.

Follows PKWARE's APPNOTE: the central directory, ZIP64 included, names for each member the disk and the place on it; on
the disks joined one after another that place is the disk's start plus the offset.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from curation.base.errors import InputError

_END, _END64, _LOCATOR = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_ENTRY, _LOCAL = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_DIRECTORY_LIMIT = 4 << 30

SplitMember = tuple[str, int, Callable[[], IO[bytes]]]


def open_members(joined: IO[bytes], sizes: Sequence[int]) -> Iterator[SplitMember]:
    """Files of a split zip: name, uncompressed size, and a function that opens it.

    Args:
        joined: All disks one after another, the ``.zip`` last.
        sizes: Bytes of each disk.

    Raises:
        zipfile.BadZipFile: damaged, or a disk is missing.
        InputError: a member is encrypted, a link or a device, or compressed in a way other than deflate.
    """
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    disk, offset, length = _directory(joined, starts, sum(sizes))
    joined.seek(_place(starts, disk, offset))
    directory = io.BytesIO(joined.read(min(length, _DIRECTORY_LIMIT)))
    while len(head := directory.read(_ENTRY.size)) == _ENTRY.size:
        entry = _entry(head, directory, starts)
        if entry is not None:
            name, method, crc, packed, size, place = entry
            yield name, size, lambda e=(method, crc, packed, size, place): _Inflated(joined, *e)  # type: ignore[misc]


def _place(starts: Sequence[int], disk: int, offset: int) -> int:
    if disk >= len(starts):
        raise zipfile.BadZipFile(f"disk {disk + 1} is missing")
    return starts[disk] + offset


def _directory(joined: IO[bytes], starts: Sequence[int], size: int) -> tuple[int, int, int]:
    """Disk, offset and length of the central directory."""
    tail = min(size, _END.size + _FULL16)
    joined.seek(size - tail)
    data = joined.read(tail)
    at = data.rfind(b"PK\5\6")
    if at < 0:
        raise zipfile.BadZipFile("no end of central directory; is the .zip part complete?")
    _, this, disk, _, _, length, offset, _ = _END.unpack_from(data, at)
    if this != _FULL16 and this + 1 != len(starts):
        raise zipfile.BadZipFile(f"the archive has {this + 1} parts, {len(starts)} are here")
    locator = at - _LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\6\7":
        _, end_disk, end_offset, _ = _LOCATOR.unpack_from(data, locator)
        joined.seek(_place(starts, end_disk, end_offset))
        end = joined.read(_END64.size)
        if len(end) == _END64.size and end[:4] == b"PK\6\6":
            _, _, _, _, _, disk, _, _, length, offset = _END64.unpack(end)
    return disk, offset, length


def _entry(head: bytes, directory: IO[bytes], starts: Sequence[int]) -> tuple[str, int, int, int, int, int] | None:
    """Name, method, checksum, packed and real size, and place of one member; None for a folder."""
    (magic, _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, disk, _, attributes, offset) = (
        _ENTRY.unpack(head)
    )
    if magic != b"PK\1\2":
        raise zipfile.BadZipFile("damaged central directory")
    raw = directory.read(n_name)
    extra = directory.read(n_extra)
    name = decode_name(raw, extra, utf8=bool(flags & 0x800))
    directory.read(n_comment)
    if name.endswith("/"):
        return None
    if flags & 1:
        raise InputError(f"{name} is encrypted; unpack the archive by hand")
    if attributes >> 28 not in (0, 8):
        raise InputError(f"{name!r} is a link or a device; the archive is not unpacked")
    if method not in (0, 8):
        raise InputError(f"{name}: compression method {method}; unpack the archive by hand")
    size, packed, offset, disk = _zip64(extra, size, packed, offset, disk)
    return name, method, crc, packed, size, _place(starts, disk, offset)


def decode_name(raw: bytes, extra: bytes, utf8: bool) -> str:
    """A member's name: UTF-8 where the archive says so, beside the name or by plain looks, else the old code page.

    Programs on Unix write UTF-8 without saying so, and Python reads the name that Info-ZIP writes beside from 3.13 on
    only; ids must not depend on either.
    """
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 0x7075 and len(field) > 5 and struct.unpack_from("<I", field, 1)[0] == zlib.crc32(raw):
            raw, utf8 = field[5:], True
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace") if utf8 else raw.decode("cp437")


def zip_name(info: zipfile.ZipInfo) -> str:
    """:func:`decode_name` of what the standard library read."""
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename
    return decode_name(info.orig_filename.encode("cp437", "replace"), info.extra, utf8=False)


def _zip64(extra: bytes, size: int, packed: int, offset: int, disk: int) -> tuple[int, int, int, int]:
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 1:
            wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            size = next(wide, size) if size == _FULL32 else size
            packed = next(wide, packed) if packed == _FULL32 else packed
            offset = next(wide, offset) if offset == _FULL32 else offset
            if disk == _FULL16 and len(field) >= 4:
                disk = struct.unpack("<I", field[-4:])[0]
    return size, packed, offset, disk


class _Inflated(io.RawIOBase):
    """One member's bytes, checked against size and checksum at the end."""

    def __init__(self, joined: IO[bytes], method: int, crc: int, packed: int, size: int, place: int) -> None:
        joined.seek(place)
        head = joined.read(_LOCAL.size)
        if len(head) < _LOCAL.size or head[:4] != b"PK\3\4":
            raise zipfile.BadZipFile("damaged local header")
        names = sum(_LOCAL.unpack(head)[-2:])
        self._joined, self._place = joined, place + _LOCAL.size + names
        self._left, self._crc, self._expected, self._size = packed, 0, crc, size
        self._inflate = zlib.decompressobj(-15) if method == 8 else None
        self._pending = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; nothing at the end."""
        wanted = size if size > 0 else 1 << 20
        data = self._next(wanted)
        while not data and (self._left or self._pending):
            data = self._next(wanted)
        self._crc = zlib.crc32(data, self._crc)
        if not data and self._crc != self._expected:
            raise zipfile.BadZipFile("wrong checksum")
        return data

    def _next(self, wanted: int) -> bytes:
        if not self._pending and self._left:
            self._joined.seek(self._place)
            self._pending = self._joined.read(min(self._left, wanted))
            if not self._pending:
                raise EOFError("cut short")
            self._place += len(self._pending)
            self._left -= len(self._pending)
        if self._inflate is None:
            data, self._pending = self._pending, b""
            return data
        data = self._inflate.decompress(self._pending, wanted)
        self._pending = self._inflate.unconsumed_tail
        return data
