"""How right a classifier is, and how far that may be chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from curation.base.arrays import Ints

_RESAMPLES = 10_000
_AT_A_TIME = 500


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


ClassCounts = npt.NDArray[np.float64]
"""(..., 3, C): per class the pixels that were recognised, those that are of it, those that were taken for it."""


def counted(tables: Ints) -> ClassCounts:
    """Of confusion tables (..., C, C)."""
    right = np.diagonal(tables, axis1=-2, axis2=-1)
    return np.stack([right, tables.sum(-1), tables.sum(-2)], axis=-2).astype(np.float64)


def intersection_over_union(counts: ClassCounts) -> npt.NDArray[np.float64]:
    """(..., C); NaN for a class that neither is nor was guessed."""
    right, truth, guessed = np.moveaxis(counts, -2, 0)
    return _share(right, truth + guessed - right)


def f1(counts: ClassCounts) -> npt.NDArray[np.float64]:
    """(..., C): harmonic mean of precision and recall; NaN as above."""
    right, truth, guessed = np.moveaxis(counts, -2, 0)
    return _share(2 * right, truth + guessed)


def _share(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


Score = Callable[[ClassCounts], npt.NDArray[np.float64]]


def bootstrap_classes(
    images: ClassCounts, score: Score, minus: ClassCounts | None = None, level: float = 0.95
) -> Interval:
    """Percentile bootstrap over images of a mean over classes, from each image's counts (N, 3, C).

    Pixels of one image are no independent answers, so images are drawn. With ``minus``, the counts of another encoder
    on the same images, the interval is that of the difference.
    """

    def mean(counts: ClassCounts) -> npt.NDArray[np.float64]:
        return np.nanmean(score(counts), axis=-1)

    def difference(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        ours, *others = (np.tensordot(weights, each, 1) for each in (images, minus) if each is not None)
        return mean(ours) - (mean(others[0]) if others else 0)

    number, rng = len(images), np.random.default_rng(0)
    drawn = [
        difference(rng.multinomial(number, np.full(number, 1 / number), size=_AT_A_TIME).astype(np.float64))
        for _ in range(_RESAMPLES // _AT_A_TIME)
    ]
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(difference(np.ones((1, number)))[0]), float(low), float(high))
