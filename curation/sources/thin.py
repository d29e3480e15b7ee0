"""A listing of some of a source's images: rows of an ``images`` table are drawn by :mod:`curation.sources.subset`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.arrays import Flags, Ints, Words
from curation.catalogue import open_table, schema_of
from curation.containers.registry import reason_in
from curation.sources.subset import Subset, lot, lowest


def thin(listing: Path, subsets: Mapping[str, Subset]) -> dict[str, int]:
    """Keep of an ``images`` table what is taken of each source; rows that stand for broken archives stay.

    Returns:
        Images that are left of each of these sources.
    """
    groups = list(_draws(listing, subsets))
    keep = np.concatenate([np.zeros(0, np.bool_), *(group.may_stay for group in groups)])
    lots = np.concatenate([np.zeros(0, np.uint64), *(group.lots for group in groups)])
    owners = np.concatenate([np.zeros(0, np.int64), *(group.owners for group in groups)])
    taken = {}
    for number, (source, subset) in enumerate(subsets.items()):
        (free,) = np.nonzero((owners == number) & keep)
        if subset.images is not None and len(free) > subset.images:
            keep[free[np.argsort(lots[free], kind="stable")[subset.images :]]] = False
        taken[source] = int((keep & (owners == number)).sum())
    _filter(listing, keep)
    return taken


@dataclass(frozen=True)
class _Draws:
    """Of one row group: who owns a row (-1: nobody whose images are drawn), whether it may stay, and its lot."""

    owners: Ints
    may_stay: Flags
    lots: Words


def _draws(listing: Path, subsets: Mapping[str, Subset]) -> Iterator[_Draws]:
    numbers = {source: number for number, source in enumerate(subsets)}
    files = _chosen(listing, subsets)
    with open_table(listing, "images") as table:
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group, columns=["source", "image", "file", "member"])
            found = zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True)
            owners, keep, lots = [], [], []
            for source, image, file, member in found:
                drawn = source in numbers and reason_in(member or "") is None
                owners.append(numbers[source] if drawn else -1)
                keep.append(not drawn or source not in files or file in files[source])
                lots.append(lot(subsets[source].seed, source, image) if drawn else 0)
            yield _Draws(np.array(owners, np.int64), np.array(keep, np.bool_), np.array(lots, np.uint64))


def _chosen(listing: Path, subsets: Mapping[str, Subset]) -> dict[str, set[str]]:
    """Files that are taken of sources that count them."""
    found: dict[str, set[str]] = {source: set() for source, subset in subsets.items() if subset.files is not None}
    with open_table(listing, "images") as table:
        for group in range(table.num_row_groups if found else 0):
            rows = table.read_row_group(group, columns=["source", "file"])
            for source, names in found.items():
                names |= set(pc.unique(rows.filter(pc.equal(rows["source"], source))["file"]).to_pylist())
    return {
        source: lowest(names, subsets[source].files or 0, subsets[source].seed, source)
        for source, names in found.items()
    }


def _filter(listing: Path, keep: Flags) -> None:
    aside, start = listing.with_name(f"{listing.name}.thin"), 0
    with (
        open_table(listing, "images") as table,
        pq.ParquetWriter(aside, schema_of("images"), compression="zstd") as out,
    ):
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group)
            out.write_table(rows.filter(pa.array(keep[start : start + len(rows)])))
            start += len(rows)
    os.replace(aside, listing)
