"""Tuning: a network learns a task by the loop of pretraining, in a folder of its own from which it goes on."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from curation.base.locks import hold
from curation.base.progress import Observer
from pretrain.checkpoint import TrainState
from pretrain.data.stream import loader_options
from pretrain.distributed import Team
from pretrain.health import Nonfinite
from pretrain.log import Log
from pretrain.loop import Losses, Training, go_on, restore
from pretrain.run import RunFolder

Shown = Sequence[Tensor]
"""Images or features (B, ...), answers (B, ...), rows of the images (B,)."""
_log = logging.getLogger(__name__)


@dataclass
class Tuning(Training[Shown]):
    """The training of a network for a task, on one device."""

    batches: Callable[[int], Iterator[Shown]]
    """Those of all steps from one on."""
    loss: Callable[[Tensor, Tensor, int], Tensor]
    """Of images and answers on the device and the number of the step: (B,)."""
    rate_at: Callable[[int], float]
    """Learning rate of a step."""
    recipe: dict[str, Any]
    since: float = field(default_factory=time.perf_counter)

    def feed(self, start: int) -> Iterator[Shown]:
        """Batches on the device."""
        for batch in self.batches(start):
            yield [each.to(self.team.device) for each in batch]

    def losses(self, batch: Shown, step: int) -> Losses:
        """All samples weigh alike."""
        shown, answers, rows = batch
        losses = self.loss(shown, answers, step)
        return Losses(losses, torch.ones_like(losses), rows)

    def rate(self, step: int) -> float:
        """As the recipe has it."""
        return self.rate_at(step)

    def state(self, done: int) -> TrainState:
        """With the recipe."""
        return TrainState(done, self.pace.total_steps, "", self.recipe)

    def facts(self) -> dict[str, Any]:
        """Seconds since the last line, so that those of a process that was killed count."""
        before, self.since = self.since, time.perf_counter()
        return {"seconds": self.since - before}


class Past(NamedTuple):
    """A training that is done."""

    losses: list[float]
    """Mean of each epoch."""
    seconds: float
    """Over all the processes that worked on it."""


def alone(device: torch.device) -> Team:
    """A team of one: cells of a table are tuned by one process."""
    return Team(0, 1, 1, device)


def no_nonfinite(folder: RunFolder, place: Callable[[int], str], advice: str) -> Nonfinite:
    """A single step that is not finite ends a tuning: a cell of a table is not to differ by steps left out.

    Args:
        folder: of the training.
        place: name of an image, from its row.
        advice: what to change.
    """
    return Nonfinite(0, place, folder, _log.warning, lambda: advice, "which ends a tuning")


@contextmanager
def tuning_folder(folder: Path | None) -> Iterator[RunFolder]:
    """The folder of a training, held by this process and removed when all went well; None: one for now.

    Raises:
        InputError: another process holds it.
    """
    if folder is None:
        with TemporaryDirectory() as made:
            yield RunFolder(Path(made))
        return
    with hold(folder, "--cache"):
        yield RunFolder(folder)
        shutil.rmtree(folder)


def loader(images: Dataset[Any], batch: int, numbers: Sequence[int], workers: int) -> Iterator[Shown]:
    """Batches of the items with these numbers, in their order."""
    return iter(DataLoader(images, batch, sampler=numbers, **loader_options(workers)))


def tune(training: Tuning, observer: Observer | None = None) -> Past:
    """Train from the folder's newest checkpoint on, or from the start; the observer is shown the steps.

    Raises:
        KeyboardInterrupt: a signal asked to stop; where checkpoints are kept, the same call goes on.
        WorkError: the loss is no longer finite.
    """
    latest = training.folder.latest()
    if not go_on(training, restore(training, latest[0] if latest else None), observer).finished:
        raise KeyboardInterrupt(signal.SIGTERM)
    records = list(Log(training.folder.log).records())
    sums, before = [0.0] * -(-training.pace.total_steps // training.pace.per_epoch), 0
    for record in records:
        sums[(record["step"] - 1) // training.pace.per_epoch] += record["loss"] * (record["step"] - before)
        before = record["step"]
    return Past([total / training.pace.per_epoch for total in sums], sum(record["seconds"] for record in records))
