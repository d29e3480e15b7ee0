# mypy: disable-error-code="untyped-decorator,no-untyped-call,assignment,call-arg,operator"
"""Compiled inner loops of :mod:`curation.neighbours`; they release the interpreter lock.

Signatures are explicit, so that compilation happens once, on import, and is kept in numba's cache. ``segments`` are
rows of (shift, bits): the parts of a code that make up a key, the first in its lowest bits. ``flags`` name a table's
bands, the first band in bit 31, so that an earlier table has the larger number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from curation.compiled import compiled

_u64, _i64, _i32 = types.uint64, types.int64, types.int32
_codes, _ids, _starts = types.Array(_u64, 1, "C"), types.Array(_i32, 1, "C"), types.Array(_i64, 1, "C")
_keys = types.Array(types.uint16, 1, "C")
_table, _tables = types.Array(_i64, 2, "C"), types.Array(_i64, 3, "C")

BLOCK = 8


@intrinsic
def popcount(typingctx: Any, value: Any) -> Any:
    """Number of set bits of a uint64: the processor's own instruction."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


@compiled(_i64(_u64, _table), inline="always")
def _key(code: int, segments: Any) -> int:
    key, place = 0, 0
    for part in range(segments.shape[0]):
        bits = segments[part, 1]
        key |= np.int64((code >> np.uint64(segments[part, 0])) & np.uint64((1 << bits) - 1)) << place
        place += bits
    return key


@compiled(types.void(_codes, _i64, _i64, _table, _starts))
def count(codes: Any, low: int, high: int, segments: Any, counts: Any) -> None:
    """Add to ``counts`` how many codes have each key."""
    for i in range(low, high):
        counts[_key(codes[i], segments)] += 1


@compiled(types.void(_codes, _ids, _i64, _i64, _table, _starts, _codes, _ids))
def scatter(
    codes: Any, ids: Any, low: int, high: int, segments: Any, cursors: Any, out_codes: Any, out_ids: Any
) -> None:
    """Move codes and ids to where ``cursors`` says their key goes, and advance it."""
    for i in range(low, high):
        key = _key(codes[i], segments)
        place = cursors[key]
        cursors[key] = place + 1
        out_codes[place] = codes[i]
        out_ids[place] = ids[i]


@compiled(_i64(_u64, _codes, _i64))
def _first_table(difference: int, masks: Any, chosen: int) -> int:
    """Flags of the first table that surely holds a pair: of the first ``chosen`` bands in which it agrees."""
    own, left = 0, chosen
    for band in range(masks.shape[0]):
        if difference & masks[band] == 0:
            own |= 1 << (31 - band)
            left -= 1
            if left == 0:
                break
    return own


@compiled(_i64(_codes, _ids, _table, _keys, _codes, _ids, _ids))
def _sort_bucket(codes: Any, ids: Any, segments: Any, keys: Any, out_codes: Any, out_ids: Any, edges: Any) -> int:
    """Counting sort of one bucket; a key's codes are ``edges[key]`` to ``edges[key + 1]``. Returns the keys' number."""
    size, bits = codes.shape[0], 0
    keys[:size] = 0
    for part in range(segments.shape[0]):
        shift, mask = np.uint64(segments[part, 0]), np.uint64((1 << segments[part, 1]) - 1)
        for i in range(size):
            keys[i] |= np.uint16(((codes[i] >> shift) & mask) << np.uint64(bits))
        bits += segments[part, 1]
    count = 1 << bits
    edges[: count + 2] = 0
    for i in range(size):
        edges[np.int64(keys[i]) + 2] += np.int32(1)
    for key in range(2, count + 2):
        edges[key] += edges[key - 1]
    for i in range(size):
        key = np.int64(keys[i]) + 1
        place = edges[key]
        edges[key] = place + np.int32(1)
        out_codes[place] = codes[i]
        out_ids[place] = ids[i]
    return count


@compiled(_i64(_u64, _codes, _i64, _i64, _i64))
def next_near(code: int, codes: Any, low: int, high: int, radius: int) -> int:
    """First place from ``low`` on whose code lies within the radius; ``high`` where there is none.

    Blocks are counted without a branch, which the compiler turns into vector instructions; few contain anything. The
    last block is read beyond ``high``: ``codes`` has room for that.
    """
    limit = np.uint64(radius)
    while low < high:
        hits, first = 0, np.uint64(low)
        for step in range(BLOCK):
            hits += np.int64(popcount(code ^ codes[first + np.uint64(step)]) <= limit)
        if hits:
            for j in range(low, min(low + BLOCK, high)):
                if popcount(code ^ codes[j]) <= limit:
                    return j
        low += BLOCK
    return high


