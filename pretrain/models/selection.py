"""Which tokens SelectiveMAE sees and rebuilds. Everything is a top-k of fixed size, so nothing recompiles.

Seeds and targets: by HOG richness. Further visible tokens: progressive semantic token selection (PSTS) by cosine
similarity to the tokens chosen so far: near, then far, then random ones as training advances.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

ChoiceRule = Literal["hog_sample", "hog_topk", "half_hog", "uniform"]
Borders = tuple[float, float, float, float]

CHOSEN_FIRST = 10.0
"""Lifts a priority above every cosine (at most 1) and every noise value (below 1)."""


def choose(
    rule: ChoiceRule, score: Tensor, noise: Tensor, count: int, temperature: float, taken: Tensor | None = None
) -> Tensor:
    """Choose ``count`` patches per image.

    Args:
        rule: ``hog_sample`` draws without replacement with odds exp(z / temperature), z the score standardised over
            its image (Gumbel top-k); ``hog_topk`` takes the highest scores and lets noise decide among equal ones only;
            ``half_hog`` takes floor(count / 2) as ``hog_topk`` and the others uniformly among the rest; ``uniform``
            ignores the score.
        score: (B, N) richness.
        noise: (B, N) uniform in [0, 1).
        count: patches to choose.
        temperature: of ``hog_sample``.
        taken: (B, N) bool, patches that may not be chosen.

    Returns:
        (B, count) int64 ids, by falling priority.
    """
    if rule == "hog_topk":
        return _topk_fair(score, noise, count, taken)
    if rule == "half_hog":
        rich = _topk_fair(score, noise, count // 2, taken)
        refused = mark(rich, score.shape[1]) if taken is None else mark(rich, score.shape[1]) | taken
        return torch.cat([rich, choose("uniform", score, noise, count - count // 2, temperature, refused)], dim=1)
    priority = _standardised(score) / temperature + _gumbel(noise) if rule == "hog_sample" else noise
    return _mask(priority, taken).topk(count, dim=1).indices


def inverse_odds(score: Tensor, noise: Tensor, count: int, temperature: float, taken: Tensor | None = None) -> Tensor:
    """One over the odds at which ``hog_sample`` draws each patch, (B, N): weights that make its draws represent all.

    The odds are those of a patch's priority to exceed the greatest that was not chosen (Kool et al., Stochastic Beams
    and Where to Find Them, ICML 2019, section 4.2). Arguments as for :func:`choose`.
    """
    z = _standardised(score) / temperature
    priorities = _mask(z + _gumbel(noise), taken)
    threshold = priorities.topk(count + 1, dim=1).values[:, -1:]
    return -1 / torch.expm1(-torch.exp(z - threshold))


def _standardised(score: Tensor) -> Tensor:
    centred = score - score.mean(dim=1, keepdim=True)
    # The floor keeps rounding errors of an evenly textured image from being standardised into a preference.
    floor = 1e-5 * score.mean(dim=1, keepdim=True) + 1e-12
    return centred / (centred.square().mean(dim=1, keepdim=True).sqrt() + floor)


def _topk_fair(score: Tensor, noise: Tensor, count: int, taken: Tensor | None) -> Tensor:
    """Top-k with ties decided by a random permutation; small added noise would swap unequal scores too."""
    shuffle = noise.argsort(dim=1)
    shuffled = _mask(score, taken).gather(1, shuffle)
    return shuffle.gather(1, shuffled.sort(dim=1, descending=True, stable=True).indices[:, :count])


def _gumbel(noise: Tensor) -> Tensor:
    return -torch.log(-torch.log(noise.clamp(1e-7, 1 - 1e-7)))


def _mask(priority: Tensor, taken: Tensor | None) -> Tensor:
    return priority if taken is None else priority.masked_fill(taken, -torch.inf)


def expand(
    tokens: Tensor, seeds: Tensor, counts: tuple[int, int], noise: Tensor, progress: Tensor, borders: Borders
) -> Tensor:
    """Add tokens to the seeds in two sub-steps (PSTS, section 3.3 of the paper).

    Args:
        tokens: (B, N, D) float32 patch embedding plus position.
        seeds: (B, S) ids.
        counts: tokens added by each sub-step; those of the first count as chosen in the second.
        noise: (B, N) uniform, the priority of the random stage.
        progress: 0-d, share of training done.
        borders: shares of training where near ends, far begins, far ends, random begins; blended linearly between.

    Returns:
        (B, S + sum(counts)) ids, seeds first.
    """
    norms = tokens.norm(dim=2)
    taken = mark(seeds, tokens.shape[1])
    late, first_share = stage(progress, borders)
    closest, fresh, chosen = None, seeds, [seeds]
    for count in counts:
        cosine = _closest_cosine(tokens, norms, fresh)
        closest = cosine if closest is None else torch.maximum(closest, cosine)
        first = torch.where(late, -closest, closest)
        second = torch.where(late, noise, -closest)
        fresh = _blend(first.masked_fill(taken, -torch.inf), second.masked_fill(taken, -torch.inf), count, first_share)
        chosen.append(fresh)
        taken = taken | mark(fresh, tokens.shape[1])
    return torch.cat(chosen, dim=1)


def stage(progress: Tensor, borders: Borders) -> tuple[Tensor, Tensor]:
    """Which two criteria are blended, and how.

    Returns:
        ``late``: 0-d bool, False while near gives way to far, True while far gives way to random; and the share (0-d)
        of the first of the two.
    """
    near_ends, far_begins, far_ends, random_begins = borders
    late = progress > far_begins
    early_share = (progress - near_ends) / max(far_begins - near_ends, 1e-9)
    late_share = (progress - far_ends) / max(random_begins - far_ends, 1e-9)
    return late, 1 - torch.where(late, late_share, early_share).clamp(0, 1)


def _closest_cosine(tokens: Tensor, norms: Tensor, ids: Tensor) -> Tensor:
    """Greatest cosine similarity of every token to the tokens ``ids``: (B, N)."""
    chosen = tokens.gather(1, ids[:, :, None].expand(-1, -1, tokens.shape[2]))
    chosen = chosen / norms.gather(1, ids)[:, :, None]
    best: Tensor = (tokens @ chosen.transpose(1, 2)).amax(dim=2)
    return best / norms


def _blend(first: Tensor, second: Tensor, count: int, share: Tensor) -> Tensor:
    """The best floor(share * count) by ``first``, then the best of the rest by ``second``, as one top-k."""
    # 1e-4: a share of one half computed in float32 must not lose a token to rounding.
    quota = torch.floor(share * count + 1e-4)
    leaders = first.topk(count, dim=1).indices
    within = torch.arange(count, device=first.device) < quota
    lifted = torch.zeros_like(first).scatter(
        1, leaders, within.to(first.dtype).expand(first.shape[0], -1) * CHOSEN_FIRST
    )
    return (second + lifted).topk(count, dim=1).indices


def mark(ids: Tensor, size: int) -> Tensor:
    """Boolean (B, size) that is True at ``ids`` (B, n)."""
    return torch.zeros(ids.shape[0], size, dtype=torch.bool, device=ids.device).scatter(1, ids, True)
