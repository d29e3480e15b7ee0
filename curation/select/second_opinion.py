# mypy: disable-error-code="untyped-decorator,no-untyped-call,assignment,call-arg"
"""The second opinion: whether two tiles look alike as 16x16 thumbnails, in some view (:mod:`curation.select.views`).

A thumbnail is the inverse DCT of a tile's ``dct16`` block. A perceptual hash, and a plain correlation too, is ruled by
the strongest feature: two seas with a bright corner each agree in every bit. So thumbnails are *clipped*, three robust
deviations (median absolute deviation) from their median, before they are correlated: the corner says as much as any
other pixel, and what is asked is whether the rest agrees as well (Huber, Robust Statistics, 1981, on winsorising).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from curation.base.compiled import compiled, named
from curation.select.neighbour_kernels import popcount
from curation.select.views import MIDDLE, SIDE, WHOLE, Box, at_points, median, views_of
from curation.sources.recipe import DeduplicateRules

PIXELS = SIDE * SIDE
CLIP = 3.0
"""Robust deviations at which a thumbnail is clipped."""


def _sources() -> npt.NDArray[np.uint64]:
    """(9, 256): of every pixel of a view's thumbnail, which of a tile's 512 it is: the tile's, then its centre's."""
    upright = np.arange(PIXELS, dtype=np.uint64).reshape(SIDE, SIDE)
    mirrored = np.fliplr(upright)
    oriented = [np.rot90(mirrored if number >= 4 else upright, number % 4) for number in range(8)]
    return np.concatenate([np.stack(oriented).reshape(8, PIXELS), upright.reshape(1, PIXELS) + np.uint64(PIXELS)])


_SOURCES = _sources()
STRIP = 4
"""Rows of a strip: what is compared before the rest."""
_FIRST_STRIP = (1, 2, 3, 4, 1, 4, 3, 2, 6)
"""Which norm is that of a view's thumbnail without its top strip."""
_NORM = (0, 0, 0, 0, 0, 0, 0, 0, 5)
"""Which norm is that of a view's thumbnail."""


class Thumbnails(NamedTuple):
    """Clipped thumbnails of N tiles and of their centres.

    All values are 0 where more than half of the pixels are equal: nothing can be said then.
    """

    pixels: npt.NDArray[np.int8]
    """(N, 512): tile and centre, clipped, without their mean, scaled."""
    norms: npt.NDArray[np.float32]
    """(N, 7): the tile's norm, and the norm of what is left without the strip at the top, right, bottom and left; the
    centre's norm, and without the strip at the top."""


class Looks(NamedTuple):
    """What N tiles look like: all that a comparison needs."""

    codes: npt.NDArray[np.uint64]
    """(N, V) pHash in every view."""
    thumbs: Thumbnails
    soft: npt.NDArray[np.bool_]
    """(N,) whether the larger radius is theirs."""

    def take(self, chosen: npt.NDArray[np.int64]) -> Looks:
        """The looks of some of the tiles."""
        thumbs = Thumbnails(self.thumbs.pixels[chosen], self.thumbs.norms[chosen])
        return Looks(self.codes[chosen], thumbs, self.soft[chosen])


class Criteria(NamedTuple):
    """When two tiles are the same."""

    views: npt.NDArray[np.int64]
    """(V,) which views the columns of their codes are."""
    radius: int
    """Hamming radius."""
    soft_radius: int
    """Hamming radius where both are soft."""
    least: float
    """Least correlation of their thumbnails."""


class PairVerdicts(NamedTuple):
    """How P pairs compare."""

    distance: npt.NDArray[np.int8]
    """Hamming distance; -1 where the two are not the same."""
    view: npt.NDArray[np.int8]
    correlation: npt.NDArray[np.float32]


_i64, _f64 = types.int64, types.float64
_longs, _ids = types.Array(_i64, 1, "C"), types.Array(types.int32, 1, "C")
_flags, _bytes = types.Array(types.boolean, 1, "C"), types.Array(types.int8, 1, "C")
THUMBNAILS = named(Thumbnails, types.Array(types.int8, 2, "C"), types.Array(types.float32, 2, "C"))
LOOKS = named(Looks, types.Array(types.uint64, 2, "C"), THUMBNAILS, _flags)
CRITERIA = named(Criteria, _longs, _i64, _i64, _f64)
_comparison = named(PairVerdicts, _bytes, _bytes, types.Array(types.float32, 1, "C"))


def criteria_of(rules: DeduplicateRules, radius: int) -> Criteria:
    """The criteria of some rules, with a radius of one's own."""
    return Criteria(views_of(rules), radius, rules.soft_radius, rules.confirm)


def thumbnails(blocks: npt.NDArray[np.int8], soft: npt.NDArray[np.bool_] | None = None) -> Thumbnails:
    """Clipped thumbnails of some tiles and of their centres.

    Args:
        blocks: (N, 256) int8, ``dct16``: the low-frequency block of the orthonormal DCT-II, row-major, any scale.
        soft: (N,) tiles whose centre says nothing; null: none.
    """
    whole, centre = clipped(blocks, WHOLE), clipped(blocks, MIDDLE)
    if soft is not None:
        centre[soft] = 0
    squares = np.square(np.stack([whole, centre], axis=1), dtype=np.float32).reshape(-1, 2, SIDE, SIDE)
    rows, columns = squares.sum(axis=3), squares[:, 0].sum(axis=1)
    inner = (rows[:, 0, STRIP:], columns[:, :-STRIP], rows[:, 0, :-STRIP], columns[:, STRIP:])
    sums = [rows[:, 0].sum(axis=1), *(part.sum(axis=1) for part in inner)]
    sums += [rows[:, 1].sum(axis=1), rows[:, 1, STRIP:].sum(axis=1)]
    return Thumbnails(np.concatenate([whole, centre], axis=1), np.sqrt(np.stack(sums, axis=1)))


