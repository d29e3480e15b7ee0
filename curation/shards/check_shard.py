"""One shard against its index and checksum, in one pass over its bytes.

Samples are walked in the order of the index. In shards of ours every header must be the one that name and size give,
samples must follow one another without a gap, and the metadata must be those that the key and the index were made from.
In shards from elsewhere only what the index says is asked. Where ``checksums.json`` vouches for the index, the SHA-256
of the tar proves the images too; they are hashed one by one only to name those at fault.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curation.base.arrays import Ints
from curation.base.errors import DAMAGED_IMAGE
from curation.catalogue import Window, tile_id
from curation.shards import ustar
from curation.shards.foreign import MAX_IMAGE_BYTES, MAX_JSON_BYTES
from curation.shards.foreign import PILLOW_FORMATS as FORMATS
from curation.shards.format import INDEX_FILE, ShardInfo, meta_columns

LARGE_SHARD = 3 << 29
"""Bytes above which a shard is worth a warning: 1.5 GiB, half more than the writer aims at."""
MAX_PIXELS = 1 << 26
_CHUNK = 1 << 20
"""Bytes that are read at once; more where a sample is larger."""
_JSON = json.JSONDecoder()
_TOLD = 20
"""Samples at fault that are named of one shard."""

Level = Literal["quick", "bytes", "decode"]
"""``quick``: sizes and the index; ``bytes``: every byte is read; ``decode``: every image is decoded as well."""


@dataclass(frozen=True)
class Problem:
    """One finding; ``error`` means that the shards are not what their index and checksums say."""

    level: Literal["error", "warning"]
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.message}"


@dataclass(frozen=True)
class ShardCheck:
    """One shard to check; travels to the workers."""

    path: Path
    number: int
    """Of its row group in the index."""
    info: ShardInfo
    """What ``checksums.json`` says of it."""
    level: Level
    ours: bool
    """Whether this project wrote it, so that every byte of a header is known."""
    index_whole: bool
    """Whether ``checksums.json`` vouches for the index."""

    def __str__(self) -> str:
        return self.path.name

    def fault(self, message: str, key: str = "") -> Problem:
        """An error in the shard, or in one of its samples."""
        return Problem("error", f"{self.path.name}: {key}" if key else self.path.name, message)


def check_shard(part: ShardCheck) -> list[Problem]:
    """Check one shard; an empty list means that it is sound."""
    try:
        with pq.ParquetFile(part.path.parent / INDEX_FILE) as index:
            rows = index.read_row_group(part.number)
    except (pa.ArrowException, OSError) as error:
        told = str(error).splitlines()[0]
        return [Problem("error", INDEX_FILE, f"row group {part.number} of {part} cannot be read ({told})")]
    try:
        return list(_problems(part, rows))
    except OSError as error:
        return [part.fault(f"cannot be read ({error.strerror or error})")]


def _problems(part: ShardCheck, rows: pa.Table) -> Iterator[Problem]:
    size = part.path.stat().st_size
    if size != part.info.bytes:
        yield part.fault(f"has {size:,} bytes, checksums.json says {part.info.bytes:,}")
    if size > LARGE_SHARD:
        told = f"{size / (1 << 30):.2f} GiB; above 1.5 GiB a shard is slow to move"
        yield Problem("warning", part.path.name, told)
    if len(rows) != part.info.samples:
        yield part.fault(f"index.parquet has {len(rows)} samples of it, checksums.json says {part.info.samples}")
    if set(rows["shard"].to_pylist()) - {part.number}:
        yield part.fault(f"index.parquet does not call it shard {part.number} throughout")
    index = _Index(rows, hashed=not part.index_whole or part.level == "decode")
    if misplaced := index.misplaced(part):
        yield misplaced
    elif part.level != "quick" and len(rows):
        yield from _read(part, index)


class _Index:
    """A shard's rows of the index as lists, N long, and where its samples lie.

    Attributes:
        starts: (N,) first byte of each sample's first header.
        ends: (N,) the byte after its last member.
    """

    def __init__(self, rows: pa.Table, hashed: bool) -> None:
        names = ("image_offset", "image_size", "json_offset", "json_size", "width", "height", "gsd_m")
        numbers = {name: rows[name].to_numpy() for name in names}
        image_at, image_size, meta_at, meta_size = (numbers[name].astype(np.int64) for name in names[:4])
        self.image_at, self.image_size, self.meta_at, self.meta_size, self.width, self.height, self.gsd = (
            numbers[name].tolist() for name in names
        )
        self.key, self.kind, self.source, self.licence = (
            rows[name].cast(pa.string()).to_numpy(zero_copy_only=False).tolist()
            for name in ("key", "image_format", "source", "licence")
        )
        self._sha256 = rows["image_sha256"]
        self.sha256: list[bytes | None] = self._sha256.to_pylist() if hashed else []
        none = meta_at < 0
        self.starts = np.where(none, image_at, np.minimum(image_at, meta_at)) - ustar.BLOCK
        ends = np.where(none, image_at + image_size, np.maximum(image_at + image_size, meta_at + meta_size))
        self.ends: Ints = np.where((image_size < 0) | (meta_size < 0), -1, ends)

    def hash_too(self) -> None:
        """Take the images' hashes along after all."""
        self.sha256 = self._sha256.to_pylist()

    def misplaced(self, part: ShardCheck) -> Problem | None:
        """The first sample that does not follow the one before, or ends behind the tar's end."""
        previous = np.concatenate([[0], self.ends[:-1]])
        if part.ours:
            wrong = self.starts != previous + -previous % ustar.BLOCK
            wrong[1:] |= np.array([a >= b for a, b in pairwise(self.key)], bool)
        else:
            wrong = self.starts < previous
        wrong |= (self.ends <= self.starts) | (self.ends > part.info.bytes)
        if (largest := max(self.image_size, default=0)) > MAX_IMAGE_BYTES:
            return part.fault(f"index.parquet speaks of an image of {largest:,} bytes")
        if wrong.any():
            return part.fault("index.parquet says that it lies where it cannot", self.key[int(np.argmax(wrong))])
        return None


