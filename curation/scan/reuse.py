"""Rows that an earlier listing's parts hold of images that did not change: taken over, the images are not opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.arrays import Words
from curation.catalogue import read_table
from curation.scan.part_files import extra_file, footer
from curation.scan.parts import Part


def known(part: Part, images: Sequence[str], stamps: Words) -> tuple[set[str], list[pa.Table], list[pa.Table]]:
    """Find what earlier parts hold of a part's images in their present state.

    Args:
        part: the part, with its ``previous`` files.
        images: its images.
        stamps: theirs, ``(N,)``.

    Returns:
        Names of the images that were found, tables of their rows, and of their other hashes.
    """
    found: set[str] = set()
    tables, hashes = [], []
    for path in part.previous:
        holds = footer(path)
        if holds is None or (part.job.fingerprint.extra and not extra_file(path).exists()):
            continue
        same = np.isin(stamps, holds.stamps)
        wanted = [image for image, is_same in zip(images, same, strict=True) if is_same and image not in found]
        rows = _of_images(path, wanted)
        there = set(rows["image"].unique().to_pylist())
        found |= there
        tables.append(rows)
        if part.job.fingerprint.extra:
            every = pq.read_table(extra_file(path))
            hashes.append(every.filter(pc.is_in(every["tile_id"], rows["tile_id"].combine_chunks())))
    return found, tables, hashes


def _of_images(path: Path, images: Sequence[str]) -> pa.Table:
    rows = read_table(path, "tiles")
    return rows.filter(pc.is_in(rows["image"], pa.array(images, pa.string())))


def in_order(table: pa.Table, column: str, order: Sequence[str]) -> pa.Table:
    """Rows in the order of some values of a column; rows of equal values stay as they are."""
    places = pc.index_in(table[column], pa.chunked_array([pa.array(order, pa.string())])).to_numpy()
    return table.take(pa.array(np.argsort(places, kind="stable")))