@compiled(_i64(_codes, _ids, _i64, _i64, _i64, _codes, _i64, _i64, _ids, _ids, _i64))
def _explore(
    codes: Any, ids: Any, low: int, high: int, flags: int, masks: Any, chosen: int, radius: int,
    out_a: Any, out_b: Any, used: int,
) -> int:  # fmt: skip
    """Breadth first over ``codes[low:high]``, which it reorders. Returns the edges in use.

    Before ``reached`` lie codes that have been reached, after it those that have not: what the code at ``pivot``
    reaches is swapped to the front, and is never a target again. A pair that an earlier table holds is joined there.
    """
    reached = low
    for pivot in range(low, high):
        if reached <= pivot:
            reached = pivot + 1
        code = codes[pivot]
        j = next_near(code, codes, reached, high, radius)
        while j < high:
            if _first_table(code ^ codes[j], masks, chosen) <= flags:
                out_a[used], out_b[used] = ids[pivot], ids[j]
                used += 1
            codes[j], codes[reached] = codes[reached], codes[j]
            ids[j], ids[reached] = ids[reached], ids[j]
            reached += 1
            j = next_near(code, codes, j + 1, high, radius)
    return used


@compiled(
    _i64(_codes, _ids, _starts, _starts, _tables, _codes, _i64, _i64, _starts, _i64, _ids, _ids),
)  # fmt: skip
def within(
    codes: Any, ids: Any, starts: Any, flags: Any, segments: Any, masks: Any, chosen: int, radius: int,
    at: Any, last: int, out_a: Any, out_b: Any,
) -> int:  # fmt: skip
    """Pairs that join what is near in the buckets from ``at[0]`` to ``last``. Returns the pairs written.

    Where room for pairs ends, ``at`` (bucket, table) is where to go on.
    """
    longest = 0
    for bucket in range(at[0], last):
        longest = max(longest, starts[bucket + 1] - starts[bucket])
    own_codes, own_ids, keys = (
        np.empty(longest + BLOCK, np.uint64),
        np.empty(longest, np.int32),
        np.empty(longest, np.uint16),
    )
    edges = np.empty((1 << 12) + 2, np.int32)
    used = 0
    while at[0] < last:
        low, high = starts[at[0]], starts[at[0] + 1]
        while high - low > 1 and at[1] < flags.shape[0]:
            if used + high - low > out_a.shape[0]:
                return used
            table = at[1]
            count = _sort_bucket(codes[low:high], ids[low:high], segments[table], keys, own_codes, own_ids, edges)
            for key in range(count):
                a, b = np.int64(edges[key]), np.int64(edges[key + 1])
                if b - a > 1:
                    used = _explore(own_codes, own_ids, a, b, flags[table], masks, chosen, radius, out_a, out_b, used)
            at[1] += 1
        at[0] += 1
        at[1] = 0
    return used


@compiled(
    _i64(
        _codes, _ids, _starts, _codes, _ids, _starts, _ids, _ids, _starts, _tables, _codes, _i64, _i64,
        _starts, _i64, _ids, _ids,
    ),
)  # fmt: skip
def between(
    codes_a: Any, ids_a: Any, starts_a: Any, codes_b: Any, ids_b: Any, starts_b: Any, label_a: Any, label_b: Any,
    flags: Any, segments: Any, masks: Any, chosen: int, radius: int, at: Any, last: int, out_a: Any, out_b: Any,
) -> int:  # fmt: skip
    """Pairs between the buckets from ``at[0]`` to ``last`` of two sets. Returns the pairs written.

    With labels (not empty) pairs of equal label are skipped, and so are codes of a label that has just been met. Where
    room for pairs ends, ``at`` (bucket, table, code of the second set within the bucket) is where to go on.
    """
    longest = 0
    for bucket in range(at[0], last):
        longest = max(longest, starts_a[bucket + 1] - starts_a[bucket])
    own_codes, own_ids, keys = (
        np.empty(longest + BLOCK, np.uint64),
        np.empty(longest, np.int32),
        np.empty(longest, np.uint16),
    )
    edges = np.empty((1 << 12) + 2, np.int32)
    room, labelled, used = out_a.shape[0], label_a.shape[0] > 0, 0
    while at[0] < last:
        low, high = starts_a[at[0]], starts_a[at[0] + 1]
        first, end_b = starts_b[at[0]], starts_b[at[0] + 1]
        while high > low and end_b > first and at[1] < flags.shape[0]:
            table = at[1]
            _sort_bucket(codes_a[low:high], ids_a[low:high], segments[table], keys, own_codes, own_ids, edges)
            for j in range(first + at[2], end_b):
                code, item, before = codes_b[j], ids_b[j], used
                key = _key(code, segments[table])
                met = label_b[item] if labelled else -1
                skip, end = met, np.int64(edges[key + 1])
                i = next_near(code, own_codes, np.int64(edges[key]), end, radius)
                while i < end:
                    label = label_a[own_ids[i]] if labelled else -2
                    if label not in (met, skip) and _first_table(code ^ own_codes[i], masks, chosen) == flags[table]:
                        if used == room:
                            at[2] = j - first
                            return before
                        out_a[used], out_b[used] = own_ids[i], item
                        used += 1
                        skip = label if labelled else skip
                    i = next_near(code, own_codes, i + 1, end, radius)
            at[1] += 1
            at[2] = 0
        at[0] += 1
        at[1] = 0
    return used


