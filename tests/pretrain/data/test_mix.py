"""Folders mixed by weights: shares, passes, and going on anywhere."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagery import MakeShards
from small_run import Quiet, assert_equal, config

from curation.base.errors import InputError
from pretrain.data.augment import CropRule
from pretrain.data.corpus import Corpus, SampleRule, describe_mix, open_corpus
from pretrain.data.order import mixed_counts, mixed_rows
from pretrain.data.stream import StreamPlan, batches, requests
from pretrain.train import train

WEIGHTS = st.lists(st.integers(1, 1000), min_size=1, max_size=6)
RULE = CropRule(32, (0.5, 1.0), (3 / 4, 4 / 3), 4.0)


def test_rows_are_dealt_as_seats_are() -> None:
    """The textbook's example of Sainte-Laguë's method: 53,000, 24,000 and 23,000 votes, seven seats."""
    assert mixed_counts([53_000, 24_000, 23_000], 7) == [3, 2, 2]
    folder, sample = mixed_rows([3, 1], 0, 8)  # due: A 1/3, 1, 5/3, 7/3, 3, 11/3; B 1, 3
    assert folder.tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    assert sample.tolist() == [0, 1, 0, 2, 3, 4, 1, 5]


@settings(max_examples=200, deadline=None)
@given(weights=WEIGHTS, start=st.integers(0, 10**11), length=st.integers(1, 300), cut=st.integers(0, 300))
def test_every_row_has_one_sample_wherever_one_starts(weights, start, length, cut) -> None:
    folder, sample = mixed_rows(weights, start, start + length)
    low, high = mixed_counts(weights, start), mixed_counts(weights, start + length)
    assert sum(low) == start and sum(high) == start + length
    for number in range(len(weights)):  # each folder's samples one after the other, none left out
        assert sample[folder == number].tolist() == list(range(low[number], high[number]))
    middle = start + min(cut, length)
    parts = [mixed_rows(weights, *bounds) for bounds in ((start, middle), (middle, start + length))]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), folder)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), sample)


@settings(max_examples=100, deadline=None)
@given(weights=WEIGHTS, rows=st.integers(0, 10**6))
def test_shares_are_kept_at_every_row(weights, rows) -> None:
    for count, weight in zip(mixed_counts(weights, rows), weights, strict=True):
        assert abs(count - rows * weight / sum(weights)) <= len(weights) / 2 + 0.5


@pytest.fixture
def two(make_shards: MakeShards) -> Corpus:
    """Folders of 12 and of 20 samples."""
    return open_corpus([make_shards([5, 4, 3], name="a"), make_shards([6, 8, 6], name="b")], SampleRule(8))


PLAN = StreamPlan(seed=2, global_batch=8, micro_batch=8, window=2, mix=(1, 3))


def ids(corpus: Corpus, plan: StreamPlan, start: int, stop: int) -> list[int]:
    return [int(i) for request in requests(corpus, plan, start, stop) for i in request.rows.sample_id]


def test_a_sample_comes_again_only_after_all_others_of_its_folder(two: Corpus) -> None:
    seen = ids(two, PLAN, 0, 40)
    assert len(seen) == 320
    for first, size, rows in ((0, 12, 80), (12, 20, 240)):
        mine = [i for i in seen if first <= i < first + size]
        assert len(mine) == rows
        passes = [mine[start : start + size] for start in range(0, rows, size)]
        assert all(len(set(each)) == len(each) for each in passes)
        assert passes[0] != passes[1]
    said: list[str] = []
    describe_mix(two, PLAN.mix, 320, said.append)
    assert [line.split(": ", 2)[2] for line in said] == ["6.67 passes over 12 samples", "12.00 passes over 20 samples"]
    assert "25.0% from" in said[0] and "75.0% from" in said[1]


def test_samples_that_come_again_are_cropped_anew(two: Corpus) -> None:
    """The pass over the folder, not the epoch, goes into crops, flips and masks: an epoch may hold several passes."""
    passes = Counter[tuple[int, int]]()
    for request in requests(two, PLAN, 0, 40):
        passes.update(zip(request.rows.sample_id.tolist(), request.rows.epoch.tolist(), strict=True))
    assert set(passes.values()) == {1}


def test_golden_mixture(two: Corpus) -> None:
    """Of the first release with mixtures: what a seed gives never changes."""
    assert ids(two, PLAN, 0, 2) == [25, 2, 14, 23, 16, 4, 20, 17, 19, 8, 12, 21, 18, 5, 22, 13]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("crops", [1, 2])
@pytest.mark.parametrize("mix", [(), (1, 3)])
def test_other_processes_and_workers_go_on_with_the_same_samples(
    two: Corpus, mix: tuple[int, ...], crops: int, groups: int
) -> None:
    """Ids, crops and noise of steps 3 to 9 on three ranks, one of which has workers, are those of one process."""
    plan = replace(PLAN, global_batch=12, micro_batch=4, mix=mix, crops=crops, groups=groups)
    whole = list(batches(two, plan, RULE, 0, 9))
    parts = [list(batches(two, replace(plan, rank=r, world=3), RULE, 3, 9, workers=int(r == 1))) for r in range(3)]
    for step in range(3, 9):
        alone = whole[step * plan.micro_batches : (step + 1) * plan.micro_batches]
        shared = [b for part in parts for b in part[(step - 3) * len(part) // 6 : (step - 2) * len(part) // 6]]
        for name in ("sample_id", "images", "epoch", "crop", "gsd"):
            one, other = (torch.cat([getattr(b, name) for b in each]) for each in (alone, shared))
            assert torch.equal(one, other), (step, name)
        assert {b.position for b in shared} == {alone[0].position}


def test_a_mixed_run_goes_on_where_it_was(make_shards: MakeShards, tmp_path) -> None:
    folders = [make_shards([6, 6], name="a"), make_shards([9], name="b")]
    changes = {"data": {"shards": [str(f) for f in folders], "mix": [2, 1], "augment": {"quarter_turns": 0.75}}}
    told = Quiet()
    train(config(folders[0], **changes), tmp_path / "whole", told)
    assert [line for line in told.said if line.startswith("mix:")][1].endswith("2.22 passes over 9 samples")
    assert any("drop (0 samples)" in line for line in told.said)
    train(config(folders[0], **changes), tmp_path / "torn", Quiet())
    newest = sorted((tmp_path / "torn/checkpoints").iterdir())[-1]
    newest.rename(tmp_path / "gone")
    train(config(folders[0], **changes), tmp_path / "torn", Quiet(), resume=True)
    assert_equal(tmp_path / "whole", tmp_path / "torn")


def test_what_cannot_be_mixed_is_named(make_shards: MakeShards, tmp_path) -> None:
    folder = make_shards([8])
    for mix, message in (([1, 2], "mix has 2 weights for 1 folders"), ([0], r"data.mix.0: Input should be greater")):
        with pytest.raises(InputError, match=message):
            config(folder, data={"mix": mix})
    with pytest.raises(InputError, match="shards has a folder twice"):
        config(folder, data={"shards": [str(folder)] * 2, "mix": [1, 1]})
    (tmp_path / "link").symlink_to(folder)
    for other in (f"{folder}/", str(tmp_path / "." / "link"), os.path.relpath(folder)):
        with pytest.raises(InputError, match=r"data.shards: .*shards and .* are the same shards; give them once, with"):
            train(config(folder, data={"shards": [str(folder), other], "mix": [1, 2]}), tmp_path / "run", Quiet())
        with pytest.raises(InputError, match=r"data.shards: .*shards and .* are the same shards; give them once$"):
            train(config(folder, data={"shards": [str(folder), other]}), tmp_path / "run", Quiet())
    with pytest.raises(InputError, match=r"data.shards: .*shards is given twice, .*; give it once"):
        train(config(folder, data={"shards": [str(folder)] * 2}), tmp_path / "run", Quiet())
    small = make_shards([2], side=(3, 3), name="small")
    with pytest.raises(InputError, match=r"data.mix: .*small has no sample"):
        train(config(folder, data={"shards": [str(folder), str(small)], "mix": [1, 1]}), tmp_path / "run", Quiet())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**62), part=st.integers(1, 2), groups=st.integers(1, 3), crops=st.integers(1, 2),
    window=st.integers(1, 3), mix=st.sampled_from([(), (1, 3), (2, 1)]), torn=st.integers(0, 12),
    worlds=st.tuples(st.integers(1, 4), st.integers(1, 4)), micro=st.integers(2, 8),
)  # fmt: skip
def test_going_on_anywhere_with_any_processes_asks_for_what_would_have_come(
    two: Corpus, seed: int, part: int, groups: int, crops: int, window: int, mix: tuple[int, ...], torn: int,
    worlds: tuple[int, int], micro: int,
) -> None:  # fmt: skip
    """Samples, places, epochs and crop noise of thirteen steps, torn off after any of them."""
    whole = StreamPlan(seed, 4 * part * groups * crops, micro, window, groups, crops=crops, mix=mix)
    expected = asked_of(two, [replace(whole, micro_batch=10**6)], 0, 13)
    first, then = (
        [replace(whole, rank=rank, world=world, micro_batch=micro + world) for rank in range(world)] for world in worlds
    )
    found = asked_of(two, first, 0, torn) + asked_of(two, then, torn, 13)
    assert len(found) == len(expected) == 13
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


def asked_of(corpus: Corpus, plans: list[StreamPlan], start: int, stop: int) -> list[list[np.ndarray]]:
    """For each step what all processes ask for: every column of the rows, and the noise."""
    streams = [requests(corpus, plan, start, stop) for plan in plans]
    steps = []
    for _ in range(start, stop):
        made = [next(stream) for plan, stream in zip(plans, streams, strict=True) for _ in range(plan.micro_batches)]
        columns = zip(*([*request.rows, request.noise] for request in made), strict=True)
        steps.append([np.concatenate(column) for column in columns])
    return steps
