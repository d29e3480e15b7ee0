"""The select stage: from scanned tiles to the catalogue, in which every row has a verdict and every kept tile a place.

Leak guard, duplicates, caps and shard assignment, one after the other, on numeric columns in memory; the rest of
each row is streamed from the parts to the catalogue. The result depends on the rows, the recipe and the fingerprint
files alone: not on how rows came in parts, nor on the number of threads. That is also what makes it incremental: with
the parts of a new source beside those that were scanned before, it gives what it would have given with all at once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import balance
from curation.assign import assign, predicted_bytes
from curation.catalogue import CATALOGUE, KEPT, SLICED, VERDICTS, atomic, schema_of
from curation.deduplicate import Matches, find_duplicates
from curation.errors import WorkError
from curation.guard import Fingerprints, find_leaks, load_fingerprints
from curation.manifest import Recipe, ResolvedSource
from curation.mix import splitmix64
from curation.rows import NO_VERDICT, Rows, load_rows, read_unit
from curation.views import VIEWS

Ints = npt.NDArray[np.int64]

_ROW_GROUP = 65_536
_COPIED = [name for name in CATALOGUE.names if name not in ("shard", "position")]
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

    def __str__(self) -> str:
        against = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.items())
        text = f"{self.kept:,} of {self.tiles:,} tiles kept in {self.shards:,} shards" + (
            f" ({against})" if against else ""
        )
        return text + (f"; not guarded: {', '.join(self.unguarded)}" if self.unguarded else "")


@dataclass
class _Decision:
    """Verdicts as they form, and what is needed to word them."""

    code: npt.NDArray[np.int8]
    shard: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]
    words: list[tuple[Ints, Callable[[int], tuple[str | None, str]]]] = field(default_factory=list)
    """Rows with a new verdict, ascending, and (subject, detail) of the n-th of them."""


def select(
    parts: Sequence[Path],
    recipe: Recipe,
    sources: Sequence[ResolvedSource],
    out: Path,
    *,
    benchmarks: Mapping[str, Path] | None = None,
    unguarded: Sequence[str] = (),
    threads: int | None = None,
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

    Raises:
        InputError: a fingerprint file cannot be used.
        WorkError: no rows, two rows with one id, or rows of a source that the recipe does not name.
    """
    workers = max(1, threads or len(os.sched_getaffinity(0)))
    rows = load_rows(parts, [source.id for source in sources], recipe.deduplicate, workers)
    shard, position = np.full(len(rows), -1, np.int32), np.full(len(rows), -1, np.int32)
    decision = _Decision(rows.code.copy(), shard, position)
    if benchmarks:
        _guard(rows, decision, load_fingerprints(benchmarks, recipe.deduplicate), recipe, workers)
    _deduplicate(rows, decision, recipe, sources, workers)
    _balance(rows, decision, recipe, sources)
    _place(rows, decision, recipe)
    _write(rows, decision, out)
    return _summary(rows, decision, tuple(unguarded))


def _open_rows(rows: Rows, decision: _Decision, tiles_only: bool = True) -> Ints:
    free = decision.code == NO_VERDICT
    return np.nonzero(free & rows.is_tile if tiles_only else free)[0]


def _guard(rows: Rows, decision: _Decision, prints: Fingerprints, recipe: Recipe, threads: int) -> None:
    leaks = find_leaks(rows, _open_rows(rows, decision, tiles_only=False), prints, recipe, threads)
    decision.code[leaks.row] = _CODE["leak"]

    def words(n: int) -> tuple[str, str]:
        entry = int(leaks.subject[n])
        looks = _agreement(leaks, n, recipe.guard.radius, recipe.deduplicate.confirm)
        return prints.names[prints.benchmark[entry]], f"{prints.describe(entry)}: {looks}"

    decision.words.append((leaks.row, words))


def _deduplicate(
    rows: Rows, decision: _Decision, recipe: Recipe, sources: Sequence[ResolvedSource], threads: int
) -> None:
    rules = recipe.deduplicate
    found = find_duplicates(rows, _open_rows(rows, decision), sources, rules, threads)
    decision.code[found.row] = _CODE["duplicate"]

    def words(n: int) -> tuple[str, str]:
        return rows.id_of(int(found.subject[n])), _agreement(found, n, rules.radius, rules.confirm)

    decision.words.append((found.row, words))


def _agreement(matches: Matches, n: int, radius: int, least: float) -> str:
    """Rule, measured value and threshold of one match."""
    if matches.distance[n] < 0:
        return "equal pixels"
    return (
        f"phash distance {matches.distance[n]} (at most {radius}), {VIEWS[matches.view[n]]}, "
        f"correlation {matches.correlation[n]:.3f} (at least {least:g})"
    )


def _balance(rows: Rows, decision: _Decision, recipe: Recipe, sources: Sequence[ResolvedSource]) -> None:
    tiles = _open_rows(rows, decision)
    caps = {number: source.cap for number, source in enumerate(sources) if source.cap is not None}
    lots = splitmix64(recipe.seed, _LOT_STREAM, rows.lots()[tiles])
    over = balance.over_caps(rows.image[tiles], rows.source[tiles].astype(np.int64), lots, recipe.balance, caps)
    (gone,) = np.nonzero(over)
    gone_rows, rule = tiles[gone], over[gone]
    decision.code[gone_rows] = _CODE["capped"]
    per_source = recipe.balance.per_source

    def words(n: int) -> tuple[None, str]:
        if rule[n] == balance.PER_SOURCE:
            own = caps.get(int(rows.source[gone_rows[n]]))
            return None, f"per_source: at most {min(cap for cap in (own, per_source) if cap is not None)}"
        name, cap = (
            ("per_place", recipe.balance.per_place) if rule[n] == balance.PER_PLACE else ("total", recipe.balance.total)
        )
        return None, f"{name}: at most {cap}"

    decision.words.append((gone_rows, words))


