"""The shard plan: kept rows of the catalogue, sorted by shard and position, a row group for each shard.

Sorted outside of memory, since 100 million rows do not fit: the catalogue is read once in its own order, rows are dealt
to buckets of neighbouring shards on disk, and each bucket is sorted by itself. Memory is bounded by a bucket, not by
the corpus. Words that repeat (sources, CRS) travel as numbers. Where a row's file lies is read along from the listings:
both are in order of source and image.

Each shard carries a digest of its rows: what its tar shows and in which order. Paths on disk are no part of it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.arrays import Ints
from curation.base.errors import WorkError
from curation.base.files import UNFINISHED, atomic, is_whole
from curation.catalogue import open_table
from curation.select.rows import column, fixed_bytes, numbers
from curation.select.shard_assignment import predicted_bytes
from curation.sources.recipe import ShardRules

BUCKET = 1 << 19
"""Rows that are sorted at once: about 300 MB."""
OVERHEAD = 2_560
"""Bytes that a sample takes beside its image: two headers, the metadata, padding."""

_WORDS = ("source", "crs")
_SHOWN = (
    "tile_id", "source", "image", "col_off", "row_off", "width", "height", "gsd_m", "crs", "west", "south", "east",
    "north", "phash", "shard", "position",
)  # fmt: skip
"""What of a row its sample shows."""
_READ = [*_SHOWN, "stretch", "file_bytes", "pass_through", "raw_sha256", "content_hash"]
_PLACE = ["file", "member", "band_files"]


@dataclass(frozen=True)
class ShardPart:
    """One shard: its number, where its rows lie, and what they come to."""

    number: int
    rows: str
    """File in the plan's folder."""
    row_group: int
    samples: int
    bytes: int
    """Predicted, with headers and metadata."""
    digest: str
    """Of what the tar shows: equal digests, equal samples."""
    sources: tuple[str, ...]
    encoded: bool
    """Whether any sample is encoded anew, so that the encoder's settings matter."""

    def __str__(self) -> str:
        return f"shard {self.number}"


def plan_shards(catalogue: Path, listings: Mapping[str, Path], folder: Path, rules: ShardRules) -> list[ShardPart]:
    """Sort the kept rows into shards, unless it was done before.

    Args:
        catalogue: the table that ``select`` wrote, in its order.
        listings: the ``images`` table of every source, in its order.
        folder: where the sorted rows go.
        rules: which files are copied, and what encoding is predicted to take.

    Raises:
        WorkError: a kept row is of an image that is not listed.
    """
    done = folder / "plan.json"
    if done.exists() and (parts := _read(done)) is not None:
        return parts
    with open_table(catalogue, "catalogue") as file:
        counts = _samples_per_shard(file)
        bucket_of = (np.cumsum(counts) - counts) // BUCKET
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, suffix=UNFINISHED) as aside:
            words = {name: _Words() for name in _WORDS}
            buckets = _deal(file, listings, bucket_of, words, Path(aside))
            parts = [part for bucket in buckets for part in _sort(bucket, words, folder, rules)]
    with atomic(done) as made:
        made.write_text(json.dumps([asdict(part) for part in parts]), encoding="utf-8")
    return parts


def _read(plan: Path) -> list[ShardPart] | None:
    """A plan that was made before; None when a file of it is absent."""
    parts = [ShardPart(**{**part, "sources": tuple(part["sources"])}) for part in json.loads(plan.read_bytes())]
    return parts if all(is_whole(plan.parent / name) for name in {part.rows for part in parts}) else None


def _samples_per_shard(file: pq.ParquetFile) -> Ints:
    counts = np.zeros(0, np.int64)
    for number in range(file.num_row_groups):
        shards = column(file.read_row_group(number, columns=["shard"]), "shard").drop_null().to_numpy()
        found = np.bincount(shards, minlength=len(counts))
        found[: len(counts)] += counts
        counts = found.astype(np.int64)
    return counts


# ------------------------------------------------------------------------------------------------ dealing


