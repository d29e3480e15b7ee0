"""The report stage: one HTML page that shows what came out, what did not, and why, and lets thresholds be tried.

Everything on it is read from the catalogue in one pass (:mod:`curation.report.figures`); its pictures lie on sheets in
a folder beside it (:mod:`curation.report.thumbnails`). The page loads nothing from elsewhere, so that it can be
archived and opened years later; without scripts its tables still tell all counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import yaml

from curation import __version__
from curation.base.files import atomic, place
from curation.catalogue import KEPT, REASONS, SLICED, tile_id
from curation.report import figures, thumbnails
from curation.report.figures import Figures, Threshold
from curation.report.lookup import SHOWN, Lookup, Row
from curation.report.thumbnails import SheetPlace
from curation.report.why import rules_in_words
from curation.shards.format import ShardInfo
from curation.sources.recipe import Recipe, ResolvedSource

REPORT_VERSION = 4
_GROUPS, _PER_GROUP = 200, 6


@dataclass(frozen=True)
class ReportFacts:
    """What the page is made from."""

    recipe: Recipe
    sources: Sequence[ResolvedSource]
    catalogue: Path
    listings: Mapping[str, Path]
    shards: Sequence[ShardInfo]
    shard_folder: Path | None
    """Where they lie; null where there are none, as in a trial."""
    unguarded: Sequence[str] = ()
    pictures: int = 0
    """About how many to show."""
    share: bool = False
    """Leave out the pixels of sources that may not be redistributed."""
    notes: Sequence[str] = ()
    """Warnings, and what else comes first."""
    command: str = ""
    """What was typed."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage -> how long it took in the run that made the page; of what was made before, next to nothing."""


@dataclass(frozen=True)
class ReportPage:
    """Where a report lies, and where its sheets of pictures do."""

    file: Path
    pictures: Path

    def place_sheets(self, folder: Path) -> None:
        """Give the sheets their names beside the page in ``folder``; sheets of an earlier page go."""
        beside, made = folder / self.file.stem, {sheet.name for sheet in self.pictures.glob("*.jpg")}
        for name in made:
            place(self.pictures / name, beside / name)
        for old in beside.glob("sheet-*.jpg"):
            if old.name not in made:
                old.unlink()


@dataclass(frozen=True)
class LedgerRow:
    """One source's balance; ``images`` and ``tiles`` hold counts per verdict."""

    source: str
    licence: str
    images: dict[str, int] = field(default_factory=dict)
    tiles: dict[str, int] = field(default_factory=dict)

    @property
    def listed(self) -> int:
        """Raw images listed."""
        return sum(self.images.values())

    @property
    def sliced(self) -> int:
        """Raw images that became tiles."""
        return self.images.get(SLICED, 0)

    @property
    def cut(self) -> int:
        """Tiles cut."""
        return sum(self.tiles.values())

    @property
    def kept(self) -> int:
        """Tiles kept."""
        return self.tiles.get(KEPT, 0)


