"""SplitMix64 as a stateless function: published permutations and subsets come from here.

NumPy does not promise its ``Generator`` streams across versions, so everything that a shard's bytes depend on is drawn
from this integer hash, whose values are pinned by its published outputs (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014; the constants are Vigna's).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from curation.base.arrays import Words

GAMMA, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""What the state grows by, and what it is multiplied by in the two steps of the finalising mix."""


def splitmix64(seed: int, *counters: int | Words) -> Words:
    """The outputs numbered ``counters`` of the SplitMix64 generator started at ``seed``.

    ``splitmix64(seed, i)`` is the generator's i-th output (from 0). With several counters the output of one is the
    seed of the next: ``splitmix64(seed, a, b)`` is the b-th output of the generator seeded by ``splitmix64(seed, a)``.

    Args:
        seed: from 0 to 2**64 - 1.
        *counters: numbers or uint64 arrays, broadcast against each other.

    Returns:
        uint64, of the counters' broadcast shape (at least one dimension).
    """
    state = np.atleast_1d(np.array(seed, dtype=np.uint64))
    for counter in counters:
        state = scramble(
            state + (np.atleast_1d(np.asarray(counter, dtype=np.uint64)) + np.uint64(1)) * np.uint64(GAMMA)
        )
    return state


def published_permutation(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """The published permutation of ``count`` things: ``argsort(splitmix64(seed, epoch, index))``, int64 of (count,)."""
    return np.argsort(splitmix64(seed, epoch, np.arange(count, dtype=np.uint64)), kind="stable")


def scramble(state: npt.ArrayLike) -> Words:
    """The output for a state that was advanced already: the finalising mix, element by element."""
    with np.errstate(over="ignore"):
        z = np.asarray(state, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(FIRST)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(SECOND)
        return z ^ (z >> np.uint64(31))
