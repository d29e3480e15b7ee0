"""All pairs of 64-bit codes within a Hamming radius, exactly: multi-index hashing with cache-sized buckets.

Two codes that are near agree in some bands of their bits, so they meet in a table keyed by these bands
(:mod:`curation.select.neighbour_tables`). No pair is dismissed falsely.

What is ours: the first bands of a table partition the codes once for all tables that begin with them, into buckets of
a few thousand codes; everything after that happens inside the processor's cache, by counting sort. A pair is
taken only in the first table in which it agrees, so that nothing is listed twice. Where only groups are wanted, a
bucket is explored breadth first: a code that has been reached leaves the bucket, so that thousands of codes around one
centre cost their number, not its square; and at most one edge per code leaves a bucket.

Every function takes ``threads``; the answer does not depend on it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.base.arrays import Flags
from curation.select import neighbour_kernels
from curation.select.neighbour_kernels import BLOCK, Bucket, Buckets, Edges, Items, Labels, Tables
from curation.select.neighbour_tables import Group, Key, as_key, cheapest_groups, first_bits, look_up_tables

Codes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]
Visit = Callable[[Ids, Ids], Flags]

kernels: Any = neighbour_kernels
_FEW = 16
"""A set that is smaller by this factor is kept in the cache, and the other streamed past it."""
_EDGES = 1 << 16
"""Edges that a thread collects before it hands them over."""


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
    groups = cheapest_groups(len(codes), radius)
    return _sorted_pairs(_edges_between(codes, codes, groups, _threads(threads), visit=np.less))


def pairs_between(a: Codes, b: Codes, radius: int, threads: int | None = None) -> Pairs:
    """All pairs (i, j) with ``a[i]`` within ``radius`` bits of ``b[j]``: (M, 2) int64, sorted."""
    a, b = _checked(a), _checked(b)
    if _FEW * min(len(a), len(b)) > max(len(a), len(b)):
        groups = cheapest_groups(max(len(a), len(b)), radius)
        return _sorted_pairs(_edges_between(a, b, groups, _threads(threads)))
    if len(a) >= len(b):
        return _sorted_pairs(_look_up(a, b, radius, _threads(threads)))
    return _sorted_pairs(Edges(i, j) for j, i in _look_up(b, a, radius, _threads(threads)))


def pairs_in_views(views: Codes, radius: int, agree: Callable[..., Flags], threads: int | None = None) -> Pairs:
    """Pairs (i, j), i as it is within ``radius`` bits of j in a view, that are confirmed by ``agree``.

    Candidates are shown to ``agree`` as they are found and are never listed, so that memory does not grow with them.

    Args:
        views: (N, V) uint64, as in :func:`groups_in_views`.
        radius: 0 to 10.
        agree: called in several threads with arrays i and j and the column of j's view; says which pairs hold.
        threads: all cores when null.

    Returns:
        (M, 2) int64, sorted; a pair can occur in both orders, and more than once.
    """
    upright = _checked(views[:, 0])
    groups = cheapest_groups(len(upright), radius)
    found: list[Edges] = []
    for column in range(views.shape[1]):
        codes = np.ascontiguousarray(views[:, column])
        found += _edges_between(upright, codes, groups, _threads(threads), visit=partial(agree, column=column))
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


def groups_in_views(views: Codes, radius: int, threads: int | None = None) -> Pairs:
    """Connected components of "one, as it is, within ``radius`` bits of the other in one of its views".

    Args:
        views: (N, V) uint64, the codes of every item in V views, the first being the item as it is.
        radius: 0 to 10.
        threads: all cores when null.

    Returns:
        (N,) int64: for every item the lowest index in its component.
    """
    upright = _checked(views[:, 0])
    workers = _threads(threads)
    parent = np.arange(len(upright), dtype=np.int32)
    _join_equal(upright, parent, workers)
    (first,) = np.nonzero(parent == np.arange(len(parent)))
    _join_within(upright, parent, radius, workers)
    groups = cheapest_groups(len(upright), radius)
    for column in range(1, views.shape[1]):
        label = kernels.roots(parent)
        codes = np.ascontiguousarray(views[:, column])
        for i, j in _edges_between(upright[first], codes, groups, workers, Labels(label[first], label)):
            kernels.unite(parent, Edges(first[i].astype(np.int32), j))
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
    kernels.unite(parent, Edges(members.astype(np.int32), joined.astype(np.int32)))
    return np.asarray(kernels.roots(parent), np.int64)


def _join_equal(codes: Codes, parent: Ids, threads: int) -> None:
    """Point every code at the first that equals it."""
    bits = first_bits(len(codes))
    with ThreadPoolExecutor(threads) as pool:
        key = as_key([(0, bits)] if bits else [])
        buckets = _partition(codes, np.arange(len(codes), dtype=np.int32), key, pool, threads)
        cuts = np.linspace(0, len(buckets.starts) - 1, 8 * threads + 1).astype(np.int64)
        list(pool.map(lambda pair: kernels.link_equal(buckets, *pair, parent), itertools.pairwise(cuts)))


def _join_within(codes: Codes, parent: Ids, radius: int, threads: int) -> None:
    """Unite all codes within the radius; equal ones are united already, and only the first of them is compared."""
    if radius == 0:
        return
    (first,) = np.nonzero(parent == np.arange(len(parent), dtype=np.int32))
    groups = cheapest_groups(len(first), radius)
    for edges in _edges_within(codes[first], first.astype(np.int32), groups, threads):
        kernels.unite(parent, edges)


def _edges_within(codes: Codes, ids: Ids, groups: list[Group], threads: int) -> Iterator[Edges]:
    """Pairs of one set that join all that is to be joined: at most one per code and table."""
    with ThreadPoolExecutor(threads) as pool:
        for group in groups:
            buckets = _partition(codes, ids, group.key, pool, threads)
            work = partial(kernels.within, buckets, group.tables)
            yield from _over_buckets(work, buckets.starts, pool, threads)


def _edges_between(
    a: Codes,
    b: Codes,
    groups: list[Group],
    threads: int,
    labels: Labels | None = None,
    visit: Visit | None = None,
) -> Iterator[Edges]:
    """Pairs between two sets; with labels, none of equal label, and no second one of a code with the same label."""
    ids_a, ids_b = np.arange(len(a), dtype=np.int32), np.arange(len(b), dtype=np.int32)
    given = Labels(np.zeros(0, np.int32), np.zeros(0, np.int32)) if labels is None else labels
    with ThreadPoolExecutor(threads) as pool:
        for group in groups:
            of_a = _partition(a, ids_a, group.key, pool, threads)
            of_b = _partition(b, ids_b, group.key, pool, threads)
            work = partial(kernels.between, of_a, of_b, given, group.tables)
            yield from _over_buckets(work, of_a.starts + of_b.starts, pool, threads, visit)


def _look_up(many: Codes, few: Codes, radius: int, threads: int) -> Iterator[Edges]:
    """Pairs between two sets of very different size: a table of the few, every code of the many looked up in it."""
    cuts = np.linspace(0, len(many), 16 * threads + 1).astype(np.int64).tolist()
    with ThreadPoolExecutor(threads) as pool:
        for tables in look_up_tables(len(few), radius):
            work = partial(kernels.look_up, many, _sorted_bucket(few, tables, pool), tables)
            yield from _over_ranges(work, cuts, pool)


def _sorted_bucket(codes: Codes, tables: Tables, pool: ThreadPoolExecutor) -> Bucket:
    """All codes as one bucket, ordered by the key of the only table."""
    items, starts = _partition(codes, np.arange(len(codes), dtype=np.int32), tables.segments[0], pool, 1)
    padded = np.concatenate([items.codes, np.zeros(BLOCK, np.uint64)])
    return Bucket(Items(padded, items.ids), starts.astype(np.int32))


def _partition(codes: Codes, ids: Ids, key: Key, pool: ThreadPoolExecutor, threads: int) -> Buckets:
    """Codes and ids ordered by ``key``, and where each key's codes start."""
    chunks = list(itertools.pairwise(np.linspace(0, len(codes), threads + 1).astype(np.int64)))
    counts = np.zeros((threads, 1 << int(key[:, 1].sum())), np.int64)
    list(pool.map(lambda t: kernels.count(codes, *chunks[t], key, counts[t]), range(threads)))
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts.sum(axis=0))])
    cursors = starts[:-1] + np.cumsum(counts, axis=0) - counts
    items, out = Items(codes, ids), Items(np.empty_like(codes), np.empty_like(ids))
    list(pool.map(lambda t: kernels.scatter(items, *chunks[t], key, cursors[t], out), range(threads)))
    return Buckets(out, starts)


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
    yield from _over_ranges(work, np.unique([0, *cuts, len(starts) - 1]).tolist(), pool, visit)


def _over_ranges(
    work: Callable[..., int], cuts: list[int], pool: ThreadPoolExecutor, visit: Visit | None = None
) -> Iterator[Edges]:
    """Run ``work`` over the ranges between the cuts, and collect what it finds."""
    for found in pool.map(lambda span: _drain(work, span[0], span[1], visit), itertools.pairwise(cuts)):
        yield from found


def _drain(work: Callable[..., int], low: int, high: int, visit: Visit | None) -> list[Edges]:
    """Call ``work`` until its buckets are done; it stops where the room for edges ends, and goes on from there."""
    found: list[Edges] = []
    room = _EDGES
    place = np.array([low, 0, 0], np.int64)
    while place[0] < high:
        edges = Edges(np.empty(room, np.int32), np.empty(room, np.int32))
        used = work(place, high, edges)
        if not used and place[0] < high:
            room *= 4
        i, j = (ids[:used] for ids in edges)
        chosen = slice(None) if visit is None else visit(i, j)
        if used:
            found.append(Edges(i[chosen].copy(), j[chosen].copy()))
    return found


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
