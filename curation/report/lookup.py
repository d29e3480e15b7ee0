"""Rows of a catalogue found by image or by id.

The catalogue is sorted by source and image, so the statistics of its row groups lead to an image; an id is a hash, and
only its column is read whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.errors import InputError
from curation.catalogue import MEASUREMENTS, open_table
from curation.select.write_catalogue import Rulebook, read_rulebook

T = TypeVar("T")
Row = dict[str, Any]

SHOWN = [
    "kind", "tile_id", "source", "image", "col_off", "row_off", "width", "height", "image_width", "image_height",
    "bands", "dtype", "format", "file_bytes", "gsd_m", "gsd_from", *MEASUREMENTS["tile"], *MEASUREMENTS["image"],
    "verdict", "subject", "detail", "shard", "position",
]  # fmt: skip
"""Columns of a row that is told of."""


@dataclass(frozen=True)
class Lookup:
    """An open catalogue."""

    path: Path
    metadata: pq.FileMetaData
    rules: Rulebook

    @classmethod
    def open(cls, path: Path) -> Lookup:
        """Open a catalogue with the rules that it was made by."""
        with open_table(path, "catalogue") as file:
            return cls(path, file.metadata, read_rulebook(file, path))

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of one row group."""
        with pq.ParquetFile(self.path, metadata=self.metadata) as file:
            return file.read_row_group(group, columns=list(columns), use_threads=False)

    def each(self, work: Callable[[int], T], groups: Iterable[int]) -> list[T]:
        """``work`` of some row groups, in threads."""
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(work, groups))

    def near(self, image: str) -> list[int]:
        """Row groups that may hold an image, as their statistics say."""
        number = [self.metadata.schema.column(at).path for at in range(self.metadata.num_columns)].index("image")
        groups = range(self.metadata.num_row_groups)
        known = [self.metadata.row_group(group).column(number).statistics for group in groups]
        return [
            group
            for group, each in zip(groups, known, strict=True)
            if each is None or not each.has_min_max or each.min <= image <= each.max
        ]

    def by_ids(self, ids: Iterable[str], columns: Sequence[str] = SHOWN) -> dict[str, Row]:
        """Rows by tile id; ids that no row has are absent."""
        values = pa.array(sorted(set(ids)), pa.string())

        def search(group: int) -> list[Row]:
            held = pc.is_in(self.read(group, ["tile_id"])["tile_id"], values)
            return as_rows(self.read(group, columns).filter(held)) if pc.any(held).as_py() else []

        groups = range(self.metadata.num_row_groups) if len(values) else range(0)
        return {row["tile_id"]: row for rows in self.each(search, groups) for row in rows}


def catalogue_in(out: Path, trial: bool = False) -> Path:
    """The catalogue of a run's folder, or of its trial.

    Raises:
        InputError: there is none.
    """
    path = (out / "trial" if trial else out) / "catalogue.parquet"
    if not path.is_file():
        how = "--until select" if trial else "rs-curate run"
        raise InputError(f"{out}: holds no {path.relative_to(out)}; {how} makes it")
    return path


def as_rows(table: pa.Table) -> list[Row]:
    """One dict a row."""
    rows: list[Row] = table.to_pylist()
    return rows
