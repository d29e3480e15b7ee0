"""The report stage: one HTML page that shows what came out, what did not, and why.

Everything on it is read from the catalogue; a few pictures per reason are taken by
:mod:`curation.report.thumbnails`. The page has no scripts and loads nothing, so that it can be mailed, archived and
opened years later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import yaml

from curation.base.files import atomic
from curation.catalogue import KEPT, REASONS, SLICED, ledger, open_table
from curation.report import thumbnails
from curation.shards.format import ShardInfo
from curation.sources.recipe import Recipe, ResolvedSource

REPORT_VERSION = 1
_PER_REASON, _KEPT_SHOWN, _GROUPS, _PER_GROUP = 8, 24, 8, 8


@dataclass(frozen=True)
class Facts:
    """What the page is made from."""

    recipe: Recipe
    sources: Sequence[ResolvedSource]
    catalogue: Path
    listings: Mapping[str, Path]
    shards: Sequence[ShardInfo]
    unguarded: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """One thumbnail with what is said below it."""

    title: str
    caption: str
    data: str | None
    """``data:`` URL, or None when the file cannot be shown."""


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


@dataclass(frozen=True)
class _Examples:
    """Rows of the catalogue that are shown."""

    reasons: dict[str, list[dict[str, Any]]]
    kept: list[dict[str, Any]]
    groups: list[list[dict[str, Any]]]

    def rows(self) -> Iterable[dict[str, Any]]:
        """All of them; one may come twice."""
        return chain(*self.reasons.values(), self.kept, *self.groups)


def write_report(facts: Facts, page: Path, map_parts: thumbnails.MapParts) -> None:
    """Write the report of a finished run.

    Args:
        facts: what it is made from.
        page: file to write.
        map_parts: who takes the pictures.

    Raises:
        ValueError: the ledger does not balance (a row without verdict), which is a bug.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    catalogue = facts.catalogue
    rows = ledger_rows(catalogue, facts)
    used = [reason for reason in REASONS if any(r.images.get(reason) or r.tiles.get(reason) for r in rows)]
    shown = _Examples(
        {reason: _sample(catalogue, reason, _PER_REASON) for reason in used},
        _sample(catalogue, KEPT, _KEPT_SHOWN),
        _largest_groups(catalogue),
    )
    sources = {source.id: source for source in facts.sources}
    data = thumbnails.take(shown.rows(), sources, facts.listings, facts.recipe.exclude, page.parent, map_parts)
    environment = Environment(loader=PackageLoader("curation.report", "."), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("report.html.j2").render(
        recipe=facts.recipe,
        recipe_yaml=yaml.safe_dump(facts.recipe.model_dump(mode="json", exclude_unset=True), sort_keys=False),
        rows=rows,
        reasons=used,
        totals=_totals(rows),
        examples={reason: _pictures(examples, data) for reason, examples in shown.reasons.items()},
        kept=_pictures(shown.kept, data),
        groups=[_pictures(group, data) for group in shown.groups],
        leaks=leak_matrix(catalogue),
        unguarded=facts.unguarded,
        shards=facts.shards,
    )
    with atomic(page) as aside:
        aside.write_text(html, encoding="utf-8")


def _pictures(rows: Sequence[dict[str, Any]], data: Mapping[str, str]) -> list[Picture]:
    return [Picture(_title(row), row["detail"] or "", data.get(row["tile_id"])) for row in rows]


def _title(row: dict[str, Any]) -> str:
    window = "" if row["col_off"] is None else f" [{row['col_off']}, {row['row_off']}, {row['width']}x{row['height']}]"
    return f"{row['source']}/{row['image']}{window}"


def ledger_rows(catalogue: Path, facts: Facts) -> list[LedgerRow]:
    """Counts per source in the recipe's order."""
    counts = _ledger(catalogue)
    return [
        LedgerRow(source.id, source.source.licence, counts[source.id]["image"], counts[source.id]["tile"])
        for source in facts.sources
        if source.id in counts
    ]


def _ledger(catalogue: Path) -> dict[str, dict[str, Counter[str]]]:
    """The ledger, added up over row groups: 100 million rows of words do not fit in memory."""
    total: dict[str, dict[str, Counter[str]]] = {}
    with open_table(catalogue, "catalogue") as file:
        for number in range(file.num_row_groups):
            for source, kinds in ledger(file.read_row_group(number, columns=["source", "kind", "verdict"])).items():
                mine = total.setdefault(source, {"image": Counter(), "tile": Counter()})
                for kind, counts in kinds.items():
                    mine[kind].update(counts)
    return total


def leak_matrix(catalogue: Path) -> dict[str, dict[str, int]]:
    """Tiles and images taken out per source and benchmark: ``{source: {benchmark: n}}``."""
    rows = _where(catalogue, "leak", ["source", "subject"])
    matrix: dict[str, dict[str, int]] = {}
    for row in rows.group_by(["source", "subject"]).aggregate([([], "count_all")]).to_pylist():
        matrix.setdefault(row["source"], {})[str(row["subject"])] = row["count_all"]
    return matrix


def _totals(rows: Sequence[LedgerRow]) -> LedgerRow:
    total = LedgerRow("all", "")
    for row in rows:
        for into, counts in ((total.images, row.images), (total.tiles, row.tiles)):
            for verdict, count in counts.items():
                into[verdict] = into.get(verdict, 0) + count
    return total


def _where(catalogue: Path, verdict: str, columns: list[str]) -> pa.Table:
    """Rows of one verdict, read by row group; dictionaries become plain strings."""
    found = []
    with open_table(catalogue, "catalogue") as file:
        for number in range(file.num_row_groups):
            group = file.read_row_group(number, columns=[*columns, "verdict"])
            found.append(group.filter(pc.equal(group["verdict"].cast(pa.string()), verdict)).select(columns))
        fields = [(name, _plain(file.schema_arrow.field(name).type)) for name in columns]
    return pa.concat_tables([table.cast(pa.schema(fields)) for table in found])


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_dictionary(kind) else kind


_SHOWN = ["tile_id", "source", "image", "col_off", "row_off", "width", "height", "stretch", "verdict", "detail"]


def _sample(catalogue: Path, verdict: str, count: int) -> list[dict[str, Any]]:
    """Rows with the smallest ids: ids are hashes, so this is a draw that every run repeats."""
    ids = _where(catalogue, verdict, ["tile_id"])["tile_id"]
    chosen = pc.take(ids, pc.select_k_unstable(ids, count, [("", "ascending")])) if len(ids) > count else ids
    return _by_id(catalogue, chosen.to_pylist())


def _largest_groups(catalogue: Path) -> list[list[dict[str, Any]]]:
    """The tiles that stand for most others, each followed by some of those."""
    rows = _where(catalogue, "duplicate", ["tile_id", "subject"])
    counts = rows.group_by("subject").aggregate([([], "count_all")])
    order = counts.sort_by([("count_all", "descending"), ("subject", "ascending")])["subject"].to_pylist()[:_GROUPS]
    groups = []
    for subject in order:
        members = sorted(rows.filter(pc.equal(rows["subject"], subject))["tile_id"].to_pylist())[: _PER_GROUP - 1]
        found = {row["tile_id"]: row for row in _by_id(catalogue, [subject, *members])}
        groups.append([found[name] for name in (subject, *members) if name in found])
    return groups


def _by_id(catalogue: Path, ids: Sequence[str]) -> list[dict[str, Any]]:
    table = ds.dataset(catalogue).to_table(columns=_SHOWN, filter=pc.field("tile_id").isin(ids))
    rows: list[dict[str, Any]] = table.to_pylist()
    return sorted(rows, key=lambda row: list(ids).index(row["tile_id"]))
