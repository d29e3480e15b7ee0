"""The rows of all ``tiles`` parts as numpy columns in the catalogue's order: what ``select`` thinks with.

The order is: source (as the recipe names them), image, the image's own row before its tiles, then row and column
offset. It does not depend on how rows came in parts. Strings stay in the files; a row costs about 126 bytes here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.base.arrays import Array
from curation.base.errors import WorkError
from curation.catalogue import VERDICTS, open_table
from curation.select.views import view_codes, views_of
from curation.sources.recipe import DeduplicateRules

_KEYS = ["source", "image", "kind", "row_off", "col_off", "width", "height"]
_ORDER = ("source", "image", "tile", "row_off", "col_off", "width", "height")
_VALUES = [
    "tile_id", "verdict", "image_width", "image_height", "file_bytes", "pass_through", "gsd_m", "content_hash",
    "ac_energy", "orientations",
]  # fmt: skip
_HEX = np.full(256, 255, np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)

NO_VERDICT = -1


@dataclass(frozen=True)
class Unit:
    """One row group of one part: the piece that is read at once."""

    path: Path
    row_group: int
    rows: int


@dataclass(frozen=True)
class CatalogueRows:
    """Columns of N rows in the catalogue's order. ``code``: index in ``VERDICTS``, or ``NO_VERDICT``."""

    units: list[Unit]
    unit: npt.NDArray[np.int32]
    at: npt.NDArray[np.int32]
    """Place of the row within its unit."""
    source: npt.NDArray[np.int16]
    image: npt.NDArray[np.int64]
    """Number of the raw image, ascending; unique over sources."""
    is_tile: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.uint8]
    """(N, 10): the tile id's bytes."""
    code: npt.NDArray[np.int8]
    rule: npt.NDArray[np.int8]
    """What the judge of :func:`load_rows` says of the row alone; -1 where it says nothing."""
    width: npt.NDArray[np.int32]
    height: npt.NDArray[np.int32]
    image_pixels: npt.NDArray[np.int64]
    file_bytes: npt.NDArray[np.int64]
    pass_through: npt.NDArray[np.bool_]
    gsd: npt.NDArray[np.float32]
    ac_energy: npt.NDArray[np.float32]
    """NaN where it was not measured."""
    content: npt.NDArray[np.uint64]
    """(N, 2): hash of the pixels; zero where there is none."""
    codes: npt.NDArray[np.uint64]
    """(N, V): pHash in every view of the rules (:func:`curation.select.views.views_of`)."""
    hashed: npt.NDArray[np.bool_]
    generation: npt.NDArray[np.int16] | None = None
    """Of tiles that an earlier catalogue keeps, lower than of others; null: there is none."""

    def __len__(self) -> int:
        return len(self.unit)

    def id_of(self, row: int) -> str:
        """The tile id as 20 hex digits."""
        return bytes(self.ids[row]).hex()

    def lots(self) -> npt.NDArray[np.uint64]:
        """(N,) the first eight bytes of every id as a number."""
        return np.ascontiguousarray(self.ids[:, :8]).view(">u8")[:, 0].astype(np.uint64)


@dataclass(frozen=True)
class Judge:
    """Gives every row of a table a small number, from some of its columns."""

    columns: tuple[str, ...]
    give: Callable[[pa.Table], npt.NDArray[np.int8]]


def load_rows(
    parts: Sequence[Path],
    sources: Sequence[str],
    rules: DeduplicateRules,
    threads: int = 1,
    judge: Judge | None = None,
) -> CatalogueRows:
    """Read the numeric columns of all parts and put the rows in the catalogue's order.

    Args:
        parts: ``tiles`` files, in any order and of any size.
        sources: source ids in the recipe's order.
        rules: in which views tiles will be compared.
        threads: row groups that are read at a time.
        judge: what is asked about every row on the way; null: nothing.

    Raises:
        WorkError: a row of an unknown source, an id that is no id, or two rows with one id.
    """
    with ThreadPoolExecutor(threads) as pool:
        units, tables = _read_all_keys(list_units(parts), {name: number for number, name in enumerate(sources)}, pool)
        order, columns = _order(tables)
        del tables
        sizes = np.array([unit.rows for unit in units], np.int64)
        first = np.concatenate([[0], np.cumsum(sizes)])
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        columns |= _empty(len(order), len(views_of(rules)))
        for start, values in zip(first, pool.map(partial(_read_values, rules=rules, judge=judge), units), strict=False):
            where = place[start : start + len(values["code"])]
            for name, value in values.items():
                columns[name][where] = value
    del place
    owner = np.repeat(np.arange(len(units), dtype=np.int32), sizes)[order]
    rows = CatalogueRows(units=units, unit=owner, at=(order - first[owner]).astype(np.int32), **columns)
    _check_unique(rows)
    return rows


def list_units(parts: Sequence[Path]) -> list[Unit]:
    """Row groups of all parts that have rows, by path."""
    units = []
    for path in sorted(parts):
        with open_table(path, "tiles") as file:
            groups = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        units += [Unit(path, number, rows) for number, rows in enumerate(groups) if rows]
    return units


