# mypy: disable-error-code="untyped-decorator,no-untyped-call,assignment,call-arg,operator"
"""Compiled inner loops of :mod:`curation.select.neighbours`; they release the interpreter lock.

Signatures are explicit, so that compilation happens once, on import, and is kept in numba's cache. ``segments`` are
rows of (shift, bits): the parts of a code that make up a key, the first in its lowest bits. ``bands`` name a table's
bands, the first band in bit 31, so that an earlier table has the larger number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

from curation.base.compiled import compiled, named

BLOCK = 8
"""Codes that are compared at a time; arrays that are searched have room for as many beyond their end."""


class Items(NamedTuple):
    """Codes, and side by side the numbers of the items that have them."""

    codes: npt.NDArray[np.uint64]
    ids: npt.NDArray[np.int32]


class Buckets(NamedTuple):
    """Items ordered by a key; those of bucket ``key`` are ``starts[key]`` to ``starts[key + 1]``."""

    items: Items
    starts: npt.NDArray[np.int64]


class Bucket(NamedTuple):
    """The items of one bucket, ordered by a table's key: those of a key are ``edges[key]`` to ``edges[key + 1]``."""

    items: Items
    """With room for a block of codes beyond the end."""
    edges: npt.NDArray[np.int32]


class Tables(NamedTuple):
    """T tables that share a partition: which codes meet in them, and how near is near."""

    bands: npt.NDArray[np.int64]
    """(T,) the bands of every table."""
    segments: npt.NDArray[np.int64]
    """(T, S, 2) key of every table inside a bucket."""
    masks: npt.NDArray[np.uint64]
    """(B,) the bits of every band."""
    chosen: int
    """Bands per table."""
    radius: int


class Edges(NamedTuple):
    """Pairs of items, side by side; what a kernel writes to is its room for pairs."""

    i: npt.NDArray[np.int32]
    j: npt.NDArray[np.int32]


class Labels(NamedTuple):
    """Labels of the items of two sets; empty where there are none."""

    a: npt.NDArray[np.int32]
    b: npt.NDArray[np.int32]


_u64, _i64, _i32 = types.uint64, types.int64, types.int32
_codes, _ids, _starts = types.Array(_u64, 1, "C"), types.Array(_i32, 1, "C"), types.Array(_i64, 1, "C")
_keys, _segments = types.Array(types.uint16, 1, "C"), types.Array(_i64, 2, "C")
_items = named(Items, _codes, _ids)
_buckets, _bucket = named(Buckets, _items, _starts), named(Bucket, _items, _ids)
_tables = named(Tables, _starts, types.Array(_i64, 3, "C"), _codes, _i64, _i64)
_edges, _labels = named(Edges, _ids, _ids), named(Labels, _ids, _ids)


