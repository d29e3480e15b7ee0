"""All groups of duplicates of a finished run, the largest first: what stays, and what it stands for."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.compute as pc

from curation.report.lookup import Lookup, Row, catalogue_in

COLUMNS = (
    "group", "size", "tile_id", "source", "image", "col_off", "row_off", "width", "height", "verdict", "detail",
)  # fmt: skip
"""``group`` is the id of the tile that stays, ``size`` counts it as well."""


def groups(out: Path) -> Iterator[list[Row]]:
    """Groups of a run's catalogue: first the tile that stands for the others, then those.

    Raises:
        InputError: no catalogue.
    """
    table = Lookup.open(catalogue_in(out))
    columns = ["subject", *COLUMNS[2:]]
    copies: dict[str, list[Row]] = {}

    def read(group: int) -> list[Row]:
        rows = table.read(group, columns)
        duplicates: list[Row] = rows.filter(pc.equal(rows["verdict"].cast(pa.string()), "duplicate")).to_pylist()
        return duplicates

    for found in table.each(read, range(table.metadata.num_row_groups)):
        for row in found:
            copies.setdefault(row["subject"], []).append(row)
    heads = table.by_ids(copies, columns)
    for name, rows in sorted(copies.items(), key=lambda item: (-len(item[1]), item[0])):
        yield [*([heads[name]] if name in heads else []), *sorted(rows, key=lambda row: str(row["tile_id"]))]


def write_csv(found: Iterator[list[Row]], file: TextIO) -> None:
    """Write one line a tile, under :data:`COLUMNS`."""
    lines = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    for rows in found:
        for row in rows:
            lines.writerow({**row, "group": rows[0]["tile_id"], "size": len(rows)})


def in_words(rows: list[Row]) -> str:
    """A group for people."""
    first, *others = (f"{row['source']}/{row['image']} [{row['col_off']}, {row['row_off']}]" for row in rows)
    return "\n".join([f"{len(rows)} tiles: {first}", *(f"    {other}" for other in others)])
