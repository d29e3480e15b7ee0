"""Members of a zip in one part: stored or deflated, not encrypted."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from curation.containers.container import Container, Member, locate, within
from curation.containers.multidisk_zip import zip_name

_HEADER = struct.Struct("<4s5H3I2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 0x1, 0x800


def _list(path: Path, column: str | None) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir() and (info.external_attr >> 28) in (0, 8):  # 8: S_IFREG; links are 10
                yield Member(zip_name(info).removeprefix("./"), info.file_size, _locator(info))


def _locator(info: zipfile.ZipInfo) -> str:
    return f"@{info.header_offset}+{info.compress_size} {info.orig_filename}"


def _is_readable(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(
                info.compress_type in (_STORED, _DEFLATED) and not info.flag_bits & _ENCRYPTED
                for info in archive.infolist()
            )
    except (zipfile.BadZipFile, OSError):
        return False


def _read(path: Path, member: str, limit: int) -> bytes:
    with path.open("rb") as stream:
        offset, length, name = locate(member) or _look_up(stream, member)
        stream.seek(offset)
        signature, _, flags, method, _, _, crc, _, _, name_length, extra_length = _HEADER.unpack(
            stream.read(_HEADER.size)
        )
        stored_name = stream.read(name_length).decode("utf-8" if flags & _UTF8 else "cp437", "replace")
        if signature != b"PK\3\4" or stored_name != name:
            raise ValueError("the archive changed since it was listed; run with --relist")
        if flags & _ENCRYPTED:
            raise ValueError("encrypted")
        stream.seek(extra_length, 1)
        data = _inflate(stream, method, length, limit)
    if crc and zlib.crc32(data) != crc:
        raise ValueError("wrong checksum")
    return data


def _look_up(stream: IO[bytes], member: str) -> tuple[int, int, str]:
    with zipfile.ZipFile(stream) as archive:
        try:
            info = archive.getinfo(member)
        except KeyError:
            raise ValueError("no such member") from None
    return locate(_locator(info)) or (0, 0, "")


def _inflate(stream: IO[bytes], method: int, length: int, limit: int) -> bytes:
    if method == _STORED:
        data = stream.read(within(length, limit))
        if len(data) != length:
            raise ValueError("cut short")
        return data
    if method != _DEFLATED:
        raise ValueError(f"compression method {method} is not read in place; unpack the archive")
    decompressor = zlib.decompressobj(-15)
    out, pending = bytearray(), b""
    while not decompressor.eof:
        if not pending:
            pending = stream.read(min(length, 1 << 20))
            length -= len(pending)
            if not pending:
                raise ValueError("cut short")
        out += decompressor.decompress(pending, limit + 1 - len(out))
        within(len(out), limit)
        pending = decompressor.unconsumed_tail
    return bytes(out)


ZIP = Container("zip", (".zip",), _list, _read, is_readable=_is_readable)