def clipped(blocks: npt.NDArray[np.int8], box: Box) -> npt.NDArray[np.int8]:
    """Clipped thumbnails (N, 256) of a part of some tiles, from their blocks (N, 256); 0 where nothing can be said."""
    down, across = (at_points(SIDE, box.share, first) for first in (box.top, box.left))
    plain = (down @ blocks.reshape(-1, SIDE, SIDE).astype(np.float32) @ across.T).reshape(-1, PIXELS)
    plain -= median(plain)
    clip = CLIP * 1.4826 * median(np.abs(plain))
    flat = clip[:, 0] <= 1e-3
    clip[flat] = 1.0
    level = np.clip(plain / clip, -1, 1)
    level -= level.mean(axis=1, keepdims=True)
    thumbs = np.rint(level * 63.5)
    thumbs[flat] = 0
    return thumbs.astype(np.int8)


def turned(thumbs: Thumbnails, view: int) -> npt.NDArray[np.int8]:
    """Thumbnails (N, 256) in one of the eight orientations."""
    return thumbs.pixels[:, _SOURCES[view]]


@compiled(_f64(THUMBNAILS, _i64, THUMBNAILS, _i64, _i64, _f64))
def correlation(thumbs_a: Thumbnails, i: int, thumbs_b: Thumbnails, j: int, view: int, least: float) -> float:
    """Correlation of thumbnail ``i`` of a, as it is, and ``j`` of b in a view; -1 where it cannot reach ``least``.

    After the first strip the rest is bounded by Cauchy and Schwarz, which dismisses most that do not agree. Sums are
    kept in 32 bits and indices unsigned: only then does the compiler use vectors.
    """
    pixels_a, norms_a = thumbs_a
    pixels_b, norms_b = thumbs_b
    a, b, part, total = np.uint64(i), np.uint64(j), np.uint64(STRIP * SIDE), np.int32(0)
    scale = norms_a[a, 0] * norms_b[b, _NORM[view]]
    if scale == 0:
        return -1.0
    if view == 0:
        for pixel in range(part):
            total = np.int32(total + np.int32(np.int32(pixels_a[a, pixel]) * np.int32(pixels_b[b, pixel])))
    else:
        for pixel in range(part):
            other = pixels_b[b, _SOURCES[view, pixel]]
            total = np.int32(total + np.int32(np.int32(pixels_a[a, pixel]) * np.int32(other)))
    if total + norms_a[a, 1] * norms_b[b, _FIRST_STRIP[view]] < least * scale:
        return -1.0
    if view == 0:
        for pixel in range(part, np.uint64(PIXELS)):
            total = np.int32(total + np.int32(np.int32(pixels_a[a, pixel]) * np.int32(pixels_b[b, pixel])))
    else:
        for pixel in range(part, np.uint64(PIXELS)):
            other = pixels_b[b, _SOURCES[view, pixel]]
            total = np.int32(total + np.int32(np.int32(pixels_a[a, pixel]) * np.int32(other)))
    return float(total) / scale


@compiled(types.Tuple((_i64, _i64, _f64))(LOOKS, LOOKS, _i64, _i64, CRITERIA))
def compare(a: Looks, b: Looks, i: int, j: int, criteria: Criteria) -> Any:
    """Distance, view and correlation in which item i of a and j of b are confirmed to be one.

    Of the views within the radius (where both are soft, within ``soft_radius``) whose correlation reaches
    ``least``, the closest is given; distance -1 where there is none.
    """
    views, radius, soft_radius, least = criteria
    limit = max(radius, soft_radius) if a.soft[i] and b.soft[j] else radius
    best, best_view, best_correlation = -1, 0, 0.0
    for column in range(views.shape[0]):
        view = views[column]
        for direction in range(1 if view == 0 else 2):
            difference = a.codes[i, 0] ^ b.codes[j, column] if direction == 0 else a.codes[i, column] ^ b.codes[j, 0]
            distance = np.int64(popcount(difference))
            if distance > limit or (best >= 0 and distance >= best):
                continue
            if direction == 0:
                agreement = correlation(a.thumbs, i, b.thumbs, j, view, least)
            else:
                agreement = correlation(b.thumbs, j, a.thumbs, i, view, least)
            if agreement >= least:
                best, best_view, best_correlation = distance, view, agreement
    return best, best_view, best_correlation


@compiled(types.void(LOOKS, LOOKS, _longs, _longs, CRITERIA, _comparison))
def compare_pairs(a: Looks, b: Looks, i: Any, j: Any, criteria: Criteria, out: PairVerdicts) -> None:
    """:func:`compare` for all pairs (``i[k]``, ``j[k]``)."""
    distance, view, agreement = out
    for k in range(i.shape[0]):
        distance[k], view[k], agreement[k] = compare(a, b, i[k], j[k], criteria)


@compiled(types.void(THUMBNAILS, _ids, _ids, _i64, _f64, _flags))
def agree(thumbs: Thumbnails, i: Any, j: Any, view: int, least: float, out: Any) -> None:
    """Whether item ``i[k]``, as it is, and item ``j[k]`` in a view correlate enough; written to ``out``."""
    for k in range(i.shape[0]):
        out[k] = i[k] != j[k] and correlation(thumbs, i[k], thumbs, j[k], view, least) >= least
