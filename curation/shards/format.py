"""The shard format: write, index and read WebDataset tars.

:mod:`curation.shards.foreign` indexes tars that exist already, :mod:`curation.shards.verify` checks shards.

A shard is a plain ustar file in which every sample is an image member followed by a JSON member of the same key.
``index.parquet`` beside the tars says where each image lies, so that a reader can fetch any sample with one ``pread``;
``checksums.json`` is written last and means: complete. Equal samples give equal bytes. See ``docs/shards.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from curation.base.errors import FormatVersionError, InputError, WorkError
from curation.base.files import atomic, file_digest
from curation.shards import ustar

FORMAT_VERSION = 2
"""Version of the tar layout, of ``index.parquet`` and of ``checksums.json``. 2: metadata keys ``rscorpus.*``."""
INDEX_FILE, CHECKSUMS = "index.parquet", "checksums.json"
VERSIONS = "rscorpus.versions"
"""Metadata key of the versions of the libraries that a file's content depends on."""
_DECODING = "rscorpus.decoding"

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())

INDEX = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_offset", pa.int64(), nullable=False),  # of the image's first byte in the tar
        pa.field("image_size", pa.int32(), nullable=False),
        pa.field("image_format", _DICTIONARY, nullable=False),  # jpg | png | webp
        pa.field("json_offset", pa.int64(), nullable=False),  # -1 when a foreign sample has no JSON
        pa.field("json_size", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),  # 0 when a foreign image has no readable header
        pa.field("height", pa.int32(), nullable=False),
        pa.field("gsd_m", pa.float32(), nullable=False),  # NaN when unknown
        pa.field("source", _DICTIONARY),
        pa.field("licence", _DICTIONARY),
        pa.field("image_sha256", pa.binary(32)),  # null when a foreign shard was indexed without checksums
    ]
)
"""Columns of ``index.parquet``. The row number is the sample id."""

ImageFormat = Literal["jpg", "png", "webp"]
_FORMATS: tuple[ImageFormat, ...] = ("jpg", "png", "webp")
_KEY = re.compile(r"[0-9a-z-]{1,90}")  # ustar holds names of up to 100 bytes; webdataset splits at the first dot
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 1 << 50
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Sample:
    """One member pair of a shard."""

    key: str
    image: bytes
    image_format: ImageFormat
    meta: dict[str, Any]
    """Becomes the JSON member; ``width`` and ``height`` are required, ``gsd_m`` is null when unknown."""


@dataclass(frozen=True)
class ShardInfo:
    """What is known about one shard file."""

    file: str
    samples: int
    bytes: int
    sha256: str
    rows: pa.Table | None = None
    """The shard's rows of the index, ``shard`` still 0; None when read from ``checksums.json``, or left on disk."""
    rows_at: Path | None = None
    """File of :func:`write_info` that holds them instead."""


@dataclass(frozen=True)
class Checksums:
    """Content of ``checksums.json``."""

    key: str
    shards: list[ShardInfo]
    index: str = ""
    """SHA-256 of ``index.parquet``; empty in files of earlier releases."""


class _Hashing:
    """A file to write to that hashes what passes, so that no shard is read again for its checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256, self.written = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Write, hash and count."""
        self.sha256.update(data)
        self.written += len(data)
        self.file.write(data)


def write_shard(samples: Iterable[Sample], path: Path) -> ShardInfo:
    """Write one tar atomically; equal samples give equal bytes.

    Args:
        samples: in key order; consumed one by one, never held together.
        path: file to make.

    Raises:
        ValueError: a key is malformed or out of order, or the metadata hold NaN or lack the size.
        WorkError: there is no sample.
    """
    rows: list[dict[str, Any]] = []
    with atomic(path) as aside, aside.open("wb", buffering=_BUFFER) as file:
        out = _Hashing(file)
        for sample in samples:
            _check_sample(sample, rows[-1]["key"] if rows else "")
            rows.append(_add_sample(out, sample))
        if not rows:
            raise WorkError(f"{path}: a shard without samples")
        out.write(ustar.end(out.written))
    return ShardInfo(path.name, len(rows), out.written, out.sha256.hexdigest(), index_rows(rows))


def _check_sample(sample: Sample, previous: str) -> None:
    if not _KEY.fullmatch(sample.key):
        raise ValueError(f"key {sample.key!r}: only 0-9, a-z and - may stand in a key")
    if sample.key <= previous:
        raise ValueError(f"key {sample.key!r} follows {previous!r}: samples must come in key order")
    if sample.image_format not in _FORMATS:
        raise ValueError(f"key {sample.key}: image_format {sample.image_format!r} is not one of {', '.join(_FORMATS)}")


