"""Write the catalogue: what was decided in memory, beside all that the parts hold, a row group at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.arrays import Ints
from curation.base.errors import InputError, WorkError
from curation.base.files import atomic
from curation.catalogue import CATALOGUE, VERDICTS, schema_of
from curation.select.exclude import NONE, RULES
from curation.select.generations import METADATA, Generations
from curation.select.rows import CatalogueRows, read_unit
from curation.sources.recipe import ExcludeRules, Recipe, ResolvedSource

_ROW_GROUP = 65_536
_COPIED = [name for name in CATALOGUE.names if name not in ("shard", "position")]
_UNIQUE = ("tile_id", "content_hash", "phash")
"""Columns whose values do not repeat: a dictionary would only make them slower to read."""
_RULES = b"rscorpus.rules"


@dataclass
class Decision:
    """Verdicts of N rows as they form, and what is needed to word them."""

    code: npt.NDArray[np.int8]
    """Index in ``VERDICTS``, or ``NO_VERDICT``."""
    rule: npt.NDArray[np.int8]
    """Number of the exclusion rule that decided, its image's for a tile that goes with it; else ``NONE``."""
    shard: npt.NDArray[np.int32]
    position: npt.NDArray[np.int32]
    words: list[tuple[Ints, Callable[[int], tuple[str | None, str]]]] = field(default_factory=list)
    """CatalogueRows with a verdict from another stage, ascending, and (subject, detail) of the n-th of them."""


class Rulebook(NamedTuple):
    """By what the verdicts of a catalogue were given: kept in its metadata, so that a row can be explained."""

    name: str
    """The recipe's, which shards are named by."""
    exclude: ExcludeRules
    kinds: dict[str, str]
    """Kind of every source."""
    left_out: dict[str, str]
    """Sources of the recipe that were not run, each with the reason."""

    @classmethod
    def of(cls, recipe: Recipe, sources: Mapping[str, ResolvedSource]) -> Rulebook:
        """The rules of a recipe."""
        return cls(
            recipe.name, recipe.exclude, {name: source.source.kind for name, source in sources.items()}, recipe.left_out
        )

    def as_json(self) -> bytes:
        """As stored."""
        stored = {**self._asdict(), "exclude": self.exclude.thresholds()}
        return json.dumps(stored, sort_keys=True).encode()


def read_rulebook(file: pq.ParquetFile, path: Path) -> Rulebook:
    """The rules that a catalogue was made by.

    Raises:
        InputError: it holds none that this release understands.
    """
    try:
        stored = json.loads((file.schema_arrow.metadata or {})[_RULES])
        return Rulebook(**{"left_out": {}, **stored, "exclude": ExcludeRules.model_validate(stored["exclude"])})
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: does not say by which rules it was made; run the curation again") from None


def write_catalogue(
    rows: CatalogueRows, decision: Decision, rules: Rulebook, generations: Generations, out: Path
) -> None:
    """Write every row with its verdict.

    Raises:
        WorkError: a part changed while it was read.
    """
    schema = schema_of("catalogue")
    told = {_RULES: rules.as_json(), METADATA: generations.as_json()}
    schema = schema.with_metadata({**schema.metadata, **told})
    repeated = [_leaf(field) for field in schema if field.name not in _UNIQUE]
    with atomic(out) as aside, pq.ParquetWriter(aside, schema, compression="zstd", use_dictionary=repeated) as writer:
        for table in _ahead(_catalogue(rows, decision, rules.exclude, schema)):
            writer.write_table(table, row_group_size=_ROW_GROUP)


def _leaf(field: pa.Field) -> str:
    """Name by which Parquet knows a column's values."""
    nested = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
    return f"{field.name}.list.element" if nested else str(field.name)


