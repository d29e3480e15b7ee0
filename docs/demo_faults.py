"""What the demo's run found of the faults planted in its imagery: ``python docs/demo_faults.py OUT/catalogue.parquet``.

The faults are named in ``manifests/demo/planted.csv``, which no recipe reads.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

PLANTED = Path(__file__).parents[1] / "manifests/demo/planted.csv"
EXPECTED_OF_TILES = {"nodata": "in a collar of nodata", "blank": "of open sea and ice"}
"""Verdicts that every tile may get without being planted: what SOURCES.md says of strips and seas."""

Row = dict[str, Any]


def main(catalogue: Path) -> None:
    """Print what was found, what was missed, and what was left out though nothing is wrong with it."""
    columns = ["kind", "source", "image", "tile_id", "verdict", "subject"]
    rows: list[Row] = pq.read_table(catalogue, columns=columns).to_pylist()
    with PLANTED.open(newline="", encoding="utf-8") as file:
        planted = list(csv.DictReader(file))
    found = [fault["verdict"] in verdicts_of(rows, fault["file"]) for fault in planted]
    print(f"\nPlanted faults: {sum(found)} of {len(planted)} found")
    for fault, is_found in zip(planted, found, strict=True):
        print(f"  {fault['verdict'] if is_found else 'MISSED':<11}  {fault['file']}: {fault['fault']}")
    counts = Counter(row["verdict"] for row in rows if row["kind"] == "tile")
    for verdict, words in EXPECTED_OF_TILES.items():
        print(f"  {verdict:<11}  {counts[verdict]} tiles {words}")
    wrong = wrongly_left_out(rows, {fault["file"] for fault in planted})
    images = sum(row["kind"] == "image" for row in rows)
    print(f"Wrongly left out: {', '.join(wrong) or 'none'} of the other {images - len(planted)} images")


def name(row: Row) -> str:
    """Path below the demo's imagery; the sources' folders bear their ids."""
    return f"{row['source']}/{row['image']}"


def verdicts_of(rows: list[Row], file: str) -> set[str]:
    """Verdicts of an image and its tiles; of a pair of equal tiles either may be the one that stays."""
    own = [row for row in rows if name(row) == file]
    ids = {row["tile_id"] for row in own}
    twins = {row["verdict"] for row in rows if row["verdict"] == "duplicate" and row["subject"] in ids}
    return {row["verdict"] for row in own} | twins


def wrongly_left_out(rows: list[Row], planted: set[str]) -> list[str]:
    """Images without a fault of which something was left out."""
    of = {row["tile_id"]: name(row) for row in rows}
    fine = {"kept", "sliced", *EXPECTED_OF_TILES}
    return sorted(
        {
            name(row)
            for row in rows
            if row["verdict"] not in fine and name(row) not in planted and of.get(row["subject"]) not in planted
        }
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
