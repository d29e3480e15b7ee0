"""The loss curve of one or several runs as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curation.base import settings
from pretrain.config import TrainConfig
from pretrain.errors import InputError
from pretrain.log import Log
from pretrain.run import RunFolder, writing

Against = Literal["epochs", "steps", "images", "hours"]


def plot_runs(runs: Sequence[Path], out: Path, against: Against = "epochs") -> None:
    """Draw loss and learning rate.

    Args:
        runs: folders of runs; each becomes a line named after its folder.
        out: ``.png`` or ``.svg``.
        against: what is done: epochs, optimiser steps, images seen, or hours of work (stops are left out).

    Raises:
        InputError: a run has no log, or the ending is another.
    """
    if out.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"{out}: the picture's name must end in .png or .svg")
    series = [(run.name, _points(run), _done(run, against)) for run in runs]
    # The object interface: pyplot would look for a display and keep figures alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    loss = figure.add_subplot()
    rate = loss.twinx()
    for name, points, done in series:
        values = np.array([point["loss"] for point in points], float)  # null becomes nan, a gap in the line
        (line,) = loss.plot(done, values, label=name)
        rate.plot(done, [point["lr"] for point in points], color=line.get_color(), linestyle=":", linewidth=1)
    loss.set_xlabel(against)
    loss.set_ylabel("loss")
    rate.set_ylabel("learning rate (dotted)")
    loss.grid(alpha=0.3)
    if len(series) > 1:
        loss.legend()
    with writing(out) as aside:
        figure.savefig(aside, format=out.suffix[1:].lower(), dpi=150)


def _done(run: Path, against: Against) -> npt.NDArray[np.float64]:
    """How much was done at each record of the log."""
    points = _points(run)
    if against == "epochs":
        return np.array([point["epoch"] for point in points])
    steps = np.array([point["step"] for point in points], float)
    if against == "steps":
        return steps
    images = steps * settings.load(TrainConfig, RunFolder(run).config).global_batch
    if against == "images":
        return images
    rates = np.array([point["samples_per_s"] for point in points], float)
    return np.cumsum(np.diff(images, prepend=0) / np.maximum(rates, 1e-9)) / 3600


def _points(run: Path) -> list[dict[str, Any]]:
    points = list(Log(RunFolder(run).log).records())
    if not points:
        raise InputError(f"{run}: has no log.jsonl with records; give the folder that was --out of rs-pretrain train")
    return points
