"""The select stage: from scanned tiles to the catalogue, in which every row has a verdict and every kept tile a place.

Exclusion by threshold, leak guard, duplicates, caps and shard assignment, one after the other, on numeric columns in
memory; the rest of each row is streamed from the parts to the catalogue. The result depends on the rows, the recipe,
the fingerprint files and the catalogue that it grows from, if any, alone: not on how rows came in parts, nor on the
number of threads. Growing from none, the parts of a new source beside those scanned before give what they would have
given with all at once; growing from an earlier catalogue, what that one keeps stays where it is
(:mod:`curation.select.generations`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from curation.base.arrays import Ints
from curation.base.splitmix import splitmix64
from curation.catalogue import KEPT, REASONS, SLICED, VERDICTS
from curation.select import balance, crops, exclude
from curation.select.cells import cells_of, say_cell
from curation.select.deduplicate import Matches, find_duplicates
from curation.select.generations import Earlier, Generations, earlier_places
from curation.select.guard import BenchmarkPrints, find_leaks, load_fingerprints
from curation.select.rows import NO_VERDICT, CatalogueRows, Judge, load_rows
from curation.select.shard_assignment import assign, predicted_bytes
from curation.select.views import CUT_OUT, VIEWS
from curation.select.withdraw import withdrawn
from curation.select.write_catalogue import Decision, Rulebook, write_catalogue
from curation.sources.recipe import Recipe, ResolvedSource

_CODE = {word: number for number, word in enumerate(VERDICTS)}
_LOT_STREAM = 1
"""Which stream of the seed draws lots for the caps; stream 0 shuffles."""


@dataclass(frozen=True)
class SelectSummary:
    """What select did."""

    tiles: int
    kept: int
    shards: int
    reasons: dict[str, int]
    """Tiles per verdict against them."""
    unguarded: tuple[str, ...] = ()
    """Benchmarks that the recipe guards and this run did not."""
    images: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    """Raw images per verdict against them, those of the scan included."""
    unknown_ids: int = 0
    """Of ``exclude.ids``: no row has them."""
    growth: str = ""
    """What stays of earlier generations; empty where there are none."""

    def __str__(self) -> str:
        text = f"{self.kept:,} of {self.tiles:,} tiles kept in {self.shards:,} shards{_in_words(self.reasons)}"
        if self.rejected:
            text += f"; {sum(self.rejected.values()):,} of {self.images:,} images left out{_in_words(self.rejected)}"
        if self.unknown_ids:
            text += f"; {self.unknown_ids:,} of exclude.ids are of no tile and no image"
        text += f"; not guarded: {', '.join(self.unguarded)}" if self.unguarded else ""
        return text + (f"; {self.growth}" if self.growth else "")


def select(
    parts: Sequence[Path],
    recipe: Recipe,
    sources: Sequence[ResolvedSource],
    out: Path,
    *,
    benchmarks: Mapping[str, Path] | None = None,
    unguarded: Sequence[str] = (),
    threads: int | None = None,
    grown_from: Path | None = None,
    told: Generations | None = None,
) -> SelectSummary:
    """Decide about every row, and write the catalogue.

    Args:
        parts: ``tiles`` files of the scan, in any order.
        recipe: rules and seed.
        sources: the recipe's sources, in its order.
        out: the catalogue to write.
        benchmarks: fingerprint file of every benchmark to guard.
        unguarded: benchmarks that the recipe guards and this run does not; repeated in the summary.
        threads: cores to use; all when null.
        grown_from: catalogue of finished shards that are to stay.
        told: keys that the catalogue is to hold.

    Raises:
        InputError: a fingerprint file cannot be used.
        WorkError: no rows, two rows with one id, or rows of a source that the recipe does not name.
    """
    workers = max(1, threads or len(os.sched_getaffinity(0)))
    rulebook = Rulebook.of(recipe, {source.id: source for source in sources})
    judge = Judge(exclude.READ, partial(exclude.judge_table, kinds=rulebook.kinds, rules=recipe.exclude))
    rows = load_rows(parts, list(rulebook.kinds), recipe.deduplicate, workers, judge)
    earlier = None if grown_from is None else earlier_places(rows, grown_from)
    rows = rows if earlier is None else replace(rows, generation=earlier.generation)
    shard, position = np.full(len(rows), -1, np.int32), np.full(len(rows), -1, np.int32)
    decision = Decision(rows.code.copy(), rows.rule.copy(), shard, position)
    _exclude(rows, decision)
    if benchmarks:
        _guard(rows, decision, load_fingerprints(benchmarks, recipe.deduplicate), recipe, workers)
    _deduplicate(rows, decision, recipe, sources, workers)
    _balance(rows, decision, recipe, sources, workers)
    gone, unknown = withdrawn(rows, _open_rows(rows, decision), recipe.exclude.ids)
    ends = _place(rows, decision, recipe, earlier, gone)
    _withdraw(decision, gone)
    write_catalogue(rows, decision, rulebook, replace(told or Generations(), ends=ends), out)
    summary = _summary(rows, decision, tuple(unguarded))
    return replace(summary, unknown_ids=unknown, growth=_say_growth(decision, earlier))


def _open_rows(rows: CatalogueRows, decision: Decision, tiles_only: bool = True) -> Ints:
    free = decision.code == NO_VERDICT
    return np.nonzero(free & rows.is_tile if tiles_only else free)[0]


def _exclude(rows: CatalogueRows, decision: Decision) -> None:
    """Take the verdicts of the rules, an image's for its tiles as well; where several fit, the first in precedence.

    What the scan found stays where it comes before: an image that gives no tile may yet show a mask.
    """
    images = ~rows.is_tile
    of_image = np.full(int(rows.image[-1]) + 1, exclude.NONE, np.int8)
    of_image[rows.image[images]] = rows.rule[images]
    # as unsigned numbers no rule comes last
    rule = np.minimum(of_image[rows.image].view(np.uint8), rows.rule.view(np.uint8)).view(np.int8)
    of_rule = np.array([*(_CODE[rule.verdict] for rule in exclude.RULES), NO_VERDICT], np.int8)
    code = of_rule[rule]
    decided = (rule != exclude.NONE) & ((decision.code == NO_VERDICT) | (code < decision.code))
    decision.rule = np.where(decided, rule, np.int8(exclude.NONE))
    decision.code[decided] = code[decided]


def _guard(rows: CatalogueRows, decision: Decision, prints: BenchmarkPrints, recipe: Recipe, threads: int) -> None:
    leaks = find_leaks(rows, _open_rows(rows, decision, tiles_only=False), prints, recipe, threads)
    decision.code[leaks.row] = _CODE["leak"]

    def words(n: int) -> tuple[str, str]:
        entry = int(leaks.subject[n])
        if leaks.view[n] < CUT_OUT:
            looks = _agreement(leaks, n, recipe.guard.radius, recipe.deduplicate.confirm)
        else:
            looks = _agreement(leaks, n, crops.RADIUS, crops.CONFIRM, "gradients correlate")
        return prints.names[prints.benchmark[entry]], f"{prints.describe(entry)}: {looks}"

    decision.words.append((leaks.row, words))


def _deduplicate(
    rows: CatalogueRows, decision: Decision, recipe: Recipe, sources: Sequence[ResolvedSource], threads: int
) -> None:
    rules = recipe.deduplicate
    found = find_duplicates(rows, _open_rows(rows, decision), sources, rules, threads)
    decision.code[found.row] = _CODE["duplicate"]

    def words(n: int) -> tuple[str, str]:
        return rows.id_of(int(found.subject[n])), _agreement(found, n, rules.radius, rules.confirm)

    decision.words.append((found.row, words))


def _agreement(matches: Matches, n: int, radius: int, least: float, how: str = "correlation") -> str:
    """Rule, measured value and threshold of one match."""
    if matches.distance[n] < 0:
        return "equal pixels"
    return (
        f"phash distance {matches.distance[n]} (at most {radius}), {VIEWS[matches.view[n]]}, "
        f"{how} {matches.correlation[n]:.3f} (at least {least:g})"
    )


def _balance(
    rows: CatalogueRows, decision: Decision, recipe: Recipe, sources: Sequence[ResolvedSource], threads: int
) -> None:
    rules, tiles = recipe.balance, _open_rows(rows, decision)
    caps = {number: source.cap for number, source in enumerate(sources) if source.cap is not None}
    lots = splitmix64(recipe.seed, _LOT_STREAM, rows.lots()[tiles])
    if rows.generation is not None:  # what is finished is drawn before what is new
        lots = lots >> np.uint64(16) | rows.generation[tiles].astype(np.uint64) << np.uint64(48)
    cells = None if rules.per_cell is None else cells_of(rows, tiles, threads)
    over = balance.over_caps(rows.image[tiles], rows.source[tiles].astype(np.int64), lots, rules, caps, cells)
    (gone,) = np.nonzero(over)
    decision.code[tiles[gone]] = _CODE["capped"]

    def words(n: int) -> tuple[None, str]:
        row = gone[n]
        if over[row] == balance.PER_SOURCE:
            own = caps.get(int(rows.source[tiles[row]]))
            return None, f"per_source: at most {min(cap for cap in (own, rules.per_source) if cap is not None)}"
        if over[row] == balance.PER_CELL and cells is not None:
            return None, f"per_cell: at most {rules.per_cell} in {say_cell(int(cells[row]))}"
        name, cap = ("per_place", rules.per_place) if over[row] == balance.PER_PLACE else ("total", rules.total)
        return None, f"{name}: at most {cap}"

    decision.words.append((tiles[gone], words))


def _place(
    rows: CatalogueRows, decision: Decision, recipe: Recipe, earlier: Earlier | None, gone: Ints
) -> tuple[int, ...]:
    """Give kept tiles their shard and position, and the last verdicts; returns where every generation of shards ends.

    What was taken out before (``gone`` again) has no place that it could leave.
    """
    kept = new = _open_rows(rows, decision)
    if earlier is not None:
        stays = kept[earlier.shard[kept] >= 0]
        decision.shard[stays], decision.position[stays] = earlier.shard[stays], earlier.position[stays]
        new = np.setdiff1d(kept[earlier.shard[kept] < 0], gone[earlier.withdrawn[gone]], assume_unique=True)
    sizes = predicted_bytes(
        rows.width[new].astype(np.int64), rows.height[new].astype(np.int64), rows.file_bytes[new],
        rows.pass_through[new], recipe.shards,
    )  # fmt: skip
    shard, position = assign(rows.image[new], sizes, recipe.shards, recipe.seed)
    before = Generations(ends=(0,)) if earlier is None else earlier.told
    decision.shard[new], decision.position[new] = shard + before.ends[-1], position
    decision.code[kept] = _CODE[KEPT]
    decision.code[(decision.code == NO_VERDICT) & ~rows.is_tile] = _CODE[SLICED]
    ends = before.grown(int(np.max(shard, initial=-1)) + 1)
    return ends if earlier is not None else ends[-1:]


def _withdraw(decision: Decision, gone: Ints) -> None:
    """Take named tiles out of their shards, where no other takes their place."""
    shards = decision.shard[gone]
    decision.code[gone] = _CODE["withdrawn"]
    decision.shard[gone] = decision.position[gone] = -1

    def words(n: int) -> tuple[None, str]:
        return None, "ids: " + (f"taken out of shard {shards[n]}" if shards[n] >= 0 else "taken out before")

    decision.words.append((gone, words))


def _say_growth(decision: Decision, earlier: Earlier | None) -> str:
    if earlier is None:
        return ""
    placed, kept = earlier.shard >= 0, decision.shard >= 0
    stays, left, new = int((placed & kept).sum()), int((placed & ~kept).sum()), int((kept & ~placed).sum())
    told = f"{stays:,} stay where they were" + (f", {left:,} leave their shards" if left else "")
    return told + f", {new:,} new behind shard {earlier.told.ends[-1] - 1} (--regenerate lays all out anew)"


def _in_words(reasons: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{count:,} {reason}' for reason, count in reasons.items())})" if reasons else ""


def _summary(rows: CatalogueRows, decision: Decision, unguarded: tuple[str, ...]) -> SelectSummary:
    tiles, images = (
        np.bincount(decision.code[chosen], minlength=len(VERDICTS)) for chosen in (rows.is_tile, ~rows.is_tile)
    )
    reasons, rejected = (
        {word: int(counts[_CODE[word]]) for word in REASONS if counts[_CODE[word]]} for counts in (tiles, images)
    )
    shards = len(np.unique(decision.shard[decision.shard >= 0]))
    kept = int(tiles[_CODE[KEPT]])
    return SelectSummary(int(tiles.sum()), kept, shards, reasons, unguarded, int(images.sum()), rejected)
