"""The write stage: kept rows of the catalogue become shards.

One part is one shard. ``plan_shards`` sorts the kept rows by shard and position into one row group per shard, so that
a worker reads only its own; ``write_part`` reads the pixels again, in runs of one image, and encodes them or copies
the file's own bytes. A tar is complete before its rows are: what names a shard exists only when the shard does.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.catalogue import Window, atomic, open_table, read_table
from curation.errors import UnreadableImage, WorkError
from curation.manifest import Recipe, ResolvedSource, ShardRules
from curation.shards import ImageFormat, Sample, ShardInfo, read_info, write_info, write_shard

COLUMNS = [
    "tile_id", "source", "image", "col_off", "row_off", "width", "height", "gsd_m", "crs", "west", "south", "east",
    "north", "stretch", "pass_through", "raw_sha256", "phash", "shard", "position",
]  # fmt: skip


@dataclass(frozen=True)
class WriteJob:
    """What every shard of a run needs to know; travels to the workers."""

    recipe: Recipe
    sources: dict[str, ResolvedSource]
    rows: Path
    """File of :func:`plan_shards`."""
    folder: Path
    """Where tars are made."""


@dataclass(frozen=True)
class ShardPart:
    """One shard: its number, and its row group in ``WriteJob.rows``."""

    number: int
    row_group: int
    samples: int


def shard_name(recipe: Recipe, number: int) -> str:
    """File name of a shard."""
    return f"{recipe.name}-{number:06d}.tar"


def plan_shards(catalogue: Path, listings: list[Path], out: Path) -> list[ShardPart]:
    """Sort the kept rows by (shard, position), join where their files lie, and write one row group per shard.

    Args:
        catalogue: the catalogue that ``select`` wrote.
        listings: the ``images`` tables that ``inventory`` wrote.
        out: file to write.
    """
    with open_table(catalogue, "catalogue") as file:
        groups = [
            _kept(file.read_row_group(number, columns=[*COLUMNS, "verdict"])) for number in range(file.num_row_groups)
        ]
    kept = _plain(pa.concat_tables(groups))
    places = _plain(
        pa.concat_tables(
            read_table(path, "images", ["source", "image", "file", "member", "band_files"]) for path in listings
        )
    )
    order = pc.sort_indices(kept, [("shard", "ascending"), ("position", "ascending")])
    rows = kept.take(order)
    for name, column in _places_of(rows, places).items():
        rows = rows.append_column(name, column)
    rows = rows.combine_chunks()
    numbers, starts, counts = np.unique(rows["shard"].to_numpy(), return_index=True, return_counts=True)
    with atomic(out) as aside, pq.ParquetWriter(aside, rows.schema, compression="zstd") as writer:
        for start, count in zip(starts, counts, strict=True):
            writer.write_table(rows.slice(start, count), row_group_size=int(count))
    return [
        ShardPart(int(number), group, int(count))
        for group, (number, count) in enumerate(zip(numbers, counts, strict=True))
    ]


def _places_of(rows: pa.Table, places: pa.Table) -> dict[str, pa.ChunkedArray]:
    """File, member and band files of every row. The join carries row numbers, since it cannot carry lists."""
    left = rows.select(["source", "image"]).append_column("row", pa.array(np.arange(rows.num_rows)))
    right = places.select(["source", "image"]).append_column("place", pa.array(np.arange(places.num_rows)))
    place = left.join(right, ["source", "image"]).sort_by("row")["place"]
    return {name: places[name].take(place) for name in ("file", "member", "band_files")}


def write_part(part: ShardPart, job: WriteJob) -> None:
    """Write one shard; its index rows are kept beside it last, so that their presence means: this shard is done.

    Raises:
        WorkError: a raw file is gone or has changed since it was scanned.
    """
    rows = pq.ParquetFile(job.rows).read_row_group(part.row_group).to_pylist()
    tar = job.folder / shard_name(job.recipe, part.number)
    write_info(write_shard(_samples(rows, job), tar), _info_file(part, job))


def written(part: ShardPart, job: WriteJob, final: Path) -> ShardInfo | None:
    """What is known of a shard that was written before, its tar still in the stage's folder or already in ``final``."""
    path = _info_file(part, job)
    if not path.exists():
        return None
    info = read_info(path)
    tars = [folder / info.file for folder in (job.folder, final)]
    return info if any(tar.exists() and tar.stat().st_size == info.bytes for tar in tars) else None


