"""Intervals against the binomial distribution, and tables against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import confusion_matrix, recall_score

from pretrain.evaluate.score import bootstrap, confusion, per_class


@pytest.mark.parametrize(("right", "number"), [(700, 1400), (90, 100), (0, 20), (49_000, 50_000)])
def test_the_interval_of_an_accuracy_is_the_binomials(right: int, number: int) -> None:
    mean, low, high = bootstrap(np.arange(number) < right)
    assert mean == right / number
    error = 4 / number**0.5 / 100  # of 10,000 resamples
    assert low == pytest.approx(binom.ppf(0.025, number, mean) / number, abs=error + 1 / number)
    assert high == pytest.approx(binom.ppf(0.975, number, mean) / number, abs=error + 1 / number)


def test_differences_of_the_same_images_are_narrower_than_of_two_accuracies() -> None:
    first = np.arange(1000) < 700
    second = np.arange(1000) < 680
    mean, low, high = bootstrap(first.astype(int) - second.astype(int))
    # 20 images of 1,000 differ, all one way: 0.02 +- 1.96 * sqrt(0.02 * 0.98 / 1000)
    assert mean == pytest.approx(0.02)
    assert (low, high) == (pytest.approx(0.0113, abs=2e-3), pytest.approx(0.0287, abs=2e-3))


def test_per_class_and_confusion_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, guesses = rng.integers(0, 4, 200), rng.integers(0, 5, 200)
    np.testing.assert_array_equal(confusion(guesses, truth, 5), confusion_matrix(truth, guesses, labels=range(5)))
    ours = per_class(guesses, truth, 5)
    np.testing.assert_allclose(ours[:4], recall_score(truth, guesses, labels=range(4), average=None))
    assert ours[4] is None
