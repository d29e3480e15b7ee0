# mypy: disable-error-code="untyped-decorator,no-untyped-call,assignment,call-arg"
"""Compiled loops of the keep rule: in rank order an item stays unless one that stays already is the same.

A component's members are tried against every kept one. In a crowd (seas that differ in a few bits) that would be every
pair; so the members are cut into clusters around leaders, and clusters that hold nothing near are left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from curation.base.arrays import Ints
from curation.base.compiled import compiled, named
from curation.select.neighbour_kernels import BLOCK, popcount
from curation.select.second_opinion import CRITERIA, LOOKS, STRIP, Criteria, Looks, correlation
from curation.select.views import SIDE

_CLUSTERS, _CLUSTER_RADIUS = 32, 16
"""Most clusters of a component, and their radius in bits."""


class Clusters(NamedTuple):
    """A component cut into clusters, and how far each has come."""

    of: Ints
    """(M,) the cluster of every member."""
    leaders: Ints
    """(K,)"""
    opens: Ints
    """(K,) where each cluster's kept items start."""
    closes: Ints
    """(K,) where they end so far; they lie best first."""
    reach: npt.NDArray[np.int64]
    """(K, V) distance to the leader of the kept item, in a view, that is farthest from it; -1 where there is none."""


class Kept(NamedTuple):
    """The kept items of a component, by cluster; what is compared first lies side by side in memory."""

    items: Ints
    codes: npt.NDArray[np.uint64]
    """(V, M + BLOCK) hashes in every view."""
    strips: npt.NDArray[np.int8]
    """(M, 64) first strips of the thumbnails."""
    norms: npt.NDArray[np.float32]
    """(M, 2) norms of the thumbnails, whole and without that strip."""


class Search(NamedTuple):
    """What is searched for among the kept items: a member in a view, or as it is where the kept are in that view."""

    member: int
    column: int
    """Of the view."""
    member_in_view: bool


_i64 = types.int64
_longs, _flags = types.Array(_i64, 1, "C"), types.Array(types.boolean, 1, "C")
_codes = types.Array(types.uint64, 2, "C")
_clusters = named(Clusters, _longs, _longs, _longs, _longs, types.Array(_i64, 2, "C"))
_kept = named(Kept, _longs, _codes, types.Array(types.int8, 2, "C"), types.Array(types.float32, 2, "C"))
_search = named(Search, _i64, _i64, types.boolean)


@compiled(_i64(_kept, _i64, _i64, _search, LOOKS, CRITERIA))
def _first_same(kept: Kept, start: int, count: int, search: Search, looks: Looks, criteria: Criteria) -> int:
    """Place, from ``start`` to ``count``, of the first kept item that is near and that the thumbnails confirm.

    In a crowd nearly every pair is near, and gets no further than the first strips.
    """
    member, column, member_in_view = search
    (pixels, norms), soft, radius, least = looks.thumbs, looks.soft, criteria.radius, criteria.least
    view, code = criteria.views[column], looks.codes[member, column if member_in_view else 0]
    kept_codes, strips = kept.codes[0 if member_in_view else column], kept.strips
    item, strip = np.uint64(member), np.uint64(STRIP * SIDE)
    widest = np.uint64(max(radius, criteria.soft_radius) if soft[member] else radius)
    for block in range(start, count, BLOCK):
        hits, first = 0, np.uint64(block)
        for step in range(BLOCK):
            hits += np.int64(popcount(code ^ kept_codes[first + np.uint64(step)]) <= widest)
        if hits == 0:
            continue
        for place in range(block, min(block + BLOCK, count)):
            distance, other = popcount(code ^ kept_codes[place]), kept.items[place]
            if distance > widest or (distance > np.uint64(radius) and not soft[other]):
                continue
            if view == 0:
                total, row = np.int32(0), np.uint64(place)
                for pixel in range(strip):
                    total = np.int32(total + np.int32(np.int32(strips[row, pixel]) * np.int32(pixels[item, pixel])))
                bound = total + kept.norms[row, 1] * norms[item, 1]
                if bound < least * kept.norms[row, 0] * norms[item, 0]:
                    continue
            upright, viewed = (other, member) if member_in_view else (member, other)
            if correlation(looks.thumbs, upright, looks.thumbs, viewed, view, least) >= least:
                return place
    return count


