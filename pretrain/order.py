"""The order of samples: a pure function of (shard sizes, seed, epoch).

Shards are put in a random order and their samples are mixed within windows of a few shards, so that a reader has only
``window`` shards open at a time. Position = (epoch, row); nothing else needs to be saved, and a resumed run sees the
same samples on any number of GPUs and workers. See contracts: *Training batch*.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pretrain.noise import Purpose, permutation

Ints = npt.NDArray[np.int64]


class Window(NamedTuple):
    """A few shards whose samples are mixed."""

    shards: Ints
    """(S,) numbers of the shards, in the epoch's order."""
    permutation: Ints
    """(n,) positions in the concatenation of these shards' samples."""


class Position(NamedTuple):
    """Where training stands."""

    epoch: int
    row: int
    """Row in the epoch's order."""


def epoch_order(
    shard_sizes: Sequence[int], seed: int, epoch: int, window: int, groups: int = 1, group: int = 0
) -> Iterator[Window]:
    """Yield one group's samples of an epoch, window by window.

    Args:
        shard_sizes: samples per shard.
        seed: of the run.
        epoch: number of the epoch, from 0.
        window: shards whose samples are mixed.
        groups: disjoint sets to which the shards are dealt anew each epoch.
        group: which set.
    """
    dealt = permutation(seed, Purpose.SHARD_ORDER, epoch, n=len(shard_sizes))[group::groups]
    for start in range(0, len(dealt), window):
        shards = dealt[start : start + window]
        total = sum(shard_sizes[shard] for shard in shards)
        yield Window(shards, permutation(seed, Purpose.SAMPLE_ORDER, epoch, group, start, n=total))


def rows_per_group(shard_sizes: Sequence[int], groups: int = 1) -> int:
    """Rows that every group has in every epoch, however the shards are dealt.

    With one group these are all samples. With more, it is what the smallest shards hold together, so that the number
    of steps does not depend on the epoch; equal shards lose nothing.
    """
    if groups == 1:
        return int(sum(shard_sizes))
    return int(sum(sorted(shard_sizes)[: len(shard_sizes) // groups]))


def steps_per_epoch(shard_sizes: Sequence[int], global_batch: int, groups: int = 1) -> int:
    """Whole global batches in an epoch; the last, smaller one is dropped."""
    return rows_per_group(shard_sizes, groups) // (global_batch // groups)


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
