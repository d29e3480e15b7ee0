"""Caps per degree of the Earth."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows_for_select import random_tile, recipe, write

from curation.catalogue import KEPT, read_table
from curation.select.cells import NOWHERE, cell_at, say_cell
from curation.select.select import select

PLACES = {  # west, south, east, north in degrees; by hand
    "47N 8E": (8.53, 47.36, 8.55, 47.38),
    "1S 1W": (-0.02, -0.01, 0.01, 0.0),
    "0N 0E": (0.0, 0.0, 0.02, 0.02),
    "17S 179E": (179.98, -16.6, -179.99, -16.4),
    "17S 180W": (179.99, -16.6, -179.98, -16.4),
    "89N 180W": (-180.0, 90.0, -180.0, 90.0),
    "90S 12E": (12.0, -90.0, 12.5, -89.9),
}


@pytest.mark.parametrize("cell", PLACES)
def test_the_cell_of_a_box_is_that_of_its_middle(cell: str) -> None:
    assert say_cell(int(cell_at(*(np.array([value]) for value in PLACES[cell]))[0])) == cell


def test_what_has_no_place_has_no_cell() -> None:
    unknown = np.array([np.nan, 1.0])
    assert cell_at(unknown, np.zeros(2), np.ones(2), np.ones(2)).tolist() == [NOWHERE, 90 * 360 + 181]


@given(st.floats(-180, 180, exclude_max=True), st.floats(-90, 90, exclude_max=True))
def test_every_place_lies_in_its_cell(longitude: float, latitude: float) -> None:
    (cell,) = cell_at(*(np.array([value]) for value in (longitude, latitude, longitude, latitude)))
    assert cell // 360 - 90 <= latitude < cell // 360 - 89
    assert cell % 360 - 180 <= longitude < cell % 360 - 179


def catalogue(folder: Path, rows: list[dict[str, object]], **rules: object) -> list[dict[str, object]]:
    made, sources = recipe("a", "b", **rules)
    select([write(folder / "t.parquet", rows)], made, sources, folder / "c.parquet")
    return read_table(folder / "c.parquet", "catalogue").to_pylist()


def test_a_cell_keeps_so_many_tiles_of_all_sources(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        west = 8.0 + number % 3  # three cells, eight tiles each
        place = {"west": west + 0.1, "south": 47.1, "east": west + 0.2, "north": 47.2}
        rows.append(random_tile(rng, "ab"[number % 2], f"{number:02}", **place))
    rows += [random_tile(rng, "a", f"nowhere{number}") for number in range(9)]
    found = catalogue(tmp_path, rows, balance={"per_cell": 5})
    kept = Counter(row["west"] for row in found if row["verdict"] == KEPT)
    assert kept == {8.1: 5, 9.1: 5, 10.1: 5, None: 9}
    assert {row["detail"] for row in found if row["verdict"] == "capped"} == {
        f"per_cell: at most 5 in 47N {east}E" for east in (8, 9, 10)
    }
    fewer = catalogue(tmp_path, rows[::-1], balance={"per_cell": 3})
    names = [{row["image"] for row in each if row["verdict"] == KEPT} for each in (fewer, found)]
    assert len(names[0]) == 18 and names[0] < names[1]
