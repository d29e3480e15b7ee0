"""Nearest neighbours on features, weighted (Wu et al., Instance Discrimination, CVPR 2018, section 3.4) or plain."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.errors import InputError

Votes = Literal["weighted", "plain"]
_CHUNK_BYTES = 1 << 26
"""Of similarities that are held at a time."""


def knn_scores(
    train: Tensor, labels: Tensor, test: Tensor, k: int, classes: int, votes: Votes = "weighted",
    temperature: float = 0.07, chunk: int | None = None,
) -> Tensor:  # fmt: skip
    """Class scores: the k most similar training samples vote, with exp(cosine / temperature) or with one vote each.

    Args:
        train: (N, D) features.
        labels: (N,) int64.
        test: (M, D) features.
        k: neighbours.
        classes: number of classes.
        votes: weighted or plain. Plain votes that tie go to the lowest class, as in scikit-learn.
        temperature: of weighted votes.
        chunk: test samples at a time; by default as many as 64 MB of similarities hold.

    Returns:
        (M, classes) float64.

    Raises:
        InputError: ``k`` is more than N.
    """
    refuse_too_many(k, len(train))
    train, test = F.normalize(train.float(), dim=1), F.normalize(test.float(), dim=1)
    scores = torch.zeros(len(test), classes, dtype=torch.float64, device=test.device)
    chunk = chunk or max(1, _CHUNK_BYTES // (4 * len(train)))
    for start in range(0, len(test), chunk):
        similarity, near = (test[start : start + chunk] @ train.T).topk(k, dim=1)
        weights = (similarity.double() / temperature).exp() if votes == "weighted" else torch.ones_like(near).double()
        scores[start : start + chunk].scatter_add_(1, labels[near], weights)
    return scores


def refuse_too_many(k: int, images: int) -> None:
    """Refuse more neighbours than training images.

    Raises:
        InputError: ``k`` is more than ``images``.
    """
    if k > images:
        raise InputError(f"k {k}: there are {images} images to train on; give --k {images} at most")
