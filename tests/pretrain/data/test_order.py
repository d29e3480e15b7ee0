"""The order of an epoch: complete, mixed, and independent of ranks."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.order import epoch_order, group_rows, rank_rows, steps_per_epoch

SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=12)


def samples(sizes: list[int], **kwargs: int) -> list[tuple[int, int]]:
    """(shard, position) in order."""
    out = []
    for window in epoch_order(sizes, **kwargs):
        pairs = [(int(s), p) for s in window.shards for p in range(sizes[s])]
        out += [pairs[i] for i in window.permutation]
    return out


@settings(max_examples=100, deadline=None)
@given(
    sizes=SIZES, seed=st.integers(0, 99), epoch=st.integers(0, 99), window=st.integers(1, 5), groups=st.integers(1, 8)
)
def test_each_sample_comes_once_and_groups_are_equal(sizes, seed, epoch, window, groups) -> None:
    dealt = [
        samples(sizes, seed=seed, epoch=epoch, window=window, groups=groups, group=group) for group in range(groups)
    ]
    together = sorted(pair for part in dealt for pair in part)
    assert together == [(s, p) for s, size in enumerate(sizes) for p in range(size)]
    lengths = [len(part) for part in dealt]
    assert max(lengths) - min(lengths) <= 1
    shards = [{s for s, _ in part} for part in dealt]
    assert sum(map(len, shards)) - len(set().union(*shards)) < groups  # a cut falls into one shard


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, part=st.integers(1, 9), groups=st.integers(1, 8), epoch=st.integers(0, 9))
def test_an_epoch_loses_less_than_one_global_batch(sizes, part, groups, epoch) -> None:
    steps = steps_per_epoch(sizes, part * groups)
    assert 0 <= sum(sizes) - steps * part * groups < part * groups
    for group in range(groups):  # and every group has what these steps take
        assert len(samples(sizes, seed=1, epoch=epoch, window=3, groups=groups, group=group)) >= steps * part


def test_eight_groups_of_unequal_shards_lose_what_one_group_loses() -> None:
    sizes = np.random.default_rng(0).integers(5_000, 10_001, 1_300)
    whole, batch = int(sizes.sum()), 2048
    smallest = 8 * int(np.sort(sizes)[: 1_300 // 8].sum())  # what order version 1 made use of
    assert 0.25 < 1 - smallest / whole < 0.35
    assert whole - steps_per_epoch(sizes.tolist(), batch) * batch < batch
    rows = [sum(len(w.permutation) for w in epoch_order(sizes, 0, 3, 8, 8, group)) for group in range(8)]
    assert min(rows) == whole // 8
    assert min(rows) // (batch // 8) == whole // batch


def test_groups_are_dealt_anew_each_epoch() -> None:
    first, second = (
        {int(s) for w in epoch_order([4] * 40, 0, epoch, 4, groups=4) for s in w.shards} for epoch in (0, 1)
    )
    assert len(first) == len(second) == 10
    assert first != second


def test_golden_order_never_changes() -> None:
    order = samples([3, 2, 4], seed=0, epoch=0, window=2)
    assert order == [(0, 1), (1, 0), (1, 1), (0, 2), (0, 0), (2, 0), (2, 2), (2, 1), (2, 3)]  # of the first release


def test_golden_order_of_groups() -> None:
    halves = [samples([3, 2, 4], seed=0, epoch=0, window=2, groups=2, group=group) for group in (0, 1)]
    assert halves[0] == [(0, 1), (1, 0), (1, 1), (0, 0)]  # of order version 2; shards in the order 1, 0, 2, the cut
    assert halves[1] == [(2, 2), (2, 3), (2, 0), (2, 1), (0, 2)]  # after four of nine samples lies in shard 0


def test_epochs_differ_and_windows_mix() -> None:
    sizes = [40] * 8
    first, second = (samples(sizes, seed=1, epoch=e, window=4) for e in (0, 1))
    assert first != second
    assert len({shard for shard, _ in first[:40]}) == 4  # the first 40 rows come from all four shards of the window
    assert {shard for shard, _ in first[:160]} & {shard for shard, _ in first[160:]} == set()


def test_a_position_is_one_number() -> None:
    """Resuming at row r of an epoch gives the rest of the same list: nothing else is saved."""
    whole = samples([7, 5, 9], seed=3, epoch=2, window=2)
    assert samples([7, 5, 9], seed=3, epoch=2, window=2)[11:] == whole[11:]


@settings(max_examples=100, deadline=None)
@given(per_group=st.integers(1, 20), groups=st.integers(1, 4), world=st.integers(1, 9))
def test_ranks_and_groups_cut_a_batch_without_gap_or_overlap(per_group, groups, world) -> None:
    batch = per_group * groups
    rows = [rank_rows(batch, rank, world) for rank in range(world)]
    assert [row for part in rows for row in part] == list(range(batch))
    seen = np.zeros((groups, per_group), int)
    for part in rows:
        for group, inner in group_rows(part, batch, groups):
            seen[group, inner.start : inner.stop] += 1
    assert (seen == 1).all()


def test_the_last_small_batch_is_dropped() -> None:
    assert steps_per_epoch([10, 10, 5], 8) == 3
    assert steps_per_epoch([10, 10, 5, 5], 8) == 3