def _add_sample(out: _Hashing, sample: Sample) -> dict[str, Any]:
    image, meta = sample.image, canonical_json(sample.meta)
    start, image_size, json_size = out.written + ustar.BLOCK, len(image), len(meta)
    between = ustar.padding(image_size) + ustar.header(f"{sample.key}.json", json_size)
    out.write(ustar.header(f"{sample.key}.{sample.image_format}", image_size))
    out.write(image)
    out.write(b"%b%b%b" % (between, meta, ustar.padding(json_size)))
    return {
        "key": sample.key,
        "image_offset": start,
        "image_size": image_size,
        "image_format": sample.image_format,
        "json_offset": start + image_size + len(between),
        "json_size": json_size,
        "image_sha256": hashlib.sha256(image).digest(),
        **meta_columns(sample.meta),
        "width": int(sample.meta["width"]),
        "height": int(sample.meta["height"]),
    }


def canonical_json(meta: dict[str, Any]) -> bytes:
    """The one way in which metadata are written: sorted keys, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: a number is NaN or infinite; unknown is null.
    """
    return json.dumps(meta, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def meta_columns(meta: dict[str, Any]) -> dict[str, Any]:
    """The index columns that come from a sample's JSON; what is absent or of another type counts as unknown."""
    gsd = meta.get("gsd_m")
    known = isinstance(gsd, int | float) and not isinstance(gsd, bool) and 0 < gsd < float("inf")
    texts = {name: meta.get(name) if isinstance(meta.get(name), str) else None for name in ("source", "licence")}
    return {"gsd_m": float(gsd) if known and gsd is not None else float("nan"), **texts}


def index_rows(rows: list[dict[str, Any]]) -> pa.Table:
    """Index rows as a table; the shard's number is set by :func:`write_index`."""
    return pa.table([pa.array([row.get(f.name, 0) for row in rows], f.type) for f in INDEX], schema=INDEX)


def index_schema(files: Sequence[str]) -> pa.Schema:
    """The schema of an index, with the names of its shards."""
    return INDEX.with_metadata(
        {
            "rscorpus.table": "index",
            "rscorpus.version": str(FORMAT_VERSION),
            "rscorpus.files": json.dumps(list(files)),
        }
    )


def write_info(
    info: ShardInfo,
    path: Path,
    versions: Mapping[str, str] | None = None,
    decoding: Mapping[str, int] | None = None,
) -> None:
    """Keep what :func:`write_shard` returned, so that a restarted run need not read the shard again.

    Args:
        info: the shard.
        path: file to make.
        versions: of the libraries that its bytes depend on.
        decoding: pixels ``decoded`` and ``encoded`` for it.
    """
    assert info.rows is not None, "only a shard that was written or indexed has rows"
    facts = json.dumps({"file": info.file, "samples": info.samples, "bytes": info.bytes, "sha256": info.sha256})
    told = {"rscorpus.version": str(FORMAT_VERSION), "rscorpus.shard": facts, VERSIONS: json.dumps(versions or {})}
    told[_DECODING] = json.dumps(decoding or {})
    with atomic(path) as aside:
        pq.write_table(info.rows.replace_schema_metadata(told), aside, compression="zstd")


def read_info(path: Path) -> ShardInfo:
    """Read what :func:`write_info` kept; the rows stay on disk, since those of all shards need not fit in memory.

    Raises:
        FormatVersionError: it was kept by another format version.
    """
    metadata = pq.read_schema(path).metadata or {}
    _check_version(path, metadata.get(b"rscorpus.version", b"").decode())
    return ShardInfo(**json.loads(metadata[b"rscorpus.shard"]), rows_at=path)


def read_decoding(path: Path) -> dict[str, int]:
    """Pixels ``decoded`` and ``encoded`` that :func:`write_info` kept; empty of shards of earlier releases."""
    told: dict[str, int] = json.loads((pq.read_schema(path).metadata or {}).get(_DECODING.encode(), b"{}"))
    return told


def write_index(infos: Sequence[ShardInfo], folder: Path) -> Path:
    """Write ``index.parquet``: exactly one row group per shard, in the order given, a shard in memory at a time."""
    path = folder / INDEX_FILE
    schema = index_schema([info.file for info in infos])
    with atomic(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for number, info in enumerate(infos):
            writer.write_table(numbered(info, number).cast(schema), row_group_size=max(info.samples, 1))
    return path


def numbered(info: ShardInfo, number: int) -> pa.Table:
    """A shard's index rows with its number."""
    rows = info.rows
    if rows is None:
        assert info.rows_at is not None, "only a shard that was written or indexed has rows"
        rows = pq.read_table(info.rows_at).cast(INDEX)
    return rows.set_column(0, INDEX.field(0), pa.array([number] * info.samples, pa.int32()))


def write_checksums(infos: Sequence[ShardInfo], folder: Path, key: str = "") -> Path:
    """Write ``checksums.json``. Write it last: its presence means that tars and index are complete.

    Args:
        infos: all shards, in order.
        folder: where the tars lie.
        key: hash of what the shards were made from; empty for foreign shards.
    """
    shards = [{"file": i.file, "sha256": i.sha256, "samples": i.samples, "bytes": i.bytes} for i in infos]
    path, index = folder / CHECKSUMS, folder / INDEX_FILE
    told = {"key": key, "index": file_digest(index) if index.exists() else "", "shards": shards}
    with atomic(path) as aside:
        text = json.dumps({"format_version": FORMAT_VERSION, **told}, indent=1)
        aside.write_text(text + "\n", encoding="utf-8")
    return path


def read_checksums(folder: Path, missing_ok: bool = False) -> Checksums | None:
    """Read ``checksums.json``; None when it is absent and may be.

    Raises:
        InputError: it is absent, or not what :func:`write_checksums` writes.
        FormatVersionError: it was written by another format version.
    """
    path = folder / CHECKSUMS
    if missing_ok and not path.exists():
        return None
    try:
        data = json.loads(path.read_bytes())
        version = data["format_version"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; finished shards have one") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not a checksums file ({error})") from None
    _check_version(path, str(version))
    try:
        shards = [_shard_info(told, path) for told in data["shards"]]
        return Checksums(str(data["key"]), shards, str(data.get("index", "")))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a checksums file ({error!r})") from None


def _shard_info(told: Mapping[str, Any], where: Path) -> ShardInfo:
    """What ``checksums.json`` says of a shard. A cache makes a file's name of the SHA-256, so it must be one.

    Raises:
        InputError: names what is wrong.
    """
    name, digest, counts = plain_name(told["file"], where), told["sha256"], (told["samples"], told["bytes"])
    if digest != "" and not (isinstance(digest, str) and _SHA256.fullmatch(digest)):  # of foreign shards "" may stand
        raise InputError(f"{where}: {name}: {str(digest)[:80]!r} is no SHA-256")
    if any(type(count) is not int or not 0 <= count <= _MOST_BYTES for count in counts):
        raise InputError(f"{where}: {name}: {counts} are no numbers of samples and bytes")
    return ShardInfo(name, *counts, digest)


def open_index(folder: Path) -> tuple[pq.ParquetFile, list[Path]]:
    """Open the index for reading by row group (one per shard) and column.

    Returns:
        The open file, and the paths of the shards in order.

    Raises:
        InputError: absent, not an index, or its row groups do not match its shards.
        FormatVersionError: written by another format version.
    """
    path = folder / INDEX_FILE
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the shards/ folder that rs-curate run wrote")
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        if (folder / "shards" / INDEX_FILE).exists():
            raise InputError(f"{folder}: is the output of a run; its shards are {folder / 'shards'}") from None
        raise InputError(
            f"{path}: no such file; the same rs-curate run again makes it, or for tars from elsewhere "
            f"`rs-curate index {folder}`"
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    metadata = file.schema_arrow.metadata or {}
    if metadata.get(b"opticalrs.table") == b"index":  # format version 1 bore the earlier name
        _check_version(path, metadata.get(b"opticalrs.version", b"").decode(errors="replace"))
    if metadata.get(b"rscorpus.table") != b"index":
        raise InputError(f"{path}: not a shard index")
    _check_version(path, metadata.get(b"rscorpus.version", b"").decode(errors="replace"))
    try:
        names = [plain_name(name, path) for name in json.loads(metadata.get(b"rscorpus.files", b"[]"))]
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: does not name its shards ({error})") from None
    if not file.schema_arrow.equals(INDEX):
        raise InputError(f"{path}: its columns are not those of an index; write it again with rs-curate run or index")
    if file.num_row_groups != len(names):
        raise InputError(
            f"{path}: {file.num_row_groups} row groups for {len(names)} shards; it must have one per shard"
        )
    return file, [folder / name for name in names]


def read_index(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """Read the index of all shards; see :func:`open_index` for the errors."""
    file, _ = open_index(folder)
    with file:
        return file.read(columns=columns)


def plain_name(name: object, where: Path) -> str:
    """A shard's file name, refused when it would lead out of the folder.

    Raises:
        InputError: it is no plain file name.
    """
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise InputError(f"{where}: {name!r} is no plain file name")
    return name


def _check_version(path: Path, version: str) -> None:
    if version != str(FORMAT_VERSION):
        raise FormatVersionError(
            f"{path}: shard format version {version or 'unknown'}, this release reads {FORMAT_VERSION}; "
            "write the shards again with rs-curate run, or install the release that wrote them"
        )
