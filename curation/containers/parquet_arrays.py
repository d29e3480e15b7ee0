"""Images that are numbers in a Parquet table: nested lists, flat lists or raw bytes, of all bands or a column per band.

Arrow reads the wanted columns of a row group and no other; one row becomes the bytes of a TIFF. A column per band may
also hold encoded one-band images, as Major TOM's do.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from curation.base.errors import InputError
from curation.containers.array_tiff import as_tiff
from curation.containers.container import Member, within

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_ROW_GROUP = 1 << 30
"""Bytes of a row group's columns above which it is not loaded."""
MAX_AXIS = 32_768
"""Rows or columns of an image."""
_ENCODED = ((b"II*\0", "GTiff"), (b"MM\0*", "GTiff"), (b"\x89PNG", "PNG"), (b"\0\0\0\x0cjP", "JP2OpenJPEG"))


class ArrayColumns(NamedTuple):
    """Which columns an image is made of, and how; as a locator holds it in place of a column's name."""

    names: tuple[str, ...]
    """One, or those of red, green and blue."""
    is_encoded: bool = False
    axes: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    frame: int = 0

    def text(self) -> str:
        """As :meth:`of` reads it."""
        return json.dumps(self, separators=(",", ":"))

    @classmethod
    def of(cls, text: str | None) -> ArrayColumns | None:
        """Of a text; null where it is a column's name."""
        if text is None or not text.startswith("[["):
            return None
        names, encoded, axes, shape, *rest = json.loads(text)
        return cls(tuple(names), encoded, axes, None if shape is None else tuple(shape), *rest)

    def leaves(self, footer: pq.FileMetaData) -> list[int]:
        """Numbers of the columns in a file.

        Raises:
            ValueError: one is absent.
        """
        paths = [footer.schema.column(index).path for index in range(footer.num_columns)]
        ends = ("", ".bytes") if self.is_encoded else None
        found = [
            [
                at
                for at, path in enumerate(paths)
                if path.split(".")[0] == name and (ends is None or path[len(name) :] in ends)
            ]
            for name in self.names
        ]
        absent = [name for name, each in zip(self.names, found, strict=True) if len(each) != 1]
        if absent:
            tops = ", ".join(dict.fromkeys(path.split(".")[0] for path in paths))
            raise ValueError(f"column {absent[0]} holds no images; there are: {tops}")
        return [each[0] for each in found]


def group_bytes(footer: pq.FileMetaData, group: int, leaves: Sequence[int]) -> tuple[int, int]:
    """Stored and unpacked bytes of some columns of a row group."""
    facts = [footer.row_group(group).column(leaf) for leaf in leaves]
    return sum(each.total_compressed_size for each in facts), sum(each.total_uncompressed_size for each in facts)


