"""Which images a new listing opens again although nothing about their files has changed.

Size and time of change tell nothing of a file whose permissions were mended, whose disk answered an error once, or
that was restored under its old time: ``--relist`` opens again what could not be read, and what the write stage found
changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.arrays import Words
from curation.catalogue import open_table, read_table
from curation.scan.part_files import extra_file, files, footer, remove, write_extra, write_part_file

FAILED = ("unreadable", "crashed")


def forget(folder: Path, whole_scenes: bool, changed: Collection[str]) -> None:
    """Make parts unfinished that hold images to open again; what they hold of others is taken over as ever.

    Args:
        folder: of the parts of one source.
        whole_scenes: whether images are stretched together, so that one that changes changes others.
        changed: images to open again besides those that failed.
    """
    for path in files(folder):
        told = footer(path)
        if told is None:
            continue
        with open_table(path, "tiles") as file:
            rows = file.read(columns=["kind", "image", "verdict"])
        rows = rows.filter(pc.equal(rows["kind"].cast(pa.string()), "image"))
        again = pc.is_in(rows["verdict"].cast(pa.string()), pa.array(FAILED))
        again = pc.or_(again, pc.is_in(rows["image"], pa.array(sorted(changed), pa.string())))
        if pc.any(again).as_py():
            if not whole_scenes:
                good = pc.invert(again)
                _keep(path, rows["image"].filter(good).to_pylist(), told.stamps[good.to_numpy()])
            remove(path)


def _keep(path: Path, images: Sequence[str], stamps: Words) -> None:
    """Put what a part holds of some images under another name; its image rows lie in the order of its stamps."""
    rows = read_table(path, "tiles")
    rows = rows.filter(pc.is_in(rows["image"], pa.array(images, pa.string())))
    aside = path.with_name(f"{path.stem}.good{path.suffix}")
    if extra_file(path).exists():
        hashes = pq.read_table(extra_file(path))
        write_extra(hashes.filter(pc.is_in(hashes["tile_id"], rows["tile_id"].combine_chunks())), aside)
    write_part_file(rows, aside, stamps)
