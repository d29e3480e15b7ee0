"""The report stage: one HTML page that shows what came out, what did not, and why.

Everything on it is read from the catalogue; a few pictures per reason are read from the raw files again. The page
has no scripts and loads nothing, so that it can be mailed, archived and opened years later.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import yaml

from curation.catalogue import KEPT, REASONS, SLICED, Window, atomic, ledger, open_table, read_table
from curation.errors import UnreadableImage
from curation.manifest import Recipe, ResolvedSource

REPORT_VERSION = 1
THUMB = 112
"""Side of the pictures in pixels."""
_PER_REASON, _KEPT_SHOWN, _GROUPS, _PER_GROUP = 8, 24, 8, 8
_MAX_SHOWN_PIXELS = 64_000_000


@dataclass(frozen=True)
class Facts:
    """What the page is made from."""

    recipe: Recipe
    sources: Sequence[ResolvedSource]
    out: Path
    listings: Mapping[str, Path]
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


def write_report(facts: Facts, page: Path) -> None:
    """Write the report of a finished run.

    Raises:
        ValueError: the ledger does not balance (a row without verdict), which is a bug.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    catalogue = facts.out / "catalogue.parquet"
    rows = ledger_rows(catalogue, facts)
    used = [reason for reason in REASONS if any(r.images.get(reason) or r.tiles.get(reason) for r in rows)]
    camera = _Camera(facts)
    environment = Environment(loader=PackageLoader("curation", "."), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("report.html.j2").render(
        recipe=facts.recipe,
        recipe_yaml=yaml.safe_dump(facts.recipe.model_dump(mode="json", exclude_unset=True), sort_keys=False),
        rows=rows,
        reasons=used,
        totals=_totals(rows),
        examples={reason: camera.shots(_sample(catalogue, reason, _PER_REASON)) for reason in used},
        kept=camera.shots(_sample(catalogue, KEPT, _KEPT_SHOWN)),
        groups=[camera.shots(group) for group in _largest_groups(catalogue)],
        leaks=leak_matrix(catalogue),
        unguarded=facts.unguarded,
        shards=_shard_facts(facts.out / "shards"),
    )
    with atomic(page) as aside:
        aside.write_text(html, encoding="utf-8")


def ledger_rows(catalogue: Path, facts: Facts) -> list[LedgerRow]:
    """Counts per source in the recipe's order."""
    counts = ledger(read_table(catalogue, "catalogue", ["source", "kind", "verdict"]))
    return [
        LedgerRow(source.id, source.source.licence, counts[source.id]["image"], counts[source.id]["tile"])
        for source in facts.sources
        if source.id in counts
    ]


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


_SHOWN = ["tile_id", "kind", "source", "image", "col_off", "row_off", "width", "height", "stretch", "subject", "detail"]


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


class _Camera:
    """Takes thumbnails of catalogue rows from the raw files."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.sources = {source.id: source for source in facts.sources}

    def shots(self, rows: Sequence[dict[str, Any]]) -> list[Picture]:
        places = self._places(rows)
        return [self._shot(row, places[row["source"], row["image"]]) for row in rows]

    def _places(self, rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
        wanted: dict[str, set[str]] = {}
        for row in rows:
            wanted.setdefault(row["source"], set()).add(row["image"])
        found = {}
        for source, images in wanted.items():
            listing = ds.dataset(self.facts.listings[source])
            for place in listing.to_table(filter=pc.field("image").isin(list(images))).to_pylist():
                found[source, place["image"]] = place
        return found

    def _shot(self, row: dict[str, Any], place: dict[str, Any]) -> Picture:
        try:
            data: str | None = self._thumbnail(row, place)
        except (UnreadableImage, OSError):
            data = None
        window = (
            "" if row["col_off"] is None else f" [{row['col_off']}, {row['row_off']}, {row['width']}x{row['height']}]"
        )
        return Picture(f"{row['source']}/{row['image']}{window}", row["detail"] or "", data)

    def _thumbnail(self, row: dict[str, Any], place: dict[str, Any]) -> str:
        from PIL import Image

        from curation.raster import Location, open_image

        source = self.sources[row["source"]]
        bands = place["band_files"]
        location = Location(source.root, place["file"], place["member"], tuple(bands) if bands else None)
        with open_image(location, source.source, self.facts.recipe.exclude, row["stretch"]) as raster:
            window = Window(
                row["col_off"] or 0, row["row_off"] or 0, row["width"] or raster.width, row["height"] or raster.height
            )
            if window.width * window.height > _MAX_SHOWN_PIXELS:
                window = Window(raster.width // 2 - 512, raster.height // 2 - 512, 1024, 1024)
            rgb, _ = raster.read(window)
        image = Image.fromarray(rgb)
        image.thumbnail((THUMB, THUMB))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _shard_facts(folder: Path) -> list[dict[str, Any]]:
    """The shards of a run; none where a trial ended before them."""
    from curation.shards import read_checksums

    checksums = read_checksums(folder, missing_ok=True)
    return [
        {"file": info.file, "samples": info.samples, "bytes": info.bytes, "sha256": info.sha256}
        for info in (checksums.shards if checksums is not None else [])
    ]