@intrinsic
def popcount(typingctx: Any, value: Any) -> Any:
    """Number of set bits of a uint64: the processor's own instruction."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        """One instruction of the processor."""
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


@compiled(_i64(_u64, _segments), inline="always")
def _key(code: int, segments: Any) -> int:
    key, place = 0, 0
    for part in range(segments.shape[0]):
        bits = segments[part, 1]
        key |= np.int64((code >> np.uint64(segments[part, 0])) & np.uint64((1 << bits) - 1)) << place
        place += bits
    return key


@compiled(types.void(_codes, _i64, _i64, _segments, _starts))
def count(codes: Any, low: int, high: int, segments: Any, counts: Any) -> None:
    """Add to ``counts`` how many codes have each key."""
    for i in range(low, high):
        counts[_key(codes[i], segments)] += 1


@compiled(types.void(_items, _i64, _i64, _segments, _starts, _items))
def scatter(items: Items, low: int, high: int, segments: Any, cursors: Any, out: Items) -> None:
    """Move items to where ``cursors`` says their key goes, and advance it."""
    codes, ids = items
    out_codes, out_ids = out
    for i in range(low, high):
        key = _key(codes[i], segments)
        place = cursors[key]
        cursors[key] = place + 1
        out_codes[place] = codes[i]
        out_ids[place] = ids[i]


@compiled(_i64(_u64, _codes, _i64))
def _first_table(difference: int, masks: Any, chosen: int) -> int:
    """Bands of the first table that surely holds a pair: the first ``chosen`` in which it agrees."""
    own, left = 0, chosen
    for band in range(masks.shape[0]):
        if difference & masks[band] == 0:
            own |= 1 << (31 - band)
            left -= 1
            if left == 0:
                break
    return own


@compiled(_bucket(_buckets, _i64, _i64))
def _room(buckets: Buckets, first: int, last: int) -> Bucket:
    """Room for any one of the buckets ``first`` to ``last``."""
    longest = 0
    for bucket in range(first, last):
        longest = max(longest, buckets.starts[bucket + 1] - buckets.starts[bucket])
    return Bucket(
        Items(np.empty(longest + BLOCK, np.uint64), np.empty(longest, np.int32)), np.empty((1 << 12) + 2, np.int32)
    )


@compiled(_i64(_items, _segments, _keys, _bucket))
def _sort_bucket(items: Items, segments: Any, keys: Any, out: Bucket) -> int:
    """Counting sort of one bucket, with ``keys`` as scratch. Returns the number of keys."""
    codes, ids = items
    (out_codes, out_ids), edges = out
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


@compiled(_i64(_bucket, _i64, _i64, _tables, _edges, _i64))
def _explore(bucket: Bucket, key: int, bands: int, tables: Tables, out: Edges, used: int) -> int:
    """Breadth first over the codes of one key, which it reorders. Returns the edges in use.

    Before ``reached`` lie codes that have been reached, after it those that have not: what the code at ``pivot``
    reaches is swapped to the front, and is never a target again. A pair that an earlier table holds is joined there.
    """
    (codes, ids), edges = bucket
    out_i, out_j = out
    masks, chosen, radius = tables.masks, tables.chosen, tables.radius
    low, high = np.int64(edges[key]), np.int64(edges[key + 1])
    reached = low
    for pivot in range(low, high):
        if reached <= pivot:
            reached = pivot + 1
        code = codes[pivot]
        j = next_near(code, codes, reached, high, radius)
        while j < high:
            if _first_table(code ^ codes[j], masks, chosen) <= bands:
                out_i[used], out_j[used] = ids[pivot], ids[j]
                used += 1
            codes[j], codes[reached] = codes[reached], codes[j]
            ids[j], ids[reached] = ids[reached], ids[j]
            reached += 1
            j = next_near(code, codes, j + 1, high, radius)
    return used


@compiled(_i64(_buckets, _tables, _starts, _i64, _edges))
def within(buckets: Buckets, tables: Tables, at: Any, last: int, out: Edges) -> int:
    """Pairs that join what is near in the buckets from ``at[0]`` to ``last``. Returns the pairs written.

    Where room for pairs ends, ``at`` (bucket, table) is where to go on.
    """
    (codes, ids), starts = buckets
    own = _room(buckets, at[0], last)
    keys, used = np.empty(own.items.ids.shape[0], np.uint16), 0
    while at[0] < last:
        low, high = starts[at[0]], starts[at[0] + 1]
        while high - low > 1 and at[1] < tables.bands.shape[0]:
            if used + high - low > out.i.shape[0]:
                return used
            table = at[1]
            count = _sort_bucket(Items(codes[low:high], ids[low:high]), tables.segments[table], keys, own)
            for key in range(count):
                if own.edges[key + 1] - own.edges[key] > 1:
                    used = _explore(own, key, tables.bands[table], tables, out, used)
            at[1] += 1
        at[0] += 1
        at[1] = 0
    return used


@compiled(_i64(_buckets, _buckets, _labels, _tables, _starts, _i64, _edges))
def between(a: Buckets, b: Buckets, labels: Labels, tables: Tables, at: Any, last: int, out: Edges) -> int:
    """Pairs between the buckets from ``at[0]`` to ``last`` of two sets. Returns the pairs written.

    With labels pairs of equal label are skipped, and so are codes of a label that has just been met. Where room for
    pairs ends, ``at`` (bucket, table, code of the second set within the bucket) is where to go on.
    """
    codes_a, ids_a = a.items
    codes_b, ids_b = b.items
    label_a, label_b = labels
    out_i, out_j = out
    own = _room(a, at[0], last)
    (own_codes, own_ids), edges = own
    masks, chosen, radius = tables.masks, tables.chosen, tables.radius
    keys = np.empty(own_ids.shape[0], np.uint16)
    room, labelled, used = out_i.shape[0], label_a.shape[0] > 0, 0
    while at[0] < last:
        low, high = a.starts[at[0]], a.starts[at[0] + 1]
        first, end_b = b.starts[at[0]], b.starts[at[0] + 1]
        while high > low and end_b > first and at[1] < tables.bands.shape[0]:
            bands, segments = tables.bands[at[1]], tables.segments[at[1]]
            _sort_bucket(Items(codes_a[low:high], ids_a[low:high]), segments, keys, own)
            for j in range(first + at[2], end_b):
                code, item, before = codes_b[j], ids_b[j], used
                key = _key(code, segments)
                met = label_b[item] if labelled else -1
                skip, end = met, np.int64(edges[key + 1])
                i = next_near(code, own_codes, np.int64(edges[key]), end, radius)
                while i < end:
                    label = label_a[own_ids[i]] if labelled else -2
                    if label not in (met, skip) and _first_table(code ^ own_codes[i], masks, chosen) == bands:
                        if used == room:
                            at[2] = j - first
                            return before
                        out_i[used], out_j[used] = own_ids[i], item
                        used += 1
                        skip = label if labelled else skip
                    i = next_near(code, own_codes, i + 1, end, radius)
            at[1] += 1
            at[2] = 0
        at[0] += 1
        at[1] = 0
    return used


@compiled(_i64(_codes, _bucket, _tables, _starts, _i64, _edges))
def look_up(codes: Any, few: Bucket, tables: Tables, at: Any, last: int, out: Edges) -> int:
    """Pairs of ``codes[at[0]:last]`` with the few, sorted by the key of the only table. Returns the pairs written.

    Where room for pairs ends, ``at`` (code) is where to go on.
    """
    (few_codes, few_ids), edges = few
    out_i, out_j = out
    bands, segments = tables.bands[0], tables.segments[0]
    masks, chosen, radius = tables.masks, tables.chosen, tables.radius
    room, used = out_i.shape[0], 0
    for item in range(at[0], last):
        code, before = codes[item], used
        key = _key(code, segments)
        end = np.int64(edges[key + 1])
        place = next_near(code, few_codes, np.int64(edges[key]), end, radius)
        while place < end:
            if _first_table(code ^ few_codes[place], masks, chosen) == bands:
                if used == room:
                    at[0] = item
                    return before
                out_i[used], out_j[used] = item, few_ids[place]
                used += 1
            place = next_near(code, few_codes, place + 1, end, radius)
    at[0] = last
    return used


@compiled(_i32(_ids, _i32))
def _root(parent: Any, item: int) -> int:
    """Root of an item, halving the path on the way."""
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


@compiled(types.void(_ids, _edges))
def unite(parent: Any, edges: Edges) -> None:
    """Unite the sets of the two items of every edge; the lowest item is always the root."""
    for k in range(edges.i.shape[0]):
        i, j = _root(parent, edges.i[k]), _root(parent, edges.j[k])
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


@compiled(types.void(_buckets, _i64, _i64, _ids))
def link_equal(buckets: Buckets, first: int, last: int, parent: Any) -> None:
    """Point every code of the buckets ``first`` to ``last`` at the first one of its bucket that equals it."""
    (codes, ids), starts = buckets
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
