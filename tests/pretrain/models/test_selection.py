"""Token selection: the official expansion, odds of the draws, ties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from official import channels_first, load

from pretrain.models.hog import richness
from pretrain.models.selection import choose, expand, inverse_odds, stage

BORDERS = (0.35, 0.375, 0.725, 0.75)


@pytest.fixture(scope="module")
def reference(shared):
    return load(shared, "selective_tiny")


@pytest.mark.parametrize("case", ["tok36", "rand36", "tok196"])
@pytest.mark.parametrize(
    ("name", "epoch"), [("near", 0), ("near", 100), ("near", 280), ("far", 300), ("far", 400), ("far", 580)]
)
def test_equals_the_official_expansion(reference, case, name, epoch):
    compare(reference, case, name, epoch)


@pytest.mark.parametrize("case", ["tok36", "rand36", "tok196"])
def test_equals_the_official_mixture_of_near_and_far(reference, case):
    compare(reference, case, "mix", 290)


def compare(reference, case, name, epoch):
    tokens = reference["b_tokens"] if case == "tok196" else reference[f"c_{case}_x"]
    seeds = reference[f"c_{case}_initial_ids"]
    expected = [reference[f"c_{case}_{name}_added_step{i}"] for i in (1, 2)]
    counts = (expected[0].shape[1], expected[1].shape[1])
    ids = expand(tokens, seeds, counts, torch.rand(tokens.shape[:2]), torch.tensor(epoch / 800), BORDERS)
    assert torch.equal(ids[:, : seeds.shape[1]], seeds)
    steps = ids[:, seeds.shape[1] :].split(counts, dim=1)
    for ours, theirs in zip(steps, expected, strict=True):
        assert torch.equal(ours.sort().values, theirs.sort().values)


@pytest.mark.parametrize(
    ("progress", "one", "two"),
    [
        # Near: 10 degrees; then, from 0 and 10, those at 20 (10 away) and 60 (50 away).
        (0.0, [1], {2, 3}),
        # Far: 180 degrees; then, from 0 and 180, those at 100 (80 away) and 60 (60 away).
        (0.5, [5], {4, 3}),
    ],
)
def test_directions_worked_out_by_hand(progress, one, two):
    angles = torch.tensor([0.0, 10, 20, 60, 100, 180]).deg2rad()
    lengths = torch.tensor([1.0, 5, 0.1, 2, 3, 7])  # a cosine does not see them
    tokens = (torch.stack([angles.cos(), angles.sin()], dim=1) * lengths[:, None])[None]
    ids = expand(tokens, torch.tensor([[0]]), (1, 2), torch.rand(1, 6), torch.tensor(progress), BORDERS)
    assert ids[0, :2].tolist() == [0, *one] and set(ids[0, 2:].tolist()) == two


@pytest.mark.parametrize(
    ("epoch", "late", "share"),
    [
        (0, False, 1),
        (280, False, 1),
        (285, False, 0.75),
        (300, False, 0),
        (301, True, 1),
        (580, True, 1),
        (595, True, 0.25),
        (600, True, 0),
        (800, True, 0),
    ],
)
def test_stages_follow_the_released_epochs(epoch, late, share):
    measured = stage(torch.tensor(epoch / 800), BORDERS)
    assert bool(measured[0]) is late
    assert measured[1].item() == pytest.approx(share, abs=1e-5)


def test_coinciding_borders_switch_at_once():
    assert stage(torch.tensor(0.5), (0.5, 0.5, 0.5, 0.5))[1] == 1
    late, share = stage(torch.tensor(0.51), (0.5, 0.5, 0.5, 0.5))
    assert late and share == 0


def test_the_last_stage_follows_the_noise_alone():
    tokens, noise = torch.randn(2, 30, 8), torch.rand(2, 30)
    seeds = torch.tensor([[0, 1], [2, 3]])
    ids = expand(tokens, seeds, (3, 4), noise, torch.tensor(0.9), BORDERS)[:, 2:]
    best = noise.scatter(1, seeds, -1.0).topk(7, dim=1).indices
    assert torch.equal(ids, best)


def test_sampled_seeds_follow_hog_energy(shared):
    images = channels_first(load(shared, "hog_energy")["images_u8"])
    score = richness(images, 16)
    torch.manual_seed(0)
    counts = torch.zeros(4, 196)
    for _ in range(1000):
        counts.scatter_add_(1, choose("hog_sample", score, torch.rand(4, 196), 14, 1.0), torch.ones(4, 14))
    for image in range(4):
        assert torch.corrcoef(torch.stack([counts[image], score[image]]))[0, 1] >= 0.8


def test_first_draw_has_the_odds_of_a_softmax():
    score = torch.tensor([[0.0, 1.0, 2.0, 5.0]])
    z = (score - score.mean()) / score.std(unbiased=False)
    torch.manual_seed(0)
    first = choose("hog_sample", score.expand(40_000, -1), torch.rand(40_000, 4), 1, 0.7)[:, 0]
    odds = first.bincount(minlength=4) / 40_000
    assert torch.allclose(odds, (z[0] / 0.7).softmax(0), atol=0.01)


def test_weighted_draws_estimate_the_sum_over_all_that_could_be_drawn():
    torch.manual_seed(0)
    draws, values = 20_000, torch.tensor([5.0, -3.0, 2.0, 8.0, 1.0, 100.0, 4.0, -7.0])
    score = torch.tensor([3.0, 9.0, 1.0, 7.0, 2.0, 8.0, 0.0, 4.0]).expand(draws, -1)
    taken = torch.zeros(draws, 8, dtype=torch.bool)
    taken[:, 5] = True
    noise = torch.rand(draws, 8)
    ids = choose("hog_sample", score, noise, 3, 0.8, taken)
    weighted = (values[ids] * inverse_odds(score, noise, 3, 0.8, taken).gather(1, ids)).sum(1)
    error = weighted.std() / draws**0.5
    assert abs(weighted.mean() - 10.0) < 4 * error  # 5 - 3 + 2 + 8 + 1 + 4 - 7
    assert abs(values[ids].sum(1).mean() * 7 / 3 - 10.0) > 4 * error  # unweighted draws prefer the rich


def test_where_all_are_drawn_all_weigh_the_same():
    taken = torch.tensor([[True, False, False, False]])
    weights = inverse_odds(torch.rand(1, 4), torch.rand(1, 4), 3, 1.0, taken)
    assert torch.equal(weights[:, 1:], torch.ones(1, 3))


def test_half_of_the_targets_are_the_richest_and_the_others_anything_else():
    torch.manual_seed(0)
    score = torch.tensor([3.0, 9.0, 1.0, 7.0, 2.0, 8.0, 0.0, 4.0]).expand(4000, -1)
    taken = torch.zeros(4000, 8, dtype=torch.bool)
    taken[:, 1] = True  # the richest is visible
    ids = choose("half_hog", score, torch.rand(4000, 8), 5, 1.0, taken)
    assert (ids[:, :2] == torch.tensor([5, 3])).all()
    counts = ids[:, 2:].flatten().bincount(minlength=8)[[0, 2, 4, 6, 7]].float()
    assert counts.sum() == 12_000
    assert ((counts - 2400).square() / 2400).sum() < 18.5  # 0.1 % point of chi-square, 4 degrees of freedom


@pytest.mark.parametrize("rule", ["hog_sample", "hog_topk", "half_hog", "uniform"])
def test_a_constant_image_is_chosen_from_uniformly(rule):
    torch.manual_seed(0)
    ids = choose(rule, torch.zeros(4000, 10), torch.rand(4000, 10), 3, 1.0)
    counts = ids.flatten().bincount(minlength=10).float()
    assert ((counts - 1200).square() / 1200).sum() < 27.9  # 0.1 % point of chi-square, 9 degrees of freedom


def test_noise_never_overrules_a_higher_score():
    score = torch.tensor([[1.0, 1.0 + 1e-6, 1.0, 0.5]])
    for seed in range(20):
        torch.manual_seed(seed)
        ids = choose("hog_topk", score, torch.rand(1, 4), 3, 1.0)[0].tolist()
        assert ids[0] == 1 and set(ids[1:]) == {0, 2}


@settings(max_examples=40, deadline=None)
@given(
    rule=st.sampled_from(["hog_sample", "hog_topk", "half_hog", "uniform"]),
    progress=st.floats(0, 1),
    seed=st.integers(0, 2**31),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6)),
)
def test_ids_never_repeat(rule, progress, seed, sizes):
    torch.manual_seed(seed)
    seeds_count, one, two, targets = sizes
    score, tokens = torch.rand(2, 20).round(decimals=1), torch.randn(2, 20, 4)
    seeds = choose(rule, score, torch.rand(2, 20), seeds_count, 1.0)
    visible = expand(tokens, seeds, (one, two), torch.rand(2, 20), torch.tensor(progress), BORDERS)
    taken = torch.zeros(2, 20, dtype=torch.bool).scatter(1, visible, True)
    chosen = torch.cat([visible, choose(rule, score, torch.rand(2, 20), targets, 1.0, taken)], dim=1)
    for row in chosen.tolist():
        assert len(set(row)) == sum(sizes) == len(row)
