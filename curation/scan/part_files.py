"""The files of the scan's parts: rows, and in the Parquet metadata what they are and what they were made from.

``rscorpus.content`` is a digest of the rows; ``rscorpus.listed`` holds, as base64, the stamp of every image's line of
the listing, in its order; ``rscorpus.versions`` names the libraries of whoever wrote the file.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.base.arrays import Words
from curation.base.errors import FormatVersionError, InputError
from curation.base.files import atomic
from curation.catalogue import open_table, schema_of
from curation.imagery.versions import versions
from curation.scan.row_digest import content

ROW_GROUP = 8_192
CONTENT, LISTED, VERSIONS = "rscorpus.content", "rscorpus.listed", "rscorpus.versions"


@dataclass(frozen=True)
class Footer:
    """What a finished part says of itself."""

    content: str
    stamps: Words
    """Of its images, in their order."""


def footer(path: Path) -> Footer | None:
    """What a part's file says of itself; null where there is none, or one that was cut short: it is made again."""
    try:
        with open_table(path, "tiles") as file:
            told = file.metadata.metadata or {}
    except FormatVersionError:
        raise
    except InputError:
        return None
    if CONTENT.encode() not in told or LISTED.encode() not in told:
        return None
    return Footer(told[CONTENT.encode()].decode(), np.frombuffer(base64.b64decode(told[LISTED.encode()]), np.uint64))


def write_part_file(table: pa.Table, path: Path, images: Words) -> None:
    """Write a part's file atomically: equal rows give equal bytes, wherever they came from.

    Args:
        table: its rows, in the listing's order.
        path: the part's file.
        images: stamps of its images.
    """
    schema = schema_of("tiles")
    columns = [_encoded(table[name.name]).cast(name.type) for name in schema]
    table = pa.table(columns, schema=schema)
    told = {
        CONTENT: content(table),
        LISTED: base64.b64encode(images.tobytes()).decode(),
        VERSIONS: json.dumps(versions()),
    }
    coded = [column.name for column in schema if pa.types.is_dictionary(column.type)]  # the others hardly ever repeat
    options = {"compression": "zstd", "use_dictionary": coded, "write_statistics": False}
    with atomic(path) as aside, pq.ParquetWriter(aside, schema, **options) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)
        writer.add_key_value_metadata(told)


def _encoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionaries in the order of their first use, whatever tables a column was put together from."""
    if not pa.types.is_dictionary(column.type):
        return column
    return column.cast(column.type.value_type).combine_chunks().dictionary_encode()


def extra_file(out: Path) -> Path:
    """File beside a part that holds the hashes of ``fingerprint.extra``: ``tile_id`` and one string column a kind."""
    return out.with_name(f"{out.stem}.hashes{out.suffix}")


def write_extra(hashes: pa.Table, out: Path) -> None:
    """Write the file of other hashes; before the part's own, whose presence means: finished."""
    with atomic(extra_file(out)) as aside:
        pq.write_table(hashes, aside)


def files(folder: Path) -> list[Path]:
    """The parts' files in a folder, without what lies beside them."""
    return sorted(path for path in folder.glob("part-*.parquet") if not path.stem.endswith(".hashes"))


def remove(path: Path) -> None:
    """Remove a part's file and what lies beside it."""
    path.unlink(missing_ok=True)
    extra_file(path).unlink(missing_ok=True)
