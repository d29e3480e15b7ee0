"""Images inside archives and tables, read in place: a bounded number of bytes, without unpacking.

Inventory writes a member as ``@<offset>+<length> <name>``: where its header begins in the file and how many bytes it
takes there. So a read is one seek; opening an archive of a million members anew for each would take seconds each
time. A plain member name works too and is looked up. For Parquet the two numbers are row group and row,
and the name is the column; for HDF5 they are index and 0, and the name is the dataset.
"""

from __future__ import annotations

import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from curation import hdf5
from curation.errors import InputError, UnreadableImage
from curation.splitzip import zip_name

if TYPE_CHECKING:
    import pyarrow as pa

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar",)
PARQUET_SUFFIXES = (".parquet",)
HDF5_SUFFIXES = (".h5", ".hdf5")

MAX_ROW_GROUP = 4 << 30
"""Bytes of a Parquet row group above which it is not loaded: one image's row brings its whole group along."""

_LOCATED = re.compile(r"@(\d+)\+(\d+) (.*)", re.DOTALL)
_ZIP_HEADER = struct.Struct("<4s5H3I2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 0x1, 0x800


class Member(NamedTuple):
    """One file in a container: its name, its uncompressed size, and how :func:`read_member` finds it again."""

    name: str
    bytes: int
    locator: str


def kind_of(file: str) -> str | None:
    """``zip``, ``tar``, ``parquet`` or ``hdf5`` when files of this name can be read in place, else None."""
    lower = file.lower()
    kinds = {"zip": ZIP_SUFFIXES, "tar": TAR_SUFFIXES, "parquet": PARQUET_SUFFIXES, "hdf5": HDF5_SUFFIXES}
    for kind, suffixes in kinds.items():
        if lower.endswith(suffixes):
            return kind
    return None


def list_members(path: Path, image_column: str | None = None) -> Iterator[Member]:
    """List the images in a zip, an uncompressed tar, a Parquet table or an HDF5 file, in the order they are stored in.

    Links, devices and folders are not listed.

    Raises:
        InputError: not a whole archive, or a table without an image column.
    """
    listers: dict[str | None, Callable[[], Iterator[Member]]] = {
        "zip": lambda: _list_zip(path),
        "tar": lambda: _list_tar(path),
        "parquet": lambda: _list_parquet(path, image_column),
        "hdf5": lambda: _list_hdf5(path, image_column),
    }
    try:
        yield from listers[kind_of(path.name)]()
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, NotImplementedError) as error:
        raise InputError(f"{path}: not a whole archive ({error}); fetch it again") from None


