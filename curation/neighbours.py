"""All pairs of 64-bit codes within a Hamming radius, exactly: multi-index hashing with cache-sized buckets.

Codes are cut into ``b`` bands; two codes within radius ``r`` agree in at least ``b - r`` of them, so they meet in some
table keyed by ``m = b - r`` bands (Norouzi, Punjani and Fleet, "Fast exact search in Hamming space with multi-index
hashing", TPAMI 2014, with combinations of bands as in Gog and Venturini, SIGIR 2016). No pair is dismissed falsely.

What is ours: the first bands of a table partition the codes once for all tables that begin with them, into buckets of
a few thousand codes; everything after that happens inside the processor's cache, by counting sort. A pair is
taken only in the first table in which it agrees, so that nothing is listed twice. Where only groups are wanted, a
bucket is explored breadth first: a code that has been reached leaves the bucket, so that thousands of codes around one
centre cost their number, not its square; and at most one edge per code leaves a bucket.

Every function takes ``threads``; the answer does not depend on it.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from curation import neighbour_kernels

Codes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Edges = tuple[Ids, Ids]
Visit = Callable[[Ids, Ids], Flags]

kernels: Any = neighbour_kernels
MAX_RADIUS = 10
_LEVEL_BITS = 12
"""Most bits of a partition: more open streams than that thrash the processor's address cache."""
_FEW = 16
"""A set that is smaller by this factor is kept in the cache, and the other streamed past it."""
_KEY_BITS = 16
_EDGES = 1 << 16
"""Edges that a thread collects before it hands them over."""


@dataclass(frozen=True)
class Table:
    """One combination of bands: which codes meet. ``bands`` has the first band in the highest bit."""

    bands: int
    segments: tuple[tuple[int, int], ...]
    """(shift, bits) of the key's parts inside a bucket."""


@dataclass(frozen=True)
class Scheme:
    """Tables that together find every pair within ``radius``, grouped by what partitions the codes first."""

    radius: int
    masks: npt.NDArray[np.uint64]
    chosen: int
    """Bands per table."""
    groups: tuple[tuple[tuple[tuple[int, int], ...], tuple[Table, ...]], ...]


def pairs_within(codes: Codes, radius: int, threads: int | None = None) -> Pairs:
    """All pairs of codes within ``radius`` bits of each other.

    Args:
        codes: (N,) uint64.
        radius: 0 to 10.
        threads: all cores when null.

    Returns:
        (M, 2) int64, ``i < j``, sorted. On codes that crowd around a few centres M grows with the square of the crowd;
        :func:`groups_within` does not.
    """
    codes = _checked(codes)
    scheme = make_scheme(len(codes), radius)
    return _sorted_pairs(cross_edges(codes, codes, scheme, _threads(threads), visit=np.less))


def pairs_between(a: Codes, b: Codes, radius: int, threads: int | None = None) -> Pairs:
    """All pairs (i, j) with ``a[i]`` within ``radius`` bits of ``b[j]``: (M, 2) int64, sorted."""
    a, b = _checked(a), _checked(b)
    if _FEW * min(len(a), len(b)) > max(len(a), len(b)):
        return _sorted_pairs(cross_edges(a, b, make_scheme(max(len(a), len(b)), radius), _threads(threads)))
    if len(a) >= len(b):
        return _sorted_pairs(_look_up(a, b, radius, _threads(threads)))
    return _sorted_pairs((i, j) for j, i in _look_up(b, a, radius, _threads(threads)))


def pairs_in_orientations(
    orientations: Codes, radius: int, agree: Callable[..., Flags], threads: int | None = None
) -> Pairs:
    """Pairs (i, j), i as it is within ``radius`` bits of j in an orientation, that are confirmed by ``agree``.

    Candidates are shown to ``agree`` as they are found and are never listed, so that memory does not grow with them.

    Args:
        orientations: (N, K) uint64, as in :func:`groups_in_orientations`.
        radius: 0 to 10.
        agree: called in several threads with arrays i and j and the number of j's orientation; says which pairs hold.
        threads: all cores when null.

    Returns:
        (M, 2) int64, sorted; a pair can occur in both orders, and more than once.
    """
    upright = _checked(orientations[:, 0])
    scheme = make_scheme(len(upright), radius)
    found: list[Edges] = []
    for turn in range(orientations.shape[1]):
        turned = np.ascontiguousarray(orientations[:, turn])
        found += cross_edges(upright, turned, scheme, _threads(threads), visit=partial(agree, turn=turn))
    return _sorted_pairs(found)


