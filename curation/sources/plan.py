"""What `rs-curate sources`, `plan` and `check` compute; how it is said is in :mod:`curation.sources.say`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from curation.base.errors import InputError
from curation.sources.fetch import instructions
from curation.sources.inventory import SourceListing, list_images, taken_by
from curation.sources.probe import Probe, Standing, bytes_of, standing
from curation.sources.recipe import Recipe, ResolvedSource, SliceRules, load_recipe, resolve
from curation.sources.refuse import check_splits, held_out
from curation.sources.source import BY_SCRIPT, Benchmark, Source, as_typed, load_benchmark, load_source, shipped

TILE_SIDE = 512
"""Side of a tile in the prediction of the shards' bytes."""


@dataclass(frozen=True)
class PlanRow:
    """One source of a plan."""

    id: str
    licence: str
    redistributable: str
    route: str
    by_hand: bool
    megabytes: float | None
    """To download; null: not known before the servers are asked."""
    predicted_tiles: int | None
    cap: int | None
    instructions: str
    benchmark: bool
    standing: Standing
    drawn: str = ""
    """What is taken of its files and images, where that is not all."""
    gsd_m: float | None = None
    """Of its manifest; of a range the geometric mean."""
    land: str | None = None
    spool_gigabytes: float | None = None
    """Most that is kept between scan and write of imagery that is read where it lies; null: it is downloaded."""

    @property
    def tiles_there(self) -> int:
        """Predicted tiles, less those of files that are gone."""
        return round((self.predicted_tiles or 0) * self.standing.share)


@dataclass(frozen=True)
class RecipePlan:
    """What a recipe takes."""

    name: str
    rows: tuple[PlanRow, ...]
    tiles: int
    """Predicted, less what is gone; after ``balance.total``."""
    shards: int
    shard_gigabytes: float
    pixels: int
    """Pixels per tile that the two figures above assume."""
    needs_data: bool = True
    """Whether a source's folder is relative to ``--data``."""
    left_out: tuple[str, ...] = ()
    """Sources that the recipe leaves out, each with the reason."""
    held_out: str = ""
    """Splits that it leaves out."""
    guarded: tuple[str, ...] = ()
    """Evaluation sets that it guards, one of one's own as the file that describes it."""

    def share(self, of: Callable[[PlanRow], bool]) -> float:
        """Share of the tiles that can be counted on whose source has a property."""
        found = sum(row.tiles_there for row in self.rows if of(row))
        return found / max(sum(row.tiles_there for row in self.rows), 1)

    def histogram(self, of: Callable[[PlanRow], str]) -> dict[str, int]:
        """Tiles that can be counted on, by a property of their source."""
        found: Counter[str] = Counter()
        for row in self.rows:
            found[of(row)] += row.tiles_there
        return {name: tiles for name, tiles in found.items() if tiles}

    @property
    def gigabytes(self) -> float:
        """Gigabytes to download, or to read where they lie, as far as known."""
        return sum(map(_gigabytes, self.rows))

    @property
    def spool_gigabytes(self) -> float:
        """Most that the spools of imagery that is read where it lies take."""
        return sum(min(row.spool_gigabytes or 0, _gigabytes(row) or math.inf) for row in self.rows)

    @property
    def disk_gigabytes(self) -> float:
        """Downloads, unpacked beside their archives, the spools, and the shards."""
        downloads = sum(_gigabytes(row) for row in self.rows if row.spool_gigabytes is None)
        return 2 * downloads + self.spool_gigabytes + self.shard_gigabytes


def _gigabytes(row: PlanRow) -> float:
    """Of a source, less what is gone; 0 where it is not known."""
    return (row.megabytes or 0) * row.standing.share / 1e3


@dataclass
class CheckRow:
    """What is there of one source."""

    id: str
    found: int = 0
    expected: int | None = None
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    remote: bool = False
    """Read where it lies: nothing of it is in a folder."""

    @property
    def missing(self) -> int:
        """Images that are expected and not there."""
        return max((self.expected or 0) - self.found, 0)

    @property
    def surplus(self) -> int:
        """Images that are there beyond the expected number."""
        return 0 if self.expected is None else max(self.found - self.expected, 0)

    @property
    def fine(self) -> bool:
        """True when nothing needs a look."""
        return not self.error and not self.warnings


def list_sources(
    task: str | None = None, licence: str | None = None, redistributable: bool = False, obtain: str | None = None
) -> list[Source]:
    """Shipped sources that fit all conditions, by id.

    Raises:
        InputError: a condition that no source can fit.
    """
    sources = [load_source(name) for name in shipped("sources")]
    for flag, wanted, known in (
        ("--task", task, {source.task for source in sources}),
        ("--obtain", obtain, {source.obtain.via for source in sources}),
    ):
        if wanted is not None and wanted not in known:
            raise InputError(f"{flag} {wanted}: no such value; one of: {', '.join(sorted(known))}")
    return [
        source
        for source in sources
        if task in (None, source.task)
        and obtain in (None, source.obtain.via)
        and (licence or "").lower() in source.licence.pixels.lower()
        and (not redistributable or source.redistributable == "yes")
    ]


def targets(name: str, data: Path | None, assignments: Sequence[str] = ()) -> list[ResolvedSource]:
    """What ``fetch`` and ``check`` work on: a recipe's sources and guarded benchmarks, or one source or benchmark.

    Args:
        name: A recipe's name or path, or the id of a source or a benchmark.
        data: Folder of the sources' folders.
        assignments: Fields of the recipe to set.

    Raises:
        InputError: nothing has that name, or a folder is relative and ``data`` is null.
    """
    if name in shipped("sources"):
        return [_at(load_source(name), data)]
    if name in shipped("benchmarks"):
        return [_at(load_benchmark(name), data)]
    if name not in shipped("recipes") and Path(name).suffix not in {".yaml", ".yml"} and not Path(name).exists():
        known = ", ".join((*shipped("recipes"), *shipped("benchmarks")))
        raise InputError(
            f"{name!r} is no recipe, source or benchmark; rs-curate sources lists the sources; others: {known}"
        )
    recipe = load_recipe(name, assignments)
    return [*resolve(recipe, data), *(_at(one, data) for one in _guarded(recipe))]


