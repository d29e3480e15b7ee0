"""The confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from curation.base.arrays import Ints
from pretrain.run import writing

_NUMBERED = 25
"""Classes up to which the numbers fit into their squares."""


def draw_confusion(table: Ints, classes: Sequence[str], title: str, out: Path) -> None:
    """Draw which classes were taken for which, in percent of each class's test images.

    Args:
        table: (C, C) images of a class (row) that were taken for a class (column).
        classes: their names.
        title: stands above.
        out: PNG to write.
    """
    from matplotlib.figure import Figure  # the object interface: pyplot would look for a display

    share = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
    side = 2.5 + 0.32 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, vmin=0, vmax=100, cmap="Blues")
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=90)
    axes.set_yticks(places, classes)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    axes.set_title(title, fontsize="medium")
    for row, column in zip(*np.nonzero(share >= 0.5), strict=True):
        if len(classes) <= _NUMBERED:
            colour = "white" if share[row, column] > 60 else "black"
            axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    with writing(out) as aside:
        figure.savefig(aside, format="png", dpi=120)