@dataclass
class _Words:
    """Words of a column of the whole catalogue as numbers: a CRS in WKT is long and comes with every row."""

    words: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def encode(self, values: pa.DictionaryArray) -> pa.Array:
        """Words as numbers that all tables share."""
        own = []
        for word in values.dictionary.to_pylist():
            own.append(self.numbers.setdefault(word, len(self.words)))
            if own[-1] == len(self.words):
                self.words.append(word)
        return pa.array(own, pa.int32()).take(values.indices)

    def decode(self, values: pa.Array) -> pa.DictionaryArray:
        """Numbers as words again."""
        used = pc.unique(values.drop_null())
        words = pa.array([self.words[number] for number in used.to_pylist()], pa.string())
        return pa.DictionaryArray.from_arrays(pc.index_in(values, used), words)


def _deal(
    file: pq.ParquetFile, listings: Mapping[str, Path], bucket_of: Ints, words: Mapping[str, _Words], folder: Path
) -> list[Path]:
    """Deal the kept rows to files of neighbouring shards, in Arrow's stream format."""
    paths: dict[int, Path] = {}
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with ExitStack() as stack:
        writers: dict[int, pa.RecordBatchStreamWriter] = {}
        for rows in _gathered(_located(file, listings, words)):
            bucket = bucket_of[rows["shard"].to_numpy()]
            order = np.argsort(bucket, kind="stable")
            rows, bucket = rows.take(pa.array(order)), bucket[order]
            found, starts = np.unique(bucket, return_index=True)
            for number, start, stop in zip(found, starts, [*starts[1:], len(bucket)], strict=True):
                if number not in writers:
                    paths[number] = folder / f"bucket-{number:06d}"
                    writer = pa.ipc.new_stream(str(paths[number]), rows.schema, options=options)
                    writers[number] = stack.enter_context(writer)
                writers[number].write_table(rows.slice(start, stop - start))
    return [paths[number] for number in sorted(paths)]


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables put together to about a bucket's size, so that each bucket gets more than a few rows at a time."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= BUCKET:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _located(file: pq.ParquetFile, listings: Mapping[str, Path], words: Mapping[str, _Words]) -> Iterator[pa.Table]:
    """Kept rows, a row group at a time, with the file, member and band files of their images."""
    with ExitStack() as stack:
        places: dict[str, _Places] = {}
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number, columns=_READ)
            rows = rows.filter(pc.is_valid(rows["shard"])).combine_chunks()
            if not len(rows):
                continue
            found = []
            for source, part in _by_source(rows):
                if source not in places:
                    places[source] = _Places(stack.enter_context(open_table(listings[source], "images")), source)
                found.append(places[source].of(column(part, "image")))
            for name, numbering in words.items():
                at = rows.schema.get_field_index(name)
                rows = rows.set_column(at, name, numbering.encode(column(rows, name)))
            located = pa.concat_tables(found)
            for name in _PLACE:
                rows = rows.append_column(name, located[name])
            yield rows.cast(_large(rows.schema))


def _large(schema: pa.Schema) -> pa.Schema:
    """Offsets of 64 bits for strings: more than 2 GiB of paths can lie in one bucket."""
    fields = [each.with_type(pa.large_string()) if pa.types.is_string(each.type) else each for each in schema]
    return pa.schema(fields)


