"""Stateless uniform numbers: a pure function of (seed, purpose, epoch, sample id, crop index).

No generator has state, so nothing is saved with a checkpoint, and a sample gets the same crop, flip and mask on any
number of workers and GPUs. Each sample has a stream of its own: SplitMix64 (Steele, Lea and Flood, Fast Splittable
Pseudorandom Number Generators, OOPSLA 2014) started from a key into which the five numbers are mixed in turn. NumPy and
torch give the same bits; torch's version is int64 arithmetic only, which compiles without a graph break.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from curation.base.arrays import Words
from curation.base.splitmix import FIRST, GAMMA, SECOND, scramble
from pretrain.device import fused

_TWO24 = 2.0**-24


class Purpose(IntEnum):
    """What the numbers are for; different purposes are independent."""

    SHARD_ORDER = 1
    SAMPLE_ORDER = 2
    CROP = 3
    FLIP = 4
    MASK = 5
    STEP = 6


def _advance(state: Words, steps: npt.ArrayLike = 1) -> Words:
    with np.errstate(over="ignore"):
        return state + np.uint64(GAMMA) * np.asarray(steps, dtype=np.uint64)


def stream_key(seed: int, purpose: int, *words: npt.ArrayLike) -> Words:
    """The state from which a stream starts; ``words`` broadcast against each other."""
    key: Words = np.zeros((), np.uint64)
    for word in (seed, purpose, *words):
        key = scramble(_advance(key ^ np.asarray(word).astype(np.uint64)))
    return key


def bits(seed: int, purpose: int, *words: npt.ArrayLike, n: int) -> Words:
    """``n`` 64-bit numbers per element of the broadcast ``words``: shape (..., n)."""
    key = stream_key(seed, purpose, *words)
    return scramble(_advance(key[..., None], np.arange(1, n + 1)))


def uniform(
    seed: int, purpose: int, epoch: npt.ArrayLike, sample_id: npt.ArrayLike, n: int, crop: npt.ArrayLike = 0
) -> npt.NDArray[np.float32]:
    """Uniform numbers in [0, 1), (B, n) float32 of 24 bits each; ``epoch``, ``sample_id`` and ``crop`` may broadcast.

    Args:
        seed: of the run, non-negative.
        purpose: a :class:`Purpose`.
        epoch: (B,) or scalar.
        sample_id: (B,) row numbers of the index.
        n: numbers per sample.
        crop: (B,) or scalar; number of the crop when a sample gives several.
    """
    top = bits(seed, purpose, epoch, sample_id, crop, n=n) >> np.uint64(40)
    return top.astype(np.float32) * np.float32(_TWO24)


def drawn_permutation(seed: int, purpose: int, *words: int, n: int) -> npt.NDArray[np.int64]:
    """A permutation of ``range(n)``: argsort of ``n`` hashed numbers (equal ones, were there any, in index order)."""
    numbers = bits(seed, purpose, *words, n=n)
    order = np.argsort(numbers)  # several times faster than the stable one, and the same where all differ
    ascending = numbers[order]
    return np.argsort(numbers, kind="stable") if (ascending[1:] == ascending[:-1]).any() else order


def torch_uniform(seed: int, purpose: int, epoch: Tensor, sample_id: Tensor, n: int, crop: int | Tensor = 0) -> Tensor:
    """:func:`uniform` on the device of ``sample_id``, bit for bit.

    Args:
        seed: of the run, non-negative.
        purpose: a :class:`Purpose`.
        epoch: (B,) int64.
        sample_id: (B,) int64.
        n: numbers per sample.
        crop: number of the crop; (B,) or one for all.
    """
    return fused(_drawn, sample_id)(seed, int(purpose), epoch, sample_id, n, crop)


def _drawn(seed: int, purpose: int, epoch: Tensor, sample_id: Tensor, n: int, crop: int | Tensor) -> Tensor:
    key = torch.zeros_like(sample_id)
    for word in (seed, purpose, epoch, sample_id, crop):
        key = _torch_mix((key ^ word) + _signed(GAMMA))
    steps = torch.arange(1, n + 1, device=key.device) * _signed(GAMMA)
    top = _shift(_torch_mix(key[:, None] + steps), 40)
    return top.to(torch.float32) * _TWO24


def _torch_mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(FIRST)
    z = (z ^ _shift(z, 27)) * _signed(SECOND)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, by: int) -> Tensor:
    """Logical shift to the right: torch's int64 shift copies the sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    """The int64 with the bits of an uint64."""
    return value - (1 << 64) if value >= 1 << 63 else value
