"""What `rs-curate sources`, `plan` and `check` compute, and how they say it: data first, text apart."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curation.base.columns import number, table
from curation.base.errors import InputError
from curation.sources.fetch import FetchResult, instructions
from curation.sources.inventory import SourceListing, list_images, taken_by
from curation.sources.probe import Probe, Standing, standing
from curation.sources.recipe import Recipe, ResolvedSource, SliceRules, load_recipe, resolve
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
    guarded: tuple[str, ...] = ()
    """Evaluation sets that it guards, one of one's own as the file that describes it."""

    @property
    def gigabytes(self) -> float:
        """Gigabytes to download, as far as known."""
        return sum((row.megabytes or 0) * row.standing.share for row in self.rows) / 1e3

    @property
    def disk_gigabytes(self) -> float:
        """Downloads, unpacked beside their archives, and the shards."""
        return 2 * self.gigabytes + self.shard_gigabytes


@dataclass
class CheckRow:
    """What is there of one source."""

    id: str
    found: int = 0
    expected: int | None = None
    warnings: list[str] = field(default_factory=list)
    error: str = ""

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


# ------------------------------------------------------------------------------------------------ computing


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
        and (licence or "").lower() in source.licence.lower()
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
    """
    where = data or Path("DATA")
    entries = {entry.id: entry for entry in recipe.sources}
    rows = [
        _row(one.source, one.root, entries[one.id].predicted_tiles, one.cap, probe) for one in resolve(recipe, where)
    ]
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
        tuple(f"{name} ({why})" for name, why in recipe.left_out.items()), as_typed(recipe.guard.benchmarks),
    )  # fmt: skip


def _row(source: Source, root: Path, predicted: int | None, cap: int | None, probe: Probe | None) -> PlanRow:
    via = source.obtain.via
    by_hand = via not in BY_SCRIPT and via != "local"
    return PlanRow(
        source.id,
        source.licence,
        source.redistributable,
        via,
        by_hand,
        _megabytes(source),
        predicted,
        cap,
        instructions(source, root) if by_hand else "",
        isinstance(source, Benchmark),
        standing(source, probe),
    )


def _megabytes(source: Source) -> float | None:
    sizes = [file.size for file in source.files]
    if sizes and None not in sizes:
        return sum(size or 0 for size in sizes) / 1e6
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
        try:
            for _ in list_images(resolved.source, resolved.root, listing, taken_by(sources, resolved)):
                pass
        except InputError as error:
            row.error = str(error)
        row.found, row.warnings = listing.found, listing.warnings
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------------ saying


def format_sources(sources: Sequence[Source], as_json: bool = False, width: int | None = None) -> str:
    """A table of sources that fits a terminal of ``width`` columns, or every field as JSON."""
    if as_json:
        return json.dumps([source.model_dump(mode="json") for source in sources], indent=2, ensure_ascii=False)
    rows = [
        (
            source.id,
            source.task,
            number(source.expected_images),
            gsd(source),
            source.licence,
            source.redistributable,
            source.obtain.via,
            "yes" if source.verified else "",
        )
        for source in sources
    ]
    header = ("id", "task", "images", "gsd in m", "licence", "redistributable", "route", "verified")
    return table(header, rows, (2, 3), width) + f"\n\n{len(sources)} sources"


def format_plan(plan: RecipePlan, typed: str = "", data: Path | None = None, width: int | None = None) -> str:
    """A plan that a person can act on: the table, the sums, what to do by hand, and the commands.

    Args:
        plan: what to say.
        typed: the recipe as it was named on the command line.
        data: the folder of the raw sources, if it was given.
        width: columns of the terminal.
    """
    rows = [
        (
            row.id + (" (benchmark)" if row.benchmark else ""),
            row.licence,
            row.redistributable,
            row.route,
            f"{row.standing.state} {row.standing.checked}".strip(),
            "?" if row.megabytes is None else f"{row.megabytes / 1e3:,.1f}",
            number(row.predicted_tiles),
            number(row.cap),
        )
        for row in plan.rows
    ]
    header = ("source", "licence", "redistributable", "route", "today", "GB", "tiles", "cap")
    unknown = sum(row.megabytes is None for row in plan.rows)
    hands = [row for row in plan.rows if row.standing.state == "by hand"]
    closed = sum(row.redistributable != "yes" for row in plan.rows if not row.benchmark)
    own = all(row.route == "local" for row in plan.rows)
    sums = [
        f"{sum(not row.benchmark for row in plan.rows)} sources, of which {closed} may not surely be redistributed",
        f"download: {plan.gigabytes:,.0f} GB as far as known; {unknown} rows tell no size (fetch asks the servers)",
        f"disk: {plan.disk_gigabytes:,.0f} GB and what those {unknown} add (archives, their content, the shards)",
        f"predicted: {plan.tiles:,} tiles in {plan.shards:,} shards of together {plan.shard_gigabytes:,.0f} GB"
        f" (at {TILE_SIDE} x {TILE_SIDE} pixels a tile)",
        *_today(plan),
    ]
    if own:
        sums = [sums[0], "nothing to download: the folders are your own; `run --dry-run` says what they give"]
    sums += [f"left out: {', '.join(plan.left_out)}"] if plan.left_out else []
    parts = [table(header, rows, (5, 6, 7), width), "\n".join(sums)]
    steps = _steps(plan, shlex.quote(typed or plan.name), data, own)
    parts += [row.instructions for row in hands]
    return "\n\n".join([*parts, "Next:\n  " + "\n  ".join(steps)])


def _today(plan: RecipePlan) -> list[str]:
    """What can be counted on, by the way it comes, and what each answer said that was no file."""
    lines = []
    for state in ("automatic", "by hand", "gone"):
        rows = [row for row in plan.rows if row.standing.state == state]
        tiles = sum((row.predicted_tiles or 0) if state == "gone" else row.tiles_there for row in rows)
        lines.append(f"{state}: {len(rows)} of {len(plan.rows)}, {tiles:,} tiles")
    lines[2] += " that are not counted above"
    parts = sum((row.predicted_tiles or 0) - row.tiles_there for row in plan.rows if row.standing.state != "gone")
    lines += [f"gone of the others: files of {parts:,} tiles"] if parts else []
    days = [row.standing.checked for row in plan.rows if row.standing.checked]
    asked = f"{len(days)} of {len(plan.rows)} rows were checked, the first on {min(days)}" if days else "nobody asked"
    lines.append(f"servers: {asked}; rs-curate probe {plan.name} --out FILE asks, plan --probe FILE reads the answers")
    return lines + [f"{row.id}: {row.standing.note}" for row in plan.rows if row.standing.note]


def _steps(plan: RecipePlan, word: str, data: Path | None, own: bool) -> list[str]:
    """Commands to type next, of which each works as it stands once DATA and OUT are names."""
    where = f" --data {shlex.quote(str(data)) if data else 'DATA'}" if plan.needs_data else ""
    run = f"rs-curate run {word}{where} --out OUT"
    steps = [f"rs-curate check {word}{where}     counts what is there"]
    if plan.guarded:
        steps.append(f"rs-curate fingerprint --benchmark {' '.join(plan.guarded)}{where}     so that they are kept out")
    if own:
        return [*steps, f"{run} --dry-run", run]
    automatic = sum(row.standing.state == "automatic" for row in plan.rows)
    return [f"rs-curate fetch {word}{where}     fetches {automatic}, explains the others", *steps, run]


def format_probe(rows: Sequence[tuple[str, Standing]], width: int | None = None) -> str:
    """How every source stands, and below the table what each server said that gave no file."""
    lines = [(name, each.state, each.checked, "" if each.share == 1 else f"{each.share:.0%}") for name, each in rows]
    counts = Counter(each.state for _, each in rows)
    notes = [f"{name}: {each.note}" for name, each in rows if each.note]
    parts = [table(("source", "today", "checked", "there"), lines, (3,), width), *(["\n".join(notes)] if notes else [])]
    return "\n\n".join([*parts, ", ".join(f"{count} {state}" for state, count in counts.items())])


def format_check(rows: Sequence[CheckRow]) -> str:
    """The table of what was found, and below it what needs a look."""
    lines = [
        (
            row.id,
            number(row.found),
            number(row.expected),
            number(row.missing) if row.missing else "",
            number(row.surplus) if row.surplus else "",
            "ok" if row.fine else "absent" if row.error and not row.found else "look below",
        )
        for row in rows
    ]
    text = table(("source", "found", "expected", "missing", "surplus", ""), lines, right=(1, 2, 3, 4))
    notes = [row.error for row in rows if row.error]
    notes += [f"source {row.id}: {warning}" for row in rows for warning in row.warnings]
    fine = sum(row.fine for row in rows)
    return "\n\n".join([text, *(["\n".join(notes)] if notes else []), f"{fine} of {len(rows)} as expected"])


def format_fetch(results: Sequence[FetchResult]) -> str:
    """What was fetched, what failed, and what a person must do."""
    lines = [
        (
            result.id,
            number(result.downloaded) if result.downloaded else "",
            number(result.unpacked) if result.unpacked else "",
            "failed" if result.error else "by hand" if result.instructions else "; ".join(result.notes) or "ok",
        )
        for result in results
    ]
    parts = [table(("source", "files fetched", "archives unpacked", ""), lines, right=(1, 2))]
    parts += [result.instructions for result in results if result.instructions]
    parts += [result.error for result in results if result.error]
    done = sum(not result.error and not result.instructions for result in results)
    return "\n\n".join([*parts, f"{done} of {len(results)} are there"])


def gsd(source: Source) -> str:
    """A source's GSD as text."""
    if isinstance(source.gsd_m, tuple):
        return f"{source.gsd_m[0]:g} to {source.gsd_m[1]:g}"
    return "" if source.gsd_m is None else f"{source.gsd_m:g}"


def as_rows(rows: Sequence[PlanRow | CheckRow]) -> list[dict[str, Any]]:
    """Plain dicts, for JSON."""
    return [asdict(row) for row in rows]
