"""Which tiles are cut out of a benchmark's image: the guard's search for crops.

The benchmarks are small beside the corpus and can afford many views. A ``dct16`` block holds all that a hash looks at,
so the hash of any part of an image follows from it without the pixels (:func:`curation.select.views.crop_codes`). Every
image of a benchmark gets the codes of :data:`BOXES`, so dense that a crop between two of them differs from one by a few
bits; every tile is looked up among them in each orientation that its hashes are known in, and the gradients of the two
thumbnails confirm it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from curation.base.arrays import Floats, Ints, Words
from curation.select import neighbours, second_opinion
from curation.select.deduplicate import Matches, load_looks
from curation.select.rows import CatalogueRows
from curation.select.views import CUT_OUT, SIDE, Box, crop_codes, without_crop
from curation.sources.recipe import DeduplicateRules

RADIUS = 6
"""Bits, of 64, by which a crop's hash may differ from that of the nearest box."""
CONFIRM = 0.7
"""Least correlation of the gradients of the thumbnails. Of the thumbnails themselves it says too little among so many
views: of two beaches one can nearly always be cut so that water and sand lie as in the other."""
LEAST_ENERGY = 3.0
"""``ac_energy`` below which an image says too little to look for its parts."""
_STEP = 0.03
"""Of shares and of places, between boxes: in shares of the image's side."""
_SHARES = 6
_PAIRS = 1 << 16
"""That are confirmed at a time."""


def _boxes() -> Iterator[Box]:
    """Parts of 0.97 to 0.82 of a side on a grid, and in the middle twice as many, where most crops are."""
    for number in range(1, 2 * _SHARES + 1):
        share = 1 - number * _STEP / 2
        places = np.linspace(0, 1 - share, number // 2 + 1) if number % 2 == 0 else [(1 - share) / 2]
        yield from (Box(float(top), float(left), share) for top in places for left in places)


BOXES = tuple(_boxes())


def find(
    rows: CatalogueRows, tiles: Ints, entries: Ints, blocks: npt.NDArray[np.int8], rules: DeduplicateRules, threads: int
) -> Matches:
    """Find tiles that are a part of a benchmark's image.

    Args:
        rows: all rows.
        tiles: (T,) rows that are looked up; those with little texture are left out.
        entries: (E,) fingerprints that are looked into, of at least ``LEAST_ENERGY``.
        blocks: (all fingerprints, 256) their ``dct16``.
        rules: in which orientations hashes are known.
        threads: cores to use.

    Returns:
        Matches with the number of the fingerprint; a tile can occur more than once.
    """
    tiles = tiles[rows.ac_energy[tiles] >= LEAST_ENERGY]
    wanted = np.concatenate([crop_codes(blocks[entries], box) for box in BOXES])
    views = without_crop(rows.codes, rules).T
    pairs = [_near(tiles, codes[tiles], wanted, threads) for codes in views]
    used = np.unique(np.concatenate([each.tile for each in pairs]))
    thumbs = load_looks(rows, used, rules, threads).thumbs
    found = []
    for view, (tile, place, distance) in enumerate(pairs):
        box, entry = np.divmod(place, len(entries))
        pixels = second_opinion.turned(thumbs, view)
        agreement = _correlations(pixels, np.searchsorted(used, tile), blocks[entries], entry, box)
        good = agreement >= CONFIRM
        seen = np.full(np.count_nonzero(good), CUT_OUT + view, np.int8)
        found.append((tile[good], entries[entry[good]], distance[good], seen, agreement[good]))
    return Matches(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


class _Pairs(NamedTuple):
    tile: Ints
    """Rows."""
    place: Ints
    """Of the code that is near: boxes by entries."""
    distance: npt.NDArray[np.int8]


def _near(tiles: Ints, codes: Words, wanted: Words, threads: int) -> _Pairs:
    tile, place = neighbours.pairs_between(codes, wanted, RADIUS, threads).T
    distance = np.bitwise_count(codes[tile] ^ wanted[place])
    return _Pairs(tiles[tile], place, distance.astype(np.int8))


def _correlations(
    pixels: npt.NDArray[np.int8], tile: Ints, blocks: npt.NDArray[np.int8], entry: Ints, box: Ints
) -> Floats:
    """(P,) correlations of the gradients of the thumbnails of tiles and of parts of images, pair by pair."""
    result = np.zeros(len(tile), np.float32)
    order = np.argsort(box, kind="stable")
    edges = np.searchsorted(box[order], np.arange(len(BOXES) + 1))
    for number, where in enumerate(BOXES):
        for low in range(edges[number], edges[number + 1], _PAIRS):
            some = order[low : min(low + _PAIRS, edges[number + 1])]
            theirs, own = _gradients(second_opinion.clipped(blocks[entry[some]], where)), _gradients(pixels[tile[some]])
            norms = np.linalg.norm(theirs, axis=1) * np.linalg.norm(own, axis=1)
            result[some] = np.einsum("ij,ij->i", theirs, own) / np.where(norms > 0, norms, np.inf)
    return result


def _gradients(thumbs: npt.NDArray[np.int8]) -> Floats:
    """Differences of neighbours, down and across: (N, 256) to (N, 480)."""
    image = thumbs.reshape(-1, SIDE, SIDE).astype(np.float32)
    steps = np.diff(image, axis=1), np.diff(image, axis=2)
    return np.concatenate([step.reshape(len(image), -1) for step in steps], axis=1)