def write_report(facts: ReportFacts, page: ReportPage, map_parts: thumbnails.MapParts) -> None:
    """Write the report of a finished run.

    Args:
        facts: what it is made from.
        page: what to write; pictures that were taken before are not taken again.
        map_parts: who takes the pictures.

    Raises:
        ValueError: the ledger does not balance (a row without verdict), which is a bug.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = figures.look(facts.catalogue, facts.pictures)
    rows = ledger_rows(found, facts)
    totals = _totals(rows)
    used = [reason for reason in REASONS if totals.images.get(reason) or totals.tiles.get(reason)]
    environment = Environment(loader=PackageLoader("curation.report", "."), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("report.html.j2").render(
        recipe=facts.recipe,
        recipe_yaml=yaml.safe_dump(facts.recipe.model_dump(mode="json"), sort_keys=False),
        rows=rows,
        reasons=used,
        totals=totals,
        leaks=found.leaks,
        unguarded=facts.unguarded,
        notes=facts.notes,
        shards=facts.shards,
        sources=facts.sources,
        share=facts.share,
        command=facts.command,
        seconds=facts.seconds,
        version=__version__,
        land=_packaged("land.path"),
        script=_packaged("report.js"),
        data=_embedded(_data(facts, found, used, page, map_parts)),
    )
    with atomic(page.file) as aside:
        aside.write_text(html, encoding="utf-8")


def _packaged(name: str) -> str:
    return package_files("curation.report").joinpath(name).read_text(encoding="utf-8")


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that no text in it can end the script element of."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


# ------------------------------------------------------------------------------------------------ what scripts show


def _data(
    facts: ReportFacts, found: Figures, used: Sequence[str], page: ReportPage, map_parts: thumbnails.MapParts
) -> dict[str, Any]:
    budget = figures.share(facts.pictures, [KEPT, *used])
    shown = [name for verdict, count in budget.items() for name in found.draw.of(verdict, count)]
    groups = found.groups.largest(min(_GROUPS, facts.pictures // _PER_GROUP))
    members = figures.members(facts.catalogue, [head for head, _ in groups], _PER_GROUP - 1)
    near = [name for threshold in found.thresholds for side in threshold.near.values() for _, name in side]
    wanted = dict.fromkeys([*shown, *members, *(name for ids in members.values() for name in ids)])
    if facts.pictures:
        wanted |= dict.fromkeys(near)
    lookup = Lookup.open(facts.catalogue)
    rows = lookup.by_ids(wanted, [*SHOWN, "stretch"])
    images = lookup.by_ids(tile_id(row["source"], row["image"], None) for row in rows.values())
    places = thumbnails.take(
        _to_picture(rows, facts), {source.id: source for source in facts.sources}, facts.listings,
        facts.recipe.exclude, page.pictures, map_parts, facts.shard_folder,
    )  # fmt: skip
    return {
        "sheets": [f"{page.file.stem}/{thumbnails.sheet_name(n)}" for n in range(_count_of_sheets(places))],
        "sheet": thumbnails.ACROSS * thumbnails.THUMB,
        "thumb": thumbnails.THUMB,
        "verdicts": {KEPT: _number(found, KEPT)} | {verdict: _number(found, verdict) for verdict in used},
        "rows": {name: _shown(row, places.get(name), lookup) for name, row in rows.items()},
        "browse": [name for name in shown if name in rows],
        "images": {name: _story(row, lookup) for name, row in images.items()},
        "groups": [{"size": size + 1, "ids": [head, *members[head]]} for head, size in groups],
        "groupsTotal": found.groups.total,
        "thresholds": [_threshold(each) for each in found.thresholds if each.histogram.counts.any()],
        "kept": [{"name": name, **histogram.as_json()} for name, histogram in found.kept.items()],
        "cells": [[x, y, count] for (x, y), count in sorted(found.cells.items())],
        "cell": figures.CELL,
    }


def _to_picture(rows: Mapping[str, Row], facts: ReportFacts) -> list[Row]:
    """Rows whose pixels may be shown."""
    free = {source.id for source in facts.sources if not facts.share or source.source.redistributable == "yes"}
    return [row for row in rows.values() if row["source"] in free]


def _count_of_sheets(places: Mapping[str, SheetPlace]) -> int:
    return 1 + max((place.sheet for place in places.values()), default=-1)


def _number(found: Figures, verdict: str) -> int:
    return sum(kinds[kind][verdict] for kinds in found.counts.values() for kind in kinds)


def _shown(row: Row, place: SheetPlace | None, lookup: Lookup) -> dict[str, Any]:
    """A row as the page shows it."""
    window = None if row["col_off"] is None else [row[name] for name in ("col_off", "row_off", "width", "height")]
    where = None
    if row["verdict"] == KEPT and row["shard"] is not None:
        where = f"{lookup.rules.name}-{row['shard']:06d}.tar, position {row['position']}"
    return {
        "source": row["source"], "image": row["image"], "window": window, "verdict": row["verdict"],
        "detail": row["detail"], "gsd": row["gsd_m"], "twin": row["subject"], "where": where, "place": place,
        "of": tile_id(row["source"], row["image"], None),
        "rules": [] if row["kind"] == "image" else rules_in_words(lookup.rules, row),
    }  # fmt: skip


def _story(image: Row, lookup: Lookup) -> dict[str, Any]:
    """What is told of an image, and of all its tiles."""
    facts = f"{image['format']}, {image['image_width']} x {image['image_height']}, {image['bands']} x {image['dtype']}"
    return {
        "facts": facts if image["image_width"] else f"{image['file_bytes'] or 0:,} bytes",
        "verdict": image["verdict"],
        "detail": image["detail"],
        "rules": rules_in_words(lookup.rules, image),
    }


def _threshold(threshold: Threshold) -> dict[str, Any]:
    rule = threshold.rule
    return {
        "name": rule.name, "verdict": rule.verdict, "of": rule.of, "measured": rule.column, "bound": rule.bound,
        "value": threshold.value, **threshold.histogram.as_json(),
        "near": {side: [[name, distance] for distance, name in rows] for side, rows in threshold.near.items()},
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ ledger


def ledger_rows(found: Figures, facts: ReportFacts) -> list[LedgerRow]:
    """Counts per source in the recipe's order."""
    return [
        LedgerRow(
            source.id, source.source.licence.pixels, found.counts[source.id]["image"], found.counts[source.id]["tile"]
        )
        for source in facts.sources
        if source.id in found.counts
    ]


def _totals(rows: Sequence[LedgerRow]) -> LedgerRow:
    images: Counter[str] = Counter()
    tiles: Counter[str] = Counter()
    for row in rows:
        images.update(row.images)
        tiles.update(row.tiles)
    return LedgerRow("all", "", dict(images), dict(tiles))
