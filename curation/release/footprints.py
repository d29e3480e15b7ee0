"""Footprints: where on the Earth every tile lies, as GeoParquet 1.1, which QGIS and GeoPandas open.

The polygon joins the tile's four corners, taken from the raw image's CRS to EPSG:4326 with the shift of datum; a tile
across 180 degrees is cut there into two (RFC 7946, 3.1.9). Columns that STAC names bear its names.

Follows https://geoparquet.org/releases/v1.1.0/ (WKB, ``covering``).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.arrays import Doubles
from curation.base.errors import InputError
from curation.base.files import atomic
from curation.catalogue import open_table

_READ = (
    "kind", "tile_id", "source", "image", "col_off", "row_off", "width", "height", "gsd_m", "crs", "affine", "verdict",
    "shard", "position",
)  # fmt: skip
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_WORD = pa.dictionary(pa.int32(), pa.string())

_COLUMNS = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("geometry", pa.binary(), nullable=False),
    pa.field("bbox", pa.struct([(side, pa.float64()) for side in _SIDES]), nullable=False),
    pa.field("source", _WORD),
    pa.field("image", pa.string()),
    pa.field("gsd", pa.float32()),
    pa.field("proj:code", _WORD),
    pa.field("verdict", _WORD),
    pa.field("shard", pa.int32()),
    pa.field("key", pa.string()),
]


def write_footprints(catalogue: Path, path: Path) -> tuple[int, int]:
    """Write a row for every tile with a place.

    Args:
        catalogue: of a run.
        path: GeoParquet file to make.

    Returns:
        Tiles written, and tiles of which no place is known.

    Raises:
        InputError: no tile has a place.
    """
    schema = pa.schema(_COLUMNS, {"geo": json.dumps(_geo())})
    written = tiles = 0
    with (
        open_table(catalogue, "catalogue") as file,
        atomic(path) as aside,
        pq.ParquetWriter(aside, schema, compression="zstd") as writer,
    ):
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number, columns=list(_READ))
            rows = rows.filter(pc.equal(rows["kind"].cast(pa.string()), "tile")).combine_chunks()
            placed = _placed(rows, schema)
            tiles, written = tiles + len(rows), written + len(placed)
            writer.write_table(placed)
        if not written:
            raise InputError(f"{catalogue}: no tile has a place on the ground: their images have no CRS")
    return written, tiles - written


@lru_cache(maxsize=1)
def _geo() -> dict[str, Any]:
    from pyproj import CRS

    geometry = {
        "encoding": "WKB",
        "geometry_types": ["Polygon", "MultiPolygon"],
        "crs": CRS.from_epsg(4326).to_json_dict(),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
    }
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}


def _placed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    corners = _corners(rows)
    known = np.isfinite(corners).all(axis=(1, 2))
    rows, corners = rows.filter(pa.array(known)), corners[known]
    geometry, boxes = _geometry(corners)
    crs = rows["crs"].cast(pa.string())
    columns = {
        "id": rows["tile_id"],
        "geometry": pa.array(geometry, pa.binary()),
        "bbox": pa.StructArray.from_arrays([pa.array(side) for side in boxes.T], names=list(_SIDES)),
        "gsd": rows["gsd_m"],
        "proj:code": pc.if_else(pc.match_substring_regex(crs, r"^[A-Z]+:[0-9]+$"), crs, None),
        "key": _keys(rows),
    }
    return pa.table({each.name: columns.get(each.name, _of(rows, each.name)) for each in schema}).cast(schema)


def _of(rows: pa.Table, name: str) -> Any:
    return rows[name] if name in rows.column_names else None


def _keys(rows: pa.Table) -> pa.Array:
    """Keys of samples in the shards; null for tiles that are not kept."""
    digits = [pc.utf8_lpad(rows[name].cast(pa.string()), width, "0") for name, width in (("shard", 6), ("position", 5))]
    return pc.binary_join_element_wise(pc.binary_join_element_wise(*digits, ""), rows["tile_id"], "-")


def _corners(rows: pa.Table) -> Doubles:
    """Longitude and latitude (N, 4, 2) of the corners, from the upper left around; NaN where nothing says so."""
    crs = rows["crs"].cast(pa.string()).combine_chunks().dictionary_encode()
    affine = np.full((len(rows), 6), np.nan)
    has = rows["affine"].is_valid().to_numpy()
    affine[has] = rows["affine"].combine_chunks().drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, 6)
    left, top, width, height = (
        rows[name].to_numpy().astype(np.float64)[:, None] for name in ("col_off", "row_off", "width", "height")
    )
    across, down = left + width * np.array([0, 1, 1, 0]), top + height * np.array([0, 0, 1, 1])
    a, b, c, d, e, f = affine.T[..., None]
    x, y = a * across + b * down + c, d * across + e * down + f
    corners = np.full((len(rows), 4, 2), np.nan)
    codes = crs.indices.fill_null(-1).to_numpy()
    for number, name in enumerate(crs.dictionary.to_pylist()):
        at = (codes == number) & np.isfinite(x).all(axis=1)
        corners[at] = _degrees(name, x[at], y[at])
    return corners


def _degrees(crs: str, x: Doubles, y: Doubles) -> Doubles:
    """Longitude and latitude (N, 4, 2) of points of a CRS; NaN where PROJ knows none, or they are no place."""
    to_degrees = _transformer(crs)
    if to_degrees is None:
        return np.full((*x.shape, 2), np.nan)
    longitude, latitude = to_degrees.transform(x, y)
    told = np.isfinite(longitude) & np.isfinite(latitude) & (np.abs(latitude) <= 90.0)
    longitude = np.where(told, longitude, 0.0)
    places = np.stack([(longitude + 180.0) % 360.0 - 180.0, latitude], axis=-1)
    places[..., 0] = np.where(longitude == 180.0, 180.0, places[..., 0])
    return np.where(told[..., None], places, np.nan)


@lru_cache(maxsize=256)
def _transformer(crs: str) -> Any:
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    except ProjError:
        return None


# ------------------------------------------------------------------------------------------------ geometry


def _geometry(corners: Doubles) -> tuple[list[bytes], Doubles]:
    """WKB of N polygons, counterclockwise, and their boxes (N, 4): xmin, ymin, xmax, ymax."""
    crosses = np.ptp(corners[..., 0], axis=1) > 180.0
    shifted = corners.copy()
    shifted[crosses, :, 0] %= 360.0
    x, y = shifted[..., 0], shifted[..., 1]
    area = (x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)
    rings = np.where((area < 0)[:, None, None], shifted[:, ::-1], shifted)
    rings = np.concatenate([rings, rings[:, :1]], axis=1)
    boxes = np.concatenate([rings.min(axis=1), rings.max(axis=1)], axis=1)
    boxes[crosses, 0], boxes[crosses, 2] = -180.0, 180.0
    found = list(_polygons(rings))
    for number in np.flatnonzero(crosses).tolist():
        found[number] = _multipolygon(rings[number])
    return found, boxes


def _polygons(rings: Doubles) -> Iterator[bytes]:
    """WKB of polygons of one ring each, (N, P, 2)."""
    head = struct.pack("<BIII", 1, 3, 1, rings.shape[1]) if len(rings) else b""
    size = 16 * rings.shape[1]
    data = np.ascontiguousarray(rings, "<f8").tobytes()
    return (head + data[at : at + size] for at in range(0, len(data), size))


def _multipolygon(ring: Doubles) -> bytes:
    """WKB of a ring (P, 2) with longitudes from 0 to 360, cut at 180."""
    west, east = _cut(ring, 1.0), _cut(ring, -1.0) - np.array([360.0, 0.0])
    parts = [next(_polygons(part[None])) for part in (west, east)]
    return struct.pack("<BII", 1, 6, len(parts)) + b"".join(parts)


def _cut(ring: Doubles, side: float) -> Doubles:
    """The closed part of a ring on one side of 180 degrees, 1: west of it (Sutherland and Hodgman, 1974)."""
    kept: list[Doubles] = []
    for one, other in pairwise(ring):
        inside, next_inside = side * (180.0 - one[0]) >= 0, side * (180.0 - other[0]) >= 0
        if inside:
            kept.append(one)
        if inside != next_inside:
            kept.append(one + (other - one) * (180.0 - one[0]) / (other[0] - one[0]))
    return np.array([*kept, kept[0]])
