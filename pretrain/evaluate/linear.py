"""Linear probes on frozen features: logistic regression to its optimum, or MAE's recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from timm.optim import Lars
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.config import OptimConfig
from pretrain.evaluate.labelled import split
from pretrain.schedule import learning_rate, set_rate

PENALTIES = tuple(10.0**power for power in range(1, -7, -1))
"""Weights of the L2 penalty that are tried, strongest first, so that each starts where the one before ended."""
RATES = (0.1, 1.0, 10.0, 100.0)
"""Base learning rates of LARS that are tried; the first is MAE's, which its 7,000 steps of 16,384 images suit."""


@dataclass(frozen=True)
class Linear:
    """A linear classifier on standardised features."""

    weight: Tensor
    """(C, D) float64."""
    bias: Tensor
    mean: Tensor
    deviation: Tensor
    """(D,) of the training features; 1 where a feature never changes."""
    penalty: float

    def logits(self, features: Tensor) -> Tensor:
        """(M, C) float64."""
        return standardised(features, self.mean, self.deviation) @ self.weight.T + self.bias


def standardised(features: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Features (N, D) in deviations from the mean, float64."""
    return (features.double() - mean) / deviation


Classifier = Callable[[Tensor], Tensor]
"""From features (M, D) to logits (M, C)."""


def swept(
    fit: Callable[[Tensor, Tensor, float], Classifier], settings: Sequence[float], train: Tensor, labels: Tensor,
    held_out: float = 0.2, seed: int = 0,
) -> float:  # fmt: skip
    """The setting that is best on a held-out part of the training samples; the test samples play no part.

    That is the one with the most right answers, among equals the one with the least loss. Settings are tried in order,
    until two in a row are no better than the best before them.

    Args:
        fit: makes a classifier of samples (n, D), their labels (n,), and a setting.
        settings: those to try.
        train: (N, D) features.
        labels: (N,) int64.
        held_out: share of each class that is held out.
        seed: of that choice.
    """
    fitted, held = (torch.from_numpy(rows) for rows in split(labels.cpu().numpy(), 1 - held_out, seed))
    best, chosen, worse = (-1.0, 0.0), settings[0], 0
    for setting in settings:
        logits = fit(train[fitted], labels[fitted], setting)(train[held])
        right = float((logits.argmax(1) == labels[held]).double().mean())
        found = (right, -float(F.cross_entropy(logits, labels[held])))
        best, chosen, worse = (found, setting, 0) if found > best else (best, chosen, worse + 1)
        if worse == 2:
            break
    return chosen


def fit_swept(train: Tensor, labels: Tensor, classes: int, held_out: float = 0.2, seed: int = 0) -> Linear:
    """Logistic regression whose penalty is :func:`swept`, from the strongest on, and which is then fitted to all."""
    last: list[Linear] = []

    def tried(x: Tensor, y: Tensor, penalty: float) -> Classifier:
        last[:] = [fit(x, y, classes, penalty, last[0] if last else None, steps=300)]
        return last[0].logits

    return fit(train, labels, classes, swept(tried, PENALTIES, train, labels, held_out, seed))


def fit(
    train: Tensor, labels: Tensor, classes: int, penalty: float, start: Linear | None = None, steps: int = 5000
) -> Linear:
    """Multinomial logistic regression to its optimum by L-BFGS, as scikit-learn's with ``C = 1 / (penalty * N)``.

    Minimised is the mean cross-entropy plus ``penalty / 2`` times the squared norm of the weights; the biases are free.

    Args:
        train: (N, D) features; they are standardised first.
        labels: (N,) int64.
        classes: number of classes.
        penalty: weight of the L2 penalty.
        start: where to begin; by default at zero.
        steps: of L-BFGS at most.
    """
    mean, deviation = train.double().mean(0), train.double().std(0, correction=0)
    deviation = torch.where(deviation > 1e-8, deviation, 1.0)
    x = torch.cat([standardised(train, mean, deviation), train.new_ones(len(train), 1).double()], dim=1)
    width = x.shape[1]
    truth = F.one_hot(labels, classes).double()

    def objective(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights = torch.from_numpy(flat).view(classes, width).to(x.device)
        free = weights.clone()
        free[:, -1] = 0
        logs = F.log_softmax(x @ weights.T, dim=1)
        gradient = (logs.exp() - truth).T @ x / len(x) + penalty * free
        loss = -(truth * logs).sum() / len(x) + penalty / 2 * free.square().sum()
        return float(loss), gradient.flatten().cpu().numpy()

    first = np.zeros(classes * width)
    if start is not None:
        first = torch.cat([start.weight, start.bias[:, None]], dim=1).flatten().cpu().numpy()
    options = {"maxiter": steps, "maxfun": 2 * steps, "gtol": 1e-6, "maxcor": 20}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    weights = torch.from_numpy(found.x).view(classes, width).to(x.device)
    return Linear(weights[:, :-1], weights[:, -1], mean, deviation, penalty)


def fit_lars(
    train: Tensor, labels: Tensor, classes: int, base_lr: float = RATES[0], *, epochs: int = 90, batch: int = 256,
    seed: int = 0,
) -> Classifier:  # fmt: skip
    """MAE's recipe (He et al. 2022, appendix A.1, table 10): LARS on a linear layer behind BatchNorm without affine.

    The paper trains on augmented images; here features are fixed. Ten epochs warm up.

    Args:
        train: (N, D) features.
        labels: (N,) int64.
        classes: number of classes.
        base_lr: learning rate for 256 samples a step.
        epochs: length.
        batch: samples per step; the rate follows it.
        seed: of start and order.
    """
    torch.manual_seed(seed)
    head = nn.Linear(train.shape[1], classes)
    nn.init.trunc_normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    probe = nn.Sequential(nn.BatchNorm1d(train.shape[1], affine=False, eps=1e-6), head).to(train.device)
    # The release scales the rate of matrices by the trust ratio, never that of biases.
    groups = [{"params": [head.weight], "always_adapt": True}, {"params": [head.bias]}]
    optimizer = Lars(groups, lr=0.0, momentum=0.9)
    rates = OptimConfig(base_lr=base_lr, warmup_epochs=min(10, epochs))
    size = min(batch, len(train))
    steps = len(train) // size
    for step in range(epochs * steps):
        if step % steps == 0:
            order = torch.randperm(len(train)).to(train.device)
        rows = order[step % steps * size : (step % steps + 1) * size]
        set_rate(optimizer, learning_rate(rates, size, step, steps, epochs))
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(probe(train[rows]), labels[rows]))
        optimizer.step()
    probe.eval().requires_grad_(False)
    return probe
