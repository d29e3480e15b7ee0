"""The order of samples: a pure function of (shard sizes, seed, epoch).

Shards are put in a random order and their samples are mixed within windows of a few shards, so that a reader has only
``window`` shards open at a time. Position = (epoch, row); nothing else needs to be saved, and a resumed run sees the
same samples on any number of GPUs and workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from curation.base.arrays import Ints
from pretrain.data.noise import Purpose, drawn_permutation

ORDER_VERSION = 2
"""Of the order with several groups: 1 dealt whole shards in turn. One group has had one order from the start."""


@dataclass(frozen=True)
class ShardWindow:
    """A few shards whose samples are mixed."""

    shards: Ints
    """(S,) numbers of the shards, in the epoch's order."""
    rows: range
    """Positions in the concatenation of these shards' samples; of a shard that two groups share, only its own."""
    key: tuple[int, int, int, int]
    """Seed, epoch, group and place, of which the order is a function."""

    @property
    def permutation(self) -> Ints:
        """(n,) ``rows``, mixed. Drawn when it is asked for: a resumed run passes over many windows."""
        seed, *words = self.key
        return self.rows.start + drawn_permutation(seed, Purpose.SAMPLE_ORDER, *words, n=len(self.rows))


class Position(NamedTuple):
    """Where training stands."""

    epoch: int
    row: int
    """Row in the epoch's order."""


def epoch_order(
    shard_sizes: Sequence[int], seed: int, epoch: int, window: int, groups: int = 1, group: int = 0
) -> Iterator[ShardWindow]:
    """Yield one group's samples of an epoch, window by window.

    The epoch's shards stand in a line that is cut into ``groups`` parts of equal length, to one sample. A shard on a
    cut gives each side its own rows. Whole shards alone could not be dealt so evenly: nine of equal size to eight
    groups would leave out a ninth of the samples.

    Args:
        shard_sizes: samples per shard.
        seed: of the run.
        epoch: number of the epoch, from 0.
        window: shards whose samples are mixed.
        groups: parts of the epoch.
        group: which part.
    """
    order = drawn_permutation(seed, Purpose.SHARD_ORDER, epoch, n=len(shard_sizes))
    bounds = np.concatenate([[0], np.cumsum(np.asarray(shard_sizes, np.int64)[order])])
    low, high = (int(bounds[-1]) * side // groups for side in (group, group + 1))
    first = int(np.searchsorted(bounds[1:], low, side="right")) if group else 0
    last = int(np.searchsorted(bounds[:-1], high)) if group < groups - 1 else len(order)
    for start in range(first, last, window):
        shards = order[start : min(start + window, last)]
        base, end = int(bounds[start]), int(bounds[start + len(shards)])
        rows = range(max(low, base) - base, min(high, end) - base)
        yield ShardWindow(shards, rows, (seed, epoch, group, start))


def mixed_counts(weights: Sequence[int], rows: int) -> list[int]:
    """How many of the first ``rows`` rows of a mixture come from each folder.

    The ``j``-th sample of a folder of weight ``w`` is due at ``(2j + 1) / w``, and rows follow in the order in which
    they are due, of equal ones the first folder's first: Sainte-Laguë's method of dealing seats, so that at every row
    each folder has its share as closely as whole numbers allow.

    Args:
        weights: of the folders, whole numbers from 1.
        rows: from the start of the training.
    """
    total, before = sum(weights), max(rows - (len(weights) + 1) // 2, 0)
    counts = [(2 * before * weight + total) // (2 * total) for weight in weights]  # due until then; no more than rows
    while sum(counts) < rows:
        due = [Fraction(2 * count + 1, weight) for count, weight in zip(counts, weights, strict=True)]
        counts[due.index(min(due))] += 1
    return counts


def mixed_rows(weights: Sequence[int], start: int, stop: int) -> tuple[Ints, Ints]:
    """The folder of each of the rows ``start`` to ``stop`` of a mixture, and which of the folder's samples it is."""
    low, high = mixed_counts(weights, start), mixed_counts(weights, stop)
    folder = np.repeat(np.arange(len(weights)), np.subtract(high, low))
    sample = np.concatenate([np.arange(*bounds) for bounds in zip(low, high, strict=True)])
    weight = np.asarray(weights, np.int64)[folder]
    due = (
        (2 * sample + 1) * sum(weights) - 2 * start * weight
    ) / weight  # whole numbers, small again before they divide
    order = np.lexsort((folder, due))
    return folder[order], sample[order]


def steps_per_epoch(shard_sizes: Sequence[int], global_batch: int) -> int:
    """Whole global batches in an epoch; the last, smaller one is dropped.

    Groups lose nothing more: each has ``total // groups`` samples at least and gives ``global_batch // groups`` to a
    batch, and the quotient of these is that of ``total`` and ``global_batch``. Where folders are mixed, nothing is
    dropped: an epoch is so many steps, and the passes over the folders run on.
    """
    return int(sum(shard_sizes)) // global_batch


def rank_rows(global_batch: int, rank: int, world: int) -> range:
    """The rows of each global batch that a rank takes: ``[r*G//W, (r+1)*G//W)``."""
    return range(rank * global_batch // world, (rank + 1) * global_batch // world)


def group_rows(rows: range, global_batch: int, groups: int) -> list[tuple[int, range]]:
    """Split a rank's rows of a global batch by group: ``(group, rows within the group's part of the batch)``."""
    part = global_batch // groups
    cut = [
        (group, range(max(rows.start - group * part, 0), min(rows.stop - group * part, part)))
        for group in range(groups)
    ]
    return [(group, inner) for group, inner in cut if len(inner)]