def read_member(root: Path, file: str, member: str, limit: int) -> bytes:
    """Read one member's bytes.

    Args:
        root: The source's folder.
        file: The container, relative to ``root``.
        member: As inventory lists it, or the plain name.
        limit: Most uncompressed bytes to accept, checked while decompressing, whatever the header says.

    Raises:
        UnreadableImage: no such member, encrypted, damaged, or more than ``limit`` bytes.
    """
    kind = kind_of(file)
    try:
        if kind == "hdf5":
            index, _, dataset = _locate(member) or (-1, 0, "")
            return hdf5.read(root / file, dataset, index, limit)
        with (root / file).open("rb") as stream:
            if kind == "zip":
                return _read_zip(stream, member, limit)
            if kind == "tar":
                return _read_tar(stream, member, limit)
            if kind == "parquet":
                return _read_parquet(stream, member, limit)
    except (OSError, EOFError, struct.error, zlib.error, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
        raise UnreadableImage(f"{file}: {_name(member)}: {error}") from None
    raise UnreadableImage(f"{file}: not a zip, tar, Parquet or HDF5 file")


def _name(member: str) -> str:
    located = _LOCATED.fullmatch(member)
    return located[3] if located else member


def _locate(member: str) -> tuple[int, int, str] | None:
    located = _LOCATED.fullmatch(member)
    return (int(located[1]), int(located[2]), located[3]) if located else None


def _check(size: int, limit: int) -> int:
    if size > limit:
        raise ValueError(f"{size} bytes, the limit is {limit}")
    return size


# ------------------------------------------------------------------------------------------------ zip


def _list_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir() and (info.external_attr >> 28) in (0, 8):  # 8: S_IFREG; links are 10
                yield Member(zip_name(info).removeprefix("./"), info.file_size, _zip_locator(info))


def _zip_locator(info: zipfile.ZipInfo) -> str:
    return f"@{info.header_offset}+{info.compress_size} {info.orig_filename}"


def _read_zip(stream: IO[bytes], member: str, limit: int) -> bytes:
    located = _locate(member)
    if located is None:
        with zipfile.ZipFile(stream) as archive:
            try:
                info = archive.getinfo(member)
            except KeyError:
                raise ValueError("no such member") from None
        located = _locate(_zip_locator(info)) or (0, 0, "")
    offset, length, name = located
    stream.seek(offset)
    signature, _, flags, method, _, _, crc, _, _, name_length, extra_length = _ZIP_HEADER.unpack(
        stream.read(_ZIP_HEADER.size)
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


def _inflate(stream: IO[bytes], method: int, length: int, limit: int) -> bytes:
    if method == _STORED:
        data = stream.read(_check(length, limit))
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
        _check(len(out), limit)
        pending = decompressor.unconsumed_tail
    return bytes(out)


# ------------------------------------------------------------------------------------------------ tar


def _list_tar(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r:") as archive:
        while (info := archive.next()) is not None:
            if info.isreg() and not info.issparse():
                yield Member(info.name.removeprefix("./"), info.size, f"@{info.offset}+{info.size} {info.name}")
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise


def _read_tar(stream: IO[bytes], member: str, limit: int) -> bytes:
    located = _locate(member)
    if located:
        stream.seek(located[0])
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        info = archive.next() if located else next((one for one in archive if one.name == member), None)
        if info is None or not info.isreg() or info.issparse() or (located and info.name != located[2]):
            raise ValueError("the archive changed since it was listed; run with --relist")
        _check(info.size, limit)
        opened = archive.extractfile(info)
        data = opened.read() if opened else b""
    if len(data) != info.size:
        raise ValueError("cut short")
    return data


# ------------------------------------------------------------------------------------------------ Parquet


def _list_parquet(path: Path, image_column: str | None) -> Iterator[Member]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            column = _image_column(table.schema_arrow, image_column, path)
            start = 0
            for group in range(table.num_row_groups):
                values = _binary(table.read_row_group(group, columns=[column])[column])
                for row, size in enumerate(pc.binary_length(values).to_pylist()):
                    if size is not None:
                        yield Member(f"{start + row:09d}", size, f"@{group}+{row} {column}")
                start += len(values)
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a Parquet table ({str(error).splitlines()[0]}); fetch it again") from None


def _image_column(schema: pa.Schema, wanted: str | None, path: Path) -> str:
    import pyarrow as pa

    binary = [pa.binary(), pa.large_binary()]
    able: list[str] = [
        field.name
        for field in schema
        if field.type in binary or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    chosen = able[0] if wanted is None and able else wanted
    if chosen is None or chosen not in able:
        raise InputError(
            f"{path}: column {wanted or '(image_column)'} holds no encoded images; "
            f"set image_column to one of: {', '.join(able) or 'none can'}"
        )
    return chosen


def _binary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The bytes of an image column: of binary, or of Hugging Face's struct of bytes and path."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _read_parquet(stream: IO[bytes], member: str, limit: int) -> bytes:
    import pyarrow.parquet as pq

    group, row, column = _locate(member) or (-1, -1, "")
    with pq.ParquetFile(stream) as table:
        groups = table.metadata
        if not 0 <= group < groups.num_row_groups or row >= groups.row_group(group).num_rows:
            raise ValueError("no such row; if the table changed since it was listed, run with --relist")
        _check(groups.row_group(group).total_byte_size, MAX_ROW_GROUP)
        value = _binary(table.read_row_group(group, columns=[column])[column])[row].as_py()
    if value is None:
        raise ValueError("no image in this row")
    _check(len(value), limit)
    return bytes(value)


def _list_hdf5(path: Path, dataset: str | None) -> Iterator[Member]:
    name, count, size = hdf5.count(path, dataset)
    for index in range(count):
        yield Member(f"{index:09d}", size, f"@{index}+0 {name}")
