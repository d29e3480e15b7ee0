from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.select import neighbours


def all_pairs(a: np.ndarray, b: np.ndarray, radius: int) -> np.ndarray:
    """Brute force, by the textual bits."""
    return np.array(
        [(i, j) for i, x in enumerate(a.tolist()) for j, y in enumerate(b.tolist()) if (x ^ y).bit_count() <= radius],
        np.int64,
    ).reshape(-1, 2)


def components(count: int, pairs: np.ndarray) -> list[int]:
    """Lowest member of each item's component, by relabelling until nothing changes."""
    label = list(range(count))
    changed = True
    while changed:
        changed = False
        for i, j in pairs.tolist():
            low = min(label[i], label[j])
            changed |= label[i] != low or label[j] != low
            label[i] = label[j] = low
    return label


def crowded(rng: np.random.Generator, count: int, centres: int, flips: int) -> np.ndarray:
    """Codes a few bits away from few centres: the distribution that pair lists choke on."""
    codes = rng.integers(0, 2**64, centres, dtype=np.uint64)[rng.integers(0, centres, count)]
    for _ in range(flips):
        bit = np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
        codes = np.where(rng.random(count) < 0.6, codes ^ bit, codes)
    return codes


@pytest.mark.parametrize("radius", range(11))
def test_every_pair_is_found_once(radius):
    rng = np.random.default_rng(radius)
    codes = crowded(rng, 400, 60, radius + 2)
    expected = all_pairs(codes, codes, radius)
    expected = expected[expected[:, 0] < expected[:, 1]]
    assert len(expected)
    np.testing.assert_array_equal(neighbours.pairs_within(codes, radius, threads=2), expected)
    assert neighbours.groups_within(codes, radius).tolist() == components(len(codes), expected)


@pytest.mark.parametrize("radius", range(11))
@pytest.mark.parametrize("few", [0, 1, 90])
def test_a_large_set_is_looked_up_in_a_small_one(radius, few, monkeypatch):
    monkeypatch.setattr(neighbours, "_EDGES", 16)  # room runs out within a crowd
    rng = np.random.default_rng(radius)
    codes = crowded(rng, 1600 + few, 40, radius + 1)
    many, small = codes[few:], codes[:few]
    expected = all_pairs(many, small, radius)
    assert len(expected) > 0 or few < 2
    np.testing.assert_array_equal(neighbours.pairs_between(many, small, radius, threads=2), expected)
    swapped = neighbours.pairs_between(small, many, radius, threads=2)[:, ::-1]
    np.testing.assert_array_equal(swapped[np.lexsort(swapped.T[::-1])], expected)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 120),
    centres=st.integers(1, 20),
    radius=st.integers(0, 10),
    flips=st.integers(0, 14),
)
def test_equals_brute_force(seed, count, centres, radius, flips):
    rng = np.random.default_rng(seed)
    codes, others = crowded(rng, count, centres, flips), crowded(rng, 50, centres, flips)
    expected = all_pairs(codes, codes, radius)
    expected = expected[expected[:, 0] < expected[:, 1]]
    np.testing.assert_array_equal(neighbours.pairs_within(codes, radius), expected)
    assert neighbours.groups_within(codes, radius).tolist() == components(count, expected)
    np.testing.assert_array_equal(neighbours.pairs_between(codes, others, radius), all_pairs(codes, others, radius))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), radius=st.integers(0, 10), views=st.integers(1, 8))
def test_groups_in_views_equal_brute_force(seed, radius, views):
    rng = np.random.default_rng(seed)
    codes = crowded(rng, 60 * views, 90, radius).reshape(60, views)
    near = np.array([[(int(x) ^ int(y)).bit_count() <= radius for x in codes[:, 0]] for y in codes.reshape(-1)])
    pairs = np.argwhere(near.reshape(60, views, 60).any(axis=1))
    found = neighbours.groups_in_views(codes, radius, threads=2)
    assert found.tolist() == components(60, pairs)


@pytest.mark.parametrize("count", [1, 5_000, 70_000])
def test_partitions_of_all_sizes_agree_with_numpy(count):
    rng = np.random.default_rng(count)
    codes = rng.integers(0, 2**64, count, dtype=np.uint64)
    codes[count // 2 :] = codes[: count - count // 2] ^ np.uint64(0b1011 << 30)
    found = neighbours.pairs_within(codes, 3, threads=2)
    planted = np.stack([np.arange(count - count // 2), np.arange(count // 2, count)], axis=1)[: count // 2]
    assert {tuple(pair) for pair in planted[planted[:, 0] != planted[:, 1]].tolist()} <= set(map(tuple, found.tolist()))
    assert (np.bitwise_count(codes[found[:, 0]] ^ codes[found[:, 1]]) <= 3).all()


def test_threads_change_nothing():
    codes = crowded(np.random.default_rng(3), 40_000, 500, 7)
    alone = neighbours.groups_within(codes, 4, threads=1)
    np.testing.assert_array_equal(alone, neighbours.groups_within(codes, 4, threads=3))


def test_one_crowd_is_one_group_without_a_list_of_its_pairs():
    codes = crowded(np.random.default_rng(4), 60_000, 1, 3)
    assert set(neighbours.groups_within(codes, 6).tolist()) == {0}


def test_equal_codes_are_one_group_at_radius_zero():
    codes = np.array([5, 7, 5, 7, 9], np.uint64)
    assert neighbours.groups_within(codes, 0).tolist() == [0, 1, 0, 1, 4]


def test_radius_is_bounded():
    with pytest.raises(ValueError, match="between 0 and 10"):
        neighbours.pairs_within(np.zeros(2, np.uint64), 11)
