"""How long the report of a large run takes: a catalogue of many rows, made from a small one, read into a page.

    python benchmarks/report.py OUT [--rows 13200000] [--json FILE]

OUT is a finished run, such as the demo's; its rows are repeated under new ids. Pictures are left out: their number
does not grow with the rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import secrets
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curation.catalogue import open_table
from curation.record import read_made
from curation.report.page import ReportFacts, ReportPage, write_report
from curation.sources.recipe import Recipe, resolve

GROUP = 65_536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=13_200_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    made = read_made(options.out)
    recipe = Recipe.model_validate(made.recipe)
    sources = resolve(recipe, Path(made.data) if made.data else None)
    with tempfile.TemporaryDirectory() as scratch:
        catalogue = repeated(options.out / "catalogue.parquet", options.rows, Path(scratch) / "catalogue.parquet")
        page = ReportPage(Path(scratch) / "report.html", Path(scratch) / "pictures")
        start = time.perf_counter()
        write_report(ReportFacts(recipe, sources, catalogue, {}, [], None, pictures=0), page, lambda fn, parts: [])
        seconds = time.perf_counter() - start
        size = page.file.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("| rows | seconds | peak memory, MiB | page, MB |\n|---|---|---|---|")
    print(f"| {options.rows:,} | {seconds:.1f} | {peak:,.0f} | {size / 1e6:.2f} |")
    if options.json:
        figures = {"rows": options.rows, "seconds": seconds, "peak_mib": peak, "page_bytes": size}
        options.json.write_text(json.dumps(figures, indent=1))


def repeated(small: Path, rows: int, out: Path) -> Path:
    """A catalogue of ``rows`` rows: the small one's again and again, under ids of their own."""
    with open_table(small, "catalogue") as file:
        table = file.read()
    times = -(-GROUP // len(table))
    block = pa.concat_tables([table] * times).combine_chunks().slice(0, GROUP)
    with pq.ParquetWriter(out, table.schema, compression="zstd") as writer:
        for first in range(0, rows, GROUP):
            part = block.slice(0, min(GROUP, rows - first))
            ids = pa.array([secrets.token_hex(10) for _ in range(len(part))], pa.string())
            writer.write_table(
                part.set_column(part.schema.get_field_index("tile_id"), part.schema.field("tile_id"), ids)
            )
    return out


if __name__ == "__main__":
    main()