def read_unit(unit: Unit, columns: list[str]) -> pa.Table:
    """Read some columns of one unit, one chunk per column."""
    with pq.ParquetFile(unit.path) as file:
        return file.read_row_group(unit.row_group, columns=columns, use_threads=False).combine_chunks()


def visit_columns(
    rows: CatalogueRows,
    chosen: npt.NDArray[np.int64],
    columns: list[str],
    visit: Callable[[Array, pa.Table], None],
    threads: int,
) -> None:
    """Read columns of chosen rows, a unit at a time: ``visit(places in chosen, table of those rows)``, in threads."""
    by_unit = np.argsort(rows.unit[chosen], kind="stable")
    edges = np.searchsorted(rows.unit[chosen][by_unit], np.arange(len(rows.units) + 1))

    def read(number: int) -> None:
        """Read one unit's columns and hand over its members."""
        members = by_unit[edges[number] : edges[number + 1]]
        visit(members, read_unit(rows.units[number], columns).take(pa.array(rows.at[chosen[members]])))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, np.nonzero(np.diff(edges))[0]))


def numbers(table: pa.Table, name: str, missing: float = 0) -> Array:
    """A numeric column as numpy, nulls replaced."""
    result: Array = column(table, name).fill_null(missing).to_numpy(zero_copy_only=False)
    return result


def fixed_bytes(table: pa.Table, name: str, width: int) -> npt.NDArray[np.uint8]:
    """A fixed-size binary column as (N, width) bytes, zero where null."""
    values = column(table, name)
    if values.null_count:
        values = values.fill_null(b"\0" * width)
    start = values.offset * width
    data = np.frombuffer(values.buffers()[1], np.uint8)[start : start + len(values) * width]
    return data.reshape(-1, width)


def hash_lists(table: pa.Table, name: str) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """A column of eight hashes as (N, 8) uint64, and which rows have them."""
    values = column(table, name)
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(values).to_numpy(zero_copy_only=False).astype(np.uint64, copy=False).reshape(-1, 8)
    if valid.all():
        return flat, valid
    result = np.zeros((len(values), 8), np.uint64)
    result[valid] = flat
    return result, valid


def read_codes(table: pa.Table, rules: DeduplicateRules) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Hashes of a table's rows in every view of the rules (N, V), and which rows have them."""
    orientations, hashed = hash_lists(table, "orientations")
    blocks = fixed_bytes(table, "dct16", 256).view(np.int8) if rules.crops else None
    soft = ~(numbers(table, "ac_energy", -1) >= rules.soft_ac_energy)
    return view_codes(orientations, blocks, soft, rules), hashed


def column(table: pa.Table, name: str) -> pa.Array:
    """A column of a table that may have one chunk or none."""
    chunked = table[name]
    return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()


def codes(values: pa.Array, lookup: dict[str, int], missing: int) -> npt.NDArray[np.int64]:
    """Numbers of a dictionary column's words; null becomes ``missing``.

    Raises:
        KeyError: a word that is not in ``lookup``.
    """
    values = values if isinstance(values, pa.DictionaryArray) else values.dictionary_encode()
    table = np.array([*(lookup[word] for word in values.dictionary.to_pylist()), missing], np.int64)
    result: npt.NDArray[np.int64] = table[values.indices.fill_null(len(table) - 1).to_numpy(zero_copy_only=False)]
    return result


# ------------------------------------------------------------------------------------------------ order


def _read_all_keys(
    units: list[Unit], sources: dict[str, int], pool: ThreadPoolExecutor
) -> tuple[list[Unit], list[pa.Table]]:
    """Units with their key columns, ordered by their first row, so that parts that are in order need no sort."""
    tables = list(pool.map(partial(_read_keys, sources=sources), units))
    if not tables:
        raise WorkError("no rows to select from: no part holds any")
    first = [tuple(table[name][0].as_py() for name in _ORDER) for table in tables]
    by_first = sorted(range(len(units)), key=first.__getitem__)
    return [units[number] for number in by_first], [tables[number] for number in by_first]


def _order(tables: list[pa.Table]) -> tuple[Array, dict[str, Array]]:
    """Permutation that sorts the rows, and the sorted key columns."""
    keys = pa.concat_tables(tables)
    order = np.arange(len(keys)) if _is_sorted(keys) else _sorted_order(keys)
    if not np.array_equal(order, np.arange(len(keys))):
        keys = keys.take(pa.array(order))
    numeric = {name: keys[name].to_numpy() for name in ("source", "width", "height")}
    new = np.zeros(len(keys), np.bool_)
    new[1:] = (numeric["source"][1:] != numeric["source"][:-1]) | _adjacent(keys["image"], pc.not_equal)
    columns: dict[str, Array] = {
        "source": numeric["source"].astype(np.int16),
        "image": np.cumsum(new),
        "is_tile": keys["tile"].to_numpy() > 0,
        "width": numeric["width"].astype(np.int32),
        "height": numeric["height"].astype(np.int32),
    }
    return order, columns