def _by_source(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Runs of rows of one source, in order."""
    source = column(rows, "source")
    codes = source.indices.to_numpy()
    edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    for start, stop in pairwise(edges):
        yield source[start].as_py(), rows.slice(start, stop - start)


class _Places:
    """Where the images of one source lie: its listing, read along with the catalogue, both sorted by image."""

    def __init__(self, listing: pq.ParquetFile, source: str) -> None:
        self._file, self._source = listing, source
        self._next = 0
        self._held = self._read()

    def _read(self) -> pa.Table:
        rows = self._file.read_row_group(self._next, columns=["image", *_PLACE])
        self._next += 1
        return rows.cast(_large(rows.schema))

    def of(self, images: pa.Array) -> pa.Table:
        """File, member and band files of some images, in the order of the listing."""
        images = images.cast(pa.large_string())
        first = images[0].as_py()
        while (at := pc.index_in(images, column(self._held, "image"))).null_count:
            if self._next == self._file.num_row_groups:
                missing = images.filter(pc.is_null(at))[0].as_py()
                raise WorkError(f"{self._source}/{missing}: is kept, but not listed; run again with --relist")
            more = self._read()
            behind = self._held["image"][-1].as_py() < first  # needed no more: what comes is in order
            self._held = more if behind else pa.concat_tables([self._held, more]).combine_chunks()
        located = self._held.select(_PLACE).take(at)
        self._held = self._held.slice(at[-1].as_py())  # tiles of the last image may go on in the next row group
        return located


# ------------------------------------------------------------------------------------------------ sorting


def _sort(bucket: Path, words: Mapping[str, _Words], folder: Path, rules: ShardRules) -> list[ShardPart]:
    """Sort a bucket's rows, which is removed; one row group per shard."""
    with pa.OSFile(str(bucket), "rb") as stored, pa.ipc.open_stream(stored) as reader:
        rows = reader.read_all().combine_chunks()
    bucket.unlink()
    rows = rows.take(pa.array(np.lexsort((rows["position"].to_numpy(), rows["shard"].to_numpy()))))
    for name, numbering in words.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, numbering.decode(column(rows, name)))
    edges = [0, *(np.flatnonzero(np.diff(rows["shard"].to_numpy())) + 1).tolist(), len(rows)]
    out = folder / f"{bucket.name.replace('bucket', 'rows')}.parquet"
    parts = []
    with atomic(out) as aside, pq.ParquetWriter(aside, rows.schema, compression="zstd") as writer:
        for group, (start, stop) in enumerate(pairwise(edges)):
            shard = rows.slice(start, stop - start)
            writer.write_table(shard, row_group_size=len(shard))
            parts.append(_part(shard, out.name, group, rules))
    return parts


def _part(shard: pa.Table, file: str, group: int, rules: ShardRules) -> ShardPart:
    copied = shard["pass_through"].fill_null(False).to_numpy() & rules.pass_through
    sizes = predicted_bytes(
        numbers(shard, "width").astype(np.int64), numbers(shard, "height").astype(np.int64),
        numbers(shard, "file_bytes"), copied, rules,
    )  # fmt: skip
    return ShardPart(
        number=shard["shard"][0].as_py(),
        rows=file,
        row_group=group,
        samples=len(shard),
        bytes=int(sizes.sum()) + OVERHEAD * len(shard),
        digest=_digest(shard, copied),
        sources=tuple(sorted(pc.unique(shard["source"].cast(pa.string())).to_pylist())),
        encoded=not bool(copied.all()),
    )


def _digest(shard: pa.Table, copied: npt.NDArray[np.bool_]) -> str:
    """Digest of a shard's rows: what is shown, and the pixels, or the bytes where those are copied."""
    digest = hashlib.blake2b(copied.tobytes(), digest_size=16)
    for name in _SHOWN:
        for buffer in _bytes_of(shard, name):
            digest.update(buffer)
    for name, width, shown in (("content_hash", 16, ~copied), ("raw_sha256", 32, copied)):
        digest.update(fixed_bytes(shard, name, width)[shown].tobytes())
    return digest.hexdigest()


def _bytes_of(shard: pa.Table, name: str) -> Iterator[bytes]:
    """A column as bytes that follow from its values alone: which are null, and all values one after the other."""
    values = column(shard, name)
    yield values.is_valid().to_numpy(zero_copy_only=False).tobytes()
    if pa.types.is_dictionary(values.type) or pa.types.is_large_string(values.type):
        texts = values.cast(pa.large_string()).fill_null("")
        yield pc.binary_length(texts).to_numpy().tobytes()
        yield "".join(texts.to_pylist()).encode()
    else:
        yield numbers(shard, name).tobytes()
