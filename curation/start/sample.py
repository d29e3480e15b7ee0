"""Some images instead of all: drawn by the seed, the same ones in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.base.arrays import Words
from curation.base.files import atomic, is_whole
from curation.base.splitmix import splitmix64
from curation.catalogue import open_table, schema_of
from curation.scan.row_digest import row_digests


def draw(listings: Mapping[str, Path], count: int, seed: int, place: Callable[[str], Path]) -> Mapping[str, Path]:
    """Listings of ``count`` images of all sources together; a source of which none is drawn keeps an empty one.

    An image's chance follows from its source, its path and the seed alone: of more images the same ones come first.

    Args:
        listings: the ``images`` table of each source.
        count: how many.
        seed: of the recipe.
        place: where the listing of a source goes; one that is there whole stays.
    """
    chances = {
        source: np.concatenate([*_chances(path, seed), np.zeros(0, np.uint64)]) for source, path in listings.items()
    }
    every = np.concatenate(list(chances.values()))
    if len(every) <= count:
        return listings
    last = np.partition(every, count - 1)[count - 1]
    drawn = {}
    for source, path in listings.items():
        drawn[source] = place(source)
        if not is_whole(drawn[source]):
            _write(path, chances[source] <= last, drawn[source])
    return drawn


def _chances(listing: Path, seed: int) -> Iterator[Words]:
    with open_table(listing, "images") as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["source", "image"])
            plain = pa.table([column.cast(pa.string()) for column in rows.columns], names=rows.column_names)
            yield splitmix64(seed, row_digests(plain))


def _write(listing: Path, wanted: np.ndarray[tuple[int], np.dtype[np.bool_]], out: Path) -> None:
    schema, start = schema_of("images"), 0
    with open_table(listing, "images") as file, atomic(out) as aside, pq.ParquetWriter(aside, schema) as writer:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            writer.write_table(rows.filter(pa.array(wanted[start : start + len(rows)])))
            start += len(rows)