def _info_file(part: ShardPart, job: WriteJob) -> Path:
    return job.folder / shard_name(job.recipe, part.number).replace(".tar", ".parquet")


def _kept(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.equal(rows["verdict"].cast(pa.string()), "kept")).select(COLUMNS)


def _plain(table: pa.Table) -> pa.Table:
    """Dictionary columns as plain strings: dictionaries of several files differ, and joins need equal types."""
    fields = [field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in table.schema]
    return table.cast(pa.schema(fields))


def _samples(rows: list[dict[str, Any]], job: WriteJob) -> Iterator[Sample]:
    """Samples in position order; each run of rows of one image opens it once."""
    for _, group in groupby(rows, key=lambda row: (row["source"], row["image"], row["pass_through"])):
        run = list(group)
        source = job.sources[run[0]["source"]]
        try:
            images = _copied(run, source) if _copies(run[0], job.recipe.shards) else _encoded(run, source, job.recipe)
            for row, (image, image_format) in zip(run, images, strict=True):
                key = f"{row['shard']:06d}{row['position']:05d}-{row['tile_id']}"
                yield Sample(key, image, image_format, _sidecar(row, source))
        except (UnreadableImage, OSError) as error:
            path = source.root / run[0]["file"]
            raise WorkError(
                f"{path}: could be read when it was scanned, and cannot now ({error}); "
                "restore it, or run again with --relist to take the files as they are"
            ) from error


def _copies(row: dict[str, Any], rules: ShardRules) -> bool:
    return bool(rules.pass_through and row["pass_through"])


def _copied(run: list[dict[str, Any]], source: ResolvedSource) -> Iterator[tuple[bytes, ImageFormat]]:
    from curation.raster import raw_bytes

    for row in run:
        data = raw_bytes(_location(row, source))
        if hashlib.sha256(data).digest() != row["raw_sha256"]:
            raise WorkError(f"{source.root / row['file']}: changed since it was scanned; run again with --relist")
        yield data, "jpg"


def _encoded(run: list[dict[str, Any]], source: ResolvedSource, recipe: Recipe) -> Iterator[tuple[bytes, ImageFormat]]:
    from curation.raster import open_image

    with open_image(_location(run[0], source), source.source, recipe.exclude, run[0]["stretch"]) as raster:
        for row in run:
            rgb, _ = raster.read(Window(row["col_off"], row["row_off"], row["width"], row["height"]))
            yield encode(rgb, recipe.shards), recipe.shards.encoder


def _location(row: dict[str, Any], source: ResolvedSource) -> Any:
    from curation.raster import Location

    bands = row["band_files"]
    return Location(source.root, row["file"], row["member"], tuple(bands) if bands else None)


def encode(rgb: npt.NDArray[np.uint8], rules: ShardRules) -> bytes:
    """Encode one tile, (H, W, 3) uint8, as the recipe says: JPEG 4:2:0, lossless WebP, or PNG."""
    if rules.encoder == "jpg":
        import simplejpeg

        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=rules.quality, colorsubsampling="420"))
    from PIL import Image

    buffer = io.BytesIO()
    options: dict[str, Any] = (
        {"optimize": False} if rules.encoder == "png" else {"lossless": True, "quality": rules.quality}
    )
    Image.fromarray(rgb).save(buffer, format=rules.encoder.upper(), **options)
    return buffer.getvalue()


def _sidecar(row: dict[str, Any], source: ResolvedSource) -> dict[str, Any]:
    bounds = [row[side] for side in ("west", "south", "east", "north")]
    return {
        "source": row["source"],
        "image": row["image"],
        "window": [row["col_off"], row["row_off"], row["width"], row["height"]],
        "width": row["width"],
        "height": row["height"],
        "gsd_m": None if row["gsd_m"] is None else float(str(np.float32(row["gsd_m"]))),  # 0.1, not 0.10000000149
        "crs": row["crs"],
        "bounds": None if bounds[0] is None else bounds,
        "licence": source.source.licence,
        "phash": f"{row['phash']:016x}",
    }
