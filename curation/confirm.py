# mypy: disable-error-code="untyped-decorator,no-untyped-call,assignment,call-arg"
"""The second opinion: whether two tiles look alike as 16x16 thumbnails, in any view (:mod:`curation.views`).

A thumbnail is the inverse DCT of a tile's ``dct16`` block. A perceptual hash, and a plain correlation too, is ruled by
the strongest feature: two seas with a bright corner each agree in every bit. So thumbnails are *clipped*, three robust
deviations (median absolute deviation) from their median, before they are correlated: the corner says as much as any
other pixel, and what is asked is whether the rest agrees as well (Huber, Robust Statistics, 1981, on winsorising).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from curation.compiled import compiled
from curation.neighbour_kernels import BLOCK, popcount
from curation.views import CENTRE, SIDE, at_points, median

_f32, _f64, _i64 = types.float32, types.float64, types.int64
_thumbs = types.Array(types.int8, 2, "C")
_codes, _words = types.Array(types.uint64, 2, "C"), types.Array(types.uint64, 1, "C")
_moments = types.Array(_f32, 2, "C")
_floats, _longs, _bytes = types.Array(_f32, 1, "C"), types.Array(_i64, 1, "C"), types.Array(types.int8, 1, "C")
_flags, _ids = types.Array(types.boolean, 1, "C"), types.Array(types.int32, 1, "C")

PIXELS = SIDE * SIDE
CLIP = 3.0
"""Robust deviations at which a thumbnail is clipped."""


def _sources() -> npt.NDArray[np.uint64]:
    """(9, 256): of every pixel of a view's thumbnail, which of a tile's 512 it is: the tile's, then its centre's."""
    upright = np.arange(PIXELS, dtype=np.uint64).reshape(SIDE, SIDE)
    mirrored = np.fliplr(upright)
    turned = [np.rot90(mirrored if turn >= 4 else upright, turn % 4) for turn in range(8)]
    return np.concatenate([np.stack(turned).reshape(8, PIXELS), upright.reshape(1, PIXELS) + np.uint64(PIXELS)])


_SOURCES = _sources()
_CLUSTERS, _CLUSTER_RADIUS = 32, 16
"""Clusters that a component is cut into, so that most kept members need not be tried, and their radius in bits."""
_STRIP = 4
"""Rows of a strip: what is compared before the rest."""
_FIRST_STRIP = (1, 2, 3, 4, 1, 4, 3, 2, 6)
"""Which norm is that of a view's thumbnail without its top strip."""
_NORM = (0, 0, 0, 0, 0, 0, 0, 0, 5)
"""Which norm is that of a view's thumbnail."""


