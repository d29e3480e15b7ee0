"""The loss curve of one or several runs as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pretrain.errors import InputError
from pretrain.log import Log
from pretrain.run import RunFolder, writing


def plot_runs(runs: Sequence[Path], out: Path) -> None:
    """Draw loss and learning rate over epochs.

    Args:
        runs: folders of runs; each becomes a line named after its folder.
        out: ``.png`` or ``.svg``.

    Raises:
        InputError: a run has no log, or the ending is another.
    """
    if out.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"{out}: the picture's name must end in .png or .svg")
    series = [(run.name, _points(run)) for run in runs]
    # The object interface: pyplot would look for a display and keep figures alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    loss = figure.add_subplot()
    rate = loss.twinx()
    for name, points in series:
        epochs = [point["epoch"] for point in points]
        (line,) = loss.plot(epochs, [point["loss"] for point in points], label=name)
        rate.plot(epochs, [point["lr"] for point in points], color=line.get_color(), linestyle=":", linewidth=1)
    loss.set_xlabel("epoch")
    loss.set_ylabel("loss")
    rate.set_ylabel("learning rate (dotted)")
    loss.grid(alpha=0.3)
    if len(series) > 1:
        loss.legend()
    with writing(out) as aside:
        figure.savefig(aside, format=out.suffix[1:].lower(), dpi=150)


def _points(run: Path) -> list[dict[str, float]]:
    points = list(Log(RunFolder(run).log).records())
    if not points:
        raise InputError(f"{run}: has no log.jsonl with records; give the folder that was --out of rs-pretrain train")
    return points
