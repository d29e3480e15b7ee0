"""Rows of a Parquet table, listed from its footer and read page by page.

A page is at most about a thousand images, whatever a row group holds, and only the last one is kept. One that is not
compressed is not even read: its lengths tell where each image lies. So reading costs as little in a group of ten
thousand rows as in one of a hundred. Pages of an encoding that only Arrow reads bring their whole group along.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from curation.base.errors import InputError
from curation.containers import parquet_arrays as arrays
from curation.containers import parquet_pages as pages
from curation.containers.container import BrokenArchive, Container, Member, locate, within
from curation.containers.parquet_arrays import ArrayColumns, check_columns

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_ROW_GROUP = 1 << 30
"""Bytes of a row group's column above which it is not loaded whole."""

Version = tuple[Path, int, int, int]
"""Path, size, time and inode of a table: what is remembered of it holds for this version alone."""


class _Column(NamedTuple):
    """The leaf column of encoded images in one row group."""

    number: int
    name: str
    """Of the top-level column; the leaf may be ``bytes`` in it."""
    rows: int


def _list(path: Path, image_column: str | None) -> Iterator[Member]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    of_numbers = ArrayColumns.of(image_column)
    try:
        with pq.ParquetFile(path) as table:
            if of_numbers is not None:
                check_columns(table.schema_arrow, of_numbers, lambda: str(path))
                yield from arrays.list_arrays(table.metadata, of_numbers)
                return
            name = _image_column(table.schema_arrow, image_column, path)
            footer = table.metadata
    except pa.ArrowException as error:
        raise BrokenArchive(path, f"not a Parquet table ({str(error).splitlines()[0]}); fetch it again") from None
    version, start = _version(path), 0
    for group in range(footer.num_row_groups):
        column = _column(footer, group, name)
        facts = footer.row_group(group).column(column.number)
        absent = _null_rows(version, footer, group, column)
        present = column.rows - len(absent)
        if present > 8 * facts.total_compressed_size:
            raise ValueError(f"{present} images in {facts.total_compressed_size} bytes")
        for row in range(column.rows) if present else ():
            if row not in absent:
                yield Member(f"{start + row:09d}", facts.total_uncompressed_size // present, f"@{group}+{row} {name}")
        start += column.rows


def _image_column(schema: pa.Schema, wanted: str | None, path: Path) -> str:
    import pyarrow as pa

    binary = [pa.binary(), pa.large_binary()]
    able: list[str] = [
        field.name
        for field in schema
        if field.type in binary
        or (pa.types.is_struct(field.type) and any(one.name == "bytes" and one.type in binary for one in field.type))
    ]
    chosen = able[0] if wanted is None and able else wanted
    if chosen is None or chosen not in able:
        raise InputError(
            f"{path}: column {wanted or '(image_column)'} holds no encoded images; "
            f"set image_column to one of: {', '.join(able) or 'none can'}"
        )
    return chosen


def _column(footer: pq.FileMetaData, group: int, name: str) -> _Column:
    """The column of binary, or ``bytes`` of Hugging Face's struct of bytes and path."""
    leaves = [footer.schema.column(index).path for index in range(footer.num_columns)]
    found = next((leaf for leaf in (name, f"{name}.bytes") if leaf in leaves), None)
    if found is None:
        raise ValueError(f"no column {name}; if the table changed since it was listed, run with --relist")
    return _Column(leaves.index(found), name, footer.row_group(group).num_rows)


def _null_rows(version: Version, footer: pq.FileMetaData, group: int, column: _Column) -> Collection[int]:
    """Rows without an image. Where the footer says neither that there is none nor that all are, the pages tell.

    Of a damaged row group all rows are listed, so that each gets its verdict and the groups behind it their rows.
    """
    statistics = footer.row_group(group).column(column.number).statistics
    count = statistics.null_count if statistics is not None and statistics.has_null_count else None
    if footer.schema.column(column.number).max_definition_level == 0 or count == 0:
        return ()
    if count == column.rows:
        return range(column.rows)
    try:
        chunk = _chunk(version, group, column.name)
        if chunk is None:
            values = _group(version, group, column.name)
            return frozenset(row for row in range(column.rows) if not values[row].is_valid)
        return frozenset(
            page.first_row + row
            for number, page in enumerate(chunk.pages)
            for row, place in enumerate(_values(version, group, column.name, number).places)
            if place is None
        )
    except (ValueError, IndexError):
        return ()


def _read(path: Path, member: str, limit: int) -> bytes:
    group, row, name = locate(member) or (-1, -1, "")
    version = _version(path)
    if (of_numbers := ArrayColumns.of(name)) is not None:
        return arrays.image_of(_arrays(version, group, of_numbers), row, of_numbers, limit)
    chunk = _chunk(version, group, name)
    if chunk is not None:
        number = chunk.page_of(row)
        values = _values(version, group, name, number)
        with path.open("rb", 0) as stream:
            value = values.value(stream, row - chunk.pages[number].first_row, limit)
    else:
        loaded = _group(version, group, name)
        value = loaded[row].as_py() if row < len(loaded) else None
    if value is None:
        raise ValueError("no image in this row; if the table changed since it was listed, run with --relist")
    within(len(value), limit)
    return value


def _version(path: Path) -> Version:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns, status.st_ino


@lru_cache(maxsize=16)
def _footer(version: Version) -> pq.FileMetaData:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(version[0])
    except pa.ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from None


@lru_cache(maxsize=256)
def _chunk(version: Version, group: int, name: str) -> pages.Chunk | None:
    """Where the pages of a row group's images lie; None where they must be left to Arrow."""
    footer = _footer(version)
    if not 0 <= group < footer.num_row_groups:
        raise ValueError("no such row; if the table changed since it was listed, run with --relist")
    column = _column(footer, group, name)
    facts, leaf = footer.row_group(group).column(column.number), footer.schema.column(column.number)
    start = facts.data_page_offset
    if facts.has_dictionary_page and facts.dictionary_page_offset:
        start = min(start, facts.dictionary_page_offset)
    if facts.file_path:
        raise ValueError("its images lie in another file")
    if leaf.max_repetition_level:
        return None
    with version[0].open("rb", 0) as stream:
        return pages.walk(
            stream, start, facts.total_compressed_size, column.rows, facts.compression, leaf.max_definition_level
        )


@lru_cache(maxsize=1)
def _values(version: Version, group: int, name: str, number: int) -> pages.Values:
    chunk = _chunk(version, group, name)
    assert chunk is not None  # the caller has asked
    with version[0].open("rb", 0) as stream:
        return pages.read(stream, chunk, chunk.pages[number])


@lru_cache(maxsize=1)
def _group(version: Version, group: int, name: str) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    footer = _footer(version)
    column = _column(footer, group, name)
    within(footer.row_group(group).column(column.number).total_uncompressed_size, MAX_ROW_GROUP)
    try:
        with pq.ParquetFile(version[0]) as table:
            values = table.read_row_group(group, columns=[footer.schema.column(column.number).path])[name]
    except pa.ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from None
    return pc.struct_field(values, "bytes") if pa.types.is_struct(values.type) else values


@lru_cache(maxsize=1)
def _arrays(version: Version, group: int, columns: ArrayColumns) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(version[0], read_dictionary=arrays.byte_columns(_footer(version))) as table:
            return arrays.load_group(table, group, columns)
    except pa.ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from None


PARQUET = Container("parquet", (".parquet",), _list, _read, is_table=True)
