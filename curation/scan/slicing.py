"""Which windows of a raw image become tiles. Integer arithmetic only, so that every machine finds the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from curation.catalogue import Window
from curation.sources.recipe import SliceRules

MISSES = 64
"""Draws in a row that may overlap too much before the rest of an image counts as full."""


def windows(
    area: Window, rules: SliceRules, seed: int, source: str, image: str, valid_share: float = 1.0
) -> list[Window]:
    """Windows of one raw image, ordered by row, then column.

    Args:
        area: the part of the image to slice, in its pixel coordinates.
        rules: mode and sizes. Images with both sides at most ``whole_up_to`` give one window in every mode.
        seed: of the recipe; with ``source`` and ``image`` it seeds the random mode.
        source: id of the source.
        image: path of the image in its source.
        valid_share: share of valid pixels; the random mode draws ``density`` times the valid area.
    """
    if area.width < 1 or area.height < 1:
        return []
    if max(area.width, area.height) <= rules.whole_up_to:
        return [area]
    if rules.mode == "random":
        return sorted(_random(area, rules, f"{seed}\0{source}\0{image}", valid_share), key=lambda w: (w[1], w[0], w))
    return grid(area, rules)


def grid(area: Window, rules: SliceRules) -> list[Window]:
    """Regular windows of ``rules.tile``.

    What remains at the right and lower edge is dropped, covered by a window shifted back, or covered by a window that
    reaches beyond the image (``pad``). ``apart``, the default, shifts where the window then shares at most half of its
    pixels with its neighbour (IoU 1/3), and drops what is narrower: shifted always, 400 pixels in tiles of 128 end in
    one of which seven eighths are its neighbour's, a near duplicate that no rule looks for within one image. All other
    windows lie on multiples of the stride, as the blocks of a raster do, which spreading them evenly would not keep.
    An axis shorter than a tile gives one window of its own length under ``apart`` and ``shift``, a padded one under
    ``pad``.
    """
    rows = _steps(area.height, rules)
    columns = _steps(area.width, rules)
    return [
        Window(area.col_off + left, area.row_off + top, width, height)
        for top, height in rows
        for left, width in columns
    ]


def _steps(length: int, rules: SliceRules) -> list[tuple[int, int]]:
    tile, stride = rules.tile, rules.tile - rules.overlap
    if length < tile:
        whole = [(0, length)]
        return {"apart": whole, "drop": [], "shift": whole, "pad": [(0, tile)]}[rules.remainder]
    starts = list(range(0, length - tile + 1, stride))
    if starts[-1] + tile < length:
        shifted, shared = [length - tile], starts[-1] + 2 * tile - length
        apart = shifted if shared * 2 <= tile else []
        starts += {"apart": apart, "drop": [], "shift": shifted, "pad": [starts[-1] + stride]}[rules.remainder]
    return [(start, tile) for start in starts]


def _random(area: Window, rules: SliceRules, key: str, valid_share: float) -> list[Window]:
    """Squares of random side and place until their area reaches ``density`` times the valid area.

    Follows the OpticalRS corpus: crops of random size between 64 and 1024 pixels. Two may overlap by an IoU of
    ``max_iou``; where :data:`MISSES` draws in a row overlap more, the image is full.
    """
    longest = min(rules.max_side, area.width, area.height)
    if longest < rules.min_side:
        return []
    wanted = rules.density * valid_share * area.width * area.height
    numbers = _numbers(key)
    taken = np.zeros((0, 4), np.int64)
    total = misses = 0
    while total < wanted and misses < MISSES:
        side = rules.min_side + next(numbers) % (longest - rules.min_side + 1)
        left = area.col_off + next(numbers) % (area.width - side + 1)
        top = area.row_off + next(numbers) % (area.height - side + 1)
        if _overlaps(taken, left, top, side, rules.max_iou):
            misses += 1
            continue
        taken = np.vstack([taken, [(left, top, side, side)]])
        total, misses = total + side * side, 0
    return [Window(*(int(value) for value in row)) for row in taken]


def _overlaps(
    taken: np.ndarray[tuple[int, int], np.dtype[np.int64]], left: int, top: int, side: int, limit: float
) -> bool:
    if not len(taken):
        return False
    across = np.minimum(taken[:, 0] + taken[:, 2], left + side) - np.maximum(taken[:, 0], left)
    down = np.minimum(taken[:, 1] + taken[:, 3], top + side) - np.maximum(taken[:, 1], top)
    shared = np.maximum(across, 0) * np.maximum(down, 0)
    union = taken[:, 2] * taken[:, 3] + side * side - shared
    return bool((shared > limit * union).any())


def _numbers(key: str) -> Iterator[int]:
    """Endless 64-bit numbers from a hash: NumPy's generators may change between releases."""
    counter = 0
    while True:
        block = hashlib.blake2b(f"{key}\0{counter}".encode(), digest_size=64).digest()
        yield from (int.from_bytes(block[at : at + 8], "little") for at in range(0, 64, 8))
        counter += 1