def _ahead(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same tables, the next one being made in a second thread."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, tables, None)
        while (table := coming.result()) is not None:
            coming = pool.submit(next, tables, None)
            yield table


def _catalogue(rows: CatalogueRows, decision: Decision, rules: ExcludeRules, schema: pa.Schema) -> Iterator[pa.Table]:
    """The catalogue, a row group at a time."""
    before = _OfImages(np.zeros(0, np.int64), [])
    for low, table in _gathered(rows):
        high = low + len(table)
        columns = {name: table[name] for name in _COPIED}
        columns["verdict"] = pa.array([VERDICTS[code] for code in decision.code[low:high]])
        texts = _Texts.empty(high - low)
        before = _word_rules(texts, decision.rule[low:high], rows, low, table, rules, before)
        _word_matches(texts, decision, low, high)
        new = pa.array(texts.new)
        for name, text in (("subject", texts.subject), ("detail", texts.detail)):
            columns[name] = pc.if_else(new, pa.array(text, pa.string()), table[name])
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


# ------------------------------------------------------------------------------------------------ words


@dataclass
class _Texts:
    """Subject and detail of the rows of one row group, and for which of them the scan's are replaced."""

    subject: list[str | None]
    detail: list[str | None]
    new: npt.NDArray[np.bool_]

    @classmethod
    def empty(cls, count: int) -> _Texts:
        """Nothing said of any row."""
        return cls([None] * count, [None] * count, np.zeros(count, np.bool_))


class _OfImages(NamedTuple):
    """Details of images that a rule rejects: their numbers, ascending, and the words."""

    image: Ints
    detail: list[str]


def _word_rules(
    texts: _Texts,
    rule: npt.NDArray[np.int8],
    rows: CatalogueRows,
    low: int,
    table: pa.Table,
    rules: ExcludeRules,
    before: _OfImages,
) -> _OfImages:
    """Word the exclusion rules of one row group; an image's words go with all its tiles, into the next group too."""
    is_tile, image = rows.is_tile[low : low + len(rule)], rows.image[low : low + len(rule)]
    ruled = rule != NONE
    own = ruled & (is_tile != _of_image(rule))
    for number in np.unique(rule[own]).tolist():
        (at,) = np.nonzero(own & (rule == number))
        for place, detail in zip(at.tolist(), _details(table, number, at, rules), strict=True):
            texts.detail[place] = detail
    (images,) = np.nonzero(ruled & ~is_tile)
    words = [*before.detail, *(str(texts.detail[place]) for place in images.tolist())]
    numbers = np.concatenate([before.image, image[images]])
    (at,) = np.nonzero(ruled & ~own)
    for place, owner in zip(at.tolist(), np.searchsorted(numbers, image[at]).tolist(), strict=True):
        texts.detail[place] = f"its image: {words[owner]}"
    texts.new |= ruled
    return _OfImages(numbers[-1:], words[-1:])


def _details(table: pa.Table, number: int, at: Ints, rules: ExcludeRules) -> list[str]:
    rule = RULES[number]
    values = table.select(rule.reads).take(pa.array(at)).to_pylist() if rule.reads else [{}] * len(at)
    return rule.details(values, rules)


def _of_image(rule: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """Which rules, by number, are those of images."""
    return np.isin(rule, [number for number, each in enumerate(RULES) if each.of == "image"])


def _word_matches(texts: _Texts, decision: Decision, low: int, high: int) -> None:
    """Word what leaks, duplicates and caps decided in the rows ``low`` to ``high``."""
    for changed, words in decision.words:
        first, last = np.searchsorted(changed, [low, high])
        for n in range(int(first), int(last)):
            place = int(changed[n]) - low
            texts.subject[place], texts.detail[place] = words(n)
            texts.new[place] = True


# ------------------------------------------------------------------------------------------------ rows


def _gathered(rows: CatalogueRows) -> Iterator[tuple[int, pa.Table]]:
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


def _read(rows: CatalogueRows, number: int) -> pa.Table:
    unit = rows.units[number]
    table = read_unit(unit, _COPIED)
    if len(table) != unit.rows:
        raise WorkError(f"{unit.path}: changed while it was read; run again")
    return table
