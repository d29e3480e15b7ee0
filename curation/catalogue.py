"""The table that flows through curation: typed, versioned Parquet, one row per raw image and per tile.

Three schemas, each a superset of what comes before it in the chain: ``IMAGES`` (inventory), ``TILES`` (scan) and
``CATALOGUE`` (select). Every file carries its schema's name and version in the Parquet metadata; another version
is refused with the way out. Rows are only ever added or given a verdict.
"""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from curation.base.errors import FormatVersionError, InputError
from curation.base.files import atomic

FORMAT_VERSION = 2
"""Version of all three schemas; bumped by any change to a column. 2: measurements of images; without ``phash256``."""

KEPT, SLICED = "kept", "sliced"
REASONS = (
    "unreadable",
    "crashed",
    "licence",
    "excluded_split",
    "not_optical",
    "false_colour",
    "aspect",
    "too_small",
    "nodata",
    "blank",
    "leak",
    "duplicate",
    "capped",
    "withdrawn",
)
"""Verdicts against a row, in order of precedence."""
VERDICTS = (*REASONS, KEPT, SLICED)
"""All verdicts. ``sliced`` is an image whose tiles are rows of their own; ``kept`` is a tile that is written."""

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())

IMAGES = pa.schema(
    [
        pa.field("source", _DICTIONARY, nullable=False),
        pa.field("image", pa.string(), nullable=False),  # path in the source; part of every id
        pa.field("file", pa.string(), nullable=False),  # file on disk, relative to the source's root
        pa.field("member", pa.string()),  # member of that file, when it is an archive or a table
        pa.field("band_files", pa.list_(pa.string())),  # red, green, blue, for one-band-per-file images
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("split", _DICTIONARY),
        pa.field("label", _DICTIONARY),
    ]
)

STATISTICS = (
    "fill", "flat", "gentle", "coloured", "colour_spread", "edge", "agreement", "colour_steps", "grain", "told",
)  # fmt: skip
"""Columns that hold the properties of :class:`curation.scan.measurements.Statistics` of the same names."""

_MEASURED = [  # of raw images, null for tiles: what the exclusion rules look at
    pa.field("short_side", pa.int32()),  # without the border that the manifest trims
    pa.field("elongation", pa.float32()),
    pa.field("on_earth", pa.bool_()),  # null without a CRS
    pa.field("band_middle", pa.float32()),  # lowest middle of a band's range; null of 8-bit files and given stretches
    pa.field("band_low", pa.float32()),  # lowest low of a band's range, where there is a band_middle
    pa.field("soft_alpha", pa.float32()),
    pa.field("sampled", pa.int64()),  # pixels that the statistics rest on
    *(pa.field(name, pa.float32()) for name in STATISTICS),
]

MEASUREMENTS = {"image": tuple(field.name for field in _MEASURED), "tile": ("std", "valid_share")}
"""Columns that a rule on images, or on tiles, may look at."""

