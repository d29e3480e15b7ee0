"""The views in which two tiles are compared: one as it is, the other in an orientation, or cut to its centre.

An *orientation* is one of the eight ways to turn and mirror a tile; a *view* is an orientation or the centre.

A perceptual hash knows nothing of crops: a tenth cut away moves 8 to 18 of its bits. But a tile's ``dct16`` block
holds its low frequencies, which is all that a hash looks at; so the hash of its centre needs no pixels: the block is
evaluated at the centre's points and transformed again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from curation.base.arrays import Flags, Floats, Words
from curation.sources.recipe import DeduplicateRules

Blocks = npt.NDArray[np.int8]

_ORIENTED = (
    "as it is", "rot90", "rot180", "rot270", "mirror", "mirror+rot90", "mirror+rot180", "mirror+rot270",
)  # fmt: skip
VIEWS = (*_ORIENTED, "centre crop", "cut out", *(f"cut out, {name}" for name in _ORIENTED[1:]))
"""``np.fliplr`` where mirrored, then ``np.rot90`` counter-clockwise; the centre; so turned, a part of the other."""
CROP = 8
CUT_OUT = 9
"""The first of the views in which a tile is a part of a benchmark's image (:mod:`curation.select.crops`)."""
CENTRE = 0.9
"""Share of each side that the centre crop keeps; crops that keep 0.88 to 0.92 are mostly found."""
SIDE = 16


class Box(NamedTuple):
    """A part of a tile, in shares of its sides."""

    top: float
    left: float
    share: float
    """Of the tile's height that is its height, and of the width its width."""


WHOLE = Box(0.0, 0.0, 1.0)
MIDDLE = Box((1 - CENTRE) / 2, (1 - CENTRE) / 2, CENTRE)
_HASHED, _BITS = 32, 8
"""Samples a side that imagehash transforms, and coefficients a side that it compares."""


def views_of(rules: DeduplicateRules) -> npt.NDArray[np.int64]:
    """The views of some rules as numbers in :data:`VIEWS`, the first being the tile as it is."""
    return np.array([*range(CROP if rules.orientations else 1), *([CROP] if rules.crops else [])], np.int64)


def view_codes(orientations: Words, blocks: Blocks | None, soft: Flags, rules: DeduplicateRules) -> Words:
    """Hashes of N tiles in every view.

    Args:
        orientations: (N, 8) hashes in the eight orientations.
        blocks: (N, 256) ``dct16``; needed where the rules ask for crops.
        soft: (N,) tiles of so little texture that their centre says nothing; they get a code that none of them is near.
        rules: which views.

    Returns:
        (N, V) uint64, as :func:`views_of` orders them.
    """
    wanted = orientations if rules.orientations else orientations[:, :1]
    if not rules.crops or blocks is None:
        return np.ascontiguousarray(wanted)
    crops = np.where(soft, ~orientations[:, 0], crop_codes(blocks))
    return np.concatenate([wanted, crops[:, None]], axis=1)


def without_crop(codes: Words, rules: DeduplicateRules) -> Words:
    """The codes (N, V) without the centre's, for tiles whose centre says nothing."""
    return codes[:, : CROP if rules.orientations else 1]


def crop_codes(blocks: Blocks, box: Box = MIDDLE) -> Words:
    """64-bit pHash of a part of N tiles, from their blocks ``(N, 256)``; two bits off imagehash's at the median."""
    samples = np.arange(_HASHED)
    transform = np.cos(np.pi * (2 * samples[None, :] + 1) * np.arange(_BITS)[:, None] / (2 * _HASHED))
    down, across = (
        (transform @ at_points(_HASHED, box.share, first)).astype(np.float32) for first in (box.top, box.left)
    )
    low = (down @ blocks.reshape(-1, SIDE, SIDE).astype(np.float32) @ across.T).reshape(-1, _BITS * _BITS)
    low[:, 0] = np.inf  # the mean, which the block leaves out, exceeds the median
    return np.packbits(low > median(low), axis=1).view(">u8").astype(np.uint64).reshape(-1)


def at_points(count: int, share: float, first: float) -> Floats:
    """Matrix ``(count, 16)``: values of an orthonormal DCT-II at points spread over ``share``, from ``first`` on."""
    place = first + share * (np.arange(count) + 0.5) / count
    basis = np.cos(np.pi * place[:, None] * np.arange(SIDE)[None, :]) * np.sqrt(2 / SIDE)
    basis[:, 0] = np.sqrt(1 / SIDE)
    return basis.astype(np.float32)


def median(values: Floats) -> Floats:
    """Median of every row of ``(N, even)``, ``(N, 1)``; NumPy sorts rows of float32 faster than it partitions them."""
    middle = values.shape[1] // 2
    return np.sort(values, axis=1)[:, middle - 1 : middle + 1].mean(axis=1, keepdims=True)