def groups_within(codes: Codes, radius: int, threads: int | None = None) -> Pairs:
    """Connected components of "within ``radius`` bits".

    Args:
        codes: (N,) uint64.
        radius: 0 to 10.
        threads: all cores when null.

    Returns:
        (N,) int64: for every code the lowest index in its component.
    """
    codes = _checked(codes)
    parent = np.arange(len(codes), dtype=np.int32)
    _join_equal(codes, parent, _threads(threads))
    _join_within(codes, parent, radius, _threads(threads))
    return np.asarray(kernels.roots(parent), np.int64)


def groups_in_orientations(orientations: Codes, radius: int, threads: int | None = None) -> Pairs:
    """Connected components of "one, as it is, within ``radius`` bits of the other in one of its orientations".

    Args:
        orientations: (N, K) uint64, the codes of every item in K orientations, the first being the item as it is.
        radius: 0 to 10.
        threads: all cores when null.

    Returns:
        (N,) int64: for every item the lowest index in its component.
    """
    upright = _checked(orientations[:, 0])
    workers = _threads(threads)
    parent = np.arange(len(upright), dtype=np.int32)
    _join_equal(upright, parent, workers)
    (first,) = np.nonzero(parent == np.arange(len(parent)))
    _join_within(upright, parent, radius, workers)
    scheme = make_scheme(len(upright), radius)
    for turn in range(1, orientations.shape[1]):
        labels = kernels.roots(parent)
        turned = np.ascontiguousarray(orientations[:, turn])
        for i, j in cross_edges(upright[first], turned, scheme, workers, (labels[first], labels)):
            kernels.unite(parent, first[i].astype(np.int32), j)
    return np.asarray(kernels.roots(parent), np.int64)


def merge_groups(label: Pairs, members: Pairs, joined: Pairs) -> Pairs:
    """Components after ``members[k]`` and ``joined[k]`` are joined for every k.

    Args:
        label: (N,) lowest member of each item's component.
        members: (M,) items.
        joined: (M,) items.

    Returns:
        (N,) int64: lowest member of each item's component.
    """
    parent = label.astype(np.int32)
    kernels.unite(parent, members.astype(np.int32), joined.astype(np.int32))
    return np.asarray(kernels.roots(parent), np.int64)


# ------------------------------------------------------------------------------------------------ schemes


def make_scheme(count: int, radius: int) -> Scheme:
    """The cheapest tables for ``count`` codes.

    Raises:
        ValueError: ``radius`` is not between 0 and 10.
    """
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(f"radius {radius}: between 0 and {MAX_RADIUS}")
    return min((_scheme(count, radius, chosen) for chosen in (1, 2, 3, 4)), key=lambda scheme: _cost(scheme, count))


def _cost(scheme: Scheme, count: int) -> float:
    """Rough nanoseconds: sorting every code in every table, comparing it with those that it meets."""
    tables = sum(len(tables) for _, tables in scheme.groups)
    bits = 64 * scheme.chosen / len(scheme.masks)
    return count * (tables * (10.0 + 0.35 * count / 2.0 ** (bits + 1)) + 25.0 * len(scheme.groups))


