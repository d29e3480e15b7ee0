"""Which kept tile goes into which shard, and where: a pure function of the catalogue's order, the rules and the seed.

Runs of tiles of one image are shuffled, not single tiles, so that the write stage opens a raster once per run; the
reader's window mixes finer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from curation.base.arrays import Ints
from curation.base.splitmix import published_permutation
from curation.sources.recipe import ShardRules


def runs_of(image: Ints, longest: int) -> Ints:
    """Number of the run that each kept tile belongs to: at most ``longest`` neighbours of one image.

    Args:
        image: (N,) image number of every kept tile, equal ones adjacent.
        longest: most tiles in a run.

    Returns:
        (N,) int64, from 0, ascending.
    """
    if not len(image):
        return np.zeros(0, np.int64)
    index = np.arange(len(image))
    opens = np.concatenate([[True], image[1:] != image[:-1]])
    since = index - np.maximum.accumulate(np.where(opens, index, 0))
    return np.cumsum(opens | (since % longest == 0)) - 1


def predicted_bytes(
    width: Ints, height: Ints, file_bytes: Ints, pass_through: npt.NDArray[np.bool_], rules: ShardRules
) -> Ints:
    """Bytes each sample is predicted to take: the file's own where they are copied, else pixels times a constant."""
    encoded = np.ceil(width * height * rules.bytes_per_pixel).astype(np.int64)
    return np.where(pass_through & rules.pass_through, file_bytes, encoded)


def assign(image: Ints, sizes: Ints, rules: ShardRules, seed: int) -> tuple[Ints, Ints]:
    """Shard and position of every kept tile.

    A shard is closed when it holds ``max_samples``, or when one more sample would exceed ``max_bytes`` (a single sample
    larger than that has a shard of its own).

    Args:
        image: (N,) image number of every kept tile in the catalogue's order.
        sizes: (N,) predicted bytes.
        rules: limits.
        seed: the recipe's.

    Returns:
        (N,) shard numbers and (N,) positions within the shard, int64.
    """
    order = _shuffled(runs_of(image, rules.run), seed)
    ends = np.cumsum(sizes[order])
    shard, position = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    first, number = 0, 0
    while first < len(order):
        before = int(ends[first - 1]) if first else 0
        fit = int(np.searchsorted(ends, before + rules.max_bytes, side="right"))
        last = min(max(fit, first + 1), first + rules.max_samples, len(order))
        members = order[first:last]
        shard[members], position[members] = number, np.arange(last - first)
        first, number = last, number + 1
    return shard, position


def _shuffled(runs: Ints, seed: int) -> Ints:
    """Tiles in the order in which they are written: runs in the order of the seeded permutation, each kept whole."""
    if not len(runs):
        return np.zeros(0, np.int64)
    shuffled = published_permutation(seed, 0, int(runs[-1]) + 1)
    rank = np.empty(len(shuffled), np.int64)
    rank[shuffled] = np.arange(len(shuffled))
    return np.argsort(rank[runs], kind="stable")
