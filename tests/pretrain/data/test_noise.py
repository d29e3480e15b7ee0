"""Stateless noise: published SplitMix64 outputs, NumPy equal to torch, independent streams."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.base.splitmix import scramble
from pretrain.data.noise import Purpose, bits, drawn_permutation, stream_key, torch_uniform, uniform

GAMMA = 0x9E3779B97F4A7C15

# First outputs of SplitMix64 from seed 1234567, as published with the algorithm's reference implementations.
PUBLISHED = [
    6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
]  # fmt: skip


def test_published_outputs() -> None:
    states = [(1234567 + GAMMA * step) % 2**64 for step in range(1, 6)]
    assert scramble(np.array(states, np.uint64)).tolist() == PUBLISHED


def test_key_is_a_chain_of_published_steps() -> None:
    first = scramble(np.uint64((7 + GAMMA) % 2**64))  # seed 7 into a zero state
    second = scramble(np.uint64(((int(first) ^ 3) + GAMMA) % 2**64))  # purpose 3
    assert int(stream_key(7, 3)) == int(second)
    assert bits(7, 3, n=1)[0] == scramble(np.uint64((int(second) + GAMMA) % 2**64))


def test_golden_numbers_never_change() -> None:
    numbers = uniform(0, Purpose.MASK, 1, np.array([0, 1, 12_345_678]), 2)
    golden = [[7078640, 13367355], [204468, 13514766], [3197747, 8652785]]  # of plain Python integers
    assert (numbers * 2**24).astype(int).tolist() == golden


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    ids=st.lists(st.integers(0, 2**40), min_size=1, max_size=5),
    epoch=st.integers(0, 10**6),
    n=st.integers(1, 200),
    crop=st.integers(0, 9),
)
def test_torch_and_numpy_agree_bit_for_bit(seed: int, ids: list[int], epoch: int, n: int, crop: int) -> None:
    ours = torch_uniform(seed, Purpose.CROP, torch.full((len(ids),), epoch), torch.tensor(ids), n, crop)
    np.testing.assert_array_equal(ours.numpy(), uniform(seed, Purpose.CROP, epoch, np.array(ids), n, crop))


def test_no_graph_break() -> None:
    compiled = torch.compile(torch_uniform, fullgraph=True, backend="aot_eager")
    epoch, ids = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    assert torch.equal(compiled(3, 5, epoch, ids, 17), torch_uniform(3, 5, epoch, ids, 17))


@pytest.mark.parametrize("change", ["seed", "purpose", "epoch", "sample", "crop"])
def test_streams_are_uniform_and_independent(change: str) -> None:
    ids = np.arange(2000)
    base = uniform(1, 3, 0, ids, 16)
    other = {
        "seed": uniform(2, 3, 0, ids, 16),
        "purpose": uniform(1, 4, 0, ids, 16),
        "epoch": uniform(1, 3, 1, ids, 16),
        "sample": uniform(1, 3, 0, ids + 1, 16),
        "crop": uniform(1, 3, 0, ids, 16, crop=1),
    }[change]
    assert base.min() >= 0
    assert base.max() < 1
    counts = np.histogram(base, bins=64, range=(0, 1))[0]
    chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert chi2 < 120  # 63 degrees of freedom: exceeded with probability 2e-5
    assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.03  # five deviations for 32,000 pairs


def test_permutation_holds_each_index_once() -> None:
    order = drawn_permutation(0, Purpose.SHARD_ORDER, 4, n=1000)
    assert sorted(order.tolist()) == list(range(1000))
    assert order.tolist() != drawn_permutation(0, Purpose.SHARD_ORDER, 5, n=1000).tolist()
