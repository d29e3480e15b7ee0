"""Fingerprints of a benchmark's images: one small file that can be shared without them, and guards against them.

The file is a ``tiles`` table with a row per image (and per tile, of images that are larger than one tile), made by the
scan stage itself, so that both sides of a comparison were measured alike. The scan judges nothing by its looks, so a
benchmark's images are guarded whatever they look like.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from curation.base.errors import InputError
from curation.catalogue import TILES, open_table, schema_of, write_table
from curation.scan.parts import Part, PartSummary, ScanJob, plan_parts
from curation.scan.scan import scan_part
from curation.sources.recipe import ExcludeRules, FingerprintRules, ResolvedSource, SliceRules
from curation.sources.source import Benchmark

_KEPT = (
    "kind", "tile_id", "source", "image", "split", "col_off", "row_off", "width", "height", "image_width",
    "image_height", "content_hash", "phash", "mean", "std", "ac_energy", "dct16", "dct_scale",
    "orientations",
)  # fmt: skip
RunParts = Callable[[Callable[[Part], PartSummary], Sequence[Part]], Iterable[object]]


@dataclass(frozen=True)
class PrintSummary:
    """What was fingerprinted."""

    images: int
    fingerprints: int
    unreadable: int

    def __str__(self) -> str:
        text = f"{self.fingerprints:,} fingerprints of {self.images:,} images"
        return text + (f"; {self.unreadable:,} could not be read" if self.unreadable else "")


def fingerprint_benchmark(
    benchmark: Benchmark, root: Path, out: Path, slices: SliceRules | None = None, run: RunParts = map
) -> PrintSummary:
    """Fingerprint a benchmark's images.

    Args:
        benchmark: its manifest; only the images of its ``test_splits`` are taken where it names any.
        root: folder of its files.
        out: file to write, ``<benchmark>.parquet`` in a folder of fingerprints.
        slices: the recipe's grid, for images that are larger than one tile: a corpus cut on another grid is guarded by
            whole images alone.
        run: maps the scan over the parts; :meth:`curation.executor.executor.Executor.map_parts` for more than one
            process.

    Raises:
        InputError: the folder is missing, holds no image or none of the test splits, or a part of it cannot be read.
    """
    from curation.sources.inventory import write_inventory

    source = ResolvedSource(benchmark, root, slices or SliceRules(), 0, None)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{benchmark.id}.") as name:
        listing = Path(name) / "images.parquet"
        (listed,) = write_inventory([source], listing)
        if listed.unread:  # its images would pass into a corpus unseen
            raise InputError(f"benchmark {benchmark.id}: {listed.unread[0]}")
        parts = plan_parts(listing, Path(name), ScanJob(source, ExcludeRules(splits=()), FingerprintRules(), 0))
        for _ in run(scan_part, parts):
            pass
        tables = [_wanted(part.out, benchmark) for part in parts]
    table = pa.concat_tables(tables).unify_dictionaries() if tables else schema_of("tiles").empty_table()
    images = table.filter(_is_image(table))
    if not len(images):
        raise InputError(
            f"benchmark {benchmark.id}: {root} holds no image of {', '.join(benchmark.test_splits) or 'it'}"
        )
    prints = table.filter(table["phash"].is_valid())
    write_table(prints, out, "tiles")
    return PrintSummary(len(images), len(prints), images["phash"].null_count)


def _wanted(path: Path, benchmark: Benchmark) -> pa.Table:
    """The guarded rows of one part: images, and tiles that are not the whole image."""
    with open_table(path, "tiles") as file:
        table = file.read()
    part = pc.or_(pc.less(table["width"], table["image_width"]), pc.less(table["height"], table["image_height"]))
    table = table.filter(pc.or_(_is_image(table), pc.fill_null(part, False)))
    if benchmark.test_splits:
        table = table.filter(pc.is_in(table["split"].cast(pa.string()), pa.array(benchmark.test_splits)))
    columns = [table[column.name] if column.name in _KEPT else pa.nulls(len(table), column.type) for column in TILES]
    return pa.table(columns, schema=schema_of("tiles"))


def _is_image(table: pa.Table) -> pa.ChunkedArray:
    return pc.equal(table["kind"].cast(pa.string()), "image")
