"""The linear probe finds scikit-learn's optimum, and chooses its penalty without the test images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from pretrain.evaluate.linear import PENALTIES, fit, fit_lars, fit_swept, swept


def blobs(number: int, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, number)
    means = np.random.default_rng(9).normal(size=(4, 12))
    features = means[labels] + rng.normal(scale=spread, size=(number, 12))
    features *= np.logspace(-2, 3, 12)
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


@pytest.mark.parametrize("penalty", [1e-1, 1e-3, 1e-5])
def test_equal_to_scikit_learns_optimum(penalty: float) -> None:
    x, y = blobs(300, 2.0)
    theirs = LogisticRegression(C=1 / (penalty * 300), tol=1e-10, max_iter=20_000)
    scaled = StandardScaler().fit_transform(x.double().numpy())
    theirs.fit(scaled, y.numpy())

    def objective(weight: torch.Tensor, bias: torch.Tensor) -> float:
        logits = torch.from_numpy(scaled) @ weight.T + bias
        return float(F.cross_entropy(logits, y) + penalty / 2 * weight.square().sum())

    ours = fit(x, y, 4, penalty)
    best = objective(torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_))
    assert objective(ours.weight, ours.bias) == pytest.approx(best, abs=1e-6)
    np.testing.assert_allclose(ours.logits(x).softmax(1).numpy(), theirs.predict_proba(scaled), atol=2e-3)


def test_the_penalty_is_chosen_on_what_is_held_out() -> None:
    x, y = blobs(60, 1.5)
    test_x, test_y = blobs(500, 1.5, seed=1)
    generator = torch.Generator().manual_seed(0)
    x, test_x = (torch.cat([each, torch.randn(len(each), 100, generator=generator)], dim=1) for each in (x, test_x))
    losses = {penalty: float(F.cross_entropy(fit(x, y, 4, penalty).logits(test_x), test_y)) for penalty in PENALTIES}
    chosen = fit_swept(x, y, 4).penalty
    # With more features than images weak penalties learn the noise; the test images were not asked for the choice.
    assert losses[1e-6] > 1.5 * losses[chosen]


def test_a_sweep_takes_the_best_and_stops_when_it_gets_worse() -> None:
    x, y = torch.randn(40, 2), torch.cat([torch.zeros(20), torch.ones(20)]).long()
    tried = []

    def fitted(train: torch.Tensor, labels: torch.Tensor, share: float) -> object:
        tried.append((share, len(train)))
        right = iter({1: 0.5, 2: 0.75, 3: 0.5, 4: 0.25, 5: 1.0}[int(share)] * 8 > n for n in range(8))
        return lambda held: torch.tensor([[1.0, 0.0] if ok == (n < 4) else [0.0, 1.0] for n, ok in enumerate(right)])

    assert swept(fitted, [1, 2, 3, 4, 5], x, y) == 2
    assert tried == [(share, 32) for share in (1, 2, 3, 4)]


def test_lars_learns_what_logistic_regression_learns() -> None:
    x, y = blobs(600, 1.0)
    test_x, test_y = blobs(300, 1.0, seed=1)
    best = float((fit(x, y, 4, 1e-2).logits(test_x).argmax(1) == test_y).double().mean())
    found = float((fit_lars(x, y, 4, 10.0, batch=64)(test_x).argmax(1) == test_y).double().mean())
    assert best > 0.9 and found > best - 0.03
    torch.testing.assert_close(fit_lars(x, y, 4, epochs=2)(test_x), fit_lars(x, y, 4, epochs=2)(test_x))
