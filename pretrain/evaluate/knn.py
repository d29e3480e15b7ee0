"""Weighted nearest neighbours on frozen features (Wu et al., Instance Discrimination, CVPR 2018, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def knn_scores(
    train: Tensor, labels: Tensor, test: Tensor, k: int, classes: int, temperature: float = 0.07, chunk: int = 1024
) -> Tensor:
    """Class scores: the k most similar training samples vote with exp(cosine / temperature).

    Args:
        train: (N, D) features.
        labels: (N,) int64.
        test: (M, D) features.
        k: neighbours, at most N.
        classes: number of classes.
        temperature: of the votes.
        chunk: test samples at a time.

    Returns:
        (M, classes) float64.
    """
    train, test = F.normalize(train.double(), dim=1), F.normalize(test.double(), dim=1)
    scores = torch.zeros(len(test), classes, dtype=torch.float64, device=test.device)
    for start in range(0, len(test), chunk):
        similarity, near = (test[start : start + chunk] @ train.T).topk(k, dim=1)
        scores[start : start + chunk].scatter_add_(1, labels[near], (similarity / temperature).exp())
    return scores


def knn_accuracy(
    train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, ks: list[int], temperature: float = 0.07
) -> dict[int, float]:
    """Share of test samples whose best-scored class is right, per ``k``; values of ``k`` above N are left out."""
    classes = int(torch.cat([labels, test_labels]).max()) + 1
    accuracy = {}
    for k in ks:
        if k <= len(train):
            guess = knn_scores(train, labels, test, k, classes, temperature).argmax(1)
            accuracy[k] = float((guess == test_labels).double().mean())
    return accuracy