def _read_keys(unit: Unit, sources: dict[str, int]) -> pa.Table:
    table = read_unit(unit, _KEYS)
    try:
        source = codes(column(table, "source"), sources, -1)
    except KeyError as error:
        raise WorkError(f"{unit.path}: holds rows of source {error}, which the recipe does not name") from None
    tile = codes(column(table, "kind"), {"image": 0, "tile": 1}, -1)
    plain = {name: numbers(table, name, -1).astype(np.int32) for name in ("row_off", "col_off", "width", "height")}
    image = column(table, "image").cast(pa.large_string())
    return pa.table({"source": source, "image": image, "tile": tile.astype(np.int8), **plain})


def _adjacent(values: pa.ChunkedArray, compare: Any) -> npt.NDArray[np.bool_]:
    """``compare(earlier, later)`` of every two neighbours, (N - 1,)."""
    result: npt.NDArray[np.bool_] = compare(values.slice(0, len(values) - 1), values.slice(1)).to_numpy()
    return result


def _is_sorted(keys: pa.Table) -> bool:
    if len(keys) < 2:
        return True
    undecided = np.ones(len(keys) - 1, np.bool_)
    for name in _ORDER:
        if (_adjacent(keys[name], pc.greater) & undecided).any():
            return False
        undecided &= _adjacent(keys[name], pc.equal)
    return True


def _sorted_order(keys: pa.Table) -> npt.NDArray[np.int64]:
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in _ORDER])
    result: npt.NDArray[np.int64] = order.to_numpy().astype(np.int64)
    return result


# ------------------------------------------------------------------------------------------------ values


def _empty(count: int, views: int) -> dict[str, Array]:
    return {
        "ids": np.empty((count, 10), np.uint8),
        "code": np.empty(count, np.int8),
        "rule": np.empty(count, np.int8),
        "image_pixels": np.empty(count, np.int64),
        "file_bytes": np.empty(count, np.int64),
        "pass_through": np.empty(count, np.bool_),
        "gsd": np.empty(count, np.float32),
        "ac_energy": np.empty(count, np.float32),
        "content": np.empty((count, 2), np.uint64),
        "codes": np.empty((count, views), np.uint64),
        "hashed": np.empty(count, np.bool_),
    }


def _read_values(unit: Unit, rules: DeduplicateRules, judge: Judge | None) -> dict[str, Array]:
    judged = judge.columns if judge is not None else ()
    table = read_unit(unit, [*_VALUES, *(["dct16"] if rules.crops else []), *judged])
    seen, hashed = read_codes(table, rules)
    verdicts = {word: number for number, word in enumerate(VERDICTS)}
    return {
        "ids": decode_ids(column(table, "tile_id"), unit.path),
        "code": codes(column(table, "verdict"), verdicts, NO_VERDICT).astype(np.int8),
        "rule": np.full(len(table), -1, np.int8) if judge is None else judge.give(table),
        "image_pixels": numbers(table, "image_width").astype(np.int64) * numbers(table, "image_height"),
        "file_bytes": numbers(table, "file_bytes"),
        "pass_through": column(table, "pass_through").fill_null(False).to_numpy(zero_copy_only=False),
        "gsd": numbers(table, "gsd_m", float("nan")),
        "ac_energy": numbers(table, "ac_energy", float("nan")),
        "content": fixed_bytes(table, "content_hash", 16).copy().view(np.uint64),
        "codes": seen,
        "hashed": hashed,
    }


def decode_ids(values: pa.Array, path: Path) -> npt.NDArray[np.uint8]:
    """(N, 10) bytes of ids of 20 hex digits.

    Raises:
        WorkError: one is none.
    """
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    text = np.frombuffer(values.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    digits = _HEX[text]
    if (np.diff(offsets) != 20).any() or (digits == 255).any():
        raise WorkError(f"{path}: a tile_id is not 20 hex digits; the part was not written by this project's scan")
    digits = digits.reshape(-1, 20)
    result: npt.NDArray[np.uint8] = digits[:, 0::2] << np.uint8(4) | digits[:, 1::2]
    return result


def _check_unique(rows: CatalogueRows) -> None:
    lots = rows.lots()
    order = np.argsort(lots)
    lots = lots[order]
    (suspects,) = np.nonzero(lots[1:] == lots[:-1])
    for place in suspects:
        a, b = sorted(int(row) for row in order[place : place + 2])
        if np.array_equal(rows.ids[a], rows.ids[b]):
            raise WorkError(f"two rows have the id {rows.id_of(a)}: {describe(rows, a)} and {describe(rows, b)}")


def describe(rows: CatalogueRows, row: int) -> str:
    """Name a row for an error: source, image, window, file."""
    unit = rows.units[rows.unit[row]]
    facts = read_unit(unit, _KEYS).slice(int(rows.at[row]), 1).to_pylist()[0]
    window = "image" if facts["kind"] == "image" else f"tile at column {facts['col_off']}, row {facts['row_off']}"
    return f"{facts['source']}/{facts['image']} ({window}) in {unit.path.name}"
