"""Digests of table rows: equal rows, and no others, have equal digests, whatever order and files they lie in.

A row's digest follows from its values and the names of its columns. A table's is the sum of its rows', so that it
can be added up from parts, and does not change when the same rows are cut into other parts.
"""

from __future__ import annotations

from collections.abc import Iterable

import numba
import numpy as np
import pyarrow as pa
import xxhash

from curation.base.arrays import Bytes, Ints, Words
from curation.base.compiled import compiled, given

LANES = 2
"""Words of a content digest: 128 bits, so that accidents are out of the question."""
_NULL = np.uint64(0x9E3779B97F4A7C15)


@compiled(numba.void(given(numba.u1, 1), given(numba.i8, 1), numba.u8, numba.u8[::1]))
def _hash_slices(data: Bytes, bounds: Ints, seed: int, out: Words) -> None:
    """Hash ``data[bounds[i]:bounds[i + 1]]`` to ``out[i]``: eight bytes at a time, then SplitMix64's last steps."""
    factor, first, second = np.uint64(0x9FB21C651E98DF25), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
    for index in range(out.size):
        at, stop = bounds[index], bounds[index + 1]
        state = np.uint64(seed) ^ (np.uint64(stop - at) * first)
        while at < stop:
            word = np.uint64(0)
            if at + 8 <= stop:  # one load, to a compiler that sees all eight
                for byte in range(8):
                    word |= np.uint64(data[np.uint64(at + byte)]) << np.uint64(8 * byte)
            else:
                for byte in range(stop - at):
                    word |= np.uint64(data[at + byte]) << np.uint64(8 * byte)
            state = (state ^ word) * factor
            state ^= state >> np.uint64(29)
            at += 8
        state = (state ^ (state >> np.uint64(30))) * first
        state = (state ^ (state >> np.uint64(27))) * second
        out[index] = state ^ (state >> np.uint64(31))


def row_digests(table: pa.Table, lane: int = 0) -> Words:
    """Digest ``(N,)`` of every row of a table; another ``lane`` gives independent ones."""
    total = np.zeros(len(table), np.uint64)
    for name, column in zip(table.column_names, table.columns, strict=True):
        seed = xxhash.xxh3_64_intdigest(name.encode(), lane)
        start = 0
        for chunk in column.chunks:
            total[start : start + len(chunk)] += _digests(chunk, seed)
            start += len(chunk)
    return _scrambled(total)


def content(table: pa.Table) -> str:
    """Digest of a table's rows in any order: 32 hex digits."""
    return _hex([int(row_digests(table, lane).sum(dtype=np.uint64)) for lane in range(LANES)])


def together(contents: Iterable[str]) -> str:
    """Digest of the rows of several tables, as of one table that holds them all."""
    totals = [0] * LANES
    for digest in contents:
        for lane in range(LANES):
            totals[lane] += int(digest[16 * lane : 16 * (lane + 1)], 16)
    return _hex(totals)


def _hex(words: Iterable[int]) -> str:
    return "".join(format(word % (1 << 64), "016x") for word in words)


def _digests(array: pa.Array, seed: int) -> Words:
    """Digests ``(N,)`` of the values of a column."""
    if len(array) == 0 or array.null_count == len(array):
        return np.full(len(array), _NULL, np.uint64)
    if pa.types.is_dictionary(array.type):
        found = _digests(array.dictionary, seed)[array.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    else:
        data, bounds = _slices(array, seed)
        found = np.empty(len(array), np.uint64)
        _hash_slices(data, bounds, seed, found)
    if array.null_count:
        found[array.is_null().to_numpy(zero_copy_only=False)] = _NULL
    return found


def _slices(array: pa.Array, seed: int) -> tuple[Bytes, Ints]:
    """Bytes of a column, and where those of each value begin and end ``(N + 1,)``."""
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _digests(array.values, seed).view(np.uint8)  # a list is the bytes of its values' digests
        return inner, 8 * (_fixed(array, kind.list_size) if pa.types.is_fixed_size_list(kind) else _offsets(array))
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _bytes(array.buffers()[2]), _offsets(array)
    if pa.types.is_boolean(kind):
        return _slices(array.cast(pa.uint8()), seed)
    return _bytes(array.buffers()[1]), _fixed(array, kind.bit_width // 8)


def _fixed(array: pa.Array, width: int) -> Ints:
    return (np.arange(len(array) + 1, dtype=np.int64) + array.offset) * width


def _offsets(array: pa.Array) -> Ints:
    every = np.frombuffer(array.buffers()[1], np.int32)
    return every[array.offset : array.offset + len(array) + 1].astype(np.int64)


def _bytes(buffer: pa.Buffer | None) -> Bytes:
    return np.zeros(0, np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8)


def _scrambled(words: Words) -> Words:
    """A sum of columns to a digest whose bits may be added up again."""
    words = (words ^ (words >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    words = (words ^ (words >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return words ^ (words >> np.uint64(32))