@compiled(
    _i64(_codes, _i64, _i64, _codes, _ids, _ids, _table, _i64, _codes, _i64, _i64, _starts, _ids, _ids),
)  # fmt: skip
def look_up(
    codes: Any, low: int, high: int, few: Any, few_ids: Any, edges: Any, segments: Any, flags: int, masks: Any,
    chosen: int, radius: int, at: Any, out_a: Any, out_b: Any,
) -> int:  # fmt: skip
    """Pairs of ``codes[at[0]:high]`` with the few of one table, sorted by its key. Returns the pairs written.

    Where room for pairs ends, ``at`` (code) is where to go on.
    """
    room, used = out_a.shape[0], 0
    for item in range(max(low, at[0]), high):
        code, before = codes[item], used
        key = _key(code, segments)
        end = np.int64(edges[key + 1])
        place = next_near(code, few, np.int64(edges[key]), end, radius)
        while place < end:
            if _first_table(code ^ few[place], masks, chosen) == flags:
                if used == room:
                    at[0] = item
                    return before
                out_a[used], out_b[used] = item, few_ids[place]
                used += 1
            place = next_near(code, few, place + 1, end, radius)
    at[0] = high
    return used


@compiled(_i32(_ids, _i32))
def _root(parent: Any, item: int) -> int:
    """Root of an item, halving the path on the way."""
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


@compiled(types.void(_ids, _ids, _ids))
def unite(parent: Any, a: Any, b: Any) -> None:
    """Unite the sets of ``a[k]`` and ``b[k]`` for every k; the lowest item is always the root."""
    for k in range(a.shape[0]):
        i, j = _root(parent, a[k]), _root(parent, b[k])
        if i < j:
            parent[j] = i
        elif j < i:
            parent[i] = j


@compiled(_ids(_ids))
def roots(parent: Any) -> Any:
    """Root of every item."""
    result = np.empty_like(parent)
    for item in range(parent.shape[0]):
        result[item] = _root(parent, item)
    return result


@compiled(types.void(_codes, _ids, _starts, _i64, _i64, _ids))
def link_equal(codes: Any, ids: Any, starts: Any, first: int, last: int, parent: Any) -> None:
    """Point every code of the buckets ``first`` to ``last`` at the first one of its bucket that equals it."""
    for bucket in range(first, last):
        low, high = starts[bucket], starts[bucket + 1]
        bits = 4
        while (1 << bits) < 2 * (high - low):
            bits += 1
        slots = np.full(1 << bits, -1, np.int32)
        for place in range(low, high):
            slot = np.int64((codes[place] * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits))
            while slots[slot] >= 0 and codes[low + slots[slot]] != codes[place]:
                slot = (slot + 1) & ((1 << bits) - 1)
            if slots[slot] < 0:
                slots[slot] = place - low
            else:
                parent[ids[place]] = ids[low + slots[slot]]


@compiled(_i64(_codes, _i64))
def count_near(codes: Any, radius: int) -> int:
    """How many ordered pairs of different items lie within the radius, by trying all."""
    near = -codes.shape[0]
    for i in range(codes.shape[0]):
        for j in range(codes.shape[0]):
            near += np.int64(popcount(codes[i] ^ codes[j])) <= radius
    return near
