"""Members of an uncompressed tar of raw images. Shards, which are tars too, are :mod:`curation.shards.foreign`."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from curation.containers.container import Container, Member, locate, within


def _list(path: Path, column: str | None) -> Iterator[Member]:
    size = path.stat().st_size
    with tarfile.open(path, "r:") as archive:
        while (info := archive.next()) is not None:
            if info.isreg() and not info.issparse():
                if info.offset_data + info.size > size:
                    raise EOFError(f"{info.name} is cut short")
                yield Member(info.name.removeprefix("./"), info.size, f"@{info.offset}+{info.size} {info.name}")
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
        _check_end(path, archive.offset)  # type: ignore[attr-defined]


def _check_end(path: Path, offset: int) -> None:
    """Check that a tar ends where its reader stopped: a damaged header ends it for tarfile, without a word."""
    with path.open("rb") as stream:
        stream.seek(offset)
        if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"damaged header at byte {offset}")


def _read(path: Path, member: str, limit: int) -> bytes:
    located = locate(member)
    with path.open("rb") as stream:
        if located:
            stream.seek(located[0])
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            info = archive.next() if located else next((one for one in archive if one.name == member), None)
            if info is None or not info.isreg() or info.issparse() or (located and info.name != located[2]):
                raise ValueError("the archive changed since it was listed; run with --relist")
            within(info.size, limit)
            opened = archive.extractfile(info)
            data = opened.read() if opened else b""
    if len(data) != info.size:
        raise ValueError("cut short")
    return data


TAR = Container("tar", (".tar",), _list, _read)