def _place(rows: Rows, decision: _Decision, recipe: Recipe) -> None:
    """Give kept tiles their shard and position, and the last verdicts."""
    kept = _open_rows(rows, decision)
    sizes = predicted_bytes(
        rows.width[kept].astype(np.int64), rows.height[kept].astype(np.int64), rows.file_bytes[kept],
        rows.pass_through[kept], recipe.shards,
    )  # fmt: skip
    shard, position = assign(rows.image[kept], sizes, recipe.shards, recipe.seed)
    decision.shard[kept], decision.position[kept] = shard, position
    decision.code[kept] = _CODE[KEPT]
    decision.code[(decision.code == NO_VERDICT) & ~rows.is_tile] = _CODE[SLICED]


def _summary(rows: Rows, decision: _Decision, unguarded: tuple[str, ...]) -> SelectSummary:
    counts = Counter(decision.code[rows.is_tile].tolist())
    reasons = {word: counts[number] for number, word in enumerate(VERDICTS) if counts[number] and word != KEPT}
    shards = int(np.max(decision.shard, initial=-1)) + 1
    return SelectSummary(int(rows.is_tile.sum()), counts[_CODE[KEPT]], shards, reasons, unguarded)


# ------------------------------------------------------------------------------------------------ writing


def _write(rows: Rows, decision: _Decision, out: Path) -> None:
    schema = schema_of("catalogue")
    with atomic(out) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for table in _ahead(_catalogue(rows, decision, schema)):
            writer.write_table(table, row_group_size=_ROW_GROUP)


def _ahead(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same tables, the next one being made in a second thread."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, tables, None)
        while (table := coming.result()) is not None:
            coming = pool.submit(next, tables, None)
            yield table


def _catalogue(rows: Rows, decision: _Decision, schema: pa.Schema) -> Iterator[pa.Table]:
    """The catalogue, a row group at a time."""
    for low, table in _gathered(rows):
        high = low + len(table)
        columns = {name: table[name] for name in _COPIED}
        columns["verdict"] = pa.array([VERDICTS[code] for code in decision.code[low:high]])
        columns |= _worded(decision, table, low, high)
        for name in ("shard", "position"):
            values = getattr(decision, name)[low:high]
            columns[name] = pa.array(values, mask=values < 0)
        yield pa.table([_as(columns[column.name], column) for column in schema], schema=schema)


def _as(values: pa.ChunkedArray | pa.Array, column: pa.Field) -> pa.Array:
    """Cast to the schema; dictionaries in order of appearance, so that equal rows give equal bytes."""
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(column.type):
        return values.cast(pa.string()).dictionary_encode().cast(column.type)
    return values.cast(column.type)


def _worded(decision: _Decision, table: pa.Table, low: int, high: int) -> dict[str, pa.Array]:
    """Subject and detail of the rows ``low`` to ``high``: the new ones where there are, else the scan's."""
    subject: list[str | None] = [None] * (high - low)
    detail: list[str | None] = [None] * (high - low)
    new = np.zeros(high - low, np.bool_)
    for changed, words in decision.words:
        first, last = np.searchsorted(changed, [low, high])
        for n in range(int(first), int(last)):
            place = int(changed[n]) - low
            subject[place], detail[place] = words(n)
            new[place] = True
    texts = {"subject": subject, "detail": detail}
    return {name: pc.if_else(pa.array(new), pa.array(text, pa.string()), table[name]) for name, text in texts.items()}


def _gathered(rows: Rows) -> Iterator[tuple[int, pa.Table]]:
    """The rows' other columns in the catalogue's order, a row group at a time; a unit is read once.

    A unit stays in memory until its last row is written: briefly where parts come in about the catalogue's order.
    """
    left = np.bincount(rows.unit, minlength=len(rows.units))
    held: dict[int, pa.Table] = {}
    for low in range(0, len(rows), _ROW_GROUP):
        unit, at = rows.unit[low : low + _ROW_GROUP], rows.at[low : low + _ROW_GROUP]
        used, counts = np.unique(unit, return_counts=True)
        for number in used:
            if number not in held:
                held[number] = _read(rows, int(number))
        first = np.concatenate([[0], np.cumsum([held[number].num_rows for number in used])])
        together = pa.concat_tables([held[number] for number in used]).unify_dictionaries().combine_chunks()
        yield low, together.take(pa.array(first[np.searchsorted(used, unit)] + at))
        left[used] -= counts
        for number in used[left[used] == 0]:
            del held[number]


def _read(rows: Rows, number: int) -> pa.Table:
    unit = rows.units[number]
    table = read_unit(unit, _COPIED)
    if len(table) != unit.rows:
        raise WorkError(f"{unit.path}: changed while it was read; run again")
    return table
