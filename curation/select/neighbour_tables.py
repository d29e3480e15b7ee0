"""Which tables find every pair of 64-bit codes within a Hamming radius, and which of them cost the least.

Codes are cut into ``b`` bands; two codes within radius ``r`` agree in at least ``b - r`` of them, so they meet in some
table keyed by ``m = b - r`` bands (Norouzi, Punjani and Fleet, "Fast exact search in Hamming space with multi-index
hashing", TPAMI 2014, with combinations of bands as in Gog and Venturini, SIGIR 2016).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curation.select.neighbour_kernels import Tables

Key = npt.NDArray[np.int64]
"""(S, 2) rows of (shift, bits): the parts of a code that make up a key, the first in its lowest bits."""
Span = tuple[int, int]
"""(shift, bits) of a part of a code."""

MAX_RADIUS = 10
LEVEL_BITS = 12
"""Most bits of a partition: more open streams than that thrash the processor's address cache."""
_KEY_BITS = 16


@dataclass(frozen=True)
class Group:
    """Tables that begin with the same bands: these partition the codes once for all of them."""

    key: Key
    """Of the partition."""
    tables: Tables


def cheapest_groups(count: int, radius: int) -> list[Group]:
    """The cheapest tables that find every pair within ``radius`` among ``count`` codes, all keyed by as many bands.

    Raises:
        ValueError: ``radius`` is not between 0 and 10.
    """
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(f"radius {radius}: between 0 and {MAX_RADIUS}")
    return min((_groups(count, radius, chosen) for chosen in (1, 2, 3, 4)), key=lambda groups: _cost(groups, count))


def first_bits(count: int) -> int:
    """Bits of the first partition of ``count`` codes, which leave buckets of a few thousand."""
    return min(LEVEL_BITS, max(0, count.bit_length() - 11))


def _cost(groups: list[Group], count: int) -> float:
    """Rough nanoseconds: sorting every code in every table, comparing it with those that it meets."""
    tables = sum(len(group.tables.bands) for group in groups)
    bits = 64 * groups[0].tables.chosen / len(groups[0].tables.masks)
    return count * (tables * (10.0 + 0.35 * count / 2.0 ** (bits + 1)) + 25.0 * len(groups))


def _groups(count: int, radius: int, chosen: int) -> list[Group]:
    spans = _spans(radius + chosen)
    found: dict[tuple[int, ...], list[tuple[tuple[int, ...], list[Span]]]] = {}
    for combination in itertools.combinations(range(len(spans)), chosen):
        head = combination[: max(1, chosen - 1)]
        _, rest = _take([spans[band] for band in head], first_bits(count))
        tail = [spans[band] for band in combination[len(head) :]]
        inner, _ = _take([*tail, *rest], LEVEL_BITS)
        found.setdefault(head, []).append((combination, inner))
    groups = []
    for head, tables in found.items():
        key, _ = _take([spans[band] for band in head], first_bits(count))
        groups.append(Group(as_key(key), _packed(tables, spans, radius)))
    return groups


def look_up_tables(few: int, radius: int) -> Iterator[Tables]:
    """Single tables of ``few`` codes in which every code within ``radius`` of one of them can be looked up."""

    def cost(bands: int) -> float:
        """What a lookup in so many bands costs: tables, and candidates in each."""
        chosen = bands - radius
        return math.comb(bands, chosen) * (4.0 + 0.4 * few / 2 ** min(64 * chosen / bands, _KEY_BITS))

    spans = _spans(min((radius + chosen for chosen in (1, 2, 3)), key=cost))
    for combination in itertools.combinations(range(len(spans)), len(spans) - radius):
        key, _ = _take([spans[band] for band in combination], _KEY_BITS)
        yield _packed([(combination, key)], spans, radius)


def _spans(bands: int) -> list[Span]:
    """A code's 64 bits cut into bands of about equal width."""
    return [(low, high - low) for low, high in itertools.pairwise(64 * band // bands for band in range(bands + 1))]


def _take(spans: list[Span], bits: int) -> tuple[list[Span], list[Span]]:
    """Split spans into the first ``bits`` bits and what is left."""
    taken, left = [], []
    for shift, size in spans:
        now = min(size, bits)
        bits -= now
        if now:
            taken.append((shift, now))
        if size > now:
            left.append((shift + now, size - now))
    return taken, left


def _packed(tables: list[tuple[tuple[int, ...], list[Span]]], spans: list[Span], radius: int) -> Tables:
    """Tables, each given by its combination of bands and its key, as arrays for the kernels."""
    segments = np.zeros((len(tables), max(1, *(len(key) for _, key in tables)), 2), np.int64)
    for number, (_, key) in enumerate(tables):
        segments[number, : len(key)] = as_key(key)
    bands = np.array([sum(1 << (31 - band) for band in combination) for combination, _ in tables], np.int64)
    masks = np.array([((1 << bits) - 1) << shift for shift, bits in spans], np.uint64)
    return Tables(bands, segments, masks, len(spans) - radius, radius)


def as_key(spans: list[Span]) -> Key:
    """Spans as an array for the kernels; none make a key of no bits."""
    return np.array(spans, np.int64).reshape(-1, 2)
