"""Pictures on the dataset card: a map of where tiles lie, and a sheet of some of them.

The coastline is that of the report (Natural Earth's 1:110m land, public domain).
"""

from __future__ import annotations

import io
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageOps

from curation.base.arrays import Doubles, Ints
from curation.base.files import atomic
from curation.catalogue import open_table
from curation.select.rows import column, numbers
from curation.shards.format import open_index

_SCALE = 4
"""Pixels of the map per degree."""
_SEA, _LAND, _HERE = "#eef3f7", "#cdd7e0", "#2f7d5b"
_ACROSS, _DOWN, _SIDE = 8, 3, 112
"""Pictures on the sheet, and their side in pixels."""


def draw_map(catalogue: Path, path: Path) -> bool:
    """Draw a dot on a map of the world wherever a kept tile lies (PNG, plate carrée).

    Returns:
        Whether any tile has a place; else nothing is drawn.
    """
    dots = _dots(catalogue)
    if not len(dots):
        return False
    picture = Image.new("RGB", (360 * _SCALE, 180 * _SCALE), _SEA)
    draw = ImageDraw.Draw(picture)
    for ring in _rings():
        x, y = ring.T
        area = float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
        draw.polygon(ring.ravel().tolist(), fill=_LAND if area > 0 else _SEA)  # lakes go the other way around
    for x, y in dots.tolist():
        draw.rectangle((x - 2, y - 2, x + 2, y + 2), fill=_HERE)
    with atomic(path) as aside:
        picture.save(aside, "PNG", optimize=True)
    return True


def _rings() -> list[Doubles]:
    """Coastlines (P, 2) in pixels of the map."""
    text = files("curation.report").joinpath("land.path").read_text(encoding="utf-8").strip()
    rings = [part.removesuffix("Z").split("L") for part in text.split("M")[1:]]
    return [np.array([point.split() for point in ring], np.float64) * _SCALE for ring in rings]


def _dots(catalogue: Path) -> Ints:
    """Distinct pixels of the map (D, 2) in which the centres of kept tiles lie."""
    found = np.zeros((0, 2), np.int64)
    with open_table(catalogue, "catalogue") as file:
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number, columns=["shard", "west", "south", "east", "north"])
            rows = rows.filter(pc.and_(pc.is_valid(rows["shard"]), pc.is_valid(rows["west"]))).combine_chunks()
            west, south, east, north = (numbers(rows, name) for name in ("west", "south", "east", "north"))
            middle = (west + np.where(west > east, east + 360, east)) / 2
            places = np.stack([(middle + 180) % 360, 90 - (south + north) / 2], axis=1) * _SCALE
            found = np.unique(np.concatenate([found, places.astype(np.int64)]), axis=0)
    return found


def draw_sheet(shards: Path, path: Path) -> None:
    """Draw some samples, evenly over the corpus, side by side (JPEG)."""
    picture = Image.new("RGB", (_ACROSS * _SIDE, _DOWN * _SIDE), "white")
    index, paths = open_index(shards)
    with index:
        counts = [index.metadata.row_group(number).num_rows for number in range(index.num_row_groups)]
        first = np.cumsum([0, *counts])
        chosen = np.unique((np.arange(_ACROSS * _DOWN) + 0.5) * first[-1] / (_ACROSS * _DOWN) // 1).astype(int).tolist()
        spots = iter(range(len(chosen)))
        for number, ids in groupby(chosen, key=lambda row: int(np.searchsorted(first, row, side="right")) - 1):
            rows = index.read_row_group(number, columns=["image_offset", "image_size"])
            at, size = (column(rows, name).to_pylist() for name in rows.column_names)
            with paths[number].open("rb") as tar:
                for row in ids:
                    tar.seek(at[row - first[number]])
                    tile = _square(tar.read(size[row - first[number]]))
                    spot = next(spots)
                    picture.paste(tile, (spot % _ACROSS * _SIDE, spot // _ACROSS * _SIDE))
    rows_of_pictures = -(-len(chosen) // _ACROSS)
    with atomic(path) as aside:
        picture.crop((0, 0, picture.width, rows_of_pictures * _SIDE)).save(aside, "JPEG", quality=85)


def _square(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
        return ImageOps.fit(image.convert("RGB"), (_SIDE, _SIDE))