def _guarded(recipe: Recipe) -> list[Benchmark]:
    """The shipped benchmarks that a recipe guards; what of one's own is guarded is fetched by nobody."""
    known = shipped("benchmarks")
    return [load_benchmark(name) for name in recipe.guard.benchmarks if name in known]


def _at(source: Source, data: Path | None) -> ResolvedSource:
    if data is None:
        raise InputError(f"{source.id}: say in which folder with --data DIR")
    return ResolvedSource(source, data / source.id, SliceRules(), 0, None)


def make_plan(recipe: Recipe, data: Path | None = None, probe: Probe | None = None) -> RecipePlan:
    """Predict what a recipe takes, from its manifests alone; nothing is fetched or listed.

    Args:
        recipe: The recipe.
        data: Where the sources go; it only enters the instructions.
        probe: What the servers said; null: nobody asked them.

    Raises:
        InputError: a split is left out that no source has.
    """
    where = data or Path("DATA")
    entries = {entry.id: entry for entry in recipe.sources}
    sources = resolve(recipe, where)
    check_splits(recipe, sources)
    rows = [_row(one.source, one.root, entries[one.id].predicted_tiles, one.cap, probe, one) for one in sources]
    rows += [_row(one, where / one.id, None, None, probe) for one in _guarded(recipe)]
    tiles = sum(row.tiles_there for row in rows)
    if recipe.balance.total is not None:
        tiles = min(tiles, recipe.balance.total)
    bytes_per_tile = TILE_SIDE**2 * recipe.shards.bytes_per_pixel
    samples = min(recipe.shards.max_samples, max(int(recipe.shards.max_bytes // bytes_per_tile), 1))
    relative = any(not Path(entry.path or entry.id).expanduser().is_absolute() for entry in recipe.sources)
    return RecipePlan(
        recipe.name, tuple(rows), tiles, math.ceil(tiles / samples), tiles * bytes_per_tile / 1e9, TILE_SIDE**2,
        relative or bool(recipe.guard.benchmarks),
        tuple(f"{name} ({why})" for name, why in recipe.left_out.items()), held_out(recipe, sources),
        as_typed(recipe.guard.benchmarks),
    )  # fmt: skip


def _row(
    source: Source,
    root: Path,
    predicted: int | None,
    cap: int | None,
    probe: Probe | None,
    taken: ResolvedSource | None = None,
) -> PlanRow:
    via = source.obtain.via
    by_hand = via not in BY_SCRIPT and via != "local"
    return PlanRow(
        source.id,
        source.licence.pixels,
        source.redistributable,
        via,
        by_hand,
        _megabytes(source, probe, taken.subset.files if taken else None),
        predicted,
        cap,
        instructions(source, root) if by_hand else "",
        isinstance(source, Benchmark),
        standing(source, probe),
        _drawn(taken) if taken else "",
        source.gsd,
        source.land,
        source.remote.spool_gigabytes if source.remote else None,
    )


def _drawn(source: ResolvedSource) -> str:
    files, subset = len(source.source.files), source.subset
    told = [f"{files} of {files + source.untaken} files"] if source.untaken else []
    told += [f"{subset.files:,} files"] if subset.files is not None else []
    if (access := source.source.remote) is not None:
        told += [f"{access.files:,} files"] if access.files is not None else []
        told += [f"{access.per_file:,} of each"] if access.per_file is not None else []
        told += [f"{access.ranges:,} byte ranges of each"] if access.ranges is not None else []
    return ", ".join([*told, *([f"{subset.images:,} images"] if subset.images is not None else [])])


def _megabytes(source: Source, probe: Probe | None, drawn: int | None) -> float | None:
    """To download: what the manifest or the servers say of each file, else what lists print of all of them."""
    if (told := bytes_of(source, probe, drawn)) is not None:
        return told / 1e6
    if (access := source.remote) is not None and access.ranges is not None:
        files = min(access.files or math.inf, len(access.every_url) or math.inf)
        return files * access.ranges * access.range_megabytes if files < math.inf else None
    return source.listed_megabytes


def every_manifest() -> list[Source]:
    """All shipped sources, and the benchmarks that are none."""
    sources = shipped("sources")
    others = [name for name in shipped("benchmarks") if name not in sources]
    return [*map(load_source, sources), *map(load_benchmark, others)]


def check(sources: Sequence[ResolvedSource]) -> list[CheckRow]:
    """List every source and compare with its manifest. A missing folder is a row, not an exception."""
    rows = []
    for resolved in sources:
        listing = SourceListing(resolved.id)
        row = CheckRow(resolved.id, expected=resolved.source.expected_images)
        if resolved.source.remote is not None:
            rows.append(replace(row, remote=True))
            continue
        try:
            for _ in list_images(resolved.source, resolved.root, listing, taken_by(sources, resolved)):
                pass
        except InputError as error:
            row.error = str(error)
        row.found, row.warnings = listing.found, listing.warnings
        rows.append(row)
    return rows


def as_rows(rows: Sequence[PlanRow | CheckRow]) -> list[dict[str, Any]]:
    """Plain dicts, for JSON."""
    return [asdict(row) for row in rows]