def thumbnails(
    blocks: npt.NDArray[np.int8], soft: npt.NDArray[np.bool_] | None = None
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Clipped thumbnails of some tiles and of their centres.

    Args:
        blocks: (N, 256) int8, ``dct16``: the low-frequency block of the orthonormal DCT-II, row-major, any scale.
        soft: (N,) tiles whose centre says nothing; null: none.

    Returns:
        (N, 512) int8: tile and centre, clipped, without their mean, scaled; and (N, 7) float32: the tile's norm, and
        the norm of what is left without the strip at the top, right, bottom and left; the centre's norm, and without
        the strip at the top. All are 0 where more than half of the pixels are equal: nothing can be said then.
    """
    whole, centre = _clipped(blocks, 1.0), _clipped(blocks, CENTRE)
    if soft is not None:
        centre[soft] = 0
    squares = np.square(np.stack([whole, centre], axis=1), dtype=np.float32).reshape(-1, 2, SIDE, SIDE)
    rows, columns = squares.sum(axis=3), squares[:, 0].sum(axis=1)
    inner = (rows[:, 0, _STRIP:], columns[:, :-_STRIP], rows[:, 0, :-_STRIP], columns[:, _STRIP:])
    sums = [rows[:, 0].sum(axis=1), *(part.sum(axis=1) for part in inner)]
    sums += [rows[:, 1].sum(axis=1), rows[:, 1, _STRIP:].sum(axis=1)]
    return np.concatenate([whole, centre], axis=1), np.sqrt(np.stack(sums, axis=1))


def _clipped(blocks: npt.NDArray[np.int8], share: float) -> npt.NDArray[np.int8]:
    basis = at_points(SIDE, share)
    plain = (basis @ blocks.reshape(-1, SIDE, SIDE).astype(np.float32) @ basis.T).reshape(-1, PIXELS)
    plain -= median(plain)
    clip = CLIP * 1.4826 * median(np.abs(plain))
    flat = clip[:, 0] <= 1e-3
    clip[flat] = 1.0
    clipped = np.clip(plain / clip, -1, 1)
    clipped -= clipped.mean(axis=1, keepdims=True)
    thumbs = np.rint(clipped * 63.5)
    thumbs[flat] = 0
    return thumbs.astype(np.int8)


@compiled(_f64(_thumbs, _moments, _i64, _thumbs, _moments, _i64, _i64, _f64))
def correlation(
    thumbs_a: Any, norms_a: Any, i: int, thumbs_b: Any, norms_b: Any, j: int, turn: int, least: float
) -> float:
    """Correlation of thumbnail ``i`` of a and ``j`` of b in view ``turn``; -1 where it cannot reach ``least``.

    After the first strip the rest is bounded by Cauchy and Schwarz, which dismisses most that do not agree. Sums are
    kept in 32 bits and indices unsigned: only then does the compiler use vectors.
    """
    a, b, part, total = np.uint64(i), np.uint64(j), np.uint64(_STRIP * SIDE), np.int32(0)
    scale = norms_a[a, 0] * norms_b[b, _NORM[turn]]
    if scale == 0:
        return -1.0
    if turn == 0:
        for pixel in range(part):
            total = np.int32(total + np.int32(np.int32(thumbs_a[a, pixel]) * np.int32(thumbs_b[b, pixel])))
    else:
        for pixel in range(part):
            other = thumbs_b[b, _SOURCES[turn, pixel]]
            total = np.int32(total + np.int32(np.int32(thumbs_a[a, pixel]) * np.int32(other)))
    if total + norms_a[a, 1] * norms_b[b, _FIRST_STRIP[turn]] < least * scale:
        return -1.0
    if turn == 0:
        for pixel in range(part, np.uint64(PIXELS)):
            total = np.int32(total + np.int32(np.int32(thumbs_a[a, pixel]) * np.int32(thumbs_b[b, pixel])))
    else:
        for pixel in range(part, np.uint64(PIXELS)):
            other = thumbs_b[b, _SOURCES[turn, pixel]]
            total = np.int32(total + np.int32(np.int32(thumbs_a[a, pixel]) * np.int32(other)))
    return float(total) / scale


@compiled(
    types.Tuple((_i64, _i64, _f64))(
        _codes, _thumbs, _moments, _flags, _codes, _thumbs, _moments, _flags, _i64, _i64, _longs, _i64, _i64, _f64
    ),
)  # fmt: skip
def compare(
    codes_a: Any, thumbs_a: Any, moments_a: Any, soft_a: Any, codes_b: Any, thumbs_b: Any, moments_b: Any, soft_b: Any,
    i: int, j: int, views: Any, radius: int, soft_radius: int, least: float,
) -> Any:  # fmt: skip
    """Distance, view and correlation in which item i of a and j of b are confirmed to be one.

    Of the views within the radius (where both are soft, within ``soft_radius``) whose correlation reaches
    ``least``, the closest is given; distance -1 where there is none.
    """
    limit = max(radius, soft_radius) if soft_a[i] and soft_b[j] else radius
    best, best_turn, best_correlation = -1, 0, 0.0
    for column in range(views.shape[0]):
        turn = views[column]
        for direction in range(1 if turn == 0 else 2):
            difference = codes_a[i, 0] ^ codes_b[j, column] if direction == 0 else codes_a[i, column] ^ codes_b[j, 0]
            distance = np.int64(popcount(difference))
            if distance > limit or (best >= 0 and distance >= best):
                continue
            if direction == 0:
                agreement = correlation(thumbs_a, moments_a, i, thumbs_b, moments_b, j, turn, least)
            else:
                agreement = correlation(thumbs_b, moments_b, j, thumbs_a, moments_a, i, turn, least)
            if agreement >= least:
                best, best_turn, best_correlation = distance, turn, agreement
    return best, best_turn, best_correlation


@compiled(
    types.void(
        _codes, _thumbs, _moments, _flags, _codes, _thumbs, _moments, _flags, _longs, _longs, _longs, _i64, _i64, _f64,
        _bytes, _bytes, _floats,
    ),
)  # fmt: skip
def compare_pairs(
    codes_a: Any, thumbs_a: Any, moments_a: Any, soft_a: Any, codes_b: Any, thumbs_b: Any, moments_b: Any, soft_b: Any,
    i: Any, j: Any, views: Any, radius: int, soft_radius: int, least: float, distance: Any, turn: Any, agreement: Any,
) -> None:  # fmt: skip
    """:func:`compare` for all pairs (``i[k]``, ``j[k]``); the answers are written to the last three arrays."""
    for k in range(i.shape[0]):
        near, how, value = compare(
            codes_a, thumbs_a, moments_a, soft_a, codes_b, thumbs_b, moments_b, soft_b,
            i[k], j[k], views, radius, soft_radius, least,
        )  # fmt: skip
        distance[k], turn[k], agreement[k] = near, how, value


@compiled(types.void(_thumbs, _moments, _ids, _ids, _i64, _f64, _flags))
def agree(thumbs: Any, moments: Any, i: Any, j: Any, turn: int, least: float, out: Any) -> None:
    """Whether item ``i[k]``, as it is, and item ``j[k]``, turned, correlate enough; written to ``out``."""
    for k in range(i.shape[0]):
        a, b = i[k], j[k]
        out[k] = a != b and correlation(thumbs, moments, a, thumbs, moments, b, turn, least) >= least


@compiled(
    _i64(
        _longs, _words, _thumbs, _moments, types.uint64, _i64, _i64, _i64, _i64, types.boolean, _thumbs, _moments,
        _flags, _i64, _i64, _f64,
    ),
)  # fmt: skip
def _first_same(
    kept: Any, kept_codes: Any, strips: Any, norms: Any, code: int, start: int, count: int, member: int, turn: int,
    member_turned: bool, thumbs: Any, moments: Any, soft: Any, radius: int, soft_radius: int, least: float,
) -> int:  # fmt: skip
    """Place, from ``start`` to ``count``, of the first kept item that is near and that the thumbnails confirm.

    ``strips`` and ``norms`` are the kept items' first strips and norms, side by side in memory: in a crowd nearly every
    pair is near, and gets no further than this.
    """
    item, strip = np.uint64(member), np.uint64(_STRIP * SIDE)
    widest = np.uint64(max(radius, soft_radius) if soft[member] else radius)
    for block in range(start, count, BLOCK):
        hits, first = 0, np.uint64(block)
        for step in range(BLOCK):
            hits += np.int64(popcount(code ^ kept_codes[first + np.uint64(step)]) <= widest)
        if hits == 0:
            continue
        for place in range(block, min(block + BLOCK, count)):
            distance, other = popcount(code ^ kept_codes[place]), kept[place]
            if distance > widest or (distance > np.uint64(radius) and not soft[other]):
                continue
            if turn == 0:
                total, row = np.int32(0), np.uint64(place)
                for pixel in range(strip):
                    total = np.int32(total + np.int32(np.int32(strips[row, pixel]) * np.int32(thumbs[item, pixel])))
                bound = total + norms[row, 1] * moments[item, 1]
                if bound < least * norms[row, 0] * moments[item, 0]:
                    continue
            upright, turned = (other, member) if member_turned else (member, other)
            if correlation(thumbs, moments, upright, thumbs, moments, turned, turn, least) >= least:
                return place
    return count


@compiled(_i64(_codes, _i64, _i64, _longs, _longs, _longs))
def _cluster(codes: Any, low: int, high: int, cluster: Any, leaders: Any, opens: Any) -> int:
    """Cut the members ``low`` to ``high`` of a component into clusters around leaders; returns the clusters' number.

    A member belongs to the first leader that is near, or leads the next cluster; the last cluster takes the rest.
    ``opens`` is where each cluster's members start when they lie one after the other.
    """
    clusters = 0
    for member in range(low, high):
        own = 0
        while own < clusters and np.int64(popcount(codes[member, 0] ^ codes[leaders[own], 0])) > _CLUSTER_RADIUS:
            own += 1
        if own == clusters:
            if clusters < _CLUSTERS:
                leaders[clusters], opens[clusters] = member, 0
                clusters += 1
            own = clusters - 1
        cluster[member - low] = own
        opens[own] += 1
    total = 0
    for own in range(clusters):
        size = opens[own]
        opens[own] = total
        total += size
    return clusters


@compiled(
    _i64(
        _i64, _codes, _longs, _longs, _longs, _longs, types.Array(_i64, 2, "C"), _longs, _codes, _thumbs, _moments,
        _thumbs, _moments, _flags, _i64, _i64, _f64,
    ),
)  # fmt: skip
def _stand_in(
    member: int, codes: Any, views: Any, leaders: Any, opens: Any, closes: Any, reach: Any, kept: Any, kept_codes: Any,
    strips: Any, norms: Any, thumbs: Any, moments: Any, soft: Any, radius: int, soft_radius: int, least: float,
) -> int:  # fmt: skip
    """The best kept item that is the same as a member; the member itself where there is none.

    ``opens`` and ``closes`` are where each cluster's kept items lie in ``kept``, best first. A cluster is left out
    where the triangle inequality says that nothing within ``reach`` of its leader can lie within the radius.
    """
    best, upright = member, codes[member, 0]
    widest = max(radius, soft_radius) if soft[member] else radius
    for part in range(leaders.shape[0]):
        start, end = opens[part], closes[part]
        leader, place = leaders[part], end
        for column in range(views.shape[0]):
            turn, turned = views[column], codes[member, column]
            if np.int64(popcount(turned ^ codes[leader, 0])) <= reach[part, 0] + widest:
                place = _first_same(
                    kept, kept_codes[0], strips, norms, turned, start, place, member, turn, True,
                    thumbs, moments, soft, radius, soft_radius, least,
                )  # fmt: skip
            near = np.int64(popcount(upright ^ codes[leader, column])) <= reach[part, column] + widest
            if column > 0 and near:
                place = _first_same(
                    kept, kept_codes[column], strips, norms, upright, start, place, member, turn, False,
                    thumbs, moments, soft, radius, soft_radius, least,
                )  # fmt: skip
        if place < end:
            best = min(best, kept[place])
    return best


@compiled(
    types.void(_longs, _flags, _i64, _i64, _codes, _thumbs, _moments, _flags, _longs, _i64, _i64, _f64, _longs),
)  # fmt: skip
def keep_best(
    starts: Any, wanted: Any, first: int, last: int, codes: Any, thumbs: Any, moments: Any, soft: Any, views: Any,
    radius: int, soft_radius: int, least: float, stands_in: Any,
) -> None:  # fmt: skip
    """Apply the keep rule inside the components ``first`` to ``last``, by trying every kept member.

    Args:
        starts: (C + 1,) where each component's members start; members in rank order.
        wanted: (C,) components to look at.
        first: first component.
        last: one past the last.
        codes: (M, V) hashes of the members.
        thumbs: (M, 512) their thumbnails.
        moments: (M, 7) norms of the thumbnails.
        soft: (M,) whether the larger radius is theirs.
        views: (V,) which views the codes are of.
        radius: Hamming radius.
        soft_radius: Hamming radius between soft members.
        least: least correlation.
        stands_in: (M,) -1 for every member; written for those that go: the member that stands for them.
    """
    longest, count = 0, views.shape[0]
    for component in range(first, last):
        if wanted[component]:
            longest = max(longest, starts[component + 1] - starts[component])
    kept, kept_codes = np.empty(longest, np.int64), np.empty((count, longest + BLOCK), np.uint64)
    strips, norms = np.empty((longest, _STRIP * SIDE), np.int8), np.empty((longest, 2), np.float32)
    cluster, leaders = np.empty(longest, np.int64), np.empty(_CLUSTERS, np.int64)
    opens, closes = np.empty(_CLUSTERS, np.int64), np.empty(_CLUSTERS, np.int64)
    reach = np.empty((_CLUSTERS, count), np.int64)
    for component in range(first, last):
        low, high = starts[component], starts[component + 1] if wanted[component] else starts[component]
        clusters = _cluster(codes, low, high, cluster, leaders, opens)
        closes[:clusters] = opens[:clusters]
        reach[:clusters] = -1
        for member in range(low, high):
            best = _stand_in(
                member, codes, views, leaders[:clusters], opens, closes, reach, kept, kept_codes, strips, norms,
                thumbs, moments, soft, radius, soft_radius, least,
            )  # fmt: skip
            if best < member:
                stands_in[member] = best
                continue
            part = cluster[member - low]
            place = closes[part]
            kept[place] = member
            strips[place], norms[place] = thumbs[member, : _STRIP * SIDE], moments[member, :2]
            for column in range(count):
                kept_codes[column, place] = codes[member, column]
                distance = np.int64(popcount(codes[member, column] ^ codes[leaders[part], column]))
                reach[part, column] = max(reach[part, column], distance)
            closes[part] = place + 1


@compiled(types.void(_longs, _longs, _longs))
def keep_first(better: Any, worse: Any, stands_in: Any) -> None:
    """Apply the keep rule along confirmed pairs.

    Args:
        better: (P,) the better-ranked item of every pair.
        worse: (P,) the other; pairs sorted by it, then by ``better``.
        stands_in: (M,) -1 for every item; written for those that go: the first better item that stays.
    """
    for pair in range(better.shape[0]):
        if stands_in[worse[pair]] < 0 and stands_in[better[pair]] < 0:
            stands_in[worse[pair]] = better[pair]