def _read(part: ShardCheck, index: _Index) -> Iterator[Problem]:
    digest = hashlib.sha256()
    found: list[Problem] = []
    with part.path.open("rb", buffering=0) as file:
        for number, data, base in _samples(file, index.ends, digest.update):
            if len(found) < _TOLD:
                found += _sample_faults(part, index, number, data, base)
        if digest.hexdigest() != part.info.sha256:
            yield part.fault("its bytes differ from checksums.json")
            if not index.sha256:
                index.hash_too()
                file.seek(0)
                found += _damaged(part, index, _samples(file, index.ends, lambda _: None))
    yield from found[:_TOLD]


def _samples(file: FileIO, ends: Ints, pass_by: Callable[[memoryview], None]) -> Iterator[tuple[int, memoryview, int]]:
    """Number of every sample, bytes in which it lies, and the place of their first in the tar; all bytes pass by once.

    The bytes are overwritten by the next ones: a buffer that stays where it is spares the time to get memory.
    """
    at, first = 0, 0
    buffer = memoryview(bytearray(max(_CHUNK, int(np.diff(ends, prepend=0).max()))))
    while first < len(ends):
        last = max(int(np.searchsorted(ends, at + _CHUNK, side="right")), first + 1)
        data = _filled(file, buffer[: int(ends[last - 1]) - at])
        pass_by(data)
        for number in range(first, last):
            yield number, data, at
        at, first = at + len(data), last
    while len(data := _filled(file, buffer)):
        pass_by(data)


def _filled(file: FileIO, buffer: memoryview) -> memoryview:
    """The buffer with the file's next bytes, as far as there are any."""
    filled = 0
    while filled < len(buffer) and (more := file.readinto(buffer[filled:])):
        filled += more
    return buffer[:filled]


