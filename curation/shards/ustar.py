"""Headers of the tars that this project writes: POSIX ustar, with all that differs between machines set to zero.

Byte for byte what :mod:`tarfile` writes for a :class:`tarfile.TarInfo` of that name and size with mode 0644, in a
tenth of its time. So a reader can compare a header with the one that must be there instead of parsing it.
"""

from __future__ import annotations

from functools import lru_cache

BLOCK = 512
"""Bytes of a header; members are padded to a multiple of it."""
RECORD = 20 * BLOCK
"""A tar is padded to a multiple of it."""
MAX_NAME = 100
"""Bytes of a name without a prefix."""

_MODE = b"0000644\0" + b"0000000\0" * 2
_MTIME = b"%011o\0" % 0
_REST = (b"0" + bytes(100) + b"ustar\x0000" + bytes(64)).ljust(BLOCK - 156, b"\0")
_FIXED = sum(_MODE) + sum(_MTIME) + sum(_REST) + 8 * ord(" ")


def header(name: str, size: int) -> bytes:
    """Header of a plain file.

    Args:
        name: ASCII, at most 100 characters.
        size: bytes, below 8 GiB.
    """
    own, octal = name.encode("ascii"), _octal(size)
    total = _FIXED + sum(own) + sum(octal)
    return b"%b%b%b%b%06o\0 %b" % (own.ljust(MAX_NAME, b"\0"), _MODE, octal, _MTIME, total, _REST)


@lru_cache(maxsize=4096)
def _octal(size: int) -> bytes:
    if not 0 <= size < 1 << 33:
        raise ValueError(f"{size} bytes: a ustar member has at most 8 GiB")
    return b"%011o\0" % size


def padding(size: int) -> bytes:
    """Zeros that follow a member of so many bytes."""
    return bytes(-size % BLOCK)


def end(written: int) -> bytes:
    """Zeros that close a tar of so many bytes: two blocks, and up to a whole record."""
    closed = written + 2 * BLOCK
    return bytes(2 * BLOCK + -closed % RECORD)


def stored_size(head: bytes) -> int | None:
    """Bytes of the member that a header of any tar announces; null where its checksum is not that of its bytes."""
    try:
        total, size = int(head[148:156].strip(b" \0"), 8), head[124:136]
        told = int.from_bytes(size[1:], "big") if size[0] & 0x80 else int(size.strip(b" \0") or b"0", 8)
    except (ValueError, IndexError):
        return None
    return told if total == sum(head[:148]) + 8 * ord(" ") + sum(head[156:]) else None


def stored_name(head: bytes) -> bytes | None:
    """Name that a header holds; null where it may be longer than the header."""
    name = head[:MAX_NAME]
    return None if head[345:346] != b"\0" or b"\0" not in name else name.partition(b"\0")[0]
