"""Which version of every remote image a corpus was made of: ``remote.parquet`` of a lock.

A catalogue elsewhere grows, and what the seed draws of it changes; so a rebuild reads the same URLs, windows and
ranges, and each only of the version that was listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.errors import InputError
from curation.base.files import atomic
from curation.catalogue import KEPT, open_table, schema_of
from curation.record import Made, read_record

PINS_FILE = "remote.parquet"
_COLUMNS = ("source", "image", "file", "member", "bytes", "mtime_ns")
"""Of the listing: the URL, and the member with size and ETag of its file."""


def write_pins(out: Path, made: Made, folder: Path) -> None:
    """Write where the kept images of remote sources lie; nothing where there are none.

    Raises:
        InputError: a listing is gone.
    """
    (folder / PINS_FILE).unlink(missing_ok=True)
    remote = [name for name, manifest in made.sources.items() if manifest.get("remote")]
    if not remote:
        return
    schema = pa.schema([schema_of("images").field(name) for name in _COLUMNS])
    with atomic(folder / PINS_FILE) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for source in remote:
            kept = _kept(out / "catalogue.parquet", source)
            with open_table(_listing(out, source), "images") as file:
                for group in range(file.num_row_groups):
                    rows = file.read_row_group(group, columns=list(_COLUMNS))
                    writer.write_table(rows.filter(pc.is_in(rows["image"], kept)).cast(schema))


def read_pins(folder: Path, source: str) -> Iterator[dict[str, Any]]:
    """Lines of a listing, sorted by image; none in a lock without remote images."""
    if not (folder / PINS_FILE).exists():
        return
    with pq.ParquetFile(folder / PINS_FILE) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            yield from rows.filter(pc.equal(rows["source"].cast(pa.string()), source)).to_pylist()


def _kept(catalogue: Path, source: str) -> pa.Array:
    found = []
    with open_table(catalogue, "catalogue") as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["source", "image", "verdict"])
            own = pc.equal(rows["source"].cast(pa.string()), source)
            kept = pc.and_(own, pc.equal(rows["verdict"].cast(pa.string()), KEPT))
            found.append(rows.filter(kept)["image"].combine_chunks().cast(pa.string()))
    return pc.unique(pa.concat_arrays(found))


def _listing(out: Path, source: str) -> Path:
    needs = read_record(out).get("finished")
    stages = [] if needs is None else [name for name in needs.stages if name.startswith(f"inventory.{source}-")]
    path = out / ".stages" / (stages[0] if stages else "") / "images.parquet"
    if not path.is_file():
        raise InputError(f"{out}: the listing of {source} is gone; run its recipe once more")
    return path
