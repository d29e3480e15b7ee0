"""One image's or tile's story, told from the catalogue: every rule's value against its threshold, verdict, twin, place.

The catalogue is sorted by source and image, so the statistics of its row groups lead to an image; an id is a hash, and
only its column is read whole.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.errors import InputError
from curation.catalogue import KEPT, MEASUREMENTS, VERDICTS, open_table, table_from_rows
from curation.select.exclude import RULES, Rule, measured_of
from curation.select.write_catalogue import Rulebook, read_rulebook
from curation.sources.recipe import ExcludeRules

T = TypeVar("T")
Row = dict[str, Any]

_LISTED = 10
_SHOWN = [
    "kind", "tile_id", "source", "image", "col_off", "row_off", "width", "height", "image_width", "image_height",
    "bands", "dtype", "format", "file_bytes", "gsd_m", "gsd_from", *MEASUREMENTS["tile"], *MEASUREMENTS["image"],
    "verdict", "subject", "detail", "shard", "position",
]  # fmt: skip
_SUGGESTED, _COMPARED = 3, 5_000
_ID = re.compile(r"(?:[0-9]{11}-)?(?P<id>[0-9a-f]{20})")
"""A tile id, or a shard member's key, which ends in one."""


@dataclass(frozen=True)
class _Table:
    """An open catalogue."""

    path: Path
    metadata: pq.FileMetaData
    rules: Rulebook

    @classmethod
    def open(cls, path: Path) -> _Table:
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


def why(out: Path, wanted: str, trial: bool = False) -> str:
    """Tell what became of an image or a tile, and by what.

    Args:
        out: folder of a run.
        wanted: path of an image in its source (the source's id and a slash may stand before it), a tile's id, or a
            sample's key.
        trial: ask the catalogue of ``--until select`` instead of the finished one.

    Raises:
        InputError: no catalogue, or nothing of that name; the nearest names are given.
    """
    path = (out / "trial" if trial else out) / "catalogue.parquet"
    if not path.is_file():
        how = "--until select" if trial else "rs-curate run"
        raise InputError(f"{out}: holds no {path.relative_to(out)}; {how} makes it")
    table = _Table.open(path)
    named = _ID.fullmatch(wanted)
    row = _by_ids(table, [named["id"]]).get(named["id"]) if named else None
    if row is None:
        return _story_of_image(table, _image(table, wanted))
    rows = _of_image(table, row["image"], row["source"])
    return _story_of_image(table, rows) if row["kind"] == "image" else _story_of_tile(table, row, rows)


# ------------------------------------------------------------------------------------------------ finding


def _by_ids(table: _Table, ids: Sequence[str]) -> dict[str, Row]:
    """Rows by tile id; ids that no row has are absent."""
    values = pa.array(sorted(set(ids)), pa.string())

    def search(group: int) -> list[Row]:
        held = pc.is_in(table.read(group, ["tile_id"])["tile_id"], values)
        return _rows(table.read(group, _SHOWN).filter(held)) if pc.any(held).as_py() else []

    groups = range(table.metadata.num_row_groups) if len(values) else range(0)
    return {row["tile_id"]: row for rows in table.each(search, groups) for row in rows}


def _rows(table: pa.Table) -> list[Row]:
    rows: list[Row] = table.to_pylist()
    return rows


def _image(table: _Table, wanted: str) -> list[Row]:
    """Rows of the image that is meant."""
    source, _, rest = wanted.partition("/")
    readings = [(None, wanted), *([(source, rest)] if source in table.rules.kinds else [])]
    rows = [row for owner, image in readings for row in _of_image(table, image, owner)]
    images = [f"{row['source']}/{row['image']}" for row in rows if row["kind"] == "image"]
    if not images:
        raise InputError(f"{table.path}: no image, tile or sample is named {wanted!r}{_nearest(table, wanted)}")
    if len(images) > 1:
        raise InputError(f"{table.path}: {wanted!r} is in several sources; say {' or '.join(images)}")
    return rows


def _of_image(table: _Table, image: str, source: str | None) -> list[Row]:
    """The rows of an image: its own and its tiles'."""

    def search(group: int) -> list[Row]:
        names = table.read(group, ["source", "image"])
        held = pc.equal(names["image"], image)
        if source is not None:
            held = pc.and_(held, pc.equal(names["source"].cast(pa.string()), source))
        return _rows(table.read(group, _SHOWN).filter(held)) if pc.any(held).as_py() else []

    return [row for rows in table.each(search, table.near(image)) for row in rows]