def _scheme(count: int, radius: int, chosen: int) -> Scheme:
    bands = radius + chosen
    edges = [64 * band // bands for band in range(bands + 1)]
    spans = [(low, high - low) for low, high in itertools.pairwise(edges)]
    masks = np.array([((1 << bits) - 1) << shift for shift, bits in spans], np.uint64)
    first_bits = min(_LEVEL_BITS, max(0, count.bit_length() - 11))
    groups: dict[tuple[int, ...], list[Table]] = {}
    for combination in itertools.combinations(range(bands), chosen):
        head = combination[: max(1, chosen - 1)]
        _, rest = _take([spans[band] for band in head], first_bits)
        tail = [spans[band] for band in combination[len(head) :]]
        inner, _ = _take([*tail, *rest], _LEVEL_BITS)
        flags = sum(1 << (31 - band) for band in combination)
        groups.setdefault(head, []).append(Table(flags, tuple(inner)))
    keyed = [(tuple(_take([spans[band] for band in head], first_bits)[0]), tuple(t)) for head, t in groups.items()]
    return Scheme(radius, masks, chosen, tuple(keyed))


def _take(spans: list[tuple[int, int]], bits: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Split (shift, bits) spans into the first ``bits`` bits and what is left."""
    taken, left = [], []
    for shift, size in spans:
        now = min(size, bits)
        bits -= now
        if now:
            taken.append((shift, now))
        if size > now:
            left.append((shift + now, size - now))
    return taken, left


# ------------------------------------------------------------------------------------------------ joins


def _join_equal(codes: Codes, parent: Ids, threads: int) -> None:
    """Point every code at the first that equals it."""
    bits = min(_LEVEL_BITS, max(0, len(codes).bit_length() - 11))
    with ThreadPoolExecutor(threads) as pool:
        side = _partition(codes, np.arange(len(codes), dtype=np.int32), ((0, bits),) if bits else (), pool, threads)
        edges = np.linspace(0, len(side[2]) - 1, 8 * threads + 1).astype(np.int64)
        list(pool.map(lambda pair: kernels.link_equal(*side, *pair, parent), itertools.pairwise(edges)))


def _join_within(codes: Codes, parent: Ids, radius: int, threads: int) -> None:
    """Unite all codes within the radius; equal ones are united already, and only the first of them is compared."""
    if radius == 0:
        return
    (first,) = np.nonzero(parent == np.arange(len(parent), dtype=np.int32))
    scheme = make_scheme(len(first), radius)
    for i, j in self_edges(codes[first], first.astype(np.int32), scheme, threads):
        kernels.unite(parent, i, j)


def self_edges(codes: Codes, ids: Ids, scheme: Scheme, threads: int) -> Iterator[Edges]:
    """Pairs of one set that join all that is to be joined: at most one per code and table."""
    with ThreadPoolExecutor(threads) as pool:
        for key, tables in scheme.groups:
            side = _partition(codes, ids, key, pool, threads)
            work = partial(kernels.within, *side, *_pack(tables), scheme.masks, scheme.chosen, scheme.radius)
            yield from _over_buckets(work, side[2], pool, threads)


def cross_edges(
    a: Codes,
    b: Codes,
    scheme: Scheme,
    threads: int,
    labels: Edges | None = None,
    visit: Visit | None = None,
) -> Iterator[Edges]:
    """Pairs between two sets; with labels, none of equal label, and no second one of a code with the same label."""
    ids_a, ids_b = np.arange(len(a), dtype=np.int32), np.arange(len(b), dtype=np.int32)
    label_a, label_b = (np.zeros(0, np.int32), np.zeros(0, np.int32)) if labels is None else labels
    with ThreadPoolExecutor(threads) as pool:
        for key, tables in scheme.groups:
            side_a = _partition(a, ids_a, key, pool, threads)
            side_b = _partition(b, ids_b, key, pool, threads)
            rules = (*_pack(tables), scheme.masks, scheme.chosen, scheme.radius)
            work = partial(kernels.between, *side_a, *side_b, label_a, label_b, *rules)
            yield from _over_buckets(work, side_a[2] + side_b[2], pool, threads, visit)


def _look_up(many: Codes, few: Codes, radius: int, threads: int) -> Iterator[Edges]:
    """Pairs between two sets of very different size: a table of the few, every code of the many looked up in it."""
    bands = [radius + chosen for chosen in (1, 2, 3)]
    spans = {count: [64 * band // count for band in range(count + 1)] for count in bands}

    def cost(count: int) -> float:
        chosen = count - radius
        return math.comb(count, chosen) * (4.0 + 0.4 * len(few) / 2 ** min(64 * chosen / count, _KEY_BITS))

    count = min(bands, key=cost)
    masks = np.array([((1 << (high - low)) - 1) << low for low, high in itertools.pairwise(spans[count])], np.uint64)
    cuts = list(itertools.pairwise(np.linspace(0, len(many), 16 * threads + 1).astype(np.int64).tolist()))
    with ThreadPoolExecutor(threads) as pool:
        for combination in itertools.combinations(range(count), count - radius):
            own = [(spans[count][band], spans[count][band + 1] - spans[count][band]) for band in combination]
            key, _ = _take(own, _KEY_BITS)
            ids = np.arange(len(few), dtype=np.int32)
            codes, ids, starts = _partition(few, ids, tuple(key), pool, 1)
            padded = np.concatenate([codes, np.zeros(neighbour_kernels.BLOCK, np.uint64)])
            flags = sum(1 << (31 - band) for band in combination)
            table = (padded, ids, starts.astype(np.int32), _segments(tuple(key)), flags, masks, count - radius, radius)

            def work(low: int, high: int, table: tuple[Any, ...] = table) -> list[Edges]:
                def step(place: Pairs, last: int, i: Ids, j: Ids) -> int:
                    return int(kernels.look_up(many, low, last, *table, place, i, j))

                return _drain(step, low, high, None)

            for found in pool.map(lambda span: work(*span), cuts):
                yield from found


def _partition(
    codes: Codes, ids: Ids, key: tuple[tuple[int, int], ...], pool: ThreadPoolExecutor, threads: int
) -> tuple[Codes, Ids, npt.NDArray[np.int64]]:
    """Codes and ids ordered by ``key``, and where each key's codes start."""
    segments = _segments(key)
    buckets = 1 << sum(bits for _, bits in key)
    edges = np.linspace(0, len(codes), threads + 1).astype(np.int64)
    chunks = list(itertools.pairwise(edges))
    counts = np.zeros((threads, buckets), np.int64)
    list(pool.map(lambda t: kernels.count(codes, *chunks[t], segments, counts[t]), range(threads)))
    totals = counts.sum(axis=0)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(totals)])
    cursors = starts[:-1] + np.cumsum(counts, axis=0) - counts
    out_codes, out_ids = np.empty_like(codes), np.empty_like(ids)
    list(
        pool.map(
            lambda t: kernels.scatter(codes, ids, *chunks[t], segments, cursors[t], out_codes, out_ids), range(threads)
        )
    )
    return out_codes, out_ids, starts


