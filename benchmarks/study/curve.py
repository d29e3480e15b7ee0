"""How an arm learns: asked at the quarters of a run, and drawn against images and against seconds."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.study.arms import ARMS
from pretrain.config import TrainConfig
from pretrain.distributed import Team
from pretrain.errors import InputError
from pretrain.evaluate.features import Work
from pretrain.evaluate.labelled import Divided
from pretrain.evaluate.protocols import AnyProtocol, ask
from pretrain.evaluate.watch import running
from pretrain.models import Objective

QUARTERS = 4
DRAWN = ("mae", "selective", "targets_uniform", "seeds_targets_uniform", "random", "random_mixture_hog_loss")
"""Arms of the picture."""


@dataclass
class Quarters:
    """Asks a run at its quarters but the last, where the cell itself asks; ``train`` calls it."""

    config: TrainConfig
    sets: dict[str, Divided]
    protocols: dict[str, AnyProtocol]
    every: int
    """Steps."""
    cpu_seconds: float = field(default=0.0, init=False)
    """Spent in asking, which is no training."""

    def __call__(self, model: Objective, team: Team, done: int) -> dict[str, Any]:
        """Protocol to accuracy over the test images of all sets; nothing at the end."""
        if done // self.every >= QUARTERS:
            return {}
        start, work = time.process_time(), Work()
        try:
            with torch.random.fork_rng():
                right = {name: self._right(model, done, how, work) for name, how in self.protocols.items()}
        except InputError:  # features that are not finite: the run is about to say so
            return {}
        self.cpu_seconds += time.process_time() - start
        return {name: round(float(share), 5) for name, share in right.items()}

    def _right(self, model: Objective, done: int, how: AnyProtocol, work: Work) -> np.floating[Any]:
        """Over the test images of all sets."""
        encoder = running(model, self.config, done, how.pool)
        return np.concatenate([np.array(ask(encoder, data, how, work).right) for data in self.sets.values()]).mean()


def draw(cells: dict[str, list[dict[str, Any]]], cost: dict[str, float], protocol: str, out: Path) -> bool:
    """Mean over the seeds against images and against seconds as measured; False where no two arms were asked so.

    Args:
        cells: arm to its cells of one preset and budget.
        cost: arm to CPU seconds an image.
        protocol: of the accuracies.
        out: ``.svg``.
    """
    lines = {arm: line for arm in DRAWN if len(line := points(cells, arm, protocol)) > 1}
    if len(lines) < 2:
        return False
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    against = figure.subplots(1, 2, sharey=True)
    for arm, line in lines.items():
        images, accuracy = np.array(line).T
        for axes, scale in zip(against, (1e-3, cost[arm]), strict=True):
            axes.plot(images * scale, 100 * accuracy, marker="o", markersize=3, label=ARMS[arm].words)
    against[0].set(xlabel="thousand images", ylabel=f"{protocol}, % of both sets")
    against[1].set(xlabel="seconds of one core")
    against[1].legend(fontsize=6)
    for axes in against:
        axes.grid(alpha=0.3)
    with rc_context({"svg.hashsalt": protocol}):  # the same cells, the same file
        figure.savefig(out, metadata={"Date": None})
    return True


def points(cells: dict[str, list[dict[str, Any]]], arm: str, protocol: str) -> list[tuple[float, float]]:
    """Images seen and accuracy over all test images, mean of the seeds; begins with the encoders before training."""
    found: dict[int, list[float]] = defaultdict(list)
    asked = [cell for cell in cells.get(arm, []) if cell.get("quarters")]
    seeds = {cell["seed"] for cell in asked}
    for cell in asked:
        for images, accuracies in cell["quarters"]:
            found[images].append(accuracies[protocol])
        found[cell["images"]].append(pooled(cell, protocol))
    for cell in cells.get("untrained", []):
        if cell["seed"] in seeds:
            found[0].append(pooled(cell, protocol))
    return sorted((images, float(np.mean(each))) for images, each in found.items())


def pooled(cell: dict[str, Any], protocol: str) -> float:
    """A cell's accuracy over the test images of all sets."""
    asked = [by[protocol] for by in cell["answers"].values()]
    return float(np.average([each["accuracy"] for each in asked], weights=[each["images"] for each in asked]))