def _sample_faults(part: ShardCheck, index: _Index, number: int, data: memoryview, base: int) -> Iterator[Problem]:
    key = index.key[number]
    if not _heads_fit(part, index, number, data, base):
        yield part.fault("a header in the tar is not the one that index.parquet asks for", key)
        return
    if index.sha256 or part.level == "decode":
        at = index.image_at[number] - base
        image = data[at : at + index.image_size[number]]
        if index.sha256 and _differs(image, index.sha256[number]):
            yield part.fault("its image differs from index.parquet", key)
        size = (index.width[number], index.height[number])
        if part.level == "decode" and (fault := _decode_fault(bytes(image), size)):
            yield part.fault(fault, key)
    at, length = index.meta_at[number] - base, index.meta_size[number]
    if index.meta_at[number] >= 0 and length <= MAX_JSON_BYTES:
        try:
            meta = _JSON.decode(str(data[at : at + length], "utf-8"))
        except (ValueError, RecursionError):
            meta = None
            if part.ours:
                yield part.fault("its JSON is not valid", key)
        if meta is not None and (fault := _meta_fault(part.ours, index, number, meta)):
            yield part.fault(fault, key)


def _heads_fit(part: ShardCheck, index: _Index, number: int, data: memoryview, base: int) -> bool:
    """Whether a header before the image, in our shards before the metadata too, is the one that must be there."""
    key, size = index.key[number], index.image_size[number]
    at = index.image_at[number] - base
    head = bytes(data[at - ustar.BLOCK : at])  # memoryviews are compared byte by byte, bytes at once
    if part.ours:
        at = index.meta_at[number] - base
        return (
            head == ustar.header(f"{key}.{index.kind[number]}", size)
            and at >= ustar.BLOCK
            and bytes(data[at - ustar.BLOCK : at]) == ustar.header(f"{key}.json", index.meta_size[number])
        )
    name = ustar.stored_name(head)
    return ustar.stored_size(head) == size and (name is None or name.startswith(f"{key}.".encode()))


def _differs(image: memoryview, expected: bytes | None) -> bool:
    return expected is not None and hashlib.sha256(image).digest() != expected


def _meta_fault(ours: bool, index: _Index, number: int, meta: Any) -> str:
    """What the metadata say that the index, or the key, does not."""
    if not isinstance(meta, dict):
        return "its JSON holds no mapping" if ours else ""
    told, sides = meta_columns(meta), ("width", "height") if ours else ()
    wrong = [name for name in ("source", "licence") if told[name] != getattr(index, name)[number]]
    wrong += [name for name in sides if meta.get(name) != getattr(index, name)[number]]
    if not _same(_single(told["gsd_m"]), index.gsd[number]):
        wrong.append("gsd_m")
    if wrong:
        return f"its JSON and index.parquet differ in {', '.join(wrong)}"
    return "its JSON is that of another tile" if ours and not _is_tile(meta, index.key[number]) else ""


@lru_cache(maxsize=4096)
def _single(value: float) -> float:
    """The value in the precision of the index."""
    return float(np.float32(value))


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _is_tile(meta: dict[str, Any], key: str) -> bool:
    """Whether the key ends in the id of the tile that the metadata describe."""
    try:
        return key.endswith(tile_id(meta["source"], meta["image"], Window(*meta["window"])))
    except (KeyError, TypeError):
        return False


def _decode_fault(data: bytes, size: tuple[int, int]) -> str:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.size != size:
                return f"is {image.size[0]}x{image.size[1]}, the index says {size[0]}x{size[1]}"
            if image.width * image.height > MAX_PIXELS:
                return f"has more than {MAX_PIXELS} pixels"
            image.load()
    except (*DAMAGED_IMAGE, Image.DecompressionBombError) as error:
        return f"cannot be decoded ({str(error) or type(error).__name__})"
    return ""


def _damaged(part: ShardCheck, index: _Index, samples: Iterator[tuple[int, memoryview, int]]) -> Iterator[Problem]:
    """Images at fault in a tar whose checksum is wrong, by name."""
    for number, data, base in samples:
        at = index.image_at[number] - base
        if _differs(data[at : at + index.image_size[number]], index.sha256[number]):
            yield part.fault("its image differs from index.parquet", index.key[number])