def _over_buckets(
    work: Callable[..., int],
    starts: npt.NDArray[np.int64],
    pool: ThreadPoolExecutor,
    threads: int,
    visit: Visit | None = None,
) -> Iterator[Edges]:
    """Run ``work`` over ranges of buckets of about equal size, and collect what it finds."""
    tasks = 1 if threads == 1 else 16 * threads
    cuts = np.searchsorted(starts, np.linspace(0, starts[-1], tasks + 1)[1:-1])
    edges = np.unique(np.concatenate([[0], cuts, [len(starts) - 1]]))
    ranges = itertools.pairwise(int(edge) for edge in edges)
    for found in pool.map(lambda span: _drain(work, span[0], span[1], visit), ranges):
        yield from found


def _drain(work: Callable[..., int], low: int, high: int, visit: Visit | None) -> list[Edges]:
    """Call ``work`` until its buckets are done; it stops where the room for edges ends, and goes on from there."""
    found: list[Edges] = []
    room = _EDGES
    place = np.array([low, 0, 0], np.int64)
    while place[0] < high:
        i, j = np.empty(room, np.int32), np.empty(room, np.int32)
        used = work(place, high, i, j)
        if not used and place[0] < high:
            room *= 4
        i, j = i[:used], j[:used]
        chosen = slice(None) if visit is None else visit(i, j)
        if used:
            found.append((i[chosen].copy(), j[chosen].copy()))
    return found


def _pack(tables: tuple[Table, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Tables as arrays for the kernels: band flags (T,), key segments (T, S, 2)."""
    flags = np.array([table.bands for table in tables], np.int64)
    longest = max(1, *(len(table.segments) for table in tables))
    segments = np.zeros((len(tables), longest, 2), np.int64)
    for number, table in enumerate(tables):
        for place, segment in enumerate(table.segments):
            segments[number, place] = segment
    return flags, segments


def _segments(key: tuple[tuple[int, int], ...]) -> npt.NDArray[np.int64]:
    return np.array(key, np.int64).reshape(-1, 2)


def _sorted_pairs(edges: Iterable[Edges]) -> Pairs:
    found = list(edges)
    if not found:
        return np.zeros((0, 2), np.int64)
    i, j = (np.concatenate([edge[side] for edge in found]).astype(np.int64) for side in (0, 1))
    order = np.lexsort((j, i))
    return np.stack([i[order], j[order]], axis=1)


def _checked(codes: Codes) -> Codes:
    if len(codes) >= 2**31:
        raise ValueError(f"{len(codes):,} codes: at most 2**31 - 1 at a time")
    return np.ascontiguousarray(codes, dtype=np.uint64)


def _threads(threads: int | None) -> int:
    return max(1, threads or len(os.sched_getaffinity(0)))
