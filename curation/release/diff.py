"""What differs between two catalogues: tiles that are kept in both, lost, new or moved, by reason and source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.errors import InputError
from curation.base.files import atomic
from curation.catalogue import KEPT, open_table
from curation.release.lock import CATALOGUE_FILE

STAYS, MOVED, LOST, NEW = "kept", "moved", "lost", "new"
"""Of a tile that is kept in either: in both at one place, in both at two, only in the first, only in the second."""
ABSENT = "not there"
"""Reason of a tile that the other catalogue does not hold: its image is not listed, or is cut in another way."""

_READ = ("tile_id", "source", "image", "kind", "verdict", "shard", "position")


def catalogue_of(place: Path) -> Path:
    """The catalogue of a run's folder or a lock, or the file itself.

    Raises:
        InputError: there is none.
    """
    path = place / CATALOGUE_FILE if place.is_dir() else place
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a run's folder, a lock or a catalogue")
    return path


def diff(first: Path, second: Path) -> pa.Table:
    """Compare two catalogues tile by tile.

    Returns:
        A row for every tile that is kept in either: ``tile_id, source, image, change, reason, shard, position`` (the
        place in the second catalogue where it is kept there, else in the first); ``reason`` is the verdict of the
        catalogue that does not keep it.
    """
    one, other = (_tiles(catalogue_of(path)) for path in (first, second))
    kept_one, kept_other = (_kept(table) for table in (one, other))
    both = kept_one.join(kept_other, "tile_id", join_type="inner", right_suffix=" other")
    stays = pc.and_(pc.equal(both["shard"], both["shard other"]), pc.equal(both["position"], both["position other"]))
    both = both.append_column("change", pc.if_else(stays, STAYS, MOVED))
    both = both.append_column("reason", pa.nulls(len(both), pa.string()))
    places = {"shard": both["shard other"], "position": both["position other"]}
    tables = [_as(both, places), _gone(kept_one, other, LOST), _gone(kept_other, one, NEW)]
    return pa.concat_tables(tables).sort_by([("source", "ascending"), ("image", "ascending"), ("tile_id", "ascending")])


def _tiles(path: Path) -> pa.Table:
    found = []
    with open_table(path, "catalogue") as file:
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number, columns=list(_READ))
            rows = rows.filter(pc.equal(rows["kind"].cast(pa.string()), "tile"))
            plain = [
                (each.name, pa.string() if pa.types.is_dictionary(each.type) else each.type) for each in rows.schema
            ]
            found.append(rows.cast(pa.schema(plain)))
    return pa.concat_tables(found) if found else pa.table({name: [] for name in _READ})


def _kept(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["verdict"], KEPT)).select(["tile_id", "source", "image", "shard", "position"])


def _gone(kept: pa.Table, other: pa.Table, change: str) -> pa.Table:
    """Rows that the other catalogue does not keep, with its verdict."""
    verdicts = other.select(["tile_id", "verdict"])
    joined = kept.join(verdicts, "tile_id", join_type="left outer")
    joined = joined.filter(pc.not_equal(joined["verdict"].fill_null(ABSENT), KEPT))
    joined = joined.append_column("change", pa.array([change] * len(joined), pa.string()))
    return _as(joined.append_column("reason", joined["verdict"].fill_null(ABSENT)), {})


def _as(table: pa.Table, places: dict[str, Any]) -> pa.Table:
    names = ("tile_id", "source", "image", "change", "reason", "shard", "position")
    return pa.table({name: places.get(name, table[name] if name in table.column_names else None) for name in names})


def counts(rows: pa.Table) -> list[dict[str, Any]]:
    """Tiles per source, change and reason."""
    grouped = rows.group_by(["source", "change", "reason"]).aggregate([([], "count_all")])
    order = [("source", "ascending"), ("change", "ascending"), ("reason", "ascending")]
    result: list[dict[str, Any]] = (
        grouped.sort_by(order).rename_columns(["source", "change", "reason", "tiles"]).to_pylist()
    )
    return result


def say(found: Sequence[dict[str, Any]]) -> str:
    """A line per source and change; one line where nothing differs."""
    if all(row["change"] == STAYS for row in found):
        return f"nothing differs: {sum(row['tiles'] for row in found):,} tiles are kept at the same places in both"
    return "\n".join(
        f"{row['source']:24} {row['change']:6} {row['tiles']:12,}{'  ' + row['reason'] if row['reason'] else ''}"
        for row in found
    )


def write_rows(rows: pa.Table, path: Path) -> None:
    """Write the tiles that differ as Parquet."""
    with atomic(path) as aside:
        pq.write_table(rows.filter(pc.not_equal(rows["change"], STAYS)), aside, compression="zstd")