def _nearest(table: _Table, wanted: str) -> str:
    """Names like the wanted one: of the same file in another folder, or spelt alike."""
    stem = Path(wanted).stem

    def search(group: int) -> list[str]:
        names = pc.unique(table.read(group, ["image"])["image"])
        if len(names) * table.metadata.num_row_groups <= _COMPARED:
            return [str(name) for name in names.to_pylist()]
        alike = names.filter(pc.match_substring(names, stem)).to_pylist()[:_COMPARED]
        place = int(pc.sum(pc.less(names, wanted)).as_py() or 0)  # spelt wrongly, it still sorts about there
        return [*alike, *names.slice(max(place - 20, 0), 40).to_pylist()]

    names = {name for found in table.each(search, range(table.metadata.num_row_groups)) for name in found}
    close = difflib.get_close_matches(wanted, sorted(names)[: 4 * _COMPARED], _SUGGESTED)
    return f"; did you mean {' or '.join(close)}?" if close else ""


# ------------------------------------------------------------------------------------------------ telling


def _story_of_image(table: _Table, rows: list[Row]) -> str:
    image, *tiles = rows  # as they lie in the catalogue
    lines = [f"{image['source']}/{image['image']}", f"  {_header(image)}", f"  {_verdict(image)}"]
    lines += _rules_in_words(table, image)
    if tiles:
        counts = Counter(row["verdict"] for row in tiles)
        told = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in VERDICTS if counts[verdict])
        tiles.sort(key=lambda row: (VERDICTS.index(row["verdict"]), row["row_off"], row["col_off"]))
        worst = tiles[:_LISTED]
        twins = _twins(table, worst)
        lines.append(f"  tiles: {told}" + ("; the worst:" if len(tiles) > _LISTED else ""))
        lines += [f"    {row['tile_id']} {_window(row)}  {_verdict(row, table.rules.name, twins)}" for row in worst]
    return "\n".join(lines)


def _story_of_tile(table: _Table, tile: Row, rows: list[Row]) -> str:
    image = rows[0]
    lines = [f"{tile['source']}/{tile['image']} {_window(tile)}  tile {tile['tile_id']}", f"  {_header(tile)}"]
    lines += [f"  {_verdict(tile, table.rules.name, _twins(table, [tile]))}", *_rules_in_words(table, tile)]
    return "\n".join([*lines, "  its image:", f"  {_verdict(image)}", *_rules_in_words(table, image)])


def _header(row: Row) -> str:
    if row["image_width"] is None:
        return f"{row['file_bytes'] or 0:,} bytes, not opened to its end"
    ground = "ground length of a pixel unknown" if row["gsd_m"] is None else f"{row['gsd_m']:.3g} m ({row['gsd_from']})"
    size = f"{row['image_width']} x {row['image_height']} pixels"
    return f"{row['format']}, {size}, {row['bands']} x {row['dtype']}, {row['file_bytes']:,} bytes, {ground}"


def _window(row: Row) -> str:
    return f"[{row['col_off']}, {row['row_off']}, {row['width']} x {row['height']}]"


def _verdict(row: Row, name: str = "", twins: dict[str, Row] | None = None) -> str:
    """Verdict with its reason; the twin by path; the place of what is kept."""
    text = f"{row['verdict']}" + (f": {row['detail']}" if row["detail"] else "")
    if row["verdict"] == KEPT:
        key = f"{row['shard']:06d}{row['position']:05d}-{row['tile_id']}"
        return f"{text} in {name}-{row['shard']:06d}.tar at position {row['position']} as {key}"
    twin = (twins or {}).get(row["subject"] or "")
    return text if twin is None else f"{text}; of {twin['source']}/{twin['image']} {_window(twin)} {twin['tile_id']}"


def _twins(table: _Table, rows: Sequence[Row]) -> dict[str, Row]:
    return _by_ids(table, [row["subject"] for row in rows if row["verdict"] == "duplicate"])


def _rules_in_words(table: _Table, row: Row) -> list[str]:
    """A line for every rule that asks rows like this one: the outcome, what was measured, the threshold."""
    rules, kind = table.rules.exclude, table.rules.kinds[row["source"]]
    measured = measured_of(table_from_rows("catalogue", [row]), np.zeros(1, np.int64), row["kind"], table.rules.kinds)
    lines = []
    for rule in RULES:
        if rule.of == row["kind"] and kind in rule.kinds:
            asked, against = rule.asked(measured, rules)[0], rule.against(measured, rules)[0]
            outcome = "against" if against else "passed" if asked else "not asked"
            lines.append(f"    {outcome:<9}  {_rule_in_words(rule, row, rules, bool(against))}")
    return lines


def _rule_in_words(rule: Rule, row: Row, rules: ExcludeRules, against: bool) -> str:
    if any(row[name] is None for name in rule.reads):
        return f"{rule.name}: not measured, {rule.limit_in_words(rules)}"
    if isinstance(getattr(rules, rule.name, None), bool) and not against:
        return f"{rule.name}: {rule.limit_in_words(rules)}"  # a flag's words tell what speaks against
    return rule.details([row], rules)[0]
