"""One image's or tile's story from the catalogue: every rule's value against its threshold, verdict, twin, place."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.base.errors import InputError
from curation.catalogue import KEPT, VERDICTS, table_from_rows
from curation.report.lookup import SHOWN, Lookup, Row, as_rows, catalogue_in
from curation.select.exclude import RULES, Rule, measured_of
from curation.select.write_catalogue import Rulebook
from curation.sources.recipe import ExcludeRules

_LISTED = 10
_SUGGESTED, _COMPARED = 3, 5_000
_ID = re.compile(r"(?:[0-9]{11}-)?(?P<id>[0-9a-f]{20})")
"""A tile id, or a shard member's key, which ends in one."""


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
    table = Lookup.open(catalogue_in(out, trial))
    named = _ID.fullmatch(wanted)
    row = table.by_ids([named["id"]]).get(named["id"]) if named else None
    if row is None:
        return _story_of_image(table, _image(table, wanted))
    rows = _of_image(table, row["image"], row["source"])
    return _story_of_image(table, rows) if row["kind"] == "image" else _story_of_tile(table, row, rows)


# ------------------------------------------------------------------------------------------------ finding


def _image(table: Lookup, wanted: str) -> list[Row]:
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


def _of_image(table: Lookup, image: str, source: str | None) -> list[Row]:
    """The rows of an image: its own and its tiles'."""

    def search(group: int) -> list[Row]:
        names = table.read(group, ["source", "image"])
        held = pc.equal(names["image"], image)
        if source is not None:
            held = pc.and_(held, pc.equal(names["source"].cast(pa.string()), source))
        return as_rows(table.read(group, SHOWN).filter(held)) if pc.any(held).as_py() else []

    return [row for rows in table.each(search, table.near(image)) for row in rows]


def _nearest(table: Lookup, wanted: str) -> str:
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


def _story_of_image(table: Lookup, rows: list[Row]) -> str:
    image, *tiles = rows  # as they lie in the catalogue
    lines = [f"{image['source']}/{image['image']}", f"  {_header(image)}", f"  {_verdict(image)}"]
    lines += rules_in_words(table.rules, image)
    if tiles:
        counts = Counter(row["verdict"] for row in tiles)
        told = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in VERDICTS if counts[verdict])
        tiles.sort(key=lambda row: (VERDICTS.index(row["verdict"]), row["row_off"], row["col_off"]))
        worst = tiles[:_LISTED]
        twins = _twins(table, worst)
        lines.append(f"  tiles: {told}" + ("; the worst:" if len(tiles) > _LISTED else ""))
        lines += [f"    {row['tile_id']} {_window(row)}  {_verdict(row, table.rules.name, twins)}" for row in worst]
    return "\n".join(lines)


def _story_of_tile(table: Lookup, tile: Row, rows: list[Row]) -> str:
    image = rows[0]
    lines = [f"{tile['source']}/{tile['image']} {_window(tile)}  tile {tile['tile_id']}", f"  {_header(tile)}"]
    lines += [f"  {_verdict(tile, table.rules.name, _twins(table, [tile]))}", *rules_in_words(table.rules, tile)]
    return "\n".join([*lines, "  its image:", f"  {_verdict(image)}", *rules_in_words(table.rules, image)])


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


def _twins(table: Lookup, rows: Sequence[Row]) -> dict[str, Row]:
    return table.by_ids([row["subject"] for row in rows if row["verdict"] == "duplicate"])


def rules_in_words(rulebook: Rulebook, row: Row) -> list[str]:
    """A line for every rule that asks rows like this one: the outcome, what was measured, the threshold."""
    if row["kind"] == "image" and row["sampled"] is None:
        return ["    nothing was measured"]
    rules, kind = rulebook.exclude, rulebook.kinds[row["source"]]
    measured = measured_of(table_from_rows("catalogue", [row]), np.zeros(1, np.int64), row["kind"], rulebook.kinds)
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