@compiled(_i64(_codes, _i64, _i64, _clusters))
def _cluster(codes: Any, low: int, high: int, clusters: Clusters) -> int:
    """Cut the members ``low`` to ``high`` of a component into clusters around leaders; returns the clusters' number.

    A member belongs to the first leader that is near, or leads the next cluster; the last cluster takes the rest.
    """
    leaders, opens, count = clusters.leaders, clusters.opens, 0
    for member in range(low, high):
        own = 0
        while own < count and np.int64(popcount(codes[member, 0] ^ codes[leaders[own], 0])) > _CLUSTER_RADIUS:
            own += 1
        if own == count:
            if count < _CLUSTERS:
                leaders[count], opens[count] = member, 0
                count += 1
            own = count - 1
        clusters.of[member - low] = own
        opens[own] += 1
    total = 0
    for own in range(count):
        size = opens[own]
        opens[own] = clusters.closes[own] = total
        total += size
        for column in range(codes.shape[1]):
            clusters.reach[own, column] = -1
    return count


@compiled(_i64(_i64, _i64, _clusters, _kept, LOOKS, CRITERIA))
def _stand_in(member: int, count: int, clusters: Clusters, kept: Kept, looks: Looks, criteria: Criteria) -> int:
    """The best kept item that is the same as a member; the member itself where there is none.

    Of the first ``count`` clusters those are left out where the triangle inequality says that nothing within
    ``reach`` of the leader can lie within the radius.
    """
    codes, reach, views = looks.codes, clusters.reach, criteria.views
    best, upright = member, codes[member, 0]
    widest = max(criteria.radius, criteria.soft_radius) if looks.soft[member] else criteria.radius
    for part in range(count):
        start, end, leader = clusters.opens[part], clusters.closes[part], clusters.leaders[part]
        place = end
        for column in range(views.shape[0]):
            if np.int64(popcount(codes[member, column] ^ codes[leader, 0])) <= reach[part, 0] + widest:
                place = _first_same(kept, start, place, Search(member, column, True), looks, criteria)
            near = np.int64(popcount(upright ^ codes[leader, column])) <= reach[part, column] + widest
            if column > 0 and near:
                place = _first_same(kept, start, place, Search(member, column, False), looks, criteria)
        if place < end:
            best = min(best, kept.items[place])
    return best


@compiled(types.void(_i64, _i64, _clusters, _kept, LOOKS))
def _keep(member: int, part: int, clusters: Clusters, kept: Kept, looks: Looks) -> None:
    """Add a member to the kept ones of its cluster."""
    place, leader = clusters.closes[part], clusters.leaders[part]
    kept.items[place] = member
    kept.norms[place, 0], kept.norms[place, 1] = looks.thumbs.norms[member, 0], looks.thumbs.norms[member, 1]
    for pixel in range(STRIP * SIDE):  # a slice would cost ten times as long to compile
        kept.strips[place, pixel] = looks.thumbs.pixels[member, pixel]
    for column in range(looks.codes.shape[1]):
        kept.codes[column, place] = looks.codes[member, column]
        distance = np.int64(popcount(looks.codes[member, column] ^ looks.codes[leader, column]))
        clusters.reach[part, column] = max(clusters.reach[part, column], distance)
    clusters.closes[part] = place + 1


@compiled(types.void(_longs, _flags, _i64, _i64, LOOKS, CRITERIA, _longs))
def keep_best(
    starts: Any, wanted: Any, first: int, last: int, looks: Looks, criteria: Criteria, stands_in: Any
) -> None:
    """Apply the keep rule inside the components ``first`` to ``last``, by trying every kept member.

    Args:
        starts: (C + 1,) where each component's members start; members in rank order.
        wanted: (C,) components to look at.
        first: first component.
        last: one past the last.
        looks: of the M members.
        criteria: when two are the same.
        stands_in: (M,) -1 for every member; written for those that go: the member that stands for them.
    """
    longest, views = 0, criteria.views.shape[0]
    for component in range(first, last):
        if wanted[component]:
            longest = max(longest, starts[component + 1] - starts[component])
    kept = Kept(
        np.empty(longest, np.int64), np.empty((views, longest + BLOCK), np.uint64),
        np.empty((longest, STRIP * SIDE), np.int8), np.empty((longest, 2), np.float32),
    )  # fmt: skip
    clusters = Clusters(
        np.empty(longest, np.int64), np.empty(_CLUSTERS, np.int64), np.empty(_CLUSTERS, np.int64),
        np.empty(_CLUSTERS, np.int64), np.empty((_CLUSTERS, views), np.int64),
    )  # fmt: skip
    for component in range(first, last):
        low, high = starts[component], starts[component + 1] if wanted[component] else starts[component]
        count = _cluster(looks.codes, low, high, clusters)
        for member in range(low, high):
            best = _stand_in(member, count, clusters, kept, looks, criteria)
            if best < member:
                stands_in[member] = best
            else:
                _keep(member, clusters.of[member - low], clusters, kept, looks)


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