_ROW = [
    pa.field("kind", _DICTIONARY, nullable=False),  # image | tile
    pa.field("tile_id", pa.string(), nullable=False),
    pa.field("source", _DICTIONARY, nullable=False),
    pa.field("image", pa.string(), nullable=False),
    pa.field("split", _DICTIONARY),
    pa.field("col_off", pa.int32()),
    pa.field("row_off", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("image_width", pa.int32()),
    pa.field("image_height", pa.int32()),
    pa.field("bands", pa.int16()),
    pa.field("dtype", _DICTIONARY),
    pa.field("format", _DICTIONARY),  # JPEG, PNG, GTiff, JP2OpenJPEG, ...
    pa.field("file_bytes", pa.int64()),
    pa.field("pass_through", pa.bool_()),  # the file's own bytes may be copied into the shard
    pa.field("gsd_m", pa.float32()),
    pa.field("gsd_from", _DICTIONARY),  # file | manifest | none
    pa.field("crs", _DICTIONARY),  # "EPSG:32631", else WKT
    pa.field("affine", pa.list_(pa.float64(), 6)),  # of the raw image: a, b, c, d, e, f
    pa.field("west", pa.float64()),
    pa.field("south", pa.float64()),
    pa.field("east", pa.float64()),
    pa.field("north", pa.float64()),
    pa.field("stretch", pa.list_(pa.float64())),  # low and high of red, green, blue that became 0 and 255
    pa.field("raw_sha256", pa.binary(32)),
    pa.field("content_hash", pa.binary(16)),  # xxh3_128 of the 8-bit RGB pixels
    pa.field("phash", pa.uint64()),
    pa.field("mean", pa.float32()),  # of luma, 0 to 255
    pa.field("std", pa.float32()),
    pa.field("ac_energy", pa.float32()),
    pa.field("valid_share", pa.float32()),
    *_MEASURED,
    pa.field("verdict", _DICTIONARY),  # null in TILES while nothing speaks against the row
    pa.field("subject", pa.string()),  # the benchmark, or the tile that stands for this one
    pa.field("detail", pa.string()),  # rule, measured value, threshold
]

TILES = pa.schema(
    [
        *_ROW,
        pa.field("dct16", pa.binary(256)),  # 16x16 low-frequency DCT block, int8
        pa.field("dct_scale", pa.float32()),
        pa.field("orientations", pa.list_(pa.uint64(), 8)),  # phash in the eight orientations; the first is phash
    ]
)

CATALOGUE = pa.schema([*_ROW, pa.field("shard", pa.int32()), pa.field("position", pa.int32())])

_NAMES = {"images": IMAGES, "tiles": TILES, "catalogue": CATALOGUE}


class Window(NamedTuple):
    """A rectangle of pixels of a raw image, upright, from its top left corner."""

    col_off: int
    row_off: int
    width: int
    height: int


def tile_id(source: str, image: str, window: Window | None) -> str:
    """Id of a tile, or of a raw image (``window`` null): 20 hex digits of BLAKE2b(source, path, window)."""
    place = "" if window is None else ",".join(map(str, window))
    text = "\0".join((source, image if image.isascii() else unicodedata.normalize("NFC", image), place))
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def schema_of(kind: str) -> pa.Schema:
    """Schema of ``images``, ``tiles`` or ``catalogue`` with its name and version as metadata."""
    return _NAMES[kind].with_metadata({"rscorpus.table": kind, "rscorpus.version": str(FORMAT_VERSION)})


def table_from_rows(kind: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Build a table from one dict per row; absent keys are null."""
    schema = schema_of(kind)
    return pa.table([pa.array([row.get(field.name) for row in rows], field.type) for field in schema], schema=schema)


def write_table(table: pa.Table, path: Path, kind: str, row_group_size: int = 65_536) -> None:
    """Write a table atomically, cast to the schema of ``kind``."""
    with atomic(path) as aside:
        pq.write_table(table.cast(schema_of(kind)), aside, row_group_size=row_group_size, compression="zstd")


def open_table(path: Path, kind: str) -> pq.ParquetFile:
    """Open a table for reading by row group and column, its version checked.

    Raises:
        InputError: absent, or not Parquet, or another table.
        FormatVersionError: written by another format version.
    """
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    metadata = file.schema_arrow.metadata or {}
    name = b"opticalrs" if b"opticalrs.table" in metadata else b"rscorpus"  # format version 1 bore the earlier name
    table = metadata.get(name + b".table", b"").decode()
    version = metadata.get(name + b".version", b"").decode()
    if table != kind:
        raise InputError(f"{path}: holds {table or 'an unknown table'}, expected {kind}")
    if version != str(FORMAT_VERSION):
        raise FormatVersionError(
            f"{path}: format version {version or 'unknown'}, this release reads {FORMAT_VERSION}; "
            "run the curation again, or install the release that wrote it"
        )
    return file


def read_table(path: Path, kind: str, columns: list[str] | None = None) -> pa.Table:
    """Read a whole table; see :func:`open_table` for the errors."""
    with open_table(path, kind) as file:
        return file.read(columns=columns)


def ledger(rows: pa.Table) -> dict[str, dict[str, dict[str, int]]]:
    """Count verdicts per source and kind: ``{source: {"image": {verdict: n}, "tile": {verdict: n}}}``.

    Raises:
        ValueError: a row has no verdict, or one outside the closed list; the ledger would not balance.
    """
    counts = rows.select(["source", "kind", "verdict"]).cast(
        pa.schema([("source", pa.string()), ("kind", pa.string()), ("verdict", pa.string())])
    )
    grouped = counts.group_by(["source", "kind", "verdict"]).aggregate([([], "count_all")])
    result: dict[str, dict[str, dict[str, int]]] = {}
    for row in grouped.to_pylist():
        allowed = (*REASONS, SLICED) if row["kind"] == "image" else (*REASONS, KEPT)
        if row["verdict"] not in allowed:
            raise ValueError(
                f"source {row['source']}: {row['count_all']} {row['kind']} rows with verdict {row['verdict']!r}"
            )
        kinds = result.setdefault(row["source"], {"image": {}, "tile": {}})
        kinds[row["kind"]][row["verdict"]] = row["count_all"]
    return result