def list_arrays(footer: pq.FileMetaData, columns: ArrayColumns) -> Iterator[Member]:
    """Rows of a table as members, from its footer.

    Raises:
        ValueError: a column is absent, or a footer that lies.
    """
    leaves, start = columns.leaves(footer), 0
    for group in range(footer.num_row_groups):
        rows, (stored, _) = footer.row_group(group).num_rows, group_bytes(footer, group, leaves)
        if rows > 8 * stored:
            raise ValueError(f"{rows} images in {stored} bytes")
        for row in range(rows):
            yield Member(f"{start + row:09d}", stored // rows, f"@{group}+{row} {columns.text()}")
        start += rows


def byte_columns(footer: pq.FileMetaData) -> list[str]:
    """Columns of bytes, to be read as they are stored: a dictionary stays one, or a megabyte of it fills a terabyte."""
    leaves = [footer.schema.column(index) for index in range(footer.num_columns)]
    return [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]


def load_group(table: pq.ParquetFile, group: int, columns: ArrayColumns) -> pa.Table:
    """The wanted columns of a row group.

    Args:
        table: opened with :func:`byte_columns` as ``read_dictionary``.
        group: number of the row group.
        columns: the wanted ones.

    Raises:
        ValueError: no such group or column, it is too large, or damaged.
    """
    import pyarrow as pa

    footer = table.metadata
    if not 0 <= group < footer.num_row_groups:
        raise ValueError("no such row; if the table changed since it was listed, run with --relist")
    leaves = columns.leaves(footer)
    numbers = sum(footer.row_group(group).column(leaf).num_values for leaf in leaves)
    within(max(group_bytes(footer, group, leaves)[1], numbers), MAX_ROW_GROUP)  # runs of equal numbers take no bytes
    try:
        return table.read_row_group(group, columns=[footer.schema.column(leaf).path for leaf in leaves])
    except pa.ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from None


def image_of(rows: pa.Table, row: int, columns: ArrayColumns, limit: int) -> bytes:
    """One row as a TIFF.

    Raises:
        ValueError: no such row, no numbers in it, or not of the shape that the manifest tells.
    """
    if not 0 <= row < len(rows):
        raise ValueError("no such row; if the table changed since it was listed, run with --relist")
    values = [rows[name].slice(row, 1).combine_chunks() for name in columns.names]
    if any(each.null_count for each in values):
        raise ValueError("no image in this row")
    planes = [_decoded(each, limit) if columns.is_encoded else _array(each, columns) for each in values]
    if len({plane.shape[1:] for plane in planes}) > 1:
        raise ValueError(f"bands differ in size: {', '.join(f'{p.shape[2]}x{p.shape[1]}' for p in planes)}")
    pixels = np.concatenate(planes) if len(planes) > 1 else planes[0]
    within(pixels.nbytes, limit)
    return as_tiff(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _array(value: Any, columns: ArrayColumns) -> npt.NDArray[Any]:
    """Bands, rows, columns of one value, taken of its frame."""
    numbers, shape = _raw(value, columns) if columns.dtype else _nested(value)
    shape = columns.shape or shape
    if math.prod(shape) != len(numbers):
        raise ValueError(
            f"{len(numbers)} numbers are no array of {'x'.join(map(str, shape))}; set array: {{shape: ...}}"
        )
    axes = columns.axes or {2: "yx", 3: "tyx" if len(columns.names) > 1 else "byx", 4: "tbyx"}.get(len(shape))
    if axes is None or len(axes) != len(shape):
        raise ValueError(f"an array of {len(shape)} axes; set array: {{axes: ..., shape: ...}}")
    pixels = numbers.reshape(shape)
    if axes[0] == "t":
        if columns.frame >= shape[0]:
            raise ValueError(f"frame {columns.frame} is asked for, there are {shape[0]}")
        pixels, axes = pixels[columns.frame], axes[1:]
    pixels = pixels[None] if axes == "yx" else pixels.transpose(2, 0, 1) if axes == "yxb" else pixels
    if 0 in pixels.shape or max(pixels.shape[1:]) > MAX_AXIS:
        raise ValueError(f"an image of {pixels.shape[2]} x {pixels.shape[1]} pixels")
    return pixels


def _nested(value: Any) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
    """Numbers of a value of nested lists, and their lengths from the outermost axis on."""
    import pyarrow as pa
    import pyarrow.compute as pc

    shape: list[int] = []
    values = value.storage if isinstance(value, pa.ExtensionArray) else value
    while (
        pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type)
    ):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            raise ValueError("lists of one axis differ in length")
        shape.append(lengths[0])
        values = values.flatten()
    if not shape or values.null_count or not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise ValueError(f"holds {values.type}, not lists of numbers")
    return values.to_numpy(zero_copy_only=False), tuple(shape)


def _raw(value: Any, columns: ArrayColumns) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
    data = bytes_of(value[0].as_py())
    if data is None:
        raise ValueError(f"holds {value.type}; dtype is for raw bytes")
    kind = np.dtype(columns.dtype).newbyteorder("<")
    if len(data) % kind.itemsize:
        raise ValueError(f"{len(data)} bytes are no numbers of {columns.dtype}")
    return np.frombuffer(data, kind).astype(columns.dtype), (len(data) // kind.itemsize,)


def bytes_of(value: Any) -> bytes | None:
    """What a column of bytes holds, or Hugging Face's struct of bytes and path; null where it is neither."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else None


def _decoded(value: Any, limit: int) -> npt.NDArray[Any]:
    """The first band of an encoded image, of not more than ``limit`` bytes."""
    import rasterio

    data = bytes_of(value[0].as_py()) or b""
    driver = next((name for head, name in _ENCODED if data.startswith(head)), None)
    if driver is None:
        raise ValueError(f"holds {value.type}, no encoded band; give array where these are numbers")
    with (
        warnings.catch_warnings(action="ignore"),
        rasterio.MemoryFile(data) as memory,
        memory.open(driver=driver) as file,
    ):
        within(max(file.width, file.height), MAX_AXIS)
        within(file.width * file.height * np.dtype(file.dtypes[0]).itemsize, min(limit, MAX_ROW_GROUP))
        return np.asarray(file.read([1]))


def check_columns(schema: pa.Schema, columns: ArrayColumns, name: Callable[[], str]) -> None:
    """Check that a table has the wanted columns.

    Raises:
        InputError: it lacks one.
    """
    for wanted in columns.names:
        if wanted not in schema.names:
            raise InputError(f"{name()}: has no column {wanted}; it has: {', '.join(schema.names)}")
