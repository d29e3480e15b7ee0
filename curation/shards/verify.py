"""Checking shards: checksums, the index against the tars, every image decoded, and a third-party reader's view."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from curation.base.errors import InputError
from curation.shards.foreign import index_tar
from curation.shards.format import INDEX, ShardInfo, numbered, open_index, read_checksums

LARGE_SHARD = 3 << 29
"""Bytes above which a shard is worth a warning: 1.5 GiB, half more than the writer aims at."""
MAX_PIXELS = 1 << 26
FORMATS = ("JPEG", "PNG", "WEBP")
"""All that a shard may hold: Pillow hands other formats to programs outside of this one."""


@dataclass(frozen=True)
class Problem:
    """One finding; ``error`` means that the shards are not what their index and checksums say."""

    level: Literal["error", "warning"]
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.message}"


def verify(folder: Path) -> list[Problem]:
    """Check a folder of shards; an empty list means that it is sound.

    Raises:
        InputError: the folder, its index or its checksums are absent or cannot be read.
        FormatVersionError: they were written by another format version.
    """
    index, paths = open_index(folder)
    checksums = read_checksums(folder)
    assert checksums is not None
    with index:
        listed = {info.file: info for info in checksums.shards}
        problems = [_listing(path, listed) for path in paths]
        found = [problem for problem in problems if problem]
        if [path.name for path in paths] != list(listed):
            found.append(Problem("error", "checksums.json", "lists other shards, or another order, than index.parquet"))
        extra = sorted({path.name for path in folder.glob("*.tar")} - {path.name for path in paths})
        found += [Problem("error", name, "not listed in index.parquet") for name in extra]
        for number, path in enumerate(paths):
            if path.is_file() and path.name in listed:
                found += _shard(path, number, listed[path.name], index)
        found += _twins(index)
    return found


def _listing(path: Path, listed: dict[str, ShardInfo]) -> Problem | None:
    if not path.is_file():
        return Problem("error", path.name, "listed in index.parquet, but absent")
    if path.name not in listed:
        return Problem("error", path.name, "has no entry in checksums.json")
    return None


def _shard(path: Path, number: int, expected: ShardInfo, index: pq.ParquetFile) -> Iterator[Problem]:
    try:
        actual = index_tar(path)
    except InputError as error:
        yield Problem("error", path.name, str(error).removeprefix(f"{path}: "))
        return
    if actual.sha256 != expected.sha256 or actual.bytes != expected.bytes:
        yield Problem("error", path.name, "its bytes differ from checksums.json")
    if actual.bytes > LARGE_SHARD:
        yield Problem(
            "warning", path.name, f"{actual.bytes / (1 << 30):.2f} GiB; above 1.5 GiB a shard is slow to move"
        )
    rows = index.read_row_group(number)
    if difference := _difference(rows, numbered(actual, number)):
        yield Problem("error", path.name, f"index.parquet differs from the tar in {difference}")
    else:
        yield from _images(path, rows)
        yield from _third_party(path, rows)


def _difference(rows: pa.Table, actual: pa.Table) -> str:
    """Names of what differs; NaN equals NaN."""
    if rows.num_rows != actual.num_rows:
        return f"the number of samples ({rows.num_rows} and {actual.num_rows})"
    columns = [name for name in INDEX.names if _plain(rows[name]) != _plain(actual[name])]
    return ", ".join(columns)


def _plain(column: pa.ChunkedArray) -> list[object]:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return list(column.to_pylist())


def _images(path: Path, rows: pa.Table) -> Iterator[Problem]:
    with path.open("rb") as file:
        for row in rows.select(["key", "image_offset", "image_size", "width", "height"]).to_pylist():
            file.seek(row["image_offset"])
            if fault := _decode_fault(file.read(row["image_size"]), (row["width"], row["height"])):
                yield Problem("error", f"{path.name}: {row['key']}", fault)


def _decode_fault(data: bytes, size: tuple[int, int]) -> str:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.size != size:
                return f"is {image.size[0]}x{image.size[1]}, the index says {size[0]}x{size[1]}"
            if image.width * image.height > MAX_PIXELS:
                return f"has more than {MAX_PIXELS} pixels"
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"cannot be decoded ({error})"
    return ""


def _third_party(path: Path, rows: pa.Table) -> Iterator[Problem]:
    """Read the shard as any other project would, with the ``webdataset`` library, and compare sample by sample."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    expected = rows.select(["key", "image_format", "image_sha256", "json_size"]).to_pylist()
    seen = 0
    # A plain file object: a path with a colon or a `pipe:` in its name must not become a command.
    with path.open("rb") as file:
        samples = group_by_keys(tar_file_expander([{"url": path.name, "stream": file}]))
        for sample, row in zip(_with_images(samples), expected, strict=False):
            seen += 1
            image = sample.get(row["image_format"], sample.get("jpeg", b""))
            if sample["__key__"] != row["key"] or hashlib.sha256(image).digest() != row["image_sha256"]:
                yield Problem("error", f"{path.name}: {row['key']}", f"webdataset reads {sample['__key__']!r} instead")
                return
    if seen != len(expected):
        yield Problem("error", path.name, f"webdataset reads {seen} samples, the index says {len(expected)}")


def _with_images(samples: Iterator[dict[str, bytes]]) -> Iterator[dict[str, bytes]]:
    return (sample for sample in samples if {"jpg", "jpeg", "png", "webp"} & set(sample))


def _twins(index: pq.ParquetFile) -> Iterator[Problem]:
    counts = pc.value_counts(index.read(columns=["key"])["key"])
    for pair in counts.filter(pc.greater(counts.field("counts"), 1)).to_pylist():
        yield Problem("error", "index.parquet", f"key {pair['values']!r} comes {pair['counts']} times")
