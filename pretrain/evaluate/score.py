"""How right a classifier is, and how far that may be chance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from curation.base.arrays import Ints

_RESAMPLES = 10_000


class Interval(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: npt.ArrayLike, level: float = 0.95, resamples: int = _RESAMPLES) -> Interval:
    """Percentile bootstrap of a mean over images (Efron, Tibshirani, An Introduction to the Bootstrap, section 13.3).

    How often each distinct value is drawn follows a multinomial distribution, so no image is drawn on its own: 50,000
    answers cost what 50 do. For right and wrong these are quantiles of the binomial distribution.

    Args:
        values: one number per image: 1 where it was classified rightly, or the difference of two classifiers.
        level: share of the resamples that lie inside.
        resamples: their number.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    number = int(counts.sum())
    draws = np.random.default_rng(0).multinomial(number, counts / number, size=resamples)
    low, high = np.quantile(draws @ distinct / number, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(distinct @ counts / number), float(low), float(high))


def per_class(guesses: Ints, truth: Ints, classes: int) -> list[float | None]:
    """Share of each class's images that were recognised; None for a class without test images."""
    table = confusion(guesses, truth, classes)
    return [row[label] / row.sum() if row.sum() else None for label, row in enumerate(table)]


def confusion(guesses: Ints, truth: Ints, classes: int) -> Ints:
    """Images of a class (row) that were taken for a class (column): (C, C)."""
    return np.bincount(truth * classes + guesses, minlength=classes**2).reshape(classes, classes)
