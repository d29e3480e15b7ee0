"""Nearest neighbours against numbers that NumPy and scikit-learn computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from curation.base.errors import InputError
from pretrain.evaluate.knn import knn_scores


def test_equal_to_the_reference(shared: Path) -> None:
    data = np.load(shared / "reference" / "knn_reference.npz", allow_pickle=False)
    train, labels = torch.from_numpy(data["train_features"]), torch.from_numpy(data["train_labels"])
    test = torch.from_numpy(data["test_features"])
    for k in (1, 5, 20):
        plain = knn_scores(train, labels, test, k, 10, "plain", chunk=77).argmax(1)
        np.testing.assert_array_equal(plain.numpy(), data[f"pred_sklearn_k{k}"])
        scores = knn_scores(train, labels, test, k, 10)
        np.testing.assert_array_equal(scores.argmax(1).numpy(), data[f"pred_weighted_k{k}"])
    np.testing.assert_allclose(scores.numpy(), data["scores_weighted_k20"], rtol=2e-5)


def test_one_neighbour_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    train, test, labels = rng.normal(size=(200, 8)), rng.normal(size=(50, 8)), rng.integers(0, 4, 200)
    theirs = KNeighborsClassifier(1, metric="cosine").fit(train, labels).predict(test)
    ours = knn_scores(torch.from_numpy(train), torch.from_numpy(labels), torch.from_numpy(test), 1, 4).argmax(1)
    np.testing.assert_array_equal(ours, theirs)


def test_more_neighbours_than_images_are_refused() -> None:
    with pytest.raises(InputError, match="k 20: there are 6 images to train on; give --k 6 at most"):
        knn_scores(torch.randn(6, 3), torch.zeros(6, dtype=torch.int64), torch.randn(2, 3), 20, 2)
