"""The 1-degree cell of the Earth that a tile's centre lies in, where its place is known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curation.base.arrays import Array, Doubles, Ints
from curation.select.rows import CatalogueRows, numbers, visit_columns

NOWHERE = -1
_BOUNDS = ["west", "south", "east", "north"]


def cells_of(rows: CatalogueRows, tiles: Ints, threads: int) -> Ints:
    """(N,) number of the cell of each of some rows, ``NOWHERE`` of those without bounds."""
    cells = np.full(len(tiles), NOWHERE, np.int64)

    def note(places: Array, table: pa.Table) -> None:
        """Note the cells of the rows of one unit."""
        cells[places] = cell_at(*(numbers(table, name, np.nan).astype(np.float64) for name in _BOUNDS))

    visit_columns(rows, tiles, _BOUNDS, note, threads)
    return cells


def cell_at(west: Doubles, south: Doubles, east: Doubles, north: Doubles) -> Ints:
    """(N,) number of the cell of the middle of boxes in degrees; west > east goes across 180 degrees."""
    middle = (west + east + np.where(west > east, 360.0, 0.0)) / 2
    column, row = (np.floor(middle) + 180) % 360, np.clip(np.floor((south + north) / 2) + 90, 0, 179)
    known = np.isfinite(column + row)
    cells: Ints = np.where(known, np.where(known, row * 360 + column, 0).astype(np.int64), NOWHERE)
    return cells


def say_cell(cell: int) -> str:
    """Latitude and longitude of a cell's south-west corner: ``47N 8E``."""
    latitude, longitude = cell // 360 - 90, cell % 360 - 180
    return f"{abs(latitude)}{'S' if latitude < 0 else 'N'} {abs(longitude)}{'W' if longitude < 0 else 'E'}"
